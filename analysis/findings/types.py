"""What a finding is, what it advises, and what a rule of the catalogue is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .evidence import Evidence

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Advice:
    """What one remedy would do about a finding, predicted from the recording.

    Args:
        remedy: its name.
        helps: whether it would help here.
        text: one sentence: what to set, or why it would not help.
        quantity: what is predicted; empty where nothing can be.
        before: the quantity now; None if nothing is predicted.
        after: the quantity with the remedy.
        validity: what the prediction holds for.
    """

    remedy: str
    helps: bool
    text: str
    quantity: str = ""
    before: float | None = None
    after: float | None = None
    validity: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that a run shows.

    Args:
        code: stable short name of the rule, a letter for its family and a number.
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        layer: layer it speaks of; empty when it speaks of the whole model.
        t: timestep (from 1), or None when it speaks of all.
        steps: first and last recorded step at which it holds.
        measured: the figure.
        error: its standard error, in the same unit.
        bound: what it was compared with.
        unit: unit of measured, error and bound.
        text: what it means, at most three sentences.
        source: where the bound comes from.
        remedies: what would help, by name.
        advice: the remedies looked at, those that would not help among them.
    """

    code: str
    severity: Severity
    layer: str
    t: int | None
    steps: tuple[int, int]
    measured: float
    error: float
    bound: float
    unit: str
    text: str
    source: str
    remedies: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values; what is not finite becomes None."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Finding:
        """Return the finding that :meth:`to_dict` was made of; keys of later versions are left out.

        Raises:
            ValueError: a key is missing.

        Example:
            >>> one = Finding("G1", "error", "lif", 1, (0, 9), 0.1, 0.0, 0.2, "share", "Low.", "x")
            >>> Finding.from_dict(one.to_dict()) == one
            True
        """
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        known["steps"] = tuple(known.get("steps", (0, 0)))
        known["remedies"] = tuple(known.get("remedies", ()))
        names = Advice.__dataclass_fields__
        known["advice"] = tuple(
            Advice(**{name: entry[name] for name in names if name in entry})
            for entry in known.get("advice", ())
        )
        for name in ("measured", "error", "bound"):
            if known.get(name) is None:
                known[name] = math.nan
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"{dict(content)!r} is no finding: {error}") from error


@dataclass(frozen=True)
class Bound:
    """One number that a rule compares with.

    Args:
        value: the number.
        unit: its unit.
        severity: what a figure beyond it is.
        why: where the number comes from: a source, or the calibration that chose it.
    """

    value: float
    unit: str
    severity: Severity
    why: str


@dataclass(frozen=True)
class Rule:
    """One row of the catalogue.

    Args:
        code: code of its findings.
        title: what is wrong, in a few words.
        question: the question that it answers.
        source: where its bounds come from.
        check: the rule itself.
        bounds: what it compares with.
        remedy: what helps, in a sentence.
        example: a text that it wrote about a run.
    """

    code: str
    title: str
    question: str
    source: str
    check: Callable[[Evidence], Iterator[Finding]]
    bounds: tuple[Bound, ...] = ()
    remedy: str = ""
    example: str = ""


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
