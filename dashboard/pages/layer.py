"""Layer: what does this layer's potential do?"""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
import pandas as pd
from dash import html

from .. import figures
from ..catalogue import Snapshot
from ..components import badge, figure_block, grid, notice
from ..figures_style import short
from ..metrics import METRICS
from ..view import View
from ..words import nothing_yet, place, spec_line
from .content import Content, Moment, show_switch


def render(run: Snapshot, view: View) -> Content:
    """Return the page: laws of u per timestep, and each metric per timestep with its error."""
    if not run.layers:
        return Content(body=[notice("This model has no spiking layer.", nothing_yet(run))])
    name = view.layer or (run.covered or run.layers)[0].name
    layer = run.layer(name)
    moment = Moment.of(run, view)
    head: list[Any] = [
        html.H2(name, className="name"),
        html.P(
            f"{layer.kind or 'layer'}: {spec_line(layer.spec, layer.surrogate)}", className="quiet"
        ),
    ]
    controls = [_picker(run, name), *moment.controls(run), show_switch(view)]
    defaults = moment.defaults() | {"layer": name}
    shape = (tuple(run.modes), len(moment.steps))
    if not layer.covered:
        why = notice("This layer was not recorded.", layer.reason or "No reason was given.")
        return Content(controls, [*moment.notes, *head, why], defaults, shape)
    if moment.step is None:
        waiting = notice("Nothing to draw.", nothing_yet(run))
        return Content(controls, [*moment.notes, *head, waiting], defaults, shape)
    at: dict[str, Any] = {"step": moment.step, "mode": moment.mode}
    body = _tables(run, name, at) if view.show == "tables" else _figures(run, name, view, at)
    found = [finding for finding in run.findings if finding.layer == name]
    if found:
        body.append(html.H2(f"Findings in this layer ({len(found)})"))
        body.append(
            html.Ul(
                [
                    html.Li([badge(f.severity), f" {f.code} {place(f)}", html.Div(f.text)])
                    for f in found
                ],
                className="findings",
            )
        )
    return Content(controls, [*moment.notes, *head, *body], defaults, shape)


def _picker(run: Snapshot, name: str) -> html.Div:
    picker = dmc.Select(
        id={"type": "set", "key": "layer"},
        value=name,
        data=[{"value": layer.name, "label": short(layer.name, 40)} for layer in run.layers],
        searchable=True,
        allowDeselect=False,
        size="sm",
        comboboxProps={"withinPortal": True},
        inputProps={"aria-label": "layer"},
    )
    return html.Div([html.Span("layer", className="label"), picker], className="control")


def _figures(run: Snapshot, name: str, view: View, at: dict[str, Any]) -> list[Any]:
    law = figure_block(figures.membrane_law(run, name, t=view.t, theme=view.theme, **at), "t")
    tiles = [
        figure_block(
            figures.profile(run, name, metric, t=view.t, theme=view.theme, **at), "t", index=metric
        )
        for metric in ("coverage", "rate", "gradient")
    ]
    return [law, html.Div(tiles, className="tiles three")]


def _tables(run: Snapshot, name: str, at: dict[str, Any]) -> list[Any]:
    law = figures.measured_law(run, name, **at)
    values = [
        figures.profile_values(run, name, metric, **at)
        .set_index("t")
        .rename(columns={"value": what.title, "error": f"{what.symbol}: standard error"})
        .drop(columns="step")
        .dropna(axis=1, how="all")
        for metric, what in METRICS.items()
    ]
    metrics = pd.concat(values, axis=1).reset_index()
    heading = f"Per timestep, step {at['step']} ({at['mode']})"
    return [
        html.H2(heading),
        grid(metrics, heading, name="metrics", widths={"t": 70}),
        html.H2(f"Law of {law.what} ({law.unit})" if law is not None else "Law of u"),
        grid(
            law.frame() if law is not None else pd.DataFrame(),
            "Law of u",
            name="law",
            widths={"t": 70},
        ),
    ]
