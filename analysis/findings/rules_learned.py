"""G and T: values that a spiking layer learns: its threshold and its decay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence
from .figures import CONFIDENCE_Z, pool
from .grading import MILDER, grade_above
from .types import Advice, Bound, Finding, Severity
from .vitals import Series

WALK_WARNING = 1e-2
"""Share of its value by which one step moves a threshold: 100 steps turn it over."""

LEAST_RECORDS = 8
"""Records in the window from which the noise of a gradient is judged."""

ABSORBED_NOTE = 0.01
"""|sum of s dL/ds| over sum of |s dL/ds|: up to 0.000224 behind a batch norm, 0.124 and more
elsewhere in the healthy runs of the planted benchmark."""

FACTOR_NOTE = 4.0
"""Kook et al. (arXiv 2511.08708) see learned thresholds go from 1 to 0.15 to 2 in a good training:
a factor of 4 is worth a word."""

FACTOR_WARNING = 10.0
"""Beyond their widest."""

G10_SOURCE = (
    "ours after Kook et al., arXiv 2511.08708: a gradient whose mean is lost in its noise, and "
    "steps of 1e-2 of the value, make a random walk"
)
G11_SOURCE = (
    "Euler's theorem: sum of s dL/ds is 0 where what follows does not feel the scale "
    "of s (batch norm)"
)
T2_SOURCE = "learned thresholds of a good training stay within 0.15 to 2 (Kook et al., 2511.08708)"
T3_SOURCE = "a trained value that no recorded step moves"

G10_BOUNDS = (Bound(WALK_WARNING, "share of the value per step", "warning", G10_SOURCE),)
G11_BOUNDS = (
    Bound(
        ABSORBED_NOTE,
        "share",
        "note",
        "healthy runs: up to 0.000224 behind a batch norm, 0.124 and more else",
    ),
)
T2_BOUNDS = (
    Bound(FACTOR_NOTE, "factor since the start", "note", T2_SOURCE),
    Bound(FACTOR_WARNING, "factor since the start", "warning", "beyond the widest of theirs"),
    Bound(0.0, "potential", "error", "a threshold of 0 or below fires without input"),
    Bound(1.0, "decay", "error", "a decay of 1 or more never forgets and grows"),
)
T3_BOUNDS = (Bound(0.0, "share of the value per step", "warning", "arithmetic"),)


def threshold_walks(evidence: Evidence) -> Iterator[Finding]:
    """G10: the gradient of a learned neuron value is noise, and its steps are large."""
    vitals = evidence.vitals
    moved = {series.name: series for series in vitals.every("update_norm")}
    size = {series.name: series for series in vitals.every("value_norm")}
    for gradient in vitals.every("gradient_mean"):
        update, value = moved.get(gradient.name), size.get(gradient.name)
        series = gradient.recent
        if update is None or value is None or len(series) < LEAST_RECORDS:
            continue
        if not np.isfinite(series).all() or len(update.recent) != len(value.recent):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = update.recent / value.recent
        one = pool(steps, np.full(steps.shape, np.nan))
        noise = series.std(ddof=1)
        signal = abs(series.mean()) / noise if noise > 0 else np.inf
        # Not told apart from 0 by these records: the mean's own error is noise / sqrt(records).
        if not one.low > WALK_WARNING or signal > CONFIDENCE_Z / np.sqrt(len(series)):
            continue
        yield Finding(
            code="G10",
            severity="warning",
            layer=gradient.layer,
            t=None,
            steps=(int(gradient.steps[-len(series)]), int(gradient.steps[-1])),
            measured=one.value,
            error=one.error,
            bound=WALK_WARNING,
            unit="share of the value per step",
            text=f"Each step moves {gradient.name!r} by {one.value:.1%}, while the mean of its "
            f"gradient is {signal:.2g} of its noise over {len(series)} records. It walks at "
            "random, and threshold or decay with it.",
            source=G10_SOURCE,
            remedies=("smaller learning rate", "TrSG"),
            advice=_trsg(evidence, gradient.layer, one.value),
        )


def _trsg(evidence: Evidence, layer: str, share: float) -> tuple[Advice, ...]:
    felt = evidence.vitals.one("scale_felt", layer)
    rate = Advice(
        "smaller learning rate",
        True,
        f"Give this value a learning rate {share / 1e-3:.0f} times smaller, in a parameter group "
        "of its own.",
        "share of the value per step",
        share,
        1e-3,
        "first order: the step is proportional to the rate",
    )
    if felt is None:
        return (rate,)
    absorbed = felt.figure.value < ABSORBED_NOTE
    text = (
        f"TrSG would not steady it: what follows does not feel the height of a spike (index "
        f"{felt.figure.value:.1e}), so that it equals RS here."
        if absorbed
        else "TrSG bounds the threshold's gradient per unit by 1, and what follows feels the "
        f"height of a spike (index {felt.figure.value:.2g})."
    )
    return (rate, Advice("TrSG", not absorbed, text))


def scale_absorbed(evidence: Evidence) -> Iterator[Finding]:
    """G11: a layer learns its threshold, and what follows absorbs the height of its spikes."""
    found: list[Finding] = []
    learned = {series.layer for series in evidence.vitals.every("threshold")}
    for felt in evidence.vitals.every("scale_felt"):
        if felt.layer not in evidence.place:
            continue
        spec = evidence.layers[evidence.place[felt.layer]].spec
        height = spec.get("spike_height", 1.0) if spec else 1.0
        scaled = not (isinstance(height, int | float) and height == 1)
        if not (scaled or felt.layer in learned) or not felt.figure.high < ABSORBED_NOTE:
            continue
        found.append(
            Finding(
                code="G11",
                severity="note",
                layer=felt.layer,
                t=None,
                steps=felt.since(felt.values < ABSORBED_NOTE),
                measured=felt.figure.value,
                error=felt.figure.error,
                bound=ABSORBED_NOTE,
                unit="|sum of s dL/ds| over sum of |s dL/ds|",
                text="A change of the height of its spikes would change the loss by "
                f"{felt.figure.value:.1e} of what its parts do: a batch norm behind it absorbs the "
                "scale. A surrogate that relies on the height (TrSG) equals RS here.",
                source=G11_SOURCE,
                remedies=(),
                advice=(
                    Advice(
                        "TrSG",
                        False,
                        f"With an index of {felt.figure.value:.1e} the factor threshold that TrSG "
                        "puts on the spike is divided out again.",
                    ),
                ),
            )
        )
    # One word about the layer that feels it least.
    if found:
        yield min(found, key=lambda finding: finding.measured)


def runs_away(evidence: Evidence) -> Iterator[Finding]:
    """T2: a learned threshold or decay that has left where values of use lie."""
    for quantity in ("threshold", "decay", "synapse_decay"):
        for series in evidence.vitals.every(quantity):
            finding = _away(evidence, quantity, series)
            if finding is not None:
                yield finding


def _away(evidence: Evidence, quantity: str, series: Series) -> Finding | None:
    spec = (
        evidence.layers[evidence.place[series.layer]].spec if series.layer in evidence.place else {}
    )
    declared = spec.get(quantity) if spec else None
    first = float(np.mean(declared)) if declared is not None else float(series.values[0])
    now = series.figure
    word = quantity.replace("_", " ")
    outside = now.value <= 0.0 if quantity == "threshold" else not 0.0 <= now.value < 1.0
    if quantity == "threshold" and outside:
        bound, unit, side = 0.0, "potential", series.values <= 0.0
        severity: Severity = "error"
        measured, error = now.value, now.error
        after = "Units then fire without any input."
    elif outside:
        bound, unit, side = 1.0, "no unit", (series.values >= 1.0) | (series.values < 0.0)
        severity, measured, error = "error", now.value, now.error
        after = "The potential then grows from timestep to timestep, or changes sign."
    else:
        # A decay is judged by its memory 1 / (1 - decay), a threshold by itself.
        change = _strength(quantity, series.values) / max(
            _strength(quantity, np.array(first)), 1e-12
        )
        factor = np.maximum(change, 1.0 / np.maximum(change, 1e-12))
        recent = factor[series.steps >= series.start]
        one = pool(recent, np.full(recent.shape, np.nan))
        if not one.low > FACTOR_NOTE:
            return None
        severity, bound = grade_above(one.low, FACTOR_NOTE, FACTOR_WARNING, MILDER)
        side, unit, measured, error = factor > bound, "factor since the start", one.value, one.error
        what = "threshold" if quantity == "threshold" else "memory 1 / (1 - decay)"
        after = f"Its {what} is {one.value:.1f} times off what it began with."
    if quantity == "threshold":
        bounded, form = "softplus", "Learn threshold = softplus(k), which stays above 0 for any k."
    else:
        bounded, form = "sigmoid", "Learn decay = sigmoid(w), which stays between 0 and 1."
    return Finding(
        code="T2",
        severity=severity,
        layer=series.layer,
        t=None,
        steps=series.since(side),
        measured=measured,
        error=0.0 if np.isnan(error) else error,
        bound=bound,
        unit=unit,
        text=f"The learned {word} went from {first:.3g} to {now.value:.3g}. {after}",
        source=T2_SOURCE,
        remedies=("smaller learning rate", bounded),
        advice=(Advice(bounded, True, form),),
    )


def _strength(quantity: str, values: np.ndarray) -> np.ndarray:
    if quantity == "threshold":
        return np.asarray(np.abs(values))
    return 1.0 / np.maximum(1.0 - values, 1e-12)


def stuck(evidence: Evidence) -> Iterator[Finding]:
    """T3: a trained value of a spiking layer that never moves."""
    vitals = evidence.vitals
    neuron = {series.name for series in vitals.every("value_mean")}
    updates = vitals.every("update_norm")
    others = any((series.values > 0).any() for series in updates if series.name not in neuron)
    still = [
        series
        for series in updates
        if series.name in neuron and len(series.values) >= LEAST_RECORDS and not series.values.any()
    ]
    if not others or not still:
        return
    first = still[0]
    value = vitals.one("value_mean", name=first.name)
    at = f" of mean {value.values[-1]:.3g}" if value is not None else ""
    yield Finding(
        code="T3",
        severity="warning",
        layer=first.layer,
        t=None,
        steps=(int(first.steps[0]), int(first.steps[-1])),
        measured=0.0,
        error=0.0,
        bound=0.0,
        unit="norm of the update",
        text=f"{first.name!r}{at} asks to be trained, and none of {len(first.values)} recorded "
        f"steps moved it; so do {len(still) - 1} others of its kind. It is at a clamp, gets no "
        "gradient, or the optimiser does not hold it.",
        source=T3_SOURCE,
        remedies=("optimiser",),
        advice=(
            Advice(
                "optimiser",
                True,
                f"Look whether {first.name!r} is in the optimiser's param_groups, and whether a "
                "clamp holds it where it is.",
            ),
        ),
    )
