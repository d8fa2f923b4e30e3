"""G: does gradient arrive, at every layer and every timestep?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...data.schema import COLUMNS
from .evidence import Evidence
from .figures import Figure, pool_over, stretch, total_over
from .types import Advice, Bound, Finding, Severity

DECAY_WARNING = 0.1
"""Variance ratio of 1e-2, where the stability criterion stops to be fine."""

DECAY_ERROR = 1e-3
"""Variance ratio of 1e-6, where the stability criterion fails."""

REFERENCE_LINKS = 10
"""Layers or timesteps up to which the bounds hold over all; beyond it per link, so that a deep
network may lose the same factor per layer as one of this depth: 0.79 for the warning."""

TIME_REMEDIES = ("decay", "loss at every timestep")
"""What helps against a gradient that is lost over time, where nothing more is known."""

DECAY_SOURCE = (
    "Herranz-Celotti and Rouat, arXiv 2202.00282, condition IV: equal gradient variance; "
    "off by 1e2 warns, by 1e6 fails"
)

_WHY = "variance ratio of 1e{}, condition IV of arXiv 2202.00282; beyond 10 links per link"
DECAY_BOUNDS = (
    Bound(DECAY_WARNING, "ratio of norms", "warning", _WHY.format("-2")),
    Bound(DECAY_ERROR, "ratio of norms", "error", _WHY.format("-6")),
)
GROWTH_BOUNDS = (
    Bound(1.0 / DECAY_WARNING, "ratio of norms", "warning", _WHY.format("2")),
    Bound(1.0 / DECAY_ERROR, "ratio of norms", "error", _WHY.format("6")),
)


class _Log(NamedTuple):
    """Logarithm of a norm over the records, its error, and where the norm is not 0."""

    value: np.ndarray
    error: np.ndarray
    positive: np.ndarray


def gradient_lost_over_depth(evidence: Evidence) -> Iterator[Finding]:
    """G2: the gradient's norm decays from the last spiking layer towards the first."""
    ratio = _over_depth(evidence)
    if ratio is None:
        return
    first, last, links, figure, ratios = ratio
    bounds = scaled(links)
    if not figure.high < bounds[0]:
        return
    severity, bound = _graded(figure.high, *bounds)
    per_layer = figure.value ** (1.0 / links)
    yield Finding(
        code="G2",
        severity=severity,
        layer=first,
        t=None,
        steps=stretch(evidence.steps[ratios[1]], ratios[0][ratios[1]] < np.log(bound)),
        measured=figure.value,
        error=figure.error,
        bound=bound,
        unit="norm of dL/du, first layer over last",
        text=f"The norm of dL/du at {first!r} is {figure.value:.2g} of that at {last!r}: over "
        f"{links + 1} spiking layers it keeps a factor of {per_layer:.2g} per layer. The early "
        "layers learn slowly or not at all.",
        source=DECAY_SOURCE,
        remedies=("surrogate peak", "surrogate width", "weight scale"),
        advice=_mend_depth(per_layer),
    )


def gradient_grows_over_depth(evidence: Evidence) -> Iterator[Finding]:
    """G5: the gradient's norm grows from the last spiking layer towards the first."""
    ratio = _over_depth(evidence)
    if ratio is None:
        return
    first, last, links, figure, ratios = ratio
    warning, error = (1.0 / bound for bound in scaled(links))
    if not figure.low > warning:
        return
    severity: Severity = "error" if figure.low > error else "warning"
    bound = error if severity == "error" else warning
    per_layer = figure.value ** (1.0 / links)
    yield Finding(
        code="G5",
        severity=severity,
        layer=first,
        t=None,
        steps=stretch(evidence.steps[ratios[1]], ratios[0][ratios[1]] > np.log(bound)),
        measured=figure.value,
        error=figure.error,
        bound=bound,
        unit="norm of dL/du, first layer over last",
        text=f"The norm of dL/du at {first!r} is {figure.value:.3g} times that at {last!r}, a "
        f"factor of {per_layer:.2g} per layer over {links + 1} spiking layers. One learning rate "
        "cannot serve both ends.",
        source=DECAY_SOURCE,
        remedies=("surrogate peak", "weight scale", "gradient clipping"),
        advice=_mend_depth(per_layer),
    )


