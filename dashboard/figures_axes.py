"""Axes, marks and legends that several figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .figures_style import LONGEST_NAME, palette, plain, short

MOST_WRITTEN = 24
"""Layers up to which each has its name on the axis and its numbers in the cells of a heatmap."""

WIDEST_SUBTITLE = 44
"""Characters of a line under a title that a screen of 390 pixels shows whole."""

MOST_LABELS = 12
"""Names on the axis of a deeper network, every n-th: each costs the page a node."""

COLOUR_BAR: dict[str, Any] = {
    # Upright: a bar that lies down moves the other titles of the figure in plotly 7.1.
    "thickness": 10,
    "len": 1.0,
    "x": 1.0,
    "xpad": 6,
    "ypad": 0,
    "outlinewidth": 0,
    "tickfont": {"size": 14},
    "exponentformat": "e",
}
"""The colour bar at the right of a heatmap, as high as the heatmap."""


def layer_labels(names: Sequence[str]) -> list[str]:
    """Return names short enough for an axis; what all long names share at both ends is left out.

    Args:
        names: names of layers, in network order.

    Returns:
        A label per name, plain text.

    Example:
        >>> layer_labels(["net.0", "net.1"])
        ['net.0', 'net.1']
        >>> layer_labels([f"features.stage0.block{k}.residual.lif" for k in (7, 8)])
        ['…block7…', '…block8…']
    """
    if all(len(name) <= LONGEST_NAME for name in names):
        return list(names)
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    # At least one part stays of every name.
    head = _shared(parts, shortest - 1)
    tail = _shared([part[::-1] for part in parts], shortest - 1 - head)
    return [
        short(
            ("…" if head else "") + ".".join(part[head : len(part) - tail]) + ("…" if tail else ""),
            LONGEST_NAME,
        )
        if len(parts) > 1
        else short(name, LONGEST_NAME)
        for name, part in zip(names, parts, strict=True)
    ]


def _shared(parts: list[list[str]], most: int) -> int:
    """Return how many parts all names share at the beginning."""
    count = 0
    while count < most and len({part[count] for part in parts}) == 1:
        count += 1
    return count


def grid_height(layers: int) -> int:
    """Return the height of a figure with a row per layer, pixels."""
    return int(np.clip(140 + 32 * layers, 280, 900))


def layer_rows(drawn: go.Figure, layers: Sequence[str], grid: bool = False) -> None:
    """Put layers down the figure, the input at the top; of many, every n-th is named.

    Args:
        drawn: a figure.
        layers: names in network order; the first is at y = 0.
        grid: whether a line runs along each name.
    """
    every = 1 if len(layers) <= MOST_WRITTEN else -(-len(layers) // MOST_LABELS)
    labels = layer_labels(layers)
    drawn.update_yaxes(
        range=[len(layers) - 0.5, -0.5],
        tickvals=list(range(0, len(layers), every)),
        ticktext=[plain(label) for label in labels[::every]],
        title_text=None,
        ticks="",
        ticklabelstandoff=4,
        showgrid=grid,
        fixedrange=True,
    )


def time_columns(drawn: go.Figure, timesteps: np.ndarray) -> None:
    """Put timesteps across a heatmap, a column each."""
    drawn.update_xaxes(
        title_text="timestep t",
        range=[int(timesteps[0]) - 0.5, int(timesteps[-1]) + 0.5],
        dtick=max(1, len(timesteps) // 16),
        tick0=int(timesteps[0]),
        ticks="",
        showgrid=False,
        fixedrange=True,
    )


def time_axis(drawn: go.Figure, count: int, title: str = "timestep t") -> None:
    """Put timesteps across a curve."""
    alone = {"range": [0.5, 1.5]} if count == 1 else {}
    drawn.update_xaxes(title_text=title, dtick=max(1, count // 12), fixedrange=True, **alone)


def hatched(cells: Sequence[tuple[int, int]], timesteps: np.ndarray, theme: str) -> go.Bar:
    """Return hatched boxes over cells of a heatmap; a heatmap itself cannot be hatched.

    Args:
        cells: ``(row, column)`` of each.
        timesteps: ``[T]`` timestep of each column.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A trace without hover.
    """
    pattern = {"shape": "/", "fgcolor": palette(theme).muted, "size": 8, "solidity": 0.15}
    return go.Bar(
        x=[int(timesteps[j]) for _, j in cells],
        y=[1.0] * len(cells),
        base=[k - 0.5 for k, _ in cells],
        width=1.0,
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}, "pattern": pattern},
        hoverinfo="skip",
    )


def cell_texts(values: np.ndarray, signed: bool = False) -> list[list[str]]:
    """Return the numbers of a heatmap's cells, three digits of the largest in all of them.

    Args:
        values: ``[row, column]``; NaN has no text.
        signed: whether a number above 0 has its sign.

    Returns:
        Texts, ``[row][column]``.

    Example:
        >>> cell_texts(np.array([[0.304, -0.0018, 0.0]]))
        [['0.304', '-0.002', '0']]
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    place = math.floor(math.log10(largest)) if largest > 0 else 0
    form = f"{'+' if signed else ''}.{f'{max(2 - place, 0)}f' if -3 < place < 4 else '1e'}"

    def text(value: float) -> str:
        if not math.isfinite(value):
            return ""
        said = format(value, form).replace("e-0", "e-").replace("e+0", "e")
        # What rounds to nothing has no sign.
        return said if said.strip("+-0.") else "0"

    return [[text(float(value)) for value in row] for row in values]


