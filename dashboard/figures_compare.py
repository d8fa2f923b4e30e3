"""Two or more runs beside each other: where they differ, and from when."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.compare import compare, parting
from ..data.runs import Run
from .figures_axes import (
    COLOUR_BAR,
    MOST_WRITTEN,
    cell_texts,
    grid_height,
    hatched,
    layer_rows,
    mark_step,
    subtitle,
    time_columns,
    top_legend,
)
from .figures_scalars import thin
from .figures_style import figure, nothing, number, palette, plain, short, thinned, with_error
from .lazy import lazy
from .metrics import METRICS

QUANTITIES = {"coverage": "coverage", "rate": "rate", "gradient": "grad_u_rms", "drift": "u_mean"}
"""Column that is compared for each metric of the heatmap."""

DIFFERENCES = [
    [0.0, "#b35806"], [0.25, "#f1a340"], [0.5, "#f7f7f7"], [0.75, "#998ec3"], [1.0, "#542788"],
]  # fmt: skip
"""Colours of b - a: orange where b is below, violet where it is above (ColorBrewer's PuOr)."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def difference_values(a: Run, b: Run, metric: str, align: str, mode: str) -> pd.DataFrame:
    """Return the differences of two runs in one quantity.

    Args:
        a: a recorded run.
        b: another one; differences are b - a.
        metric: a key of :data:`QUANTITIES`.
        align: ``"step"`` or ``"loss"``.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The rows of ``compare(a, b)`` about this quantity, ``attrs["notes"]`` with what to mind.

    Raises:
        ValueError: nothing in common to compare.
    """
    by: Any = align
    first, second = lazy(a), lazy(b)

    def work_out() -> pd.DataFrame:
        table = compare(first, second, by=by, columns=[QUANTITIES[metric]], mode=mode)
        notes = [*_thinned(a, b), *table.attrs.get("notes", [])]
        table = table[table["quantity"] == QUANTITIES[metric]].reset_index(drop=True)
        table.attrs["notes"] = notes
        return table

    ends = [
        int(steps[-1]) if len(steps) else -1 for steps in (first.steps(mode), second.steps(mode))
    ]
    name = f"compare {second.path} {ends[1]} {metric} {align}"
    return first.once(name, ends[0], mode, work_out)


def _thinned(*runs: Run) -> list[str]:
    """Return a note for each run of which only evenly spaced steps are compared."""
    found = []
    for run in runs:
        record = lazy(run)
        some = thinned(len(record.spread()), len(record.steps(None)), "compared")
        if some:
            found.append(f"{run.name}:{some}".removesuffix("."))
    return found


def at_point(table: pd.DataFrame, align: str, step: int | None) -> pd.DataFrame:
    """Return the rows at the last point that is compared, or at the one nearest to a step."""
    if table.empty:
        return table
    points = table[align]
    if step is None or align == "loss":
        point = points.iloc[-1]
    else:
        point = points.iloc[int(np.argmin(np.abs(points.to_numpy(dtype=float) - step)))]
    found: pd.DataFrame = table[points == point]
    return found


def difference_heatmap(
    a: Run,
    b: Run,
    metric: str = "coverage",
    *,
    align: str = "step",
    step: int | None = None,
    mode: str = "train",
    theme: str = "light",
) -> go.Figure:
    """Draw the difference b - a over layers and timesteps; what chance explains is hatched.

    Args:
        a: a recorded run.
        b: another one.
        metric: ``"coverage"``, ``"rate"``, ``"gradient"`` or ``"drift"`` (its mean of u).
        align: ``"step"`` compares equal steps, ``"loss"`` equal losses.
        step: the step nearest to which is shown; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure with its zero in the middle of the colours.

    Raises:
        ValueError: nothing in common to compare.
    """
    name = QUANTITIES[metric]
    what = METRICS[metric]
    title = "Mean of u" if metric == "drift" else what.title
    symbol = title if metric == "drift" else what.symbol
    rows = at_point(difference_values(a, b, metric, align, mode), align, step)
    if rows.empty:
        return nothing(theme, f"Difference in {name}", f"Both runs have no {name} in {mode}.")
    layers = [layer.name for layer in a.layers if (rows["layer"] == layer.name).any()]
    at_t = np.unique(rows["t"].to_numpy())
    shape = (len(layers), len(at_t))
    values, hover = np.full(shape, np.nan), [[""] * shape[1] for _ in layers]
    open_cells = []
    place = {layer: k for k, layer in enumerate(layers)}
    for row in rows.to_dict("records"):
        k, j = place[row["layer"]], int(np.searchsorted(at_t, row["t"]))
        values[k, j] = row["difference"]
        hover[k][j] = _hover(row, what.percent)
        if not row["significant"]:
            open_cells.append((k, j))
    where = _point(align, rows[align].iloc[0])
    unit = "potential" if metric == "drift" else what.unit
    unit = "percentage points" if what.percent else unit
    drawn = figure(
        theme, f"{symbol[0].upper()}{symbol[1:]}: b - a, {where} ({mode})",
        _difference_words(rows, title, where, "" if what.percent else unit, len(open_cells)),
        grid_height(len(layers)),
    )  # fmt: skip
    subtitle(drawn, f"colour: {unit}, b above a is violet")
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    written = len(layers) <= MOST_WRITTEN and len(at_t) <= 8
    drawn.add_trace(
        go.Heatmap(
            x=[int(t) for t in at_t],
            y=list(range(len(layers))),
            z=[[None if np.isnan(v) else float(v) for v in line] for line in values],
            zmin=-limit,
            zmax=limit,
            colorscale=DIFFERENCES,
            colorbar=COLOUR_BAR | ({"tickformat": "+.0%"} if what.percent else {}),
            customdata=[[plain(layer)] * shape[1] for layer in layers],
            text=cell_texts(values * (100 if what.percent else 1), signed=True)
            if written
            else None,
            texttemplate="%{text}" if written else None,
            hovertext=hover,
            hovertemplate="%{customdata}<br>t = %{x}<br>%{hovertext}<extra></extra>",
            xgap=1 if written else 0,
            ygap=1 if written else 0,
        )
    )
    if open_cells:
        drawn.add_trace(hatched(open_cells, at_t, theme))
    layer_rows(drawn, layers)
    time_columns(drawn, at_t)
    drawn.update_layout(bargap=0, barmode="overlay")
    return drawn


def _point(align: str, value: float) -> str:
    """Return a step, or a loss with the digits that tell it from its neighbours."""
    return f"step {value:.0f}" if align == "step" else f"loss {value:.4g}"


def _hover(row: Mapping[Hashable, Any], percent: bool) -> str:
    """Return the numbers of a cell."""
    if percent:
        return (
            f"{100 * row['difference']:+.1f} ± {100 * row['error']:.2g} points "
            f"(a {row['a']:.1%}, b {row['b']:.1%}, q = {row['q']:.2g})"
        )
    return (
        f"{row['difference']:+.4g} ± {row['error']:.2g} (a {row['a']:.4g}, b {row['b']:.4g}, "
        f"q = {row['q']:.2g})"
    )


def _difference_words(rows: pd.DataFrame, title: str, where: str, unit: str, chance: int) -> str:
    largest = rows.iloc[int(rows["difference"].abs().fillna(0.0).to_numpy().argmax())]
    a, b, difference, error = (float(largest[name]) for name in ("a", "b", "difference", "error"))
    if unit:
        numbers = f"{number(a)} in a, {number(b)} in b ({unit}), a difference of "
        numbers += with_error(difference, error)
    else:
        numbers = f"{a:.1%} in a, {b:.1%} in b, a difference of "
        numbers += f"{with_error(100 * difference, 100 * error)} percentage points"
    said = (
        f"At {where}, {title[0].lower()}{title[1:]} differs most in "
        f"{short(str(largest['layer']), 80)} at t = {largest['t']}: {numbers}. "
    )
    if not chance:
        return f"{said}In all {len(rows)} cells the difference is more than chance explains."
    cells = "cell is" if chance == 1 else "cells are"
    return f"{said}{chance} of {len(rows)} {cells} hatched: chance could explain the difference."


def parting_curve(
    a: Run,
    b: Run,
    metric: str,
    *,
    align: str = "step",
    mode: str = "train",
    theme: str = "light",
) -> go.Figure:
    """Draw in how many cells two runs differ beyond chance, over training, and where they part.

    Args:
        a: a recorded run.
        b: another one.
        metric: a key of :data:`QUANTITIES`.
        align: ``"step"`` or ``"loss"``.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.

    Raises:
        ValueError: nothing in common to compare.
    """
    table = difference_values(a, b, metric, align, mode)
    what = "the mean of u" if metric == "drift" else METRICS[metric].symbol
    title = f"Since when {what} differs"
    if table.empty:
        return nothing(theme, title, f"Both runs have no {QUANTITIES[metric]} in {mode}.")
    share = table.groupby(align, sort=False)["significant"].mean()
    first = first_parting(table)
    last = float(share.iloc[-1])
    if first is None:
        text = "At no point do they part for good: chance could explain every difference."
    else:
        text = (
            f"They part at {_point(align, first)} (dotted) and stay apart; at the last point "
            f"{last:.0%} of the cells differ by more than chance explains."
        )
    drawn = figure(theme, title, text, 300)
    points = share.index.to_numpy(dtype=float)
    kept = thin(share.to_numpy(dtype=float))
    drawn.add_trace(
        go.Scatter(
            x=points[kept].tolist(),
            y=share.to_numpy(dtype=float)[kept].tolist(),
            mode="lines+markers" if len(kept) <= 40 else "lines",
            line={"color": METRICS[metric].line(theme), "width": 2},
            hovertemplate=f"{align} %{{x:.4g}}<br>%{{y:.1%}} of the cells differ<extra></extra>",
        )
    )
    if first is not None:
        drawn.add_vline(x=first, line={"color": palette(theme).text, "width": 2, "dash": "dot"})
    words = "optimiser step" if align == "step" else "training loss, falling to the right"
    drawn.update_xaxes(
        title_text=words, fixedrange=True, autorange="reversed" if align == "loss" else True
    )
    drawn.update_yaxes(
        title_text="cells that differ", tickformat=".0%", range=[0, 1.05], fixedrange=True
    )
    return drawn


def first_parting(table: pd.DataFrame) -> float | None:
    """Return the first point from which on two runs differ for good; None if they never do."""
    found = parting(table)["parts_at"].dropna()
    if not len(found):
        return None
    # A loss falls: the first point of training is the largest.
    return float(found.max() if "loss" in table else found.min())


def losses(runs: Sequence[Run], *, step: int | None = None, theme: str = "light") -> go.Figure:
    """Draw the loss of several runs over training.

    Args:
        runs: recorded runs.
        step: a step to mark.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; runs differ by the dash of their line.
    """
    title = "Loss over training"
    colours = palette(theme)
    said, lines = [], []
    for k, run in enumerate(runs):
        scalars = run.scalars()
        series = scalars["loss"].dropna() if "loss" in scalars else pd.Series(dtype=float)
        if series.empty:
            continue
        values = series.to_numpy(dtype=float)
        kept = thin(values)
        said.append(f"that of {short(run.name, 80)} ends at {number(float(values[-1]))}")
        lines.append(
            go.Scatter(
                name=plain(short(run.name, 40)),
                x=series.index.to_numpy()[kept].tolist(),
                y=values[kept].tolist(),
                mode="lines",
                line={
                    "color": colours.accent if k == 0 else colours.text,
                    "width": 2,
                    "dash": _DASHES[k % len(_DASHES)],
                },
                hovertemplate=f"{plain(run.name)}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
            )
        )
    if not lines:
        return nothing(theme, title, "No loss was given to probe.step().")
    drawn = figure(theme, title, f"The loss of {'; '.join(said).removeprefix('that of ')}.", 300)
    drawn.add_traces(lines)
    mark_step(drawn, step, theme)
    top_legend(drawn)
    drawn.update_xaxes(title_text="optimiser step", fixedrange=True)
    drawn.update_yaxes(title_text="loss", fixedrange=True)
    return drawn


def loss_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the losses of several runs by step."""
    columns = {}
    for run in runs:
        scalars = run.scalars()
        if "loss" in scalars:
            columns[f"loss of {run.name}"] = scalars["loss"]
    frame = pd.DataFrame(columns)
    frame.index.name = "step"
    return frame.reset_index()
