"""Commands about a live model: they load torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cli_print import AsJson, FailOnOption, fail, print_diagnosis, print_findings, print_json
from .cli_serve import PORT, require_dashboard, serve_folder


def demo(
    data: Annotated[str, typer.Option(help="Data set to train on: digits.")] = "digits",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder that the run is written under.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Seed of split, weights and order.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes through the training data.")] = 15,
    serve: Annotated[bool, typer.Option(help="Open the dashboard at the end.")] = True,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = PORT,
) -> None:
    """Train a real spiking network with probes on, diagnose it, open the dashboard."""
    from .analysis.findings import diagnose as find
    from .data.runs import open_run
    from .probes.demo import run_demo

    console = Console()
    if serve:
        require_dashboard()
    result = run_demo(out / f"{data}-demo", data, device, seed, epochs, console)
    console.print(
        f"Test accuracy {result.accuracy:.1%} on {result.test_samples} images the network has not "
        "seen."
    )
    if result.path is None:
        raise ValueError(f"nothing could be written under {str(out)!r}: name a folder with --out")
    console.print(f"Run written to {result.path}")
    print_diagnosis(console, find(open_run(result.path)))
    if serve:
        serve_folder(result.path, host, port)
    else:
        console.print(f"To look at it: spikescope dashboard {result.path}")


def lint(
    target: Annotated[str, typer.Argument(help="MODULE:CALLABLE that builds the model.")],
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """Measure each layer's surrogate and compare it with what the layer declares."""
    from .probes.lint import TITLES, lint_target

    findings = lint_target(target)
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    elif findings:
        print_findings(Console(), findings, TITLES)
    else:
        Console().print("No finding: every surrogate is sound and as declared.")
    fail(findings, fail_on)
