"""R: do the units fire, neither never nor always, at every timestep and layer?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...data.runs import Layer
from ..distance import centres
from ..whatif import VALID_THRESHOLD
from .advice_window import moments, recorded_law
from .evidence import Evidence
from .figures import Figure, pool_over, share_below, stretch, total_over
from .grading import MILDER, grade_above, with_worst_note
from .types import Advice, Bound, Finding, Severity
from .vitals import Series

UNITS_WARNING = 0.5
"""Share of silent (or saturated) units that makes a layer suspect: the rule of the trade."""

UNITS_ERROR = 0.9
"""Nine of ten units: the layer is all but gone."""

CHANCES = 10.0
"""Spikes that a unit of the mean rate would have had: below it, silence is chance."""

SILENT_RATE = 1e-3
"""Firing rate below which a whole layer counts as silent: one spike in 1000 element-timesteps."""

SATURATED_RATE = 0.9
"""Firing rate above which a whole layer counts as saturated: its spikes hold no news."""

QUIET = 0.01
"""A timestep is lost if its rate is below this share of the largest one."""

LOST_NOTE = 0.25
LOST_WARNING = 0.5
"""Shares of the timesteps that may be lost: a quarter is worth a word, half is a warning."""

LAYERS_NOTE = 0.01
"""Rate of the quietest layer over that of the busiest. The lowest healthy run of the planted
benchmark is at 0.629: the bound speaks of a layer that is all but cut off."""

R1_SOURCE = (
    "two levels as in SageMaker Debugger's DeadRelu (a unit is dead if..., a layer is bad if 50 % "
    "are); a unit is dead if a whole batch gives it no spike"
)
R2_SOURCE = "two levels as in SageMaker Debugger's SaturatedActivation: 50 % of the units"
R3_SOURCE = (
    "a timestep with 1 % of the largest rate carries nothing; a quarter of them is worth a word"
)
R4_SOURCE = "ours: a layer that is all but cut off; the lowest healthy run is at a ratio of 0.629"

R1_BOUNDS = (
    Bound(UNITS_WARNING, "share of units", "warning", R1_SOURCE),
    Bound(UNITS_ERROR, "share of units", "error", "nine of ten units"),
    Bound(SILENT_RATE, "firing rate", "warning", "one spike in 1000 element-timesteps"),
)
R2_BOUNDS = (
    Bound(UNITS_WARNING, "share of units", "warning", R2_SOURCE),
    Bound(UNITS_ERROR, "share of units", "error", "nine of ten units"),
    Bound(SATURATED_RATE, "firing rate", "warning", "nine spikes in ten element-timesteps"),
)
R3_BOUNDS = (
    Bound(LOST_NOTE, "share of timesteps", "note", R3_SOURCE),
    Bound(LOST_WARNING, "share of timesteps", "warning", "half of them"),
)
R4_BOUNDS = (Bound(LAYERS_NOTE, "ratio of rates", "note", R4_SOURCE),)


def silent(evidence: Evidence) -> Iterator[Finding]:
    """R1: units, or a whole layer, that do not fire."""
    rate = _mean_rate(evidence)
    for place, layer in enumerate(evidence.layers):
        one = rate.at(place)
        dead = evidence.vitals.one("dead_units", layer.name)
        chances = evidence.vitals.one("chances", layer.name)
        if one.value == 0.0 or one.high < SILENT_RATE:
            yield _quiet_layer(evidence, layer, place, one)
        elif dead is not None and chances is not None:
            expected = one.value * float(chances.figure.value)
            if dead.figure.low > UNITS_WARNING and expected > CHANCES:
                yield _dead_units(evidence, layer, dead, chances)


def _quiet_layer(evidence: Evidence, layer: Layer, place: int, one: Figure) -> Finding:
    known, rates = _by_record(evidence, place)
    severity: Severity = "error" if one.value == 0.0 else "warning"
    said = "emits no spike at all" if one.value == 0.0 else f"fires with a rate of {one.value:.1e}"
    t, mean = _nearest(evidence, place)
    return Finding(
        code="R1",
        severity=severity,
        layer=layer.name,
        t=None,
        steps=stretch(known, rates < SILENT_RATE),
        measured=one.value,
        error=0.0 if np.isnan(one.error) else one.error,
        bound=SILENT_RATE,
        unit="spikes / element / timestep",
        text=f"{layer.name!r} {said} in the last {len(evidence.window)} recorded steps: at best (t "
        f"= {t}) the mean of u is {mean:.2g} against a threshold of "
        f"{_threshold(evidence, place):.3g}. What follows it gets an input without content.",
        source=R1_SOURCE,
        remedies=("threshold", "weight scale", "bias shift"),
        advice=_rate_advice(evidence, layer, place),
    )


def _dead_units(evidence: Evidence, layer: Layer, dead: Series, chances: Series) -> Finding:
    severity, bound = grade_above(dead.figure.low, UNITS_WARNING, UNITS_ERROR)
    return Finding(
        code="R1",
        severity=severity,
        layer=layer.name,
        t=None,
        steps=dead.since(dead.values > bound),
        measured=dead.figure.value,
        error=dead.figure.error,
        bound=bound,
        unit="share of units",
        text=f"{dead.figure.value:.0%} of the units emit no spike in a whole recorded batch "
        f"({chances.figure.value:.0f} chances each). They pass nothing on, and learn only as far "
        "as the surrogate reaches them.",
        source=R1_SOURCE,
        remedies=("threshold", "bias shift", "rate regulariser"),
        advice=_rate_advice(evidence, layer, evidence.place[layer.name]),
    )


def saturated(evidence: Evidence) -> Iterator[Finding]:
    """R2: units, or a whole layer, that fire at each timestep."""
    rate = _mean_rate(evidence)
    for place, layer in enumerate(evidence.layers):
        one = rate.at(place)
        full = evidence.vitals.one("saturated_units", layer.name)
        by_units = full is not None and full.figure.low > UNITS_WARNING
        if not (by_units or one.low > SATURATED_RATE or one.value == 1.0):
            continue
        if by_units:
            assert full is not None
            figure, unit = full.figure, "share of units"
            severity, bound = grade_above(figure.low, UNITS_WARNING, UNITS_ERROR)
            steps = full.since(full.values > bound)
            said = f"{figure.value:.0%} of the units fire at each timestep of each sample"
        else:
            figure, unit, bound = one, "spikes / element / timestep", SATURATED_RATE
            severity = "error" if one.value == 1.0 else "warning"
            known, rates = _by_record(evidence, place)
            steps = stretch(known, rates > bound)
            said = f"The layer fires with a rate of {one.value:.2f}, nearly always"
        yield Finding(
            code="R2",
            severity=severity,
            layer=layer.name,
            t=None,
            steps=steps,
            measured=figure.value,
            error=0.0 if np.isnan(figure.error) else figure.error,
            bound=bound,
            unit=unit,
            text=f"{said}. A spike that always comes says nothing: the layer has become a "
            "constant.",
            source=R2_SOURCE,
            remedies=("threshold", "weight scale", "bias shift"),
            advice=_rate_advice(evidence, layer, place),
        )


def uneven_over_time(evidence: Evidence) -> Iterator[Finding]:
    """R3: timesteps at which a layer hardly fires, while it does at others."""
    yield from with_worst_note(_uneven_layers(evidence))


def _uneven_layers(evidence: Evidence) -> Iterator[Finding]:
    rate = evidence.pooled("rate", "rate_se")
    for place, layer in enumerate(evidence.names):
        timesteps = np.flatnonzero(evidence.seen[place])
        values = rate.value[place][timesteps]
        if len(timesteps) < 2 or not np.nanmax(values) > SILENT_RATE:
            continue
        most = int(np.nanargmax(values))
        edge = QUIET * float(values[most])
        error = np.nan_to_num(rate.error[place][timesteps])
        one = share_below(values, np.hypot(error, QUIET * error[most]), edge)
        if not one.low > LOST_NOTE:
            continue
        lost = np.flatnonzero(values < edge)
        severity, bound = grade_above(one.low, LOST_NOTE, LOST_WARNING, MILDER)
        yield Finding(
            code="R3",
            severity=severity,
            layer=layer,
            t=int(timesteps[lost[0]]) + 1,
            steps=evidence.span,
            measured=one.value,
            error=one.error,
            bound=bound,
            unit="share of timesteps",
            text=f"At {len(lost)} of {len(timesteps)} timesteps, t = {int(timesteps[lost[0]]) + 1} "
            f"the first, the rate is below {QUIET:.0%} of the {float(values[most]):.2g} at "
            f"t = {int(timesteps[most]) + 1}. Those timesteps are paid for and carry nothing.",
            source=R3_SOURCE,
            remedies=("start potential", "decay", "more timesteps"),
            advice=(
                Advice(
                    "start potential",
                    bool(lost[0] == 0),
                    "It lifts the first timesteps: see M1 of this layer for its size."
                    if lost[0] == 0
                    else f"It acts at t = 1, and what is lost begins at t = "
                    f"{int(timesteps[lost[0]]) + 1}.",
                ),
            ),
        )


def uneven_over_layers(evidence: Evidence) -> Iterator[Finding]:
    """R4: a layer that fires far less than another."""
    rate = _mean_rate(evidence)
    values = rate.value
    working = [place for place in range(len(evidence.names)) if values[place] >= SILENT_RATE]
    if len(working) < 2:
        return
    low, high = (pick(working, key=lambda place: float(values[place])) for pick in (min, max))
    ratio = float(values[low] / values[high])
    error = ratio * float(np.hypot(rate.error[low] / values[low], rate.error[high] / values[high]))
    one = Figure(ratio, error)
    if not one.high < LAYERS_NOTE:
        return
    yield Finding(
        code="R4",
        severity="note",
        layer=evidence.names[low],
        t=None,
        steps=evidence.span,
        measured=one.value,
        error=one.error,
        bound=LAYERS_NOTE,
        unit="ratio of rates",
        text=f"{evidence.names[low]!r} fires {1 / ratio:.0f} times less than "
        f"{evidence.names[high]!r} ({float(values[low]):.2g} against {float(values[high]):.2g}). "
        "The quiet one is where information is lost.",
        source=R4_SOURCE,
        remedies=("threshold", "weight scale"),
        advice=_rate_advice(evidence, evidence.layers[low], low),
    )


def _mean_rate(evidence: Evidence) -> Figure:
    """Return the rate of each layer over all timesteps, pooled over the window, ``[layer]``."""
    spikes = total_over(evidence.now("spikes"))
    elements = total_over(evidence.now("elements"))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = spikes / elements
    # The timesteps of a record share their samples: their errors add up fully.
    errors = np.nanmean(np.where(np.isnan(evidence.now("rate_se")), 0, evidence.now("rate_se")), 2)
    return pool_over(values, errors)


def _by_record(evidence: Evidence, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which the rate of a layer is known, and the rates."""
    spikes, elements = (total_over(evidence.cube(name)[place]) for name in ("spikes", "elements"))
    rates = spikes / elements
    known = np.isfinite(rates)
    return evidence.steps[known], rates[known]


