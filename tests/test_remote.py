"""A run lives on any filesystem: written, read, resumed, by one process or by several."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from synthetic import header
from test_bounded import step_rows, watched
from torch.distributed import HashStore

import spikescope
from spikescope.data import remote
from spikescope.data.compaction import TOGETHER
from spikescope.data.parts import write_json
from spikescope.data.runs import RunError, open_run
from spikescope.data.store import RunBusy, RunStore
from spikescope.probes import ranks


@pytest.fixture
def address() -> Any:
    files = fsspec.filesystem("memory")
    yield "memory://bucket/runs/a"
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def test_a_run_in_an_object_store(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REFRESH_SECONDS", 0.0)
    probe = watched(address, 5)
    assert probe.path == address
    run = open_run(address)
    assert (run.state, run.name) == ("finished", "a")
    assert sorted(set(run.table()["step"])) == [0, 2, 4]
    assert run.scalars()["loss"].tolist() == [0, 1, 2, 3, 4]
    with pytest.warns(spikescope.SpikescopeWarning, match="exists and is kept"):
        assert watched(address, 1).path == f"{address}-2"
    watched(address, 3, resume=True)
    assert sorted(set(run.table()["step"])) == [0, 2, 4, 6]  # the open run sees it
    assert open_run(address).header["resumed"] == [5]


def test_a_remote_reader_sees_no_row_twice_and_misses_none(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REFRESH_SECONDS", 0.0)
    store = RunStore(address, header(["a"]))
    run = open_run(address)
    for step in range(TOGETHER + 2):
        store.append("records", step_rows(step))
        if step % 8 == 0 or step >= TOGETHER - 2:
            assert sorted(run.table()["step"]) == [s for s in range(step + 1) for _ in range(3)]
    names = fsspec.filesystem("memory").find("/bucket")
    assert len([name for name in names if "records-" in name]) == 3
    assert not [name for name in names if name.endswith(".tmp")]


def test_a_store_that_refuses_switches_the_probe_off(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "pipe_file", refuse)
    with pytest.warns(spikescope.SpikescopeWarning, match="Access Denied"):
        assert not watched(address, 3).active


@pytest.mark.parametrize("wrong", ["memory://bucket/none", "nosuchprotocol://a/b"])
def test_an_address_without_a_run_is_named(wrong: str) -> None:
    with pytest.raises(RunError, match=wrong):
        open_run(wrong)


def test_a_local_address_works_like_a_path(tmp_path: Path) -> None:
    watched(f"file://{tmp_path}/run", 3)
    assert len(open_run(f"file://{tmp_path}/run").table()) == 6
    assert len(open_run(tmp_path / "run").table()) == 6


# ---- several ranks


def filed(address: str) -> list[str]:
    """Return the names of the files of a run."""
    start = address.removeprefix("memory:/")
    return sorted(name[len(start) :] for name in fsspec.filesystem("memory").find(start))


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> HashStore:
    """Return the store in which rank 0 leaves the run's address."""
    store = HashStore()
    monkeypatch.setattr(ranks, "_store", lambda: store)
    return store


def test_a_rank_writes_its_share_beside_the_others(
    address: str, meeting: HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REFRESH_SECONDS", 0.0)
    first = RunStore(address, header(["a"]))
    share = ranks.RankStore("key", 1, None, 0)
    ranks.tell("key", first.address)
    run = open_run(address)
    for step in range(TOGETHER + 2):
        first.append("records", step_rows(step))
        share.append("records", step_rows(step, weight=3))
        share.append("scalars", {"step": [step], "name": ["loss"], "value": [1.0]})
        if step in (0, TOGETHER - 2, TOGETHER - 1, TOGETHER + 1):
            table = run.table(["count"])  # between two parts, and where 32 have become one
            assert table["count"].tolist() == [32] * 3 * (step + 1)
    numbers = [f"-{1:08d}-{TOGETHER:08d}", f"-{TOGETHER + 1:08d}", f"-{TOGETHER + 2:08d}"]
    parts = [f"records{number}.parquet" for number in numbers]
    assert filed(address) == [f"/ranks/0001/{name}" for name in parts] + sorted(
        f"/{name}" for name in [*parts, "run.json"]
    )
    # A restart: rank 0 takes back what it keeps of both, and both go on behind it.
    first.end("failed")
    again = RunStore(address, header(["a"]), resume=10)
    more = ranks.RankStore("again", 1, None, 10)
    ranks.tell("again", again.address)
    again.append("records", step_rows(10))
    more.append("records", step_rows(10, weight=3))
    assert run.table(["count"])["step"].tolist() == [s for s in range(11) for _ in range(3)]
    assert run.table(["count"])["count"].tolist() == [32] * 33
    # Its numbers go on behind those that it had: nothing is written over.
    assert f"/ranks/0001/records-{TOGETHER + 3:08d}.parquet" in filed(address)


def test_a_rank_whose_store_refuses_says_so(address: str, meeting: HashStore) -> None:
    share = ranks.RankStore("key", 1, None, 0)
    ranks.tell("key", "nosuchprotocol://bucket/run")
    with pytest.raises(ValueError, match="nosuchprotocol"):
        share.append("records", step_rows(0))


# ---- other hosts


def age(address: str, seconds: float) -> None:
    """Make a run look as if nothing had been written to it for a while."""
    for name in fsspec.filesystem("memory").find(address.removeprefix("memory:/")):
        file = fsspec.filesystem("memory").store[name]
        file.created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)


def test_a_run_of_another_host_is_taken_over_once_it_is_silent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REFRESH_SECONDS", 0.0)
    store = RunStore(address, header(["a"]))
    store.append("records", step_rows(0))
    assert open_run(address).state == "recording"
    write_json(store.path / "run.json", store.header | {"host": "elsewhere"})
    store._push()
    del store
    assert open_run(address).state == "recording"
    with pytest.raises(RunBusy):
        RunStore(address, header(["a"]), resume=True)
    age(address, 2000.0)  # the machine was taken away
    run = open_run(address)
    assert run.state == "broken off"
    assert time.time() - run.last_written > 1900
    again = RunStore(address, header(["a"]), resume=True)
    assert again.first == 1
    assert open_run(address).state == "recording"
    again.end("finished")
    assert run.state == "finished"  # a run that is open learns of it


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({"LastModified": datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)}, 86400.0),
        ({"mtime": 12.5, "created": 3.0}, 12.5),
        ({"updated": "1970-01-01T00:01:00+00:00"}, 60.0),
        ({"updated": "yesterday"}, None),
        ({"size": 3}, None),
    ],
)
def test_each_filesystem_says_in_its_own_way_when_a_file_was_written(
    facts: dict[str, Any], seconds: float | None
) -> None:
    assert remote._changed(facts) == seconds
