"""The Dash app: the address says what is shown, one callback draws it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import (
    ALL,
    MATCH,
    ClientsideFunction,
    Dash,
    Input,
    Output,
    State,
    ctx,
    dcc,
    html,
    no_update,
    set_props,
)
from flask import request

from ..data.runs import RunError
from ..data.store import last_written
from .catalogue import Catalogue, Snapshot
from .components import named, switch
from .live import Memory, changes, patch, record
from .pages import PAGES, about, findings
from .pages.content import CHECKING
from .plotly_script import add_script, script, script_address
from .routes import add_routes
from .security import Access, protect
from .view import View
from .words import state, verdict

log = logging.getLogger(__name__)

REFRESH = 3000
"""Milliseconds between looks at a run that is being recorded."""

_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        {%favicon%}
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>"""

_WHICH: dict[str, dict[str, Any]] = {
    "save": {"kind": MATCH, "index": MATCH},
    "copy": {"index": MATCH},
}
"""What tells apart the buttons of a kind."""


class _App(Dash):
    """Dash whose pages with figures ask for plotly at once, not when the first figure is there."""

    draws: Callable[[str], bool]

    def interpolate_index(self, *named: Any, **parts: Any) -> str:
        """Return the page's frame."""
        if self.draws(request.query_string.decode("utf-8", "replace")):
            parts["css"] += f'<script async id="plotly" src="{script_address()}"></script>'
        frame: Callable[..., str] = super().interpolate_index
        return frame(*named, **parts)


def create_app(
    root: Path, access: Access | None = None, catalogue: Catalogue | None = None
) -> Dash:
    """Return the dashboard over a folder of runs, or over one run.

    Args:
        root: a run folder, or a folder of run folders.
        access: who may read it; this machine only if None.
        catalogue: the runs under ``root``, if they are known already.

    Returns:
        A Dash app; its WSGI server is ``app.server``.

    Raises:
        RunError: the folder does not exist.
    """
    catalogue = catalogue or Catalogue(root)
    app = _App(
        __name__,
        title="spikescope",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        # Given here, so that nothing in the environment can point elsewhere or open more.
        assets_external_path="",
        serve_locally=True,
        enable_mcp=False,
        suppress_callback_exceptions=True,
        index_string=_INDEX,
        # Errors of ours reach the log and, as one line, the page.
        add_log_handler=False,
    )
    app.draws = lambda search: _page(catalogue, View.parse(search)) != "runs"
    app.layout = _layout()
    _connect(app, catalogue)
    add_script(app.server)
    add_routes(app.server, catalogue, lambda view: _page(catalogue, view))
    protect(app, access or Access())
    return app


def _layout() -> dmc.MantineProvider:
    header = dmc.AppShellHeader(
        html.Div(
            [
                html.Nav(id="crumbs", className="crumbs", **named("where you are")),
                switch("theme", "light", [("light", "light"), ("dark", "dark")], "theme"),
            ],
            className="header",
        )
    )
    main = dmc.AppShellMain(
        [
            html.Nav(id="pages", className="pages", **named("pages of this run")),
            html.Div(id="verdict"),
            html.Div(id="controls", className="controls"),
            html.Div("Reading the record …", id="busy", className="busy", role="status"),
            html.Div("Opening …", id="content", className="content"),
        ]
    )
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="defaults", data={}),
            # What is drawn now: the shape of the switches and the state of the run on disk.
            dcc.Store(id="drawn", data={}),
            dcc.Store(id="beat", data=0),
            dcc.Interval(id="tick", interval=REFRESH, max_intervals=0),
            dmc.AppShell([header, main], header={"height": 56}, padding="md", id="shell"),
        ],
        id="provider",
        forceColorScheme="light",
        theme={"primaryColor": "blue", "fontFamily": "system-ui, sans-serif"},
    )