def _nearest(evidence: Evidence, place: int) -> tuple[int, float]:
    """Return the timestep at which the mean of u comes nearest to the threshold, and that mean."""
    mean = evidence.pooled("u_mean", "u_mean_se").value[place]
    gap = np.abs(evidence.pooled("threshold").value[place] - mean)
    if not np.isfinite(gap).any():
        gap = np.abs(mean)
    if not np.isfinite(gap).any():
        return 1, float("nan")
    t = int(np.nanargmin(gap))
    return t + 1, float(mean[t])


def _threshold(evidence: Evidence, place: int) -> float:
    values = evidence.pooled("threshold").value[place]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _rate_advice(evidence: Evidence, layer: Layer, place: int) -> tuple[Advice, ...]:
    """Look at the threshold at which the recorded law would fire with 16 %."""
    t = _nearest(evidence, place)[0] - 1
    law = recorded_law(evidence, layer, t)
    theta = _threshold(evidence, place)
    if law is None or not np.isfinite(theta):
        return ()
    counts, edges = law
    share, middles = counts / counts.sum(), centres(edges)
    mean, std = moments(counts, edges)
    now, new = float(share[middles > 0].sum()), theta + mean + std
    then = float(share[middles > mean + std].sum())
    if not new > 0.05 * abs(theta):
        text = f"A threshold of mean + spread would be {new:.2g}: units at rest would fire."
        shift = -(mean + std)
        return (
            Advice("threshold", False, text),
            Advice(
                "bias shift",
                True,
                f"Add {shift:.3g} to the input: mean + spread then meets the threshold, and about "
                f"{then:.0%} fire at t = {t + 1}.",
                "rate",
                now,
                then,
                VALID_THRESHOLD,
            ),
        )
    text = (
        f"A threshold of {new:.3g} instead of {theta:.3g} takes the rate at t = {t + 1} from "
        f"{now:.1%} to {then:.1%}."
    )
    return (Advice("threshold", True, text, "rate", now, then, VALID_THRESHOLD),)
