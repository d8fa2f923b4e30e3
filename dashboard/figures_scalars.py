"""Loss and other given numbers over training."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_style import figure, nothing, number, palette, plain

MOST_POINTS = 1000
"""Points of a line; above, the smallest and largest of each stretch are kept."""


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
    kept = {0, len(values) - 1}
    for piece in np.array_split(np.arange(len(values)), (most - 2) // 2):
        stretch = values[piece]
        if np.isfinite(stretch).any():
            kept |= {int(piece[np.nanargmin(stretch)]), int(piece[np.nanargmax(stretch)])}
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
    finite = np.where(np.isfinite(values), values, np.nan)
    text = f"{name} goes from {number(values[0])} at step {series.index[0]}"
    text += f" to {number(values[-1])} at step {series.index[-1]}"
    if np.isfinite(finite).any():
        lowest = int(np.nanargmin(finite))
        text += f"; its lowest value is {number(values[lowest])} at step {series.index[lowest]}"
    drawn = figure(theme, title, text[0].upper() + text[1:] + ".", 260)
    drawn.add_trace(
        go.Scatter(
            x=series.index.to_numpy()[kept].tolist(),
            y=values[kept].tolist(),
            mode="lines+markers" if len(kept) <= 40 else "lines",
            line={"color": colours.accent, "width": 2},
            hovertemplate=f"step %{{x}}<br>{plain(name)} %{{y:.4g}}<extra></extra>",
        )
    )
    if step is not None:
        drawn.add_vline(x=step, line={"color": colours.muted, "width": 1.5, "dash": "dot"})
    drawn.update_xaxes(title_text="optimiser step", fixedrange=True)
    drawn.update_yaxes(title_text=plain(name), fixedrange=True)
    return drawn


def loss(run: Run, *, step: int | None = None, theme: str = "light") -> go.Figure:
    """Draw the loss over training; see :func:`scalar_curve`."""
    return scalar_curve(run, "loss", step=step, theme=theme)
