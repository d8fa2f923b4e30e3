"""Conditions III and IV: what the surrogate does to the gradient's size from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .gradient_statistics import GradientStatistics, reset_kick
from .laws import UniformLaw
from .neuron_spec import NeuronSpec
from .surrogate import Law, Surrogate

Array = npt.NDArray[np.float64]
Ratio = Callable[[Surrogate], float]
Form = Literal["corrected", "published"]
FAR = 1e15  # beyond every potential


def peak_from_largest_gradient(
    weights: Any,
    decay: float,
    *,
    reset_kick: float = 0.0,
    kind: Literal["per_unit", "largest"] = "per_unit",
    depth_term: float = 0.0,
    form: Form = "corrected",
) -> Array:
    """Return the peak at which a bound on the largest gradient stays constant (Condition III).

    The bound ignores cancellation: it is a safe upper bound for the peak, and gives a strongly
    vanishing variance. Do not take it as a target.

    Args:
        weights: recurrent weights, [receiving unit, sending unit], zero diagonal.
        decay: decay of the potential, in [0, 1).
        reset_kick: what a spike subtracts from the next u when the reset carries gradient; 0 for
            a hard or detached reset.
        kind: ``"per_unit"`` bounds with each sender's own weights (type c of the authors, [units]);
            ``"largest"`` with the extreme weight of the matrix (type a, a single value).
        depth_term: n_in peak_in max w_in of the layer below, 0 if left out.
        form: differs only with a reset_kick: ``"published"`` takes the ratio of least to largest
            gradient as max w / min w, ``"corrected"`` solves both bounds together.

    Returns:
        Peaks, 1 / potential; their mean is the authors' type d (per unit) or b (largest).

    Raises:
        ValueError: weights that are not a square matrix, or no positive weight, or a depth term
            that uses up the bound.

    Example:
        >>> weights = np.array([[0.0, 0.5], [-0.5, 0.0]])
        >>> peak_from_largest_gradient(weights, 0.5, kind="largest").tolist()
        [1.0]

    Source:
        Condition III of Herranz-Celotti and Rouat, arXiv 2202.00282 (released code).
    """
    matrix = np.asarray(weights, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise ValueError(f"weights of shape {matrix.shape} are not a square recurrent matrix")
    slack = 1.0 - decay - depth_term
    if not (0.0 <= decay < 1.0 and slack > 0.0):
        raise ValueError(
            f"decay={decay!r} and depth_term={depth_term!r} leave nothing for the bound: "
            "decay + depth_term must be below 1"
        )
    others = matrix.shape[0] - 1
    if kind == "per_unit":
        # A sender's gradient collects the gradients of all that it sends to.
        up, down = np.maximum(matrix, 0.0).sum(axis=0), np.maximum(-matrix, 0.0).sum(axis=0)
    elif kind == "largest":
        up = np.atleast_1d(others * max(float(matrix.max()), 0.0))
        down = np.atleast_1d(others * max(-float(matrix.min()), 0.0))
    else:
        raise ValueError(f"kind={kind!r} is not one of 'per_unit', 'largest'")
    if np.any(up + (reset_kick > 0.0) * down <= 0.0):
        raise ValueError("a unit has no recurrent weight that could raise its gradient")
    if reset_kick == 0.0:
        return np.asarray(slack / up)
    if form == "published":
        return np.asarray(slack * down / (up * (down + reset_kick)))
    if form != "corrected":
        raise ValueError(f"form={form!r} is not one of 'corrected', 'published'")
    # Largest: slack = peak (up - kick rho); least: rho slack = peak (-down - kick).
    square = reset_kick * (down + reset_kick)
    return np.asarray(2.0 * slack / (up + np.sqrt(up**2 + 4.0 * square)))


def glorot_peak(units: int, decay: float) -> float:
    """Return Condition III in closed form for a Glorot-uniform recurrent matrix: 4(1-a)/sqrt(3n).

    Args:
        units: number of units n of the layer.
        decay: decay a of the potential, in [0, 1).

    Returns:
        Peak, 1 / potential, for a hard or detached reset.

    Raises:
        ValueError: no second unit, or a decay outside [0, 1).

    Example:
        >>> round(glorot_peak(128, 0.0), 3)
        0.204

    Source:
        Expectation of Condition III (type c) of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if units < 2 or not 0.0 <= decay < 1.0:
        raise ValueError(f"units={units!r} must be at least 2 and decay={decay!r} in [0, 1)")
    return float(4.0 * (1.0 - decay) / np.sqrt(3.0 * units))


