"""M: where the potential lies, whether it settles, and what its input leaves it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..drift import DRIFTING, drift_over_training
from .evidence import HISTORY_RECORDS, Evidence, spread
from .figures import CONFIDENCE_Z, Figure, pool_over, stretch
from .grading import MILDER, grade_above, with_worst_note
from .regime import drive, rings, simple, surrogate_of
from .types import Advice, Bound, Finding

MOVING_NOTE = 0.25
"""Wasserstein-1 in thresholds between the middle and the end of training: as for the drift in t."""

MOVING_WARNING = 1.0
"""A whole threshold. In the healthy runs of the planted benchmark a move that is told apart from
jitter is at most 0.15."""

TRAINING_RECORDS = 16
"""Records of which the first half is compared with the second: 8 to a window at least."""

OFFSET_WARNING = 3.0
"""Standard deviations between mean of u and threshold: a Gaussian law fires in 0.13 % beyond."""

REACH = 2.0
"""Standard deviations by which the window must miss the mean, before the place is to blame."""

FROZEN_NOTE = 0.95
"""Share of the input's variance that stays from t = 1 to t = T: one timestep says all."""

UNSETTLED_NOTE = 0.5
"""Thresholds between u at t = T and where it is heading: half of the way to firing."""

LEFT = 0.1
"""Share of the start that may be left at t = T; a tenfold reduction of any shift."""

TOO_QUIET = 0.01
"""Firing rate at t = T below which an unsettled layer has not begun to work."""

M2_SOURCE = "windows of training compared after Geweke 1992; a quarter of the way to firing"
M3_SOURCE = "a Gaussian law fires with 0.13 % beyond three standard deviations"
M4_SOURCE = (
    "transfer operator of the membrane (Kook et al., arXiv 2511.08708, section 3): lambda_2 "
    "negative or complex and above the decay in modulus"
)
M5_SOURCE = "correlation of the input at t = 1 and t = T; 0.95 leaves 5 % for all other timesteps"
M6_SOURCE = (
    "u relaxes as decay^t; exact mean of a soft reset: (1 - decay) E[u] = drive - decay theta r"
)

M2_BOUNDS = (
    Bound(MOVING_NOTE, "thresholds (Wasserstein-1)", "note", "a quarter of the way to firing"),
    Bound(
        MOVING_WARNING,
        "thresholds (Wasserstein-1)",
        "warning",
        "a whole threshold; healthy runs: 0.15",
    ),
)
M3_BOUNDS = (Bound(OFFSET_WARNING, "standard deviations of u", "warning", M3_SOURCE),)
M4_BOUNDS = (Bound(1.0, "|lambda_2| over decay", "note", M4_SOURCE),)
M5_BOUNDS = (Bound(FROZEN_NOTE, "share of variance", "note", "one timestep says all but 5 %"),)
M6_BOUNDS = (
    Bound(UNSETTLED_NOTE, "thresholds", "note", "half of the way to firing"),
    Bound(UNSETTLED_NOTE, "thresholds", "warning", "the same, in a layer that has not fired yet"),
)


def drift_in_training(evidence: Evidence) -> Iterator[Finding]:
    """M2: the law of u still moves from the middle to the end of training."""
    yield from with_worst_note(_moving_layers(evidence))


