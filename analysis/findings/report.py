"""Findings for programs: one stable JSON form, of a run and of a folder of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from ...data.runs import Run
from .types import SEVERITIES, Finding

REPORT_FORMAT = 1
"""Raised when a key is renamed or removed, or changes its meaning; new keys may come without."""

REPORT_KEYS: dict[str, str] = {
    "format": "version of this form, 1",
    "run": "name of the run",
    "path": "its folder",
    "state": "recording, finished or broken off",
    "findings": "list of findings, the gravest first; keys below",
    "problems": "sentences about what of the run could not be read",
}

FINDING_KEYS: dict[str, str] = {
    "code": "stable code of the rule",
    "severity": "error, warning or note",
    "layer": "layer that it speaks of; empty for the whole model",
    "t": "timestep from 1; null for all",
    "steps": "[first, last] recorded step at which it holds",
    "measured": "the figure; null if it is not finite",
    "error": "its standard error, same unit; null if unknown",
    "bound": "what it was compared with, same unit",
    "unit": "unit of the three",
    "text": "what it means, at most three sentences",
    "source": "where the bound comes from",
    "remedies": "names of what would help",
    "advice": "list of {remedy, helps, text, quantity, before, after, validity}",
}

FOLDER_KEYS: dict[str, str] = {
    "format": "version of this form, 1",
    "folder": "the folder",
    "runs": "list of reports of a run, as above",
    "unreadable": "list of {run, reason}",
    "aggregate": "list, a row per code: {code, severity, runs, of, layers, settings}",
}

MOST_SETTINGS = 3
"""Settings named for one code: those that part the runs with it from those without best."""


def report(run: Run, findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the findings of a run in the stable form of :data:`REPORT_KEYS`.

    Args:
        run: the run.
        findings: what was found in it.
    """
    return {
        "format": REPORT_FORMAT,
        "run": run.name,
        "path": str(run.path),
        "state": run.state,
        "findings": [finding.to_dict() for finding in findings],
        "problems": run.problems,
    }


def aggregate(runs: Iterable[tuple[Run, list[Finding]]]) -> list[dict[str, Any]]:
    """Return what many runs have in common: which findings, in which layers, with which settings.

    Args:
        runs: each run with its findings.

    Returns:
        A row per code, the most frequent first: ``severity`` (the worst), ``runs`` that have it
        ``of`` all, ``layers`` with the number of runs, and ``settings``: those in which the runs
        with and without it differ most, ``{setting, value, with, of, p_value}``.

    Source:
        Exact test of Fisher 1935 for a two-by-two table, one-sided, not corrected for their number.
    """
    runs = list(runs)
    settings = [_settings(run) for run, _ in runs]
    codes = {finding.code for _, found in runs for finding in found}
    rows = []
    for code in codes:
        own = [[finding for finding in found if finding.code == code] for _, found in runs]
        has = np.array([bool(found) for found in own])
        layers = Counter(
            layer
            for found in own
            for layer in {finding.layer or "whole model" for finding in found}
        )
        severity = min(
            (finding.severity for found in own for finding in found), key=SEVERITIES.index
        )
        rows.append(
            {
                "code": code,
                "severity": severity,
                "runs": int(has.sum()),
                "of": len(runs),
                "layers": dict(layers.most_common()),
                "settings": _associated(settings, has),
            }
        )
    return sorted(
        rows, key=lambda row: (-row["runs"], SEVERITIES.index(row["severity"]), row["code"])
    )


def _settings(run: Run) -> dict[str, str]:
    """Return how a run was set up, as flat text: what its header and its layers say."""
    first = run.covered[0] if run.covered else None
    flat: dict[str, Any] = {
        "model": run.header.get("model"),
        "device": run.header.get("device"),
        "layers": len(run.covered),
        "kind": first.kind if first else None,
    }
    for layer in run.covered:
        surrogate = layer.surrogate or {}
        for name in ("decay", "gain", "threshold", "reset", "start"):
            flat.setdefault(name, set()).add(_short(layer.spec.get(name)))
        for name in ("shape", "peak", "width"):
            flat.setdefault(f"surrogate {name}", set()).add(_short(surrogate.get(name)))
    return {
        name: ", ".join(sorted(value)) if isinstance(value, set) else _short(value)
        for name, value in flat.items()
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _associated(settings: list[dict[str, str]], has: np.ndarray) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for entry in settings for name in entry):
        values = np.array([entry.get(name, "") for entry in settings])
        for value in np.unique(values):
            chosen = values == value
            if chosen.all():
                continue
            inside, outside = int(has[chosen].sum()), int(has[~chosen].sum())
            table = [
                [inside, int(chosen.sum()) - inside],
                [outside, int((~chosen).sum()) - outside],
            ]
            p_value = float(stats.fisher_exact(table, "greater").pvalue)
            if inside / chosen.sum() > outside / (~chosen).sum():
                found.append(
                    {
                        "setting": name,
                        "value": str(value),
                        "with": inside,
                        "of": int(chosen.sum()),
                        "p_value": p_value,
                    }
                )
    return sorted(found, key=lambda entry: entry["p_value"])[:MOST_SETTINGS]
