"""The pages by their addresses: what is drawn, what a wrong address gets, how a run is followed."""

from __future__ import annotations

import io
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dashboard_client import LOCAL, client_of, draw, words
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import columns, header, row, write_run

from spikescope.analysis.findings import Finding
from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.preset import recommend_by_numbers
from spikescope.dashboard import app as app_module
from spikescope.dashboard import catalogue as catalogue_module
from spikescope.dashboard import pages
from spikescope.dashboard.catalogue import Catalogue, Snapshot
from spikescope.dashboard.measured_law import measured_law
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import overview
from spikescope.dashboard.view import PAGES, View
from spikescope.data.runs import RunError, open_run
from spikescope.data.store import RunStore

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
    root = tmp_path_factory.mktemp("server") / "runs"
    write_run(root / "one", layers=3)
    write_run(root / "two", layers=2)
    (root / "newer").mkdir()
    (root / "newer" / "run.json").write_text('{"format": 99}')
    write_run(root.parent / "outside", layers=["secret"])
    (root / "link").symlink_to(root.parent / "outside")
    return root


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


def test_the_root_lists_its_runs(client: FlaskClient) -> None:
    text = words(draw(client, "?")["content"])
    assert '"?run=one"' in text
    assert "finished" in text
    assert "upgrade spikescope" in text  # the run of a newer format
    assert "secret" not in text


def test_a_root_that_is_a_run_opens_it(root: Path) -> None:
    parts = draw(client_of(root / "one"), "?")
    assert "block0.lif" in words(parts["content"])


def test_an_empty_root_teaches(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    parts = draw(client, "?")
    assert "spikescope.watch(model" in words(parts["content"])
    assert parts["tick"]["max_intervals"] == -1  # the first run appears by itself
    write_run(tmp_path / "first", layers=1, steps=range(1))
    later = draw(client, "?", beat=True, drawn=parts["drawn"]["data"])
    assert '"?run=first"' in words(later["content"])


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "..",
        "../outside",
        "one/../../outside",
        "/etc",
        "%2e%2e",
        "link",
        "one\x00",
        "x" * 5000,
    ],
)
def test_only_discovered_runs_open(client: FlaskClient, name: str) -> None:
    parts = draw(client, View(run=name, page="overview").search())
    text = words(parts["content"])
    assert "There is no run named" in text
    assert "secret" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?run=newer", "upgrade spikescope to open it"),
        ("?run=one&page=layer&layer=gone", "layer 'gone' is not in run 'one'"),
        ("?run=one&step=70", "This page shows step 50, the nearest one."),
        ("?run=one&mode=eval", "eval was not recorded."),
        ("?run=one&page=attack&t=-1&step=1e9&metric=x&theme=y", "Gradient coverage, step 150"),
        ("?run=one&t=999999999999999999999999", "Gradient coverage, step 150"),
        ("?&&&=%%%", '"?run=one"'),
    ],
)
def test_wrong_addresses_get_a_friendly_page(client: FlaskClient, search: str, said: str) -> None:
    parts = draw(client, search)
    assert said in words(parts["content"])
    assert "Traceback" not in words(parts)


def test_an_error_of_ours_is_a_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(overview, "_findings", fail)
    text = words(draw(client_of(root), "?run=one")["content"])
    assert "An error of spikescope itself: ZeroDivisionError('boom')" in text
    assert "Traceback" not in text
    assert "Traceback" in caplog.text  # whoever runs the server can see where


def test_heatmap_in_the_page_has_the_run_s_numbers(client: FlaskClient, root: Path) -> None:
    text = words(draw(client, "?run=one&step=100&metric=coverage&show=tables")["content"])
    table = Snapshot(root / "one").table(["coverage", "coverage_se"], layer="block1.lif")
    entry = table[(table["step"] == 100) & (table["t"] == 4)].iloc[0]
    assert METRICS["coverage"].show(entry["coverage"], entry["coverage_se"]) in text
    assert METRICS["coverage"].show(entry["coverage"] + 0.001) not in text


def test_a_tick_without_news_changes_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    client = client_of(tmp_path)
    first = draw(client, "?run=live")
    assert "Not yet" in words(first["content"])
    assert first["tick"]["max_intervals"] == -1
    assert draw(client, "?run=live", beat=True, drawn=first["drawn"]["data"]) == {}
    store.append("records", columns([row(0, "net", 1)]))
    news = draw(client, "?run=live", beat=True, drawn=first["drawn"]["data"])
    assert "Gradient coverage, step 0" in words(news["content"])
    store.end("finished", steps=1)
    last = draw(client, "?run=live", beat=True, drawn=news["drawn"]["data"])
    assert last["tick"]["max_intervals"] == 0
    assert "finished" in words(last["crumbs"])


