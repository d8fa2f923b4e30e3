"""What each timestep carries, and which surrogate's gradients explain the network."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.attribution_result import GAP_BOUND
from ..analysis.fidelity import FidelityCurve
from ..analysis.timestep_result import TimestepImportance
from .figures_axes import error_bars, log_axis, time_axis, top_legend
from .figures_style import figure, nothing, palette, plain, with_error

# Safe for the colour-blind (Okabe and Ito), and each shape has its own marker as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")


def timestep_importance(found: TimestepImportance, theme: str = "light") -> go.Figure:
    """Draw how the true class's output falls when all layers are silent at one timestep.

    Args:
        found: ablation of timesteps.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.

    Raises:
        ValueError: an unknown theme.
    """
    table = found.table()
    top = table.iloc[int(table["fall"].abs().argmax())]
    text = (
        f"Timestep {int(top['t'])} carries most: without it the true class loses "
        f"{with_error(top['fall'], top['fall_se'])} of its output, and accuracy is "
        f"{top['accuracy_without']:.1%}."
    )
    drawn = figure(theme, "What a silent timestep costs", text, 300)
    drawn.add_trace(
        go.Bar(
            x=table["t"].tolist(),
            y=table["fall"].tolist(),
            marker={"color": palette(theme).accent},
            error_y=error_bars(table["fall_se"], theme),
            hovertext=[
                f"t = {int(row['t'])}<br>falls by {row['fall']:.4g} ± {row['fall_se']:.2g}<br>"
                f"accuracy without it {row['accuracy_without']:.1%} ± "
                f"{row['accuracy_without_se']:.1%}"
                for row in table.to_dict("records")
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    time_axis(drawn, len(table), "silent timestep t")
    drawn.update_yaxes(title_text="fall of the output (its units)", fixedrange=True)
    return drawn


def fewer_timesteps(found: TimestepImportance, theme: str = "light") -> go.Figure:
    """Draw the accuracy of a run of only the first timesteps.

    Args:
        found: ablation of timesteps.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.

    Raises:
        ValueError: an unknown theme.
    """
    title = "Accuracy with fewer timesteps"
    count = found.enough
    if count is None:
        return nothing(theme, title, found.reason)
    table = found.table()
    last = table.iloc[-1]

    def accuracy(row: pd.Series) -> str:
        return f"{row['accuracy_with_first']:.1%} ± {row['accuracy_with_first_se']:.1%}"

    if count == len(table):
        text = f"It takes all {count} timesteps to be as accurate as all are: {accuracy(last)}."
    else:
        text = (
            f"With only the first {'' if count == 1 else f'{count} '}of {len(table)} timesteps the "
            f"accuracy is "
            f"{accuracy(table.iloc[count - 1])}, not shown to be below that of all, "
            f"{accuracy(last)}."
        )
    drawn = figure(theme, title, text, 300)
    drawn.add_trace(
        go.Scatter(
            x=table["t"].tolist(), y=(100 * table["accuracy_with_first"]).tolist(),
            error_y=error_bars(100 * table["accuracy_with_first_se"], theme),
            mode="lines+markers", line={"color": palette(theme).accent}, marker={"size": 8},
            hovertemplate="first %{x}: %{y:.1f}% ± %{error_y.array:.1f}%<extra></extra>",
        )
    )  # fmt: skip
    time_axis(drawn, len(table), "timesteps run")
    drawn.update_yaxes(title_text="accuracy (%)", fixedrange=True)
    return drawn


def fidelity_curve(curve: FidelityCurve, theme: str = "light") -> go.Figure:
    """Draw the completeness gap over the width of the surrogate, a line per shape.

    Args:
        curve: gaps of surrogates.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure on log axes.

    Raises:
        ValueError: an unknown theme.
    """
    title = "Whose gradients explain it?"
    table = curve.table()
    tried = table[~table["own"]]
    known = table[np.isfinite(table["gap"]) & (table["gap"] > 0.0)]
    if known.empty:
        return nothing(theme, title, curve.reading)
    colours = palette(theme)
    drawn = figure(theme, title, f"{curve.reading[0].upper()}{curve.reading[1:]}", 400)
    for place, (shape, rows) in enumerate(tried.groupby("shape", sort=False)):
        colour = _COLOURS[place % len(_COLOURS)]
        drawn.add_trace(
            go.Scatter(
                name=str(shape).replace("_", " "),
                x=rows["width"].tolist(),
                y=[v if np.isfinite(v) and v > 0 else None for v in rows["gap"]],
                mode="lines+markers",
                line={"color": colour},
                marker={"symbol": _MARKERS[place % len(_MARKERS)], "size": 8},
                hovertext=[
                    f"{plain(str(shape))}, width {row['width']:.3g}, peak {row['peak']:.3g}<br>"
                    f"misses {row['gap']:.3g} ± {row['gap_se']:.2g} of the change"
                    for row in rows.to_dict("records")
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    own = table[table["own"] & np.isfinite(table["width"]) & np.isfinite(table["gap"])]
    if len(own):
        row = own.iloc[0]
        drawn.add_trace(
            go.Scatter(
                name="the model's own", x=[row["width"]], y=[row["gap"]], mode="markers",
                marker={"symbol": "star", "size": 15, "color": colours.text},
                hovertemplate=f"{plain(str(row['shape']))}, width %{{x:.3g}}<br>"
                f"misses %{{y:.3g}} ± {row['gap_se']:.2g}<extra>the model's own</extra>",
            )
        )  # fmt: skip
    drawn.add_hline(y=GAP_BOUND, line={"color": colours.alarm, "dash": "dash", "width": 1.5})
    drawn.update_xaxes(title_text="width of the surrogate (potential)")
    drawn.update_xaxes(**log_axis(known["width"].to_numpy(dtype=float)))
    drawn.update_yaxes(title_text="gap (share of the change)")
    drawn.update_yaxes(**log_axis(np.append(known["gap"].to_numpy(dtype=float), GAP_BOUND)))
    top_legend(drawn)
    return drawn
