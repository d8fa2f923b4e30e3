"""The layer by timestep heatmap: where in the network, when in the sequence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Layer, Run
from .figures_axes import (
    COLOUR_BAR,
    MOST_WRITTEN,
    grid_height,
    hatched,
    layer_rows,
    subtitle,
    time_columns,
)
from .figures_style import figure, nothing, plain, short
from .lazy import LazyRun, lazy
from .metrics import METRICS, Metric, metric_values

MOST_REASONS = 2
"""Reasons that the sentence under the figure gives for missing cells."""

SPOKEN = 80
"""Characters of a layer name in a sentence."""


@dataclass(frozen=True)
class Cells:
    """One metric over layers and timesteps at one recorded step.

    Args:
        metric: what the values are.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.
        layers: ``[L]`` names in network order, input first; not covered ones included.
        t: ``[T]`` timesteps.
        values: ``[L, T]`` in the metric's unit; NaN where a value is missing.
        errors: ``[L, T]`` standard errors, in the same unit.
        reasons: ``[L][T]`` why a value is missing or cannot be drawn; empty where it is there.
        span: colour range over the whole run, in the metric's unit.
    """

    metric: Metric
    step: int
    mode: str
    layers: tuple[str, ...]
    t: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    reasons: list[list[str]]
    span: tuple[float, float]

    def frame(self) -> pd.DataFrame:
        """Return the values as a table, a row per layer and a text column per timestep."""
        rows = [
            {"layer": name}
            | {
                f"t = {t}": self.reasons[k][j]
                or self.metric.show(self.values[k, j], self.errors[k, j])
                for j, t in enumerate(self.t)
            }
            for k, name in enumerate(self.layers)
        ]
        return pd.DataFrame(rows, columns=["layer", *(f"t = {t}" for t in self.t)])


def recorded_steps(run: Run, mode: str = "train") -> np.ndarray:
    """Return the recorded steps of one mode, ascending.

    Args:
        run: a recorded run.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        ``[R]`` steps.
    """
    return lazy(run).steps(mode)


def cells(
    run: Run, metric: str = "coverage", *, step: int | None = None, mode: str = "train"
) -> Cells | None:
    """Return one metric over layers and timesteps.

    Args:
        run: a recorded run.
        metric: a key of :data:`METRICS`.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The cells, or None when nothing was recorded in this mode.

    Raises:
        ValueError: an unknown metric, or a step that was not recorded.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is unknown: it must be one of {', '.join(METRICS)}")
    what = METRICS[metric]
    record = lazy(run)
    chosen = chosen_step(record, step, mode)
    if chosen is None:
        return None
    here = record.rows_at(chosen, mode)
    layers = run.layers
    scales = {layer.name: layer.scale for layer in layers}
    place = {layer.name: k for k, layer in enumerate(layers)}
    at_t = np.unique(here["t"].to_numpy())
    shape = (len(layers), len(at_t))
    values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    seen = np.zeros(shape, dtype=bool)
    rows = here["layer"].map(place).to_numpy(dtype=int)
    columns = np.searchsorted(at_t, here["t"].to_numpy())
    values[rows, columns], errors[rows, columns] = metric_values(here, what, scales)
    seen[rows, columns] = True
    every, ever = values[seen], set(here["layer"].unique())
    # The rest of the run is looked at only for what it alone can tell.
    if what.span is None or any(layer.name not in ever for layer in run.covered):
        overall = record.overall()
        overall = overall[overall["mode"] == mode]
        every = np.concatenate([every, metric_values(overall, what, scales)[0]])
        ever |= set(overall["layer"].unique())
    reasons = [
        [
            _reason(run, layer, what, float(values[k, j]), bool(seen[k, j]), layer.name in ever)
            for j in range(shape[1])
        ]
        for k, layer in enumerate(layers)
    ]
    return Cells(
        what,
        chosen,
        mode,
        tuple(layer.name for layer in layers),
        at_t,
        values,
        errors,
        reasons,
        _span(what, every),
    )


