"""The ``spikescope`` command: parse, call, print.

Exit status: 0 for success, 1 when ``--fail-on`` finds something, 2 for bad input (one line).
"""

from __future__ import annotations

import json
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from .analysis.findings import Finding

app = typer.Typer(
    help="See, explain and mend what happens inside spiking neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PORT = 8050


class FailOn(StrEnum):
    """Least severity that makes ``diagnose`` exit with status 1."""

    error = "error"
    warning = "warning"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
FailOnOption = Annotated[
    FailOn | None, typer.Option(help="Exit with status 1 if something is at least this bad.")
]


@app.command()
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
        _require_dashboard()
    result = run_demo(out / f"{data}-demo", data, device, seed, epochs, console)
    console.print(
        f"Test accuracy {result.accuracy:.1%} on {result.test_samples} images the network has not "
        "seen."
    )
    if result.path is None:
        raise ValueError(f"nothing could be written under {str(out)!r}: name a folder with --out")
    console.print(f"Run written to {result.path}")
    _print_diagnosis(console, find(open_run(result.path)))
    if serve:
        _serve(result.path, host, port)
    else:
        console.print(f"To look at it: spikescope dashboard {result.path}")


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """List what a recorded run shows: measured, bound, layer, timestep, source."""
    from .analysis.findings import diagnose as find
    from .data.runs import open_run

    opened = open_run(run)
    findings = find(opened)
    if as_json:
        content = {
            "run": opened.name,
            "state": opened.state,
            "findings": [finding.to_dict() for finding in findings],
            "problems": opened.problems,
        }
        _print_json(content)
    else:
        console = Console()
        _print_diagnosis(console, findings)
        for problem in opened.problems:
            console.print(f"Note: {problem}", markup=False)
    _fail(findings, fail_on)


def _fail(findings: list[Finding], fail_on: FailOn | None) -> None:
    """End with status 1 if a finding is at least as bad as asked for."""
    from .analysis.findings import SEVERITIES

    if fail_on is not None:
        failing = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1]
        if any(finding.severity in failing for finding in findings):
            raise typer.Exit(1)


