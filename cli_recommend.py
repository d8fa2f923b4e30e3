"""The command that chooses before training: for a live model, or by numbers alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, print_json, print_rows

OF_A_MODEL = ("data", "data_dir", "batch", "samples")
"""Options that say what a model is to look at; all others are numbers in place of a model."""


def recommend(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="MODULE:CALLABLE that returns model, (model, inputs) or (model, inputs, targets); "
            "without it, give --fan-in and numbers."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set that the model is to learn, such as digits.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder with the data set's files.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="MODULE:CALLABLE that returns inputs, (inputs, targets) or a loader."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples of --data to look at.")] = 64,
    fan_in: Annotated[int | None, typer.Option(help="Inputs of each unit.")] = None,
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
    """Choose weights, bias, start, threshold and surrogate before any training."""
    _require_one_kind(context, target)
    if target is not None:
        _of_model(target, data, data_dir, batch, samples, as_json)
        return
    if fan_in is None:
        raise ValueError("nothing to recommend for: give MODULE:CALLABLE, or --fan-in and numbers")
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
        print_json(content)
        return
    console = Console()
    print_rows(console, content["rows"])
    for warning in content["warnings"]:
        console.print(f"Mind: {warning}", markup=False)


def _require_one_kind(context: typer.Context, target: str | None) -> None:
    """Refuse an option that would be passed over: numbers beside a model, data without one."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ("target", "as_json"):
            continue
        option = f"--{name.replace('_', '-')}"
        if target is None and name in OF_A_MODEL:
            raise ValueError(f"{option} has no place without MODULE:CALLABLE, which it is for")
        if target is not None and name not in OF_A_MODEL:
            raise ValueError(
                f"{option} has no place beside {target!r}, whose layers have their own"
            )


def _of_model(
    target: str,
    data: str | None,
    data_dir: str | None,
    batch: str | None,
    samples: int,
    as_json: bool,
) -> None:
    """Build the model, get a batch, and print what is recommended."""
    from .probes.preflight import recommend as find
    from .probes.target import build_case, call_target

    if data is not None and batch is not None:
        raise ValueError("--data and --batch were both given: give one")
    case = build_case(target)
    inputs: Any = case.inputs
    targets: Any = case.targets
    if batch is not None:
        inputs, targets = call_target(batch), None
        if inputs is None:
            raise ValueError(f"{batch!r} returned None: return inputs, (inputs, targets), a loader")
    elif data is not None:
        inputs, targets = _first(data, data_dir, samples)
    if inputs is None:
        raise ValueError(
            f"{target!r} returned a model alone: return (model, inputs), or give --data or --batch"
        )
    found = find(case.model, inputs, targets)
    if as_json:
        print_json({**found.to_dict(), "snippet": found.snippet()})
        return
    console = Console()
    print_rows(console, found.rows())
    for entry in found:
        console.print(f"{entry.layer}: {entry.reason}", markup=False, highlight=False)
    console.print()
    console.print(found.snippet(), markup=False, highlight=False, soft_wrap=True)


def _first(data: str, data_dir: str | None, samples: int) -> tuple[Any, Any]:
    """Return the first training samples of a data set as tensors."""
    import numpy as np
    import torch

    from .data.datasets import load

    if samples < 1:
        raise ValueError(f"samples={samples} is not possible: it must be at least 1")
    found = load(data, data_dir=data_dir)
    inputs = np.asarray(found.train_inputs[:samples], dtype=np.float32) * np.float32(found.scale)
    return torch.from_numpy(inputs), torch.from_numpy(found.train_targets[:samples])