def one_step_ratio(
    reset: str,
    decay: float,
    first: float,
    second: float,
    weight_power: float,
    *,
    rate: float = 0.0,
    reset_kick: float = 0.0,
    depth_power: float = 0.0,
    form: Form = "corrected",
) -> float:
    """Return the variance ratio of the gradient over one step; Condition IV wants 1.

    Args:
        reset: ``"subtract"``, ``"to_value"`` (multreset2), ``"none"`` or ``"multreset1"``.
        decay: decay a of the potential, in [0, 1).
        first: E[s] of the surrogate derivative, 1 / potential.
        second: E[s^2].
        weight_power: G = n E[w_rec^2], times the gain squared.
        rate: spikes per timestep and unit.
        reset_kick: subtracted from the next u by a spike, if a soft reset carries gradient; else 0.
        depth_power: the same as weight_power for the weights to the layer above, 0 to leave out.
        form: ``"corrected"``: exact E[A^2], first and second moment where they belong;
            ``"published"``: the authors' code, whose soft reset lacks the cross term, whose hard
            reset assumes a rate of 1/2 and whose depth term takes the first moment.

    Returns:
        E[A^2] + G E[s^2] (+ depth), no unit.

    Raises:
        ValueError: an unknown reset or form, or numbers that are not possible.

    Example:
        >>> one_step_ratio("to_value", 0.5, 0.4, 0.2, 1.0, rate=0.2)
        0.4
        >>> one_step_ratio("to_value", 0.5, 0.4, 0.2, 1.0, rate=0.2, form="published")
        0.325

    Source:
        Condition IV of Herranz-Celotti and Rouat, arXiv 2202.00282; E[A^2] from the update rule.
    """
    if not (0.0 <= decay <= 1.0 and 0.0 <= rate <= 1.0):
        raise ValueError(f"decay={decay!r} and rate={rate!r} must both be in [0, 1]")
    if weight_power < 0.0 or depth_power < 0.0:
        raise ValueError(
            f"weight_power={weight_power!r}, depth_power={depth_power!r}: must be >= 0"
        )
    carried = weight_power * second
    if form == "published":
        above = depth_power * first
        if reset == "subtract":
            return decay**2 + carried + reset_kick**2 * second + above
        if reset == "to_value":
            return decay**2 / 2.0 + carried + above
        if reset == "multreset1":
            return (decay**2 + carried + above) / 2.0
        raise ValueError(f"reset={reset!r} has no published form; 'subtract', 'to_value' and "
                         "'multreset1' have")  # fmt: skip
    if form != "corrected":
        raise ValueError(f"form={form!r} is not one of 'corrected', 'published'")
    above = depth_power * second
    if reset in ("subtract", "none"):
        kick = reset_kick if reset == "subtract" else 0.0
        leak = decay**2 - 2.0 * decay * kick * first + kick**2 * second
        return leak + carried + above
    if reset == "to_value":
        return decay**2 * (1.0 - rate) + carried + above
    if reset == "multreset1":
        return (1.0 - rate) * (decay**2 + carried) + above
    raise ValueError(f"reset={reset!r} is not one of 'subtract', 'to_value', 'none', 'multreset1'")


