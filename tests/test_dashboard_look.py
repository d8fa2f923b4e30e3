"""How the pages look and read: titles fit, colours mean one thing, names are told apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from attribution_cases import attribution, curve, importance
from dashboard_client import client_of, draw, words
from synthetic import columns, header, row, write_run

from spikescope.analysis.attribution_study import store_attribution, store_timesteps
from spikescope.analysis.fidelity import store_fidelity
from spikescope.analysis.findings import Finding
from spikescope.dashboard import figures
from spikescope.dashboard import lazy as lazy_module
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.figures_axes import layer_labels
from spikescope.dashboard.figures_style import PALETTES, Theme
from spikescope.dashboard.groups import grouped
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import PAGES
from spikescope.dashboard.view import View
from spikescope.dashboard.words import verdict
from spikescope.data.runs import Run, open_run
from spikescope.data.store import RunStore

WIDEST = 39
"""Characters of a title that a screen of 390 pixels shows whole."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("look") / "runs"
    one = write_run(root / "one", layers=3, steps=range(0, 20_000, 10_000))
    store_attribution(one, attribution())
    store_timesteps(one, importance())
    store_fidelity(one, curve())
    write_run(root / "two", layers=3, steps=range(0, 20_000, 10_000))
    write_run(root / "long", layers=2, timesteps=2, steps=range(40))
    RunStore(root / "empty", header(["net"])).end("finished", steps=0)
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return open_run(root / "one")


def finding(code: str, layer: str, severity: str = "error", **more: Any) -> Finding:
    values = {"t": 1, "steps": (0, 10_000), "measured": 0.0, "error": 0.0, "bound": 0.1} | more
    return Finding(code, severity, layer, unit="share", text="Bad.", source="", **values)  # type: ignore[arg-type]


def drawn_on(root: Path, page: str, **view: Any) -> list[go.Figure]:
    """Return the figures of a page that have something to show."""
    from spikescope.dashboard.catalogue import Catalogue

    subject: Any = Catalogue(root)
    pieces = PAGES[page].pieces
    if pieces is None:
        return []
    if PAGES[page].of_run:
        subject = subject.run("one")
    found = [piece.draw() for piece in pieces(subject, View(run="one", page=page, **view))]
    return [each for each in found if each.data]


@pytest.mark.parametrize("page", [name for name, entry in PAGES.items() if entry.pieces])
def test_titles_fit_on_a_narrow_screen(root: Path, page: str) -> None:
    shown = drawn_on(root, page, other="two", metric="gradient")
    assert shown
    for figure in shown:
        title = str(figure.layout.title.text)
        assert 0 < len(title) <= WIDEST, title
        # No step of a long training has its digits cut: 10000 is in the titles above.
    if page == "overview":
        assert "10000" in str(shown[0].layout.title.text)


def test_a_metric_has_its_own_colour_wherever_it_is_a_line(run: Run) -> None:
    for theme in ("light", "dark"):
        inks = {name: metric.line(theme) for name, metric in METRICS.items()}
        assert len(set(inks.values())) == len(METRICS)
        for name in ("coverage", "gain", "rate", "gradient"):
            line = figures.profile(run, "block1.lif", name, theme=theme).data[0]
            assert (line.line.color, line.marker.color) == (inks[name], inks[name])
        kept = figures.gradient_decay(run, theme=theme).data[-1]
        assert kept.line.color == inks["gradient"]
        assert (
            figures.drift_distances(run, "block1.lif", theme=theme).data[1].line.color
            == (inks["drift"])
        )