def test_switches_stay_while_only_the_view_changes(client: FlaskClient) -> None:
    first = draw(client, "?run=one")
    moved = draw(client, "?run=one&step=50&metric=rate", drawn=first["drawn"]["data"])
    assert "controls" not in moved
    assert "Firing rate, step 50" in words(moved["content"])
    other = draw(client, "?run=one&page=layer", drawn=first["drawn"]["data"])
    assert "controls" in other


def test_runs_are_read_again_only_when_they_changed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    catalogue = Catalogue(tmp_path)
    first = catalogue.run("live")
    assert catalogue.run("live") is first
    store.append("records", columns([row(5, "net", 1)]))
    second = catalogue.run("live")
    assert second is not first
    assert second.table()["step"].tolist() == [0, 5]
    assert catalogue.summary("live").last_step == 5


@pytest.mark.parametrize(
    "choice",
    [{}, {"layer": "block1.lif"}, {"mode": "train"}, {"mode": "eval"}, {"since": 100},
     {"layer": "block2.lif", "mode": "train", "since": 50, "columns": ["rate", "t", "coverage"]},
     {"layer": "block0.lif", "mode": "eval"}],
)  # fmt: skip
def test_a_snapshot_reads_like_the_run(root: Path, choice: dict[str, Any]) -> None:
    plain = open_run(root / "one").table(**choice)
    kept = Snapshot(root / "one").table(**choice)
    pd.testing.assert_frame_equal(plain.reset_index(drop=True), kept.reset_index(drop=True))
    with pytest.raises(RunError, match="layer 'gone' is not in run"):
        Snapshot(root / "one").table(layer="gone")


def test_only_a_few_runs_stay_in_memory(tmp_path: Path) -> None:
    for name in "abcdef":
        RunStore(tmp_path / name, header(["net"])).end("finished")
    catalogue = Catalogue(tmp_path)
    first = catalogue.run("a")
    for name in "bcdef":
        catalogue.run(name)
    assert len(catalogue._open) == catalogue_module.KEPT
    assert catalogue.run("a") is not first


def test_a_deleted_run_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "gone", layers=1, steps=range(1))
    client = client_of(tmp_path)
    assert "Gradient coverage" in words(draw(client, "?run=gone")["content"])
    shutil.rmtree(tmp_path / "gone")
    assert "There is no run named 'gone' here" in words(draw(client, "?run=gone")["content"])


def test_findings_are_spelt_out_with_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(
        "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper",
        ("start potential",),
    )  # fmt: skip
    monkeypatch.setattr(Snapshot, "findings", [finding])
    client = client_of(root)
    parts = draw(client, "?run=one")
    said = words(parts["verdict"])
    assert "Not healthy in steps 0 to 100: gradient coverage low in block1.lif. 1 error" in said
    link = View(run="one", page="layer", layer="block1.lif", t=2, step=100).search()
    assert link in words(parts["content"])
    table = words(draw(client, "?run=one&page=findings")["content"])
    for part in ("G1", "block1.lif", "0 to 100", "Too low.", "A paper"):
        assert part in table


def test_slow_rules_do_not_hold_up_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "slow", layers=2, steps=range(2))
    go = threading.Event()
    finding = Finding("G1", "error", "", None, (0, 1), 0.0, 0.0, 0.0, "", "Bad.", "A paper")

    def wait(_: Any) -> list[Finding]:
        go.wait(10)
        return [finding]

    monkeypatch.setattr(catalogue_module, "diagnose", wait)
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    client = client_of(tmp_path)
    first = draw(client, "?run=slow")
    assert "The rules are being checked" in words(first["verdict"])
    assert "Gradient coverage, step 1" in words(first["content"])
    assert "checking …" in words(draw(client, "?page=runs")["content"])
    assert first["tick"]["max_intervals"] == -1  # although the run itself has ended
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    for _ in range(100):
        last = draw(client, "?run=slow", beat=True, drawn=first["drawn"]["data"])
        if last["tick"]["max_intervals"] == 0:
            break
        time.sleep(0.05)
    assert "Not healthy since step 0: gradient coverage low. 1 error" in words(last["verdict"])
    assert "G1" in words(draw(client, "?page=runs")["content"])


