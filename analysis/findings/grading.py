"""How grave a figure is, and which of several findings are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .types import Finding, Severity

WORSE: tuple[Severity, Severity] = ("warning", "error")
MILDER: tuple[Severity, Severity] = ("note", "warning")


def grade_below(high: float, warning: float, error: float) -> tuple[Severity, float]:
    """Return the severity of a figure below its bounds, and the bound that it clears.

    Args:
        high: upper end of its interval.
        warning: the bound that it lies below.
        error: a lower one.

    Example:
        >>> grade_below(0.1, 0.15, 0.05), grade_below(0.01, 0.15, 0.05)
        (('warning', 0.15), ('error', 0.05))
    """
    return ("error", error) if high < error else ("warning", warning)


def grade_above(
    low: float, first: float, second: float, severities: tuple[Severity, Severity] = WORSE
) -> tuple[Severity, float]:
    """Return the severity of a figure above its bounds, and the bound that it clears.

    Args:
        low: lower end of its interval.
        first: the bound that it lies above.
        second: a higher one.
        severities: what lies above the one, and above the other.

    Example:
        >>> grade_above(0.6, 0.5, 0.9), grade_above(0.6, 0.25, 0.5, MILDER)
        (('warning', 0.5), ('warning', 0.5))
    """
    return (severities[1], second) if low > second else (severities[0], first)


def with_worst_note(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield what is graver than a note as it comes, and of the notes the worst alone, at the end.

    Example:
        >>> from dataclasses import replace
        >>> one = Finding("R3", "note", "a", 1, (0, 9), 0.3, 0.0, 0.25, "share", "Low.", "x")
        >>> other = replace(one, layer="b", measured=0.4)
        >>> [found.layer for found in with_worst_note([one, other])]
        ['b']
    """
    notes = []
    for finding in findings:
        if finding.severity == "note":
            notes.append(finding)
        else:
            yield finding
    if notes:
        yield max(notes, key=lambda finding: finding.measured)
