"""The catalogue as a page, generated so that it cannot differ from the rules."""

from __future__ import annotations

from pathlib import Path

from .catalogue import RULES
from .examples import EXAMPLES
from .lint_rows import LINT
from .report import FINDING_KEYS, FOLDER_KEYS, REPORT_KEYS

PAGE = Path(__file__).with_name("CATALOGUE.md")
"""Where the page lies."""

FAMILIES = {
    "P": "Capture: can the recording be trusted?",
    "S": "Surrogate: is it sound, and does it fit the recorded law?",
    "M": "Membrane: where does the potential start, lie and settle?",
    "R": "Rate: do the units fire?",
    "G": "Gradient: does it arrive, and can it be used?",
    "T": "Training: does the whole do what it should?",
}

HEAD = """# Catalogue of findings

Generated: `python -m spikescope.analysis.findings` writes it, a test compares it with the rules.

A rule fires when the one-sided 99 % interval of its figure clears the bound (unless the bound says
otherwise), over the last quarter of the records. Where every case was looked at (a count of steps
or layers), the interval has no width; where none of the recorded samples shows a thing, it is the
exact one of 0 out of n. Most figures need two records or more. Bounds over depth and over T hold
per link beyond 10 links; those on precision are in units of the dtype and of the loss scale.

A finding carries advice: remedies that were looked at, each with what it would change, predicted
from the recording, or why it would not help here.
"""


def page() -> str:
    """Return the page, Markdown."""
    lines = [HEAD]
    for family, words in FAMILIES.items():
        lines += [f"## {family}. {words}", ""]
        if family == "S":
            lines += _lint()
        for rule in RULES:
            if not rule.code.startswith(family):
                continue
            lines += [f"### {rule.code}: {rule.title}", "", f"{rule.question}", ""]
            lines += ["| bound | unit | severity | where it comes from |", "|---|---|---|---|"]
            for bound in rule.bounds:
                cells = f"{bound.value:.4g}", _cell(bound.unit), bound.severity, _cell(bound.why)
                lines.append(f"| {' | '.join(cells)} |")
            lines += ["", f"Source: {rule.source}.", f"What helps: {rule.remedy}", ""]
            lines += [f"> {EXAMPLES[rule.code]}", ""]
    lines += ["## JSON", "", "`spikescope diagnose RUN --json` prints an object:", ""]
    lines += _keys(REPORT_KEYS)
    lines += ["", "A finding:", "", *_keys(FINDING_KEYS)]
    lines += ["", "`spikescope diagnose FOLDER --json` prints:", "", *_keys(FOLDER_KEYS)]
    lines += [
        "",
        "A row of `aggregate` names up to three `settings`, `{setting, value, with, of, p_value}`:",
        "of the `of` runs that have the value, `with` have the finding.",
        "",
        "A run that was recorded to its end keeps its findings in `findings.json` (from 8 recorded",
        "steps on), those of the lint in `lint.json`; `run.judgement(name)` reads them.",
    ]
    return "\n".join(lines) + "\n"


def _lint() -> list[str]:
    lines = [
        "S1 to S9 are measured on the live model, when a run begins and by `spikescope lint`.",
        "",
    ]
    lines += ["| code | title | question | severity | what helps |", "|---|---|---|---|---|"]
    lines += [f"| {code} | {' | '.join(map(_cell, row))} |" for code, row in LINT.items()]
    return [*lines, ""]


def _keys(keys: dict[str, str]) -> list[str]:
    return ["| key | meaning |", "|---|---|"] + [
        f"| `{name}` | {_cell(meaning)} |" for name, meaning in keys.items()
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
