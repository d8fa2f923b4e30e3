"""Width and peak of a recorded layer's surrogate, and all shapes ranked on the same recording."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .layer_gradient import inner_gradient, time_factor
from .layer_record import (
    Array,
    LayerRecord,
    coverage_of,
    participation_of,
    spread_of,
)
from .surrogate import SHAPES, Surrogate

COVERAGE_LOW = 0.15
"""Share of elements below which the surrogate is too narrow, as rule G1 of the findings has it."""

FLOOD = 0.5
"""Sharpness times spread of u below which the surrogate tells near from far no more."""

AREAS = (0.1, 10.0)
"""Bounds of the surrogate's area; 1 is the spike's own jump."""

AREA_LIMIT = f"an area of {AREAS[0]:g} to {AREAS[1]:g}"

SEARCH_ELEMENTS = 2**16
ROUNDS = 30

WIDTH_SOURCE = "Condition IV, Herranz-Celotti and Rouat 2202.00282: sharpness = 1 / spread of u"
PEAK_SOURCE = (
    "gradient kept equal from layer to layer (Condition IV, depth, 2202.00282), solved on the "
    "recorded potential and gradient"
)


@dataclass(frozen=True)
class RankedShape:
    """One shape of surrogate on the recording, with the width and peak that fit it.

    Args:
        surrogate: shape, peak and width.
        coverage: share of elements that it reaches with 1 % of its peak or more.
        participation: share of elements that carry the gradient, E[s^2]^2 / E[s^4].
        sensitivity: largest change of ln E[s^2] when u shifts by half its spread or its spread
            changes by half: what training will do to it.
    """

    surrogate: Surrogate
    coverage: float
    participation: float
    sensitivity: float


def fitted_width(shape: str, spread: float, tail: float = 2.0) -> float:
    """Return the width at which sharpness times spread of u is 1, potential.

    Args:
        shape: a name in ``SHAPES``.
        spread: standard deviation of u, potential.
        tail: tail-fatness of ``"q_pseudo_spike"``.

    Example:
        >>> fitted_width("fast_sigmoid", 0.5), fitted_width("rectangular", 0.5)
        (0.25, 0.5)

    Source:
        Condition IV with all else free, Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    return float(Surrogate.from_dampening(shape, 1.0, 1.0 / spread, tail).width)


def width_verdict(record: LayerRecord, surrogate: Surrogate, confidence: float) -> str:
    """Return "narrow", "wide" or "" for a width that is in order beyond its error.

    Args:
        record: the layer.
        surrogate: its surrogate.
        confidence: how many standard errors a bound must be cleared by.
    """
    coverage = coverage_of(record, surrogate)
    margin = confidence * np.nan_to_num(coverage.error)
    if coverage.value + margin < COVERAGE_LOW:
        return "narrow"
    spread = spread_of(record)
    if surrogate.sharpness * (spread.value + confidence * np.nan_to_num(spread.error)) < FLOOD:
        return "wide"
    return ""


