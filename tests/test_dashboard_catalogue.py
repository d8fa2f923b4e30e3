"""Runs on disk: read once per state, a few of them kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dashboard_client import client_of, draw, words, write_runs
from synthetic import columns, header, row

from spikescope.dashboard import catalogue as catalogue_module
from spikescope.dashboard.catalogue import Catalogue, Snapshot
from spikescope.data.runs import RunError, open_run
from spikescope.data.store import RunStore


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("server") / "runs")


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


def test_a_torn_part_is_said_until_it_is_gone(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["net"]))
    for step in range(3):
        store.append("records", columns([row(step, "net", 1)]))
    client = client_of(tmp_path)
    whole = draw(client, "?run=run")
    assert "cannot be read" not in words(whole["verdict"])
    parts = sorted(store.path.glob("records-*.parquet"))
    content = parts[1].read_bytes()
    parts[1].write_bytes(b"PAR1 torn")
    torn = "1 file cannot be read"
    for _ in range(2):
        assert f"{torn} and is left out." in words(draw(client, "?run=run")["verdict"])
        table = words(draw(client, "?page=runs")["content"])
        assert torn in table
        assert parts[1].name in table  # the whole sentence is on hover
        # What is written later does not hide it.
        store.append("scalars", {"step": [9], "name": ["loss"], "value": [1.0]})
    parts[1].write_bytes(content)
    assert "cannot be read" not in words(draw(client, "?run=run")["verdict"])
    assert torn not in words(draw(client, "?page=runs")["content"])
