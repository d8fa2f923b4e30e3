"""The joint law of u - threshold and |dL/ds|: does gradient arrive where the surrogate is open?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Layer, Run
from .figures_law import gradient_interval
from .figures_style import figure, nothing, palette

TITLE = "Where dL/ds arrives"

NOT_RECORDED = "Not recorded: watch(model, collect='full') records it."


def joint_values(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """Return the joint histogram of u - threshold and |dL/ds| over all timesteps of a step.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; of the steps that have one the nearest before it, the last if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        ``(counts [u_bin, g_bin], u_edges, g_edges, step)``; None where it was not recorded.
    """
    reader: Any = getattr(run, "joint", None)
    if reader is None:
        return None
    joint = reader(layer) if mode == "train" else None
    if joint is None or not len(joint.steps):
        return None
    steps = np.asarray(joint.steps)
    place = len(steps) - 1
    if step is not None:
        place = max(int(np.searchsorted(steps, step, side="right")) - 1, 0)
    counts = np.asarray(joint.counts[place]).sum(axis=0)
    return counts, np.asarray(joint.u_edges), np.asarray(joint.g_edges), int(steps[place])


def joint_frame(run: Run, layer: str, *, step: int | None = None, mode: str = "train") -> Any:
    """Return the filled cells of the joint histogram as a table."""
    found = joint_values(run, layer, step=step, mode=mode)
    names = [
        "u - threshold from (thresholds)",
        "to",
        "|dL/ds| from (loss / spike)",
        "to ",
        "elements",
    ]
    if found is None:
        return pd.DataFrame(columns=names)
    counts, u_edges, g_edges, _ = found
    rows = [
        (u_edges[i], u_edges[i + 1], g_edges[j], g_edges[j + 1], int(counts[i, j]))
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]
    return pd.DataFrame(rows, columns=names)


def joint_density(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train", theme: str = "light"
) -> go.Figure:
    """Draw the joint histogram of u - threshold and |dL/ds|, gradients on a log axis.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; where the run does not hold it, one that says what would record it.

    Raises:
        RunError: an unknown layer.
    """
    entry = run.layer(layer)
    found = joint_values(run, layer, step=step, mode=mode)
    if found is None or not found[0].sum():
        return nothing(theme, TITLE, NOT_RECORDED)
    counts, u_edges, g_edges, at = found
    colours = palette(theme)
    share = counts / counts.sum()
    # Gradients that are exactly 0, or below the first edge, have a bin without a width in decades.
    rows = (g_edges[:-1] > 0) & np.isfinite(g_edges[1:])
    heights = np.sqrt(g_edges[:-1][rows] * g_edges[1:][rows])
    middle = (u_edges[1:] + u_edges[:-1]) / 2
    drawn = figure(theme, f"{TITLE}, step {at} ({mode})", _sentence(entry, found), 360)
    shown = np.where(share > 0, share, np.nan).T[rows]
    drawn.add_trace(
        go.Heatmap(
            x=middle.tolist(),
            y=np.log10(heights).tolist(),
            z=[[None if np.isnan(v) else float(np.log10(v)) for v in line] for line in shown],
            colorscale="Cividis",
            customdata=[[float(v) for v in line] for line in np.nan_to_num(shown)],
            hovertemplate="u - threshold %{x:.3f}<br>|dL/ds| 10<sup>%{y:.2f}</sup><br>"
            "share of elements %{customdata:.2e}<extra></extra>",
            colorbar={"title": {"text": "log10 share"}, "thickness": 10, "outlinewidth": 0},
        )
    )
    interval = gradient_interval(entry)
    level = 1.0 if entry.coordinate == "u" else 0.0
    for value in interval or ():
        drawn.add_vline(
            x=value - level, line={"color": colours.accent, "width": 1.5, "dash": "dot"}
        )
    drawn.add_vline(x=0.0, line={"color": colours.text, "width": 2})
    drawn.update_xaxes(
        title_text="u - threshold (thresholds)",
        range=list(_limits(counts.sum(axis=1), u_edges)),
        fixedrange=True,
    )
    drawn.update_yaxes(title_text="log10 of |dL/ds| (loss / spike)", fixedrange=True)
    return drawn


def _limits(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    below = np.cumsum(counts) / counts.sum()
    left = int(np.searchsorted(below, 1e-3))
    right = min(int(np.searchsorted(below, 1 - 1e-3)) + 1, len(edges) - 1)
    return min(float(edges[left]), -0.1), max(float(edges[right]), 0.1)


def _sentence(entry: Layer, found: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> str:
    counts, u_edges, g_edges, at = found
    interval = gradient_interval(entry)
    total = counts.sum()
    text = f"At step {at}, over all timesteps,"
    if interval is None:
        return f"{text} {int(total)} elements are shown; the surrogate's interval is not known."
    level = 1.0 if entry.coordinate == "u" else 0.0
    middle = (u_edges[1:] + u_edges[:-1]) / 2 + level
    inside = (middle >= interval[0]) & (middle <= interval[1])
    square = (
        np.sqrt(
            np.maximum(g_edges[:-1], 0.0) * np.where(np.isfinite(g_edges[1:]), g_edges[1:], 0.0)
        )
        ** 2
    )
    energy = counts @ square
    held = float(energy[inside].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    return (
        f"{text} {counts[inside].sum() / total:.1%} of the elements lie between the dotted lines, "
        f"where the surrogate is open; {held:.1%} of the squared gradient dL/ds arrives there."
    )
