"""The command that takes a run elsewhere: one HTML file, CSV, Parquet, TensorBoard."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .cli_print import AsJson, print_json

if TYPE_CHECKING:
    from .data.runs import Run


class To(StrEnum):
    """What a run can be exported to."""

    html = "html"
    csv = "csv"
    parquet = "parquet"
    tensorboard = "tensorboard"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[To, typer.Option(help="What to write.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; by default beside the run, with its name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run as one HTML page, as CSV or Parquet tables, or for TensorBoard."""
    from .data.runs import open_run

    opened = open_run(run)
    folder = run.resolve()
    wanted = out or folder.with_name(f"{folder.name}{_ENDING[to]}")
    if wanted.exists():
        raise ValueError(f"{str(wanted)!r} exists already: name another place with --out")
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        written = _write(opened, folder, wanted, to)
    except OSError as error:
        raise ValueError(
            f"{str(wanted)!r} cannot be written ({error.strerror}): name another place with --out"
        ) from error
    if as_json:
        files = [str(path) for path in written]
        print_json({"run": opened.name, "written": files, "problems": opened.problems})
        return
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for path in written:
        console.print(f"Written: {path}")
    for problem in opened.problems:
        console.print(f"Note: {problem}")


_ENDING = {To.html: ".html", To.csv: "-csv", To.parquet: "-parquet", To.tensorboard: "-tensorboard"}


def _write(run: Run, folder: Path, out: Path, to: To) -> list[Path]:
    if to is To.html:
        return [_html(folder, out)]
    if to is To.tensorboard:
        from .data.event_files import export_tensorboard

        return [export_tensorboard(run, out)]
    return _tables(run, out, to)


def _html(run: Path, out: Path) -> Path:
    from .cli_serve import require_dashboard

    require_dashboard()
    from .dashboard.export import export_html

    return export_html(run, out)


def _tables(run: Run, folder: Path, to: To) -> list[Path]:
    """Write the tables of a run: the record, the histograms of u, the scalars, the events."""
    from .data.export import export_tables

    return export_tables(run, folder, to.value)
