"""The command ``diagnose``: one run, or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, FailOnOption, fail, print_diagnosis, print_json, print_rows

if TYPE_CHECKING:
    from .analysis.findings import Finding
    from .data.runs import Run


def diagnose(
    run: Annotated[str, typer.Argument(help="Run folder or its address, or a folder of runs.")],
    layer: Annotated[str | None, typer.Option(help="Only findings about this layer.")] = None,
    since: Annotated[int | None, typer.Option(help="Look at steps from this one on.")] = None,
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """List what a recorded run shows: measured, bound, layer, timestep, source, what would help.

    Of a folder of runs: which findings, in how many runs, in which layers, with which settings.
    """
    from .analysis.findings import diagnose as find
    from .analysis.findings.report import report
    from .data.runs import find_runs, open_run
    from .data.store import HEADER

    folder = Path(run)
    if folder.is_dir() and not (folder / HEADER).is_file() and (paths := find_runs(folder)):
        _folder(folder, paths, layer, since, as_json, fail_on)
        return
    opened = open_run(run)
    findings = find(opened, layer=layer, since=since)
    if since is not None and not findings:
        _require_records(opened, since)
    if as_json:
        print_json(report(opened, findings))
    else:
        console = Console()
        if findings or not opened.table(["elements"]).empty:
            print_diagnosis(console, findings)
        else:
            console.print("Nothing was judged: the run holds no record that can be read.")
        for problem in opened.problems:
            console.print(f"Note: {problem}", markup=False)
    fail(findings, fail_on)


def _require_records(run: Run, since: int) -> None:
    """Refuse a step behind the last one: silence there would be no good news."""
    steps = run.table(["elements"])["step"]
    if len(steps) and not (steps >= since).any():
        raise ValueError(
            f"since={since!r} is behind the last recorded step of run {run.name!r}, "
            f"{int(steps.max())}: nothing was judged"
        )


def _folder(
    folder: Path,
    paths: list[Path],
    layer: str | None,
    since: int | None,
    as_json: bool,
    fail_on: Any,
) -> None:
    from .analysis.findings import diagnose as find
    from .analysis.findings.report import REPORT_FORMAT, aggregate, report
    from .data.runs import RunError, open_run

    found: list[tuple[Run, list[Finding]]] = []
    unreadable: list[dict[str, str]] = []
    known: dict[str, None] = {}  # layers of all runs, in their order
    for path in paths:
        try:
            opened = open_run(path)
            names = [entry.name for entry in opened.layers]
            known.update(dict.fromkeys(names))
            if opened.table(["elements"]).empty:
                reason = next(iter(opened.problems), "it holds no record")
                unreadable.append({"run": path.name, "reason": reason})
            elif layer is None or layer in names:
                found.append((opened, find(opened, layer=layer, since=since)))
        except RunError as error:
            unreadable.append({"run": path.name, "reason": str(error)})
    if layer is not None and known and layer not in known:
        raise ValueError(
            f"layer {layer!r} is in none of the runs in {str(folder)!r}; their layers are "
            f"{', '.join(map(repr, known))}"
        )
    rows = aggregate(found)
    if as_json:
        print_json(
            {
                "format": REPORT_FORMAT,
                "folder": str(folder),
                "runs": [report(opened, findings) for opened, findings in found],
                "unreadable": unreadable,
                "aggregate": rows,
            }
        )
    else:
        _print_folder(rows, len(found), unreadable)
    fail([finding for _, findings in found for finding in findings], fail_on)


def _print_folder(rows: list[dict[str, Any]], runs: int, unreadable: list[dict[str, str]]) -> None:
    from .analysis.findings import RULES

    console = Console()
    titles = {rule.code: rule.title for rule in RULES}
    shown = []
    for row in rows:
        layers = [f"{name} ({count})" for name, count in row["layers"].items()]
        more = f", {len(layers) - 3} more" if len(layers) > 3 else ""
        settings = [
            f"{entry['setting']} = {entry['value']}: {entry['with']} of {entry['of']} "
            f"(p = {entry['p_value']:.2g})"
            for entry in row["settings"]
        ]
        shown.append(
            {
                "finding": f"{row['code']} {row['severity']}",
                "what": titles.get(row["code"], "surrogate"),
                "runs": f"{row['runs']} of {row['of']}",
                "layers": ", ".join(layers[:3]) + more,
                "more often with": "\n".join(settings),
            }
        )
    if shown:
        print_rows(console, shown)
    else:
        several = "s" * (runs != 1)
        console.print(f"No finding in {runs} run{several}: every rule looked and stayed silent.")
    for entry in unreadable:
        console.print(f"Note: {entry['run']} is left out: {entry['reason']}", markup=False)
