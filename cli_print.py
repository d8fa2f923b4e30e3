"""What the commands share: their common options, tables and JSON on the way out."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from .analysis.findings import Finding


class FailOn(StrEnum):
    """Least severity that makes ``diagnose`` exit with status 1."""

    error = "error"
    warning = "warning"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
FailOnOption = Annotated[
    FailOn | None, typer.Option(help="Exit with status 1 if something is at least this bad.")
]


def fail(findings: list[Finding], fail_on: FailOn | None) -> None:
    """End with status 1 if a finding is at least as bad as asked for."""
    from .analysis.findings import SEVERITIES

    if fail_on is not None:
        failing = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1]
        if any(finding.severity in failing for finding in findings):
            raise typer.Exit(1)


def print_diagnosis(console: Console, findings: list[Finding]) -> None:
    """Print what the rules found in a run."""
    from .analysis.findings import RULES

    if findings:
        print_findings(console, findings, {rule.code: rule.title for rule in RULES})
    else:
        console.print("No finding: every rule looked and stayed silent.")


def print_findings(console: Console, findings: list[Finding], titles: dict[str, str]) -> None:
    """Print findings as a table, with the sources under it."""
    from rich.table import Table
    from rich.text import Text

    styles = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    table = Table(title=_summary(findings), title_justify="left", show_lines=True)
    table.add_column("finding", ratio=1)
    table.add_column("what was seen", ratio=3)
    for finding in findings:
        timestep = "" if finding.t is None else f", t = {finding.t}"
        where = f"{finding.layer or 'model'}{timestep}"
        first, last = finding.steps
        steps = f", steps {first} to {last}" if last > first else ""
        error = f" ± {finding.error:.1g}" if finding.error > 0 else ""
        figure = f"{finding.measured:.3g}{error} [{finding.unit}]"
        head = (f"{finding.code} {finding.severity}", styles[finding.severity])
        table.add_row(
            Text.assemble(head, f"\n{where}"),
            Text.assemble(
                (f"{titles[finding.code]}: {figure}", "bold"),
                f", bound {finding.bound:g}{steps}\n{finding.text}",
                *_advice(finding),
            ),
        )
    console.print(table)
    for code, source in dict.fromkeys((finding.code, finding.source) for finding in findings):
        console.print(Text(f"{code}: {source}", style="dim"))


def _advice(finding: Finding) -> list[str]:
    """Return what would help here, and by name what would not."""
    lines = [f"\nWould help: {entry.text}" for entry in finding.advice if entry.helps]
    useless = [entry.remedy for entry in finding.advice if not entry.helps]
    return lines + ([f"\nWould not help: {', '.join(useless)}."] if useless else [])


def _summary(findings: list[Finding]) -> str:
    from .analysis.findings import SEVERITIES

    counts = {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES}
    said = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    return f"Findings: {', '.join(said)}"


def print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print rows of named values as a table."""
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        values = (row.get(name) for name in names)
        table.add_row(*(Text("" if value is None else _short(value)) for value in values))
    console.print(table)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_json(content: Any) -> None:
    """Print JSON for a program."""
    print(json.dumps(content, indent=2, ensure_ascii=False))
