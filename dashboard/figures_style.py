"""What every figure has in common: colours of both themes, names, sentences."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

Theme = Literal["light", "dark"]

CONFIG: Any = {
    # plotly offers an upload to a cloud service unless it is told not to.
    "showSendToCloud": False,
    "displaylogo": False,
    # Every figure has its own ways to be downloaded, which the keyboard reaches.
    "displayModeBar": False,
    "responsive": True,
}
"""The one configuration of every graph."""

LONGEST_NAME = 20
"""Characters of a layer name on an axis; the whole name is on hover."""


@dataclass(frozen=True)
class Palette:
    """Colours of one theme; text on paper has a contrast of at least 4.5 to 1.

    Args:
        paper: background.
        text: words and the strongest lines.
        muted: words of less weight, error bars.
        grid: lines behind the figure.
        accent: what the figure is about, where it is no metric of its own.
        band: where the surrogate carries gradient, in every figure.
        chance: what chance alone explains, in every figure.
        alarm: bounds and findings.
        first: of timestep 1.
        last: of the last timestep.
    """

    paper: str
    text: str
    muted: str
    grid: str
    accent: str
    band: str
    chance: str
    alarm: str
    first: str
    last: str


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        paper="#ffffff",
        text="#1f2328",
        muted="#59636e",
        grid="#e3e6ea",
        accent="#0b62a8",
        band="rgba(214, 143, 0, 0.14)",
        chance="rgba(89, 99, 110, 0.16)",
        alarm="#b3261e",
        first="#a9cfe8",
        last="#08306b",
    ),
    "dark": Palette(
        paper="#16191d",
        text="#e6e8eb",
        muted="#a2abb5",
        grid="#30363d",
        accent="#6cb6ff",
        band="rgba(240, 180, 60, 0.16)",
        chance="rgba(162, 171, 181, 0.20)",
        alarm="#ff8a80",
        first="#e3f1fb",
        last="#3d86c6",
    ),
}


def palette(theme: str) -> Palette:
    """Return the colours of a theme.

    Args:
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The palette.

    Raises:
        ValueError: another word.
    """
    if theme not in PALETTES:
        raise ValueError(f"theme={theme!r} is unknown: it must be 'light' or 'dark'")
    return PALETTES["light" if theme == "light" else "dark"]


def time_colours(count: int, theme: str) -> list[str]:
    """Return one colour per timestep, from light to dark, never a rainbow.

    Args:
        count: number of timesteps.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        ``count`` colours as ``rgb(...)``.

    Example:
        >>> time_colours(2, "light")
        ['rgb(169, 207, 232)', 'rgb(8, 48, 107)']
    """
    colours = palette(theme)
    places = np.linspace(0.0, 1.0, count) if count > 1 else np.array([1.0])
    return list(sample_colorscale([[0, colours.first], [1, colours.last]], places.tolist()))


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """Shorten a name in the middle, where names of layers differ least.

    Args:
        name: the whole name.
        longest: characters that may stay.

    Returns:
        The name, or its head and tail around an ellipsis.

    Example:
        >>> short("features.block12.conv.residual.lif", 18)
        'features.…idual.lif'
    """
    if len(name) <= longest:
        return name
    head = longest // 2
    return f"{name[:head]}…{name[len(name) - (longest - head) :]}"


def plain(text: str) -> str:
    """Return text that plotly shows as it is: its pseudo-HTML and its line ends are taken out.

    Args:
        text: anything, such as the name of a layer.

    Returns:
        The text with ``<``, ``>`` and ``&`` escaped.

    Example:
        >>> plain("<b>net</b>")
        '&lt;b&gt;net&lt;/b&gt;'
    """
    return html.escape(" ".join(text.split()), quote=False)


def figure(theme: str, title: str, reading: str, height: int) -> go.Figure:
    """Return an empty figure in the common style.

    Args:
        theme: ``"light"`` or ``"dark"``.
        title: what the figure shows, plain text.
        reading: one sentence that says the same in words.
        height: in pixels.

    Returns:
        A plotly figure; its reading is in ``layout.meta``.
    """
    colours = palette(theme)
    axis = {
        "gridcolor": colours.grid,
        "zeroline": False,
        "exponentformat": "e",
        "linecolor": colours.grid,
        "tickfont": {"size": 14},
        "title": {"font": {"size": 14}, "standoff": 10},
    }
    return go.Figure(
        layout={
            # All is said here: plotly's own template would be sent with every figure.
            "template": {},
            "title": {
                "text": plain(title),
                "font": {"size": 16, "weight": 600},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "yref": "container",
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 8},
            },
            "meta": {"reading": reading},
            "font": {"family": "system-ui, sans-serif", "size": 14, "color": colours.text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 48, "b": 60},
            "xaxis": axis | {"automargin": False},
            "yaxis": axis | {"automargin": True},
            "showlegend": False,
            # What only a mouse could do is not offered: the legend names, it hides nothing.
            "legend": {"itemclick": False, "itemdoubleclick": False},
            "hoverlabel": {
                "bgcolor": colours.paper,
                "bordercolor": colours.grid,
                "font": {"size": 14, "color": colours.text},
                "align": "left",
                "namelength": -1,
            },
            "dragmode": False,
        }
    )


def nothing(theme: str, title: str, reason: str) -> go.Figure:
    """Return a figure that says in words why there is nothing to draw."""
    empty = figure(theme, title, reason, 200)
    empty.update_xaxes(visible=False)
    empty.update_yaxes(visible=False)
    empty.add_annotation(
        text=plain(reason), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
    )
    return empty


def reading(drawn: go.Figure) -> str:
    """Return the sentence that reads a figure aloud, made from the figure's own numbers.

    Args:
        drawn: a figure of this package.

    Returns:
        One sentence, plain text.

    Raises:
        ValueError: a figure made elsewhere.

    Example:
        >>> reading(nothing("light", "Loss", "No loss was recorded."))
        'No loss was recorded.'
    """
    meta = drawn.layout.meta
    if not isinstance(meta, dict) or "reading" not in meta:
        raise ValueError(
            "this figure has no reading: pass one made by spikescope.dashboard.figures"
        )
    return str(meta["reading"])


def number(value: float) -> str:
    """Return a number with three significant digits, for words and hovers.

    Args:
        value: any number.

    Returns:
        Its text; "none" for NaN.

    Example:
        >>> number(0.012345), number(1.0), number(float("nan"))
        ('0.0123', '1', 'none')
    """
    return (
        f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e") if math.isfinite(value) else "none"
    )


def with_error(value: float, error: float) -> str:
    """Return a number with its standard error, both as exact as the error is.

    Args:
        value: any number.
        error: its standard error; NaN or 0 where there is none.

    Returns:
        Its text.

    Example:
        >>> with_error(0.30412, 0.0594), with_error(5.728e-15, 1.4e-16), with_error(0.5, 0.0)
        ('0.304 ± 0.059', '5.73e-15 ± 0.14e-15', '0.5')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return number(value)
    place = math.floor(math.log10(error))
    size = math.floor(math.log10(max(abs(value), error)))
    if -4 < size < 5:
        digits = max(1 - place, 0)
        return f"{value:.{digits}f} ± {error:.{digits}f}"
    unit, digits = 10.0**size, max(size - place + 1, 0)
    return f"{value / unit:.{digits}f}e{size} ± {error / unit:.{digits}f}e{size}"


def thinned(shown: int, recorded: int, what: str = "shown") -> str:
    """Return a sentence if only some of the recorded steps stand for all of them.

    Args:
        shown: number of steps that are looked at, evenly spaced.
        recorded: number of steps that were recorded.
        what: what is done with them.

    Returns:
        The sentence with a space before it; empty if none is left out.

    Example:
        >>> thinned(48, 10_000), thinned(1, 8), thinned(5, 5)
        (' 48 of 10000 recorded steps are shown.', ' 1 of 8 recorded steps is shown.', '')
    """
    if shown >= recorded:
        return ""
    return f" {shown} of {recorded} recorded steps {'is' if shown == 1 else 'are'} {what}."
