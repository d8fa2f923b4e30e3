"""The law of u in one layer, timestep by timestep, beside the law that theory predicts."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_axes import legend_key, of_layer, top_legend
from .figures_style import figure, nothing, number, palette, time_colours
from .lazy import lazy
from .measured_law import MeasuredLaw, measured_law
from .metrics import METRICS

MOST_RIDGES = 16
"""Timesteps drawn at once; with more, evenly spaced ones with the first and the last."""

OVERLAP = 1.5
"""Height of the tallest ridge, in rows."""

ATOM_BINS = 4
"""So many of the tallest bins of a timestep may be atoms, not part of a broad law."""

ATOM_HEIGHT = 2.5
"""An atom is cut at this multiple of the broad law's height; the hover has its density."""

TAIL = 5e-4
"""Share of the elements that may lie outside the drawn axis on each side."""


def membrane_law(
    run: Run,
    layer: str,
    *,
    step: int | None = None,
    mode: str = "train",
    t: int | None = None,
    theme: str = "light",
) -> go.Figure:
    """Draw the law of u of one layer, a ridge per timestep, t = 1 at the top.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        t: a timestep to stress.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure: u in thresholds across (u - threshold where no more is known), the
        threshold as a line, the start potential as a triangle, the interval in which the surrogate
        carries gradient as a band.

    Raises:
        RunError: an unknown layer.
    """
    law = measured_law(run, layer, step=step, mode=mode)
    if law is None:
        where = f"in {mode}" if step is None else f"at step {step} in {mode}"
        entry = run.layer(layer)
        reason = "" if entry.covered else f" ({entry.reason or 'not covered'})"
        return nothing(theme, "Law of u", f"This layer was not recorded {where}{reason}.")
    colours = palette(theme)
    rows = _drawn_rows(len(law.t))
    left, right = _limits(law)
    height = int(np.clip(224 + 56 * len(rows), 364, 804))
    drawn = figure(theme, f"Law of u, step {law.step} ({mode})", _sentence(run, law), height)
    inside = (law.edges[1:] > left) & (law.edges[:-1] < right)
    middle = ((law.edges[1:] + law.edges[:-1]) / 2)[inside]
    full = _full_height(law.density)
    if law.interval is not None:
        low, high = max(law.interval[0], left), min(law.interval[1], right)
        if low < high:
            drawn.add_vrect(low, high, fillcolor=colours.band, line_width=0, layer="below")
    shades = time_colours(len(law.t), theme)
    settled = law.settled()
    lines: dict[str, list[float | None]] = {"x": [], "y": [], "density": []}
    for place, j in enumerate(rows):
        base = float(len(rows) - 1 - place)
        stressed = t == law.t[j]
        heights = base + OVERLAP * np.minimum(law.density[j][inside] / full, 1.0)
        ends = [float(middle[0])], [float(middle[-1])]
        # One line per ridge, closed along its own foot; the timestep is the text of its points.
        drawn.add_trace(
            go.Scatter(
                name=f"t = {law.t[j]}",
                x=ends[0] + middle.tolist() + ends[1],
                y=[base, *heights.tolist(), base],
                customdata=[0.0, *law.density[j][inside].tolist(), 0.0],
                text=str(law.t[j]),
                mode="lines",
                fill="toself",
                hoveron="points",
                showlegend=False,
                fillcolor=shades[j].replace("rgb(", "rgba(").replace(")", ", 0.55)"),
                line={"width": 3.5 if stressed else 1.5, "color": shades[j], "shape": "hvh"},
                hovertemplate=(
                    f"t = {law.t[j]}<br>{law.what} = %{{x:.3f}} {law.unit}<br>"
                    f"density %{{customdata:.3f}} per {law.unit}<extra></extra>"
                ),
            )
        )
        if settled is not None:
            over = settled[inside]
            lines["x"] += [*middle.tolist(), None]
            lines["y"] += [*(base + OVERLAP * np.minimum(over / full, 1.0)).tolist(), None]
            lines["density"] += [*over.tolist(), None]
    if settled is not None:
        drawn.add_trace(
            go.Scatter(
                name="prediction",
                x=lines["x"],
                y=lines["y"],
                customdata=lines["density"],
                mode="lines",
                line={"width": 1.5, "color": colours.text, "dash": "dash"},
                hovertemplate=(
                    f"predicted stationary law<br>{law.what} = %{{x:.3f}} {law.unit}<br>"
                    f"density %{{customdata:.3f}} per {law.unit}<extra></extra>"
                ),
            )
        )
    drawn.add_vline(x=law.level, line={"color": colours.text, "width": 2})
    drawn.add_trace(legend_key("threshold", "lines", line={"color": colours.text, "width": 2}))
    if law.interval is not None:
        patch = {"symbol": "square", "size": 14, "color": colours.band}
        drawn.add_trace(legend_key("surrogate open", "markers", marker=patch))
    if np.isfinite(law.start):
        drawn.add_trace(
            go.Scatter(
                name="start",
                x=[law.start],
                y=[-0.14],
                mode="markers",
                marker={"symbol": "triangle-up", "size": 12, "color": colours.accent},
                hovertemplate="start potential %{x:.3f} thresholds<extra></extra>",
            )
        )
    of_layer(drawn, layer)
    top_legend(drawn)
    drawn.update_xaxes(title_text=f"{law.what} ({law.unit})", range=[left, right], fixedrange=True)
    drawn.update_yaxes(
        title_text="timestep t",
        range=[-0.3, len(rows) - 1 + OVERLAP * 1.08],
        tickvals=[len(rows) - 1 - place for place in range(len(rows))],
        ticktext=[str(law.t[j]) for j in rows],
        showgrid=False,
        fixedrange=True,
    )
    return drawn


