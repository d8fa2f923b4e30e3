"""Commands about recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, print_json, print_rows
from .cli_serve import PORT, require_dashboard, serve_folder


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder with their state: recording, finished or broken off."""
    from .data.runs import RunError, find_runs, open_run

    rows: list[dict[str, Any]] = []
    for path in find_runs(folder):
        try:
            run = open_run(path)
        except RunError as error:
            rows.append({"run": path.name, "state": str(error)})
            continue
        scalars = run.scalars()
        loss = scalars["loss"].dropna().tolist() if "loss" in scalars else []
        rows.append(
            {
                "run": run.name,
                "state": run.state,
                "model": run.header.get("model"),
                "layers": len(run.covered),
                "steps": len(scalars),
                "loss": float(loss[-1]) if len(loss) else None,
            }
        )
    if as_json:
        print_json(rows)
    elif rows:
        print_rows(Console(), rows)
    else:
        Console().print(f"No run in {str(folder)!r}: spikescope demo makes a first one.")


def dashboard(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = PORT,
) -> None:
    """Look at recorded runs in the browser."""
    from .data.runs import find_runs

    require_dashboard()
    find_runs(folder)  # a folder that is not there is said before a server starts
    serve_folder(folder, host, port)
