"""A piece of a page: one figure, the table behind it, and how each can be taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html

from .components import grid, named
from .figures_style import CONFIG, reading
from .view import View

ABSENT = "absent"
"""Class of a figure that there is nothing for."""

TABLE_PATH = "/table.csv"
"""Where a piece's table can be had; its query is that of the page, and the piece's name."""


@dataclass(frozen=True)
class Piece:
    """One figure of a page with the table behind it.

    Args:
        name: tells pieces of one page apart; part of the address of its table.
        draw: makes the figure.
        frame: makes the table: the figure's own numbers with their errors, units in the headers.
        goes: what a click on a point opens: ``"layer"``, ``"t"``, ``"step"`` or nothing.
    """

    name: str
    draw: Callable[[], go.Figure]
    frame: Callable[[], pd.DataFrame]
    goes: str = ""


def show(piece: Piece, view: View) -> Any:
    """Return a piece as the view wants it: drawn, or as a table.

    Args:
        piece: the piece.
        view: what is looked at; the addresses of the tables follow from it.

    Returns:
        An html element with the ways to download it.
    """
    if view.show == "tables":
        return _table(piece, view)
    drawn = piece.draw()
    # A figure's title is escaped for plotly, not for the page.
    title = unescape(drawn.layout.title.text or "")
    words = reading(drawn)
    if not drawn.data:
        # An empty frame would only take the room of what there is to see.
        return _absent(title, words)
    graph = dcc.Graph(
        id={"type": "graph", "goes": piece.goes, "index": piece.name},
        figure=drawn,
        config=CONFIG,
        responsive=True,
        style={"height": f"{int(drawn.layout.height)}px", "width": "100%"},
    )
    return html.Figure(
        [
            # Beside the graph, not around it: what lies inside a picture is not read.
            html.Div(
                id={"type": "words", "index": piece.name},
                role="img",
                className="unseen",
                **named(f"{title}. {words}"),
            ),
            graph,
            html.Figcaption(
                [
                    html.Span(words, id={"type": "reading", "index": piece.name}),
                    " ",
                    _takeaway(piece, view),
                ],
                className="reading",
            ),
        ],
        className="figure",
    )


def _absent(title: str, words: str) -> html.Section:
    return html.Section([html.Strong(title), html.P(words)], className=ABSENT)


def _table(piece: Piece, view: View) -> Any:
    frame = piece.frame()
    drawn = piece.draw()
    title = unescape(drawn.layout.title.text or piece.name)
    if frame.empty:
        return _absent(title, reading(drawn))
    # What is the same in every row is in the title.
    said = [name for name in ("step", "t") if name in frame and frame[name].nunique() == 1]
    shown = frame.drop(columns=said) if len(frame) > 1 else frame
    return html.Section(
        [
            html.H2(title),
            grid(shown, title, name=piece.name),
            html.P([html.Span(reading(drawn)), " ", _csv(piece, view)], className="reading"),
        ]
    )


def _takeaway(piece: Piece, view: View) -> html.Span:
    """Return what downloads a figure: as pixels, as lines, as numbers."""
    buttons = [
        html.Button(
            kind.upper(),
            id={"type": "save", "kind": kind, "index": piece.name},
            className="save",
            title=f"Download as {kind.upper()}",
            **named(f"Download as {kind.upper()}: {piece.name}"),
        )
        for kind in ("png", "svg")
    ]
    return html.Span([*buttons, _csv(piece, view)], className="takeaway")


def _csv(piece: Piece, view: View) -> html.A:
    return html.A(
        "CSV",
        href=table_address(piece, view),
        download=f"spikescope-{piece.name}.csv",
        className="save",
        **named(f"Download the numbers as CSV: {piece.name}"),
    )


def table_address(piece: Piece, view: View) -> str:
    """Return the address of a piece's table as CSV."""
    query = view.search().lstrip("?")
    return f"{TABLE_PATH}?{query}{'&' if query else ''}{urlencode({'piece': piece.name})}"