def _connect(app: Dash, catalogue: Catalogue) -> None:
    memory = Memory()

    def draw(search: str | None, beat: int, drawn: dict[str, Any]) -> tuple[Any, ...]:
        view = View.parse(search)
        only_new = ctx.triggered_id == "beat"
        return _draw(catalogue, memory, view, drawn or {}, only_new)

    def spell_out(chosen: list[dict[str, Any]] | None, search: str | None) -> Any:
        if not chosen:
            return no_update
        view = View.parse(search)
        try:
            ranked = findings.ranked(catalogue.run(_name(catalogue, view)))
        except (RunError, OSError) as error:
            return str(error)
        row = chosen[0].get("row")
        # A live run may have fewer findings by now.
        if not isinstance(row, int) or not 0 <= row < len(ranked):
            return no_update
        return findings.detail(ranked[row], view)

    app.callback(
        Output("provider", "forceColorScheme"),
        Output("crumbs", "children"),
        Output("pages", "children"),
        Output("verdict", "children"),
        Output("controls", "children"),
        Output("content", "children"),
        Output("defaults", "data"),
        Output("drawn", "data"),
        Output("tick", "max_intervals"),
        Input("url", "search"),
        Input("beat", "data"),
        State("drawn", "data"),
        # A tick never overtakes the answer to the one before.
        running=[
            (Output("tick", "disabled"), True, False),
            (Output("busy", "className"), "busy on", "busy"),
        ],
    )(draw)
    app.callback(
        Output({"type": "detail", "index": MATCH}, "children"),
        Input({"type": "grid", "index": MATCH}, "selectedRows"),
        State("url", "search"),
        prevent_initial_call=True,
    )(spell_out)
    clientside: Any = app.clientside_callback  # dash leaves it untyped
    clientside(
        ClientsideFunction("spikescope", "sync"),
        Output("url", "search"),
        Output({"type": "set", "key": ALL}, "value"),
        Input("url", "search"),
        Input("defaults", "data"),
        Input({"type": "set", "key": ALL}, "value"),
        Input({"type": "graph", "goes": ALL, "index": ALL}, "clickData"),
        State({"type": "set", "key": ALL}, "id"),
        prevent_initial_call=True,
    )
    for name, kind in (("save", "save"), ("copy", "copy")):
        clientside(
            ClientsideFunction("spikescope", name),
            Output({"type": kind, **_WHICH[kind]}, "n_clicks"),
            Input({"type": kind, **_WHICH[kind]}, "n_clicks"),
            State({"type": kind, **_WHICH[kind]}, "id"),
            prevent_initial_call=True,
        )
    clientside(
        ClientsideFunction("spikescope", "beat"),
        Output("beat", "data"),
        Input("tick", "n_intervals"),
        prevent_initial_call=True,
    )


def _name(catalogue: Catalogue, view: View) -> str:
    """Return the run that a view speaks of: a root that is one run needs no picking."""
    return view.run or catalogue.only


def _page(catalogue: Catalogue, view: View) -> str:
    """Return the page that a view stands for."""
    if view.page in PAGES and not PAGES[view.page].of_run:
        return view.page
    if not _name(catalogue, view):
        return "runs"
    return view.page if view.page in PAGES else "overview"


def warm_up(catalogue: Catalogue) -> None:
    """Draw the page that is most likely asked for first, so that its reader need not wait."""
    script()
    paths = catalogue.paths()
    youngest = max(paths, key=lambda name: last_written(paths[name]), default="")
    _draw(catalogue, Memory(), View(run=youngest), {}, False)


UNCHANGED = (no_update,) * 9
"""A tick without news."""