def chosen_step(record: LazyRun, step: int | None, mode: str) -> int | None:
    """Return the step that is meant: the last one if None; None where nothing was recorded.

    Args:
        record: a recorded run.
        step: a recorded step, or None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        A recorded step, or None.

    Raises:
        ValueError: a step that was not recorded.
    """
    if step is None:
        seen = record.steps_so_far(mode)
        if not len(seen):
            seen = record.steps(mode)
        return int(seen[-1]) if len(seen) else None
    if not len(record.rows_at(step, mode)):
        seen = record.steps(mode)
        if not len(seen):
            return None
        raise ValueError(
            f"step={step} was not recorded in {mode}: the recorded steps run from "
            f"{seen[0]} to {seen[-1]}"
        )
    return step


def _reason(run: Run, layer: Layer, metric: Metric, value: float, seen: bool, ever: bool) -> str:
    """Return why a cell cannot be drawn, or nothing."""
    if not layer.covered:
        return f"not covered: {layer.reason or 'no reason given'}"
    if not seen:
        if ever:
            return "not recorded at this step"
        return "not yet" if run.state == "recording" else "not recorded"
    if not np.isfinite(value):
        return metric.absent
    return "exactly 0: nothing arrives" if metric.log and value == 0 else ""


def _span(metric: Metric, values: np.ndarray) -> tuple[float, float]:
    """Return one colour range for the whole run, so that steps can be compared."""
    if metric.span is not None:
        return metric.span
    finite = values[np.isfinite(values)]
    if metric.log:
        finite = finite[finite > 0]
        return (float(finite.min()), float(finite.max())) if finite.size else (1e-12, 1.0)
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    largest = largest or 1.0
    return (0.0 if metric.column else -largest, largest)


def layer_heatmap(
    run: Run,
    metric: str = "coverage",
    *,
    step: int | None = None,
    mode: str = "train",
    theme: str = "light",
) -> go.Figure:
    """Draw one metric over layers (input at the top) and timesteps.

    Args:
        run: a recorded run.
        metric: ``"coverage"``, ``"rate"``, ``"gradient"`` or ``"drift"``.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; missing cells are hatched and say why on hover.

    Raises:
        ValueError: an unknown metric or theme, or a step that was not recorded.
    """
    grid = cells(run, metric, step=step, mode=mode)
    what = METRICS[metric]
    if grid is None:
        return nothing(theme, what.title, f"Nothing was recorded in {mode}.")
    title = f"{what.title}, step {grid.step} ({mode})"
    drawn = figure(theme, title, _sentence(grid), grid_height(len(grid.layers)))
    subtitle(drawn, f"colour: {what.unit}")
    drawn.add_trace(_coloured(grid))
    missing = _missing(grid, theme)
    if missing is not None:
        drawn.add_trace(missing)
    layer_rows(drawn, grid.layers)
    time_columns(drawn, grid.t)
    drawn.update_layout(bargap=0, barmode="overlay")
    return drawn


