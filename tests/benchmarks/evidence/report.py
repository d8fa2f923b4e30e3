"""The report, EVIDENCE.md, and the conclusions for programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from .statistics import Claim, Section
from .store import Results

CONCLUSIONS = "conclusions.json"

INTRODUCTION = """# Evidence

Do the recommendations and the published remedies do what they say? This file is written by
`python tests/benchmarks/evidence/run.py` from `results/*.jsonl`; `--quick` runs a short version, in
two or three minutes on one core, and an interrupted run goes on where it was.

How to read it. An effect is counted positive where the claim holds, with its standard error over
seeds. *Reproduced*: it has the claimed sign in a one-sided t test at 5 %. *Contradicted*: it has
the other sign at that level. *Not reproduced*: neither; the column "would have been seen" is the
effect that this test finds with 80 % power, so that a small number means that there is little to
find, and a large one that the study was too small to tell. All networks are small, and the data
are the 8 x 8 digits and Randman: a claim that fails here may hold for the networks of its paper.
There are many claims and no correction for that: of twenty false ones, one is expected to pass.
Not every claim is one that a paper makes: some take a method apart to see which part does what.
"""


def write_report(studies: list[ModuleType], out: Path, quick: bool) -> dict[str, Any]:
    """Write EVIDENCE.md, its plots and ``results/conclusions.json``.

    Args:
        studies: modules with ``NAME``, ``TITLE``, ``units(quick)`` and ``report(rows, folder)``.
        out: folder with ``results``; plots go to ``out/plots``.
        quick: whether the units are those of the short version.

    Returns:
        The conclusions, as written.
    """
    parts = [INTRODUCTION]
    if quick:
        parts.append("**Short version: few units and two seeds. No conclusion rests on it.**\n")
    sections: list[tuple[ModuleType, Section]] = []
    rows_of_all: list[dict[str, Any]] = []
    for study in studies:
        units = study.units(quick)
        rows = Results(out / "results" / f"{study.NAME}.jsonl").rows(units)
        rows_of_all += rows
        section = _section(study, rows, len(units), out / "plots")
        sections.append((study, section))
    parts += [_provenance(rows_of_all), _summary(sections)]
    for study, section in sections:
        parts.append(f"## {study.NAME}. {section.title}\n")
        parts += [f"{text}\n" for text in section.text]
        parts += [f"![{section.title}](plots/{name})\n" for name in section.plots]
        if section.claims:
            parts.append(_table(section.claims))
    (out / "EVIDENCE.md").write_text("\n".join(parts), encoding="utf-8")
    conclusions = {
        "quick": quick,
        "vetoes": {key: why for _, part in sections for key, why in part.vetoes.items()},
        "claims": [claim.to_dict() for _, part in sections for claim in part.claims],
    }
    folder = out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(conclusions, indent=1, ensure_ascii=False)
    (folder / CONCLUSIONS).write_text(text + "\n", encoding="utf-8")
    return conclusions


def _section(study: ModuleType, rows: list[dict[str, Any]], wanted: int, plots: Path) -> Section:
    """Return a study's part; one that was not run, or not wholly, says so."""
    if not rows:
        return Section(
            study.TITLE,
            ["**Not run.** Nothing can be concluded."],
            [Claim(study.NAME, "all", f"{study.TITLE}: no result", "not run")],
        )
    section: Section = study.report(rows, plots)
    if len(rows) < wanted:
        section.text.insert(0, f"**Not complete: {len(rows)} of {wanted} units were run.**")
    return section


def _provenance(rows: list[dict[str, Any]]) -> str:
    """Say by which code, versions and device the numbers were made."""
    lines = ["| commit | versions | device | units | hours |", "|---|---|---|---|---|"]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = tuple(str(row.get(name, "unknown")) for name in ("commit", "versions", "device"))
        groups.setdefault(key, []).append(float(row["result"].get("unit_seconds", 0.0)))
    for key, seconds in sorted(groups.items()):
        lines.append(f"| {' | '.join(key)} | {len(seconds)} | {sum(seconds) / 3600:.2f} |")
    note = (
        "\nA `+` behind a commit: files differed from it. Seeds are in the results, unit by unit.\n"
    )
    return "\n".join(lines) + "\n" + note


def _summary(sections: list[tuple[ModuleType, Section]]) -> str:
    lines = [
        "| study | reproduced | not reproduced | contradicted | not run |",
        "|---|---|---|---|---|",
    ]
    for study, section in sections:
        counts = Counter(claim.verdict for claim in section.claims)
        verdicts = ("reproduced", "not reproduced", "contradicted", "not run")
        lines.append(
            f"| {study.NAME}. {section.title} | "
            + " | ".join(str(counts[v]) for v in verdicts)
            + " |"
        )
    vetoes = {key: why for _, part in sections for key, why in part.vetoes.items()}
    said = (
        "\n".join(f"* `{key}`: {why}" for key, why in vetoes.items())
        or "None: no study contradicts a kind of change that `recommend` proposes."
    )
    return "\n".join(lines) + f"\n\n**What `recommend` must not propose.**\n\n{said}\n"


def _table(claims: list[Claim]) -> str:
    lines = [
        "| claim | verdict | effect | would have been seen | seeds |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        known = claim.effect == claim.effect
        error = f" ± {claim.error:.2g}" if claim.error == claim.error else ""
        effect = f"{claim.effect:.3g}{error} {claim.unit}" if known else "-"
        seen = f"{claim.detectable:.2g}" if claim.detectable == claim.detectable else "-"
        detail = f" ({claim.detail})" if claim.detail else ""
        lines.append(
            f"| {claim.text}{detail} | **{claim.verdict}** | {effect} | {seen} | {claim.seeds} |"
        )
    return "\n".join(lines) + "\n"
