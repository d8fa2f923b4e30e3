"""T: does the training as a whole do what it should?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import WINDOW_SHARE, Evidence
from .figures import Figure, pool, stretch
from .types import Advice, Bound, Finding
from .vitals import Series

SHIFT_WARNING = 0.5
"""Standard deviations between a channel's mean at one timestep and the one that the norm takes off:
0.1 is harmless, 0.5 strong; healthy runs of the planted benchmark have up to 0.348."""

EVAL_WARNING = 0.25
"""Mismatch (standard deviations, or ln of the scale) of running statistics in force."""

RUNNING_WARNING = 1.0
"""The same where they only wait for evaluation: they lag in every healthy training, by up
to 0.138 in the planted benchmark."""

SETTLED_STEPS = 50
"""Steps after which running statistics of momentum 0.1 have forgotten their start (0.9^22 =
0.1)."""

GROWTH_WARNING = 1.1
"""Loss at the end over loss at the start: it has grown by a tenth."""

FALL_NOTE = 0.02
"""Share by which a loss must have fallen before it counts as learning."""

LEAST_STEPS = 100
"""Steps from which the course of the loss is judged."""

BLOCKS = 8
"""Blocks of the last quarter whose spread is the error of its mean: steps hang together."""

T1_SOURCE = "a loss is a finite number; each one told is looked at, so that the count has no error"
T4_SOURCE = "ours after Kook et al., arXiv 2511.08708: what a batch norm sees of the shift over t"
T5_SOURCE = "running statistics against those of the batch"
T6_SOURCE = "batch norm and dropout train in training mode"
T7_SOURCE = "mean loss of the last quarter against that of the first steps"

T1_BOUNDS = (Bound(0.0, "steps", "error", "arithmetic"),)
T4_BOUNDS = (
    Bound(SHIFT_WARNING, "standard deviations", "warning", "0.1 is harmless, 0.5 is strong (ours)"),
)
T5_BOUNDS = (
    Bound(EVAL_WARNING, "standard deviations or ln", "warning", "a scale that is off by 28 %"),
    Bound(
        RUNNING_WARNING, "standard deviations or ln", "warning", "healthy runs lag by up to 0.138"
    ),
)
T6_BOUNDS = (Bound(0.0, "records in evaluation mode", "warning", "arithmetic"),)
T7_BOUNDS = (
    Bound(GROWTH_WARNING, "loss at the end over the start", "warning", "it has grown by a tenth"),
    Bound(1.0 - FALL_NOTE, "loss at the end over the start", "note", "it has fallen by under 2 %"),
)


def loss_not_finite(evidence: Evidence) -> Iterator[Finding]:
    """T1: the loss is NaN or infinite."""
    if "loss" not in evidence.scalars:
        return
    loss = evidence.scalars["loss"]
    # A step without a loss is a gap, one with a NaN says so: only the latter was ever a number.
    told = evidence.loss_told
    values = loss.reindex(told).to_numpy(dtype=float)
    if not len(values) or np.isfinite(values[-1]):
        return
    first, last = stretch(told, ~np.isfinite(values))
    count = int((told >= first).sum())
    before = values[told < first]
    was = f" It was {before[-1]:.3g} before." if len(before) else " It never was a number."
    yield Finding(
        code="T1",
        severity="error",
        layer="",
        t=None,
        steps=(first, last),
        measured=float(count),
        error=0.0,
        bound=0.0,
        unit="steps",
        text=f"The loss is NaN or infinite since step {first}, for {count} steps.{was}",
        source=T1_SOURCE,
        remedies=("gradient clipping", "smaller learning rate"),
        advice=(
            Advice(
                "gradient clipping",
                True,
                f"Restart from a checkpoint before step {first} with clipped gradients or a "
                "smaller learning rate.",
            ),
        ),
    )


def norm_sees_timesteps_apart(evidence: Evidence) -> Iterator[Finding]:
    """T4: the statistics of a batch norm fit no single timestep."""
    worst: dict[str, Series] = {}
    for series in evidence.vitals.every("norm_shift"):
        if series.figure.low > SHIFT_WARNING and (
            series.name not in worst or series.figure.value > worst[series.name].figure.value
        ):
            worst[series.name] = series
    for name, series in worst.items():
        apart = evidence.vitals.one("norm_apart", name=name)
        each = apart is not None and bool(apart.values[-1] > 0)
        after = (
            "Training normalises each timestep by its own batch, evaluation all by one running "
            "mean: the two see different networks."
            if each
            else "One set of statistics serves all timesteps and fits none."
        )
        yield Finding(
            code="T4",
            severity="warning",
            layer=evidence.known(series.layer),
            t=series.t,
            steps=series.since(series.values > SHIFT_WARNING),
            measured=series.figure.value,
            error=series.figure.error,
            bound=SHIFT_WARNING,
            unit="standard deviations",
            text=f"At t = {series.t} the channels of the input of {name!r} lie "
            f"{series.figure.value:.2f} standard deviations (rms) from their means over all "
            f"timesteps. {after}",
            source=T4_SOURCE,
            remedies=("start potential", "batch norm per timestep"),
            advice=(
                Advice(
                    "start potential",
                    series.t == 1,
                    "It takes away a shift at t = 1 of the layer before: see M1 there."
                    if series.t == 1
                    else f"It acts at t = 1; the largest shift is at t = {series.t}.",
                ),
                Advice(
                    "batch norm per timestep",
                    True,
                    "Statistics for each timestep (TEBN, TAB, BNTT) fit by construction.",
                ),
            ),
        )


def norm_off(evidence: Evidence) -> Iterator[Finding]:
    """T5: running statistics that do not fit the batches."""
    scales = {series.name: series for series in evidence.vitals.every("norm_scale")}
    found: list[tuple[float, bool, Series, Figure, str]] = []
    for off in evidence.vitals.every("norm_off"):
        scale, own = scales.get(off.name), evidence.vitals.one("norm_batch", name=off.name)
        if scale is None or own is None or not len(own.recent):
            continue
        frozen = bool((own.recent == 0).mean() > 0.5)
        bound = EVAL_WARNING if frozen else RUNNING_WARNING
        if not frozen and off.start - off.steps[0] < SETTLED_STEPS:
            continue
        for series, what in ((off, "mean"), (scale, "scale")):
            if series.figure.low > bound:
                found.append((series.figure.value / bound, frozen, series, series.figure, what))
    if not found:
        return
    _, frozen, series, one, what = max(found, key=lambda entry: entry[0])
    names = len({entry[2].name for entry in found})
    bound = EVAL_WARNING if frozen else RUNNING_WARNING
    unit = "standard deviations" if what == "mean" else "ln of the standard deviation"
    state = (
        "trains with its running statistics (evaluation mode)"
        if frozen
        else "will evaluate with running statistics that do not fit"
    )
    yield Finding(
        code="T5",
        severity="warning",
        layer=evidence.known(series.layer),
        t=None,
        steps=series.since(series.values > bound),
        measured=one.value,
        error=one.error,
        bound=bound,
        unit=unit,
        text=f"{series.name!r} {state}: their {what} is {one.value:.2f} {unit} (rms over channels) "
        f"off that of the batch, and so in {names} norms.",
        source=T5_SOURCE,
        remedies=("model.train()",) if frozen else ("momentum of the norm",),
        advice=(
            Advice(
                "model.train()",
                frozen,
                "Call model.train() before each epoch, after every evaluation."
                if frozen
                else "It is in training mode already; raise the norm's momentum above "
                f"0.1, or train on with a smaller rate, until the figure is below {bound:g}.",
            ),
        ),
    )


def trained_in_eval(evidence: Evidence) -> Iterator[Finding]:
    """T6: gradients were recorded in evaluation mode alone."""
    if not evidence.in_eval:
        return
    records = len(evidence.steps)
    yield Finding(
        code="T6",
        severity="warning",
        layer="",
        t=None,
        steps=(int(evidence.steps[0]), int(evidence.steps[-1])),
        measured=float(records),
        error=0.0,
        bound=0.0,
        unit="records",
        text=f"All {records} recorded steps with a gradient ran in evaluation mode. Batch norm and "
        "dropout then do not train; the other findings speak of these steps.",
        source=T6_SOURCE,
        remedies=("model.train()",),
        advice=(Advice("model.train()", True, "Call model.train() before the first step."),),
    )


def loss_does_not_fall(evidence: Evidence) -> Iterator[Finding]:
    """T7: the loss grows, or has not fallen."""
    if "loss" not in evidence.scalars:
        return
    loss = evidence.scalars["loss"].dropna()
    values, steps = loss.to_numpy(dtype=float), loss.index.to_numpy()
    if len(values) < LEAST_STEPS or not np.isfinite(values).all() or not (values > 0).all():
        return
    start = values[: max(3, len(values) // 50)].mean()
    last = values[-max(BLOCKS, round(WINDOW_SHARE * len(values))) :]
    blocks = np.array([block.mean() for block in np.array_split(last, BLOCKS)])
    one = pool(blocks / start, np.zeros(BLOCKS))
    grows, falls = one.low > GROWTH_WARNING, not one.low > 1.0 - FALL_NOTE
    if falls:
        return
    what = f"{one.value:.2f} times" if grows else f"still {one.value:.1%} of"
    yield Finding(
        code="T7",
        severity="warning" if grows else "note",
        layer="",
        t=None,
        steps=(int(steps[-len(last)]), int(steps[-1])),
        measured=one.value,
        error=one.error,
        bound=GROWTH_WARNING if grows else 1.0 - FALL_NOTE,
        unit="loss at the end over the start",
        text=f"After {len(values)} steps the loss is {what} that of the first ones ({start:.3g}). "
        + ("The steps lead uphill." if grows else "So far nothing has been learnt."),
        source=T7_SOURCE,
        remedies=("smaller learning rate",) if grows else (),
    )
