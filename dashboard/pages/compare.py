"""Compare: did it help, and from when?"""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
import pandas as pd
from dash import html

from ...data.runs import RunError
from .. import figures
from ..catalogue import Snapshot
from ..components import named, notice, switch
from ..figures_style import short
from ..metrics import METRICS
from ..pieces import Piece, show
from ..view import View
from ..words import nothing_yet
from .content import Content, Moment, show_switch

MOST_RUNS = 5
"""Runs that are compared with this one at once."""


MOST_NOTES = 8
"""Notes on what differs between two runs."""


def render(run: Snapshot, view: View) -> Content:
    """Return the page: differences to each other run, where they part, the losses together."""
    moment = Moment.of(run, view)
    names = [name for name in run.siblings() if name != run.name]
    controls = [
        _picker(names, _others(view)),
        switch("align", view.align, [("step", "step"), ("loss", "loss")], "align by"),
        switch(
            "metric", view.metric,
            [(name, METRICS[name].symbol) for name in figures.QUANTITIES], "metric",
        ),
        *moment.controls(run),
        show_switch(view),
    ]  # fmt: skip
    defaults = moment.defaults() | {"align": "step", "other": ""}
    shape = (*moment.shape(run), tuple(names))
    if not names:
        alone = notice("This is the only run here.", "It takes two to compare.")
        return Content([], [*moment.notes, alone], defaults, shape)
    if moment.step is None:
        waiting = notice("Nothing to compare.", nothing_yet(run))
        return Content(controls, [*moment.notes, waiting], defaults, shape)
    body: list[Any] = [*moment.notes]
    if not _others(view):
        body.append(notice("Choose a run to compare with.", f"This run, {run.name}, is called a."))
    for name in _others(view):
        try:
            other = run.sibling(name)
            table = figures.difference_values(run, other, _metric(view), view.align, moment.mode)
        except (RunError, ValueError, OSError) as error:
            body.append(notice(f"{short(name, 80)} cannot be compared.", str(error)))
            continue
        body += [
            html.H2(f"a: {run.name}, b: {name}", className="name"),
            html.Div(
                [show(piece, view) for piece in _against(run, other, view, moment)],
                className="tiles",
            ),
            _notes(table.attrs.get("notes", [])),
        ]
    body.append(show(_together(run, view), view))
    return Content(controls, body, defaults, shape, not moment.whole)


def _notes(notes: list[str]) -> html.Ul:
    """Return what to mind, the first notes of many: each layer may have its own."""
    left_out = len(notes) - MOST_NOTES
    shown = notes[:MOST_NOTES] + ([f"and {left_out} more of the kind"] if left_out > 0 else [])
    return html.Ul([html.Li(note) for note in shown], className="quiet")


def _metric(view: View) -> str:
    return view.metric if view.metric in figures.QUANTITIES else "coverage"


def _others(view: View) -> list[str]:
    """Return the runs that a view compares with, each once."""
    return list(dict.fromkeys(name for name in view.other.split("/") if name))[:MOST_RUNS]


def _picker(names: list[str], chosen: list[str]) -> html.Div:
    picker: Any = dmc.MultiSelect(
        id={"type": "set", "key": "other"},
        value=[name for name in chosen if name in names],
        data=[{"value": name, "label": short(name, 40)} for name in names],
        maxValues=MOST_RUNS,
        searchable=True,
        size="sm",
        miw=240,
        placeholder="" if chosen else "one or more runs",
        comboboxProps={"withinPortal": True},
        **named("compare with"),
    )
    return html.Div([html.Span("compare with", className="label"), picker], className="control")


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page."""
    moment = Moment.of(run, view)
    found: list[Piece] = []
    for name in _others(view):
        try:
            found += _against(run, run.sibling(name), view, moment)
        except (RunError, OSError):
            continue
    return [*found, _together(run, view)]


def _against(run: Snapshot, other: Snapshot, view: View, moment: Moment) -> list[Piece]:
    """Return the figures about one other run."""
    metric = _metric(view)
    look: dict[str, Any] = {"align": view.align, "mode": moment.mode, "theme": view.theme}

    def differences() -> pd.DataFrame:
        return figures.difference_values(run, other, metric, view.align, moment.mode)

    return [
        Piece(
            f"difference {other.name}",
            lambda: figures.difference_heatmap(run, other, metric, step=moment.step, **look),
            lambda: figures.at_point(differences(), view.align, moment.step),
        ),
        Piece(
            f"parting {other.name}",
            lambda: figures.parting_curve(run, other, metric, **look),
            differences,
            "step" if view.align == "step" else "",
        ),
    ]


def _together(run: Snapshot, view: View) -> Piece:
    runs: list[Any] = [run]
    for name in _others(view):
        try:
            runs.append(run.sibling(name))
        except (RunError, OSError):
            continue
    return Piece(
        "losses",
        lambda: figures.losses(runs, step=view.step, theme=view.theme),
        lambda: figures.loss_frame(runs),
        "step",
    )
