"""What the pages say in words about a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..analysis.findings import SEVERITIES, Finding
from ..data.runs import Run
from ..data.schema import MODES
from .figures_style import number, short, thinned, with_error
from .groups import Group, grouped, ranked
from .lazy import lazy

MOST_SAID = 80
"""Characters of a layer name in a sentence."""

MOST_GROUPS = 4
"""Rules that the line about a whole run names."""

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
    return next(iter(ranked(findings)), None)


def place(finding: Finding) -> str:
    """Return where a finding holds: layer, timestep and steps.

    Example:
        >>> place(Finding("G1", "error", "net.3", 1, (60, 90), 0.0, 0.0, 0.0, "", "", ""))
        'net.3, t = 1, steps 60 to 90'
    """
    parts = [short(finding.layer, MOST_SAID) or "whole model"]
    if finding.t is not None:
        parts.append(f"t = {finding.t}")
    return ", ".join([*parts, span(finding.steps)])


def span(steps: tuple[int, int]) -> str:
    """Return a first and a last step in words.

    Example:
        >>> span((5, 5)), span((0, 9))
        ('step 5', 'steps 0 to 9')
    """
    first, last = steps
    return f"step {first}" if first == last else f"steps {first} to {last}"


def measured(finding: Finding) -> str:
    """Return what a finding measured, with its error and its bound; shares as percentages.

    Example:
        >>> measured(Finding("G1", "", "", 1, (0, 9), 0.0302, 0.001, 0.05, "share of u", "", ""))
        '3.02 ± 0.10% of u, bound 5%'
    """
    share = finding.unit.startswith("share")
    scale, bound = (100.0, "%") if share else (1.0, "")
    unit = f"%{finding.unit.removeprefix('share')}" if share else f" {finding.unit}".rstrip()
    value = with_error(scale * finding.measured, scale * finding.error)
    return f"{value}{unit}, bound {number(scale * finding.bound)}{bound}"


def since(run: Run, steps: tuple[int, int]) -> str:
    """Return when something was found, and whether it still is at the end of the record."""
    record = lazy(run)
    ends = [known[-1] for known in (record.steps_so_far(mode) for mode in MODES) if len(known)]
    if steps[0] < steps[1] and ends and steps[1] >= min(ends):
        return f"since step {steps[0]}"
    return f"at {span(steps)}" if steps[0] == steps[1] else f"in {span(steps)}"


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
    line, gravest = _judged(run, findings, steps)
    torn = _torn(run)
    return f"{line}{torn}", "note" if torn and gravest == "none" else gravest


def unread(problems: Sequence[str]) -> str:
    """Return that parts of a run are missing, in words; nothing if none is.

    Example:
        >>> unread(["records-1.parquet is torn"]), unread([])
        ('1 file cannot be read', '')
    """
    return f"{count(len(problems), 'file')} cannot be read" if problems else ""


def _torn(run: Run) -> str:
    """Return a sentence if something of the record is left out because it cannot be read."""
    problems = lazy(run).problems
    verb = "is" if len(problems) == 1 else "are"
    return f" {unread(problems)} and {verb} left out." if problems else ""


def _judged(run: Run, findings: Sequence[Finding], steps: int) -> tuple[str, str]:
    """Return what the findings say about a run that has so many recorded steps, in one line."""
    layers, record = len(run.covered), lazy(run)
    groups = grouped(findings)
    # Whether a long run is thinned is known once all of its steps are.
    some = thinned(len(record.spread()), steps, "looked at") if record.index(0.0) else ""
    if not groups and some:
        return f"No finding in {count(layers, 'layer')}:{some}", "none"
    if not groups:
        checked = f"{count(steps, 'recorded step')} {'is' if steps == 1 else 'are'} looked at"
        return f"No finding in {count(layers, 'layer')}: {checked}.", "none"
    gravest = groups[0].worst.severity
    numbers = [
        count(sum(finding.severity == severity for finding in findings), severity)
        for severity in SEVERITIES
        if any(finding.severity == severity for finding in findings)
    ]
    if gravest == "note":
        return f"No error and no warning in {count(layers, 'layer')}: {numbers[0]}.{some}", gravest
    judged = {"error": "Not healthy", "warning": "Worth a look"}[gravest]
    first = [group for group in groups if group.worst.severity == gravest]
    said = [_said(group, layers) for group in first[:MOST_GROUPS]]
    if first[MOST_GROUPS:]:
        said.append(f"{len(first) - MOST_GROUPS} more")
    steps_of = [group.steps for group in first]
    when = since(run, (min(a for a, _ in steps_of), max(b for _, b in steps_of)))
    return f"{judged} {when}: {listed(said)}. {listed(numbers)} in all.{some}", gravest


def _said(group: Group, layers: int) -> str:
    """Return what is wrong and in how many of the layers."""
    if not group.layers:
        return group.title
    if len(group.layers) == 1:
        return f"{group.title} in {short(group.layers[0], MOST_SAID)}"
    return f"{group.title} in {len(group.layers)} of {layers} layers"


def listed(parts: Sequence[str]) -> str:
    """Return parts as one enumeration.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else "".join(parts)


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
