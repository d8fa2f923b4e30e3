"""Runs: which run needs me?"""

from __future__ import annotations

import base64
import time
from typing import Any

import numpy as np
from dash import dcc, html

from ...data.runs import RunError, open_run
from ..catalogue import Catalogue
from ..components import badge, labelled, named, notice
from ..figures_style import number, palette, short
from ..view import View
from ..words import place, size, state, unread
from .content import Content

PATIENCE = 1.0
"""Seconds that one look spends on reading runs; the next look goes on with the rest."""

_FIRST_RUN = """with spikescope.watch(model, {path!r}) as probe:
    ...  # your training loop; after each optimiser step: probe.step(loss=loss)"""

_HEADERS = (
    "run",
    "state",
    "model",
    "data",
    "steps",
    "last loss",
    "course",
    "worst finding",
    "size",
)


def render(catalogue: Catalogue, view: View) -> Content:
    """Return the page: a table of the runs under the root, the youngest first."""
    paths = catalogue.paths()
    if not paths:
        return Content(body=[_empty(str(catalogue.root))])
    until = time.monotonic() + PATIENCE
    youngest = sorted(paths, key=lambda name: -paths[name].stat().st_mtime)
    rows = []
    unfinished = False
    for name in youngest:
        # One slow check at a time: each holds its whole run in memory.
        patient = time.monotonic() < until and not unfinished
        row, whole = _row(catalogue, name, view, patient)
        rows.append(row)
        unfinished |= not whole
    head = html.Thead(html.Tr([html.Th(header, scope="col") for header in _HEADERS]))
    return Content(
        body=[
            html.H2(f"Runs ({len(paths)})"),
            html.P(f"under {catalogue.root}", className="quiet"),
            html.Div(
                html.Table([head, html.Tbody(rows)], className="runs"),
                role="region",
                **named("Runs"),
            ),
        ],
        unfinished=unfinished,
    )


def _row(catalogue: Catalogue, name: str, view: View, patient: bool) -> tuple[html.Tr, bool]:
    """Return a run's row, and whether nothing in it is still being worked out."""
    link = html.Th(dcc.Link(name, href=View(run=name, theme=view.theme).search()), scope="row")
    try:
        run = open_run(catalogue.paths()[name])
        cells: list[Any] = [
            state(run),
            str(run.header.get("model") or "not said"),
            short(str(run.header.get("data") or "not said"), 60),
        ]
        if not patient and not catalogue.known(name):
            return _cells(link, [*cells, "", "", "", "reading …", ""]), False
        summary = catalogue.summary(name)
    except (RunError, OSError, KeyError) as error:
        return html.Tr([link, html.Td("unreadable"), html.Td(str(error), colSpan=7)]), True
    if summary.problems:
        torn = unread(summary.problems)
        cells[0] = [
            cells[0],
            html.Div(torn, className="torn", title="\n".join(summary.problems)),
        ]
    last, losses, gravest = summary.last_step, summary.losses, summary.worst
    whole = catalogue.known(name)
    found: Any = "none" if whole else "checking …"
    if gravest is not None:
        found = [badge(gravest.severity), f" {gravest.code} {place(gravest)}"]
    cells += [
        f"{last + 1} ({summary.steps} recorded)" if last is not None else "none recorded",
        number(float(losses[-1])) if len(losses) else "none given",
        _sparkline(losses, view.theme),
        found,
        size(summary.size),
    ]
    return _cells(link, cells), whole


def _cells(link: html.Th, cells: list[Any]) -> html.Tr:
    return html.Tr([link, *map(labelled, _HEADERS[1:], cells)])


def _sparkline(values: np.ndarray, theme: str) -> Any:
    """Return the course of the loss as a small picture, drawn here: it costs the page one node."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return ""
    low, high = float(values.min()), float(values.max())
    across = np.linspace(1, 99, len(values))
    down = 1 + 22 * (high - values) / ((high - low) or 1.0)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="24"><polyline fill="none" '
        f'stroke="{palette(theme).accent}" stroke-width="1.5" points="{points}"/></svg>'
    )
    data = base64.b64encode(svg.encode()).decode()
    words = f"loss from {number(float(values[0]))} to {number(float(values[-1]))}"
    return html.Img(src=f"data:image/svg+xml;base64,{data}", alt=words, width=100, height=24)


def _empty(root: str) -> html.Div:
    return notice(
        "No run yet.",
        f"Record one under {root} and it appears here by itself:",
        html.Pre(_FIRST_RUN.format(path=f"{root}/my-run")),
    )
