"""Quantiles of u of one layer over training: since when is the law what it is?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_law import gradient_interval
from .figures_style import figure, nothing, number, palette
from .lazy import lazy
from .quantiles import QUANTILES

QUANTILE_NAMES = {str(q): f"{q:.0%} quantile of u" for q in QUANTILES}
"""Headers of the table."""


def ribbon_values(
    run: Run, layer: str, *, t: int | None = None, mode: str = "train", patience: float = np.inf
) -> tuple[pd.DataFrame, bool]:
    """Return quantiles of u at one timestep over training.

    Args:
        run: a recorded run.
        layer: name of a layer.
        t: timestep; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        patience: seconds after which the rest of a long run is left to the next call.

    Returns:
        ``(frame, whole)``: columns step, t and a quantile each, in the unit of the law; whether
        every step that is to be shown has been read.
    """
    found = lazy(run).quantiles(layer, mode, patience)
    frame = found.frame
    if frame.empty:
        return frame, found.whole
    at = int(frame["t"].max()) if t is None else t
    chosen = frame[(frame["t"] == at) & frame[str(QUANTILES[0])].notna()]
    return chosen.reset_index(drop=True), found.whole


def quantile_ribbon(
    run: Run,
    layer: str,
    *,
    t: int | None = None,
    mode: str = "train",
    step: int | None = None,
    theme: str = "light",
    patience: float = np.inf,
) -> go.Figure:
    """Draw quantiles of u at one timestep over training, with the threshold.

    Args:
        run: a recorded run.
        layer: name of a layer.
        t: timestep; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        step: a step to mark.
        theme: ``"light"`` or ``"dark"``.
        patience: seconds after which the rest of a long run is left to the next call.

    Returns:
        A plotly figure: 5 to 95 % and 25 to 75 % as bands, the median as a line.

    Raises:
        RunError: an unknown layer.
    """
    entry = run.layer(layer)
    frame, whole = ribbon_values(run, layer, t=t, mode=mode, patience=patience)
    title = f"Quantiles of {entry.coordinate} over training"
    if frame.empty:
        reason = "Reading the record …" if not whole else f"This layer was not recorded in {mode}."
        return nothing(theme, title, reason)
    unit = "thresholds" if entry.coordinate == "u" else "potential"
    at = int(frame["t"].iloc[0])
    colours = palette(theme)
    low, lower, middle, upper, high = (frame[str(q)].to_numpy(dtype=float) for q in QUANTILES)
    steps = frame["step"].to_numpy()
    text = (
        f"At t = {at} the median of {entry.coordinate} goes from {number(middle[0])} at step "
        f"{steps[0]} to {number(middle[-1])} at step {steps[-1]}; 90 % of it lie between "
        f"{number(low[-1])} and {number(high[-1])} {unit} there."
    )
    drawn = figure(theme, f"{title}, t = {at} ({mode})", text, 300)
    interval = gradient_interval(entry)
    if interval is not None:
        bottom, top = max(interval[0], low.min()), min(interval[1], high.max())
        if bottom < top:
            drawn.add_hrect(bottom, top, fillcolor=colours.band, line_width=0, layer="below")
    for below, above, opacity, words in (
        (low, high, "0.20", "5 to 95 %"),
        (lower, upper, "0.40", "25 to 75 %"),
    ):
        fill = _faded(colours.accent, opacity)
        for values, to in ((below, None), (above, "tonexty")):
            drawn.add_trace(
                go.Scatter(
                    name=words,
                    x=steps.tolist(),
                    y=values.tolist(),
                    mode="lines",
                    line={"width": 0.5, "color": colours.accent},
                    fill=to,
                    fillcolor=fill,
                    hovertemplate=f"step %{{x}}<br>{words}: %{{y:.3f}} {unit}<extra></extra>",
                )
            )
    drawn.add_trace(
        go.Scatter(
            name="median",
            x=steps.tolist(),
            y=middle.tolist(),
            mode="lines",
            line={"width": 2, "color": colours.accent},
            hovertemplate=f"step %{{x}}<br>median %{{y:.3f}} {unit}<extra></extra>",
        )
    )
    level = 1.0 if entry.coordinate == "u" else 0.0
    drawn.add_hline(y=level, line={"color": colours.text, "width": 2})
    if step is not None:
        drawn.add_vline(x=step, line={"color": colours.muted, "width": 1.5, "dash": "dot"})
    drawn.update_xaxes(title_text="optimiser step", fixedrange=True)
    drawn.update_yaxes(title_text=f"{entry.coordinate} ({unit})", fixedrange=True)
    return drawn


def _faded(colour: str, opacity: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