def _draw(
    catalogue: Catalogue, memory: Memory, view: View, drawn: dict[str, Any], only_new: bool
) -> tuple[Any, ...]:
    """Return everything on the page for a view; on a tick only what is new."""
    run: Snapshot | None = None
    page = _page(catalogue, view)
    name = _name(catalogue, view) if PAGES[page].of_run else ""
    unfinished = False
    try:
        if name:
            run = catalogue.run(name)
            seen: Any = [*run.stamp, view.search()]
        else:
            seen = [_disk(catalogue) if page == "runs" else "", view.search()]
        if only_new and drawn.get("seen") == seen:
            return UNCHANGED
        if run is None:
            content = PAGES[page].render(catalogue, view)
        else:
            unfinished = not run.check()
            content = PAGES[page].render(run, view)
        unfinished |= content.unfinished
        seen = None if unfinished else seen
    except (RunError, OSError) as error:
        # A stale link or a broken run is said on the page.
        seen = None
        content = about.unreadable(name, str(error))
    except Exception as error:
        log.exception("drawing %s failed", view.search())
        seen = None
        content = about.unreadable(name, f"An error of spikescope itself: {error!r}")
    # The switches stay while this stays, and with them the keyboard's focus.
    shape = [page, name, *map(repr, content.shape)]
    live = unfinished or (run.state == "recording" if run is not None else page == "runs")
    defaults = content.defaults | {"theme": "light", "metric": "coverage", "show": "figures"}
    sent = record([content.body, content.controls], defaults)
    key = _key(sent)
    memory.put(key, sent)
    before = memory.get(str(drawn.get("key"))) if only_new else None
    moved = changes(before, sent) if before is not None else None
    if before is not None and moved is not None:
        for (component, prop), value in moved.items():
            set_props(json.loads(component), {prop: value})
        controls, body = no_update, no_update
        switches = patch(before.defaults, sent.defaults)
    else:
        controls = no_update if drawn.get("shape") == shape else content.controls
        body, switches = content.body, defaults
    return (
        no_update if only_new else view.theme,
        _crumbs(run, name, view),
        no_update if only_new else _tabs(page, name, view),
        _verdict(run) if run is not None else None,
        controls,
        body,
        switches,
        {"seen": seen, "shape": shape, "key": key},
        -1 if live else 0,
    )


def _key(sent: Any) -> str:
    """Return what names a page's state: the browser sends it back with the next tick."""
    content = [sent.skeleton, sorted((*leaf, value) for leaf, value in sent.leaves.items())]
    text = json.dumps([content, sent.defaults], default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _disk(catalogue: Catalogue) -> list[Any]:
    """Return what changes when a run under the root appears or is written."""
    return [[name, path.stat().st_mtime] for name, path in catalogue.paths().items()]


def _verdict(run: Snapshot) -> html.P | None:
    found = run.findings
    if run.checking and not found:
        return html.P(CHECKING, className="verdict")
    if run.failure:
        failed = f"The findings could not be worked out: {run.failure}."
        return html.P(failed, className="verdict warning")
    line, severity = verdict(run, found)
    if severity == "empty":
        return None  # the page itself says it
    return html.P(line, className=f"verdict {severity}")


def _crumbs(run: Snapshot | None, name: str, view: View) -> list[Any]:
    home = View(page="runs", theme=view.theme).search()
    choose = View(page="choose", theme=view.theme).search()
    parts: list[Any] = [
        html.H1("spikescope"),
        dcc.Link("runs", href=home),
        dcc.Link("choose", href=choose),
    ]
    if name:
        parts += [html.Span("/"), dcc.Link(name, href=View(run=name, theme=view.theme).search())]
    if run is not None:
        parts.append(html.Span(state(run), className=f"state {run.state.replace(' ', '-')}"))
    return parts


def _tabs(page: str, name: str, view: View) -> list[dcc.Link]:
    if not name:
        return []
    # The page changes, what is looked at stays.
    return [
        dcc.Link(
            entry.title,
            href=view.but(run=name, page=key).search(),
            className="page-link here" if key == page else "page-link",
            title=entry.question,
        )
        for key, entry in PAGES.items()
        if entry.of_run
    ]