def one_step_ratio_of(
    spec: NeuronSpec,
    law: Law,
    weight_power: float,
    *,
    depth_power: float = 0.0,
    form: Form = "corrected",
) -> Ratio:
    """Return the one-step variance ratio as a function of the surrogate, under one law of u.

    Args:
        spec: scalar dynamics; a hard reset must be detached (else take
            :func:`one_step_ratio_from_statistics`).
        law: law of the pre-reset potential: recurrent, Gaussian, uniform or histogram.
        weight_power: G = n E[w^2] of the recurrent weights; the spec's gain is applied here.
        depth_power: the same for the weights to the layer above.
        form: as in :func:`one_step_ratio`.

    Returns:
        ``ratio(surrogate)``, to give to :func:`peak_for`, :func:`width_for` and :func:`tail_for`.

    Raises:
        ValueError: a hard reset that carries gradient.

    Example:
        >>> from spikescope.analysis.laws import GaussianLaw
        >>> spec = NeuronSpec(decay=0.9, reset_gradient=False)
        >>> ratio = one_step_ratio_of(spec, GaussianLaw(0.0, 1.0), 1.0)
        >>> round(ratio(Surrogate("rectangular", 1.0, 2.0)), 4)
        1.2872

    Source:
        As :func:`one_step_ratio`.
    """
    if spec.reset == "to_value" and spec.reset_gradient:
        raise ValueError(
            "a hard reset that carries gradient needs u itself: use one_step_ratio_from_statistics"
        )
    kick = reset_kick(spec) if spec.reset == "subtract" and spec.reset_gradient else 0.0
    theta, gain = float(spec.threshold), float(spec.gain)
    rate = float(law.probability(theta, FAR))

    def ratio(surrogate: Surrogate) -> float:
        return one_step_ratio(
            spec.reset,
            float(spec.decay),
            float(surrogate.moment(law, theta, 1)),
            float(surrogate.moment(law, theta, 2)),
            weight_power * gain**2,
            rate=rate,
            reset_kick=kick,
            depth_power=depth_power * gain**2,
            form=form,
        )

    return ratio


def one_step_ratio_from_statistics(stats: GradientStatistics, weight_power: float) -> float:
    """Return E[A^2] + G E[s^2] from measured or predicted statistics; any reset, any gradient.

    Args:
        stats: statistics of the layer.
        weight_power: G = n E[w_rec^2], times the gain squared.

    Returns:
        Change of the gradient's variance per timestep.

    Example:
        >>> stats = GradientStatistics(0.1, 0.5, 0.25, 0.06, np.full(3, 0.25), 0.25,
        ...                            (0.9, 0.0), (0.81, 0.0, 0.0), (0.9, 0.0))
        >>> round(one_step_ratio_from_statistics(stats, 1.0), 6)
        1.06

    Source:
        Condition IV of Herranz-Celotti and Rouat, arXiv 2202.00282, with A for the reset's part.
    """
    return stats.mean_square_factor + weight_power * stats.second


def published_uniform_law(
    recurrent: Any, inputs: Any, decay: float, threshold: float, reset: str
) -> UniformLaw:
    """Return the uniform law of u per unit that the authors' code assumes; far too wide.

    Args:
        recurrent: recurrent weights, [receiving unit, sending unit].
        inputs: input weights, [receiving unit, input].
        decay: decay of the potential, in [0, 1).
        threshold: firing threshold, potential.
        reset: ``"subtract"`` extends the law downwards by the threshold.

    Returns:
        Laws for all units, arrays [units].

    Raises:
        ValueError: a decay outside [0, 1).

    Example:
        >>> law = published_uniform_law([[0.0, 1.0], [-1.0, 0.0]], [[0.5], [0.5]], 0.5, 1.0, "none")
        >>> law.low.tolist(), law.high.tolist()
        ([-0.0, -2.0], [3.0, 1.0])

    Source:
        Released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay={decay!r} is not possible: it must be in [0, 1)")
    both = np.concatenate(
        [np.asarray(recurrent, dtype=float), np.asarray(inputs, dtype=float)], axis=1
    )
    up = np.maximum(both, 0.0).sum(axis=1)
    down = np.maximum(-both, 0.0).sum(axis=1) + (threshold if reset == "subtract" else 0.0)
    return UniformLaw(-down / (1.0 - decay), up / (1.0 - decay))