def _full_height(density: np.ndarray) -> float:
    """Return the density that is drawn at full height; single bins above it are cut.

    Many elements with exactly the same u, such as those without input, fill one bin: drawn in full
    they would flatten the rest of the law.
    """
    ordered = np.sort(density, axis=1)
    broad = float(ordered[:, -ATOM_BINS - 1].max())
    tallest = float(ordered[:, -1].max())
    return (min(tallest, ATOM_HEIGHT * broad) if broad > 0 else tallest) or 1.0


def _drawn_rows(count: int) -> list[int]:
    picked = np.linspace(0, count - 1, min(count, MOST_RIDGES)).round().astype(int)
    return [int(j) for j in np.unique(picked)]


def _limits(law: MeasuredLaw) -> tuple[float, float]:
    """Return an axis that holds nearly all mass, the threshold and the start potential."""
    mass = law.density.sum(axis=0) * np.diff(law.edges)
    below = np.cumsum(mass) / max(float(mass.sum()), 1e-300)
    left = float(law.edges[int(np.searchsorted(below, TAIL))])
    right = float(law.edges[min(int(np.searchsorted(below, 1 - TAIL)) + 1, len(law.edges) - 1)])
    marks = [law.level] + ([law.start] if np.isfinite(law.start) else [])
    left, right = min(left, *marks), max(right, *marks)
    room = 0.04 * (right - left)
    return left - room, right + room


def _sentence(run: Run, law: MeasuredLaw) -> str:
    """Say how much of u the surrogate covers at the first and the last timestep."""
    table = lazy(run).rows_at(law.step, law.mode)
    table = table[table["layer"] == law.layer]
    first, last = table.iloc[0], table.iloc[-1]
    show = METRICS["coverage"].show
    text = (
        f"At step {law.step} the surrogate carries gradient for "
        f"{show(first['coverage'], first['coverage_se'])} of u at t = {first['t']}"
    )
    if len(table) > 1:
        text += f" and for {show(last['coverage'], last['coverage_se'])} at t = {last['t']}"
    if law.interval is None:
        text += "; where on the axis is not known for this surrogate."
    else:
        low, high = law.interval
        text += f": where {law.what} lies between {number(low)} and {number(high)} {law.unit}."
    if law.predicted is None:
        return f"{text} No stationary law is drawn: {law.unpredicted}."
    mean = (law.predicted.law.mean - law.origin) / law.scale
    widths = np.diff(law.edges)
    measured = float((law.density[-1] * widths) @ ((law.edges[1:] + law.edges[:-1]) / 2))
    return (
        f"{text} From the input alone, {law.predicted.frozen:.0%} of whose variance is the same at "
        f"every timestep, theory predicts that {law.what} settles at a mean of {number(mean)} "
        f"{law.unit} (dashed); at t = {law.t[-1]} it is {number(measured)}. The distance "
        "between two rows stands for a density of "
        f"{number(_full_height(law.density) / OVERLAP)} per {law.unit.removesuffix('s')}."
    )
