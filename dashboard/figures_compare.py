"""Two or more runs beside each other: where they differ, and from when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.compare import compare, parting
from ..data.runs import Run
from .figures_scalars import thin
from .figures_style import figure, nothing, number, palette, plain, short
from .lazy import lazy
from .metrics import METRICS

QUANTITIES = {"coverage": "coverage", "rate": "rate", "gradient": "grad_u_rms", "drift": "u_mean"}
"""Column that is compared for each metric of the heatmap."""

MOST_NAMES = 30
"""Layer names on an axis; with more layers every n-th is written."""

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
        notes = table.attrs.get("notes", [])
        table = table[table["quantity"] == QUANTITIES[metric]].reset_index(drop=True)
        table.attrs["notes"] = notes
        return table

    ends = [
        int(steps[-1]) if len(steps) else -1 for steps in (first.steps(mode), second.steps(mode))
    ]
    name = f"compare {second.path} {ends[1]} {metric} {align}"
    return first.once(name, ends[0], mode, work_out)


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
        hover[k][j] = (
            f"{row['difference']:+.4g} ± {row['error']:.2g} (a {row['a']:.4g}, b {row['b']:.4g}, "
            f"q = {row['q']:.2g})"
        )
        if not row["significant"]:
            open_cells.append((k, j))
    point = rows[align].iloc[0]
    where = f"{align} {point:g}"
    drawn = figure(
        theme, f"{title}: b - a at {where} ({mode})",
        _difference_words(rows, title, where, len(open_cells)),
        int(np.clip(136 + 32 * len(layers), 280, 900)),
    )  # fmt: skip
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    drawn.add_trace(
        go.Heatmap(
            x=[int(t) for t in at_t],
            y=list(range(len(layers))),
            z=[[None if np.isnan(v) else float(v) for v in line] for line in values],
            zmin=-limit,
            zmax=limit,
            colorscale="PuOr",
            colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 14}},
            customdata=[[plain(layer)] * shape[1] for layer in layers],
            hovertext=hover,
            hovertemplate="%{customdata}<br>t = %{x}<br>%{hovertext}<extra></extra>",
        )
    )
    if open_cells:
        colours = palette(theme)
        drawn.add_trace(
            go.Bar(
                x=[int(at_t[j]) for _, j in open_cells],
                y=[1.0] * len(open_cells),
                base=[k - 0.5 for k, _ in open_cells],
                width=1.0,
                marker={
                    "color": "rgba(0,0,0,0)",
                    "line": {"width": 0},
                    "pattern": {"shape": "/", "fgcolor": colours.muted, "size": 8,
                                "solidity": 0.15},
                },
                hoverinfo="skip",
            )
        )  # fmt: skip
    every = -(-len(layers) // 45)
    drawn.update_yaxes(
        range=[len(layers) - 0.5, -0.5],
        tickvals=list(range(0, len(layers), every)),
        ticktext=[plain(short(layer)) for layer in layers[::every]],
        showgrid=False,
        fixedrange=True,
    )
    drawn.update_xaxes(
        title_text="timestep t", range=[at_t[0] - 0.5, at_t[-1] + 0.5],
        dtick=max(1, len(at_t) // 16), tick0=int(at_t[0]), showgrid=False, fixedrange=True,
    )  # fmt: skip
    unit = "potential" if metric == "drift" else what.unit
    drawn.update_layout(bargap=0, barmode="overlay", margin_t=72)
    drawn.update_layout(title_subtitle={"text": plain(unit), "font": {"size": 14}})
    return drawn


def _difference_words(rows: pd.DataFrame, title: str, where: str, chance: int) -> str:
    largest = rows.iloc[int(rows["difference"].abs().fillna(0.0).to_numpy().argmax())]
    return (
        f"At {where}, {title[0].lower()}{title[1:]} differs most in "
        f"{short(str(largest['layer']), 80)} at t = {largest['t']}: b has "
        f"{number(largest['b'])}, a has {number(largest['a'])}, a difference of "
        f"{largest['difference']:+.3g} ± {number(largest['error'])}. {chance} of {len(rows)} cells "
        "are hatched: chance could explain them."
    )


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
    title = "Since when they differ"
    if table.empty:
        return nothing(theme, title, f"Both runs have no {QUANTITIES[metric]} in {mode}.")
    share = table.groupby(align, sort=False)["significant"].mean()
    colours = palette(theme)
    first = first_parting(table)
    if first is None:
        text = "At no point do they part for good: chance could explain every difference."
    else:
        text = f"They part first at {align} {first:g}, and do not meet again after it."
    drawn = figure(theme, title, text, 300)
    points = share.index.to_numpy(dtype=float)
    kept = thin(share.to_numpy(dtype=float))
    drawn.add_trace(
        go.Scatter(
            x=points[kept].tolist(),
            y=share.to_numpy(dtype=float)[kept].tolist(),
            mode="lines+markers" if len(kept) <= 40 else "lines",
            line={"color": colours.accent, "width": 2},
            hovertemplate=f"{align} %{{x:.4g}}<br>%{{y:.1%}} of the cells differ<extra></extra>",
        )
    )
    if first is not None:
        drawn.add_vline(x=first, line={"color": colours.text, "width": 2, "dash": "dot"})
    words = "optimiser step" if align == "step" else "training loss, falling to the right"
    drawn.update_xaxes(
        title_text=words, fixedrange=True, autorange="reversed" if align == "loss" else True
    )
    drawn.update_yaxes(
        title_text="share of cells that differ", tickformat=".0%", range=[0, 1.05], fixedrange=True
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
        said.append(f"{short(run.name, 80)} ends at {number(float(values[-1]))}")
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
    drawn = figure(theme, title, f"The loss of {'; that of '.join(said)}.", 300)
    drawn.add_traces(lines)
    if step is not None:
        drawn.add_vline(x=step, line={"color": colours.muted, "width": 1.5, "dash": "dot"})
    drawn.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin_t=84,
    )  # fmt: skip
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