@app.command()
def lint(
    target: Annotated[str, typer.Argument(help="MODULE:CALLABLE that builds the model.")],
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """Measure each layer's surrogate and compare it with what the layer declares."""
    from .probes.lint import TITLES, lint_target

    findings = lint_target(target)
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
    elif findings:
        _print_findings(Console(), findings, TITLES)
    else:
        Console().print("No finding: every surrogate is sound and as declared.")
    _fail(findings, fail_on)


@app.command()
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
        _print_json(rows)
    elif rows:
        _print_rows(Console(), rows)
    else:
        Console().print(f"No run in {str(folder)!r}: spikescope demo makes a first one.")


@app.command()
def dashboard(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = PORT,
) -> None:
    """Look at recorded runs in the browser."""
    from .data.runs import find_runs

    _require_dashboard()
    find_runs(folder)  # a folder that is not there is said before a server starts
    _serve(folder, host, port)


@app.command()
def stationary(
    input_mean: Annotated[float, typer.Option(help="Mean of the input current.")],
    input_std: Annotated[float, typer.Option(help="Standard deviation of the input current.")],
    decay: Annotated[float, typer.Option(help="Share of v that survives a timestep.")] = 0.5,
    gain: Annotated[float, typer.Option(help="Potential per unit of current.")] = 1.0,
    threshold: Annotated[float, typer.Option(help="Potential at which a unit fires.")] = 1.0,
    reset: Annotated[str, typer.Option(help="subtract, to_value or none.")] = "subtract",
    start: Annotated[float, typer.Option(help="Potential before t = 1.")] = 0.0,
    timesteps: Annotated[int, typer.Option(help="Length T of the sequence.")] = 4,
    surrogate: Annotated[str | None, typer.Option(help="Shape, to get its coverage.")] = None,
    width: Annotated[float, typer.Option(help="Width of the surrogate.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Say where the membrane potential of a layer settles, how fast, and from where to start."""
    from .analysis.neuron import NeuronSpec
    from .analysis.stationary import stationary_law
    from .analysis.stationary_report import stationary_report
    from .analysis.surrogate import Surrogate

    spec = NeuronSpec(
        decay=decay,
        gain=gain,
        threshold=threshold,
        reset=reset,  # type: ignore[arg-type] # the record itself says what is possible
        start=start,
    )
    interval = None
    if surrogate is not None:
        low, high = Surrogate(surrogate, peak=1.0, width=width).interval(threshold)
        interval = (float(low), float(high))
    report = stationary_report(stationary_law(spec, input_mean, input_std), interval, timesteps)
    if as_json:
        _print_json(report)
        return
    console = Console()
    rows = [
        {
            "figure": name.replace("_", " "),
            "value": "-" if value is None else f"{value:.6g}",
            "error": "-" if report["errors"][name] is None else f"{report['errors'][name]:.0e}",
            "unit": report["units"][name],
        }
        for name, value in report["figures"].items()
    ]
    _print_rows(console, rows)
    console.print(report["verdict"], markup=False)


@app.command()
def recommend(
    fan_in: Annotated[int, typer.Option(help="Inputs of each unit.")],
    decay: Annotated[float, typer.Option(help="Share of v that survives a timestep.")] = 0.5,
    gain: Annotated[float, typer.Option(help="Potential per unit of current.")] = 1.0,
    threshold: Annotated[float, typer.Option(help="Potential at which a unit fires.")] = 1.0,
    reset: Annotated[str, typer.Option(help="subtract, to_value or none.")] = "subtract",
    detach_reset: Annotated[bool, typer.Option(help="Reset hidden from the gradient.")] = True,
    recurrent: Annotated[bool, typer.Option(help="The layer feeds back to itself.")] = False,
    units: Annotated[int | None, typer.Option(help="Units of the layer.")] = None,
    layers: Annotated[int, typer.Option(help="Spiking layers of the network.")] = 1,
    timesteps: Annotated[int, typer.Option(help="Length of a sequence.")] = 100,
    input_rate: Annotated[float | None, typer.Option(help="Spikes per input and step.")] = None,
    input_mean: Annotated[float | None, typer.Option(help="Mean of an analogue input.")] = None,
    input_square: Annotated[float | None, typer.Option(help="Its second moment.")] = None,
    target_rate: Annotated[float, typer.Option(help="Wanted spikes per unit and step.")] = 0.1,
    surrogate: Annotated[str, typer.Option(help="Shape of the surrogate.")] = "fast_sigmoid",
    as_json: AsJson = False,
) -> None:
    """Choose weights, bias and surrogate of a layer by numbers, before any training."""
    from .analysis.neuron import NeuronSpec
    from .analysis.preset import recommend_by_numbers

    spec = NeuronSpec(
        decay=decay,
        gain=gain,
        threshold=threshold,
        reset=reset,  # type: ignore[arg-type] # the record itself says what is possible
        reset_gradient=not detach_reset,
    )
    preset = recommend_by_numbers(
        spec,
        fan_in,
        recurrent=recurrent,
        units=units,
        layers=layers,
        timesteps=timesteps,
        input_rate=input_rate,
        input_mean=input_mean,
        input_square=input_square,
        target_rate=target_rate,
        family=surrogate,
    )
    content = preset.to_dict()
    if as_json:
        _print_json(content)
        return
    console = Console()
    _print_rows(console, content["rows"])
    for warning in content["warnings"]:
        console.print(f"Mind: {warning}", markup=False)


def _require_dashboard() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("dash", "plotly") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the dashboard needs {missing[0]}: pip install 'spikescope[dashboard]'")


def _serve(folder: Path, host: str, port: int) -> None:
    from .dashboard.server import serve

    def say(address: str) -> None:
        Console().print(f"Dashboard: {address} (Ctrl+C ends it)", soft_wrap=True)

    serve(folder, host=host, port=port, on_ready=say)


def _print_diagnosis(console: Console, findings: list[Finding]) -> None:
    from .analysis.findings import RULES

    if findings:
        _print_findings(console, findings, {rule.code: rule.title for rule in RULES})
    else:
        console.print("No finding: every rule looked and stayed silent.")


def _print_findings(console: Console, findings: list[Finding], titles: dict[str, str]) -> None:
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
            ),
        )
    console.print(table)
    for code, source in dict.fromkeys((finding.code, finding.source) for finding in findings):
        console.print(Text(f"{code}: {source}", style="dim"))


def _summary(findings: list[Finding]) -> str:
    from .analysis.findings import SEVERITIES

    counts = {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES}
    said = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    return f"Findings: {', '.join(said)}"


def _print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
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


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command; bad input is one line on standard error and exit status 2."""
    warnings.formatwarning = _one_line_warning
    try:
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except (ValueError, OSError, ImportError) as error:
        _complain(str(error))
    except Exception as error:
        # Usage errors of the parser, whichever module it keeps them in.
        if not hasattr(error, "format_message"):
            raise
        _complain(error.format_message())


def _one_line_warning(message: Warning | str, *where: Any, **more: Any) -> str:
    """Show a warning as a sentence: a person at the command line has no use for our line number."""
    return f"spikescope: {' '.join(str(message).split())}\n"


def _complain(message: str) -> None:
    print(f"spikescope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
