"""The dashboard in a real browser: pages load, numbers are the run's, nothing goes elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from synthetic import columns, header, row, write_run

from spikescope.analysis.findings import Finding
from spikescope.dashboard import app as app_module
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import PAGES
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
    write_run(root / "single", layers=1, timesteps=1, steps=range(1))
    write_hostile(root / "hostile")
    RunStore(root / "empty", header(["net"])).end("finished", steps=0)
    broken = write_run(root / "broken", layers=2, steps=range(0, 2))
    (broken / "records-00000001.parquet").write_bytes(b"PAR1 torn")
    growing = RunStore(root / "growing", header(["net", "late"]))
    growing.append("records", columns([row(0, "net", t) for t in (1, 2)]))
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


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    # One for all tests: its cache spares each of them the megabytes of plotly.
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture(scope="module")
def window(context: BrowserContext, address: str) -> Iterator[Visitor]:
    # One page for all tests: loading it costs more than all that they look at.
    visitor = Visitor(context.new_page(), address)
    yield visitor
    visitor.page.close()


@pytest.fixture
def visitor(window: Visitor) -> Iterator[Visitor]:
    window.page.set_viewport_size({"width": 1280, "height": 900})
    window.complaints.clear()
    window.foreign.clear()
    yield window
    assert window.foreign == []
    assert window.complaints == []


def cell(run: Path, layer: str, t: int, step: int) -> str:
    """Return what the table must show for a cell, read by another way than the pages do."""
    table = open_run(run).table(["coverage", "coverage_se"], layer=layer, since=step)
    entry = table[(table["step"] == step) & (table["t"] == t)].iloc[0]
    return f"{100 * entry['coverage']:.1f} % ± {100 * entry['coverage_se']:.1f} %"


RUNS = ("digits", "empty", "single", "deep", "growing", "broken", "hostile")

SAID = {
    "empty": "finished and holds no record",
    "broken": "Gradient coverage, step 1",
    "growing": "Gradient coverage, step 0",
    "single": "Gradient coverage, step 0",
    "deep": "Gradient coverage, step 1",
    "digits": "Gradient coverage, step 150",
    "hostile": "Gradient coverage, step 0",
}


@pytest.mark.parametrize("run", RUNS)
def test_every_page_of_every_kind_of_run(visitor: Visitor, run: str) -> None:
    for name, entry in PAGES.items():
        if not entry.of_run:
            continue
        page = visitor.open(View(run=run, page=name).search())
        text = page.locator("#content").inner_text()
        assert text.strip(), name
        assert "This cannot be shown" not in text, (name, text)
        assert page.locator(".page-link.here").inner_text() == entry.title
        assert page.locator("img[src=x]").count() == 0
        if name == "overview":
            # A figure's words are in its lines, not in the page's text.
            assert SAID[run] in (page.locator("#content").text_content() or "")


def test_pages_without_a_run(visitor: Visitor) -> None:
    page = visitor.open("?page=runs")
    expect(page.locator("#content")).to_contain_text("Runs (7)")
    page = visitor.open("?page=choose&decay=0.9&fan_in=300")
    expect(page.locator("#content")).to_contain_text("spikes per timestep")
    assert page.get_by_label("decay", exact=True).first.input_value() == "0.9"
    # A number that is typed becomes part of the address and of the code.
    before = page.locator("#code").inner_text()
    page.get_by_label("fan-in").first.fill("500")
    page.get_by_label("fan-in").first.press("Enter")
    expect(page.locator("#code")).not_to_have_text(before)
    assert "fan_in=500" in page.url


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_fails_axe(visitor: Visitor, theme: str) -> None:
    searches = [
        View(run="digits" if entry.of_run else "", page=name, theme=theme)
        for name, entry in PAGES.items()
    ]
    if theme == "dark":
        searches = [view for view in searches if view.page in ("overview", "choose", "runs")]
    else:
        searches.append(View(run="digits", page="layer", show="tables"))
    for view in searches:
        page = visitor.open(view.search())
        if view.show == "tables":
            expect(page.locator(".ag-row").first).to_be_visible()
        expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", theme)
        # Colours fade in; a contrast in between is nobody's.
        page.wait_for_timeout(250)
        found = _grave(page)
        assert found == [], (view.page, found)


def _grave(page: Page) -> list[str]:
    """Return the violations that axe-core calls serious or critical."""
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:200]}"
        for each in results.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def test_axe_sees_what_is_wrong(visitor: Visitor) -> None:
    """Negative control: an unnamed field and pale text are found."""
    page = visitor.open("?run=digits&page=about")
    page.evaluate(
        """() => { const box = document.createElement("div"); box.id = "bad";
        box.innerHTML = "<input><p>pale</p>";
        box.lastChild.style.color = "rgb(230, 230, 230)"; document.body.appendChild(box); }"""
    )
    found = " ".join(_grave(page))
    page.evaluate("document.getElementById('bad').remove()")
    assert "label" in found
    assert "color-contrast" in found


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
    expect(page.locator(".gtitle").first).to_have_text("Law of u, step 50 (train)")


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


FOCUSABLE = """() => {
    const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== "hidden";
    const radios = new Set();
    return [...document.querySelectorAll(
        "a[href], button, input, select, textarea, [tabindex='0']")]
        .filter(e => shown(e) && !e.disabled && e.tabIndex >= 0 && !e.closest(".grid"))
        .filter(e => e.type !== "radio" || (!radios.has(e.name) && radios.add(e.name)))
        .map((e, k) => { e.dataset.place = e.type === "radio" ? e.name : String(k);
            return e.dataset.place; });
}"""


@pytest.mark.parametrize("name", ["overview", "layer", "compare", "choose"])
def test_the_keyboard_reaches_everything(visitor: Visitor, name: str) -> None:
    run = "digits" if PAGES[name].of_run else ""
    page = visitor.open(View(run=run, page=name, other="single").search())
    wanted = set(page.evaluate(FOCUSABLE))
    assert len(wanted) > 5
    # From the top: a heading that takes no part starts the row.
    page.evaluate(
        "(() => { const h = document.querySelector('h1'); h.tabIndex = -1; h.focus() })()"
    )
    reached = set()
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "(() => { const e = document.activeElement;"
            " return e.type === 'radio' ? e.name : e.dataset.place || ''; })()"
        )
        reached.add(place)
    assert wanted <= reached


def test_the_keyboard_reads_a_finding(visitor: Visitor) -> None:
    page = visitor.open("?run=digits&page=findings")
    expect(page.locator(".ag-row")).to_have_count(1)
    page.locator(".page-link.here").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("!!document.activeElement.closest('.ag-root')"):
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".detail")).to_contain_text("Source: A paper")
    page.get_by_text("Open this layer there").press("Enter")
    expect(page.locator("h2.name")).to_have_text("block1.lif")
    assert page.url.endswith("?run=digits&page=layer&layer=block1.lif&t=2&step=100")


def test_a_link_restores_everything(context: BrowserContext, address: str) -> None:
    """A fresh visitor with the link sees run, page, layer, timestep, step, metric and theme."""
    view = View(run="digits", page="layer", layer="block2.lif", t=3, step=50, theme="dark")
    fresh = Visitor(context.new_page(), address)
    page = fresh.open(view.search())
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    expect(page.locator("h2.name")).to_have_text("block2.lif")
    expect(page.locator(".gtitle").first).to_have_text("Law of u, step 50 (train)")
    stressed = page.evaluate(
        """() => document.querySelector(".dash-graph .js-plotly-plot").data
            .filter(trace => trace.line && trace.line.width === 3.5).map(trace => trace.name)"""
    )
    assert stressed == ["t = 3"]
    page = fresh.open(view.but(page="overview", metric="rate").search())
    expect(page.locator(".gtitle").first).to_have_text("Firing rate, step 50 (train)")
    expect(page.get_by_role("slider")).to_have_attribute("aria-valuenow", "1")
    page.close()
    assert fresh.complaints == []


def test_figures_are_taken_away(visitor: Visitor, root: Path) -> None:
    page = visitor.open("?run=digits&step=100")
    for kind, head in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"layer,")):
        control = page.get_by_text(kind, exact=True).first
        with page.expect_download() as waiting:
            control.press("Enter")
        content = Path(waiting.value.path()).read_bytes()
        assert content.startswith(head)
    assert cell(root / "digits", "block2.lif", 3, 100).encode() in content


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
    assert page.evaluate("document.querySelectorAll('*').length") <= 500
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("begin", ["?run=digits", "?page=runs"])
def test_plotly_is_loaded_once(visitor: Visitor, begin: str) -> None:
    """Early where the first page has figures, with the first figure elsewhere."""
    page = visitor.open(begin)
    if begin == "?page=runs":
        page.get_by_role("link", name="digits", exact=True).first.click()
    expect(page.locator(".dash-graph .gtitle").first).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
    assert sum("plotly.min.js" in name for name in loaded) == 1
    assert page.evaluate("typeof window.Plotly.react") == "function"


def test_figures_have_words_for_those_who_do_not_see(visitor: Visitor) -> None:
    page = visitor.open("?run=digits&page=layer")
    pictures = page.locator("figure [role=img]")
    assert pictures.count() == 6
    words = [picture.get_attribute("aria-label") or "" for picture in pictures.all()]
    assert all("step 150" in said for said in words)
    # What there is nothing to draw for is a sentence, not an empty frame.
    absent = page.locator(".absent")
    expect(absent).to_have_count(1)
    expect(absent).to_contain_text("Not recorded: watch(model, collect='full') records it.")
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
    page.wait_for_timeout(1000)  # three ticks, had it gone on
    assert asked == []


def test_a_hidden_tab_asks_for_nothing(visitor: Visitor, root: Path) -> None:
    page = visitor.open("?run=growing")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(800)
    assert asked  # negative control: a run that is recorded is followed
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.wait_for_timeout(400)  # what is on its way
    asked.clear()
    page.wait_for_timeout(800)
    page.evaluate("delete document.hidden")
    assert asked == []
