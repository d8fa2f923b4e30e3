"""Overview of a run: where is it broken, and since when?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html

from ...analysis.findings import SEVERITIES, Finding
from .. import figures
from ..catalogue import Snapshot
from ..components import badge, figure_block, grid, notice, switch
from ..figures_style import number
from ..metrics import METRICS
from ..view import View
from ..words import nothing_yet, place
from .content import CHECKING, Content, Moment, show_switch

MOST_FINDINGS = 12
"""Findings beside the heatmap; the page Findings has them all."""


def render(run: Snapshot, view: View) -> Content:
    """Return the page: heatmap of layers over timesteps, findings beside it, loss under it."""
    moment = Moment.of(run, view)
    if moment.step is None:
        return Content(body=[*moment.notes, notice("Nothing to draw.", nothing_yet(run))])
    metric = switch(
        "metric", view.metric, [(name, what.symbol) for name, what in METRICS.items()], "metric"
    )
    picture: Any
    if view.show == "tables":
        cells = figures.cells(run, view.metric, step=moment.step, mode=moment.mode)
        what = METRICS[view.metric]
        heading = f"{what.title}, step {moment.step} ({moment.mode}), in {what.unit}"
        frame = cells.frame() if cells is not None else pd.DataFrame()
        table = grid(
            frame, heading, name="cells", widths={"layer": 180}, narrowest=140, sortable=False
        )
        picture = html.Section([html.H2(heading), table])
        scalars = run.scalars().dropna(how="all").reset_index()
        under = [
            html.H2("Given scalars"),
            grid(scalars.iloc[::-1], "Given scalars", name="scalars"),
        ]
    else:
        picture = figure_block(
            figures.layer_heatmap(
                run, view.metric, step=moment.step, mode=moment.mode, theme=view.theme
            ),
            "layer",
        )
        names = list(run.scalars().columns) or ["loss"]
        under = [
            figure_block(
                figures.scalar_curve(run, name, step=moment.step, theme=view.theme),
                "step",
                index=name,
            )
            for name in sorted(names, key=lambda name: name != "loss")[:4]
        ]
    return Content(
        controls=[metric, *moment.controls(run), show_switch(view)],
        body=[
            *moment.notes,
            html.Div(
                [html.Div([picture, *under], className="main"), _findings(run, view)],
                className="columns",
            ),
        ],
        defaults=moment.defaults() | {"layers": [layer.name for layer in run.layers]},
        shape=(tuple(run.modes), len(moment.steps)),
    )


def _findings(run: Snapshot, view: View) -> html.Section:
    """Return the gravest findings as links to the view that each speaks of."""
    found = sorted(run.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    items = [html.Li(_item(finding, view)) for finding in found[:MOST_FINDINGS]]
    whole = view.but(page="findings", layer="", t=None, step=None)
    more = (
        [dcc.Link(f"All {len(found)} findings", href=whole.search())]
        if len(found) > MOST_FINDINGS
        else []
    )
    content: list[Any] = [html.Ul(items, className="findings"), *more]
    if not items:
        content = [html.P(CHECKING if run.checking else "None.", className="quiet")]
    return html.Section(
        [
            html.H2(f"Findings ({len(found)})" if found or not run.checking else "Findings"),
            *content,
        ],
        className="side",
    )


def _item(finding: Finding, view: View) -> list[Any]:
    label = f"{finding.code} {place(finding)}"
    target = view.but(
        page="layer" if finding.layer else "findings",
        layer=finding.layer,
        t=finding.t,
        step=finding.steps[1],
    )
    error = f" ± {number(finding.error)}" if np.isfinite(finding.error) else ""
    numbers = (
        f"{number(finding.measured)}{error} {finding.unit} "
        f"against a bound of {number(finding.bound)}"
    )
    return [
        badge(finding.severity),
        " ",
        dcc.Link(label, href=target.search(), title=finding.layer or None),
        html.Div(numbers, className="numbers"),
        html.Div(finding.text, className="quiet"),
    ]
