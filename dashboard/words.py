"""What the pages say in words about a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..analysis.findings import SEVERITIES, Finding
from ..data.runs import Run
from .figures_style import short
from .lazy import lazy

MOST_SAID = 80
"""Characters of a layer name in a sentence."""

_PLURAL = {"error": "errors", "warning": "warnings", "note": "notes"}


def count(number: int, word: str) -> str:
    """Return a number with its word, in the plural if need be.

    Example:
        >>> count(1, "layer"), count(3, "layer")
        ('1 layer', '3 layers')
    """
    return f"{number} {word if number == 1 else _PLURAL.get(word, word + 's')}"


def worst(findings: Sequence[Finding]) -> Finding | None:
    """Return the gravest finding, the first of its kind; None if there is none."""
    ranked = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return ranked[0] if ranked else None


def place(finding: Finding) -> str:
    """Return where a finding holds: layer, timestep and steps.

    Example:
        >>> place(Finding("G1", "error", "net.3", 1, (60, 90), 0.0, 0.0, 0.0, "", "", ""))
        'net.3, t = 1, steps 60 to 90'
    """
    parts = [short(finding.layer, MOST_SAID) or "whole model"]
    if finding.t is not None:
        parts.append(f"t = {finding.t}")
    first, last = finding.steps
    parts.append(f"step {first}" if first == last else f"steps {first} to {last}")
    return ", ".join(parts)


def size(count: int) -> str:
    """Return a number of bytes in its largest unit.

    Example:
        >>> size(800), size(1_200_000)
        ('800 B', '1.2 MB')
    """
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and units[1:]:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def verdict(run: Run, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return the state of a run in one line, and its severity.

    Args:
        run: a recorded run.
        findings: what ``diagnose`` said about it.

    Returns:
        ``(line, severity)``; the severity is that of the worst finding, ``"none"`` without any,
        ``"empty"`` without a record.
    """
    steps = len(lazy(run).steps_so_far(None)) or len(lazy(run).steps(None))
    if not steps:
        return nothing_yet(run), "empty"
    layers = len(run.covered)
    gravest = worst(findings)
    if gravest is None:
        checked = f"{count(layers, 'layer')} at {count(steps, 'recorded step')} were looked at"
        return f"No finding: {checked}.", "none"
    numbers = [
        count(sum(finding.severity == severity for finding in findings), severity)
        for severity in SEVERITIES
        if any(finding.severity == severity for finding in findings)
    ]
    touched = len({finding.layer for finding in findings if finding.layer})
    judged = {"error": "Not healthy", "warning": "Worth a look"}
    if gravest.severity == "note":
        # One note may speak for many layers.
        return f"No error and no warning in {count(layers, 'layer')}: {numbers[0]}.", "note"
    listed = ", ".join(numbers[:-1]) + " and " + numbers[-1] if numbers[1:] else numbers[0]
    line = f"{judged[gravest.severity]}: {listed}"
    if touched:
        line += f" in {touched} of {count(layers, 'layer')}"
    sentence = gravest.text.split(". ")[0].rstrip(".")
    return f"{line}. First, {place(gravest)}: {sentence}.", gravest.severity


def nothing_yet(run: Run) -> str:
    """Return why a run shows nothing, and what would change that."""
    if not run.covered:
        return "No layer of this model could be recorded; the page About says why for each."
    if run.state == "recording":
        return "Not yet: the first record is still to come. This page follows by itself."
    return f"This run is {run.state} and holds no record."


def state(run: Run) -> str:
    """Return the state of a run with when it was last written."""
    if run.state != "recording":
        return run.state
    return f"recording, last written {ago(time.time() - run.last_written)} ago"


def ago(seconds: float) -> str:
    """Return a duration in its largest unit.

    Example:
        >>> ago(4.2), ago(150), ago(7300)
        ('4 s', '2 min', '2 h')
    """
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


def spec_line(spec: dict[str, Any], surrogate: dict[str, Any] | None) -> str:
    """Return a layer's dynamics and surrogate in one line."""
    known = [name for name in ("decay", "gain", "threshold", "reset", "start") if name in spec]
    line = ", ".join(f"{name} {_short_value(spec[name])}" for name in known) or "dynamics unknown"
    if surrogate is None:
        return f"{line}; no surrogate"
    shape = str(surrogate.get("shape", "unknown")).replace("_", " ")
    numbers = [
        f"{name} {_short_value(surrogate[name])}" for name in ("peak", "width") if name in surrogate
    ]
    return f"{line}; surrogate {', '.join([shape, *numbers])}"


def _short_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