def _coloured(grid: Cells) -> go.Heatmap:
    shown = np.array([[not reason for reason in row] for row in grid.reasons])
    values = np.where(shown, grid.values, np.nan)
    low, high = grid.span
    bar = dict(COLOUR_BAR)
    if grid.metric.log:
        values = np.log10(values, where=shown, out=np.full(values.shape, np.nan))
        low, high = float(np.log10(low)), float(np.log10(high))
        if high - low < 1.0:
            low, high = low - 0.5, high + 0.5
        ticks = _decades(low, high)
        bar |= {"tickvals": ticks, "ticktext": [f"10<sup>{tick}</sup>" for tick in ticks]}
    elif grid.metric.percent:
        shares = np.linspace(low, high, 6)
        bar |= {"tickvals": shares.tolist(), "ticktext": [f"{share:.0%}" for share in shares]}
    # Short: a tick of a live run moves all of these.
    hover = [
        [grid.metric.show(grid.values[k, j], grid.errors[k, j]) for j in range(len(grid.t))]
        for k in range(len(grid.layers))
    ]
    written = len(grid.layers) <= MOST_WRITTEN and len(grid.t) <= 8
    text = [
        [_brief(grid.metric, value) if shown[k, j] else "" for j, value in enumerate(row)]
        for k, row in enumerate(grid.values)
    ]
    return go.Heatmap(
        x=[int(t) for t in grid.t],
        y=list(range(len(grid.layers))),
        z=[[None if np.isnan(value) else float(f"{value:.6g}") for value in row] for row in values],
        zmin=low,
        zmax=high,
        colorscale=grid.metric.colours,
        colorbar=bar,
        customdata=[[plain(name)] * len(grid.t) for name in grid.layers],
        text=text if written else None,
        texttemplate="%{text}" if written else None,
        hovertext=hover,
        hovertemplate="%{customdata}<br>t = %{x}<br>"
        f"{grid.metric.symbol} %{{hovertext}}<extra></extra>",
        hoverongaps=False,
        xgap=1 if written else 0,
        ygap=1 if written else 0,
    )


def _brief(metric: Metric, value: float) -> str:
    """Return a number short enough for a cell."""
    if metric.log:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return metric.show(value)


def _decades(low: float, high: float) -> list[int]:
    first, last = int(np.ceil(low)), int(np.floor(high))
    return list(range(first, last + 1, max(1, (last - first) // 6)))


def _missing(grid: Cells, theme: str) -> go.Bar | None:
    """Return the missing cells as hatched boxes that say why; None if all are there."""
    missing = [
        (k, j) for k, row in enumerate(grid.reasons) for j, reason in enumerate(row) if reason
    ]
    if not missing:
        return None
    boxes = hatched(missing, grid.t, theme)
    boxes.update(
        hoverinfo=None,
        customdata=[[grid.layers[k], int(grid.t[j])] for k, j in missing],
        hovertext=[
            f"{plain(grid.layers[k])}<br>t = {grid.t[j]}, step {grid.step}<br>"
            f"{plain(grid.reasons[k][j])}"
            for k, j in missing
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    return boxes


def _gaps(grid: Cells) -> str:
    """Say how many cells have no value, and why."""
    found = Counter(reason for row in grid.reasons for reason in row if reason)
    if not found:
        return ""
    gaps = found.total()
    why = [f"{short(reason, SPOKEN)}" for reason, _ in found.most_common(MOST_REASONS)]
    more = ", and others" if len(found) > MOST_REASONS else ""
    verb = "has" if gaps == 1 else "have"
    return f" {gaps} of {grid.values.size} cells {verb} no value ({'; '.join(why)}{more})."


def _sentence(grid: Cells) -> str:
    """Say the smallest and the largest value, where they are, and what is missing."""
    metric = grid.metric
    more = _gaps(grid)
    shown = np.where([[not r for r in row] for row in grid.reasons], grid.values, np.nan)
    if not np.isfinite(shown).any():
        return f"At step {grid.step} no cell has a value of {metric.symbol}."

    def at(flat: int) -> str:
        k, j = np.unravel_index(flat, shown.shape)
        value = metric.show(shown[k, j], grid.errors[k, j])
        return f"{value} in {short(grid.layers[k], SPOKEN)} at t = {grid.t[j]}"

    low, high = int(np.nanargmin(shown)), int(np.nanargmax(shown))
    said = f"At step {grid.step} ({grid.mode}) {metric.symbol}"
    unit = "" if metric.percent else f" ({metric.unit})"
    if shown.flat[low] == shown.flat[high]:
        return f"{said} is {metric.show(float(shown.flat[low]))} everywhere{unit}.{more}"
    return f"{said} runs from {at(low)} to {at(high)}{unit}.{more}"
