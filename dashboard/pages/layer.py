"""Layer: what does this layer's potential do?"""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import dcc, html

from ...analysis.findings import Finding
from .. import figures
from ..catalogue import Snapshot
from ..components import badge, named, notice
from ..groups import ranked
from ..pieces import ABSENT, Piece, show
from ..view import View
from ..words import nothing_yet, span, spec_line
from .content import Content, Moment, show_switch
from .pickers import layer_picker, timestep_picker, timesteps

READING = 0.15
"""Seconds that a look spends on the ribbon of a long run; the next look goes on."""

MOST_FINDINGS = 4
"""Findings of the layer that are said; the page Findings has them all."""

PROFILES = ("coverage", "gain", "rate", "gradient")
"""Metrics shown per timestep."""


def chosen(run: Snapshot, view: View) -> str:
    """Return the layer that a view speaks of: the first recorded one if it names none."""
    return view.layer or (run.covered or run.layers)[0].name


def render(run: Snapshot, view: View) -> Content:
    """Return the page: laws of u per timestep, over training, and each metric with its error."""
    if not run.layers:
        return Content(body=[notice("This model has no spiking layer.", nothing_yet(run))])
    name = chosen(run, view)
    layer = run.layer(name)
    moment = Moment.of(run, view)
    head: list[Any] = [
        html.H2(name, className="name"),
        html.P(
            f"{layer.kind or 'layer'}: {spec_line(layer.spec, layer.surrogate)}", className="quiet"
        ),
    ]
    timestep = timestep_picker(run, name, moment, view.t)
    controls = [layer_picker(run, name), *timestep, *moment.controls(run), show_switch(view)]
    at_t = [str(t) for t in timesteps(run, name, moment)]
    defaults = moment.defaults() | {"layer": name, "t": at_t[-1] if at_t else ""}
    shape = (*moment.shape(run), len(run.layers), *at_t)
    if not layer.covered:
        why = notice("This layer was not recorded.", layer.reason or "No reason was given.")
        return Content(controls, [*moment.notes, *head, why], defaults, shape)
    if moment.step is None:
        waiting = notice("Nothing to draw.", nothing_yet(run))
        return Content(controls, [*moment.notes, *head, waiting], defaults, shape)
    law, ribbon, joint, *profiles = (show(piece, view) for piece in pieces(run, view))
    # The ribbon of a long run is read piece by piece.
    whole = figures.ribbon_values(run, name, mode=moment.mode, patience=0.0)[1]
    # What was not recorded is said last: it must not stand between the figures.
    missing = getattr(joint, "className", "") == ABSENT
    body: list[Any] = [
        *_findings(run, name, view),
        law,
        ribbon if missing else html.Div([ribbon, joint], className="tiles"),
        html.Div(profiles, className="tiles"),
        *([joint] if missing else []),
    ]
    unfinished = not (whole and moment.whole)
    return Content(controls, [*moment.notes, *head, *body], defaults, shape, unfinished)


def _findings(run: Snapshot, name: str, view: View) -> list[Any]:
    """Return what the rules say about this layer, before the figures that show it."""
    found = [finding for finding in ranked(run.findings) if finding.layer == name]
    if not found:
        return []
    shown = [
        html.Li(
            [badge(each.severity), html.Strong(f" {each.code} "), f"{_when(each)}: {each.text}"]
        )
        for each in found[:MOST_FINDINGS]
    ]
    whole = view.but(page="findings", t=None, step=None)
    more = (
        [dcc.Link(f"All {len(found)} findings in this layer", href=whole.search())]
        if len(found) > MOST_FINDINGS
        else []
    )
    content = [html.Ul(shown, className="findings brief"), *more]
    return [html.Section(content, id={"type": "live", "index": "found"}, **named("findings"))]


def _when(finding: Finding) -> str:
    at = [f"t = {finding.t}"] if finding.t is not None else []
    return ", ".join([*at, span(finding.steps)])


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page."""
    name, moment = chosen(run, view), Moment.of(run, view)
    look: dict[str, Any] = {"t": view.t, "theme": view.theme}
    at = moment.at

    def law_frame() -> pd.DataFrame:
        law = figures.measured_law(run, name, **at)
        return law.frame() if law is not None else pd.DataFrame()

    def profile_piece(metric: str) -> Piece:
        what = figures.METRICS[metric]
        names = {
            "value": f"{what.title} ({what.unit})",
            "error": f"standard error ({what.unit})",
        }
        return Piece(
            metric,
            lambda: figures.profile(run, name, metric, **at, **look),
            lambda: figures.profile_values(run, name, metric, **at).rename(columns=names),
            "t",
        )

    return [
        Piece("law", lambda: figures.membrane_law(run, name, **at, **look), law_frame, "t"),
        Piece(
            "ribbon",
            lambda: figures.quantile_ribbon(
                run, name, mode=moment.mode, step=moment.step, patience=READING, **look
            ),
            lambda: figures.ribbon_values(run, name, t=view.t, mode=moment.mode)[0].rename(
                columns=figures.QUANTILE_NAMES
            ),
            "step",
        ),
        Piece(
            "joint",
            lambda: figures.joint_density(run, name, theme=view.theme, **at),
            lambda: figures.joint_frame(run, name, **at),
        ),
        *(profile_piece(metric) for metric in PROFILES),
    ]
