"""Recommendation by numbers: weights, offset and surrogate of a layer, before any training.

The order matters: weights for the forward statistics first, then the offset for the rate, then the
surrogate's width from the spread of u, and last its peak from the growth of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .depth import stacked_layer_ratio, time_verdict
from .gradient_statistics import GradientStatistics, effective_units
from .growth import compare_peaks, growth_rate, peak_for_growth
from .initialisation import discrete_kernel
from .neuron_spec import NeuronSpec
from .recurrent_density import RecurrentLaw
from .roots import Roots, scan_roots
from .stability import offset_for_rate
from .surrogate import Surrogate
from .surrogate_conditions import one_step_ratio_from_statistics

FEW_UNITS = 30.0  # below, the typical growth lies visibly under the mean-square prediction

FLUCTUATION = "Rossbroich, Gygax, Zenke 2022: spread of u over time"
CONDITION_I = "Herranz-Celotti and Rouat 2202.00282, Condition I, solved on the stationary density"
CONDITION_II = "Herranz-Celotti and Rouat 2202.00282, Condition II, corrected"
CONDITION_IV = "Herranz-Celotti and Rouat 2202.00282, Condition IV: width from the spread of u"
GROWTH = "growth of the gradient with reused weights = 1; leakless limit: Condition IV, 2202.00282"
DEPTH = "gain from layer to layer = 1 with correlation in time; decay 0: G_b = 1/E[s^2]"
JOINT = "Herranz-Celotti and Rouat 2308.12075: R_t + R_d <= 1 over time and depth"
DENSITY = "stationary density of the layer, no simulation"


@dataclass(frozen=True)
class Recommended:
    """One line of a recommendation.

    Args:
        name: what it is.
        value: number or text.
        unit: its unit; empty for none.
        source: paper and condition, or the route that it was computed by.
    """

    name: str
    value: float | str
    unit: str
    source: str


@dataclass(frozen=True)
class Preset:
    """A layer's recommended start.

    Args:
        rows: every number with unit and source, in the order in which they were fixed.
        warnings: what the numbers do not show; empty if nothing is to be said.
        surrogate: the recommended surrogate.
        law: the predicted law of u.
    """

    rows: tuple[Recommended, ...]
    warnings: tuple[str, ...]
    surrogate: Surrogate
    law: RecurrentLaw

    def value(self, name: str) -> float | str:
        """Return the value of one row by name."""
        for row in self.rows:
            if row.name == name:
                return row.value
        raise ValueError(f"{name!r} is not one of {', '.join(row.name for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return {"rows": [asdict(row) for row in self.rows], "warnings": list(self.warnings)}


def recommend_by_numbers(
    spec: NeuronSpec,
    fan_in: int,
    *,
    recurrent: bool = False,
    units: int | None = None,
    layers: int = 1,
    timesteps: int = 100,
    input_rate: float | None = None,
    input_mean: float | None = None,
    input_square: float | None = None,
    target_rate: float = 0.1,
    family: str = "fast_sigmoid",
    xi: float = 1.0,
    tail: float = 2.0,
) -> Preset:
    """Choose weights, offset and surrogate of a layer before training.

    Args:
        spec: scalar dynamics of the layer, without synaptic filter.
        fan_in: inputs per unit.
        recurrent: whether the layer feeds back to itself, with one weight per pair of units.
        units: units of the layer; fan_in if None.
        layers: spiking layers of the network.
        timesteps: length of a sequence.
        input_rate: spikes per timestep of one input, if the input is spikes.
        input_mean: mean of one analogue input, instead of input_rate.
        input_square: second moment of one analogue input.
        target_rate: wanted spikes per timestep and unit, in (0, 1).
        family: shape of the surrogate, one of ``SHAPES``.
        xi: threshold over the standard deviation of u over time, reset left out.
        tail: tail-fatness of ``"q_pseudo_spike"``.

    Returns:
        Rows, warnings, surrogate and predicted law. A solution that does not exist is a row of
        text with the reason.

    Raises:
        ValueError: inputs that are not possible.

    Example:
        >>> spec = NeuronSpec(decay=0.9, reset_gradient=False)
        >>> preset = recommend_by_numbers(spec, 300, recurrent=True, input_rate=0.05)
        >>> [round(preset.value(name), 3) for name in ("rate", "growth per timestep")]
        [0.1, 1.0]

    Source:
        Herranz-Celotti and Rouat, arXiv 2202.00282 (Conditions I, II, IV) and 2308.12075;
        Rossbroich, Gygax, Zenke 2022.
    """
    count = fan_in if units is None else units
    counts = {"fan_in": fan_in, "units": count, "layers": layers, "timesteps": timesteps}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value!r} is not possible: it must be at least 1")
    if recurrent and count < 2:
        raise ValueError(f"units={count!r} cannot be recurrent: give at least 2")
    mean, variance = _input_moments(input_rate, input_mean, input_square)
    if not float(spec.threshold) > float(spec.rest):
        raise ValueError(
            f"threshold={spec.threshold!r} is not above rest={spec.rest!r}: every unit would fire"
        )
    if not xi > 0.0:
        raise ValueError(f"xi={xi!r} is not possible: it must be above 0")

    # Forward: zero-mean weights; temporal spread of u without reset = distance to threshold / xi.
    kernel = discrete_kernel(spec)
    wanted = (float(spec.threshold) - float(spec.rest)) / xi
    share = 0.5 if recurrent else 1.0
    weight_std = float(np.sqrt(share * wanted**2 / (fan_in * variance * kernel.energy)))
    fresh, frozen = _current_parts(fan_in, weight_std, mean, variance)
    recurrent_std = 0.0
    if recurrent:
        # Condition II at the target rate: both currents vary equally, quenched part included.
        recurrent_std = float(np.sqrt((fresh + frozen) / ((count - 1) * target_rate)))
    offset = offset_for_rate(
        spec, target_rate, float(np.sqrt(fresh)),
        recurrent_variance=(count - 1) * recurrent_std**2, quenched_std=float(np.sqrt(frozen)),
    )  # fmt: skip
    law = offset.law
    gain = float(spec.gain)
    power_time = (count - 1) * recurrent_std**2 * gain**2
    # Next layer alike: as many units above as inputs below.
    power_depth = fan_in * weight_std**2 * gain**2

    # Backward: sharpness 1 / spread of u, then the peak.
    shape = Surrogate.from_dampening(family, 1.0, 1.0 / law.std, tail)
    unit_peak = law.statistics(shape)

    def at_peak(peak: float) -> GradientStatistics:
        # A gradient through the reset makes the path through the layer depend on the peak.
        through = spec.reset_gradient and spec.reset != "none" and not recurrent
        return law.statistics(replace(shape, peak=peak)) if through else unit_peak.with_peak(peak)

    peaks, source = _peak(at_peak, power_time, power_depth, recurrent, layers, timesteps)
    warnings = []
    peak = peaks.values[0] if peaks.count else 1.0
    if not peaks.count:
        warnings.append(f"no peak balances the gradient, 1 is shown: {peaks.reason}")
    elif peaks.count > 1:
        warnings.append(f"{peaks.count} peaks balance the gradient, the least is shown")
    surrogate = Surrogate(family, peak, shape.width, tail)
    stats = at_peak(float(peak))

    rows = [
        Recommended("input weight mean", 0.0, "current", FLUCTUATION),
        Recommended("input weight std", weight_std, "current", FLUCTUATION),
    ]
    if recurrent:
        rows += [
            Recommended("recurrent weight mean", 0.0, "current", CONDITION_I),
            Recommended("recurrent weight std", recurrent_std, "current", CONDITION_II),
        ]
    rows += [
        Recommended("bias offset", offset.offset, "current", CONDITION_I),
        Recommended("surrogate", family, "", "chosen"),
        Recommended("width", float(shape.width), "potential", CONDITION_IV),
        Recommended("peak", float(peak), "1/potential", source),
        Recommended("rate", law.rate, "spikes/timestep", DENSITY),
        Recommended("mean of u", law.mean, "potential", DENSITY),
        Recommended("std of u", law.std, "potential", DENSITY),
        Recommended("quenched std of u", law.quenched_std, "potential", DENSITY),
        Recommended("E[s]", stats.first, "1/potential", DENSITY),
        Recommended("E[s^2]", stats.second, "1/potential^2", DENSITY),
        Recommended("units that carry gradient", effective_units(stats, count), "units", DENSITY),
    ]
    rows += _gains(stats, power_time, power_depth, recurrent, layers, timesteps)
    if recurrent and layers == 1:
        slack = 1.0 - unit_peak.mean_square_factor
        if slack > 0.0 and peaks.count and not spec.reset_gradient:
            condition_iv = float(np.sqrt(slack / (power_time * unit_peak.second)))
            if (line := compare_peaks(condition_iv, peak)) is not None:
                warnings.append(line)
    if law.quenched_std > law.std / np.sqrt(2.0):
        warnings.append(
            f"units differ more in their mean of u (std {law.quenched_std:.3g}) than each varies "
            "over time: some may stay silent; lower the input rate or centre the input"
        )
    if effective_units(stats, count) < FEW_UNITS:
        warnings.append("few units carry the gradient: its growth will vary from run to run")
    return Preset(tuple(rows), tuple(warnings), surrogate, law)


def _input_moments(
    rate: float | None, mean: float | None, square: float | None
) -> tuple[float, float]:
    """Return mean and variance over time of one input."""
    if rate is not None:
        if mean is not None or square is not None:
            raise ValueError("give input_rate, or input_mean and input_square, not both")
        if not 0.0 < rate < 1.0:
            raise ValueError(
                f"input_rate={rate!r} is not possible: spikes per timestep, between 0 and 1"
            )
        return rate, rate * (1.0 - rate)
    if mean is None or square is None:
        raise ValueError("the input is not known: give input_rate, or input_mean and input_square")
    if not square > mean**2:
        raise ValueError(
            f"input_square={square!r} must be above input_mean squared ({mean**2:g}): an input "
            "that never varies drives no fluctuations"
        )
    return mean, square - mean**2


def _current_parts(fan_in: int, std: float, mean: float, variance: float) -> tuple[float, float]:
    """Return the variance of the input current over time, and over units of its mean."""
    return fan_in * std**2 * variance, fan_in * std**2 * mean**2


def _peak(
    at_peak: Callable[[float], GradientStatistics],
    power_time: float,
    power_depth: float,
    recurrent: bool,
    layers: int,
    timesteps: int,
) -> tuple[Roots, str]:
    """Return the peaks that balance the gradient, and the rule that was used."""
    if recurrent and layers == 1:
        return peak_for_growth(at_peak(1.0), power_time), GROWTH
    if recurrent:
        # Depth at one timestep: the direct path only, the rest belongs to the growth in time.
        def excess(peak: float) -> float:
            now = at_peak(peak)
            depth = float(np.sqrt(power_depth * now.second))
            return growth_rate(now, power_time).chi + depth - 1.0

        found = scan_roots(excess, np.geomspace(1e-5, 1e5, 61))
        return Roots("peak", found, "R_t + R_d at peak 0 is the leak's own growth"), JOINT

    def log_ratio(peak: float) -> float:
        gain = stacked_layer_ratio(at_peak(peak), power_depth, max(layers, 2), timesteps=timesteps)
        return float(np.log(gain))

    # Exact if the reset carries no gradient: the ratio then goes with the peak squared.
    guess = 1e-3 * float(np.exp(-0.5 * log_ratio(1e-3)))
    if abs(log_ratio(guess)) < 1e-9:
        return Roots("peak", (guess,), "the layer ratio rises with the peak squared"), DEPTH
    found = scan_roots(log_ratio, guess * np.geomspace(0.1, 10.0, 13))
    return Roots("peak", found, "the gradient through the reset works against the leak's"), DEPTH


def _gains(
    stats: GradientStatistics,
    power_time: float,
    power_depth: float,
    recurrent: bool,
    layers: int,
    timesteps: int,
) -> list[Recommended]:
    """Return the rows on the gradient's change per timestep and per layer, with the verdict."""
    if not recurrent:
        ratio = stacked_layer_ratio(stats, power_depth, max(layers, 2), timesteps=timesteps)
        verdict = time_verdict(ratio, max(layers - 1, 1))
        return [
            Recommended("gradient gain per layer", ratio, "variance", DEPTH),
            Recommended("verdict", verdict, "", DEPTH),
        ]
    growth = growth_rate(stats, power_time)
    rows = [
        Recommended("growth per timestep", growth.chi, "amplitude", GROWTH),
        Recommended(
            "one-step variance ratio",
            one_step_ratio_from_statistics(stats, power_time),
            "variance",
            "Condition IV, 2202.00282",
        ),
    ]
    if layers > 1:
        depth = float(np.sqrt(power_depth * stats.second))
        rows.append(Recommended("growth per layer", depth, "amplitude", JOINT))
        total = (growth.chi + depth) ** 2
    else:
        total = growth.variance_ratio
    rows.append(Recommended("verdict", time_verdict(total, timesteps), "", GROWTH))
    return rows
