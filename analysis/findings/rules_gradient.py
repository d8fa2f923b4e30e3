"""G: does the surrogate pass gradient on where the elements lie?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special

from .advice_window import window_advice
from .evidence import Evidence
from .figures import Figure, pool_over, stretch
from .grading import grade_below
from .regime import surrogate_of
from .types import Advice, Bound, Finding

COVERAGE_WARNING = 0.15
"""DS-ATGO (arXiv 2511.13050, fig. 11): deep layers of the vanilla network are below 15.13 %. Two
healthy runs of the planted benchmark are below it, too, down to 0.0514: see REACHABLE_WARNING."""

REACHABLE_WARNING = 0.5
"""Share of the coverage that a window of this width has on a Gaussian law whose mean lies one
standard deviation below the threshold. A narrow window on a wide law never covers 15 %; a layer is
off only if it misses half of what it could. The lowest healthy run of the planted benchmark is at
0.515, the next at 0.579: the margin is small."""

COVERAGE_ERROR = 0.05
"""A third of that: 19 of 20 elements pass no gradient on."""

GAIN_WARNING = 0.1
"""Rms of the surrogate in 1 / threshold. A rectangle of unit area and width 5 thresholds, where
LSG (Lian et al. 2023) lost 30 points of accuracy, has at most 0.2 (all covered): half of it. The
lowest healthy run of the planted benchmark is at 0.102, the next at 0.143: the margin is small."""

NARROW_WARNING = 0.01
"""Share of the elements that carry the gradient, (E h)^2 / E[h^2]: 1 of 100. The
lowest healthy run of the planted benchmark, a fast sigmoid of slope 25, is at 0.0193, the next at
0.0868."""

TOO_WIDE_WARNING = 5.0
"""Equivalent width over rms distance of u from the threshold. LSG (Lian et al. 2023), CIFAR-10:
3.5 lost 2 points of accuracy, 7.1 lost 31, 14 lost 62. Between the first two. Healthy runs of
the planted benchmark have up to 0.779."""

G1_SOURCE = "DS-ATGO, arXiv 2511.13050, fig. 11: deep layers of the vanilla network below 15.13 %"
G4_SOURCE = (
    "LSG, Lian et al., IJCAI 2023: accuracy falls by 30 points where the window is so wide that "
    "its height is 0.2 / threshold; half of it"
)
S10_SOURCE = "calibrated: half of the lowest share in a healthy run, 0.0193"
S11_SOURCE = (
    "LSG, Lian et al., IJCAI 2023: widths of 3.5, 7.1 and 14 times the rms of u - threshold"
)

G1_BOUNDS = (
    Bound(COVERAGE_WARNING, "share of elements", "warning", G1_SOURCE),
    Bound(COVERAGE_ERROR, "share of elements", "error", "a third of the bound of the warning"),
    Bound(
        REACHABLE_WARNING,
        "coverage over that of a Gaussian law one standard deviation below the threshold",
        "warning",
        "else a note; the lowest healthy run is at 0.515",
    ),
)
G4_BOUNDS = (Bound(GAIN_WARNING, "1 / threshold", "warning", G4_SOURCE),)
S10_BOUNDS = (Bound(NARROW_WARNING, "share of elements", "warning", S10_SOURCE),)
S11_BOUNDS = (Bound(TOO_WIDE_WARNING, "width over rms of u - threshold", "warning", S11_SOURCE),)


def coverage_low(evidence: Evidence) -> Iterator[Finding]:
    """G1: too few elements lie where the surrogate passes gradient on."""
    figure = evidence.pooled("coverage", "coverage_se")
    rates = evidence.pooled("rate")
    for place, layer in enumerate(evidence.names):
        low = np.flatnonzero(figure.high[place] < COVERAGE_WARNING)
        if not len(low):
            continue
        worst = int(low[np.argmin(figure.value[place][low])])
        one = figure.at(place, worst)
        severity, bound = grade_below(one.high, COVERAGE_WARNING, COVERAGE_ERROR)
        best = _reachable(evidence, place, worst)
        # Where no start could bring more into this window, it is one degree less grave.
        if not one.high < REACHABLE_WARNING * best:
            severity = "warning" if severity == "error" else "note"
        every = int(np.isfinite(figure.value[place]).sum())
        rate = float(rates.value[place, worst])
        share, where = (1.0 - rate, "below") if rate < 0.5 else (rate, "above")
        t = worst + 1
        advice = window_advice(evidence, evidence.layers[place], worst, "wider")
        yield Finding(
            code="G1",
            severity=severity,
            layer=layer,
            t=t,
            steps=evidence.since(place, worst, "coverage", bound),
            measured=one.value,
            error=one.error,
            bound=bound,
            unit="share of elements",
            text=f"Only {one.value:.1%} of the elements lie where the surrogate exceeds 1% of "
            f"its peak at t = {t} ({_timesteps(len(low), every)} below {COVERAGE_WARNING:.0%}). "
            f"{share:.0%} of them lie {where} the threshold; a window of this width could cover "
            f"{best:.0%}.",
            source=G1_SOURCE,
            remedies=_helping(advice) or ("surrogate width", "threshold", "start potential"),
            advice=advice,
        )


def gain_low(evidence: Evidence) -> Iterator[Finding]:
    """G4: the elements are covered, and the surrogate is all but flat there."""
    square = evidence.cube("surrogate_square")
    threshold = evidence.cube("threshold")
    gain = np.sqrt(np.maximum(square, 0.0)) * _size(evidence, threshold)
    coverage = evidence.pooled("coverage", "coverage_se")
    for place, t, one, since in _lowest(evidence, gain, GAIN_WARNING):
        covered = float(coverage.value[place, t])
        if not covered > COVERAGE_WARNING:
            continue
        layer = evidence.layers[place]
        surrogate = surrogate_of(layer)
        peak = surrogate.peak if surrogate is not None else float("nan")
        advice = window_advice(evidence, layer, t, "narrower")
        yield Finding(
            code="G4",
            severity="warning",
            layer=layer.name,
            t=t + 1,
            steps=since,
            measured=one.value,
            error=one.error,
            bound=GAIN_WARNING,
            unit="1 / threshold",
            text=f"Coverage is {covered:.0%} at t = {t + 1}, but the rms of the surrogate there is "
            f"only {one.value:.2g} per threshold (its peak is {peak:.2g}). Each such layer shrinks "
            "the gradient by about this factor: coverage alone is not health.",
            source=G4_SOURCE,
            remedies=_helping(advice) or ("surrogate peak",),
            advice=advice,
        )


def too_narrow(evidence: Evidence) -> Iterator[Finding]:
    """S10: next to no element carries the gradient."""
    mean, square = evidence.cube("surrogate_mean"), evidence.cube("surrogate_square")
    share = np.divide(mean**2, square, out=np.full(mean.shape, np.nan), where=square > 0)
    for place, t, one, since in _lowest(evidence, share, NARROW_WARNING):
        layer = evidence.layers[place]
        advice = window_advice(evidence, layer, t, "wider")
        surrogate = surrogate_of(layer)
        width = surrogate.fwhm / _spread(evidence, place, t) if surrogate else float("nan")
        yield Finding(
            code="S10",
            severity="warning",
            layer=layer.name,
            t=t + 1,
            steps=since,
            measured=one.value,
            error=one.error,
            bound=NARROW_WARNING,
            unit="share of elements that carry the gradient",
            text=f"At t = {t + 1} the gradient rests on {one.value:.2%} of the elements: the "
            f"surrogate's width at half height is {width:.2g} standard deviations of u. The "
            "gradient of one batch is mostly noise.",
            source=S10_SOURCE,
            remedies=_helping(advice) or ("surrogate width",),
            advice=advice,
        )


def too_wide(evidence: Evidence) -> Iterator[Finding]:
    """S11: the surrogate is flat over all that u does."""
    mean, std = evidence.pooled("u_mean", "u_mean_se"), evidence.pooled("u_std")
    threshold = evidence.pooled("threshold").value
    for place, layer in enumerate(evidence.layers):
        surrogate = surrogate_of(layer)
        if surrogate is None:
            continue
        width = 1.0 / float(surrogate.sharpness)  # of the rectangle of this height and area
        if not np.isfinite(width):
            continue
        rms = np.hypot(threshold[place] - mean.value[place], std.value[place])
        # d rms = (offset d mean + std d std) / rms, each at most its own error.
        error = np.hypot(mean.error[place], std.error[place])
        if not np.isfinite(rms).any():
            continue
        t = int(np.nanargmax(rms))
        ratio = width / float(rms[t]) if rms[t] > 0 else np.inf
        one = Figure(ratio, ratio * float(error[t]) / float(rms[t]) if rms[t] > 0 else np.nan)
        if not one.low > TOO_WIDE_WARNING:
            continue
        advice = window_advice(evidence, layer, t, "narrower")
        yield Finding(
            code="S11",
            severity="warning",
            layer=layer.name,
            t=t + 1,
            steps=evidence.span,
            measured=one.value,
            error=one.error,
            bound=TOO_WIDE_WARNING,
            unit="width over rms of u - threshold",
            text=f"The surrogate is as wide as a rectangle of {width:.3g}, {one.value:.1f} times "
            f"the rms distance of u from the threshold ({float(rms[t]):.2g}). It treats a spike as "
            "a straight line, so the gradient points elsewhere than the loss falls.",
            source=S11_SOURCE,
            remedies=_helping(advice) or ("surrogate width",),
            advice=advice,
        )


def _lowest(
    evidence: Evidence, values: np.ndarray, bound: float
) -> Iterator[tuple[int, int, Figure, tuple[int, int]]]:
    """Yield layer, t, figure and stretch of the lowest timestep of each layer below a bound."""
    now = values[:, evidence.recent]
    figure = pool_over(now, np.full(now.shape, np.nan), axis=1)
    for place in range(len(evidence.names)):
        low = np.flatnonzero(figure.high[place] < bound)
        if not len(low):
            continue
        t = int(low[np.argmin(figure.value[place][low])])
        series = values[place, :, t]
        known = ~np.isnan(series)
        yield place, t, figure.at(place, t), stretch(evidence.steps[known], series[known] < bound)


def _reachable(evidence: Evidence, place: int, t: int) -> float:
    """Return the coverage of a Gaussian law of this spread, one of it below the threshold."""
    half = surrogate_of(evidence.layers[place])
    if half is None:
        return 1.0
    ratio = float(half.half_width()) / _spread(evidence, place, t)
    return float(special.ndtr(1.0 + ratio) - special.ndtr(1.0 - ratio))


def _helping(advice: tuple[Advice, ...]) -> tuple[str, ...]:
    return tuple(entry.remedy for entry in advice if entry.helps)


def _timesteps(low: int, every: int) -> str:
    return f"all {every} timesteps" if low == every else f"{low} of {every} timesteps"


def _size(evidence: Evidence, threshold: np.ndarray) -> np.ndarray:
    """Return the size of the threshold where it is known, else of the density's unit."""
    scales = np.array([layer.scale for layer in evidence.layers])[:, None, None]
    size = np.abs(threshold)
    return np.where(np.isfinite(size) & (size > 0), size, scales)


def _spread(evidence: Evidence, place: int, t: int) -> float:
    return max(float(evidence.pooled("u_std").value[place, t]), 1e-30)
