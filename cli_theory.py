"""Commands that need numbers alone: no model, no run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from .cli_print import AsJson, print_json, print_rows


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
    width: Annotated[float | None, typer.Option(help="Width of the surrogate; 1 if left.")] = None,
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
    if surrogate is None and width is not None:
        raise ValueError(f"--width {width:g} has no place without --surrogate, the shape it is of")
    if surrogate is not None:
        shape = Surrogate(surrogate, peak=1.0, width=1.0 if width is None else width)
        low, high = shape.interval(threshold)
        interval = (float(low), float(high))
    report = stationary_report(stationary_law(spec, input_mean, input_std), interval, timesteps)
    if as_json:
        print_json(report)
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
    print_rows(console, rows)
    console.print(report["verdict"], markup=False)
