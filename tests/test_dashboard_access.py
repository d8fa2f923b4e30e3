"""Everybody reaches everything: by keyboard, by screen reader, by a link, offline."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
from attribution_cases import attribution
from playwright.sync_api import Browser, BrowserContext, expect
from synthetic import write_run
from visitor import FINDING, Visitor, grave

from spikescope.analysis.attribution_study import store_attribution
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.export import export_html
from spikescope.dashboard.pages import PAGES
from spikescope.dashboard.view import View

pytestmark = pytest.mark.browser

pytest_plugins = ("browser_fixtures",)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_fails_axe(visitor: Visitor, theme: str) -> None:
    for name, entry in PAGES.items():
        run = "digits" if entry.of_run else ""
        page = visitor.open(View(run=run, page=name, theme=theme).search())
        expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", theme)
        # Colours fade in; a contrast in between is nobody's.
        page.wait_for_timeout(250)
        # Figures are made alike; their colours are held to a contrast in both themes elsewhere.
        found = grave(page, figures=theme == "light" and name in ("overview", "layer"))
        assert found == [], (name, found)


UNREADY = ".grid:not(:has(.ag-row)), .grid .ag-delay-render"
"""Tables without rows, or with rows that are kept from sight."""


def test_no_table_fails_axe(visitor: Visitor) -> None:
    """Also what is far below the fold, and not scrolled to, can be read, in either width."""
    tables = 0
    for name, entry in PAGES.items():
        run = "digits" if entry.of_run else ""
        visitor.page.set_viewport_size({"width": 390, "height": 900})
        page = visitor.open(View(run=run, page=name, show="tables", other="single").search())
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            expect(page.locator(UNREADY)).to_have_count(0)
            # Tables are made alike: the contrast of one stands for all.
            found = grave(page, contrast=name == "flow" and width == 1280)
            assert found == [], (name, width, found)
        tables += page.locator(".grid").count()
    assert tables > 20
    page = visitor.open(View(run="digits", page="flow", show="tables", theme="dark").search())
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    # Colours fade in; a contrast in between is nobody's.
    page.wait_for_timeout(250)
    assert grave(page) == []


def test_axe_sees_what_is_wrong(visitor: Visitor) -> None:
    """Negative control: an unnamed field and pale text are found."""
    page = visitor.open("?run=digits&page=about")
    page.evaluate(
        """() => { const box = document.createElement("div"); box.id = "bad";
        box.innerHTML = "<input><p>pale</p>";
        box.lastChild.style.color = "rgb(230, 230, 230)"; document.body.appendChild(box); }"""
    )
    found = " ".join(grave(page))
    page.evaluate("document.getElementById('bad').remove()")
    assert "label" in found
    assert "color-contrast" in found


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


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything(visitor: Visitor, name: str) -> None:
    run = "digits" if PAGES[name].of_run else ""
    page = visitor.open(View(run=run, page=name, other="single").search())
    wanted = set(page.evaluate(FOCUSABLE))
    assert len(wanted) > 3
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


def test_the_keyboard_chooses_a_timestep(visitor: Visitor) -> None:
    """What a click on a figure does, a field does; a timestep belongs to its layer."""
    page = visitor.open("?run=digits&page=layer&layer=block2.lif")
    field = page.get_by_label("timestep", exact=True).first
    ribbon = page.locator(".gtitle", has_text="u over training")
    expect(ribbon).to_have_text("u over training, t = 6 (train)")
    expect(field).to_have_value("6")
    outline = "field => getComputedStyle(field).outlineStyle"
    assert field.evaluate(outline) == "none"
    field.focus()
    page.keyboard.press("Enter")
    page.get_by_role("option", name="6", exact=True).wait_for()
    # A field that is in use is seen to be.
    assert field.evaluate(outline) == "solid"
    for _ in range(6):
        page.keyboard.press("ArrowUp")
        if page.locator("[role=option][data-combobox-selected]").all_inner_texts() == ["5"]:
            break
    page.keyboard.press("Enter")
    expect(ribbon).to_have_text("u over training, t = 5 (train)")
    assert page.url.endswith("&t=5")
    page.get_by_label("layer", exact=True).first.click()
    page.get_by_role("option", name="block1.lif").click()
    expect(page.locator("h2.name")).to_have_text("block1.lif")
    expect(field).to_have_value("6")
    visitor.settle()


LINKS = {
    # The first is loaded as a whole, the others as links in the page are.
    "layer": (View(layer="block2.lif", t=3, step=50), "Law of u, step 50 (train)"),
    "overview": (View(metric="rate", step=50), "Firing rate, step 50 (train)"),
    "drift": (View(layer="block2.lif", step=50), "Drift of the law, step 50 (train)"),
    "flow": (View(layer="block2.lif", step=50), "|dL/du| over depth, step 50 (train)"),
    "compare": (View(other="single", metric="rate"), "Firing rate: b - a, step 0 (train)"),
    "attribution": (View(label=4), "What speaks for class 4, and when"),
    "findings": (View(), ""),
    "about": (View(), ""),
    "choose": (View(family="gaussian", decay=0.9), "Law of u and the surrogate on it"),
    "runs": (View(), ""),
}
"""What a colleague was sent, and the title of the first figure that must be there."""


def test_a_link_restores_everything(context: BrowserContext, address: str) -> None:
    """A fresh visitor with the link sees run, page, layer, timestep, step, metric and theme."""
    assert set(LINKS) == set(PAGES)
    fresh = Visitor(context.new_page(), address)
    for name, (view, title) in LINKS.items():
        run = "digits" if PAGES[name].of_run else ""
        page = fresh.open(view.but(run=run, page=name, theme="dark").search())
        expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
        if run:
            expect(page.locator(".page-link.here")).to_have_text(PAGES[name].title)
            expect(page.locator("#crumbs")).to_contain_text("digits")
        if title:
            expect(page.locator(".gtitle").first).to_have_text(title)
        if view.step is not None:
            expect(page.get_by_role("slider")).to_have_attribute("aria-valuenow", "1")
        if view.layer:
            expect(page.get_by_label("layer", exact=True).first).to_have_value(view.layer)
        if view.t is not None:
            assert page.evaluate(_STRESSED) == ["t = 3"]
    fresh.page.close()
    assert fresh.complaints == []


_STRESSED = """() => document.querySelector(".dash-graph .js-plotly-plot").data
    .filter(trace => trace.line && trace.line.width === 3.5).map(trace => trace.name)"""


def test_back_and_forward_between_pages(visitor: Visitor) -> None:
    page = visitor.open("?run=digits&page=layer&layer=block2.lif&step=50")
    here = page.locator(".page-link.here")
    page.locator(".page-link", has_text="Drift").click()
    expect(page.locator(".gtitle").first).to_have_text("Drift of the law, step 50 (train)")
    page.locator(".page-link", has_text="Gradient flow").click()
    expect(page.locator(".gtitle").first).to_have_text("|dL/du| over depth, step 50 (train)")
    page.go_back()
    expect(here).to_have_text("Drift")
    expect(page.locator("h2.name")).to_have_text("block2.lif")
    page.go_back()
    expect(here).to_have_text("Layer")
    expect(page.locator(".gtitle").first).to_have_text("Law of u, step 50 (train)")
    page.go_forward()
    expect(here).to_have_text("Drift")
    visitor.settle()


def test_an_exported_run_opens_offline(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the one file shows the figures of the pages, and asks for nothing."""
    monkeypatch.setattr(Snapshot, "findings", [FINDING])
    run = write_run(tmp_path / "run", layers=["block1.lif"], timesteps=3)
    store_attribution(run, attribution())
    file = export_html(run, tmp_path / "run.html", theme="dark")
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    visitor = Visitor(context.new_page(), file.as_uri())
    page = visitor.page
    page.goto(file.as_uri())
    plots = page.locator(".js-plotly-plot")
    drawn = page.locator(".js-plotly-plot .gtitle")
    expect(drawn).to_have_count(plots.count())
    titles = drawn.all_text_contents()
    shown = Snapshot(run)
    for name in ("overview", "layer", "drift", "flow", "attribution"):
        for piece in PAGES[name].pieces(shown, View(run="run", theme="dark")):  # type: ignore[misc]
            figure = piece.draw()
            if figure.data:
                assert html.unescape(figure.layout.title.text) in titles
    said = page.locator("main").inner_text()
    for part in ("gradient coverage low in block1.lif", "Too low.", "Where dL/ds arrives"):
        assert part in said
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("summary").first.press("Enter")
    expect(page.locator("details table").first).to_be_visible()
    assert grave(page) == []
    context.close()
    assert visitor.foreign == []
    assert visitor.complaints == []
