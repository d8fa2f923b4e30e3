"""The law of u in one layer, timestep by timestep, beside the law that theory predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.recorded_law import RecordedLaw, recorded_law
from ..analysis.surrogate import Surrogate
from ..data.densities import Density
from ..data.runs import Layer, Run
from .figures_style import figure, nothing, number, palette, plain, time_colours
from .lazy import LazyRun, last_step, lazy
from .metrics import METRICS

MOST_RIDGES = 16
"""Timesteps drawn at once; with more, evenly spaced ones with the first and the last."""

OVERLAP = 1.5
"""Height of the tallest ridge, in rows."""

ATOM_BINS = 4
"""So many of the tallest bins of a timestep may be atoms, not part of a broad law."""

ATOM_HEIGHT = 2.5
"""An atom is cut at this multiple of the broad law's height; the hover has its density."""

TAIL = 1e-4
"""Share of the elements that may lie outside the drawn axis on each side."""


_IN_UNIT = ("mean", "standard deviation", "5 %", "median", "95 %")


@dataclass(frozen=True)
class MeasuredLaw:
    """Histograms of u of one layer at one recorded step.

    Args:
        layer: name of the layer.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.
        t: ``[T]`` timesteps.
        edges: ``[bin + 1]`` edges of u, in ``unit``.
        density: ``[T, bin]`` share of elements per ``unit``.
        start: potential before t = 1, in ``unit``; NaN if unknown.
        interval: where the surrogate exceeds 1e-2 of its peak, in ``unit``; None if unknown.
        level: where the threshold lies: at 1, or at 0 if only u - threshold is known.
        unit: ``"thresholds"``, or ``"potential"`` if the threshold's size is not known.
        what: what the axis shows.
        predicted: where theory says that it settles; None where it says nothing.
        unpredicted: why not; empty where it does.
        scale: potential that one unit of the axis stands for.
        origin: potential that lies at 0 of the axis.
    """

    layer: str
    step: int
    mode: str
    t: np.ndarray
    edges: np.ndarray
    density: np.ndarray
    start: float
    interval: tuple[float, float] | None
    level: float
    unit: str
    what: str
    predicted: RecordedLaw | None
    unpredicted: str
    scale: float
    origin: float

    def settled(self) -> np.ndarray | None:
        """Return the predicted density at the middles of the bins, ``[bin]``; None if unknown."""
        if self.predicted is None:
            return None
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        density = self.predicted.law.pdf(self.origin + self.scale * middle)
        return np.asarray(density, dtype=float) * self.scale

    def frame(self) -> pd.DataFrame:
        """Return mean, spread and quantiles per timestep as a table, all in ``unit``."""
        widths = np.diff(self.edges)
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        rows: list[dict[str, float]] = []
        for j, t in enumerate(self.t):
            mass = self.density[j] * widths
            if mass.sum() == 0:
                rows.append({"t": int(t)})
                continue
            mean = float(mass @ middle)
            spread = float(np.sqrt(max(mass @ (middle - mean) ** 2, 0.0)))
            below = np.concatenate([[0.0], np.cumsum(mass)])
            five, half, most = np.interp([0.05, 0.5, 0.95], below, self.edges)
            above = float(mass[middle > self.level].sum())
            rows.append(
                {"t": int(t), "mean": mean, "standard deviation": spread, "5 %": five,
                 "median": half, "95 %": most, "share above threshold": above}
            )  # fmt: skip
        table = pd.DataFrame(rows).rename(columns={"t": "timestep"})
        table["timestep"] = table["timestep"].astype(str)
        if self.predicted is not None:
            law = self.predicted.law
            settled = pd.DataFrame(
                {
                    "timestep": ["predicted to settle at"],
                    "mean": [(law.mean - self.origin) / self.scale],
                    "standard deviation": [law.std / self.scale],
                    "share above threshold": [law.rate],
                }
            )
            table = pd.concat([table, settled], ignore_index=True)
        named = {name: f"{name} ({self.unit})" for name in _IN_UNIT if name in table}
        return table.rename(columns=named)


def gradient_interval(layer: Layer) -> tuple[float, float] | None:
    """Return where the surrogate of a layer lets gradient through.

    Args:
        layer: a layer of a run.

    Returns:
        ``(low, high)`` on the axis of :class:`MeasuredLaw`; None where the surrogate is unknown or
        not one number for the whole layer.
    """
    if layer.surrogate is None:
        return None
    try:
        low, high = Surrogate(**layer.surrogate).interval(threshold=0.0)
        level = _level(layer)
        return level + float(low) / layer.scale, level + float(high) / layer.scale
    except (TypeError, ValueError):
        # A surrogate that was sampled or that differs between neurons has no one interval.
        return None


