"""How the gradient decays from layer to layer and over time, beside what theory expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.recorded_gain import leak_factor, recorded_gain
from ..analysis.recorded_law import plain_spec
from ..data.runs import Run
from .figures_axes import (
    MOST_WRITTEN,
    grid_height,
    layer_rows,
    log_axis,
    top_legend,
)
from .figures_style import figure, nothing, number, palette, plain, short
from .lazy import lazy
from .metrics import METRICS

MOST_DECADES = 4
"""Labels across a figure that shares its width with the names of layers."""


def decay_values(run: Run, *, step: int | None = None, mode: str = "train") -> pd.DataFrame:
    """Return how the gradient's norm changes from each layer to the one below, and per timestep.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        A row per layer with a gradient above 0: layer; kept (norm of dL/du over all timesteps, over
        that of the layer above), its error, predicted low and high; product (from the last layer
        down to this one), its prediction low and high; per timestep (factor of the rms per timestep
        back), the leak's own factor. NaN where there is none.
    """
    record = lazy(run)
    steps = record.steps(mode)
    columns = ["layer", "kept", "error", "low", "high", "product", "product low", "product high",
               "per timestep", "leak alone"]  # fmt: skip
    if not len(steps):
        return pd.DataFrame(columns=columns)
    at = int(steps[-1]) if step is None else step

    def work_out() -> pd.DataFrame:
        return pd.DataFrame(_decays(run, record.rows_at(at, mode)), columns=columns)

    return record.once("decay", at, mode, work_out)


def _decays(run: Run, rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    values = {name: rows[name].to_numpy(dtype=float) for name in _USED}
    places = rows.groupby("layer", sort=False).indices
    # Plain arrays: two hundred small frames would be most of the time.
    by_layer = {
        str(name): {key: value[at] for key, value in values.items()} for name, at in places.items()
    }
    norms = {name: _norm(part) for name, part in by_layer.items()}
    names = [layer.name for layer in run.covered if norms.get(layer.name, (0.0, 0.0))[0] > 0]
    found: list[tuple[Any, ...]] = []
    product = np.ones(3)
    for k in range(len(names) - 1, -1, -1):
        name = names[k]
        part = by_layer[name]
        ratios = np.full(4, np.nan)
        if k + 1 < len(names):
            above = names[k + 1]
            (norm, error), (over, over_error) = norms[name], norms[above]
            ratios[:2] = norm / over, norm / over * np.hypot(error / norm, over_error / over)
            ratios[2:] = _expected(run, name, above, part, by_layer[above])
            product = product * ratios[[0, 2, 3]]
        found.append((name, *ratios, *product, *_per_timestep(run, name, part)))
    return found[::-1]


_USED = ("grad_u_count", "grad_u_square", "grad_u_rms", "grad_u_rms_se", "rate",
         "surrogate_mean", "surrogate_square", "input_var")  # fmt: skip


Part = dict[str, np.ndarray]


def _norm(part: Part) -> tuple[float, float]:
    """Return the norm of dL/du over all timesteps, and its standard error."""
    seen = (part["grad_u_count"] > 0) & np.isfinite(part["grad_u_square"])
    squares = (part["grad_u_square"] * part["grad_u_count"])[seen]
    total = float(squares.sum())
    if not total > 0:
        return 0.0, 0.0
    rms, error = part["grad_u_rms"][seen], part["grad_u_rms_se"][seen]
    relative = np.divide(error, rms, out=np.zeros(len(rms)), where=(rms > 0) & np.isfinite(error))
    # The timesteps share their samples: their errors add up fully.
    return float(np.sqrt(total)), float(np.sqrt(total) * (squares * relative).sum() / total)


def _expected(run: Run, name: str, above: str, part: Part, over: Part) -> tuple[float, float]:
    try:
        lower, upper = plain_spec(run.layer(name).spec), plain_spec(run.layer(above).spec)
        return recorded_gain(lower, upper, part, over)
    except ValueError:
        return np.nan, np.nan


def _per_timestep(run: Run, name: str, part: Part) -> tuple[float, float]:
    values = part["grad_u_rms"]
    measured = np.nan
    if len(values) > 1 and values[0] > 0 and values[-1] > 0:
        measured = float((values[0] / values[-1]) ** (1.0 / (len(values) - 1)))
    try:
        return measured, leak_factor(plain_spec(run.layer(name).spec), part)
    except ValueError:
        return measured, np.nan


def gradient_decay(
    run: Run, *, step: int | None = None, mode: str = "train", theme: str = "light"
) -> go.Figure:
    """Draw what is left of the gradient's norm from the last layer down, beside the prediction.

    Args:
        run: a recorded run.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure on a log axis: the product of the measured ratios as a line, that of the
        local gains predicted from the forward pass as a band.
    """
    frame = decay_values(run, step=step, mode=mode)
    title = "Gradient kept"
    if len(frame) < 2:
        return nothing(theme, title, "It takes two layers with a gradient above 0.")
    colours = palette(theme)
    steps = lazy(run).steps(mode)
    at = int(steps[-1]) if step is None else step
    names = frame["layer"].tolist()
    drawn = figure(
        theme, f"{title}, step {at} ({mode})", _decay_words(frame), grid_height(len(names)) + 56
    )
    known = _predicted(frame)
    if known.any():
        where = np.flatnonzero(known).tolist()
        drawn.add_trace(
            go.Scatter(
                name="predicted",
                x=frame["product high"][known].tolist()
                + frame["product low"][known].tolist()[::-1],
                y=where + where[::-1],
                mode="lines",
                line={"width": 1, "color": colours.text, "dash": "dash"},
                fill="toself",
                fillcolor=colours.chance,
                hoverinfo="skip",
            )
        )
    drawn.add_trace(
        go.Scatter(
            name="measured",
            x=frame["product"].tolist(),
            y=list(range(len(names))),
            customdata=[[name, 1] for name in names],
            mode="lines+markers" if len(names) <= MOST_WRITTEN else "lines",
            line={"color": METRICS["gradient"].line(theme), "width": 2},
            hovertext=[_decay_hover(row) for row in frame.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    top_legend(drawn)
    layer_rows(drawn, names, grid=True)
    drawn.update_layout(margin_b=76)
    values = frame[["product", "product low", "product high"]].to_numpy(dtype=float, copy=True)
    values[~known, 1:] = np.nan
    drawn.update_xaxes(
        title_text="norm of dL/du<br>over the last layer's",
        **log_axis(values[values > 0], MOST_DECADES),
    )
    return drawn


def _predicted(frame: pd.DataFrame) -> np.ndarray:
    """Return for which layers a prediction is drawn; the last one's, 1 by itself, is none."""
    ends = frame[["product low", "product high"]].to_numpy(dtype=float)
    known = np.asarray((ends > 0).all(axis=1), dtype=bool)
    return known if known[:-1].any() else np.zeros(len(frame), dtype=bool)


