"""One metric of one layer over the timesteps, with error bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_axes import error_bars, log_axis, of_layer, time_axis
from .figures_style import figure, nothing, palette
from .lazy import last_step, lazy
from .metrics import METRICS, Metric, metric_values


def profile_values(
    run: Run, layer: str, metric: str, *, step: int | None = None, mode: str = "train"
) -> pd.DataFrame:
    """Return one metric of one layer per timestep.

    Args:
        run: a recorded run.
        layer: name of a layer.
        metric: a key of :data:`METRICS`.
        step: a recorded step; the last one of this layer if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        A DataFrame with columns step, t, value, error (the metric's unit); empty when this layer
        has no record there.

    Raises:
        ValueError: an unknown metric or layer.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is unknown: it must be one of {', '.join(METRICS)}")
    record, entry = lazy(run), run.layer(layer)
    if step is None:
        step = last_step(record, layer, mode)
    table = record.rows_at(step, mode) if step is not None else record.overall().iloc[:0]
    table = table[table["layer"] == layer]
    values, errors = metric_values(table, METRICS[metric], {layer: entry.scale})
    return pd.DataFrame(
        {
            "step": table["step"].to_numpy(),
            "t": table["t"].to_numpy(),
            "value": values,
            "error": errors,
        }
    )


def profile(
    run: Run,
    layer: str,
    metric: str = "coverage",
    *,
    step: int | None = None,
    mode: str = "train",
    t: int | None = None,
    theme: str = "light",
) -> go.Figure:
    """Draw one metric of one layer per timestep with its standard error.

    Args:
        run: a recorded run.
        layer: name of a layer.
        metric: ``"coverage"``, ``"rate"``, ``"gradient"`` or ``"drift"``.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        t: a timestep to stress.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; the gradient is on a log axis.

    Raises:
        ValueError: an unknown metric, layer or theme.
    """
    rows = profile_values(run, layer, metric, step=step, mode=mode)
    what = METRICS[metric]
    drawable = np.isfinite(rows["value"]) & ((rows["value"] > 0) | (not what.log))
    if not drawable.any():
        why = what.absent if len(rows) else f"this layer was not recorded there in {mode}"
        if len(rows) and np.isfinite(rows["value"]).any():
            why = "it is exactly 0 at every timestep"
        return nothing(theme, what.title, f"Nothing to draw: {why}.")
    at = int(rows["step"].iloc[0])
    dropped = rows["t"][~drawable].tolist()
    rows = rows[drawable]
    ink = what.line(theme)
    title = f"{what.title}, step {at} ({mode})"
    drawn = figure(theme, title, _sentence(rows, what.name, at, dropped), 320)
    drawn.add_trace(
        go.Scatter(
            x=rows["t"].tolist(),
            y=rows["value"].tolist(),
            error_y=error_bars(rows["error"], theme),
            customdata=[[layer, int(place)] for place in rows["t"]],
            mode="lines+markers",
            line={"color": ink, "width": 2},
            marker={
                "size": [14 if place == t else 8 for place in rows["t"]],
                "opacity": 1.0,
                "color": ink,
                "line": {"width": 1.5, "color": palette(theme).paper},
            },
            hovertext=[
                f"t = {row.t}<br>{what.symbol} {what.show(row.value, row.error)}"
                for row in rows.itertuples()
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    of_layer(drawn, layer)
    time_axis(drawn, len(rows))
    drawn.update_yaxes(
        title_text=what.unit,
        tickformat=".0%" if what.percent else None,
        **_vertical(rows, what),
    )
    return drawn


def _vertical(rows: pd.DataFrame, what: Metric) -> dict[str, Any]:
    """Return the axis: from 0 for shares and rates, logarithmic for gradients."""
    top = float((rows["value"] + rows["error"].fillna(0.0)).max())
    if not what.log:
        free = {"range": [0.0, top * 1.08 or 1.0]} if what.column else {}
        return free | {"fixedrange": True}
    return log_axis(rows["value"].to_numpy())


def _sentence(rows: pd.DataFrame, name: str, step: int, dropped: list[int]) -> str:
    what = METRICS[name]
    first, last = rows.iloc[0], rows.iloc[-1]
    text = f"{what.symbol} at step {step}: {what.show(first['value'], first['error'])}"
    if len(rows) > 1:
        text += (
            f" at t = {first['t']:.0f}, {what.show(last['value'], last['error'])} "
            f"at t = {last['t']:.0f}"
        )
    text += "." if what.percent else f" ({what.unit})."
    if dropped:
        text += f" No value, or exactly 0, at t = {', '.join(map(str, dropped))}."
    return text[0].upper() + text[1:]
