"""G: does gradient arrive, at every layer and every timestep?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...data.schema import COLUMNS
from .evidence import Evidence
from .figures import Figure, pool_over, stretch, total_over
from .grading import grade_above, grade_below
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


@dataclass(frozen=True)
class _Decay:
    """The gradient at the near end of a chain of layers or timesteps, over that at the far end.

    Args:
        links: steps of the chain.
        figure: the ratio, pooled over the window.
        steps: ``[R]`` records in which it is known.
        log: ``[R]`` its logarithm there.
    """

    links: int
    figure: Figure
    steps: np.ndarray
    log: np.ndarray

    @property
    def per_link(self) -> float:
        """What one link keeps."""
        return float(self.figure.value ** (1.0 / self.links))

    def lost(self) -> _Graded | None:
        """Return how grave the loss is and since when; None if it is none."""
        warning, error = scaled(self.links)
        if not self.figure.high < warning:
            return None
        severity, bound = grade_below(self.figure.high, warning, error)
        return _Graded(severity, bound, stretch(self.steps, self.log < np.log(bound)))

    def grown(self, natural: float = 1.0) -> _Graded | None:
        """Return how grave the growth beyond the natural one is; None if it is none."""
        warning, error = (natural / bound for bound in scaled(self.links))
        if not self.figure.low > warning:
            return None
        severity, bound = grade_above(self.figure.low, warning, error)
        return _Graded(severity, bound, stretch(self.steps, self.log > np.log(bound)))

    def finding(
        self,
        code: str,
        graded: _Graded,
        layer: str,
        t: int | None,
        unit: str,
        text: str,
        remedies: tuple[str, ...],
        advice: tuple[Advice, ...],
    ) -> Finding:
        """Return what is told of it."""
        return Finding(
            code=code,
            severity=graded.severity,
            layer=layer,
            t=t,
            steps=graded.steps,
            measured=self.figure.value,
            error=self.figure.error,
            bound=graded.bound,
            unit=unit,
            text=text,
            source=DECAY_SOURCE,
            remedies=remedies,
            advice=advice,
        )


class _Graded(NamedTuple):
    """How grave it is, the bound that it clears, and the stretch of records in which it does."""

    severity: Severity
    bound: float
    steps: tuple[int, int]


DEPTH_UNIT = "norm of dL/du, first layer over last"


def gradient_lost_over_depth(evidence: Evidence) -> Iterator[Finding]:
    """G2: the gradient's norm decays from the last spiking layer towards the first."""
    for first, last, decay in _over_depth(evidence):
        if (graded := decay.lost()) is None:
            continue
        text = (
            f"The norm of dL/du at {first!r} is {decay.figure.value:.2g} of that at {last!r}: over "
            f"{decay.links + 1} spiking layers it keeps a factor of {decay.per_link:.2g} per "
            "layer. The early layers learn slowly or not at all."
        )
        remedies = ("surrogate peak", "surrogate width", "weight scale")
        advice = _mend_depth(decay.per_link)
        yield decay.finding("G2", graded, first, None, DEPTH_UNIT, text, remedies, advice)


def gradient_grows_over_depth(evidence: Evidence) -> Iterator[Finding]:
    """G5: the gradient's norm grows from the last spiking layer towards the first."""
    for first, last, decay in _over_depth(evidence):
        if (graded := decay.grown()) is None:
            continue
        text = (
            f"The norm of dL/du at {first!r} is {decay.figure.value:.3g} times that at {last!r}, a "
            f"factor of {decay.per_link:.2g} per layer over {decay.links + 1} spiking layers. One "
            "learning rate cannot serve both ends."
        )
        remedies = ("surrogate peak", "weight scale", "gradient clipping")
        advice = _mend_depth(decay.per_link)
        yield decay.finding("G5", graded, first, None, DEPTH_UNIT, text, remedies, advice)


def gradient_lost_over_time(evidence: Evidence) -> Iterator[Finding]:
    """G3: the gradient decays from the last timestep towards the first."""
    for place, (first, last), decay in _over_time(evidence):
        if (graded := decay.lost()) is None:
            continue
        text = (
            f"The rms of dL/du at t = {first} is {decay.figure.value:.2g} of that at "
            f"t = {last}, a factor of {decay.per_link:.2g} per timestep. What the layer did "
            "early in the sequence hardly shapes its weights."
        )
        advice = _mend_time(evidence, place, decay.per_link)
        remedies = tuple(entry.remedy for entry in advice if entry.helps) or TIME_REMEDIES
        layer, unit = evidence.names[place], _time_unit(first, last)
        yield decay.finding("G3", graded, layer, first, unit, text, remedies, advice)


