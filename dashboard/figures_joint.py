"""The joint law of u - threshold and |dL/ds|: does gradient arrive where the surrogate is open?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.fine import Joint
from ..data.parts import part_paths
from ..data.runs import Layer, Run
from .figures_axes import COLOUR_BAR, of_layer
from .figures_style import figure, nothing, palette
from .lazy import last_step, lazy
from .measured_law import gradient_interval, level_of
from .metrics import METRICS

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
    sizes = np.sqrt(found.g_edges[rows] * found.g_edges[rows + 1])
    heights = np.log10(sizes)
    drawn = figure(theme, f"{TITLE}, step {at} ({mode})", _sentence(entry, found), 380)
    of_layer(drawn, layer, "; shade: elements, line: rms")
    opened = _open(entry)
    if opened is not None:
        left, right = max(opened[0], found.u_edges[0]), min(opened[1], found.u_edges[-1])
        drawn.add_vrect(left, right, fillcolor=colours.band, line_width=0, layer="below")
    shown = share.T[rows]
    decades = np.arange(np.floor(np.log10(share[share > 0].min())), 1)
    drawn.add_trace(
        go.Heatmap(
            x=middle.tolist(),
            y=heights.tolist(),
            z=[[float(np.log10(v)) if v > 0 else None for v in line] for line in shown],
            # Neutral: the colours of the metrics mean themselves.
            colorscale=[[0.0, colours.grid], [1.0, colours.text]],
            customdata=shown.tolist(),
            hovertemplate="u - threshold %{x:.3f} thresholds<br>"
            "|dL/ds| 10^%{y:.2f} loss / spike<br>"
            "share of elements %{customdata:.2e}<extra></extra>",
            hoverongaps=False,
            colorbar=COLOUR_BAR
            | {
                "tickvals": decades.tolist(),
                "ticktext": [f"{10**d:.6%}".rstrip("0%").rstrip(".") + "%" for d in decades],
            },
        )
    )
    filled_bins = counts[:, 1:].sum(axis=1)
    rms = np.sqrt(_squares(found) / np.maximum(counts.sum(axis=1), 1))
    seen = (filled_bins > 0) & (rms > 0)
    drawn.add_trace(
        go.Scatter(
            x=middle[seen].tolist(),
            y=np.log10(rms[seen]).tolist(),
            customdata=rms[seen].tolist(),
            mode="lines",
            line={"color": METRICS["gradient"].line(theme), "width": 2.5},
            hovertemplate="u - threshold %{x:.3f} thresholds<br>"
            "rms of dL/ds %{customdata:.2e} loss / spike<extra></extra>",
        )
    )
    drawn.add_vline(x=0.0, line={"color": colours.text, "width": 2})
    low, high = _limits(counts.sum(axis=1), found.u_edges)
    ends = float(found.u_edges[-1])
    ticks = [tick for tick in np.arange(-ends, ends + 1) if low <= tick <= high]
    drawn.update_xaxes(
        title_text="u - threshold (thresholds), threshold at 0",
        range=[low, high],
        tickvals=ticks,
        # The outermost bins hold all that lies beyond.
        ticktext=[{-ends: f"≤ -{ends:g}", ends: f"≥ {ends:g}"}.get(v, f"{v:g}") for v in ticks],
        fixedrange=True,
    )
    if len(heights):
        whole = np.arange(np.ceil(heights[0]), np.floor(heights[-1]) + 1)
        whole = whole[:: max(1, -(-len(whole) // 6))]
        drawn.update_yaxes(tickvals=whole.tolist(), ticktext=[f"1e{d:.0f}" for d in whole])
    drawn.update_yaxes(title_text="|dL/ds| (loss / spike)", fixedrange=True)
    return drawn


def _limits(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    below = np.cumsum(counts) / counts.sum()
    left = int(np.searchsorted(below, 1e-3))
    right = min(int(np.searchsorted(below, 1 - 1e-3)) + 1, len(edges) - 1)
    return min(float(edges[left]), -0.1), max(float(edges[right]), 0.1)


def _open(entry: Layer) -> tuple[float, float] | None:
    """Return where u - threshold lets gradient through; None if that is not known."""
    interval = gradient_interval(entry)
    if interval is None:
        return None
    return interval[0] - level_of(entry), interval[1] - level_of(entry)


def _squares(found: Joint) -> np.ndarray:
    """Return the sum of squared gradients in each bin of u, as the middles of the bins give it."""
    counts = found.counts[0].sum(axis=0)
    return np.asarray(counts[:, 1:] @ (found.g_edges[1:-1] * found.g_edges[2:]))


def _sentence(entry: Layer, found: Joint) -> str:
    counts = found.counts[0].sum(axis=0)
    total = int(counts.sum())
    show = METRICS["coverage"].show
    none = f"{show(counts[:, 0].sum() / total)} of the {total} elements get none at all."
    opened = _open(entry)
    if opened is None:
        return (
            f"At step {found.steps[0]}, over all timesteps, {none} Where the surrogate is open is "
            "not known."
        )
    middle = (found.u_edges[1:] + found.u_edges[:-1]) / 2
    inside = (middle >= opened[0]) & (middle <= opened[1])
    # What lies beyond the axis is in its outermost bins, open or not.
    beyond = opened[0] < found.u_edges[0], opened[1] > found.u_edges[-1]
    inside[[0, -1]] &= ~np.array(beyond)
    squares = _squares(found)
    held = float(squares[inside].sum() / squares.sum()) if squares.sum() > 0 else 0.0
    least = "at least " if any(beyond) else ""
    text = (
        f"At step {found.steps[0]}, over all timesteps, {least}{show(held)} of the squared "
        f"gradient dL/ds arrives where the surrogate is open (shaded), which holds {least}"
        f"{show(counts[inside].sum() / total)} of the elements; {none}"
    )
    if any(beyond):
        text += f" Beyond {found.u_edges[-1]:g} thresholds the record does not tell it from closed."
    return text
