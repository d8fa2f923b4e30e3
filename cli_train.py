"""The command that trains a reference network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, print_json

if TYPE_CHECKING:
    from .probes.models.session import Outcome
    from .probes.models.settings import TrainSettings


def train(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    network: Annotated[str | None, typer.Option(help="Network by name.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set by name.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data's files.")] = None,
    remedy: Annotated[
        list[str] | None, typer.Option(help="Remedy by name; may be given several times.")
    ] = None,
    recommend: Annotated[
        bool | None,
        typer.Option(
            "--recommend/--no-recommend", help="Apply what is recommended before training."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of split, weights and order.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several, such as 0,1,2: a run each.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes through the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, at the start.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    amp: Annotated[
        bool | None, typer.Option("--amp/--no-amp", help="Mixed precision (bfloat16).")
    ] = None,
    record_every: Annotated[int | None, typer.Option(help="Steps between records.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that the run is written under.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run, with its own settings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a reference network with probes on; options replace what the config says."""
    options: dict[str, Any] = {
        "network": network,
        "data": data,
        "data_dir": None if data_dir is None else str(data_dir),
        "recommend": recommend,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "amp": amp,
        "record_every": record_every,
        "out": None if out is None else str(out),
    }
    if resume is not None:
        others = {"config": config, "remedy": remedy, "seeds": seeds, **options}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise ValueError(
                f"--resume goes on with the settings of the run, so --{_dashed(given[0])} has no "
                "place beside it: only --device and --json have"
            )
        from .probes.models.session import resume_training

        _report([resume_training(resume, device)], as_json)
        return
    runs = _settings(config, remedy, seeds, {**options, "device": device})
    from .probes.models.session import run_training

    outcomes = []
    for settings in runs:
        outcomes.append(run_training(settings))
        if not outcomes[-1].finished:
            break
    _report(outcomes, as_json)


def _settings(
    config: Path | None, remedy: list[str] | None, seeds: str | None, options: dict[str, Any]
) -> list[TrainSettings]:
    """Put file and options together; one entry per seed."""
    from .probes.models.settings import TrainSettings, override, read_settings

    base = TrainSettings() if config is None else read_settings(config)
    if remedy is not None:
        # What the file says about the same remedy stays in force.
        options["remedies"] = {name: base.remedies.get(name, {}) for name in remedy}
    settings = override(base, **options)
    if seeds is None:
        return [settings]
    if options["seed"] is not None:
        raise ValueError("--seed and --seeds do not go together: give one of them")
    return [override(settings, seed=each) for each in _whole_numbers(seeds)]


def _whole_numbers(seeds: str) -> list[int]:
    try:
        numbers = [int(each) for each in seeds.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"--seeds {seeds!r} is not possible: give different whole numbers, such as 0,1,2"
        )
    return numbers


def _report(outcomes: list[Outcome], as_json: bool) -> None:
    """Say what came of it; an interrupted training ends with status 130."""
    if as_json:
        print_json([outcome.to_dict() for outcome in outcomes])
    else:
        console = Console()
        for outcome in outcomes:
            console.print(_sentence(outcome), markup=False, soft_wrap=True)
    if not all(outcome.finished for outcome in outcomes):
        raise typer.Exit(130)


def _sentence(outcome: Outcome) -> str:
    if not outcome.finished:
        return (
            f"Stopped after step {outcome.steps}. "
            f"To go on: spikescope train --resume {outcome.path}"
        )
    return (
        f"Test accuracy {outcome.accuracy:.1%} on {outcome.test_samples} samples that "
        f"{outcome.network} has not seen, after {outcome.steps} steps in {outcome.seconds:.1f} s; "
        f"run written to {outcome.path}"
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")
