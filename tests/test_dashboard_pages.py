"""The pages of a run: what each of them draws, and the tables behind it."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dashboard_client import LOCAL, client_of, draw, words, write_runs
from flask.testing import FlaskClient
from scipy import stats

from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.preset import recommend_by_numbers
from spikescope.dashboard import pages
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.measured_law import measured_law
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.view import PAGES
from spikescope.data.runs import open_run

OUTPUTS = (
    "provider",
    "crumbs",
    "pages",
    "verdict",
    "controls",
    "content",
    "defaults",
    "drawn",
    "tick",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("server") / "runs")


@pytest.fixture(scope="module")
def client(root: Path) -> FlaskClient:
    return client_of(root)


@pytest.mark.parametrize(
    "page", [name for name, entry in pages.PAGES.items() if entry.of_run and name != "attribution"]
)
def test_each_page_is_drawn(client: FlaskClient, page: str) -> None:
    parts = draw(client, f"?run=one&page={page}")
    assert set(parts) == set(OUTPUTS)
    assert "cannot be shown" not in words(parts["content"])
    # A run that has ended is not asked again, once its findings are worked out.
    for _ in range(200):
        if parts["tick"]["max_intervals"] == 0:
            break
        time.sleep(0.1)
        parts = draw(client, f"?run=one&page={page}")
    assert parts["tick"]["max_intervals"] == 0


def test_every_page_has_an_address() -> None:
    assert set(pages.PAGES) <= set(PAGES)


def figure_of(parts: dict[str, Any], index: str) -> Any:
    """Return the figure of a piece on a drawn page."""
    found = [
        graph["props"]["figure"]
        for graph in graphs(parts["content"]["children"])
        if graph["props"]["id"]["index"] == index
    ]
    assert len(found) == 1
    return found[0]


def graphs(tree: Any) -> list[Any]:
    if isinstance(tree, list):
        return [graph for item in tree for graph in graphs(item)]
    if not isinstance(tree, dict):
        return []
    mine = [tree] if tree.get("type") == "Graph" else []
    return mine + graphs(tree.get("props", {}).get("children"))


def trace_of(figure: Any, name: str) -> Any:
    return next(trace for trace in figure["data"] if trace.get("name") == name)


def test_drift_shows_distances_of_the_law(client: FlaskClient, root: Path) -> None:
    """The oracle is scipy's Wasserstein distance of the recorded histograms."""
    parts = draw(client, "?run=one&page=drift&layer=block1.lif&step=50")
    law = open_run(root / "one").density("block1.lif", steps=[50])
    middle = (law.edges[1:] + law.edges[:-1]) / 2
    wanted = [
        stats.wasserstein_distance(middle, middle, counts, law.counts[0, -1])
        for counts in law.counts[0]
    ]
    shown = trace_of(figure_of(parts, "distances"), "to last t")["y"]
    np.testing.assert_allclose(shown, wanted, atol=1e-12)
    assert shown[0] > 0.25  # negative control: a layer that starts elsewhere is far
    assert "chance alone stays below" in words(parts["content"])
    assert "Mixing time: from the start potential 0" in words(parts["content"])
    now = trace_of(figure_of(parts, "removable"), "now")["x"]
    assert now[1] == pytest.approx(wanted[0])


def test_flow_shows_what_is_left_of_the_gradient(client: FlaskClient) -> None:
    """Each synthetic layer has half the gradient of the one above it."""
    parts = draw(client, "?run=one&page=flow&step=100")
    left = trace_of(figure_of(parts, "decay"), "measured")["x"]
    np.testing.assert_allclose(left, [0.25, 0.5, 1.0], rtol=1e-12)
    depth = trace_of(figure_of(parts, "depth"), "t = 3")["x"]
    np.testing.assert_allclose(depth, [2.5e-3, 5e-3, 1e-2], rtol=1e-12)
    band = trace_of(figure_of(parts, "decay"), "predicted")
    assert band["y"] == [0, 1, 2, 2, 1, 0]
    high, low = band["x"][:3], band["x"][:2:-1]
    assert all(h >= b > 0 for h, b in zip(high, low, strict=True))


def test_the_predicted_law_lies_over_the_measured_one(client: FlaskClient, root: Path) -> None:
    parts = draw(client, "?run=one&page=layer&layer=block0.lif&step=0")
    law = trace_of(figure_of(parts, "law"), "prediction")
    run = Snapshot(root / "one")
    entry = measured_law(run, "block0.lif", step=0)
    assert entry is not None
    assert entry.predicted is not None
    x, density = (np.array(law[name], dtype=float) for name in ("x", "customdata"))
    drawn = np.isfinite(x)
    assert (~drawn).sum() == 6  # once over each timestep
    np.testing.assert_allclose(density[drawn], entry.predicted.law.pdf(x[drawn]), rtol=1e-9)
    assert "theory predicts" in words(parts["content"])
    # A layer whose threshold alone is known has none, and it is said.
    assert law["line"]["dash"] == "dash"


