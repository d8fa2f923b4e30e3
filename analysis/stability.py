"""Conditions I and II: which mean, offset and variance the recurrent weights start with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from .gradient_statistics import reset_kick
from .neuron_spec import NeuronSpec
from .recurrent_density import RecurrentLaw, recurrent_law

Array = npt.NDArray[np.float64]
MeanForm = Literal["published", "balance"]
VarianceForm = Literal["corrected", "published"]
RATE_TOLERANCE = 1e-7


@dataclass(frozen=True)
class RateOffset:
    """The constant input that gives a layer its target rate (Condition I).

    Args:
        offset: mean input current, to be given as a bias (less any mean the input already has).
        recurrent_mean: n E[w] of recurrent weights that would give the same current.
        feedback_slope: n E[w] times d rate / d offset at the solution, no unit.
        mean_allowed: whether the offset may be given as a recurrent mean: the slope is below 1.
            Else the recurrence would amplify the rate's errors: use a bias.
        law: the layer's law of u at the solution.
        iterations: evaluations of the layer's law.
    """

    offset: float
    recurrent_mean: float
    feedback_slope: float
    mean_allowed: bool
    law: RecurrentLaw
    iterations: int


def offset_for_rate(
    spec: NeuronSpec,
    target_rate: float,
    input_std: float,
    *,
    recurrent_variance: float = 0.0,
    quenched_std: float = 0.0,
) -> RateOffset:
    """Solve the constant offset with which a layer fires at a target rate.

    Args:
        spec: scalar dynamics, soft, hard or no reset.
        target_rate: wanted spikes per timestep and unit, in (0, 1).
        input_std: standard deviation over time of the input current.
        recurrent_variance: n Var[w] of the recurrent weights; 0 for a feed-forward layer.
        quenched_std: standard deviation over units of their mean input currents.

    Returns:
        The offset, and what it takes to give it as a recurrent mean instead.

    Raises:
        ValueError: a rate that the layer cannot reach, or inputs that are not possible.

    Example:
        >>> spec = NeuronSpec(decay=0.9, reset="to_value")
        >>> found = offset_for_rate(spec, 0.5, 0.5, recurrent_variance=1.0)
        >>> round(found.offset, 3), round(found.law.rate, 6), found.mean_allowed
        (0.858, 0.5, True)

    Source:
        Condition I of Herranz-Celotti and Rouat, arXiv 2202.00282, with the stationary density of
        the layer in place of their balance of means, which is wrong for a leaky hard reset.
    """
    if not 0.0 < target_rate < 1.0:
        raise ValueError(f"target_rate={target_rate!r} is not possible: it must be in (0, 1)")
    if float(spec.gain) == 0.0:
        raise ValueError("gain=0.0 passes no input: no offset can change the rate")
    count, wanted = 0, float(special.logit(target_rate))
    spread = target_rate * (1.0 - target_rate)

    def law_at(offset: float, share: float) -> RecurrentLaw:
        """Return the law when the layer fires at the target, given how units share the rate."""
        nonlocal count
        count += 1
        square = target_rate**2 + spread * float(np.clip(share, 0.0, 1.0))
        noise = input_std**2 + recurrent_variance * (target_rate - square)
        quenched = quenched_std**2 + recurrent_variance * square
        return recurrent_law(
            spec, offset, float(np.sqrt(noise)), quenched_std=float(np.sqrt(quenched))
        )

    def gap(law: RecurrentLaw) -> float:
        return float(special.logit(np.clip(law.rate, 1e-14, 1.0 - 1e-14))) - wanted

    def both_gaps(state: Array) -> list[float]:
        law = law_at(float(state[0]) * width, float(state[1]))
        return [gap(law), (law.rate_square - target_rate**2) / spread - float(state[1])]

    width = input_std + float(np.sqrt(recurrent_variance)) + quenched_std
    # With recurrence the start only has to be near: the spread over units is solved along with it.
    rough = 0.02 if recurrent_variance > 0.0 else 1e-9
    start = _bracketed(
        lambda b: gap(law_at(b, 0.1)), _balance_offset(spec, target_rate), width, rough
    )
    if recurrent_variance == 0.0:
        offset, share = start, 0.1
    else:
        found = optimize.root(both_gaps, [start / width, 0.1], options={"xtol": 1e-10})
        offset, share = float(found.x[0]) * width, float(found.x[1])
    law = law_at(offset, share)
    if abs(law.rate - target_rate) > RATE_TOLERANCE:
        raise ValueError(
            f"target_rate={target_rate:g} was not met: after {count} evaluations the best offset "
            f"{offset:.4g} gives {law.rate:.6g}"
        )
    step = 1e-4 * width
    around = [
        recurrent_law(
            spec, offset + sign * step, input_std, recurrent_variance=recurrent_variance,
            quenched_std=quenched_std, start_rate=target_rate,
        ).rate
        for sign in (-1.0, 1.0)
    ]  # fmt: skip
    mean = offset / target_rate
    slope = mean * (around[1] - around[0]) / (2 * step)
    return RateOffset(offset, mean, float(slope), bool(slope < 1.0), law, count)


def _balance_offset(spec: NeuronSpec, rate: float) -> float:
    """Return the offset at which the mean of u would be the threshold, as a starting value."""
    decay, theta = float(spec.decay), float(spec.threshold)
    need = (1.0 - decay) * (theta - float(spec.rest))
    if spec.reset == "subtract":
        need += reset_kick(spec) * rate
    elif spec.reset == "to_value":
        need += decay * (theta - float(spec.reset_value)) * rate
    return need / float(spec.gain)


def _bracketed(
    equation: Callable[[float], float], near: float, step: float, tolerance: float
) -> float:
    """Solve a rising equation of the offset, from a guess and a typical step."""
    low = high = near
    value = equation(near)
    for _ in range(60):
        moved = high + step if value < 0.0 else low - step
        low, high = (high, moved) if value < 0.0 else (moved, low)
        if equation(moved) * value <= 0.0:
            return float(optimize.brentq(equation, low, high, xtol=tolerance * step, maxiter=100))
        step *= 1.6
    raise ValueError(f"the target rate is not reached by any offset between {low:g} and {high:g}")


def recurrent_mean_for_half(
    reset: str, decay: float, threshold: float, *, form: MeanForm = "published"
) -> float:
    """Return the published n E[w] for half of the units firing, for comparison.

    Args:
        reset: ``"subtract"`` (threshold subtracted after the leak), ``"subtract_before_leak"``,
            ``"to_value"`` (the authors' multreset2) or ``"multreset1"`` (leak and input both
            cancelled after a spike).
        decay: decay of the potential, in [0, 1).
        threshold: firing threshold, potential.
        form: ``"published"`` as in the authors' code, or ``"balance"``, the balance of means that
            counts the cancelled input of multreset1. :func:`offset_for_rate` is the corrected form.

    Returns:
        (n - 1) E[w_rec], input current at gain 1.

    Raises:
        ValueError: an unknown reset or form, or a decay outside [0, 1).

    Example:
        >>> recurrent_mean_for_half("subtract", 0.5, 1.0)
        2.0
        >>> recurrent_mean_for_half("multreset1", 0.5, 1.0, form="balance")
        3.0

    Source:
        Condition I of Herranz-Celotti and Rouat, arXiv 2202.00282 (released code).
    """
    _check_decay(decay)
    if form not in ("published", "balance"):
        raise ValueError(f"form={form!r} is not one of 'published', 'balance'")
    cancelled = 2.0 * (1.0 - decay) if form == "published" else 2.0 * (2.0 - decay)
    factors = {
        "subtract": 3.0 - 2.0 * decay,
        "subtract_before_leak": 2.0 - decay,
        "to_value": 2.0 - decay,
        "multreset1": cancelled,
    }
    if reset not in factors:
        raise ValueError(f"reset={reset!r} is not one of {', '.join(map(repr, factors))}")
    return factors[reset] * threshold


def recurrent_weight_variance(
    fan_in: int,
    units: int,
    input_weight_variance: float,
    input_mean: float,
    input_variance: float,
    *,
    rate: float = 0.5,
    recurrent_weight_mean: float = 0.0,
    form: VarianceForm = "corrected",
) -> float:
    """Return Var[w_rec] for which recurrent and input current vary equally (Condition II).

    Args:
        fan_in: inputs of the layer.
        units: units of the layer; each sees ``units - 1`` recurrent inputs.
        input_weight_variance: Var[w_in], zero mean.
        input_mean: mean of one input (1/2 for a layer of spikes at rate 1/2).
        input_variance: variance of one input.
        rate: spikes per timestep and unit of this layer.
        recurrent_weight_mean: E[w_rec] of one weight.
        form: ``"corrected"``, or ``"published"`` as in the authors' code: without the factor
            1/rate = 2. (Their initialiser then also draws another variance,
            :func:`published_sampled_variance`.)

    Returns:
        Variance of one recurrent weight.

    Raises:
        ValueError: numbers that are not possible, or a recurrent mean so large that the variance
            would have to be negative.

    Example:
        >>> round(recurrent_weight_variance(256, 256, 2 / 512, 0.5, 0.25), 6)
        0.003922

    Source:
        Condition II of Herranz-Celotti and Rouat, arXiv 2202.00282; variance of a Bernoulli sum.
    """
    if fan_in < 1 or units < 2:
        raise ValueError(f"fan_in={fan_in!r}, units={units!r}: need at least 1 input and 2 units")
    if input_weight_variance < 0.0 or input_variance < 0.0:
        raise ValueError(
            f"input_weight_variance={input_weight_variance!r} and input_variance="
            f"{input_variance!r} must not be negative"
        )
    power = fan_in * input_weight_variance * (input_variance + input_mean**2) / (units - 1)
    if form == "published":
        variance = power - recurrent_weight_mean**2 / 2.0
    elif form == "corrected":
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate={rate!r} is not possible: it must be in (0, 1]")
        variance = (power - rate * (1.0 - rate) * recurrent_weight_mean**2) / rate
    else:
        raise ValueError(f"form={form!r} is not one of 'corrected', 'published'")
    if variance < 0.0:
        raise ValueError(
            f"recurrent_weight_mean={recurrent_weight_mean:g} alone varies more than the input "
            f"(the variance would be {variance:.3g}): lower it, or use a bias"
        )
    return variance


def published_sampled_variance(variance: float, units: int) -> float:
    """Return the variance that the authors' initialiser draws when asked for ``variance``.

    It takes sqrt(variance) as a variance-scaling factor over the mean fan.

    Args:
        variance: what was asked for.
        units: units of the layer.

    Returns:
        Variance of the weights that are drawn.

    Raises:
        ValueError: a negative variance, or no unit.

    Example:
        >>> round(published_sampled_variance(0.0001, 100), 6)
        0.0001

    Source:
        Released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if variance < 0.0 or units < 1:
        raise ValueError(f"variance={variance!r} must be >= 0 and units={units!r} at least 1")
    return float(np.sqrt(variance) / units)


def current_imbalance(input_variance: float, recurrent_variance: float) -> float:
    """Return 2 |Var_in - Var_rec| / (Var_in + Var_rec), 0 when Condition II holds, at most 2.

    Args:
        input_variance: variance of the input current.
        recurrent_variance: variance of the recurrent current, same unit.

    Returns:
        The imbalance, no unit.

    Raises:
        ValueError: a negative variance, or none above 0.

    Example:
        >>> current_imbalance(1.0, 3.0)
        1.0

    Source:
        Metric of the released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    total = input_variance + recurrent_variance
    if not (input_variance >= 0.0 and recurrent_variance >= 0.0 and total > 0.0):
        raise ValueError(
            f"variances {input_variance!r} and {recurrent_variance!r} must be >= 0, one above 0"
        )
    return 2.0 * abs(input_variance - recurrent_variance) / total


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay={decay!r} is not possible: it must be in [0, 1)")
