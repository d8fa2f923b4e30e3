"""G: is the gradient a number that the arithmetic can carry, and does the step fit the weights?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence
from .figures import Figure, pool, stretch, total_of_every, total_over
from .grading import grade_above, grade_below
from .types import Advice, Bound, Finding, Severity
from .vitals import Series

UPDATE_WARNING = 0.1
"""Share of a weight's norm that one step changes; 1e-3 is the usual advice, healthy runs of the
planted benchmark have up to 0.0168."""

UPDATE_ERROR = 1.0
"""A step as large as the weight itself."""

EARLY_WARNING = 5.0
"""Norms of a weight by which the first quarter of the records moves it, steps added up. The
highest healthy run of the planted benchmark, SGD with momentum, is at 1.32, the next at 0.483."""

LOST_DIGITS = 4.0
"""An update below this many spacings of the dtype, relative to the weight, is mostly rounded
off."""

SPACING = 2.0**-10
"""Smallest positive number of half precision over its smallest normal one."""

G8_SOURCE = "a gradient is a finite number"
G9_SOURCE = "smallest normal number of the gradient's dtype, against rms times loss scale"
G12_SOURCE = (
    "usual advice 1e-3 per step (A. Karpathy, CS231n); SageMaker Debugger's 10 and 1e-8 never "
    "fire; the lower bound is the spacing of the weight's dtype"
)

G8_BOUNDS = (
    Bound(0.0, "share of records", "error", "arithmetic; lasting"),
    Bound(0.0, "share of records", "warning", "arithmetic; passing"),
    Bound(0.0, "share of records", "note", "passing, with a loss scaler, which skips such steps"),
)
G9_BOUNDS = (
    Bound(1.0, "rms times loss scale over smallest normal", "warning", "half of the digits go"),
    Bound(SPACING, "rms times loss scale over smallest normal", "error", "rounded to 0"),
)
G12_BOUNDS = (
    Bound(
        UPDATE_WARNING, "update over weight", "warning", "six times the healthy runs' most, 0.0168"
    ),
    Bound(UPDATE_ERROR, "update over weight", "error", "the step is as large as the weight"),
    Bound(
        EARLY_WARNING,
        "norms of the weight",
        "warning",
        "in the first quarter, added up; compared with the figure itself, not with its interval",
    ),
    Bound(LOST_DIGITS, "update over weight, in spacings", "warning", "mostly rounded off"),
    Bound(0.0, "update over weight", "error", "a gradient arrives and nothing moves"),
)


def gradient_not_finite(evidence: Evidence) -> Iterator[Finding]:
    """G8: gradients that are NaN or infinite."""
    bad = total_over(
        np.nan_to_num(evidence.cube("grad_u_nonfinite"))
        + np.nan_to_num(evidence.cube("grad_s_total_nonfinite"))
        + np.nan_to_num(evidence.cube("grad_s_nonfinite"))
    )
    layers = [place for place in range(len(evidence.names)) if (bad[place] > 0).any()]
    parameters = [
        series
        for series in evidence.vitals.every("gradient_norm")
        if not np.isfinite(series.values).all()
    ]
    if not layers and not parameters:
        return
    if layers:
        place = layers[-1]  # the deepest is the one nearest to where it comes from
        name, where = evidence.names[place], f"dL/du of {evidence.names[place]!r}"
        steps, broken = evidence.steps, bad[place] > 0
    else:
        series = parameters[-1]
        name = evidence.known(series.layer)
        where = f"the gradient of {series.name!r}"
        steps, broken = series.steps, ~np.isfinite(series.values)
    recent = broken[steps >= evidence.window[0]]
    lasting = bool(len(recent)) and recent.mean() > 0.5
    scale = evidence.vitals.one("loss_scale")
    scaled = scale is not None and bool((scale.values > 1.0).any())
    severity: Severity = "error" if lasting else "note" if scaled else "warning"
    hit = steps[broken]
    first = stretch(steps, broken)[0] if lasting else int(hit[0])
    after = (
        "Nothing that is learnt since then can be trusted."
        if lasting
        else "The loss scaler skips such steps and lowers its factor."
        if scaled
        else "One such step is enough to ruin the weights."
    )
    yield Finding(
        code="G8",
        severity=severity,
        layer=name,
        t=None,
        steps=(first, int(hit[-1])),
        measured=float(broken.mean()),
        error=0.0,
        bound=0.0,
        unit="share of records",
        text=f"NaN or infinite values in {where} at {len(hit)} of {len(steps)} recorded steps, "
        f"first at step {int(hit[0])}. {after}",
        source=G8_SOURCE,
        remedies=("gradient clipping", "smaller learning rate"),
        advice=(
            Advice(
                "gradient clipping",
                True,
                "Call clip_grad_norm_(..., error_if_nonfinite=True): it stops the training where "
                f"that begins, here after step {first}.",
            ),
        ),
    )


def gradient_underflow(evidence: Evidence) -> Iterator[Finding]:
    """G9: gradients so small that their dtype rounds them off."""
    scale = evidence.vitals.one("loss_scale")
    factor = 1.0 if scale is None else float(np.nanmean(scale.recent))
    factor = factor if np.isfinite(factor) and factor > 0 else 1.0
    found: list[Finding] = []
    for tiny in evidence.vitals.every("gradient_tiny"):
        if tiny.layer not in evidence.place or not len(tiny.recent):
            continue
        place, normal = evidence.place[tiny.layer], float(tiny.recent[-1])
        name = "grad_u" if np.nansum(evidence.now("grad_u_count")[place]) > 0 else "grad_s"
        count = evidence.cube(f"{name}_count")[place]
        square = total_over(evidence.cube(f"{name}_square")[place] * count) / total_over(count)
        with np.errstate(divide="ignore", invalid="ignore"):
            log = 0.5 * np.log(square) + np.log(factor / normal)
        half = normal > 1e-30  # float16; others reach as far down as float32
        log = np.where(np.isneginf(log), -100.0 if half else np.nan, log)
        known = np.isfinite(log)
        one = pool(log[evidence.recent], np.full(log[evidence.recent].shape, np.nan))
        if not one.high < 0.0:
            continue
        ratio = float(np.exp(one.value))
        figure = Figure(ratio, ratio * one.error)
        severity, bound = grade_below(float(np.exp(one.high)), 1.0, SPACING)
        zeros = float(np.nanmean(evidence.now(f"{name}_zero_share")[place]))
        needed = factor / max(ratio, 1e-12)
        found.append(
            Finding(
                code="G9",
                severity=severity,
                layer=tiny.layer,
                t=None,
                steps=stretch(evidence.steps[known], log[known] < np.log(bound)),
                measured=figure.value,
                error=figure.error,
                bound=bound,
                unit="rms times loss scale over the smallest normal number",
                text=f"The rms of the gradient times the loss scale of {factor:.3g} is {ratio:.2g} "
                f"of the smallest normal number of its dtype ({normal:.1e}); {zeros:.0%} of its "
                "values are exactly 0. What is below loses its digits or vanishes.",
                source=G9_SOURCE,
                remedies=("loss scale", "bf16"),
                advice=(
                    Advice(
                        "loss scale",
                        True,
                        f"A loss scale of at least {2.0 ** np.ceil(np.log2(needed) + 4):.3g} keeps "
                        "the rms 16 times above it: give watch() the GradScaler.",
                        "rms over the smallest normal number",
                        ratio,
                        ratio * 2.0 ** np.ceil(np.log2(needed) + 4) / factor,
                        "exact while nothing overflows",
                    ),
                    Advice(
                        "bf16", True, "Use bf16: it reaches as far down as float32, about 1e-38."
                    ),
                ),
            )
        )
    yield from found[:1]  # the first layer tells it: the gradient is smallest where it arrives last


def update_out_of_scale(evidence: Evidence) -> Iterator[Finding]:
    """G12: steps too large, or too small, for the weights that they change."""
    vitals = evidence.vitals
    norms = {series.name: series for series in vitals.every("value_norm")}
    axes = {series.name: series.values[-1] for series in vitals.every("dimensions")}
    spacing = {series.name: series.values[-1] for series in vitals.every("epsilon")}
    gradients = {series.name: series for series in vitals.every("gradient_norm")}
    moved: list[tuple[Series, Series, Figure]] = []
    for update in vitals.every("update_norm"):
        value = norms.get(update.name)
        if value is None or axes.get(update.name, 0) < 2 or len(value.values) != len(update.values):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = update.values / value.values
        series = Series(update.layer, update.name, 0, update.steps, ratio, update.start)
        moved.append((series, value, series.figure))
    if not moved:
        return
    yield from _too_large(evidence, moved)
    yield from _too_small(evidence, moved, spacing, gradients)


def _too_large(evidence: Evidence, moved: list[tuple[Series, Series, Figure]]) -> Iterator[Finding]:
    large = [entry for entry in moved if entry[2].low > UPDATE_WARNING]
    if not large:
        yield from _overwritten(evidence, moved)
        return
    series, _, one = max(large, key=lambda entry: entry[2].value)
    severity, bound = grade_above(one.low, UPDATE_WARNING, UPDATE_ERROR)
    factor = one.value / 1e-2
    yield Finding(
        code="G12",
        severity=severity,
        layer=evidence.known(series.layer),
        t=None,
        steps=series.since(series.values > bound),
        measured=one.value,
        error=one.error,
        bound=bound,
        unit="norm of the update over norm of the weight",
        text=f"One step changes {series.name!r} by {one.value:.2g} of its norm, and {len(large)} "
        f"of {len(moved)} weights by more than {UPDATE_WARNING:g}. What was learnt is overwritten "
        f"within {max(1.0 / one.value, 1.0):.0f} steps.",
        source=G12_SOURCE,
        remedies=("smaller learning rate",),
        advice=(
            Advice(
                "smaller learning rate",
                True,
                f"A learning rate {factor:.0f} times smaller gives an update of 1e-2 of the norm.",
                "update over weight",
                one.value,
                1e-2,
                "first order: the update is proportional to the rate at the present gradients",
            ),
        ),
    )


def _overwritten(
    evidence: Evidence, moved: list[tuple[Series, Series, Figure]]
) -> Iterator[Finding]:
    """Yield where the first steps were as large as the weights, whatever came after them."""
    first: list[tuple[Figure, Series]] = []
    for series, _, now in moved:
        early = series.values[: max(2, len(series.values) // 4)]
        early = early[~np.isnan(early)]
        total = total_of_every(early, _distance(series.steps[: len(early)]))
        often = int((early > UPDATE_WARNING).sum()) >= 2
        # The figure itself: few records of a steep fall leave a wide interval, and the bound lies
        # far above what any healthy run shows.
        if np.isfinite(now.value) and often and total.value > EARLY_WARNING:
            first.append((total, series))
    if not first:
        return
    total, series = max(first, key=lambda entry: float(entry[0].value))
    above = np.flatnonzero(series.values > UPDATE_WARNING)
    yield Finding(
        code="G12",
        severity="warning",
        layer=evidence.known(series.layer),
        t=None,
        steps=(int(series.steps[above[0]]), int(series.steps[above[-1]])),
        measured=total.value,
        error=total.error,
        bound=EARLY_WARNING,
        unit="norms of the weight that the first quarter moved it",
        text=f"The first steps moved {series.name!r} by {total.value:.2g} times its norm in all, "
        f"up to {float(np.nanmax(series.values)):.2g} in one. Its initialisation was overwritten; "
        "what it was chosen for is gone.",
        source=G12_SOURCE,
        remedies=("smaller learning rate", "warm-up"),
        advice=(
            Advice(
                "warm-up",
                True,
                f"A learning rate {float(np.nanmax(series.values)) / 1e-2:.0f} times smaller in "
                "the first steps gives updates of 1e-2 of the norm.",
                "update over weight",
                float(np.nanmax(series.values)),
                1e-2,
                "first order: the update is proportional to the rate",
            ),
        ),
    )


def _distance(steps: np.ndarray) -> float:
    """Return the mean distance of recorded steps: how many each of them stands for."""
    return float(np.diff(steps).mean()) if len(steps) > 1 else 1.0


def _too_small(
    evidence: Evidence,
    moved: list[tuple[Series, Series, Figure]],
    spacing: dict[str, float],
    gradients: dict[str, Series],
) -> Iterator[Finding]:
    small = []
    for series, value, one in moved:
        gradient = gradients.get(series.name)
        learns = gradient is not None and bool((gradient.recent > 0).any())
        still = len(series.recent) > 1 and bool((series.recent == 0).all())
        lost = LOST_DIGITS * spacing.get(series.name, 0.0)
        if learns and float(value.values[-1]) > 0 and (still or one.high < lost):
            small.append((series, one, lost, still))
    if not small:
        return
    stuck = [entry for entry in small if entry[3]]
    series, one, lost, still = (stuck or small)[0]
    text = (
        f"A gradient arrives at {series.name!r} and {len(stuck) - 1} other weights of "
        f"{len(moved)}, yet no step moved them in {len(series.recent)} recorded steps. The "
        "optimiser does not hold them, its rate is 0, the gradient is too small for a step to be "
        "felt, or probe.step() is called before it."
        if still
        else f"One step changes {series.name!r} by {one.value:.1e} of its norm, "
        f"{one.value / lost:.2g} times what its dtype can tell apart from nothing ({lost:.1e}). "
        "Most of the update is rounded off."
    )
    yield Finding(
        code="G12",
        severity="error" if still else "warning",
        layer=evidence.known(series.layer),
        t=None,
        steps=series.since(series.values <= (0.0 if still else lost)),
        measured=0.0 if still else one.value,
        error=0.0 if still else one.error,
        bound=0.0 if still else lost,
        unit="norm of the update over norm of the weight",
        text=text,
        source=G12_SOURCE,
        remedies=("optimiser",) if still else ("float32 weights", "larger learning rate"),
        advice=(
            Advice(
                "optimiser",
                True,
                "Build the optimiser from model.parameters() after the model is complete, and look "
                f"whether {series.name!r} is in its param_groups.",
            )
            if still
            else Advice(
                "float32 weights",
                True,
                "Keep the weights in float32 and use autocast for the arithmetic: spacing 1.2e-7.",
                "spacing of the dtype",
                lost / LOST_DIGITS,
                float(np.finfo(np.float32).eps),
                "exact",
            ),
        ),
    )