def gradient_lost_over_time(evidence: Evidence) -> Iterator[Finding]:
    """G3: the gradient decays from the last timestep towards the first."""
    for place, ends, figure, ratio, known in _over_time(evidence):
        bounds = scaled(ends[1] - ends[0])
        if not figure.high < bounds[0]:
            continue
        severity, bound = _graded(figure.high, *bounds)
        per_step = figure.value ** (1.0 / (ends[1] - ends[0]))
        advice = _mend_time(evidence, place, per_step)
        yield Finding(
            code="G3",
            severity=severity,
            layer=evidence.names[place],
            t=ends[0],
            steps=stretch(evidence.steps[known], ratio[known] < np.log(bound)),
            measured=figure.value,
            error=figure.error,
            bound=bound,
            unit=f"rms of dL/du, t = {ends[0]} over t = {ends[1]}",
            text=f"The rms of dL/du at t = {ends[0]} is {figure.value:.2g} of that at "
            f"t = {ends[1]}, a factor of {per_step:.2g} per timestep. What the layer did "
            "early in the sequence hardly shapes its weights.",
            source=DECAY_SOURCE,
            remedies=tuple(entry.remedy for entry in advice if entry.helps) or TIME_REMEDIES,
            advice=advice,
        )


def gradient_grows_over_time(evidence: Evidence) -> Iterator[Finding]:
    """G6: the gradient grows from the last timestep towards the first."""
    for place, ends, figure, ratio, known in _over_time(evidence):
        if not figure.low > 1.0 / scaled(ends[1] - ends[0])[0]:
            continue  # below it without any leak
        natural = accumulation(evidence, place, ends[1] - ends[0] + 1)
        warning, error = (natural / bound for bound in scaled(ends[1] - ends[0]))
        if not figure.low > warning:
            continue
        severity: Severity = "error" if figure.low > error else "warning"
        bound = error if severity == "error" else warning
        per_step = figure.value ** (1.0 / (ends[1] - ends[0]))
        yield Finding(
            code="G6",
            severity=severity,
            layer=evidence.names[place],
            t=ends[0],
            steps=stretch(evidence.steps[known], ratio[known] > np.log(bound)),
            measured=figure.value,
            error=figure.error,
            bound=bound,
            unit=f"rms of dL/du, t = {ends[0]} over t = {ends[1]}",
            text=f"The rms of dL/du at t = {ends[0]} is {figure.value:.3g} times that at "
            f"t = {ends[1]}: it grows by {per_step:.2g} with each timestep that it goes back. "
            f"Leaks that add up explain {natural:.2g} of it; the first timesteps drown out the "
            "others.",
            source=DECAY_SOURCE,
            remedies=("surrogate peak", "recurrent scale", "detached reset"),
            advice=(
                Advice(
                    "surrogate peak",
                    True,
                    f"What comes back through one timestep must shrink {per_step:.2g} times: lower "
                    "the surrogate's peak or the recurrent weights by that factor.",
                    "growth per timestep",
                    per_step,
                    1.0,
                    "first order: the gain is proportional to either",
                ),
            ),
        )


def scaled(links: int) -> tuple[float, float]:
    """Return the bounds of a decay over so many links, warning and error.

    Example:
        >>> scaled(3), [round(bound, 6) for bound in scaled(20)]
        ((0.1, 0.001), [0.01, 1e-06])
    """
    power = max(1.0, links / REFERENCE_LINKS)
    return DECAY_WARNING**power, DECAY_ERROR**power


def accumulation(evidence: Evidence, place: int, timesteps: int) -> float:
    """Return how much larger dL/du is at t = 1 than at t = T because early u reaches more of t.

    A leak hands u on by its decay: what one timestep feels sums to (1 - decay^T) / (1 - decay), in
    this layer and in each one behind it. A decay that is not known counts as 0.5.
    """
    factor = 1.0
    for layer in evidence.layers[place:]:
        decay = layer.spec.get("decay", 0.5) if layer.spec else 0.5
        known = float(np.clip(np.mean(decay), 0.0, 1.0))
        factor *= float((known ** np.arange(timesteps)).sum())
    return factor


def _graded(high: float, warning: float, error: float) -> tuple[Severity, float]:
    return ("error", error) if high < error else ("warning", warning)


