"""The joint law of u - threshold and |dL/ds|: does gradient arrive where the surrogate is open?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.fine import Joint
from ..data.parts import part_paths
from ..data.runs import Layer, Run
from .figures_law import gradient_interval
from .figures_style import figure, nothing, palette
from .lazy import last_step, lazy

TITLE = "Where dL/ds arrives"

NOT_RECORDED = "Not recorded: watch(model, collect='full') records it."


def joint_values(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> Joint | None:
    """Return the joint histograms of u - threshold and |dL/ds| at one step.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one of this layer if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The histograms of that step alone; None where they were not recorded.

    Raises:
        RunError: an unknown layer.
    """
    at = last_step(lazy(run), layer, mode) if step is None else step
    if at is None:
        return None
    joint = run.joint(layer, mode=mode, steps=[at])
    return joint if len(joint.steps) and joint.counts.sum() else None


def joint_frame(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> pd.DataFrame:
    """Return the filled cells of the joint histogram as a table."""
    found = joint_values(run, layer, step=step, mode=mode)
    names = ["u - threshold from (thresholds)", "u - threshold to (thresholds)",
             "|dL/ds| from (loss / spike)", "|dL/ds| to (loss / spike)", "elements"]  # fmt: skip
    if found is None:
        return pd.DataFrame(columns=names)
    counts = found.counts[0].sum(axis=0)
    rows = [
        (found.u_edges[i], found.u_edges[i + 1], found.g_edges[j], found.g_edges[j + 1],
         int(counts[i, j]))
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]  # fmt: skip
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
    if found is None:
        holds = part_paths(run.path, "joints")
        return nothing(
            theme, TITLE, f"Not recorded at this step in {mode}." if holds else NOT_RECORDED
        )
    counts, at = found.counts[0].sum(axis=0), int(found.steps[0])
    colours = palette(theme)
    share = counts / counts.sum()
    middle = (found.u_edges[1:] + found.u_edges[:-1]) / 2
    # Exact zeros have no place on a log axis: the sentence says how many they are.
    filled = np.flatnonzero(counts[:, 2:].any(axis=0)) + 2
    rows = np.arange(filled[0], filled[-1] + 1) if len(filled) else np.array([], dtype=int)
    heights = np.log10(np.sqrt(found.g_edges[rows] * found.g_edges[rows + 1]))
    drawn = figure(theme, f"{TITLE}, step {at} ({mode})", _sentence(entry, found), 360)
    shown = share.T[rows]
    drawn.add_trace(
        go.Heatmap(
            x=middle.tolist(),
            y=heights.tolist(),
            z=[[float(np.log10(v)) if v > 0 else None for v in line] for line in shown],
            colorscale="Cividis",
            customdata=shown.tolist(),
            hovertemplate="u - threshold %{x:.3f} thresholds<br>"
            "|dL/ds| 10^%{y:.2f} loss / spike<br>"
            "share of elements %{customdata:.2e}<extra></extra>",
            colorbar={
                "title": {"text": "log10 share"}, "thickness": 10, "outlinewidth": 0,
                "tickfont": {"size": 14},
            },
        )
    )  # fmt: skip
    interval = gradient_interval(entry)
    level = 1.0 if entry.coordinate == "u" else 0.0
    for value in interval or ():
        drawn.add_vline(
            x=value - level, line={"color": colours.accent, "width": 1.5, "dash": "dot"}
        )
    drawn.add_vline(x=0.0, line={"color": colours.text, "width": 2})
    drawn.update_xaxes(
        title_text="u - threshold (thresholds)",
        range=list(_limits(counts.sum(axis=1), found.u_edges)),
        fixedrange=True,
    )
    drawn.update_yaxes(title_text="log10 of |dL/ds| (loss / spike)", fixedrange=True)
    return drawn


def _limits(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    below = np.cumsum(counts) / counts.sum()
    left = int(np.searchsorted(below, 1e-3))
    right = min(int(np.searchsorted(below, 1 - 1e-3)) + 1, len(edges) - 1)
    return min(float(edges[left]), -0.1), max(float(edges[right]), 0.1)


def _sentence(entry: Layer, found: Joint) -> str:
    counts = found.counts[0].sum(axis=0)
    total = int(counts.sum())
    zero = counts[:, 0].sum() / total
    text = (
        f"At step {found.steps[0]}, over all timesteps, {zero:.1%} of the {total} elements have a "
        "gradient dL/ds of exactly 0."
    )
    interval = gradient_interval(entry)
    if interval is None:
        return f"{text} Where the surrogate is open is not known."
    level = 1.0 if entry.coordinate == "u" else 0.0
    middle = (found.u_edges[1:] + found.u_edges[:-1]) / 2 + level
    inside = (middle >= interval[0]) & (middle <= interval[1])
    squares = counts[:, 1:] @ (found.g_edges[1:-1] * found.g_edges[2:])
    held = float(squares[inside].sum() / squares.sum()) if squares.sum() > 0 else 0.0
    return (
        f"{text} {counts[inside].sum() / total:.1%} of them lie between the dotted lines, where "
        f"the surrogate is open; {held:.1%} of the squared gradient arrives there."
    )
