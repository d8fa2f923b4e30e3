"""About this run: what exactly was recorded, and what was not?"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from dash import html

from ...data.runs import Run
from ..catalogue import Snapshot
from ..components import grid, notice
from ..figures_style import short
from ..view import View
from ..words import spec_line, state
from .content import Content

MOST_SAID = 400
"""Characters of an error message; it may list every layer of a deep network."""

_APART = ("layers", "versions")


def render(run: Snapshot, view: View) -> Content:
    """Return the page: header, versions, layers with reasons, torn parts, events."""
    steps = run.steps(None)
    facts: dict[str, Any] = {"name": run.name, "folder": str(run.path), "state": state(run)}
    facts["recorded"] = (
        f"{len(steps)} steps, {run.known.parts.rows} rows" if len(steps) else "nothing"
    )
    facts |= {key: value for key, value in run.header.items() if key not in {*_APART, *facts}}
    facts |= {f"at the end: {key}": value for key, value in run.end.items() if key != "cost"}
    problems = run.problems
    left_out = [layer for layer in run.layers if not layer.covered]
    body: list[Any] = [
        html.H2("Recording"),
        _facts(facts),
        html.H2("Overhead"),
        html.P(_overhead(run), className="quiet"),
        html.H2("Versions"),
        _facts(run.header.get("versions") or {"versions": "not recorded"}),
        html.H2(f"Problems ({len(problems)})"),
        html.Ul([html.Li(text) for text in problems])
        if problems
        else html.P("Every part that was written could be read.", className="quiet"),
        html.H2(f"Layers not covered ({len(left_out)} of {len(run.layers)})"),
        html.Ul(
            [html.Li(f"{layer.name}: {layer.reason or 'no reason given'}") for layer in left_out]
        )
        if left_out
        else html.P("Every spiking layer that was found was recorded.", className="quiet"),
        html.H2(f"Layers ({len(run.layers)})"),
        grid(
            _layers(run), "Layers", name="layers", widths={"name": 200, "kind": 120, "covered": 120}
        ),
        html.H2("Events"),
        _events(run),
    ]
    return Content(body=body)


def _overhead(run: Run) -> str:
    """Say what recording took of the training's own time, as far as the run holds it."""
    cost = run.cost
    if not isinstance(cost.get("spent"), int | float):
        return "Not known yet." if run.state == "recording" else "Not recorded."
    text = f"Recording took {cost['spent']:.2%} of the training's own time"
    if isinstance(cost.get("seconds"), int | float):
        text += f" ({cost['seconds']:.3g} s)"
    budget = cost.get("budget")
    text += f", of a budget of {budget:.2%}" if isinstance(budget, int | float) else ", no budget"
    return (
        f"{text}; {cost.get('recorded', 'some')} steps of the schedule were recorded and "
        f"{cost.get('skipped', 0)} skipped to keep it."
    )


def _facts(facts: dict[str, Any]) -> html.Dl:
    """Return names and values; nested values are written as JSON."""
    pairs: list[Any] = []
    for name, value in facts.items():
        if name.endswith(("created", "ended")) and isinstance(value, int | float):
            value = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        value = "not known" if value is None else value
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )
        pairs += [html.Dt(str(name)), html.Dd(text)]
    return html.Dl(pairs, className="facts")


def _layers(run: Run) -> pd.DataFrame:
    rows = [
        (layer.name, layer.kind, "yes" if layer.covered else f"no: {layer.reason}",
         spec_line(layer.spec, layer.surrogate))
        for layer in run.layers
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "kind", "covered", "dynamics"])


def _events(run: Run) -> Any:
    events = run.events()
    if events.empty:
        return html.P("Nothing happened on the way.", className="quiet")
    return grid(events, "Events", name="events", widths={"step": 90, "layer": 200, "kind": 140})


def unreadable(name: str, why: str) -> Content:
    """Return the page of a run or layer that cannot be shown: what is wrong, and a way out."""
    return Content(body=[notice("This cannot be shown.", short(why, MOST_SAID), kind="warning")])
