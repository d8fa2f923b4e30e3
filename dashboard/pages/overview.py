"""Overview of a run: where is it broken, and since when?"""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import dcc, html

from ...analysis.findings import Finding
from .. import figures
from ..catalogue import Snapshot
from ..components import badge, notice, switch
from ..figures_axes import MOST_WRITTEN
from ..figures_style import short
from ..groups import Group, grouped
from ..metrics import METRICS
from ..pieces import Piece, show
from ..view import View
from ..words import count, measured, nothing_yet, since
from .content import CHECKING, Content, Moment, show_switch
from .pickers import choice_picker

MOST_FINDINGS = 6
"""Rules beside the heatmap, half as many for a deep network; the page Findings has them all."""

MOST_LAYERS = 4
"""Layers that one of them names."""

MOST_SCALARS = 4
"""Given numbers drawn under it; those of a deep network are chosen one at a time."""


def render(run: Snapshot, view: View) -> Content:
    """Return the page: heatmap of layers over timesteps, findings beside it, loss under it."""
    moment = Moment.of(run, view)
    if moment.step is None:
        return Content(body=[*moment.notes, notice("Nothing to draw.", nothing_yet(run))])
    offered = [(name, what.symbol) for name, what in METRICS.items() if what.over_layers]
    metric = switch("metric", view.metric, offered, "metric")
    picture, under = (show(piece, view) for piece in pieces(run, view))
    side = html.Section(
        _findings(run, view), className="side", id={"type": "live", "index": "findings"}
    )
    names = _names(run)
    panels = _panels(run)
    picked = _drawn(run, view)
    picker = [choice_picker("scalar", picked[0], names, "curve")] if len(names) > panels else []
    return Content(
        controls=[metric, *moment.controls(run), *picker, show_switch(view)],
        body=[
            *moment.notes,
            html.Div([html.Div([picture, under], className="main"), side], className="columns"),
        ],
        defaults=moment.defaults()
        | {"layers": [layer.name for layer in run.layers], "scalar": names[0]},
        shape=(*moment.shape(run), tuple(names)),
        unfinished=not moment.whole,
    )


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page."""
    moment = Moment.of(run, view)

    def cells() -> pd.DataFrame:
        found = figures.cells(run, view.metric, **moment.at)
        return found.frame() if found is not None else pd.DataFrame()

    def marks() -> list[tuple[int, str]]:
        began: dict[int, list[str]] = {}
        for group in grouped(run.findings)[:MOST_FINDINGS]:
            began.setdefault(group.steps[0], []).append(f"{group.worst.code} {group.title}")
        return [(step, ", ".join(names)) for step, names in sorted(began.items())]

    return [
        Piece(
            "cells",
            lambda: figures.layer_heatmap(run, view.metric, theme=view.theme, **moment.at),
            cells,
            "layer",
        ),
        Piece(
            "scalars",
            lambda: figures.scalar_curves(
                run, _drawn(run, view), step=view.step, marks=marks(), theme=view.theme
            ),
            lambda: run.scalars().dropna(how="all").reset_index().iloc[::-1],
            "step",
        ),
    ]


def _names(run: Snapshot) -> list[str]:
    """Return the names of the given numbers, the loss first."""
    return sorted(map(str, run.scalars().columns), key=lambda name: name != "loss") or ["loss"]


def _small(run: Snapshot) -> bool:
    """Return whether there is room for everything: the page of a deep network stays light."""
    return len(run.layers) <= MOST_WRITTEN


def _panels(run: Snapshot) -> int:
    """Return how many curves are drawn."""
    return MOST_SCALARS if _small(run) else 1


def _drawn(run: Snapshot, view: View) -> list[str]:
    """Return the given numbers that are drawn, the chosen one first."""
    names = _names(run)
    first = [view.scalar] if view.scalar in names else []
    return [*first, *(name for name in names if name not in first)][: _panels(run)]


def _findings(run: Snapshot, view: View) -> list[Any]:
    """Return what is wrong, a rule each, with links to the views that they speak of."""
    found = run.findings
    shown = grouped(found)
    most = MOST_FINDINGS if _small(run) else MOST_FINDINGS // 2
    items = [html.Li(_item(run, group, view)) for group in shown[:most]]
    whole = view.but(page="findings", layer="", t=None, step=None)
    more = (
        [dcc.Link(f"All {len(found)} findings", href=whole.search())]
        if len(found) > len(items)
        else []
    )
    content: list[Any] = [html.Ul(items, className="findings"), *more]
    if not items:
        content = [html.P(CHECKING if run.checking else "None.", className="quiet")]
    return [
        html.H2(f"Findings ({len(found)})" if found or not run.checking else "Findings"),
        *content,
    ]


def _item(run: Snapshot, group: Group, view: View) -> list[Any]:
    worst, layers = group.worst, group.layers
    where: list[Any] = [since(run, group.steps)]
    if layers:
        where = ["in "]
        for name in layers[:MOST_LAYERS]:
            mine = next(found for found in group.findings if found.layer == name)
            where += [dcc.Link(short(name, 40), href=_target(mine, view), title=name), ", "]
        if layers[MOST_LAYERS:]:
            where += [f"{count(len(layers) - MOST_LAYERS, 'more layer')}, "]
        where += [since(run, group.steps)]
    at = [] if len(layers) < 2 else [short(worst.layer, 40)]
    at += [] if worst.t is None else [f"t = {worst.t}"]
    first = f"{', '.join(at)}: " if at else ""
    return [
        badge(worst.severity),
        " ",
        html.Strong(f"{worst.code} {group.title}"),
        html.Div(where),
        html.Div(
            f"{first}{measured(worst)}. {worst.text}",
            className="quiet numbers",
        ),
    ]


def _target(finding: Finding, view: View) -> str:
    """Return the address of the view that a finding speaks of."""
    return view.but(page="layer", layer=finding.layer, t=finding.t, step=finding.steps[1]).search()
