"""What a recommendation is: what to change in one layer before training, why, what to expect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .findings.types import Finding
from .surrogate import Surrogate

if TYPE_CHECKING:
    from .recommend_surrogate import RankedShape

Verdict = Literal["change", "leave it", "cannot tell"]
VERDICTS: tuple[Verdict, ...] = ("change", "leave it", "cannot tell")

FIELDS = ("surrogate", "start", "threshold", "weight_scale", "bias_shift", "recurrent_scale")
"""What a recommendation can change: each has a value now and a proposed one."""

VETOED: dict[str, str] = {
    "start": "where it was proposed, on spike trains, the test accuracy fell (evidence, study a)",
}
"""Field of a recommendation to why the evidence speaks against changing it: never proposed.

The studies of the evidence report are the judge: a row is added where they contradict a rule.
"""

ROLES = ("weight", "bias", "recurrent")
"""Parts that parameters of the model play before a spiking layer."""


@dataclass(frozen=True)
class Predicted:
    """One quantity before a change, as measured, and after it, as predicted.

    Args:
        before: value measured on the batches as the model is; nan where it was not measured.
        before_error: its standard error in the same unit; nan where it is not known.
        after: value expected after all changes of the recommendation.
        after_error: its standard error in the same unit; nan where it is not known.
        unit: unit of all four, empty for a pure number.

    Example:
        >>> print(Predicted(0.01, 0.001, 0.25, 0.02, "spikes per timestep"))
        0.0100 +- 0.0010 -> 0.250 +- 0.020 spikes per timestep
    """

    before: float
    before_error: float
    after: float
    after_error: float
    unit: str = ""

    def __str__(self) -> str:
        before, after = _with_error(self.before, self.before_error), _with_error(
            self.after, self.after_error
        )  # fmt: skip
        return f"{before} -> {after} {self.unit}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not known is None."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Recommendation:
    """What to do with one spiking layer before training.

    Args:
        layer: name of the layer, as in ``named_modules()``.
        verdict: ``"change"``, ``"leave it"`` or ``"cannot tell"``.
        changes: field to (now, proposed), fields of :data:`FIELDS`: ``"surrogate"`` (Surrogate),
            ``"start"`` and ``"threshold"`` (potential), ``"weight_scale"`` and
            ``"recurrent_scale"`` (1.0, factor), ``"bias_shift"`` (0.0, what is added to every
            entry, current). Empty unless the verdict is "change".
        parameters: role of :data:`ROLES` to names of the model's parameters that play it.
        shapes: name of each of those parameters to its shape as found.
        because: findings, or sentences, that ask for the change.
        reason: one to three plain sentences.
        predicted: name of a quantity to what it was and what it will be.
        source: where the rule comes from.

    Raises:
        ValueError: an unknown verdict, field or role; changes without "change" or the reverse.

    Example:
        >>> wider = Recommendation(
        ...     layer="lif1",
        ...     verdict="change",
        ...     changes={"surrogate": (Surrogate("triangular", 1.0, 0.1), Surrogate("triangular"))},
        ...     reason="The surrogate reaches 5 % of the elements.",
        ...     predicted={"coverage": Predicted(0.05, 0.002, 0.61, 0.02)},
        ... )
        >>> print(wider)
        lif1: change
          surrogate: triangular (peak 1, width 0.1) -> triangular (peak 1, width 1)
          coverage: 0.0500 +- 0.0020 -> 0.610 +- 0.020
          The surrogate reaches 5 % of the elements.
    """

    layer: str
    verdict: Verdict
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    because: tuple[Finding | str, ...] = ()
    reason: str = ""
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r} is not one of {', '.join(VERDICTS)}")
        for known, given, word in (
            (FIELDS, self.changes, "field"),
            (ROLES, self.parameters, "role"),
        ):
            for name in given:
                if name not in known:
                    raise ValueError(f"{word} {name!r} is not one of {', '.join(known)}")
        if bool(self.changes) != (self.verdict == "change"):
            raise ValueError(
                f"verdict={self.verdict!r} with {len(self.changes)} changes: 'change' needs at "
                "least one, the others have none"
            )

    def __str__(self) -> str:
        lines = [f"{self.layer}: {self.verdict}"]
        for name, (now, proposed) in self.changes.items():
            lines.append(f"  {name}: {in_words(now)} -> {in_words(proposed)}")
        lines += [
            f"  {name}: {value}" for name, value in self.predicted.items() if _tells(self, name)
        ]
        return "\n".join([*lines, f"  {self.reason}"] if self.reason else lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values; what is not known is None.

        Example:
            >>> Recommendation("lif1", "leave it", reason="Nothing helps.").to_dict()["verdict"]
            'leave it'
        """
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


