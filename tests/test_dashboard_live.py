"""Ticks of a live run: only what is new is sent, in few bytes, and nothing piles up."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import no_update
from dashboard_client import LOCAL, client_of, draw, post, words
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import columns, header, row, write_run

from spikescope.dashboard import live
from spikescope.dashboard.live import Memory, Sent, changes, patch, record
from spikescope.data.store import RunStore

TICK_BYTES = 20_000
"""What a tick may move at 40 traces."""


def apply(before: Any, operations: list[dict[str, Any]]) -> Any:
    """Carry out a Patch as the browser does."""
    value = copy.deepcopy(before)
    for each in operations:
        *way, last = each["location"] or [None]
        place = value
        for part in way:
            place = place[part]
        if each["operation"] == "Assign":
            place[last] = each["params"]["value"]
        elif each["operation"] == "Delete":
            del place[last]
        elif each["operation"] == "Extend":
            (place if last is None else place[last]).extend(each["params"]["value"])
        else:
            raise AssertionError(each["operation"])
    return value


def turned(before: Any, now: Any) -> Any:
    made = patch(before, now)
    if made is no_update:
        return before
    if hasattr(made, "to_plotly_json"):
        return apply(before, made.to_plotly_json()["operations"])
    return made


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(json_values, json_values)
def test_a_patch_turns_the_old_into_the_new(before: Any, now: Any) -> None:
    assert turned(before, now) == now


def test_a_longer_line_is_extended() -> None:
    before = {"data": [{"x": [1, 2, 3], "y": [0.1, 0.2, 0.3]}], "layout": {"title": "a"}}
    now = copy.deepcopy(before)
    now["data"][0]["x"].append(4)
    now["data"][0]["y"].append(0.4)
    operations = patch(before, now).to_plotly_json()["operations"]
    assert [each["operation"] for each in operations] == ["Extend", "Extend"]
    assert [each["params"]["value"] for each in operations] == [[4], [0.4]]


def test_forty_traces_take_few_bytes() -> None:
    line = {"x": list(range(1000)), "y": np.random.default_rng(0).normal(size=1000).tolist()}
    before = {"data": [copy.deepcopy(line) for _ in range(40)]}
    now = copy.deepcopy(before)
    for trace in now["data"]:
        trace["x"].append(1000)
        trace["y"].append(0.123456789)
    sent = len(json.dumps(patch(before, now).to_plotly_json()))
    assert sent <= TICK_BYTES
    assert len(json.dumps(now)) > 20 * sent  # negative control: all of it is far more


def page(leaf: Any, rest: Any) -> Sent:
    graph = {"props": {"id": {"type": "graph", "index": "a"}, "figure": leaf}, "type": "Graph"}
    return record([graph, rest], {"steps": [1]})


def test_a_page_that_is_another_is_drawn_anew() -> None:
    first = page({"data": []}, "text")
    assert changes(first, page({"data": [1]}, "text")) is not None
    assert changes(first, page({"data": []}, "other")) is None
    assert changes(first, page({"data": []}, "text")) == {}


def test_only_a_few_pages_are_remembered() -> None:
    memory = Memory()
    for number in range(live.PAGES_KEPT + 5):
        memory.put(str(number), Sent(str(number), {}, {}))
    assert memory.get("0") is None
    assert memory.get(str(live.PAGES_KEPT + 4)) is not None


class Watcher:
    """A browser that follows a run: it keeps what the page is told to keep."""

    def __init__(self, client: FlaskClient, search: str) -> None:
        self.client, self.search = client, search
        first = draw(client, search)
        self.drawn = first["drawn"]["data"]

    def tick(self) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Return what main parts and what leaves changed, and the bytes of the answer."""
        answer = post(self.client, self.search, beat=True, drawn=self.drawn)
        if answer.status_code == 204:
            return {}, {}, 0
        content = answer.get_json()
        parts = content["response"]
        if "drawn" in parts:
            self.drawn = parts["drawn"]["data"]
        return parts, content.get("sideUpdate", {}), len(answer.data)