def _decay_hover(row: Mapping[Any, Any]) -> str:
    lines = [plain(str(row["layer"])), f"left of the last layer's norm: {row['product']:.3e}"]
    if np.isfinite(row["product low"]):
        lines.append(f"predicted {row['product low']:.3e} to {row['product high']:.3e}")
    if np.isfinite(row["kept"]):
        lines.append(f"over the layer above: {row['kept']:.3f} ± {row['error']:.3f}")
        lines.append(f"predicted {row['low']:.3f} to {row['high']:.3f}")
    return "<br>".join(lines)


def _decay_words(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    text = (
        f"The gradient's norm in {short(first['layer'], 80)} is {number(first['product'])} times "
        f"that in {short(frame.iloc[-1]['layer'], 80)}"
    )
    if _predicted(frame)[0]:
        return (
            f"{text}; the forward pass alone predicts {number(first['product low'])} (a gradient "
            f"that is new at every timestep) to {number(first['product high'])} (the same at all "
            "of them)."
        )
    steepest = frame.iloc[int(np.nanargmin(frame["kept"].to_numpy(dtype=float)))]
    return (
        f"{text}; it falls most in {short(steepest['layer'], 80)}, to {number(steepest['kept'])} "
        "times that of the layer above. The forward pass predicts nothing here."
    )