def _moving_layers(evidence: Evidence) -> Iterator[Finding]:
    steps = spread(evidence.steps, HISTORY_RECORDS)[-TRAINING_RECORDS:]
    if len(steps) < TRAINING_RECORDS or np.diff(steps).max() > 2 * np.diff(steps).min():
        return
    for layer in evidence.layers:
        density = evidence.densities[layer.name]
        rows = np.isin(density.steps, steps)
        counts = density.counts[rows]
        full = counts.sum(axis=-1).min(axis=0, initial=1) > 0
        if rows.sum() < TRAINING_RECORDS or not full.any():
            continue
        moved = drift_over_training(counts[:, full].swapaxes(0, 1), density.edges, windows=2)
        w1, band = moved.w1[:, 0], moved.w1_band[:, 0]
        low = np.where(moved.verdict[:, 0] == DRIFTING, w1 - band, -np.inf)
        place = int(np.argmax(low))
        if not low[place] > MOVING_NOTE:
            continue
        severity, bound = grade_above(float(low[place]), MOVING_NOTE, MOVING_WARNING, MILDER)
        t = int(density.t[full][place])
        half = int(steps[TRAINING_RECORDS // 2])
        yield Finding(
            code="M2",
            severity=severity,
            layer=layer.name,
            t=t,
            steps=(int(steps[0]), int(steps[-1])),
            measured=float(w1[place]),
            error=float(band[place]) / CONFIDENCE_Z,
            bound=bound,
            unit="thresholds (Wasserstein-1)",
            text=f"The law of u at t = {t} lies {float(w1[place]):.2f} thresholds from where it "
            f"lay before step {half}; jitter alone would show "
            f"{float(moved.w1_null[place, 0]):.3f}. A width, threshold or start that fits today "
            "will not fit later.",
            source=M2_SOURCE,
            remedies=("smaller learning rate", "batch norm"),
            advice=(
                Advice(
                    "start potential",
                    False,
                    "A start potential that is read off once goes stale: in "
                    f"{int(steps[-1]) - half} steps the law moved that far; let it follow a "
                    "running mean.",
                ),
            ),
        )


def off_centre(evidence: Evidence) -> Iterator[Finding]:
    """M3: the potential keeps so far from the threshold that its spread does not bridge it."""
    threshold, mean, std = (evidence.cube(name) for name in ("threshold", "u_mean", "u_std"))
    known = std > 0
    away = np.abs(threshold - mean)
    offset = np.divide(away, std, out=np.full(std.shape, np.nan), where=known)
    error = evidence.cube("u_mean_se")
    error = np.divide(error, std, out=np.full(std.shape, np.nan), where=known)
    figure = pool_over(offset[:, evidence.recent], error[:, evidence.recent], axis=1)
    reach = evidence.pooled("u_std").value
    for place, layer in enumerate(evidence.layers):
        every = np.isfinite(figure.value[place])
        if not every.any() or not (figure.low[place][every] > OFFSET_WARNING).all():
            continue
        t = int(np.flatnonzero(every)[np.argmin(figure.value[place][every])])
        one = figure.at(place, t)
        surrogate = surrogate_of(layer)
        half = 0.0 if surrogate is None else float(surrogate.half_width())
        spread_now = float(reach[place, t])
        if one.value - half / spread_now <= REACH:
            continue
        centre = float(evidence.pooled("u_mean").value[place, t])
        theta = float(evidence.pooled("threshold").value[place, t])
        side = "below" if centre < theta else "above"
        series = offset[place, :, t]
        there = np.isfinite(series)
        factor = max(theta - centre, 0.0) / (2.0 * spread_now) if side == "below" else 0.0
        yield Finding(
            code="M3",
            severity="warning",
            layer=layer.name,
            t=t + 1,
            steps=stretch(evidence.steps[there], series[there] > OFFSET_WARNING),
            measured=one.value,
            error=one.error,
            bound=OFFSET_WARNING,
            unit="standard deviations of u",
            text=f"Even where it is nearest (t = {t + 1}) the mean of u ({centre:.3g}) lies "
            f"{one.value:.1f} standard deviations {side} the threshold {theta:.3g}. Its spread of "
            f"{spread_now:.2g} hardly ever crosses it.",
            source=M3_SOURCE,
            remedies=("weight scale", "bias shift", "threshold"),
            advice=_recentre(side, factor, theta, centre, spread_now),
        )


def _recentre(
    side: str, factor: float, theta: float, centre: float, std: float
) -> tuple[Advice, ...]:
    shift = theta - centre - std
    bias = Advice(
        "bias shift",
        True,
        f"Shift the mean of u by {shift:.3g}: it then lies one standard deviation below the "
        "threshold, where a Gaussian law fires with 15.9 %.",
        "offset in standard deviations",
        abs(theta - centre) / std,
        1.0,
        "first order at the current weights",
    )
    if side == "above":
        return (bias,)
    return (
        Advice(
            "weight scale",
            True,
            f"Scale the weights before this layer by {factor:.3g}: two standard deviations then "
            "bridge the gap, if the mean is near 0.",
            "offset in standard deviations",
            abs(theta - centre) / std,
            2.0,
            "first order at the current weights; a batch norm behind them absorbs the scale: "
            "scale its gamma instead",
        ),
        bias,
    )


def nearly_periodic(evidence: Evidence) -> Iterator[Finding]:
    """M4: units driven above threshold with little noise fire in step."""
    for layer in evidence.layers:
        spec = simple(layer)
        second = rings(evidence, layer, spec)
        given = drive(evidence, layer)
        if second is None or spec is None or given is None:
            continue
        ratio = second / max(float(spec.decay), 1e-12)
        yield Finding(
            code="M4",
            severity="note",
            layer=layer.name,
            t=None,
            steps=evidence.span,
            measured=ratio,
            error=0.0,
            bound=1.0,
            unit="|lambda_2| over decay",
            text=f"The input (mean {given.mean:.2g}, spread over time {given.moving:.2g}) drives "
            f"the units past the threshold {spec.threshold:g} with little noise: they fire nearly "
            f"periodically, |lambda_2| = {second:.2f}. A constant start potential makes all of "
            "them ring together.",
            source=M4_SOURCE,
            remedies=("start from the law",),
            advice=(
                Advice(
                    "start potential",
                    False,
                    f"One constant for all units would take 1 / (1 - {second:.2f}) timesteps to be "
                    "forgotten, and oscillate.",
                ),
                Advice(
                    "start from the law",
                    True,
                    "Draw v[0] of each unit from the recorded law: the phases then differ from "
                    "t = 1 on.",
                ),
            ),
        )


def input_frozen(evidence: Evidence) -> Iterator[Finding]:
    """M5: the input hardly changes from the first timestep to the last."""
    found = [
        series
        for series in evidence.vitals.every("input_frozen")
        if series.layer in evidence.place and series.figure.low > FROZEN_NOTE
    ]
    if not found:
        return
    worst = found[0]
    last = int(evidence.seen[evidence.place[worst.layer]].sum())
    names = len(evidence.names)
    deep = len(found) > 1 or names == 1 or worst.layer != evidence.names[0]
    after = (
        "So it is by design where one image is shown at each timestep; a moving input would be "
        "lost."
        if not deep
        else "The timesteps after the first tell this layer next to nothing new."
    )
    yield Finding(
        code="M5",
        severity="note",
        layer=worst.layer,
        t=None,
        steps=worst.since(worst.values > FROZEN_NOTE),
        measured=worst.figure.value,
        error=worst.figure.error,
        bound=FROZEN_NOTE,
        unit="share of the input's variance",
        text=f"{worst.figure.value:.1%} of the variance of the input of {worst.layer!r} is the "
        f"same at t = 1 and t = {last} ({len(found)} of {names} layers). {after}",
        source=M5_SOURCE,
        remedies=("event coding", "fewer timesteps"),
        advice=(
            Advice(
                "MPD-AGL",
                False,
                "Its width assumes an input that is fresh at each timestep: for a frozen one the "
                "variance of u is up to (1 + decay) / (1 - decay) times what it predicts.",
            ),
        ),
    )


def not_settled(evidence: Evidence) -> Iterator[Finding]:
    """M6: the sequence ends long before the potential has settled."""
    for place, layer in enumerate(evidence.layers):
        spec, given = simple(layer), drive(evidence, layer)
        if spec is None or given is None or not 0.0 < float(spec.decay) < 1.0:
            continue
        last = int(np.flatnonzero(evidence.seen[place])[-1])
        decay, theta = float(spec.decay), float(spec.threshold)
        left = decay ** (last + 1)
        if left <= LEFT:
            continue
        rate = evidence.cube("rate")[place, :, last]
        amount = theta if spec.reset != "none" else 0.0
        pull = float(spec.gain) * evidence.cube("input_mean")[place, :, last]
        pull = pull + (1.0 - decay) * float(spec.rest)
        u = evidence.cube("u_mean")[place, :, last]
        ahead = ((pull - decay * amount * rate) / (1.0 - decay) - u) / theta
        error = evidence.cube("u_mean_se")[place, :, last] / theta
        figure = pool_over(np.abs(ahead)[evidence.recent], error[evidence.recent])
        one = Figure(float(figure.value), float(figure.error))
        if not one.low > UNSETTLED_NOTE:
            continue
        fired = float(np.nanmean(rate[evidence.recent]))
        steps_needed = int(np.ceil(1.0 + np.log(LEFT) / np.log(decay)))
        known = np.isfinite(ahead)
        yield Finding(
            code="M6",
            severity="warning" if fired < TOO_QUIET else "note",
            layer=layer.name,
            t=last + 1,
            steps=stretch(evidence.steps[known], np.abs(ahead[known]) > UNSETTLED_NOTE),
            measured=one.value,
            error=one.error,
            bound=UNSETTLED_NOTE,
            unit="thresholds",
            text=f"At the last timestep (t = {last + 1}) u is still {one.value:.2f} thresholds "
            f"from where its input leads: with a decay of {decay:.3g}, {left:.0%} of the start is "
            f"left. {fired:.1%} of the units fire there.",
            source=M6_SOURCE,
            remedies=("more timesteps", "decay", "start potential"),
            advice=(
                Advice(
                    "more timesteps",
                    True,
                    f"After {steps_needed} timesteps a tenth of the start is left.",
                    "share of the start that is left",
                    left,
                    decay**steps_needed,
                    "exact for a layer that does not fire",
                ),
                Advice(
                    "decay",
                    True,
                    f"A decay of {LEFT ** (1.0 / (last + 1)):.2f} leaves a tenth at the present T.",
                    "share of the start that is left",
                    left,
                    LEFT,
                    "exact for a layer that does not fire",
                ),
            ),
        )