def gradient_grows_over_time(evidence: Evidence) -> Iterator[Finding]:
    """G6: the gradient grows from the last timestep towards the first."""
    for place, (first, last), decay in _over_time(evidence):
        natural = accumulation(evidence, place, last - first + 1)
        if (graded := decay.grown(natural)) is None:
            continue
        text = (
            f"The rms of dL/du at t = {first} is {decay.figure.value:.3g} times that at "
            f"t = {last}: it grows by {decay.per_link:.2g} with each timestep that it goes back. "
            f"Leaks that add up explain {natural:.2g} of it; the first timesteps drown out the "
            "others."
        )
        remedies = ("surrogate peak", "recurrent scale", "detached reset")
        advice = (
            Advice(
                "surrogate peak",
                True,
                f"What comes back through one timestep must shrink {decay.per_link:.2g} times: "
                "lower the surrogate's peak or the recurrent weights by that factor.",
                "growth per timestep",
                decay.per_link,
                1.0,
                "first order: the gain is proportional to either",
            ),
        )
        layer, unit = evidence.names[place], _time_unit(first, last)
        yield decay.finding("G6", graded, layer, first, unit, text, remedies, advice)


def _time_unit(first: int, last: int) -> str:
    return f"rms of dL/du, t = {first} over t = {last}"


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


def _over_depth(evidence: Evidence) -> Iterator[tuple[str, str, _Decay]]:
    """Yield the first and the last layer that have a gradient, if there are two."""
    if len(evidence.names) < 2:
        return
    norms = _log_norm(evidence)
    # A gradient that is exactly 0 everywhere is another finding; here it would only be a floor.
    learning = [place for place in range(len(evidence.names)) if norms.positive[place].any()]
    if len(learning) < 2:
        return
    first, last = learning[0], learning[-1]
    near, far = (_Log(*(entry[place] for entry in norms)) for place in (first, last))
    yield evidence.names[first], evidence.names[last], _decay(evidence, near, far, last - first)


def _over_time(evidence: Evidence) -> Iterator[tuple[int, tuple[int, int], _Decay]]:
    """Yield place, first and last timestep of each layer whose gradient is known at both."""
    for place, layer in enumerate(evidence.names):
        timesteps = evidence.timesteps(layer)
        if len(timesteps) < 2:
            continue
        ends = timesteps[0], timesteps[-1]
        near, far = (_log_norm(evidence, place, t - 1) for t in ends)
        decay = _decay(evidence, near, far, ends[1] - ends[0])
        if len(decay.steps) and near.positive.any():
            yield place, ends, decay


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


def _decay(evidence: Evidence, near: _Log, far: _Log, links: int) -> _Decay:
    """Return the ratio of two norms; to first order its error is that of its logarithm."""
    log = np.where(far.positive, near.value - far.value, np.nan)
    known = ~np.isnan(log)
    error = np.hypot(near.error, far.error)
    pooled = pool_over(log[evidence.recent], error[evidence.recent])
    with np.errstate(over="ignore"):
        value = float(np.exp(pooled.value))
    figure = Figure(value, value * float(pooled.error))
    return _Decay(links, figure, evidence.steps[known], log[known])


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
        kept = min(0.1 ** (1 / REFERENCE_LINKS), 0.99)
        text = (
            f"The factor of {per_step:.2g} per timestep is about the decay {decay:.3g}: a decay of "
            f"{kept:.2g} would keep a tenth over {REFERENCE_LINKS} timesteps."
        )
        return (Advice("decay", True, text, "factor per timestep", per_step),)
    text = (
        f"The decay {decay:.3g} alone would keep more than {per_step:.2g} per timestep: the reset "
        "takes the rest, so a longer memory would not help; a loss at every timestep would."
    )
    return (
        Advice("decay", False, text, "factor per timestep", per_step),
        Advice(
            "loss at every timestep",
            True,
            f"Average the loss over the {int(evidence.seen[place].sum())} timesteps: each one then "
            "gets a gradient of its own.",
        ),
    )
