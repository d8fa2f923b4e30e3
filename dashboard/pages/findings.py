"""Findings: everything that the rules say about a run, with numbers and sources."""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import dcc, html

from ...analysis.findings import Advice, Finding
from .. import groups
from ..catalogue import Snapshot
from ..components import badge, grid, notice
from ..view import View
from ..words import measured, place
from .content import CHECKING, Content

BRIEF = "in brief"

COLUMNS = ("severity", "code", "layer", "t", "steps", "what", "measured", "source", BRIEF)
"""Columns of the table, in order; the last one is for narrow screens."""


def ranked(run: Snapshot) -> list[Finding]:
    """Return the findings, the gravest first, as the table shows them."""
    return groups.ranked(run.findings)


def frame(found: list[Finding]) -> pd.DataFrame:
    """Return the findings as a table, a row each."""
    rows = [
        (f.severity, f.code, f.layer or "whole model", "all" if f.t is None else f.t,
         f"{f.steps[0]} to {f.steps[1]}", f.text, measured(f), f.source,
         f"{f.severity} {f.code}, {place(f)}: {f.text}")
        for f in found
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def render(run: Snapshot, view: View) -> Content:
    """Return the page: a table; a chosen row is spelt out under it."""
    found = ranked(run)
    if run.checking and not found:
        return Content(body=[notice("Not yet.", CHECKING)])
    if run.failure:
        return Content(body=[notice("The rules failed.", run.failure, kind="warning")])
    if not found:
        return Content(body=[notice("No finding.", "No rule of the catalogue fired on this run.")])
    table = grid(
        frame(found),
        "Findings",
        name="findings",
        height="560px" if len(found) > 12 else None,
        select=True,
        wrapped=("what", "measured", "source"),
        brief=BRIEF,
    )
    first = "Choose a row (click, or arrow keys and space) to read it in full."
    return Content(
        body=[
            html.H2(f"Findings ({len(found)})"),
            table,
            html.Div(
                html.P(first, className="quiet"),
                id={"type": "detail", "index": "findings"},
                className="detail",
                role="status",
            ),
        ]
    )


def detail(finding: Finding, view: View) -> list[Any]:
    """Return one finding in full, with the link to the view that it speaks of."""
    target = view.but(page="layer", layer=finding.layer, t=finding.t, step=finding.steps[1])
    link = [dcc.Link("Open this layer there", href=target.search())] if finding.layer else []
    told = {entry.remedy for entry in finding.advice}
    others = [name for name in finding.remedies if name not in told]
    also = "Would help, too" if any(entry.helps for entry in finding.advice) else "Would help"
    remedies = [html.P(f"{also}: {', '.join(others)}")] if others else []
    return [
        html.H2([badge(finding.severity), f" {finding.code}: {place(finding)}"]),
        html.P(finding.text),
        html.P(f"Measured {measured(finding)}."),
        *_advice("What would help", [entry for entry in finding.advice if entry.helps]),
        *remedies,
        *_advice("What would not help", [entry for entry in finding.advice if not entry.helps]),
        html.P(f"Source: {finding.source}", className="quiet"),
        *link,
    ]


def _advice(title: str, entries: list[Advice]) -> list[Any]:
    """Return what was said about some remedies under a title; nothing if there are none."""
    if not entries:
        return []
    items = [
        html.Li([html.Strong(f"{entry.remedy}: "), entry.text, *_predicted(entry)])
        for entry in entries
    ]
    return [html.H3(title), html.Ul(items)]


def _predicted(entry: Advice) -> list[Any]:
    """Return what is predicted of a remedy, before and after."""
    if not entry.quantity or entry.before is None:
        return []
    # What comes after is not always known, what is now always is.
    after = "" if entry.after is None else f" → {entry.after:.3g} predicted"
    holds = f"; {entry.validity}" if entry.validity else ""
    return [html.Div(f"{entry.quantity}: {entry.before:.3g} now{after}{holds}", className="quiet")]
