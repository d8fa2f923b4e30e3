"""Which parts of the input speak for a class, over time where the input has a time axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analysis.attribution_result import Attribution
from .figures_attribution import COLOURS
from .figures_axes import COLOUR_BAR, subtitle
from .figures_style import figure, nothing, number

MOST_PICTURES = 8


def saliency_maps(found: Attribution, label: int) -> np.ndarray | None:
    """Return the mean attribution of the input over the kept samples, as pictures.

    Args:
        found: an attribution.
        label: one of its classes.

    Returns:
        ``[picture, row, column]``: an image ``[C, H, W]`` is one picture, summed over channels; a
        sequence of images ``[T, C, H, W]`` is one per timestep; a sequence of features ``[T, F]``
        is one with a row per feature and a column per timestep. None if there is none.
    """
    if found.inputs is None or label not in found.classes:
        return None
    mean = found.inputs[found.classes.index(label)].mean(0)
    if mean.ndim == 4:
        return np.asarray(mean.sum(1))
    if mean.ndim == 3:
        return np.asarray(mean.sum(0))[None]
    if mean.ndim == 2:
        return np.asarray(mean.T)[None]
    return np.asarray(mean.reshape(1, 1, -1))


def saliency_frame(found: Attribution, label: int) -> pd.DataFrame:
    """Return a row per element of the pictures of :func:`saliency_maps`."""
    maps = saliency_maps(found, label)
    if maps is None:
        return pd.DataFrame(columns=["picture", "row", "column", "attribution"])
    places = np.indices(maps.shape).reshape(3, -1) + 1
    columns = dict(zip(("picture", "row", "column"), places, strict=True))
    return pd.DataFrame({**columns, "attribution": maps.ravel()})


def _axes(found: Attribution) -> tuple[str, str]:
    """Return what runs across a picture, and what down."""
    dimensions = 0 if found.inputs is None else found.inputs.ndim - 2
    if dimensions > 2:
        return "column (pixel)", "row (pixel)"
    return ("timestep t", "feature") if dimensions == 2 else ("feature", "")


def input_saliency(found: Attribution, label: int, theme: str = "light") -> go.Figure:
    """Draw which parts of the input speak for a class, a picture per timestep.

    Args:
        found: an attribution.
        label: one of its classes.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure; at most 8 timesteps, evenly chosen.

    Raises:
        ValueError: an unknown theme.
    """
    title = f"What of the input speaks for class {label}"
    maps = saliency_maps(found, label)
    if maps is None:
        return nothing(theme, title, "The input was not attributed: add --saliency.")
    finite = maps[np.isfinite(maps)]
    if not finite.size:
        return nothing(theme, title, "No attribution is finite: look at the surrogate.")
    chosen = np.unique(np.linspace(0, len(maps) - 1, min(len(maps), MOST_PICTURES)).astype(int))
    largest = float(np.abs(finite).max()) or 1.0
    weight = np.nansum(np.abs(maps), axis=(1, 2))
    over_time = (
        f" Timestep {int(weight.argmax()) + 1} of {len(maps)} weighs most, with "
        f"{weight.max() / weight.sum():.0%} of all."
        if len(maps) > 1 and weight.sum() > 0
        else ""
    )
    text = (
        f"One element weighs at most {number(largest)} in units of the output, in the mean over "
        f"{found.inputs.shape[1] if found.inputs is not None else 0} samples.{over_time}"
    )
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    titles = [f"t = {place + 1}" for place in chosen] if len(maps) > 1 else None
    grid = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.03)
    across, down = _axes(found)
    for order, place in enumerate(chosen):
        rounded = [[None if np.isnan(v) else float(f"{v:.4g}") for v in row] for row in maps[place]]
        grid.add_trace(
            go.Heatmap(
                z=rounded,
                # Counted as in the table.
                x0=1, y0=1,
                zmin=-largest, zmax=largest, colorscale=COLOURS, showscale=order == 0,
                colorbar=COLOUR_BAR,
                hovertemplate=f"{down} %{{y}}, {across} %{{x}}<br>%{{z}}<extra></extra>",
            ),
            order // columns + 1,
            order % columns + 1,
        )  # fmt: skip
    drawn = figure(theme, title, text, 120 + 220 * rows)
    subtitle(drawn, f"{found.method.replace('_', ' ')}, units of the output")
    base = drawn.layout
    grid.update_layout(
        title=base.title, meta=base.meta, font=base.font, height=base.height,
        paper_bgcolor=base.paper_bgcolor, plot_bgcolor=base.plot_bgcolor,
        margin={"l": 8, "r": 12, "t": 72, "b": 56}, hoverlabel=base.hoverlabel, dragmode=False,
    )  # fmt: skip
    alone = len(chosen) == 1
    look = {"showticklabels": alone, "showgrid": False, "fixedrange": True, "nticks": 8}
    grid.update_xaxes(**look)
    grid.update_yaxes(autorange="reversed", automargin=True, **look)
    # Pictures side by side share their axes' names.
    grid.update_xaxes(title_text=across, row=rows)
    grid.update_yaxes(title_text=down, col=1)
    if found.inputs is not None and found.inputs.ndim > 4:  # pictures have square pixels
        grid.update_yaxes(scaleanchor="x", constrain="domain")
        grid.update_xaxes(constrain="domain")
    return grid
