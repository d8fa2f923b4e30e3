"""Somebody who looks at the dashboard in a real browser, and the runs that there are to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attribution_cases import attribution, curve, importance
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from synthetic import columns, header, row, write_run

from spikescope.analysis.attribution_study import store_attribution, store_timesteps
from spikescope.analysis.fidelity import store_fidelity
from spikescope.analysis.findings import Finding
from spikescope.data.store import RunStore

HOSTILE = "<img src=x onerror=alert(1)>"

FINDING = Finding(
    "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper"
)

PATIENCE = 20_000
"""Milliseconds that a slow machine gets for a page."""


def write_hostile(path: Path) -> None:
    head = header([HOSTILE, "x" * 4000, "слой/../..\n"])
    head["layers"][0]["kind"] = HOSTILE
    store = RunStore(path, head)
    names = [layer["name"] for layer in head["layers"]]
    store.append("records", columns([row(0, name, t) for name in names for t in (1, 2)]))
    store.append("scalars", {"step": [0, 1], "name": [HOSTILE, "loss"], "value": [1.0, 2.0]})
    event = {"step": [0], "layer": [HOSTILE], "kind": [HOSTILE], "text": [HOSTILE]}
    store.append("events", event)
    store.end("finished", steps=1)


def write_runs(root: Path) -> None:
    """Write a run of every kind: whole, deep, of one cell, hostile, empty, broken, growing."""
    digits = write_run(root / "digits", layers=4)
    store_attribution(digits, attribution())
    store_timesteps(digits, importance())
    store_fidelity(digits, curve())
    write_run(root / "deep", layers=200, timesteps=8, steps=range(0, 2))
    write_run(root / "single", layers=1, timesteps=1, steps=range(1))
    write_hostile(root / "hostile")
    RunStore(root / "empty", header(["net"])).end("finished", steps=0)
    broken = write_run(root / "broken", layers=2, steps=range(0, 2))
    (broken / "records-00000001.parquet").write_bytes(b"PAR1 torn")
    growing = RunStore(root / "growing", header(["net", "late"]))
    growing.append("records", columns([row(0, "net", t) for t in (1, 2)]))


class Visitor:
    """A page that notes what should not happen."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self, search: str) -> Page:
        """Open an address as a link in the page does; the first time, load the page."""
        if self.page.url.startswith(self.address):
            self.page.evaluate(_GO, search)
            self.arrive()
        else:
            self.page.goto(f"{self.address}{search}")
            self.page.wait_for_selector("#crumbs a")
        self.settle()
        return self.page

    def arrive(self) -> None:
        """Wait until the tabs speak of the address: they come with the page itself."""
        for _ in range(400):
            if self.page.evaluate(_THERE):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.page.url} did not answer")

    def settle(self) -> None:
        """Wait until the page is drawn, each figure with its title."""
        expect(self.page.locator("#content")).not_to_have_text("Opening …")
        for _ in range(200):
            if self.page.evaluate(_DRAWN):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.page.url} was not drawn")


_GO = """search => {
    history.pushState({}, "", search);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
}"""

_THERE = """() => {
    const wanted = new URLSearchParams(location.search);
    const busy = document.querySelector("#busy").classList.contains("on");
    const here = document.querySelector(".page-link.here");
    if (busy || !here || !wanted.get("run")) {
        return !busy && !here === !wanted.get("run");
    }
    const shown = new URLSearchParams(here.search);
    return [...wanted].every(([key, value]) => shown.get(key) === value);
}"""

_DRAWN = """() => [...document.querySelectorAll(".dash-graph")].every(
    graph => graph.querySelector(".gtitle"))"""


def grave(page: Page, figures: bool = True, contrast: bool = True) -> list[str]:
    """Return the violations that axe-core calls serious or critical.

    Args:
        page: what is looked at.
        figures: whether to look into the figures, too: that takes most of the time.
        contrast: whether to hold the colours of every text to a contrast: that takes half of what
            is left.
    """
    context = None if figures else {"exclude": [".js-plotly-plot"]}
    rules = {"color-contrast": {"enabled": contrast}}
    options = {"resultTypes": ["violations"], "rules": rules}
    results = Axe().run(page, context=context, options=options)
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:200]}"
        for each in results.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
