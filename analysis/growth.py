"""Long-run growth of the gradient in time when the recurrent weights are reused at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from .gradient_statistics import GradientStatistics
from .roots import MAX_ITERATIONS, Roots, scan_roots

LEAKLESS = 1e-3  # below this mean factor the gradient forgets in one step and chi^2 is one-step
DISAGREEMENT = 0.1  # share by which one-step and growth solutions may differ without a warning


@dataclass(frozen=True)
class Growth:
    """Growth of the root-mean-square gradient per backward timestep.

    Args:
        chi: growth of the amplitude per timestep, no unit.
        edge: the growth that a constant s would give; chi is never below it.
        one_step: variance ratio of one step from a random gradient, E[A^2] + G E[s^2].
        bound: whether chi lies above the edge (else chi is the edge itself).
    """

    chi: float
    edge: float
    one_step: float
    bound: bool

    @property
    def variance_ratio(self) -> float:
        """Growth of the gradient's variance per timestep, chi^2."""
        return self.chi**2


def growth_rate(stats: GradientStatistics, weight_power: float) -> Growth:
    """Solve the growth chi of the gradient per timestep.

    Args:
        stats: recorded statistics, or those of a :class:`RecurrentLaw` (no simulation).
        weight_power: G = n E[w^2] of the recurrent weights, times the neuron's gain squared.

    Returns:
        The growth. It is exact for many units with independent zero-mean weights if A is constant
        (soft reset, detached); with a fluctuating A (hard reset) it was up to 9 % above
        simulation in chi^2.

    Raises:
        ValueError: a negative weight_power, or statistics with fewer than 3 lags.

    Example:
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.recurrent_density import recurrent_law
        >>> from spikescope.analysis.surrogate import Surrogate
        >>> spec = NeuronSpec(decay=0.9, delayed_reset=True, reset_gradient=False)
        >>> law = recurrent_law(spec, 0.0, 0.5, recurrent_variance=1.0)
        >>> found = growth_rate(law.statistics(Surrogate("exponential", 1.0, 0.5)), 1.0)
        >>> round(found.one_step, 3), round(found.variance_ratio, 3)
        (0.885, 1.183)

    Source:
        Recursion of the gradient's autocorrelation, derived for independent weights reused at every
        step; its leakless limit is Condition IV of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if not (np.isfinite(weight_power) and weight_power >= 0.0):
        raise ValueError(f"weight_power={weight_power!r} is not possible: n E[w^2] is >= 0")
    if stats.correlation.size < 3:
        raise ValueError(f"{stats.correlation.size} lags of s are too few: record more timesteps")
    square = stats.mean_square_factor
    one_step = square + weight_power * stats.second
    # A negative mean factor only alternates the sign of the autocorrelation from lag to lag.
    sign = -1.0 if stats.mean_factor < 0.0 else 1.0
    mean, weighted = abs(stats.mean_factor), sign * stats.weighted_factor
    edge = mean + float(np.sqrt(weight_power * stats.plateau))
    if mean < LEAKLESS or weight_power == 0.0:
        chi = float(np.sqrt(one_step))
        return Growth(chi, edge, one_step, bound=True)
    power = weight_power * stats.correlation
    tail = weight_power * stats.plateau

    def residual(chi: float) -> float:
        half = 0.5 * (chi**2 + mean**2 - tail) / (mean * chi)
        ratio = half - np.sqrt(max(half**2 - 1.0, 0.0))
        later, psi = ratio, 1.0
        for k in range(power.size - 1, 0, -1):
            earlier = (chi**2 + mean**2 - power[k]) / (mean * chi) * psi - later
            if earlier <= 0.0:
                return -1.0
            later, psi = psi / earlier, 1.0
        return float(chi**2 + 2 * weighted * mean - square - power[0] - 2 * weighted * chi * later)

    start = edge * (1.0 + 1e-12)
    if residual(start) >= 0.0:
        return Growth(edge, edge, one_step, bound=False)
    top = 3.0 * max(edge, float(np.sqrt(one_step))) + 1.0
    chi = brentq(residual, start, top, xtol=1e-12, rtol=1e-12, maxiter=MAX_ITERATIONS)
    return Growth(float(chi), edge, one_step, bound=True)


def peak_for_growth(
    stats: GradientStatistics, weight_power: float, *, peak: float = 1.0, target: float = 1.0
) -> Roots:
    """Solve the surrogate's peak for which the gradient neither grows nor shrinks in time.

    Args:
        stats: statistics of a surrogate whose peak is ``peak``.
        weight_power: G = n E[w^2] of the recurrent weights, times the gain squared.
        peak: the peak that ``stats`` was taken at, 1 / potential.
        target: wanted growth chi of the amplitude per timestep.

    Returns:
        The peaks, 1 / potential. Shape and width stay as they are.

    Raises:
        ValueError: a peak or target that is not positive.

    Example:
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.recurrent_density import recurrent_law
        >>> from spikescope.analysis.surrogate import Surrogate
        >>> spec = NeuronSpec(decay=0.9, delayed_reset=True, reset_gradient=False)
        >>> law = recurrent_law(spec, 0.0, 0.5, recurrent_variance=1.0)
        >>> stats = law.statistics(Surrogate("fast_sigmoid", 1.0, 0.1))
        >>> round(peak_for_growth(stats, 1.0).only(), 2)
        2.72

    Source:
        As :func:`growth_rate`; s scales with the peak, Q with its square.
    """
    if not (peak > 0.0 and target > 0.0):
        raise ValueError(f"peak={peak!r} and target={target!r} must both be above 0")
    leak = growth_rate(stats.with_peak(1e-9), weight_power).chi
    if weight_power == 0.0 and stats.factor_second[1:] == (0.0, 0.0):
        return Roots(
            "peak", (), f"without recurrent weights the growth is {leak:.4g} whatever the peak"
        )
    found = scan_roots(
        lambda ratio: growth_rate(stats.with_peak(ratio), weight_power).chi - target,
        np.geomspace(1e-5, 1e5, 61),
    )
    values = tuple(peak * ratio for ratio in found)
    if not values:
        return Roots(
            "peak", (), f"leak and reset alone give a growth of {leak:.4g}, not below {target:g}"
        )
    if len(values) == 1:
        return Roots("peak", values, f"the growth rises through {target:g} once")
    return Roots(
        "peak", values, "the gradient through the reset first opposes and then adds to the leak"
    )


def mean_mode_rate(stats: GradientStatistics, recurrent_mean: float) -> float:
    """Return the growth per timestep of the gradient's mean over units.

    Recurrent weights with a mean carry a uniform gradient that follows its own law, independent
    of the variance: check both.

    Args:
        stats: statistics of the layer.
        recurrent_mean: n E[w] of the recurrent weights, times the gain.

    Returns:
        E[A] + n E[w] E[s], no unit. It shows only if it exceeds the growth of the variance.

    Example:
        >>> import numpy as np
        >>> stats = GradientStatistics(0.5, 0.4, 0.2, 0.1, np.array([0.2]), 0.1,
        ...                            (0.45, 0.0), (0.4, 0.0, 0.0), (0.45, 0.0))
        >>> mean_mode_rate(stats, recurrent_mean=1.5)
        1.05

    Source:
        Mean of the gradient recursion; measured within 1 % in recurrent LIF simulations.
    """
    return stats.mean_factor + recurrent_mean * stats.first


def compare_peaks(one_step: float, growth: float) -> str | None:
    """Return a warning if the one-step and the growth solution for the peak differ by over 10 %.

    Args:
        one_step: peak by Condition IV, 1 / potential.
        growth: peak by growth = 1, 1 / potential.

    Returns:
        One line, or None if they agree.

    Raises:
        ValueError: a peak that is not above 0.

    Example:
        >>> compare_peaks(1.59, 0.56)[:62]
        'Condition IV gives peak 1.59, growth = 1 gives 0.56 (+184 %): '
        >>> compare_peaks(1.0, 1.05) is None
        True
    """
    if not (one_step > 0.0 and growth > 0.0):
        raise ValueError(f"peaks {one_step!r} and {growth!r} must both be above 0")
    gap = one_step / growth - 1.0
    if abs(gap) <= DISAGREEMENT:
        return None
    return (
        f"Condition IV gives peak {one_step:.4g}, growth = 1 gives {growth:.4g} "
        f"({100 * gap:+.0f} %): take the second, weights are reused"
    )