def measured_law(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> MeasuredLaw | None:
    """Return the law of u of one layer at one step.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The law, or None when the layer has no record (of this step, in this mode).

    Raises:
        RunError: an unknown layer.
    """
    entry = run.layer(layer)
    if step is None:
        step = last_step(lazy(run), layer, mode)
        if step is None:
            return None
    record = lazy(run).density(layer, mode=mode, steps=[step])
    if not len(record.steps):
        return None
    counts = record.counts[0].astype(float)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    threshold = entry.spec.get("threshold")
    start = entry.spec.get("start")
    predicted, unpredicted = predict(lazy(run), entry, record, step, mode)
    origin = -record.scale * _level(entry)
    if isinstance(threshold, int | float):
        origin += float(threshold)
    return MeasuredLaw(
        layer,
        step,
        mode,
        record.t,
        _level(entry) + record.edges,
        share / np.diff(record.edges),
        1.0 + (start - threshold) / record.scale
        if isinstance(start, int | float) and isinstance(threshold, int | float)
        else float("nan"),
        gradient_interval(entry),
        level=_level(entry),
        unit="thresholds" if _level(entry) else "potential",
        what=entry.coordinate,
        predicted=predicted,
        unpredicted=unpredicted,
        scale=record.scale,
        origin=origin,
    )


def predict(
    record: LazyRun, layer: Layer, density: Density, step: int, mode: str
) -> tuple[RecordedLaw | None, str]:
    """Return where theory says that a layer settles at one step, or why it does not say.

    Args:
        record: a recorded run.
        layer: one of its layers.
        density: its histograms at this step.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        ``(prediction, reason)``; one of them is empty.
    """
    if layer.coordinate != "u":
        return None, "of this layer only u - threshold is known"
    rows = record.rows_at(step, mode)
    rows = rows[rows["layer"] == layer.name]
    threshold = layer.spec.get("threshold")
    if not isinstance(threshold, int | float):
        return None, "its threshold is not one number"
    try:
        edges = threshold + layer.scale * density.edges
        return recorded_law(layer.spec, rows, density.counts[0, 0], edges), ""
    except ValueError as error:
        return None, str(error)


def _level(layer: Layer) -> float:
    """Return where the threshold lies: a layer of which only u - threshold is known has it at 0."""
    return 1.0 if layer.coordinate == "u" else 0.0


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
    height = int(np.clip(170 + 56 * len(rows), 320, 760))
    drawn = figure(
        theme, f"Law of u per timestep, step {law.step} ({mode})", _sentence(run, law), height
    )
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
                name="predicted",
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
    drawn.add_annotation(
        x=law.level,
        y=1.0,
        yref="paper",
        yanchor="bottom",
        xanchor="right" if law.level - left > 0.8 * (right - left) else "left",
        text="threshold",
        showarrow=False,
    )
    if np.isfinite(law.start):
        drawn.add_trace(
            go.Scatter(
                name="start potential",
                x=[law.start],
                y=[-0.14],
                mode="markers",
                marker={"symbol": "triangle-up", "size": 12, "color": colours.accent},
                hovertemplate="start potential %{x:.3f} thresholds<extra></extra>",
            )
        )
    drawn.update_xaxes(title_text=f"{law.what} ({law.unit})", range=[left, right], fixedrange=True)
    drawn.update_yaxes(
        title_text=f"timestep t, a row is {number(full / OVERLAP)} per {law.unit}",
        range=[-0.3, len(rows) - 1 + OVERLAP * 1.08],
        tickvals=[len(rows) - 1 - place for place in range(len(rows))],
        ticktext=[plain(f"t = {law.t[j]}") for j in rows],
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
        text += (
            f": that is {law.what} between {number(low)} and {number(high)} {law.unit}, the "
            "shaded band."
        )
    if law.predicted is None:
        return f"{text} No stationary law is drawn: {law.unpredicted}."
    mean = (law.predicted.law.mean - law.origin) / law.scale
    widths = np.diff(law.edges)
    measured = float((law.density[-1] * widths) @ ((law.edges[1:] + law.edges[:-1]) / 2))
    return (
        f"{text} From its input alone (a share of {law.predicted.frozen:.2f} of it fixed in time) "
        f"theory predicts that {law.what} settles at a mean of {number(mean)} {law.unit}, dashed; "
        f"at t = {law.t[-1]} it is {number(measured)}."
    )