def solve_peak(record: LayerRecord, surrogate: Surrogate, gain: float) -> tuple[float, str]:
    """Return the peak at which a layer passes the gradient on with a wanted gain.

    Args:
        record: the layer, with gradients.
        surrogate: shape and width are kept; its peak is where the search begins.
        gain: wanted mean square of dL/du over that of dL/ds, 1 / potential^2.

    Returns:
        ``(peak, limit)``: 1 / potential, and what bounded it ("" for nothing): the area of the
        surrogate, or the gradient through the reset, which must not grow in time.

    Raises:
        ValueError: no gradient, or none that passes.

    Example:
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> one = np.ones((1, 2, 1))
        >>> layer = LayerRecord("lif", NeuronSpec(), None, one, one, one, one[0], grad_s=one)
        >>> peak, limit = solve_peak(layer, Surrogate("rectangular"), gain=4.0)
        >>> round(peak, 5), limit
        (2.0, '')

    Source:
        The variance of the gradient goes with the square of the peak where the reset carries no
        gradient; otherwise the recursion is solved again at each peak.
    """
    few = record.thinned(SEARCH_ELEMENTS)
    assert few.grad_s is not None
    above = float(np.mean(np.square(few.grad_s, dtype=np.float64)))
    if not (above > 0.0 and gain > 0.0):
        raise ValueError(f"layer {record.name!r}: no gradient arrives, the peak cannot be solved")
    low, high = (bound / (surrogate.area / surrogate.peak) for bound in AREAS)
    limit = AREA_LIMIT
    constant, linear, square = time_factor(few, surrogate)
    if square > 0.0 and constant < 1.0:
        steady = (-linear + np.sqrt(linear**2 + 4.0 * square * (1.0 - constant))) / (2.0 * square)
        if steady < high:
            high, limit = steady, "the gradient through the reset"

    def passed(peak: float) -> float:
        inner = inner_gradient(few, replace(surrogate, peak=peak))
        return float(np.mean(np.square(inner.u))) / above

    peak = float(np.clip(surrogate.peak, low, high))
    for _ in range(ROUNDS):
        now = passed(peak)
        if not now > 0.0:
            raise ValueError(f"layer {record.name!r}: no element lies where the surrogate passes")
        # Exact in one step without gradient through the reset; damped it converges with it, too.
        step = (gain / now) ** (0.5 if square == 0.0 else 0.4)
        further = float(np.clip(peak * step, low, high))
        if abs(further / peak - 1.0) < 1e-6:
            break
        peak = further
    if further <= low * (1.0 + 1e-9):
        return further, AREA_LIMIT
    return further, limit if further >= high * (1.0 - 1e-9) else ""


def rank_shapes(record: LayerRecord, gain: float | None, tail: float = 2.0) -> list[RankedShape]:
    """Rank all shapes on one recording, each with the width and the peak that fit it.

    Args:
        record: the layer.
        gain: wanted gain as in :func:`solve_peak`; None leaves the peak at area 1.
        tail: tail-fatness of ``"q_pseudo_spike"``.

    Returns:
        The shapes, least sensitive first: all are balanced at the start, so what differs is how
        long they stay so while training moves u.

    Source:
        One forward pass ranks every surrogate, since it does not depend on it; order of
        robustness as in figure 5 of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    spread = spread_of(record).value
    few = record.thinned(SEARCH_ELEMENTS)
    ranked = []
    for shape in SHAPES:
        surrogate = Surrogate(shape, 1.0, fitted_width(shape, spread, tail), tail)
        surrogate = replace(surrogate, peak=1.0 / surrogate.area)
        if gain is not None:
            try:
                surrogate = replace(surrogate, peak=solve_peak(few, surrogate, gain)[0])
            except ValueError:
                continue
        ranked.append(
            RankedShape(
                surrogate,
                coverage_of(few, surrogate).value,
                participation_of(few, surrogate),
                sensitivity(few.z, spread, surrogate),
            )
        )
    return sorted(ranked, key=lambda entry: entry.sensitivity)


def sensitivity(z: Array, spread: float, surrogate: Surrogate) -> float:
    """Return the largest |change of ln E[s^2]| when u shifts by spread / 2 or scales by 1.5.

    Args:
        z: u - threshold, potential, any shape.
        spread: standard deviation of u, potential.
        surrogate: the surrogate.

    Example:
        >>> z = np.random.default_rng(0).normal(-1.0, 1.0, 20000)
        >>> values = [sensitivity(z, 1.0, Surrogate(name, 1.0, fitted_width(name, 1.0)))
        ...           for name in ("fast_sigmoid", "rectangular")]
        >>> values[0] < values[1]
        True

    Source:
        Ours: training moves the law of u, and the gain of a good surrogate moves little with it.
    """
    z = np.asarray(z, dtype=np.float64)
    middle = z.mean()
    moved = [z, z + 0.5 * spread, z - 0.5 * spread]
    moved += [middle + factor * (z - middle) for factor in (1.5, 1.0 / 1.5)]
    with np.errstate(divide="ignore"):
        logs = np.log([float(np.mean(np.square(surrogate.derivative(x)))) for x in moved])
    return float(np.max(np.abs(logs[1:] - logs[0]))) if np.isfinite(logs[0]) else float("inf")