def luminance(colour: str) -> float:
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_stand_out_from_the_paper(theme: Theme) -> None:
    paper = luminance(PALETTES[theme].paper)
    for metric in METRICS.values():
        low, high = sorted((luminance(metric.line(theme)), paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5, metric.name
    # Negative control: the colours of the other theme do not.
    other = METRICS["rate"].line("dark" if theme == "light" else "light")
    low, high = sorted((luminance(other), paper))
    assert (high + 0.05) / (low + 0.05) < 4.5


def test_long_names_are_told_apart() -> None:
    names = [f"features.stage{k // 50}.block{k}.residual.lif" for k in range(200)]
    labels = layer_labels(names)
    assert len(set(labels)) == 200
    assert labels[123] == "…stage2.block123…"
    assert max(map(len, labels)) <= 21  # with the ellipsis
    assert layer_labels(["net.0", "net.1"]) == ["net.0", "net.1"]
    assert layer_labels(["x" * 4000]) == [f"{'x' * 10}…{'x' * 10}"]
    # One name that is the beginning of another keeps a part of its own.
    pair = layer_labels(["encoder.attention.output", "encoder.attention.output.lif.neuron"])
    assert len(set(pair)) == 2


@pytest.mark.parametrize("draw_it", [figures.gradient_over_depth, figures.gradient_decay])
def test_depth_runs_down_with_the_input_on_top(run: Run, draw_it: Any) -> None:
    figure = draw_it(run)
    assert list(figure.layout.yaxis.ticktext) == [layer.name for layer in run.layers]
    low, high = figure.layout.yaxis.range
    assert low > high
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.title.text


def test_findings_are_said_by_rule(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = [
        finding("M3", "block0.lif", "warning"),
        finding("G1", "block0.lif", measured=0.012, error=0.001, bound=0.05, t=2),
        finding("G1", "block1.lif", steps=(10_000, 10_000)),
        finding("T7", "", t=None),
    ]
    assert [group.worst.code for group in grouped(several)] == ["G1", "T7", "M3"]
    assert grouped(several)[0].steps == (0, 10_000)
    run = Snapshot(root / "one")
    line, severity = verdict(run, several)
    assert line == (
        "Not healthy since step 0: gradient coverage low in 2 of 3 layers and loss does not fall. "
        "3 errors and 1 warning in all."
    )
    assert severity == "error"
    # What has ended is not said to go on.
    early = [finding("G1", "block1.lif", steps=(0, 5000))]
    assert verdict(run, early)[0].startswith("Not healthy in steps 0 to 5000: gradient coverage")
    monkeypatch.setattr(Snapshot, "findings", several)
    client = client_of(root)
    said = words(draw(client, "?run=one")["content"])
    assert said.count("gradient coverage low") == 1 + 1  # beside the map, on the axis of the loss
    assert "1.20 ± 0.10%, bound 5%. Bad." in said
    for layer, t in (("block0.lif", 2), ("block1.lif", 1)):
        target = View(run="one", page="layer", layer=layer, t=t, step=10_000).search()
        assert target in said
    layer = words(draw(client, "?run=one&page=layer&layer=block1.lif")["content"])
    assert "t = 1, step 10000: Bad." in layer
    assert "M3" not in layer  # of another layer


def test_a_thinned_run_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "findings", [])
    client = client_of(root)
    whole = words(draw(client, "?run=long&page=layer")) + words(
        draw(client, "?run=long&page=compare&other=two")
    )
    # Negative control: of a run that is shown whole nothing is said to be left out.
    assert not re.search(r"\d+ of 40 recorded steps", whole)
    monkeypatch.setattr(lazy_module, "MOST_ROWS", 40)
    monkeypatch.setattr("spikescope.dashboard.figures_ribbon.MOST_STEPS", 8)
    monkeypatch.setattr(lazy_module, "MOST_STEPS", 8)
    client = client_of(root)
    layer = draw(client, "?run=long&page=layer")
    assert "6 of 40 recorded steps are shown" in words(layer["content"])
    # 40 rows hold 10 steps of 2 layers at 2 timesteps: every 8th, and the last.
    assert "No finding in 2 layers: 6 of 40 recorded steps are looked at" in words(layer["verdict"])
    compared = words(draw(client, "?run=long&page=compare&other=long")["content"])
    assert "long: 6 of 40 recorded steps are compared" in compared


def test_what_there_is_nothing_for_takes_no_room(root: Path) -> None:
    said = draw(client_of(root), "?run=one&page=layer")["content"]
    assert "Not recorded: watch(model, collect='full') records it." in words(said)
    assert words(said).count('"type": "Graph"') == 6
    assert words(said).count('"className": "absent"') == 1


def test_about_speaks_in_words(root: Path) -> None:
    said = words(draw(client_of(root), "?run=one&page=about")["content"])
    assert "2 steps, 0 to 10000, in 36 rows" in said
    for raw in ('"boot"', '"started"', '"max_bytes"', '"at the end: '):
        assert raw not in said
    empty = words(draw(client_of(root), "?run=empty&page=about")["content"])
    assert "nothing" in empty


def test_numbers_have_the_digits_that_their_errors_allow() -> None:
    show = METRICS["coverage"].show
    assert [show(v) for v in (0.0, 3e-5, 0.5, 0.99996, 1.0)] == [
        "0%", "<0.1%", "50.0%", ">99.9%", "100.0%",
    ]  # fmt: skip
    assert show(0.5, 1e-5) == "50.0% ± <0.1%"
    assert METRICS["gain"].show(0.0014, 2e-5) == "0.00140 ± 0.00002"
    assert METRICS["rate"].show(0.1432, 0.0023) == "0.143 ± 0.002"
    assert METRICS["gradient"].show(3.76e-6, 6.7e-7) == "3.76e-6 ± 0.67e-6"
    assert METRICS["rate"].show(0.0, 0.0) == "0"
    assert METRICS["rate"].show(float("nan")) == "none"


@pytest.mark.parametrize("draw_it", [
    figures.membrane_law, figures.quantile_ribbon, figures.profile, figures.drift_distances,
])  # fmt: skip
def test_a_figure_of_a_layer_says_which(run: Run, draw_it: Any) -> None:
    """It is looked at by itself in a notebook, and as a download."""
    for name in ("block0.lif", "block2.lif"):
        assert draw_it(run, name).layout.title.subtitle.text == name


def test_why_cells_are_missing_is_in_the_words(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net", "late"]))
    store.append("records", columns([row(0, "net", t) for t in (1, 2)]))
    said = figures.reading(figures.layer_heatmap(open_run(store.path)))
    assert "2 of 4 cells have no value (not yet)." in said
    store.end("finished", steps=1)
    said = figures.reading(figures.layer_heatmap(open_run(store.path)))
    assert "2 of 4 cells have no value (not recorded)." in said
    # Negative control: nothing is said where nothing is missing.
    whole = figures.reading(figures.layer_heatmap(open_run(write_run(tmp_path / "run", layers=1))))
    assert "no value" not in whole


def test_a_table_of_nothing_says_why(root: Path) -> None:
    said = words(draw(client_of(root), "?run=one&page=layer&show=tables")["content"])
    assert said.count('"className": "absent"') == 1
    assert "Not recorded: watch(model, collect='full') records it." in said


def test_shares_are_compared_in_percentage_points(root: Path) -> None:
    one = open_run(root / "one")
    drawn = figures.difference_heatmap(one, open_run(root / "long"), step=0)
    assert drawn.layout.title.subtitle.text.startswith("colour: percentage points")
    table = figures.difference_values(one, open_run(root / "long"), "coverage", "step", "train")
    cell = table[table["step"] == 0].iloc[0]
    hover = drawn.data[0].hovertext[0][0]
    assert hover.startswith(f"{100 * cell['difference']:+.1f} ± ")
    assert f"(a {cell['a']:.1%}, b {cell['b']:.1%}, " in hover
    assert "percentage points" in figures.reading(drawn)
    rates = figures.difference_heatmap(one, open_run(root / "long"), "rate", step=0)
    assert "points" not in figures.reading(rates)
