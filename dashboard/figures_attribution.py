"""Attribution to layers and timesteps, always with what it fails to add up to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.attribution_result import GAP_BOUND, Attribution
from .figures_style import figure, nothing, number, palette, plain, short

COLOURS = "BrBG"
"""Colour map of an attribution: it has a sign."""

MOST_LABELS = 45
MOST_WRITTEN = 24
SPOKEN = 80


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
    title = f"Class {label} by layer and timestep, {found.method.replace('_', ' ')}"
    if not np.isfinite(frame["score"]).any():
        return nothing(theme, title, "No attribution is finite: look at the surrogate.")
    wide = frame.pivot(index="layer", columns="t", values="score").reindex(layers)
    largest = float(np.nanmax(np.abs(wide.to_numpy()))) or 1.0
    top = frame.iloc[int(np.nanargmax(frame["score"].abs()))]
    text = (
        f"{short(top['layer'], SPOKEN)} at t = {int(top['t'])} weighs most: {number(top['score'])} "
        f"± {number(top['score_se'])} of the output of class {label}; silent there, the output "
        f"falls by {number(top['ablation'])} ± {number(top['ablation_se'])}. {_verdict(found)}"
    )
    drawn = figure(theme, title, text, int(np.clip(136 + 32 * len(layers), 280, 900)))
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
            colorbar={"thickness": 10, "len": 1.0, "x": 1.0, "xpad": 6, "ypad": 0,
                      "outlinewidth": 0, "tickfont": {"size": 14}},
            customdata=[[plain(name)] * steps for name in layers],
            text=[[number(v) if np.isfinite(v) else "" for v in row] for row in values]
            if written
            else None,
            texttemplate="%{text}" if written else None,
            hovertext=hover,
            hovertemplate="%{customdata}<br>t = %{x}<br>%{hovertext}<extra></extra>",
            hoverongaps=False,
            xgap=1 if written else 0,
            ygap=1 if written else 0,
        )
    )  # fmt: skip
    every = -(-len(layers) // MOST_LABELS)
    drawn.update_yaxes(
        range=[len(layers) - 0.5, -0.5],
        tickvals=list(range(0, len(layers), every)),
        ticktext=[plain(short(name)) for name in layers[::every]],
        showgrid=False,
        fixedrange=True,
    )
    drawn.update_xaxes(
        title_text="timestep t", range=[0.5, steps + 0.5], dtick=max(1, steps // 16), tick0=1,
        showgrid=False, fixedrange=True,
    )  # fmt: skip
    drawn.update_layout(
        margin_t=72, title_subtitle={"text": "units of the output", "font": {"size": 14}}
    )
    return drawn


def _hover(row: Mapping[Hashable, Any]) -> str:
    return (
        f"attributed {number(row['score'])} ± {number(row['score_se'])}<br>"
        f"silent there costs {number(row['ablation'])} ± {number(row['ablation_se'])}"
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
        f"{short(worst['layer'], SPOKEN)}; up to {GAP_BOUND:.0%} passes.{ranks}"
    )
    drawn = figure(theme, title, text, 320)
    places = list(range(len(frame)))
    drawn.add_trace(
        go.Scatter(
            x=places,
            y=[None if not np.isfinite(v) else 100 * v for v in frame["gap"]],
            error_y={"type": "data", "color": colours.muted, "thickness": 1.5,
                     "array": (100 * frame["gap error"].fillna(0.0)).tolist()},
            mode="markers",
            marker={"size": 10, "color": colours.accent,
                    "symbol": ["circle" if v == "adds up" else "x" for v in frame["verdict"]]},
            hovertext=[
                f"{plain(row['layer'])}<br>{row['verdict']}: {row['gap']:.2%} ± "
                f"{row['gap error']:.2%}<br>agreement {row['rank agreement with ablation']:.2f} "
                f"({row['from']:.2f} to {row['to']:.2f})"
                for row in frame.to_dict("records")
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    drawn.add_hline(y=100 * GAP_BOUND, line={"color": colours.alarm, "dash": "dash", "width": 1.5})
    every = -(-len(frame) // MOST_LABELS)
    drawn.update_xaxes(
        tickvals=places[::every],
        ticktext=[plain(short(name)) for name in frame["layer"].iloc[::every]],
        tickangle=40, title_text="layer, input first", title_standoff=4, fixedrange=True,
    )  # fmt: skip
    drawn.update_yaxes(title_text="gap (% of the change)", rangemode="tozero", fixedrange=True)
    drawn.update_layout(margin_b=110)
    return drawn