def _over_depth(
    evidence: Evidence,
) -> tuple[str, str, int, Figure, tuple[np.ndarray, np.ndarray]] | None:
    """Return the ratio of the norms of dL/du at the first and the last layer that have one."""
    if len(evidence.names) < 2:
        return None
    norms = _log_norm(evidence)
    # A gradient that is exactly 0 everywhere is another finding; here it would only be a floor.
    learning = [place for place in range(len(evidence.names)) if norms.positive[place].any()]
    if len(learning) < 2:
        return None
    first, last = learning[0], learning[-1]
    part, whole = (_Log(*(entry[place] for entry in norms)) for place in (first, last))
    ratio, error, known = _log_ratio(part, whole)
    figure = _recent(evidence, ratio, error)
    names = evidence.names
    return names[first], names[last], last - first, figure, (ratio, known)


def _over_time(
    evidence: Evidence,
) -> Iterator[tuple[int, tuple[int, int], Figure, np.ndarray, np.ndarray]]:
    for place, layer in enumerate(evidence.names):
        timesteps = evidence.timesteps(layer)
        if len(timesteps) < 2:
            continue
        ends = timesteps[0], timesteps[-1]
        early, late = (_log_norm(evidence, place, t - 1) for t in ends)
        ratio, error, known = _log_ratio(early, late)
        if known.any() and early.positive.any():
            yield place, ends, _recent(evidence, ratio, error), ratio, known


def _log_norm(evidence: Evidence, place: int | None = None, t: int | None = None) -> _Log:
    """Return ln of the norm of dL/du in each record, and its standard error.

    The timesteps of a record share their samples: their errors add up fully, each with the share
    of the squared norm that its timestep holds.
    """
    columns = ("grad_u_square", "grad_u_count", "grad_u_rms", "grad_u_rms_se")
    assert set(columns) <= set(COLUMNS)
    chosen = slice(None) if place is None else place
    axes = slice(None) if t is None else slice(t, t + 1)
    square, count, rms, error = (evidence.cube(name)[chosen][..., axes] for name in columns)
    norm = square * count
    total = total_over(norm)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = norm / total[..., None]
        relative = total_over(weight * error / rms)
        # A gradient that is exactly 0 counts as the smallest number: lost, not unknown.
        value = 0.5 * np.log(np.maximum(total, np.finfo(float).tiny))
    return _Log(value, relative, total > 0)


def _log_ratio(part: _Log, whole: _Log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ln(part / whole), its standard error, and where it is known."""
    value = np.where(whole.positive, part.value - whole.value, np.nan)
    return value, np.hypot(part.error, whole.error), ~np.isnan(value)


def _recent(evidence: Evidence, ratio: np.ndarray, error: np.ndarray) -> Figure:
    """Pool log ratios over the window; the ratio's error follows to first order."""
    log = pool_over(ratio[evidence.recent], error[evidence.recent])
    with np.errstate(over="ignore"):
        value = float(np.exp(log.value))
    return Figure(value, value * float(log.error))


def _mend_depth(per_layer: float) -> tuple[Advice, ...]:
    return (
        Advice(
            "surrogate peak",
            True,
            f"Multiply the surrogate's peak, or the weights, of each layer by {1 / per_layer:.2g}.",
            "factor per layer",
            per_layer,
            1.0,
            "first order: the gain of a layer is proportional to its peak; with other weights the "
            "forward pass changes, too",
        ),
    )


def _mend_time(evidence: Evidence, place: int, per_step: float) -> tuple[Advice, ...]:
    spec = evidence.layers[place].spec
    decay = spec.get("decay") if spec else None
    if not isinstance(decay, int | float):
        return ()
    if per_step > 0.9 * float(decay):
        text = (
            f"The factor of {per_step:.2g} per timestep is about the decay {decay:.3g}: a decay of "
        )
        text += (
            f"{min(0.1 ** (1 / REFERENCE_LINKS), 0.99):.2g} would keep a tenth over 10 timesteps."
        )
        return (Advice("decay", True, text, "factor per timestep", per_step),)
    text = (
        f"The decay {decay:.3g} alone would keep more than {per_step:.2g} per timestep: the reset "
    )
    text += "takes the rest, so a longer memory would not help; a loss at every timestep would."
    return (
        Advice("decay", False, text, "factor per timestep", per_step),
        Advice(
            "loss at every timestep",
            True,
            f"Average the loss over the {int(evidence.seen[place].sum())} timesteps: each one then "
            "gets a gradient of its own.",
        ),
    )
