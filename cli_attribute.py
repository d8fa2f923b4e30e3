"""The command that says which layers and timesteps carry a decision, and how surely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, print_json, print_rows

if TYPE_CHECKING:
    import pandas as pd

    from .analysis.attribution_result import Attribution
    from .analysis.fidelity import FidelityCurve
    from .analysis.timestep_result import TimestepImportance


def attribute(
    target: Annotated[
        str,
        typer.Argument(
            help="MODULE:CALLABLE that returns a trained model in eval mode with a batch: "
            "(model, inputs) or (model, inputs, targets)."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="integrated_gradients, conductance, gradient_x_activation, ablation or occlusion."
        ),
    ] = "integrated_gradients",
    label: Annotated[
        list[int] | None, typer.Option("--class", help="Class to attribute; again for more.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Points of the integral.")] = 32,
    batch: Annotated[int, typer.Option(help="Samples that one forward pass may hold.")] = 256,
    saliency: Annotated[bool, typer.Option(help="Attribute to the input as well.")] = False,
    fidelity: Annotated[
        bool, typer.Option(help="Compare surrogates: whose gradients explain the network?")
    ] = False,
    run: Annotated[Path | None, typer.Option(help="Run folder to keep the result with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Attribute the output to every timestep of every layer, with the error of doing so."""
    from .analysis.attribution_study import store_attribution, store_timesteps
    from .analysis.fidelity import store_fidelity
    from .data.runs import open_run
    from .probes.attribute import attribute as find
    from .probes.surrogate_fidelity import surrogate_fidelity
    from .probes.target import build_case
    from .probes.timestep_importance import timestep_importance

    folder = None if run is None else open_run(run).path  # before any long work
    case = build_case(target)
    if case.inputs is None:
        raise ValueError(f"{target!r} returned a model alone: return (model, inputs)")
    found = find(
        case.model, case.inputs, label or None, method,
        steps=steps, internal_batch_size=batch, saliency=saliency, progress=not as_json,
    )  # fmt: skip
    importance = None
    if case.targets is not None:
        importance = timestep_importance(
            case.model, case.inputs, case.targets, internal_batch_size=batch, progress=not as_json
        )
    curve = None
    if fidelity:
        curve = surrogate_fidelity(
            case.model, case.inputs, case.targets,
            steps=steps, internal_batch_size=batch, progress=not as_json,
        )  # fmt: skip
    if folder is not None:
        store_attribution(folder, found)
        if curve is not None:
            store_fidelity(folder, curve)
        if importance is not None:
            store_timesteps(folder, importance)
    if as_json:
        print_json(_content(found, importance, curve))
        return
    _print(Console(), found, importance, curve)
    if folder is not None:
        Console().print(f"Kept with the run: spikescope dashboard {folder}", soft_wrap=True)


def _content(
    found: Attribution, importance: TimestepImportance | None, curve: FidelityCurve | None
) -> dict[str, Any]:
    from dataclasses import asdict

    content: dict[str, Any] = {
        "method": found.method,
        "badge": found.badge,
        "checks": [{**asdict(check), "faithful": check.faithful} for check in found.checks()],
        "table": found.table().to_dict("records"),
        "settings": dict(found.settings),
        "notes": list(found.notes),
    }
    if importance is not None:
        content["timesteps"] = importance.table().to_dict("records")
        content["timesteps_enough"] = importance.enough
        content["timesteps_reason"] = importance.reason
    if curve is not None:
        content["fidelity"] = curve.table().to_dict("records")
        content["fidelity_reading"] = curve.reading
    return content


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _print(
    console: Console,
    found: Attribution,
    importance: TimestepImportance | None,
    curve: FidelityCurve | None,
) -> None:
    console.print(f"{found.method}: {found.badge}", style="bold")
    for note in found.notes:
        console.print(f"Mind: {note}", markup=False)
    rows = [
        {
            "layer": check.layer,
            "output change": check.output_change,
            "attributed": check.attributed,
            "gap": f"{check.gap:.1%} ± {check.gap_error:.1%}",
            "agrees with ablation": f"{check.agreement:.2f} "
            f"({check.agreement_low:.2f} to {check.agreement_high:.2f})",
            "stable": f"{check.stability:.2f}",
            "verdict": "adds up" if check.faithful else "does not add up",
        }
        for check in found.checks()
    ]
    print_rows(console, rows)
    table = found.table()
    print_rows(
        console,
        [
            {
                "layer": row["layer"],
                "class": row["class"],
                "t": row["t"],
                "score": f"{row['score']:.4g} ± {row['score_se']:.1g}",
                "silent at t costs": f"{row['ablation']:.4g} ± {row['ablation_se']:.1g}",
            }
            for row in table.to_dict("records")
        ],
    )
    if curve is not None:
        print_rows(console, _records(curve.table()))
        console.print(curve.reading, markup=False)
    if importance is None:
        return
    print_rows(console, _records(importance.table()))
    if importance.reason:
        console.print(f"Accuracy with fewer timesteps: {importance.reason}", markup=False)
    else:
        console.print(
            f"{importance.enough} timesteps do as well as all, as far as this batch shows."
        )