def grow(store: RunStore, step: int, layers: int, timesteps: int, scalars: int = 1) -> None:
    rows = [
        row(step, f"block{k}.lif", t, mean=0.1 + 0.001 * step)
        for k in range(layers)
        for t in range(1, timesteps + 1)
    ]
    store.append("records", columns(rows))
    names = ["loss", *(f"metric {k}" for k in range(scalars - 1))]
    values = [1 / (step + 1 + k) for k in range(scalars)]
    store.append("scalars", {"step": [step] * scalars, "name": names, "value": values})


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    from spikescope.dashboard import catalogue

    monkeypatch.setattr(catalogue, "diagnose", lambda run: [])


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("name", ["overview", "layer", "flow"])
def test_a_tick_moves_only_what_is_new(tmp_path: Path, name: str) -> None:
    store = RunStore(tmp_path / "live", header([f"block{k}.lif" for k in range(5)]))
    for step in range(30):
        grow(store, step, 5, 8, scalars=4)
    client = client_of(tmp_path)
    whole = len(post(client, f"?run=live&page={name}").data)
    watcher = Watcher(client, f"?run=live&page={name}")
    grow(store, 30, 5, 8, scalars=4)
    parts, leaves, size = watcher.tick()
    assert "content" not in parts
    assert "controls" not in parts
    assert any("graph" in component for component in leaves)
    if name == "overview":
        assert size <= TICK_BYTES
        assert "step 30" in words(leaves)
        assert "customdata" not in words(leaves)  # the names of the layers stay
    assert size < whole
    # Negative control: without its memory the server sends all of it.
    watcher.drawn = {**watcher.drawn, "seen": None, "key": "forgotten"}
    parts, _, full = watcher.tick()
    assert "content" in parts
    assert full > size


@pytest.mark.usefixtures("still")
def test_ticks_of_a_deep_network_send_the_steps_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["block0.lif"]))
    grow(store, 0, 1, 1)
    for step in range(1, 300):
        store.append("records", columns([row(step, "block0.lif", 1)]))
    client = client_of(tmp_path)
    watcher = Watcher(client, "?run=live")
    grow(store, 300, 1, 1)
    parts, leaves, _ = watcher.tick()
    operations = parts["defaults"]["data"]["operations"]
    assert {"operation": "Extend", "location": ["steps"], "params": {"value": [300]}} in operations
    slider = next(v for k, v in leaves.items() if '"key":"step"' in k.replace(" ", ""))
    assert slider["max"] == 300
    assert slider["value"] == 300


@pytest.mark.usefixtures("still")
def test_memory_is_flat_over_many_ticks(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["block0.lif", "block1.lif"]))
    grow(store, 0, 2, 2)
    client = client_of(tmp_path)
    watcher = Watcher(client, "?run=live")

    def drive(first: int, last: int) -> None:
        for step in range(first, last):
            grow(store, step, 2, 2)
            assert watcher.tick()[2] > 0

    drive(1, 30)
    tracemalloc.start()
    drive(30, 40)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    drive(40, 80)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # 40 more records of 4 rows with 64 columns of 8 bytes are held, twice at most; each of the
    # remembered pages has 40 steps and losses more, of some hundred bytes each.
    assert grown < 40 * 4 * 64 * 8 * 2 + live.PAGES_KEPT * 40 * 500 + 500_000


@pytest.mark.usefixtures("still")
def test_not_yet_not_recorded_and_ended_are_told_apart(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net", "late"]))
    client = client_of(tmp_path)
    assert "Not yet: the first record is still to come" in words(draw(client, "?run=live"))
    store.append("records", columns([row(0, "net", 1)]))
    text = words(draw(client, "?run=live&show=tables"))
    assert "not yet" in text
    assert "Not recorded: watch(model, collect='full')" in words(
        draw(client, "?run=live&page=layer")
    )
    store.end("finished", steps=1)
    parts = draw(client, "?run=live&show=tables")
    assert "not yet" not in words(parts)
    assert "not recorded" in words(parts)
    assert parts["tick"]["max_intervals"] == 0
    assert "finished" in words(parts["crumbs"])
    RunStore(tmp_path / "bare", header(["net"])).end("finished", steps=0)
    assert "This run is finished and holds no record" in words(draw(client, "?run=bare"))


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


def test_lines_that_grow_are_plain_lists(tmp_path: Path) -> None:
    """Typed arrays lose their history when they are extended."""
    write_run(tmp_path / "run", layers=3)
    client = client_of(tmp_path)
    for name in ("overview", "layer", "drift", "flow"):
        text = words(draw(client, f"?run=run&page={name}")["content"])
        assert '"type": "scatter"' in text
        assert "bdata" not in text
    assert "bdata" not in words(draw(client, "?page=choose")["content"])


def test_no_graph_takes_a_webgl_context_or_uploads(tmp_path: Path) -> None:
    write_run(tmp_path / "run", layers=3)
    client = client_of(tmp_path)
    for name in ("overview", "layer", "drift", "flow"):
        text = words(draw(client, f"?run=run&page={name}")["content"])
        assert "scattergl" not in text
        assert "heatmapgl" not in text
        assert text.count('"showSendToCloud": false') == text.count('"type": "Graph"') > 0


def test_a_slow_answer_is_not_overtaken_by_the_next_tick(tmp_path: Path) -> None:
    """The clock stands still while an answer is awaited: without it a page starves."""
    write_run(tmp_path / "run", layers=1)
    entries = client_of(tmp_path).get("/_dash-dependencies", headers=LOCAL).get_json()
    entry = next(item for item in entries if "content.children" in item["output"])
    assert "tick.disabled" in json.dumps(entry["running"])
