"""The command that shows, on real data, what goes wrong, what mends it, and that it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .cli_print import print_diagnosis, print_rows
from .cli_serve import PORT, require_address, serve_folder

if TYPE_CHECKING:
    from .data.runs import Run


def demo(
    data: Annotated[str, typer.Option(help="Data set to train on: digits.")] = "digits",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder that the runs are written under.")] = Path(
        "runs"
    ),
    seed: Annotated[int, typer.Option(help="Seed of split, weights and order.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes through the training data.")] = 8,
    serve: Annotated[bool, typer.Option(help="Open the dashboard at the end.")] = True,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = PORT,
) -> None:
    """Train a real spiking network, diagnose it, apply the recommendation, train again, compare."""
    from .analysis.findings import diagnose
    from .data.runs import open_run
    from .probes.demo import Demo

    console = Console()
    if serve:
        require_address(host, port)
    story = Demo(out / f"{data}-demo", data, device, seed, epochs, console)

    console.rule("1. As people set it up")
    console.print("Six spiking convolutions, PyTorch's own weights, fast sigmoid of slope 25.")
    before = story.train_as_set_up()
    _say_accuracy(console, before.accuracy, story.test_samples)
    if before.path is None:
        raise ValueError(f"nothing could be written under {str(out)!r}: name a folder with --out")

    console.rule("2. What the record shows")
    run_before = open_run(before.path)
    print_diagnosis(console, diagnose(run_before))

    console.rule("3. What to change before training")
    advice = story.recommend()
    print_rows(console, advice.rows())
    for entry in advice:
        console.print(f"{entry.layer}: {entry.reason}", markup=False, highlight=False)

    console.rule("4. The same network from the same weights, with the recommendation applied")
    after = story.train_recommended(advice)
    _say_accuracy(console, after.accuracy, story.test_samples)
    if after.path is None:
        raise ValueError(f"nothing could be written under {str(out)!r}: name a folder with --out")
    run_after = open_run(after.path)
    print_diagnosis(console, diagnose(run_after))

    console.rule("5. Side by side")
    print_rows(
        console,
        [
            {"": "test accuracy", "as set up": f"{before.accuracy:.1%}",
             "recommended": f"{after.accuracy:.1%}"},
            *side_by_side(run_before, run_after),
        ],
    )  # fmt: skip
    console.print(f"Both runs are in {story.folder}", soft_wrap=True)
    if serve:
        view = f"?page=compare&run={before.path.name}&other={after.path.name}"
        serve_folder(story.folder, host, port, view)
    else:
        console.print(f"To look at them: spikescope dashboard {story.folder}", soft_wrap=True)


def _say_accuracy(console: Console, accuracy: float, samples: int) -> None:
    console.print(f"Test accuracy {accuracy:.1%} on {samples} images the network has not seen.")


def side_by_side(before: Run, after: Run) -> list[dict[str, Any]]:
    """Return rows that set two runs of one network side by side at their last recorded step."""
    columns = {
        "firing rate": ("rate", "{:.3f}"),
        "coverage": ("coverage", "{:.0%}"),
        "rms of dL/du": ("grad_u_rms", "{:.1e}"),
    }
    tables = [run.table([name for name, _ in columns.values()], mode="train")
              for run in (before, after)]  # fmt: skip
    rows = []
    for layer in (layer.name for layer in before.covered):
        for title, (column, shown) in columns.items():
            values = []
            for table in tables:
                here = table[(table["layer"] == layer) & (table["step"] == table["step"].max())]
                values.append(shown.format(here[column].mean()) if len(here) else "not recorded")
            rows.append({"": f"{layer} {title}", "as set up": values[0], "recommended": values[1]})
    return rows
