"""The command that compares recorded runs."""

from __future__ import annotations

import math
from enum import StrEnum
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .cli_print import AsJson, print_json, print_rows

if TYPE_CHECKING:
    import pandas as pd

RUNS_HELP = "Run folder, folder of runs, or quoted pattern such as 'runs/plain-*'."


class By(StrEnum):
    """What makes two records of different runs comparable."""

    step = "step"
    loss = "loss"


def compare(
    run_a: Annotated[str, typer.Argument(help=RUNS_HELP)],
    run_b: Annotated[str, typer.Argument(help=f"The same; differences are b - a. {RUNS_HELP}")],
    as_json: AsJson = False,
    by: Annotated[By, typer.Option(help="Compare equal steps, or equal training loss.")] = By.step,
    level: Annotated[float, typer.Option(help="Bound on the false discovery rate.")] = 0.05,
) -> None:
    """Say how two runs, or two groups of runs, differ, and where they part first."""
    from .analysis.compare import compare as differ
    from .analysis.compare import parting

    sides = _runs(run_a), _runs(run_b)
    table = differ(*sides, by=by.value, level=level)
    parts = parting(table)
    if as_json:
        content = {
            **{name: [str(path) for path in side] for name, side in zip("ab", sides, strict=True)},
            "by": by.value,
            "level": level,
            "notes": table.attrs["notes"],
            "parting": _plain(parts),
            "differences": _plain(table),
        }
        print_json(content)
        return
    console = Console()
    for note in table.attrs["notes"]:
        console.print(f"Note: {note}", markup=False)
    rows = _last(table, parts, by.value)
    print_rows(console, [row for row, worth in rows if worth])
    if quiet := sum(not worth for _, worth in rows):
        console.print(f"{quiet} more do not differ beyond their error bars (--json has them).")
    console.print(_said(parts, table, by.value), markup=False)


def _runs(words: str) -> list[Path | str]:
    """Return the runs that a person named: one, those in a folder, or those of a pattern."""
    from .data.remote import is_remote
    from .data.runs import find_runs

    if is_remote(words):
        return [words]
    if not has_magic(words) or Path(words).exists():
        paths: list[Path | str] = [*find_runs(words)] if Path(words).is_dir() else [Path(words)]
        # A folder without a run is handed on: open_run says what is wrong with it.
        return paths or [Path(words)]
    found = sorted(Path(path) for path in glob(words) if Path(path).is_dir())
    if not found:
        raise ValueError(f"no folder matches {words!r}: name a run, or a pattern that runs match")
    return [*found]


def _last(table: pd.DataFrame, parts: pd.DataFrame, axis: str) -> list[tuple[dict[str, Any], bool]]:
    """Return a row per layer and quantity, and whether it is worth showing.

    A row shows the clearest difference at the last record. It is worth showing where the two sides
    part or differ there, and for what is said of the whole model.
    """
    rows = []
    names = ["mode", "layer", "quantity", "parts_at", "t"]
    place = {tuple(row[:3]): row[3:] for row in parts[names].itertuples(index=False)}
    several = table.loc[table["mode"] != "", "mode"].nunique() > 1
    groups = table.groupby(["mode", "layer", "quantity"], sort=False)
    for (mode, layer, quantity), group in groups:
        at = group[axis].max() if axis == "step" else group[axis].min()
        last = group[group[axis] == at].sort_values("p", kind="stable").iloc[0]
        parts_at, t = place[mode, layer, quantity]
        parted = not math.isnan(parts_at)
        error = "" if math.isnan(last["error"]) else f" ± {last['error']:.2g}"
        row = {
            "layer": (f"{layer} ({mode})" if several else layer) if layer else "model",
            "quantity": quantity,
            f"parts at {axis}": (f"{parts_at:g}" + (f", t = {t}" if layer else ""))
            if parted
            else "-",
            f"last {axis}": f"{at:g}" + (f", t = {last['t']}" if layer else ""),
            "a": f"{last['a']:.4g}",
            "b": f"{last['b']:.4g}",
            "b - a": f"{last['difference']:.3g}{error}{' *' if last['significant'] else ''}",
        }
        rows.append((row, parted or bool(last["significant"]) or not layer))
    return rows


def _said(parts: pd.DataFrame, table: pd.DataFrame, axis: str) -> str:
    """Return the verdict in a sentence or two."""
    tests = int(table["p"].notna().sum())
    counted = f"* significant after correction for {tests} tests."
    if not tests:
        return "No quantity has an error bar: nothing can be called significant."
    parted = parts[parts["parts_at"].notna()]
    if not len(parted):
        return f"The two sides do not part. {counted}"
    first = parted.iloc[0]
    where = f"{first['layer']} at t = {first['t']}" if first["layer"] else "the model"
    return (
        f"They part first at {axis} {first['parts_at']:g}: {first['quantity']} of {where} "
        f"({first['difference']:+.3g} ± {first['error']:.2g}). {counted}"
    )


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows for JSON, which knows no NaN."""
    return [
        {str(name): None if value != value else value for name, value in row.items()}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]
