"""What a finding is, and what a rule of the catalogue is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .evidence import Evidence

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


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

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """One row of the catalogue.

    Args:
        code: code of its findings.
        title: what is wrong, in a few words.
        question: the question that it answers.
        source: where its bounds come from.
        check: the rule itself.
    """

    code: str
    title: str
    question: str
    source: str
    check: Callable[[Evidence], Iterator[Finding]]