def subtitle(drawn: go.Figure, words: str) -> None:
    """Write under the title what it leaves open: a layer's name, the unit of colours."""
    drawn.update_layout(title_subtitle={"text": plain(words), "font": {"size": 14}}, margin_t=72)


def of_layer(drawn: go.Figure, layer: str, more: str = "") -> None:
    """Write under the title which layer a figure is about: it may be looked at by itself."""
    room = WIDEST_SUBTITLE - len(more)
    subtitle(drawn, f"{short(layer, room)}{more}")


def top_legend(drawn: go.Figure) -> None:
    """Show the legend above the axes, in two lines where the screen is narrow."""
    said = drawn.layout.title.subtitle.text is not None
    drawn.update_layout(
        showlegend=True,
        legend={
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
        },
        margin_t=108 if said else 84,
    )


def legend_key(name: str, mode: str, **look: Any) -> go.Scatter:
    """Return an entry of the legend for what is drawn as a shape."""
    return go.Scatter(name=name, x=[None], y=[None], mode=mode, hoverinfo="skip", **look)


def mark_step(drawn: go.Figure, step: int | None, theme: str) -> None:
    """Draw a dotted line at the step that is looked at."""
    if step is not None:
        drawn.add_shape(
            type="line", x0=step, x1=step, y0=0, y1=1, yref="paper",
            line={"color": palette(theme).muted, "width": 1.5, "dash": "dot"},
        )  # fmt: skip


def error_bars(errors: pd.Series | np.ndarray, theme: str) -> dict[str, Any]:
    """Return error bars; an error that is not known has none."""
    known = np.nan_to_num(np.asarray(errors, dtype=float), nan=0.0)
    return {
        "type": "data",
        "array": known.tolist(),
        "color": palette(theme).muted,
        "thickness": 1.5,
        "width": 3,
    }


def log_axis(values: np.ndarray, most: int = 8) -> dict[str, Any]:
    """Return a logarithmic axis that holds some values and has at least two labels.

    Args:
        values: what is drawn, any shape, all above 0; NaN is left out.
        most: whole decades that are labelled, about.

    Returns:
        Settings of a plotly axis.
    """
    seen = values[np.isfinite(values)]
    low, top = float(seen.min()) / 2, float(seen.max()) * 2
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(top))
    every = max(1, -(-(last - first) // most))
    ticks = [
        digit * 10.0**power
        for power in range(first, last + 1, every)
        # Whole decades alone would leave a narrow range without two labels.
        for digit in ((1, 2, 5) if top < 1e3 * low else (1,))
        if low <= digit * 10.0**power <= top
    ]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(top)],
        "tickvals": ticks,
        "ticktext": [_tick(tick) for tick in ticks],
        "tickangle": 0,
        "fixedrange": True,
    }


def _tick(value: float) -> str:
    if 1e-3 < value < 1e4:
        return f"{value:g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
