"""Does a layer start where it settles? Distances of laws, with the band of chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.distance import law_on_bins
from ..analysis.drift import drift_from_law, drift_over_time
from ..analysis.recorded_law import RecordedLaw, plain_spec
from ..analysis.whatif import removable_drift
from ..data.runs import Layer, Run
from .figures_axes import (
    MOST_WRITTEN,
    grid_height,
    layer_rows,
    of_layer,
    time_axis,
    top_legend,
)
from .figures_style import figure, nothing, number, palette, plain, short
from .lazy import last_step, lazy
from .measured_law import predict
from .metrics import METRICS, effective_sizes

SETTLED = 0.05
"""Total-variation distance to the stationary law below which a layer counts as settled."""


@dataclass(frozen=True)
class Drift:
    """Distances of the laws of one layer at one step.

    Args:
        layer: name of the layer.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.
        unit: unit of the distances.
        t: ``[T]`` timesteps.
        to_last: ``[T]`` Wasserstein-1 distance to the law at the last timestep.
        last_band: ``[T]`` what chance alone stays below at 99 % over all timesteps together.
        to_settled: ``[T]`` distance to the predicted stationary law; NaN if there is none.
        settled_band: ``[T]`` its band.
        predicted: the stationary law; None if there is none.
        unpredicted: why there is none.
    """

    layer: str
    step: int
    mode: str
    unit: str
    t: np.ndarray
    to_last: np.ndarray
    last_band: np.ndarray
    to_settled: np.ndarray
    settled_band: np.ndarray
    predicted: RecordedLaw | None
    unpredicted: str

    def frame(self) -> pd.DataFrame:
        """Return the distances as a table, a row per timestep."""
        return pd.DataFrame(
            {
                "t": self.t,
                f"to the last timestep ({self.unit})": self.to_last,
                f"chance stays below ({self.unit})": self.last_band,
                f"to the stationary law ({self.unit})": self.to_settled,
                f"chance stays below, stationary ({self.unit})": self.settled_band,
            }
        )


def drift_values(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> Drift | None:
    """Return how far each timestep's law of u lies from the last one's and from the stationary one.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one of this layer if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The distances with their null bands; None where there is no record.

    Raises:
        RunError: an unknown layer.
    """
    entry, record = run.layer(layer), lazy(run)
    at = last_step(record, layer, mode) if step is None else step
    if at is None:
        return None
    density = record.density(layer, mode=mode, steps=[at])
    rows = record.rows_at(at, mode)
    rows = rows[rows["layer"] == layer]
    if not len(density.steps) or (density.counts[0].sum(axis=-1) == 0).any():
        return None
    counts, sizes = density.counts[0], effective_sizes(rows)
    freedom = np.maximum(rows["samples"].to_numpy(dtype=float) - 1.0, 0.0)
    none = np.full(len(density.t), np.nan)
    to_last, last_band = np.zeros(len(density.t)), none.copy()
    if len(density.t) > 1:
        moved = drift_over_time(counts, density.edges, sizes, freedom=freedom)
        to_last[:-1], last_band[:-1] = moved.w1, moved.w1_band
    predicted, unpredicted = predict(record, entry, density, at, mode)
    to_settled, settled_band = none, none
    if predicted is not None:
        potential = float(entry.spec["threshold"]) + entry.scale * density.edges
        below = np.maximum.accumulate(np.clip(predicted.law.cdf(potential), 0.0, 1.0))
        law = law_on_bins(below, density.edges)
        away = drift_from_law(counts, density.edges, sizes, law, freedom=freedom)
        to_settled, settled_band = away.w1, away.w1_band
    return Drift(
        layer, at, mode, "thresholds" if entry.coordinate == "u" else "potential", density.t,
        to_last, last_band, to_settled, settled_band, predicted, unpredicted,
    )  # fmt: skip


def drift_distances(
    run: Run,
    layer: str,
    *,
    step: int | None = None,
    mode: str = "train",
    t: int | None = None,
    theme: str = "light",
) -> go.Figure:
    """Draw how far each timestep's law of u lies from the last one's and from the stationary one.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one of this layer if None.
        mode: ``"train"`` or ``"eval"``.
        t: a timestep to stress.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; what lies inside the shaded band may be chance.

    Raises:
        RunError: an unknown layer.
    """
    drift = drift_values(run, layer, step=step, mode=mode)
    title = "Drift of the law"
    if drift is None:
        return nothing(theme, title, f"This layer was not recorded there in {mode}.")
    colours = palette(theme)
    drawn = figure(theme, f"{title}, step {drift.step} ({mode})", _distance_words(drift), 384)
    seen = np.isfinite(drift.last_band)
    if seen.any():
        at = drift.t[seen].tolist()
        drawn.add_trace(
            go.Scatter(
                name="chance",
                x=at + at[::-1],
                y=drift.last_band[seen].tolist() + [0.0] * len(at),
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=colours.chance,
                hoverinfo="skip",
            )
        )
    for name, values, bands, symbol, colour, dash in (
        ("to last t", drift.to_last, drift.last_band, "circle",
         METRICS["drift"].line(theme), "solid"),
        ("to stationary law", drift.to_settled, drift.settled_band, "diamond", colours.text,
         "dash"),
    ):  # fmt: skip
        if not np.isfinite(values).any():
            continue
        drawn.add_trace(
            go.Scatter(
                name=name,
                x=drift.t.tolist(),
                y=values.tolist(),
                customdata=[[layer, int(at)] for at in drift.t],
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={
                    "symbol": symbol,
                    "size": [14 if at == t else 9 for at in drift.t],
                    "opacity": 1.0,
                    "color": colour,
                },
                hovertext=[
                    f"t = {at}<br>{name}: {value:.4f} {drift.unit}<br>"
                    + (f"chance stays below {band:.4f}" if np.isfinite(band) else "itself")
                    for at, value, band in zip(drift.t, values, bands, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    of_layer(drawn, layer)
    top_legend(drawn)
    time_axis(drawn, len(drift.t))
    drawn.update_yaxes(
        title_text=f"distance W1 ({drift.unit})", rangemode="tozero", fixedrange=True
    )
    return drawn


def _distance_words(drift: Drift) -> str:
    first, band = float(drift.to_last[0]), float(drift.last_band[0])
    text = f"The law of u at t = {drift.t[0]} lies {number(first)} {drift.unit} from that at the "
    text += f"last timestep, t = {drift.t[-1]}"
    if np.isfinite(band):
        text += f" (chance alone stays below {number(band)}, shaded)"
    if drift.predicted is None:
        return f"{text}. There is no stationary law to compare with: {drift.unpredicted}."
    return (
        f"{text}, and {number(float(drift.to_settled[0]))} from the stationary law; the last "
        f"timestep lies {number(float(drift.to_settled[-1]))} from it."
    )


def mixing(drift: Drift, start: float) -> tuple[float, float] | None:
    """Return how many timesteps a layer needs to settle, and how many from the best start.

    Args:
        drift: of the layer.
        start: start potential in force, potential.

    Returns:
        Timesteps until the law of u is within :data:`SETTLED` of the stationary one, from this
        start and from the mean of the stationary v; None without a stationary law.
    """
    if drift.predicted is None:
        return None
    law = drift.predicted.law
    return float(law.steps_to_tv(SETTLED, start)), float(law.steps_to_tv(SETTLED, law.best_start))


def removable_values(
    run: Run, *, step: int | None = None, mode: str = "train"
) -> tuple[pd.DataFrame, int | None]:
    """Return for every layer what a constant start potential would remove of the shift at t = 1.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        ``(frame, step)``: a row per layer that can be judged, columns layer, before and after
        (Wasserstein-1 distance of t = 1 to the last timestep, thresholds), share, start now and
        start proposed (thresholds); the step, None where nothing was recorded.
    """
    record = lazy(run)
    steps = record.steps(mode)
    names = ["layer", "before", "after", "share", "start now", "start proposed"]
    if not len(steps):
        return pd.DataFrame(columns=names), None
    at = int(steps[-1]) if step is None else step

    def work_out() -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = []
        for entry in run.covered:
            found = _removable(entry, record.density(entry.name, mode=mode, steps=[at]))
            if found is not None:
                rows.append((entry.name, *found))
        return pd.DataFrame(rows, columns=names)

    return record.once("removable", at, mode, work_out), at


def _removable(entry: Layer, density: Any) -> tuple[float, ...] | None:
    try:
        spec = plain_spec(entry.spec)
        if entry.coordinate != "u" or len(density.t) < 2 or not len(density.steps):
            return None
        edges = float(spec.threshold) + entry.scale * density.edges
        found = removable_drift(spec, density.counts[0, 0], density.counts[0, -1], edges)
    except ValueError:
        return None
    unit = entry.scale
    before, after = float(found.w1_before) / unit, float(found.w1_after) / unit
    return before, after, float(found.share), float(spec.start) / unit, float(found.start) / unit


def removable_shift(
    run: Run, *, step: int | None = None, mode: str = "train", theme: str = "light"
) -> go.Figure:
    """Draw for every layer the shift at t = 1 and what is left of it with a better start.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure, layers in network order, the input at the top.
    """
    frame, at = removable_values(run, step=step, mode=mode)
    title = "Shift at t = 1"
    if frame.empty:
        reason = "No layer whose dynamics are known was recorded at two timesteps."
        return nothing(theme, title, reason)
    colours = palette(theme)
    best = frame.iloc[int((frame["before"] - frame["after"]).to_numpy().argmax())]
    text = (
        f"A better start potential would help {short(best['layer'], 80)} most: its shift of "
        f"{number(best['before'])} thresholds would fall to {number(best['after'])} "
        f"({best['share']:.0%} less) with a start of {number(best['start proposed'])} instead of "
        f"{number(best['start now'])} thresholds, at the current weights."
    )
    names = frame["layer"].tolist()
    drawn = figure(theme, f"{title}, step {at} ({mode})", text, grid_height(len(names)) + 40)
    few = len(names) <= MOST_WRITTEN
    ends = frame[["before", "after"]].to_numpy(dtype=float)
    drawn.add_trace(
        go.Scatter(
            x=[x for pair in ends.tolist() for x in (*pair, None)],
            y=[y for place in range(len(names)) for y in (place, place, None)],
            mode="lines",
            line={"color": colours.muted, "width": 2 if few else 0.5},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for column, name, symbol, colour in (
        ("before", "now", "circle", METRICS["drift"].line(theme)),
        ("after", "better start", "diamond-open", colours.text),
    ):
        drawn.add_trace(
            go.Scatter(
                name=name,
                x=frame[column].tolist(),
                y=list(range(len(names))),
                customdata=[[layer, 1] for layer in names],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": 11 if few else 4,
                    "color": colour,
                    "line": {"width": 2 if few else 1},
                },
                hovertext=[
                    f"{plain(row['layer'])}<br>{name}: {row[column]:.4f} thresholds<br>start "
                    f"{row['start now']:.3f} now, {row['start proposed']:.3f} proposed"
                    for row in frame.to_dict("records")
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    top_legend(drawn)
    # Small marks of many layers are large in the legend.
    drawn.update_layout(legend_itemsizing="constant")
    layer_rows(drawn, names, grid=True)
    drawn.update_xaxes(title_text="distance W1 (thresholds)", rangemode="tozero", fixedrange=True)
    return drawn
