"""Loss and other given numbers over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_axes import mark_step
from .figures_style import figure, nothing, number, palette, plain, short

MOST_POINTS = 1000
"""Points of a line; above, the smallest and largest of each stretch are kept."""


WIDEST = 39
"""Characters of a title that a narrow screen shows whole."""

FEW_POINTS = 12
"""Points of a line up to which each is marked: every mark costs the page a node."""


def thin(values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Return which points to keep so that no peak is lost.

    Args:
        values: ``[n]`` values in order; NaN allowed.
        most: points to keep at most, >= 4.

    Returns:
        Ascending indices: all of them if there are few, else the first, the last, and the smallest
        and largest of each stretch.

    Example:
        >>> thin(np.array([0.0, 9.0, 1.0, 1.0, -5.0, 1.0, 1.0, 1.0]), most=4).tolist()
        [0, 1, 4, 7]
    """
    if len(values) <= most:
        return np.arange(len(values))
    # Stretches of a power of two stay where they are while a run grows: what was sent stays.
    length = 1
    while 2 * -(-len(values) // length) + 2 > most:
        length *= 2
    kept = {0, len(values) - 1}
    for begin in range(0, len(values), length):
        stretch = values[begin : begin + length]
        if np.isfinite(stretch).any():
            kept |= {begin + int(np.nanargmin(stretch)), begin + int(np.nanargmax(stretch))}
    return np.array(sorted(kept))


def scalar_curve(
    run: Run, name: str = "loss", *, step: int | None = None, theme: str = "light"
) -> go.Figure:
    """Draw one given number over training.

    Args:
        run: a recorded run.
        name: a column of ``run.scalars()``.
        step: a step to mark.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.
    """
    scalars = run.scalars()
    title = f"{name[:1].upper()}{name[1:]} over training"
    if name not in scalars or scalars[name].dropna().empty:
        return nothing(theme, title, f"No {name} was given to probe.step().")
    series = scalars[name].dropna()
    values = series.to_numpy(dtype=float)
    kept = thin(values)
    colours = palette(theme)
    drawn = figure(theme, title, _course(name, series), 260)
    drawn.add_trace(
        go.Scatter(
            x=series.index.to_numpy()[kept].tolist(),
            y=values[kept].tolist(),
            mode="lines+markers" if len(kept) <= 40 else "lines",
            line={"color": colours.accent, "width": 2},
            hovertemplate=f"step %{{x}}<br>{plain(name)} %{{y:.4g}}<extra></extra>",
        )
    )
    mark_step(drawn, step, theme)
    drawn.update_xaxes(title_text="optimiser step", fixedrange=True)
    drawn.update_yaxes(title_text=plain(short(name)), **_range(values))
    return drawn


def loss(run: Run, *, step: int | None = None, theme: str = "light") -> go.Figure:
    """Draw the loss over training; see :func:`scalar_curve`."""
    return scalar_curve(run, "loss", step=step, theme=theme)


def scalar_curves(
    run: Run,
    names: Sequence[str],
    *,
    step: int | None = None,
    marks: Sequence[tuple[int, str]] = (),
    theme: str = "light",
) -> go.Figure:
    """Draw several given numbers over training, one above the other.

    Args:
        run: a recorded run.
        names: columns of ``run.scalars()``, the first on top.
        step: a step to mark.
        marks: ``(step, words)`` of what began where, marked on the axis.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.
    """
    scalars = run.scalars()
    given = [name for name in names if name in scalars and not scalars[name].dropna().empty]
    title = f"{', '.join(short(name) for name in given) or 'loss'} over training"
    title = f"{title[0].upper()}{title[1:]}" if len(title) <= WIDEST else "Over training"
    if not given:
        return nothing(theme, title, "No loss was given to probe.step().")
    colours = palette(theme)
    said = " ".join(_course(name, scalars[name].dropna()) for name in given)
    drawn = figure(theme, title, said, 96 + 130 * len(given))
    height = 1.0 / len(given)
    for k, name in enumerate(given):
        series = scalars[name].dropna()
        values = series.to_numpy(dtype=float)
        kept = thin(values)
        axis = "" if k == 0 else str(k + 1)
        drawn.add_trace(
            go.Scatter(
                name=plain(name),
                x=series.index.to_numpy()[kept].tolist(),
                y=values[kept].tolist(),
                yaxis=f"y{axis}",
                mode="lines+markers" if len(kept) <= FEW_POINTS else "lines",
                line={"color": colours.accent, "width": 2},
                hovertemplate=f"step %{{x}}<br>{plain(name)} %{{y:.4g}}<extra></extra>",
            )
        )
        top = 1.0 - k * height
        settings = {
            "title": {"text": plain(short(name)), "font": {"size": 14}, "standoff": 10},
            "domain": [top - 0.82 * height, top],
            "nticks": 4,
            "gridcolor": colours.grid,
            "tickfont": {"size": 14},
            "zeroline": False,
            "exponentformat": "e",
            "automargin": True,
            **_range(values),
        }
        drawn.update_layout({f"yaxis{axis}": settings})
    if marks:
        # On the top panel's floor: where something began.
        series = scalars[given[0]].dropna()
        floor = float(np.nanmin(series.to_numpy(dtype=float)))
        drawn.add_trace(
            go.Scatter(
                name="findings",
                x=[at for at, _ in marks],
                y=[floor] * len(marks),
                mode="markers",
                marker={"symbol": "triangle-up", "size": 11, "color": colours.alarm},
                hovertext=[plain(words) for _, words in marks],
                hovertemplate="since step %{x}<br>%{hovertext}<extra></extra>",
            )
        )
    mark_step(drawn, step, theme)
    last = "" if len(given) == 1 else str(len(given))
    drawn.update_xaxes(title_text="optimiser step", anchor=f"y{last}", fixedrange=True)
    return drawn


def _range(values: np.ndarray) -> dict[str, Any]:
    """Return the settings of a vertical axis; one that is constant keeps its scale from 0."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() < finite.max():
        return {"fixedrange": True}
    value = float(finite[0])
    ends = sorted((0.0, 2.0 * value)) if value else [-1.0, 1.0]
    return {"range": ends, "fixedrange": True}


def _course(name: str, series: pd.Series) -> str:
    values = series.to_numpy(dtype=float)
    finite, drawn = values[np.isfinite(values)], len(thin(values))
    first, last = series.index[0], series.index[-1]
    said = short(name, 80)
    if len(values) == 1:
        text = f"{said} is {number(values[0])} at step {first}, its only value"
    elif finite.size == len(values) and finite.min() == finite.max():
        text = f"{said} stays at {number(values[0])} from step {first} to step {last}"
    else:
        text = f"{said} goes from {number(values[0])} at step {first} to {number(values[-1])} "
        text += f"at step {last}"
        if finite.size and finite.min() < min(values[0], values[-1]):
            lowest = int(np.nanargmin(np.where(np.isfinite(values), values, np.inf)))
            text += f"; its lowest value is {number(values[lowest])} at step {series.index[lowest]}"
    if drawn < len(values):
        text += f" ({drawn} of {len(values)} values are drawn, no peak is left out)"
    return f"{text[0].upper()}{text[1:]}."
