"""Addresses: what a right and a wrong one get, and what of them is restored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from dashboard_client import client_of, draw, words, write_runs
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_run

from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import overview
from spikescope.dashboard.view import PAGES, View


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("server") / "runs")


@pytest.fixture(scope="module")
def client(root: Path) -> FlaskClient:
    return client_of(root)


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


def test_switches_stay_while_only_the_view_changes(client: FlaskClient) -> None:
    first = draw(client, "?run=one")
    moved = draw(client, "?run=one&step=50&metric=rate", drawn=first["drawn"]["data"])
    assert "controls" not in moved
    assert "Firing rate, step 50" in words(moved["content"])
    other = draw(client, "?run=one&page=layer", drawn=first["drawn"]["data"])
    assert "controls" in other


def test_a_deleted_run_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "gone", layers=1, steps=range(1))
    client = client_of(tmp_path)
    assert "Gradient coverage" in words(draw(client, "?run=gone")["content"])
    shutil.rmtree(tmp_path / "gone")
    assert "There is no run named 'gone' here" in words(draw(client, "?run=gone")["content"])


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