class Recommendations(tuple[Recommendation, ...]):
    """The recommendations for a model, one per spiking layer in network order.

    Args:
        entries: the recommendations.
        ranking: layer to all shapes of surrogate on its recording, the least sensitive first.
        kinds: layer to (framework, class).

    Example:
        >>> advice = Recommendations([Recommendation("lif1", "leave it", reason="All is well.")])
        >>> len(advice), advice["lif1"].verdict
        (1, 'leave it')
    """

    ranking: Mapping[str, tuple[RankedShape, ...]]
    kinds: Mapping[str, tuple[str, str]]

    def __new__(
        cls,
        entries: Iterable[Recommendation],
        ranking: Mapping[str, tuple[RankedShape, ...]] | None = None,
        kinds: Mapping[str, tuple[str, str]] | None = None,
    ) -> Recommendations:
        """Return the tuple with what belongs to it."""
        made = super().__new__(cls, entries)
        made.ranking, made.kinds = dict(ranking or {}), dict(kinds or {})
        return made

    def __getitem__(self, place: Any) -> Any:
        """Return a recommendation by place or by the name of its layer."""
        if isinstance(place, str):
            for entry in self:
                if entry.layer == place:
                    return entry
            raise ValueError(f"layer {place!r} is not one of {', '.join(e.layer for e in self)}")
        return super().__getitem__(place)

    def __str__(self) -> str:
        return "\n\n".join(str(entry) for entry in self)

    def rows(self) -> list[dict[str, str]]:
        """Return a table for people: a row per change, or one for a layer without any.

        Example:
            >>> Recommendations([Recommendation("lif1", "leave it")]).rows()[0]["verdict"]
            'leave it'
        """
        rows = []
        for entry in self:
            shown = {
                name: f"{value.before:.3g} -> {value.after:.3g}"
                for name, value in entry.predicted.items()
                if name in _SHOWN
            }
            first = {"layer": entry.layer, "verdict": entry.verdict}
            changes = [
                {"change": name, "now": in_words(now), "proposed": in_words(proposed)}
                for name, (now, proposed) in entry.changes.items()
            ] or [{"change": "", "now": "", "proposed": ""}]
            rows += [{**first, **changes[0], **shown}]
            rows += [{"layer": "", "verdict": "", **change} for change in changes[1:]]
        return rows

    def table(self) -> pd.DataFrame:
        """Return a DataFrame with a row per layer and quantity: before, after, errors, unit."""
        rows = [
            {"layer": entry.layer, "verdict": entry.verdict, "quantity": name, **vars(value)}
            for entry in self
            for name, value in entry.predicted.items()
        ]
        columns = ["layer", "verdict", "quantity", *Predicted.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns)

    def snippet(self, model: str = "model") -> str:
        """Return code in the user's own framework that carries the recommendations out.

        Args:
            model: name of the model's variable.
        """
        from .snippets import snippet

        return snippet(self, self.kinds, model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "recommendations": [entry.to_dict() for entry in self],
            "ranking": {
                layer: [_plain(vars(row)) for row in rows] for layer, rows in self.ranking.items()
            },
        }


_SHOWN = ("rate", "coverage", "gradient ratio")
"""Quantities in the table for people; the others are in :meth:`Recommendations.table`."""


def _tells(entry: Recommendation, name: str) -> bool:
    """Return whether a line says more than the one above it: a check that agrees does not."""
    expected = entry.predicted.get(name.removesuffix(COPY))
    if not name.endswith(COPY) or expected is None:
        return True
    measured = entry.predicted[name]
    return not abs(measured.after - expected.after) <= 0.01 * abs(expected.after)


COPY = ", on the copy"
"""Ending of a quantity that was measured on the copy after all changes, not predicted."""


def in_words(value: Any) -> str:
    """Return one value of a change for people.

    Example:
        >>> in_words(Surrogate("gaussian", 0.5, 2.0)), in_words(np.array([0.1, 0.3]))
        ('gaussian (peak 0.5, width 2)', '0.1 to 0.3 (2 values)')
    """
    if isinstance(value, Surrogate):
        tail = f", tail {value.tail:.3g}" if value.shape == "q_pseudo_spike" else ""
        return f"{value.shape} (peak {value.peak:.3g}, width {value.width:.3g}{tail})"
    if np.ndim(value):
        entries = np.asarray(value)
        return f"{entries.min():.4g} to {entries.max():.4g} ({entries.size} values)"
    return "none" if value is None else f"{float(value):.4g}"


def _with_error(value: float, error: float) -> str:
    """Return a value with as many digits as its error supports."""
    if not math.isfinite(value):
        return "not known"
    if not math.isfinite(error):
        return f"{value:.3g} (error not known)"
    if error <= 0.0:
        return f"{value:.4g}"
    if error < 1e-5:
        return f"{value:.3g} +- {error:.1g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 12)
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, Finding):
        return value.to_dict()
    if isinstance(value, Predicted):
        return {key: _plain(entry) for key, entry in vars(value).items()}
    if isinstance(value, Surrogate):
        return {"shape": value.shape, **{k: _plain(getattr(value, k)) for k in _SURROGATE}}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_SURROGATE = ("peak", "width", "tail")
