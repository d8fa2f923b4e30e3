"""The dashboard in a real browser: pages load, numbers are the run's, nothing goes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect
from synthetic import columns, header, row
from visitor import HOSTILE, Visitor

from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import PAGES
from spikescope.dashboard.view import View
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

pytestmark = pytest.mark.browser

pytest_plugins = ("browser_fixtures",)


def cell(run: Path, layer: str, t: int, step: int) -> str:
    """Return what the table must show for a cell, read by another way than the pages do."""
    table = open_run(run).table(["coverage", "coverage_se"], layer=layer, since=step)
    entry = table[(table["step"] == step) & (table["t"] == t)].iloc[0]
    return f"{100 * entry['coverage']:.1f}% ± {100 * entry['coverage_se']:.1f}%"


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


NARROW = ("runs", "choose", "findings", "about")
"""Pages whose tables have no number of columns of their own: they fit."""


@pytest.mark.parametrize("name", NARROW)
def test_tables_fit_on_a_narrow_screen(visitor: Visitor, name: str) -> None:
    page = visitor.open(View(run="digits" if PAGES[name].of_run else "", page=name).search())
    headers = page.locator(".ag-header-cell")
    wide = headers.count()
    page.set_viewport_size({"width": 390, "height": 900})
    if wide:
        expect(headers).to_have_text(["in brief"])
    else:
        expect(page.locator("thead")).to_be_hidden()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(_SIDEWAYS) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(headers).to_have_count(wide)


_SIDEWAYS = """() => [...document.querySelectorAll("table, .ag-center-cols-viewport")]
    .filter(each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
    .map(each => each.className)"""


@pytest.mark.parametrize("begin", ["?run=digits", "?page=runs"])
def test_plotly_is_loaded_once(visitor: Visitor, begin: str) -> None:
    """Early where the first page has figures, with the first figure elsewhere."""
    page = visitor.open(begin)
    if begin == "?page=runs":
        page.get_by_role("link", name="digits", exact=True).first.click()
    expect(page.locator(".dash-graph .gtitle").first).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
    assert sum("/plotly" in name for name in loaded) == 1
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
