"""The dashboard in a real browser: pages load, numbers are the run's, nothing goes elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from synthetic import columns, header, row, write_run

from spikescope.analysis.findings import Finding
from spikescope.dashboard import app as app_module
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.server import make_server
from spikescope.dashboard.view import View
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>"

FINDING = Finding(
    "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper"
)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser") / "runs"
    write_run(root / "digits", layers=4)
    write_run(root / "deep", layers=200, timesteps=8, steps=range(0, 2))
    write_hostile(root / "hostile")
    RunStore(root / "empty", header(["net"])).end("finished", steps=0)
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "REFRESH", 300)
        # What the rules find is theirs to test.
        patch.setattr(Snapshot, "findings", [FINDING])
        server, url = make_server(root, port=0)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield url
        server.shutdown()
        thread.join(5)
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "chromium is not installed: apt-get install chromium"
        # Where tests decide about a change, a test that did not run is a red one.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


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
        self.page.goto(f"{self.address}{search}")
        self.page.wait_for_selector("#crumbs a")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page is drawn, each figure with its title."""
        expect(self.page.locator("#content")).not_to_have_text("Opening …")
        for graph in self.page.locator(".dash-graph").all():
            expect(graph.locator(".gtitle")).to_have_count(1)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    # One for all tests: its cache spares each of them the megabytes of plotly.
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def visitor(context: BrowserContext, address: str) -> Iterator[Visitor]:
    visitor = Visitor(context.new_page(), address)
    yield visitor
    visitor.page.close()
    assert visitor.foreign == []
    assert visitor.complaints == []


def cell(run: Path, layer: str, t: int, step: int) -> str:
    """Return what the table must show for a cell, read by another way than the pages do."""
    table = open_run(run).table(["coverage", "coverage_se"], layer=layer, since=step)
    entry = table[(table["step"] == step) & (table["t"] == t)].iloc[0]
    return f"{100 * entry['coverage']:.1f} % ± {100 * entry['coverage_se']:.1f} %"


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("runs", "Runs (4)"),
        ("overview", "Findings (1)"),
        ("layer", "block0.lif"),
        ("findings", "Findings (1)"),
        ("about", "Recording"),
    ],
)
def test_each_page_loads_in_both_themes(visitor: Visitor, page: str, heading: str) -> None:
    opened = visitor.open(View(run="" if page == "runs" else "digits", page=page).search())
    expect(opened.locator("#content")).to_contain_text(heading)
    assert opened.evaluate("document.documentElement.lang") == "en"
    scheme = opened.locator("html")
    expect(scheme).to_have_attribute("data-mantine-color-scheme", "light")
    opened.get_by_text("dark", exact=True).click()
    expect(scheme).to_have_attribute("data-mantine-color-scheme", "dark")
    expect(opened.locator("#content")).to_contain_text(heading)
    assert "theme=dark" in opened.url


def test_a_number_on_the_page_is_the_one_in_the_run(visitor: Visitor, root: Path) -> None:
    page = visitor.open("?run=digits&show=tables&step=100")
    shown = page.locator('[row-index="2"] [aria-colindex="4"]').first
    expect(shown).to_have_text(cell(root / "digits", "block2.lif", 3, 100))
    # Negative control: the neighbouring timestep has another number.
    assert cell(root / "digits", "block2.lif", 3, 100) != cell(
        root / "digits", "block2.lif", 2, 100
    )


def test_hover_and_click_on_a_cell(visitor: Visitor, root: Path) -> None:
    page = visitor.open("?run=digits&step=50")
    wanted = cell(root / "digits", "block2.lif", 2, 50)
    hover = page.locator(".hoverlayer").first
    for _ in range(20):
        # Until the figure has its size and its hover: third layer of 4, t = 2 of 6.
        plot = page.locator(".nsewdrag").first.bounding_box()
        assert plot is not None
        page.mouse.move(plot["x"] + 2, plot["y"] + 2)
        page.mouse.move(plot["x"] + plot["width"] * 1.5 / 6, plot["y"] + plot["height"] * 2.5 / 4)
        page.wait_for_timeout(250)
        if wanted in (hover.text_content() or ""):
            break
    expect(hover).to_contain_text(wanted)
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("h2.name")).to_have_text("block2.lif")
    assert View.parse(page.url.partition("?")[2]).but(run="") == View(
        page="layer", layer="block2.lif", t=2, step=50
    )
    visitor.settle()
    expect(page.locator(".gtitle").first).to_have_text("Law of u per timestep, step 50 (train)")


