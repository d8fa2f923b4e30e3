"""Where does the gradient die? Its size over depth and time, and what theory expects of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_axes import (
    MOST_WRITTEN,
    error_bars,
    grid_height,
    layer_labels,
    layer_rows,
    log_axis,
    time_axis,
    top_legend,
)
from .figures_decay import MOST_DECADES, decay_values
from .figures_style import figure, nothing, number, palette, plain, short, time_colours
from .lazy import lazy
from .metrics import METRICS

MOST_LINES = 8
"""Timesteps drawn over depth."""

MOST_NAMED = 4
"""Lines up to which the legend names each; of more the first, a middle and the last one."""


def flow_values(run: Run, *, step: int | None = None, mode: str = "train") -> pd.DataFrame:
    """Return rms of dL/du of every layer and timestep at one step.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        A DataFrame with columns step, layer, t, rms and error (loss / potential), in network
        order; rows without a gradient are left out.
    """
    record = lazy(run)
    steps = record.steps(mode)
    names = {"grad_u_rms": "rms", "grad_u_rms_se": "error"}
    if not len(steps):
        return pd.DataFrame(columns=["step", "layer", "t", *names.values()])
    rows = record.rows_at(int(steps[-1]) if step is None else step, mode)
    rows = rows[np.isfinite(rows["grad_u_rms"]) & (rows["grad_u_count"] > 0)]
    chosen: pd.DataFrame = rows[["step", "layer", "t", *names]]
    return chosen.rename(columns=names).reset_index(drop=True)


def gradient_over_depth(
    run: Run,
    *,
    step: int | None = None,
    mode: str = "train",
    t: int | None = None,
    theme: str = "light",
) -> go.Figure:
    """Draw rms of dL/du over depth on a log axis, a line per timestep.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        t: a timestep to stress.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure, the input at the top.
    """
    frame = flow_values(run, step=step, mode=mode)
    title = "|dL/du| over depth"
    drawable = frame[frame["rms"] > 0]
    if drawable.empty:
        return nothing(theme, title, f"No gradient above 0 was recorded in {mode}.")
    at = int(frame["step"].iloc[0])
    timesteps = np.unique(drawable["t"].to_numpy())
    picked = np.unique(np.linspace(0, len(timesteps) - 1, min(len(timesteps), MOST_LINES)).round())
    layers = [layer.name for layer in run.layers if layer.covered]
    place = {name: k for k, name in enumerate(layers)}
    few = len(layers) <= MOST_WRITTEN
    drawn = figure(
        theme, f"{title}, step {at} ({mode})", _depth_words(drawable, layers),
        grid_height(len(layers)) + 56,
    )  # fmt: skip
    shades = time_colours(len(timesteps), theme)
    ends = [picked[0], picked[len(picked) // 2], picked[-1]]
    for k in picked.astype(int):
        rows = drawable[drawable["t"] == timesteps[k]]
        drawn.add_trace(
            go.Scatter(
                name=f"t = {timesteps[k]}",
                x=rows["rms"].tolist(),
                y=[place[name] for name in rows["layer"]],
                error_x=error_bars(rows["error"], theme) if few else None,
                showlegend=len(picked) <= MOST_NAMED or k in ends or bool(timesteps[k] == t),
                customdata=[[name, int(timesteps[k])] for name in rows["layer"]],
                mode="lines+markers" if few else "lines",
                line={"color": shades[k], "width": 3.5 if timesteps[k] == t else 1.5},
                hovertext=_hovers(rows),
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    top_legend(drawn)
    layer_rows(drawn, layers, grid=True)
    drawn.update_layout(margin_b=76)
    drawn.update_xaxes(
        # Two lines: long names of layers leave little room on a narrow screen.
        title_text="rms of dL/du<br>(loss / potential)",
        **log_axis(drawable["rms"].to_numpy(), MOST_DECADES),
    )
    return drawn


def _hovers(rows: pd.DataFrame) -> list[str]:
    """Return what the hover says of each row: the layer, the timestep, the exact number."""
    show = METRICS["gradient"].show
    return [
        f"{plain(row['layer'])}<br>t = {row['t']}<br>"
        f"{show(row['rms'], row['error'])} loss / potential"
        for row in rows.to_dict("records")
    ]


def gradient_over_time(
    run: Run,
    *,
    step: int | None = None,
    mode: str = "train",
    layer: str = "",
    theme: str = "light",
) -> go.Figure:
    """Draw rms of dL/du over the timesteps on a log axis: first, last and the chosen layer.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        layer: a layer to show beside the first and the last one.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.
    """
    frame = flow_values(run, step=step, mode=mode)
    title = "|dL/du| over time"
    drawable = frame[frame["rms"] > 0]
    if drawable.empty:
        return nothing(theme, title, f"No gradient above 0 was recorded in {mode}.")
    names = list(dict.fromkeys(drawable["layer"]))
    shown = list(dict.fromkeys([names[0], *([layer] if layer in names else []), names[-1]]))
    labels = dict(zip(shown, layer_labels(shown), strict=True))
    at = int(frame["step"].iloc[0])
    colours, ink = palette(theme), METRICS["gradient"].line(theme)
    decays = decay_values(run, step=step, mode=mode).set_index("layer")
    text = " ".join(
        _time_words(drawable[drawable["layer"] == name], name, decays.loc[name]) for name in shown
    )
    drawn = figure(theme, f"{title}, step {at} ({mode})", text, 360)
    styles = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"))
    for name, (dash, symbol) in zip(shown, styles, strict=False):
        rows = drawable[drawable["layer"] == name]
        drawn.add_trace(
            go.Scatter(
                name=plain(labels[name]),
                x=rows["t"].tolist(),
                y=rows["rms"].tolist(),
                error_y=error_bars(rows["error"], theme),
                customdata=[[name, int(t)] for t in rows["t"]],
                mode="lines+markers",
                marker={"symbol": symbol, "size": 9},
                line={"color": ink if name == layer else colours.text, "dash": dash},
                hovertext=_hovers(rows),
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    top_legend(drawn)
    time_axis(drawn, drawable["t"].nunique())
    values = drawable[drawable["layer"].isin(shown)]["rms"].to_numpy()
    drawn.update_yaxes(title_text="rms of dL/du (loss / potential)", **log_axis(values, 6))
    return drawn


def _depth_words(frame: pd.DataFrame, layers: list[str]) -> str:
    rms, show = frame["rms"].to_numpy(dtype=float), METRICS["gradient"].show
    low, high = frame.iloc[int(rms.argmin())], frame.iloc[int(rms.argmax())]
    return (
        f"The rms of dL/du runs from {show(low['rms'])} in {short(low['layer'], 80)} at "
        f"t = {low['t']} to {show(high['rms'])} in {short(high['layer'], 80)} at "
        f"t = {high['t']} (loss / potential), over {len(layers)} layers."
    )


def _time_words(rows: pd.DataFrame, name: str, decay: pd.Series) -> str:
    first, last, show = rows.iloc[0], rows.iloc[-1], METRICS["gradient"].show
    return (
        f"The rms of dL/du in {short(name, 80)} is {show(first['rms'])} at t = {first['t']} and "
        f"{show(last['rms'])} at t = {last['t']} (loss / potential){_per_step_words(decay)}."
    )


def _per_step_words(decay: pd.Series) -> str:
    """Say how the gradient changes from a timestep to the one before it."""
    if not np.isfinite(decay["per timestep"]):
        return ""
    text = f": {number(float(decay['per timestep']))} times per timestep back"
    if np.isfinite(decay["leak alone"]):
        text += f", {number(float(decay['leak alone']))} by the leak alone"
    return text