def test_compare_shows_differences_and_the_losses(client: FlaskClient, root: Path) -> None:
    parts = draw(client, "?run=one&page=compare&other=two&step=100")
    shown = np.array(figure_of(parts, "difference two")["data"][0]["z"], dtype=float)
    tables = [open_run(root / name).table(["coverage"]) for name in ("one", "two")]
    one, two = (
        table[(table["step"] == 100) & (table["layer"] == "block1.lif")]["coverage"].to_numpy()
        for table in tables
    )
    np.testing.assert_allclose(shown[1], two - one, atol=1e-12)
    assert figure_of(parts, "losses")["data"][1]["name"] == "two"
    assert "cannot be compared" not in words(parts["content"])
    gone = words(draw(client, "?run=one&page=compare&other=gone")["content"])
    assert "gone cannot be compared" in gone
    aligned = words(draw(client, "?run=one&page=compare&other=two&align=loss")["content"])
    assert "b - a, loss" in aligned


def test_choose_needs_no_run(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    parts = draw(client, "?page=choose&decay=0.9&fan_in=300&family=gaussian")
    preset = recommend_by_numbers(
        NeuronSpec(decay=0.9, reset_gradient=False), 300, layers=4, timesteps=8, input_rate=0.1,
        target_rate=0.1, family="gaussian",
    )  # fmt: skip
    text = words(parts["content"])
    assert f"layer.weight, 0.0, {float(preset.value('input weight std')):.6g}" in text
    assert f"width={float(preset.surrogate.width):.6g}" in text
    assert "sinabs: Gaussian(sigma=" in text
    other = words(draw(client, "?page=choose&decay=0.5&fan_in=300&family=gaussian")["content"])
    assert f"width={float(preset.surrogate.width):.6g}" not in other


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?page=choose&decay=1.5", "decay=1.5 is not possible"),
        ("?page=choose&decay=0.999", "decay=0.999 is not possible here: it must be at most 0.99"),
        ("?page=choose&threshold=1e300", "threshold=1e+300 is not possible here"),
        ("?page=choose&layers=-4", "layers=-4 is not possible here: it must be from 1"),
        ("?page=choose&fan_in=0", "fan_in=0 is not possible here: it must be from 1"),
        ("?page=choose&layers=99999999", "layers=99999999 is not possible here"),
        ("?page=choose&input_rate=2", "input_rate=2.0 is not possible"),
        ("?page=choose&threshold=-1", "threshold=-1.0 is not above rest"),
    ],
)
def test_impossible_choices_are_said(client: FlaskClient, search: str, said: str) -> None:
    parts = draw(client, search)
    assert said in words(parts["content"])
    assert parts["controls"]["children"]  # and can be mended there


def test_tables_can_be_had_as_csv(client: FlaskClient, root: Path) -> None:
    def get(query: str) -> Any:
        return client.get(f"/table.csv?{query}", headers=LOCAL)

    answer = get("run=one&page=layer&layer=block1.lif&step=100&piece=coverage")
    assert answer.status_code == 200
    assert answer.mimetype == "text/csv"
    frame = pd.read_csv(io.StringIO(answer.text))
    table = open_run(root / "one").table(["coverage"], layer="block1.lif")
    wanted = table[table["step"] == 100]["coverage"]
    np.testing.assert_allclose(frame["Gradient coverage (share of elements)"], wanted)
    for query in ("run=one&piece=nope", "run=../outside&piece=cells", "run=link&piece=cells",
                  "piece=cells", "run=one&page=about&piece=cells"):  # fmt: skip
        refused = get(query)
        assert refused.status_code == 404
        assert "secret" not in refused.text
        assert "Traceback" not in refused.text
    assert client.get("/table.csv", headers={"Host": "attacker.example"}).status_code == 400


def test_every_table_of_every_page_is_there(client: FlaskClient) -> None:
    for name, entry in pages.PAGES.items():
        if entry.pieces is None or name == "attribution":
            continue
        text = words(draw(client, f"?run=one&page={name}&other=two"))
        links = set(re.findall(r"/table\.csv\?[^\"]+", text))
        assert links, name
        for link in links:
            answer = client.get(link, headers=LOCAL)
            assert answer.status_code == 200, link
            # Every header says its unit, or is a word that needs none.
            assert answer.text.partition("\n")[0].count(",") >= 1


def test_heatmap_in_the_page_has_the_run_s_numbers(client: FlaskClient, root: Path) -> None:
    text = words(draw(client, "?run=one&step=100&metric=coverage&show=tables")["content"])
    table = Snapshot(root / "one").table(["coverage", "coverage_se"], layer="block1.lif")
    entry = table[(table["step"] == 100) & (table["t"] == 4)].iloc[0]
    assert METRICS["coverage"].show(entry["coverage"], entry["coverage_se"]) in text
    assert METRICS["coverage"].show(entry["coverage"] + 0.001) not in text
