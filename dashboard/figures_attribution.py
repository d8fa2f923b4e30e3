"""Attribution to layers and timesteps, always with what it fails to add up to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.attribution_result import GAP_BOUND, Attribution
from .figures_axes import (
    COLOUR_BAR,
    MOST_WRITTEN,
    cell_texts,
    error_bars,
    grid_height,
    layer_rows,
    subtitle,
    time_columns,
)
from .figures_style import figure, nothing, number, palette, plain, short, with_error

COLOURS = "BrBG"
"""Colour map of an attribution: it has a sign."""

SPOKEN = 80
"""Characters of a layer name in a sentence."""


def attribution_frame(found: Attribution, label: int) -> pd.DataFrame:
    """Return a row per layer and timestep of one class, with errors and ablation beside."""
    table = found.table()
    return table[table["class"] == label].drop(columns="class").reset_index(drop=True)


def attribution_map(found: Attribution, label: int, theme: str = "light") -> go.Figure:
    """Draw the attribution of one class over layers (input at the top) and timesteps.

    Args:
        found: an attribution.
        label: one of its classes.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; hover shows the error and the cost of a silent timestep.

    Raises:
        ValueError: a class that was not attributed, or an unknown theme.
    """
    if label not in found.classes:
        raise ValueError(f"class {label!r} was not attributed: it must be one of {found.classes}")
    frame = attribution_frame(found, label)
    layers, steps = list(found.layers), int(frame["t"].max())
    title = f"What speaks for class {label}, and when"
    if not np.isfinite(frame["score"]).any():
        return nothing(theme, title, "No attribution is finite: look at the surrogate.")
    wide = frame.pivot(index="layer", columns="t", values="score").reindex(layers)
    largest = float(np.nanmax(np.abs(wide.to_numpy()))) or 1.0
    top = frame.iloc[int(np.nanargmax(frame["score"].abs()))]
    text = (
        f"{short(top['layer'], SPOKEN)} at t = {int(top['t'])} weighs most: "
        f"{with_error(top['score'], top['score_se'])} of the output of class {label}; with the "
        f"layer silent there, the output {_falls(top['ablation'], top['ablation_se'])}. "
        f"{_verdict(found)}"
    )
    drawn = figure(theme, title, text, grid_height(len(layers)))
    subtitle(drawn, f"{found.method.replace('_', ' ')}, units of the output")
    said = {(row["layer"], row["t"]): _hover(row) for row in frame.to_dict("records")}
    hover = [[said.get((name, t), "does not run") for t in range(1, steps + 1)] for name in layers]
    written = len(layers) <= MOST_WRITTEN and steps <= 8
    values = wide.to_numpy(dtype=float)
    drawn.add_trace(
        go.Heatmap(
            x=list(range(1, steps + 1)),
            y=list(range(len(layers))),
            z=[[None if np.isnan(v) else float(f"{v:.6g}") for v in row] for row in values],
            zmin=-largest,
            zmax=largest,
            colorscale=COLOURS,
            colorbar=COLOUR_BAR,
            customdata=[[plain(name)] * steps for name in layers],
            text=cell_texts(values) if written else None,
            texttemplate="%{text}" if written else None,
            hovertext=hover,
            hovertemplate="%{customdata}<br>t = %{x}<br>%{hovertext}<extra></extra>",
            hoverongaps=False,
            xgap=1 if written else 0,
            ygap=1 if written else 0,
        )
    )
    layer_rows(drawn, layers)
    time_columns(drawn, np.arange(1, steps + 1))
    return drawn


def _falls(change: float, error: float) -> str:
    """Say how an output changes that falls by some amount."""
    return f"{'falls' if change >= 0 else 'rises'} by {with_error(abs(change), error)}"


def _hover(row: Mapping[Hashable, Any]) -> str:
    return (
        f"attributed {with_error(row['score'], row['score_se'])}<br>"
        f"silent there costs {with_error(row['ablation'], row['ablation_se'])}"
    )


def _verdict(found: Attribution) -> str:
    gaps = [check.gap for check in found.checks()]
    missing = sum(not gap <= GAP_BOUND for gap in gaps)
    if not missing:
        return f"In every layer the sum is within {GAP_BOUND:.0%} of the output's change."
    return (
        f"In {missing} of {len(gaps)} layers the sum misses the output's change by more than "
        f"{GAP_BOUND:.0%}."
    )


def error_frame(found: Attribution) -> pd.DataFrame:
    """Return a row per layer: what was attributed, what changed, gap, agreement, stability."""
    return pd.DataFrame(
        [
            {
                "layer": check.layer,
                "output change": check.output_change,
                "attributed": check.attributed,
                "gap": check.gap,
                "gap error": check.gap_error,
                "rank agreement with ablation": check.agreement,
                "from": check.agreement_low,
                "to": check.agreement_high,
                "rank stability over noise baselines": check.stability,
                "verdict": "adds up" if check.faithful else "does not add up",
            }
            for check in found.checks()
        ]
    )


def attribution_error(found: Attribution, theme: str = "light") -> go.Figure:
    """Draw the completeness gap of each layer with its bound.

    Args:
        found: an attribution.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.

    Raises:
        ValueError: an unknown theme.
    """
    frame = error_frame(found)
    title = "What the attribution misses"
    known = frame[np.isfinite(frame["gap"])]
    if known.empty:
        return nothing(theme, title, "No gap is finite: look at the surrogate.")
    colours = palette(theme)
    worst = known.iloc[int(known["gap"].argmax())]
    agreement = frame["rank agreement with ablation"].to_numpy(dtype=float)
    ranks = (
        f" Its ranks agree with ablation at {number(float(np.nanmedian(agreement)))} (median of "
        "the layers; 1 is the same order)."
        if np.isfinite(agreement).any() and found.method != "ablation"
        else ""
    )
    text = (
        f"The largest gap is {worst['gap']:.1%} ± {worst['gap error']:.1%} in "
        f"{short(worst['layer'], SPOKEN)}; up to {GAP_BOUND:.0%} passes (dashed).{ranks}"
    )
    drawn = figure(theme, title, text, grid_height(len(frame)))
    drawn.add_trace(
        go.Scatter(
            x=[None if not np.isfinite(v) else 100 * v for v in frame["gap"]],
            y=list(range(len(frame))),
            error_x=error_bars(100 * frame["gap error"], theme),
            mode="markers",
            marker={
                "size": 10,
                "color": colours.accent,
                "symbol": ["circle" if v == "adds up" else "x" for v in frame["verdict"]],
            },
            hovertext=[
                f"{plain(row['layer'])}<br>{row['verdict']}: {row['gap']:.2%} ± "
                f"{row['gap error']:.2%}<br>agreement {row['rank agreement with ablation']:.2f} "
                f"({row['from']:.2f} to {row['to']:.2f})"
                for row in frame.to_dict("records")
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    drawn.add_vline(x=100 * GAP_BOUND, line={"color": colours.alarm, "dash": "dash", "width": 1.5})
    layer_rows(drawn, frame["layer"].tolist(), grid=True)
    ends = 100 * (known["gap"] + known["gap error"].fillna(0.0))
    widest = max(float(ends.max()), 100 * GAP_BOUND)
    drawn.update_xaxes(
        title_text="gap (% of the output's change)",
        # A point at 0 is drawn whole.
        range=[-0.03 * widest, 1.06 * widest],
        fixedrange=True,
    )
    return drawn
