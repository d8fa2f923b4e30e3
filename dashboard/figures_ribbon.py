"""Quantiles of u of one layer over training: since when is the law what it is?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..data.runs import Run
from .figures_axes import mark_step, of_layer
from .figures_scalars import FEW_POINTS
from .figures_style import figure, nothing, number, palette, thinned
from .lazy import MOST_STEPS, lazy
from .measured_law import gradient_interval, level_of
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
        A plotly figure: 5 to 95% and 25 to 75% as bands, the median as a line.

    Raises:
        RunError: an unknown layer.
    """
    entry = run.layer(layer)
    frame, whole = ribbon_values(run, layer, t=t, mode=mode, patience=patience)
    title = "u over training" if entry.coordinate == "u" else entry.coordinate
    if frame.empty:
        reason = "Reading the record …" if not whole else f"This layer was not recorded in {mode}."
        return nothing(theme, title, reason)
    unit = "thresholds" if entry.coordinate == "u" else "potential"
    at = int(frame["t"].iloc[0])
    colours = palette(theme)
    low, lower, middle, upper, high = (frame[str(q)].to_numpy(dtype=float) for q in QUANTILES)
    steps = frame["step"].to_numpy()
    text = f"At t = {at} the median of {entry.coordinate} "
    text += f"is {number(middle[0])}" if len(steps) == 1 else f"goes from {number(middle[0])}"
    text += f" at step {steps[0]}"
    text += "" if len(steps) == 1 else f" to {number(middle[-1])} at step {steps[-1]}"
    text += (
        f"; 90% of it lie between {number(low[-1])} and {number(high[-1])} {unit} there (pale "
        "band; the darker one holds half)."
    )
    record = lazy(run)
    if len(record.sampled(MOST_STEPS, mode)) < len(record.steps(mode)):
        text += thinned(len(steps), len(record.steps(mode)))
    drawn = figure(theme, f"{title}, t = {at} ({mode})", text, 320)
    interval = gradient_interval(entry)
    if interval is not None:
        bottom, top = max(interval[0], low.min()), min(interval[1], high.max())
        if bottom < top:
            drawn.add_hrect(bottom, top, fillcolor=colours.band, line_width=0, layer="below")
    for below, above, opacity, words in (
        (low, high, "0.20", "5 to 95%"),
        (lower, upper, "0.40", "25 to 75%"),
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
            mode="lines+markers" if len(steps) <= FEW_POINTS else "lines",
            line={"width": 2, "color": colours.accent},
            hovertemplate=f"step %{{x}}<br>median %{{y:.3f}} {unit}<extra></extra>",
        )
    )
    drawn.add_hline(
        y=level_of(entry),
        line={"color": colours.text, "width": 2},
        annotation={"text": "threshold", "yanchor": "bottom", "xanchor": "left", "x": 0},
    )
    mark_step(drawn, step, theme)
    of_layer(drawn, layer)
    alone = {"tickvals": steps.tolist()} if len(steps) == 1 else {}
    drawn.update_xaxes(title_text="optimiser step", fixedrange=True, **alone)
    drawn.update_yaxes(title_text=f"{entry.coordinate} ({unit})", fixedrange=True)
    return drawn


def _faded(colour: str, opacity: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