def test_switches_slider_back_and_forward(visitor: Visitor) -> None:
    page = visitor.open("?run=digits")
    title = page.locator(".gtitle").first
    expect(title).to_have_text("Gradient coverage, step 150 (train)")
    page.get_by_text("firing rate", exact=True).click()
    expect(title).to_have_text("Firing rate, step 150 (train)")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("Firing rate, step 100 (train)")
    expect(slider).to_be_focused()  # the keyboard's place is not lost by drawing
    assert page.url.endswith("?run=digits&metric=rate&step=100")
    page.go_back()
    expect(title).to_have_text("Firing rate, step 150 (train)")
    expect(slider).to_have_attribute("aria-valuenow", "3")
    page.go_back()
    expect(title).to_have_text("Gradient coverage, step 150 (train)")
    page.go_forward()
    expect(title).to_have_text("Firing rate, step 150 (train)")


def test_the_keyboard_reaches_everything(visitor: Visitor) -> None:
    page = visitor.open("?run=digits&page=findings")
    expect(page.locator(".ag-row")).to_have_count(1)
    reached = []
    while "grid" not in reached and len(reached) < 40:
        page.keyboard.press("Tab")
        place = (
            "(() => { const e = document.activeElement; return e.closest('.ag-root') ? 'grid'"
            " : e.closest('.control') ? 'switch' : e.textContent; })()"
        )
        reached.append(page.evaluate(place))
    assert reached[:7] == ["runs", "digits", "switch", "Overview", "Layer", "Findings", "About"]
    assert reached[-1] == "grid"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".detail")).to_contain_text("Source: A paper")
    page.get_by_text("Open this layer there").press("Enter")
    expect(page.locator("h2.name")).to_have_text("block1.lif")
    assert page.url.endswith("?run=digits&page=layer&layer=block1.lif&t=2&step=100")


def test_a_hostile_name_stays_text(visitor: Visitor) -> None:
    for name in ("overview", "layer", "findings", "about"):
        for show in ("figures", "tables") if name in ("overview", "layer") else ("figures",):
            page = visitor.open(View(run="hostile", page=name, show=show).search())
            assert page.locator("img[src=x]").count() == 0
    page = visitor.open(View(run="hostile", page="layer", layer=HOSTILE).search())
    expect(page.locator("h2.name")).to_have_text(HOSTILE)
    page = visitor.open(View(run=HOSTILE, layer=HOSTILE).search())
    expect(page.locator("#content")).to_contain_text("There is no run named")


def test_a_script_in_the_page_would_be_noticed(visitor: Visitor) -> None:
    """Negative control of the tests here: what they look for can be seen."""
    page = visitor.open("?run=digits")
    page.evaluate("setTimeout(() => alert(1))")
    page.evaluate("fetch('http://127.0.0.2:9/').catch(() => 0)")
    page.wait_for_timeout(200)
    assert "dialog: 1" in visitor.complaints
    # The content security policy stops the request before it is one.
    assert any("Content Security Policy" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()
    visitor.foreign.clear()


def test_two_hundred_layers_fit_on_a_page(visitor: Visitor) -> None:
    page = visitor.open("?run=deep")
    expect(page.locator(".gtitle").first).to_have_text("Gradient coverage, step 1 (train)")
    assert page.evaluate("document.querySelectorAll('*').length") < 1000
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_empty_run_says_so(visitor: Visitor) -> None:
    page = visitor.open("?run=empty")
    expect(page.locator("#content")).to_contain_text("finished and holds no record")


def test_figures_have_words_for_those_who_do_not_see(visitor: Visitor) -> None:
    page = visitor.open("?run=digits&page=layer")
    pictures = page.locator("figure [role=img]")
    assert pictures.count() == 4
    for picture in pictures.all():
        assert "step 150" in (picture.get_attribute("aria-label") or "")
    assert "Share chart" not in page.content()
    assert METRICS["coverage"].title in page.content()


def test_a_recording_run_is_followed_until_it_ends(visitor: Visitor, root: Path) -> None:
    store = RunStore(root / "live", header(["net"]))
    page = visitor.open("?run=live")
    expect(page.locator("#content")).to_contain_text("Not yet")
    store.append("records", columns([row(7, "net", 1)]))
    title = page.locator(".gtitle").first
    expect(title).to_have_text("Gradient coverage, step 7 (train)")
    store.append("records", columns([row(9, "net", 1)]))
    expect(title).to_have_text("Gradient coverage, step 9 (train)")
    store.end("finished", steps=10)
    expect(page.locator(".state")).to_have_text("finished")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1200)  # four ticks, had it gone on
    assert asked == []
