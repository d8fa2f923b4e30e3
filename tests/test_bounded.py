"""Parts become few, a run stays within its bound, is resumed, has one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import columns, header, row
from torch import nn

import spikescope
from spikescope.data import process
from spikescope.data.compaction import TOGETHER, compact, halve, size_of
from spikescope.data.parts import TABLES, part_paths, read_part, write_part
from spikescope.data.runs import open_run
from spikescope.data.store import RunBusy, RunStore
from spikescope.probes.lif import LIF

ROW = row(0, "a", 1)


def step_rows(step: int, weight: int = 1) -> dict[str, list[Any]]:
    """Return the rows of a step: three timesteps whose numbers tell the step."""
    counts = np.zeros(256, dtype=np.int64)
    counts[step % 200] = 8 * weight
    rows = [
        ROW | {"step": step, "t": t, "count": 8 * weight, "u_mean": step + t / 8, "density": counts}
        for t in (1, 2, 3)
    ]
    return columns(rows)


def filled(path: Path, steps: int, **settings: Any) -> RunStore:
    store = RunStore(path, header(["a"]), **settings)
    for step in range(steps):
        store.append("records", step_rows(step))
        store.append("scalars", {"step": [step], "name": ["loss"], "value": [float(step)]})
    return store


# ---- compaction


def test_many_small_parts_become_few_and_nothing_is_lost(tmp_path: Path) -> None:
    steps = 3 * TOGETHER + 5
    store = filled(tmp_path / "run", steps)
    assert len(part_paths(store.path, "records")) == 3 + 5
    assert sorted(file.name for file in store.path.glob("records-*"))[:2] == [
        f"records-00000001-{TOGETHER:08d}.parquet",
        f"records-{TOGETHER + 1:08d}-{2 * TOGETHER:08d}.parquet",
    ]
    run = open_run(store.path)
    table = run.table(["u_mean"])
    assert table["u_mean"].tolist() == [s + t / 8 for s in range(steps) for t in (1, 2, 3)]
    assert run.scalars()["loss"].tolist() == list(range(steps))
    assert run.problems == []


def test_a_kill_between_the_new_part_and_the_old_ones_shows_no_row_twice(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 6)
    before = open_run(store.path).table()
    parts = part_paths(store.path, "records")
    kept = {path: path.read_bytes() for path in parts}
    assert compact(store.path, "records", together=2) == 6
    assert len(part_paths(store.path, "records")) == 1
    for path, content in kept.items():  # as if it had been killed before they went
        path.write_bytes(content)
        assert open_run(store.path).table().equals(before)
    assert len(list(store.path.glob("records-*"))) == 7
    # The control: under a name that does not say what it stands for, rows would come twice.
    (whole,) = part_paths(store.path, "records")
    whole.rename(store.path / "records-00000099.parquet")
    assert len(open_run(store.path).table()) == 2 * len(before)


def test_numbers_go_on_behind_what_was_compacted(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", TOGETHER)
    store.append("records", step_rows(TOGETHER))
    last = part_paths(store.path, "records")[-1]
    assert last.name == f"records-{TOGETHER + 1:08d}.parquet"


def test_a_torn_part_is_not_compacted_away(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 6)
    torn = part_paths(store.path, "records")[2]
    os.truncate(torn, 100)
    compact(store.path, "records", together=2)
    run = open_run(store.path)
    assert sorted(set(run.table()["step"])) == [0, 1, 3, 4, 5]
    assert len(run.problems) == 1
    assert torn.exists()


def test_a_part_that_goes_while_it_is_read_is_found_in_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spikescope.data import reading

    store = filled(tmp_path / "run", 6)
    before = open_run(store.path).table()
    calls = []

    def late(path: Path, names: Any = None) -> Any:
        calls.append(path.name)
        if len(calls) == 3:
            compact(store.path, "records", together=2)
        return read_part(path, names)

    monkeypatch.setattr(reading, "read_part", late)
    run = open_run(store.path)
    assert run.table().equals(before)
    assert run.problems == []
    assert calls[-1] == "records-00000001-00000006.parquet"


# ---- the bound


def test_a_run_stays_within_its_bound_and_the_newest_finest(tmp_path: Path) -> None:
    bound, steps = 60_000, 100
    store = RunStore(tmp_path / "run", header(["a"]), max_bytes=bound)
    largest = 0
    for step in range(steps):
        store.append("records", step_rows(step))
        largest = max(largest, size_of(store.path))
    assert largest <= bound
    assert store.merges > 0
    assert not store.full
    run = open_run(store.path)
    table = run.table(["count", "u_mean"])
    kept = sorted(set(table["step"]))
    assert kept[0] == 0
    assert kept[-1] == steps - 1
    # Nothing went: each record stands for the elements of all steps that it holds.
    assert table.groupby("t")["count"].sum().tolist() == [steps * 8] * 3
    gaps = np.diff(kept)
    assert gaps[-1] == 1
    assert (gaps[: len(gaps) // 2].mean()) > gaps[len(gaps) // 2 :].mean()
    for t, rows in table.groupby("t"):
        mean = (rows["u_mean"] * rows["count"]).sum() / rows["count"].sum()
        assert mean == pytest.approx(np.arange(steps).mean() + t / 8, rel=1e-12)
    counts = run.density("a").counts.sum((0, 1))
    want = np.zeros(256, dtype=int)
    want[:steps] = 3 * 8
    assert np.array_equal(counts, want)


def test_without_a_bound_it_grows(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 80)
    assert store.merges == 0
    assert len(set(open_run(store.path).table()["step"])) == 80


def test_a_bound_that_cannot_be_kept_is_said_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), LIF())
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="max_bytes") as warned,
        spikescope.watch(model, tmp_path / "run", every=1, max_bytes=100_000) as probe,
    ):
        probe._session.outlet._writer.store._appender._most = 10  # type: ignore[union-attr]
        for _ in range(4):
            model(torch.randn(3, 5, 4)).sum().backward()
            probe.step()
    assert sum("too small" in str(entry.message) for entry in warned) == 1
    assert len(set(open_run(tmp_path / "run").table()["step"])) >= 1


@pytest.mark.parametrize("table", ["maps", "joints", "scalars", "vitals", "records"])
def test_halving_keeps_every_count(table: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "step": [0, 10, 20, 30, 40],
        "mode": ["train"] * 5,
        "layer": ["a"] * 5,
        "t": [1] * 5,
        "shape": [[2, 2]] * 5,
        "chances": [3] * 5,
        "spikes": [[1, 0, 2, 3]] * 5,
        "counts": [[1, 2]] * 5,
        "name": ["loss"] * 5,
        "value": [1.0, 2.0, 3.0, 4.0, 5.0],
        "quantity": ["value_norm"] * 5,
    }
    if table == "records":
        values = columns([ROW | {"step": step} for step in values["step"]])
    path = tmp_path / f"{table}-00000001.parquet"
    write_part(path, table, {name: values[name] for name in TABLES[table].names})
    rows = halve(table, read_part(path))
    assert rows is not None
    assert rows["step"].to_pylist() == [0, 20, 40]
    if table == "maps":
        assert rows["spikes"].to_pylist() == [[2, 0, 4, 6], [2, 0, 4, 6], [1, 0, 2, 3]]
        assert rows["chances"].to_pylist() == [6, 6, 3]
    if table == "joints":
        assert rows["counts"].to_pylist() == [[2, 4], [2, 4], [1, 2]]
    if table == "records":
        assert rows["count"].to_pylist() == [2 * ROW["count"]] * 2 + [ROW["count"]]
    assert halve(table, rows.slice(0, 1)) is None


@pytest.mark.parametrize("table", ["scalars", "vitals"])
def test_what_comes_rarely_outlives_what_comes_often(table: str, tmp_path: Path) -> None:
    steps = [*range(40), 19, 39]
    values: dict[str, Any] = {
        "step": steps,
        "name": ["loss"] * 40 + ["accuracy"] * 2,  # at odd places among all steps
        "layer": ["a"] * 42,
        "t": [0] * 42,
        "quantity": ["value_norm"] * 42,
        "value": [float(step) for step in steps],
    }
    path = tmp_path / f"{table}-00000001.parquet"
    write_part(path, table, {name: values[name] for name in TABLES[table].names})
    rows = halve(table, read_part(path))
    kept = []
    while rows is not None:
        frame = rows.to_pandas()
        assert (frame["value"] == frame["step"]).all()
        kept.append(frame.groupby("name")["step"].apply(list).to_dict())
        rows = halve(table, rows)
    assert kept[0] == {"loss": list(range(0, 40, 2)), "accuracy": [19]}
    assert [len(entry["loss"]) for entry in kept] == [20, 10, 5, 3, 2, 1]
    assert all(entry["accuracy"] == [19] for entry in kept)


# ---- resuming


def watched(path: Any, steps: int, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), LIF())
    with spikescope.watch(model, path, every=2, **settings) as probe:
        for step in range(steps):
            model(torch.randn(3, 5, 4)).sum().backward()
            probe.step(loss=float(step))
    return probe


def test_a_run_goes_on_behind_its_last_step(tmp_path: Path) -> None:
    path = tmp_path / "run"
    watched(path, 5, resume=True)  # there is none yet: the same command serves the first start
    probe = watched(path, 4, resume=True)
    assert probe.path == path
    run = open_run(path)
    assert sorted(set(run.table()["step"])) == [0, 2, 4, 6, 8]
    assert run.scalars().index.tolist() == list(range(9))
    assert run.scalars()["loss"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert run.header["resumed"] == [5]
    assert (run.state, run.end["steps"]) == ("finished", 9)


def test_what_a_checkpoint_does_not_know_is_superseded(tmp_path: Path) -> None:
    path = tmp_path / "run"
    watched(path, 9)
    before = open_run(path).table()
    watched(path, 3, resume=4)
    run = open_run(path)
    assert sorted(set(run.table()["step"])) == [0, 2, 4, 6]
    assert run.table()[run.table()["step"] < 4].equals(before[before["step"] < 4])
    assert run.scalars()["loss"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert run.header["resumed"] == [4]
    assert run.problems == []


def test_what_a_kill_left_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 2)
    share = store.path / "ranks" / "0001"
    share.mkdir(parents=True)
    for folder in (store.path, share):
        (folder / ".records-00000003.parquet.99.tmp").write_bytes(b"half")
    store.end("finished", steps=2)
    RunStore(tmp_path / "run", header(["a"]), resume=True).end("finished", steps=2)
    assert not list(store.path.rglob("*.tmp"))
    assert open_run(store.path).table()["step"].nunique() == 2


def test_a_run_without_a_header_is_not_gone_on_with(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 2)
    store.end("finished", steps=2)
    (store.path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"is damaged: its run\.json cannot be read"):
        RunStore(tmp_path / "run", header(["a"]), resume=True)
    assert (store.path / "end.json").exists()


def test_without_resume_a_new_folder_is_taken(tmp_path: Path) -> None:
    watched(tmp_path / "run", 3)
    with pytest.warns(spikescope.SpikescopeWarning, match="exists and is kept"):
        probe = watched(tmp_path / "run", 3)
    assert probe.path == tmp_path / "run-2"


# ---- one writer


def test_two_writers_of_one_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        json.dump([str(path), header(["a"]), step_rows(0)], other.stdin, default=np.ndarray.tolist)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(RunBusy, match="is being written by another process"):
            RunStore(path, header(["a"]), resume=True)
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        # The probe writes beside it: the other one may be dead, on a host that cannot be asked.
        with pytest.warns(spikescope.SpikescopeWarning, match=r"is written to .*run-2'") as warned:
            assert watched(path, 3, resume=True).path == tmp_path / "run-2"
        assert len(warned) == 1
        assert open_run(tmp_path / "run-2").table(["count"])["step"].unique().tolist() == [2]
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert RunStore(path, header(["a"]), resume=True).first == 1


def test_two_probes_of_one_process_do_not_write_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (tmp_path / "a").mkdir()
    first = nn.Sequential(nn.Linear(4, 3), LIF())
    with spikescope.watch(first, path, every=1) as probe:
        first(torch.randn(3, 5, 4)).sum().backward()
        probe.step(loss=1.0)
        with pytest.warns(spikescope.SpikescopeWarning, match="another probe of this process"):
            beside = watched(tmp_path / "a" / ".." / "run", 3, resume=True)
        assert beside.path == tmp_path / "a" / ".." / "run-2"
        with pytest.warns(spikescope.SpikescopeWarning, match="exists and is kept"):
            assert watched(path, 1).path == tmp_path / "run-3"
    assert open_run(path).scalars()["loss"].tolist() == [1.0]
    assert watched(path, 1, resume=True).path == path  # it is free now
    assert open_run(path).scalars()["loss"].tolist() == [1.0, 0.0]


def test_of_many_that_go_on_with_a_run_at_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path, 1).end("failed")
    hear, told = os.pipe()
    start = tmp_path / "start"
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                while not start.exists():
                    pass
                try:
                    RunStore(path, header(["a"]), resume=True)
                    os.write(told, b"w")
                    signal.pause()  # it lives, and writes
                except RunBusy:
                    os.write(told, b".")
            finally:
                os._exit(0)
        children.append(child)
    start.touch()
    said = b"".join(os.read(hear, 1) for _ in children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert said.count(b"w") <= 1
    assert RunStore(path, header(["a"]), resume=True).first == 1


HOLD = """
import json, sys
from spikescope.data.store import RunStore
path, header, rows = json.loads(sys.stdin.readline())
RunStore(path, header).append("records", rows)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_number_that_was_given_out_again_is_another_process() -> None:
    me = process.this_process()
    assert process.is_alive(me) is True
    assert process.is_alive(me | {"started": me["started"] - 1}) is False
    assert process.is_alive(me | {"boot": "another"}) is False
    assert process.is_alive({"host": me["host"], "pid": me["pid"]}) is True  # an older run
    assert process.is_alive(me | {"host": "elsewhere"}) is None
    for pid in (None, "x", 2**40, 4_000_000):
        assert process.is_alive(me | {"pid": pid}) is False


def test_a_run_whose_process_number_was_given_out_again_is_broken_off(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", 1)
    assert open_run(store.path).state == "recording"
    path = store.path / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"started": content["started"] - 1}))
    assert open_run(store.path).state == "broken off"
