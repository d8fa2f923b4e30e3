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
from ..words import count, size, spec_line, state
from .content import Content

MOST_SAID = 400
"""Characters of an error message; it may list every layer of a deep network."""

_APART = ("layers", "versions", "name", "pid", "started", "boot", "host", "cost", "state")
"""Entries of the header that are said elsewhere, or together."""

_LABELS = {
    "created": "began", "ended": "ended", "collect": "collected", "budget": "budget of time",
    "max_bytes": "bound on size", "git": "git commit", "steps": "training steps",
    "dropped": "records lost on the way", "format": "format of the files",
}  # fmt: skip
"""What the page calls entries of a run's files."""

_NONE = {"budget": "none", "max_bytes": "none", "git": "none: not under version control"}
"""What it means that one of them is missing."""


def render(run: Snapshot, view: View) -> Content:
    """Return the page: header, versions, layers with reasons, torn parts, events."""
    problems = run.problems
    left_out = [layer for layer in run.layers if not layer.covered]
    body: list[Any] = [
        html.H2("Recording"),
        _facts(_recording(run)),
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
        grid(_layers(run), "Layers", name="layers", wrapped=("dynamics",), brief="in brief"),
        html.H2("Events"),
        _events(run),
    ]
    return Content(body=body)


def _recording(run: Snapshot) -> dict[str, Any]:
    """Return what is known of the recording, by the words that the page has for it."""
    steps = run.steps(None)
    facts: dict[str, Any] = {"name": run.name, "folder": str(run.path), "state": state(run)}
    facts["recorded"] = "nothing"
    if len(steps):
        facts["recorded"] = (
            f"{count(len(steps), 'step')}, {steps[0]} to {steps[-1]}, in "
            f"{count(run.known.parts.rows, 'row')}; {size(run.size)} on disk"
        )
    ranks = run.header.get("ranks")
    for key, value in (run.header | run.end).items():
        if key in _APART:
            continue
        if key == "ranks" and isinstance(ranks, dict) and isinstance(ranks.get("recorded"), list):
            value = f"{len(ranks['recorded'])} of {ranks.get('of', '?')}"
        elif key == "max_bytes" and isinstance(value, int):
            value = size(value)
        elif key == "budget" and isinstance(value, int | float):
            value = f"{value:.2%} of the training's time"
        facts[_LABELS.get(key, key)] = _NONE.get(key, "not known") if value is None else value
    host, pid = run.header.get("host"), run.header.get("pid")
    facts["process"] = f"{pid} on {host}" if pid is not None else "not known"
    return facts


def _overhead(run: Run) -> str:
    """Say what recording took of the training's own time, as far as the run holds it."""
    cost = run.cost
    if not isinstance(cost.get("spent"), int | float):
        return "Not known yet." if run.state == "recording" else "Not recorded."
    text = f"Recording took {cost['spent']:.1%} of the training's own time"
    if isinstance(cost.get("seconds"), int | float):
        text += f" ({cost['seconds']:.3g} s)"
    budget = cost.get("budget")
    text += f", of a budget of {budget:.1%}" if isinstance(budget, int | float) else ", no budget"
    return (
        f"{text}; {cost.get('recorded', 'some')} steps of the schedule were recorded and "
        f"{cost.get('skipped', 0)} skipped to keep it."
    )


def _facts(facts: dict[str, Any]) -> html.Dl:
    """Return names and values; nested values are written as JSON."""
    pairs: list[Any] = []
    for name, value in facts.items():
        if name in ("began", "ended") and isinstance(value, int | float):
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
    frame = pd.DataFrame(rows, columns=["name", "kind", "covered", "dynamics"])
    frame["in brief"] = [
        f"{short(name, 80)} ({kind or 'layer'}), {'not ' if said != 'yes' else ''}covered: {line}"
        for name, kind, said, line in rows
    ]
    return frame


def _events(run: Run) -> Any:
    events = run.events()
    if events.empty:
        return html.P("Nothing happened on the way.", className="quiet")
    brief = [", ".join(map(str, each)) for each in events.itertuples(index=False)]
    events = events.assign(**{"in brief": brief})
    return grid(events, "Events", name="events", wrapped=("text",), brief="in brief")


def unreadable(name: str, why: str) -> Content:
    """Return the page of a run or layer that cannot be shown: what is wrong, and a way out."""
    return Content(body=[notice("This cannot be shown.", short(why, MOST_SAID), kind="warning")])