def test_findings_that_arrive_while_a_page_is_drawn_are_drawn_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", layers=2, steps=range(2))
    go = threading.Event()
    finding = Finding("G1", "error", "", None, (0, 1), 0.0, 0.0, 0.0, "", "Bad.", "A paper")
    monkeypatch.setattr(catalogue_module, "diagnose", lambda _: [finding] if go.wait(10) else [])
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    draw_verdict = app_module._verdict

    def late(run: Snapshot) -> Any:
        line = draw_verdict(run)
        go.set()
        run._checked.wait(10)
        return line

    monkeypatch.setattr(app_module, "_verdict", late)
    client = client_of(tmp_path)
    first = draw(client, "?run=run")
    assert "The rules are being checked" in words(first["verdict"])
    assert first["tick"]["max_intervals"] == -1
    later = draw(client, "?run=run", beat=True, drawn=first["drawn"]["data"])
    assert "Not healthy since step 0: gradient coverage low. 1 error" in words(later["verdict"])
    assert later["tick"]["max_intervals"] == 0


def test_earlier_findings_stay_while_new_ones_are_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    go = threading.Event()
    go.set()

    def judge(run: Any) -> list[Finding]:
        last = int(run.table()["step"].max())
        go.wait(10)
        return [Finding("G1", "error", "", None, (0, last), 0.0, 0.0, 0.0, "", "Bad.", "A paper")]

    monkeypatch.setattr(catalogue_module, "diagnose", judge)
    monkeypatch.setattr(catalogue_module, "RESTING", 0.0)
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("live").findings[0].steps == (0, 0)
    go.clear()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    store.append("records", columns([row(5, "net", 1)]))
    run = catalogue.run("live")
    assert run.findings[0].steps == (0, 0)
    assert run.checking
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    run._due = time.monotonic() + 10
    assert run.findings[0].steps == (0, 5)
    assert not run.checking


def test_a_recorded_run_is_not_checked_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor belongs to the training: after a check there is a rest, and then another."""
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    checked: list[int] = []

    def judge(run: Any) -> list[Finding]:
        checked.append(int(run.table()["step"].max()))
        time.sleep(0.05)
        return []

    monkeypatch.setattr(catalogue_module, "diagnose", judge)
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("live").check()
    store.append("records", columns([row(5, "net", 1)]))
    assert not catalogue.run("live").check()  # resting: to be asked again
    assert checked == [0]
    until = time.monotonic() + 10
    while not catalogue.run("live").check() and time.monotonic() < until:
        time.sleep(0.05)
    assert checked == [0, 5]
    # A run that has ended is checked at once.
    store.append("records", columns([row(9, "net", 1)]))
    store.end("finished", steps=10)
    assert catalogue.run("live").check()
    assert checked == [0, 5, 9]


def test_failing_rules_leave_the_record_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", layers=2, steps=range(2))

    def fail(_: Any) -> list[Finding]:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(catalogue_module, "diagnose", fail)
    parts = draw(client_of(tmp_path), "?run=run")
    assert "could not be worked out: ZeroDivisionError('boom')" in words(parts["verdict"])
    assert "Gradient coverage, step 1" in words(parts["content"])


text = st.text(max_size=30)
VIEWS = st.builds(
    View,
    run=text,
    page=st.sampled_from(["", *PAGES]),
    layer=text,
    t=st.none() | st.integers(0, 10**6),
    step=st.none() | st.integers(0, 10**17),
    metric=st.sampled_from(list(METRICS)),
    mode=st.sampled_from(["", "train", "eval"]),
    show=st.sampled_from(["figures", "tables"]),
    theme=st.sampled_from(["light", "dark"]),
    other=text,
    align=st.sampled_from(["step", "loss"]),
    decay=st.floats(0, 1),
    fan_in=st.integers(0, 10**9),
    wiring=st.sampled_from(["feed-forward", "recurrent"]),
)


@settings(max_examples=100, deadline=None)
@given(VIEWS)
def test_an_address_restores_its_view(view: View) -> None:
    assert View.parse(view.search()) == view
    other = view.but(theme="dark" if view.theme == "light" else "light")
    assert View.parse(other.search()) != view


@settings(max_examples=100, deadline=None)
@given(st.none() | st.text(max_size=200))
def test_any_address_is_some_view(search: str | None) -> None:
    view = View.parse(search)
    assert view.metric in METRICS
    assert View.parse(view.search()) == view
