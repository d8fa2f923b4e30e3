"""Condition IV solved: which peak, width or tail of the surrogate keeps the gradient's size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .roots import Roots, scan_roots
from .surrogate import Surrogate
from .surrogate_conditions import Ratio

WIDTH_GRID = np.geomspace(1e-4, 1e4, 65)  # in units of the start width: four decades each way
LARGEST_PEAK = 1e12
TAIL_GRID = np.geomspace(1e-2, 1e2, 65)  # of q - 1


def peak_for(ratio: Ratio, surrogate: Surrogate, *, target: float = 1.0) -> Roots:
    """Solve the peak, with shape and width kept, for which a variance ratio meets the target.

    Args:
        ratio: from :func:`one_step_ratio_of`; quadratic in the peak.
        surrogate: its shape, width and tail are kept.
        target: wanted ratio per step.

    Returns:
        The positive solutions of the quadratic, 1 / potential: closed form.

    Example:
        >>> from spikescope.analysis.laws import GaussianLaw
        >>> from spikescope.analysis.neuron_spec import NeuronSpec
        >>> from spikescope.analysis.surrogate_conditions import one_step_ratio_of
        >>> spec = NeuronSpec(decay=0.9, reset_gradient=False)
        >>> ratio = one_step_ratio_of(spec, GaussianLaw(0.0, 1.0), 1.0)
        >>> round(peak_for(ratio, Surrogate("rectangular", 1.0, 2.0)).only(), 6)
        0.630963

    Source:
        Condition IV of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """

    def at(peak: float) -> float:
        return ratio(replace(surrogate, peak=peak))

    # The ratio is c0 + c1 peak + c2 peak^2; peaks large enough to show c1 and c2 against c0.
    c0, scale = at(1e-150), 1.0
    while abs(at(scale) - c0) < 0.1 * target and scale < LARGEST_PEAK:
        scale *= 10.0
    if scale >= LARGEST_PEAK:
        return Roots("peak", (), f"the ratio stays at {c0:.4g} for every peak: no gradient passes")
    one, two = at(scale) - c0, at(2.0 * scale) - c0
    c1, c2 = (4.0 * one - two) / 2.0, (two - 2.0 * one) / 2.0
    if not c2 > 0.0:
        return Roots("peak", (), f"the ratio is {c0:.4g} at peak 0 and has no square term")
    below = target - c0
    inner = c1**2 + 4.0 * c2 * below
    if inner < 0.0:
        least = c0 - c1**2 / (4.0 * c2)
        return Roots("peak", (), f"the ratio is at least {least:.4g}, above {target:g}")
    both = scale * (-c1 + np.array([-1.0, 1.0]) * np.sqrt(inner)) / (2.0 * c2)
    values = tuple(float(v) for v in sorted(set(both)) if v > 1e-9 * scale)
    if values:
        return Roots("peak", values, f"leak and reset alone give {c0:.4g} against {target:g}")
    return Roots("peak", (), f"leak and reset alone give {c0:.4g}, not below {target:g}")


def width_for(ratio: Ratio, surrogate: Surrogate, *, target: float = 1.0) -> Roots:
    """Solve the width (inverse sharpness), with shape and peak kept, for a target variance ratio.

    Args:
        ratio: variance ratio as a function of the surrogate.
        surrogate: its shape, peak and tail are kept; widths from 1e-4 to 1e4 potentials are tried.
        target: wanted ratio per step.

    Returns:
        All widths found. With a detached reset E[s^2] rises with the width from 0 to peak^2, so
        there is one solution or none.

    Example:
        >>> from spikescope.analysis.laws import GaussianLaw
        >>> from spikescope.analysis.neuron_spec import NeuronSpec
        >>> from spikescope.analysis.surrogate_conditions import one_step_ratio_of
        >>> spec = NeuronSpec(decay=0.9, reset_gradient=False)
        >>> ratio = one_step_ratio_of(spec, GaussianLaw(0.0, 1.0), 1.0)
        >>> found = width_for(ratio, Surrogate("gaussian", 1.0, 1.0))
        >>> found.count, round(ratio(Surrogate("gaussian", 1.0, found.only())), 9)
        (1, 1.0)
        >>> width_for(ratio, Surrogate("gaussian", 0.4, 1.0)).reason
        'the ratio goes from 0.81 (narrow) to 0.97 (wide) and stays below 1: raise peak or weights'

    Source:
        Condition IV of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    found = scan_roots(lambda w: ratio(replace(surrogate, width=w)) - target, WIDTH_GRID)
    narrow, wide = (ratio(replace(surrogate, width=float(w))) for w in (1e-4, 1e4))
    span = f"the ratio goes from {narrow:.4g} (narrow) to {wide:.4g} (wide)"
    if found:
        return Roots("width", found, span)
    if max(narrow, wide) < target:
        return Roots("width", (), f"{span} and stays below {target:g}: raise peak or weights")
    return Roots("width", (), f"{span} and stays above {target:g}: lower peak or weights")


def tail_for(ratio: Ratio, surrogate: Surrogate, *, target: float = 1.0) -> Roots:
    """Solve the tail-fatness q of a q-PseudoSpike, with peak and width kept.

    Args:
        ratio: variance ratio as a function of the surrogate.
        surrogate: a ``"q_pseudo_spike"``; its peak and width are kept, q - 1 from .01 to 100 tried.
        target: wanted ratio per step.

    Returns:
        All q found: 0, 1 or 2, because E[s^2] is not monotone in q where u lies far out.

    Raises:
        ValueError: a shape without a tail.

    Example:
        >>> from spikescope.analysis.laws import GaussianLaw
        >>> from spikescope.analysis.neuron_spec import NeuronSpec
        >>> from spikescope.analysis.surrogate_conditions import one_step_ratio_of
        >>> spec = NeuronSpec(decay=0.9, reset_gradient=False)
        >>> ratio = one_step_ratio_of(spec, GaussianLaw(0.0, 1.0), 1.0)
        >>> tail_for(ratio, Surrogate("q_pseudo_spike", 1.0, 2.0, tail=2.0)).count
        1

    Source:
        Condition IV for the tail, Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if surrogate.shape != "q_pseudo_spike":
        raise ValueError(f"shape={surrogate.shape!r} has no tail parameter; 'q_pseudo_spike' has")
    seen: list[float] = []

    def equation(excess: float) -> float:
        seen.append(ratio(replace(surrogate, tail=1.0 + excess)))
        return seen[-1] - target

    found = scan_roots(equation, TAIL_GRID)
    low, high = min(seen), max(seen)
    reason = f"over q the ratio lies between {low:.4g} and {high:.4g}"
    return Roots("tail", tuple(1.0 + x for x in found), reason)
