"""Whether a recorded layer needs another surrogate, and which one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .depth import time_verdict
from .findings.evidence import CONFIDENCE_Z
from .layer_figures import GROWTH_SOURCE, growth_of, peak_for_time
from .layer_record import LayerRecord, coverage_of, spread_of
from .recommend import VETOED
from .recommend_surrogate import (
    COVERAGE_LOW,
    FLOOD,
    PEAK_SOURCE,
    WIDTH_SOURCE,
    RankedShape,
    fitted_width,
    solve_peak,
    width_verdict,
)
from .surrogate import Surrogate

SHAPE_CLEAR = 2.0
"""Factor of sensitivity by which another shape must be better before it is proposed."""

PEAK_NEVER_RAISED = (
    "figure 5 of Herranz-Celotti and Rouat, arXiv 2202.00282: accuracy falls where the peak of a "
    "recurrent layer exceeds 1, long before its gradient would keep its size over time"
)
"""Why a peak is lowered where a recurrent gradient grows, and not raised where it fades."""


@dataclass(frozen=True)
class Choice:
    """What was decided about a surrogate.

    Args:
        surrogate: the one to set; None to leave the present one.
        because: what is wrong, a sentence.
        effect: what the proposal does, a sentence.
        sources: of the rules that were used.
        blocked: what would be needed and cannot be done, a sentence.
    """

    surrogate: Surrogate | None = None
    because: str = ""
    effect: str = ""
    sources: tuple[str, ...] = ()
    blocked: str = ""


def choose_surrogate(
    now: LayerRecord,
    ranking: Sequence[RankedShape],
    gain: float | None,
    power: float,
    uneven: bool,
) -> Choice:
    """Decide on the surrogate of one layer.

    Args:
        now: the layer with its gradients; its surrogate is known.
        ranking: all shapes on this recording, the least sensitive first.
        gain: gain at which dL/du is as large as in the next layer; None if unknown.
        power: n E[w^2] of its recurrent weights, times the gain squared; 0 without any.
        uneven: whether its peak is to make up for a gradient that is lost over depth.

    Returns:
        The choice. The width changes only if it is out of range beyond the error bars, the peak
        with it, or where the gradient grows over time or changes too much over depth.

    Source:
        Condition IV, Herranz-Celotti and Rouat, arXiv 2202.00282; agl_raises_coverage of
        :mod:`.whatif` for why a narrower window is kept only if it reaches enough.
    """
    assert now.surrogate is not None
    if "surrogate" in VETOED:
        return Choice(blocked=VETOED["surrogate"])
    verdict = width_verdict(now, now.surrogate, CONFIDENCE_Z)
    growth = growth_of(now, power)
    if growth is not None:
        gain = None  # what comes back to the layer rises with its own peak
    # A gradient that fades in time is left to fade: see PEAK_NEVER_RAISED.
    grows = growth is not None and growth.chi > 1.0
    grows = grows and time_verdict(growth.variance_ratio, len(now.u)) != "fine"  # type: ignore[union-attr]
    if not (verdict or grows or (uneven and gain is not None)):
        return Choice()
    proposed = _fitted(now, ranking) if verdict else now.surrogate
    if verdict:
        reached, before = coverage_of(now, proposed), coverage_of(now, now.surrogate)
        if reached.value < COVERAGE_LOW and reached.value <= before.value:
            return Choice()  # a width from the spread of u that reaches less is no help
    limit, balanced = "", False
    if growth is not None:
        peaks = peak_for_time(now, proposed, power)
        if grows and not peaks:
            return Choice(blocked="No peak keeps its gradient from growing in time.")
        if peaks and peaks[0] < proposed.peak:
            proposed, grows = replace(proposed, peak=peaks[0]), True
    elif gain is not None:
        try:
            peak, limit = solve_peak(now, proposed, gain)
            proposed, balanced = replace(proposed, peak=peak), True
        except ValueError:  # no element that the surrogate reaches received a gradient
            pass
    if grows:
        effect = "With this peak its gradient keeps its size from timestep to timestep."
    elif balanced:
        bound = f", as far as {limit} allows" if limit else ""
        effect = f"The peak keeps the gradient as large as in the next layer{bound}."
    else:
        effect = "The peak gives it the area of the spike's own jump, 1."
    sources = ((WIDTH_SOURCE,) if verdict else ()) + ((GROWTH_SOURCE,) if grows else (PEAK_SOURCE,))
    return Choice(proposed, _because(now, verdict, grows), effect, sources)


def _fitted(now: LayerRecord, ranking: Sequence[RankedShape]) -> Surrogate:
    """Return the surrogate with the width that fits, of area 1; its shape stays if it can."""
    assert now.surrogate is not None
    own = next((row for row in ranking if row.surrogate.shape == now.surrogate.shape), None)
    shape, tail = now.surrogate.shape, now.surrogate.tail
    if ranking and (own is None or own.sensitivity > SHAPE_CLEAR * ranking[0].sensitivity):
        shape, tail = ranking[0].surrogate.shape, ranking[0].surrogate.tail
    unit = Surrogate(shape, 1.0, fitted_width(shape, spread_of(now).value, tail), tail)
    return replace(unit, peak=1.0 / unit.area)


def _because(now: LayerRecord, verdict: str, grows: bool) -> str:
    """Return what is wrong with the surrogate that the layer has."""
    assert now.surrogate is not None
    spread = spread_of(now).value
    if verdict == "narrow":
        reached = coverage_of(now, now.surrogate).value
        return (
            f"The surrogate reaches {100 * reached:.2g} % of the elements; its width should follow "
            f"the spread of u, {spread:.3g}."
        )
    if verdict == "wide":
        times = 1.0 / (now.surrogate.sharpness * spread)
        return (
            f"The surrogate is {times:.2g} times as wide as the spread of u, {spread:.3g}: near "
            f"and far count alike (bound {1 / FLOOD:g})."
        )
    if grows:
        return "Its gradient grows too much over time."
    return "The gradient changes too much from layer to layer."
