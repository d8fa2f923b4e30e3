"""A writer that is behind: fewer records, never a wait, nothing said twice, and back again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import spikescope
from spikescope.data.runs import Run
from spikescope.data.store import RunStore
from spikescope.probes import outlet, writer
from spikescope.probes.batch import Batch
from spikescope.probes.journal import MOST_SCALARS, Journal
from spikescope.probes.lif import LIF
from spikescope.probes.thinning import CALM, PATIENCE, Thinning

LIMIT = 5
SECONDS = 20.0


class Disk:
    """A disk that answers when it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.open.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()

    class Slow(RunStore):
        def append(self, table: str, columns: Any) -> None:
            disk.entered.set()
            assert disk.open.wait(SECONDS)
            super().append(table, columns)

    monkeypatch.setattr(outlet, "RunStore", Slow)
    monkeypatch.setattr(writer, "QUEUE_LIMIT", LIMIT)
    monkeypatch.setattr(writer, "PART_ROWS", 1)
    yield disk
    disk.open.set()


def run_of(path: Path) -> Run:
    run = spikescope.open_run(path)
    assert run.problems == []
    return run


def test_a_slow_disk_coarsens_the_record_and_the_run_says_how_much_is_missing(
    tmp_path: Path, disk: Disk
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), LIF())
    steps, waiting = 60, []
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="1 of 2 scheduled steps") as warned,
        spikescope.watch(model, tmp_path / "run", every=1) as probe,
    ):
        disk.open.clear()
        for step in range(steps):
            model(torch.randn(2, 3, 3)).sum().backward()
            probe.step(loss=float(step))
            if step == 0:
                assert disk.entered.wait(SECONDS)  # the thread hangs: the rest piles up
            waiting.append(probe._session.outlet.waiting)
        during = probe.cost
        disk.open.set()
    assert len(warned) == 1
    assert max(waiting) == LIMIT  # it does not grow
    run = run_of(tmp_path / "run")
    found = sorted(set(run.table()["step"]))
    assert found == list(range(1 + LIMIT))  # what was in its hands and what waited
    cost = run.end["cost"]
    # Steps 6, 8, 12, 16 and 32 were dropped: each time half as many are recorded.
    assert cost["dropped"] == run.end["dropped"] == during["dropped"] == 5
    assert cost["recorded"] - cost["dropped"] == len(found)
    assert cost["recorded"] + cost["left_out"] + cost["skipped"] == steps + 1  # one was begun
    events = run.events()
    said = events[events["kind"] == "slow writer"]
    assert said["step"].tolist() == [6, 8, 12, 16, 32]
    assert [text.partition("1 of ")[2].partition(" ")[0] for text in said["text"]] == [
        *("2", "4", "8", "16", "32")
    ]
    # Only statistics were dropped, no scalar.
    assert run.scalars()["loss"].tolist() == list(range(steps))


def test_a_writer_that_keeps_up_again_gets_every_step_again(tmp_path: Path, disk: Disk) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), LIF())
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="1 of 2 scheduled steps") as warned,
        spikescope.watch(model, tmp_path / "run", every=1) as probe,
    ):
        disk.open.clear()
        for step in range(100):
            model(torch.randn(2, 3, 3)).sum().backward()
            probe.step()
            if step == 0:
                assert disk.entered.wait(SECONDS)
            if probe.cost["dropped"] == 1:
                disk.open.set()
                session = probe._session
                for _ in range(10_000):
                    if not session.outlet.waiting:
                        break
                    threading.Event().wait(0.002)
    assert len(warned) == 1  # that all is well again is no warning
    run = run_of(tmp_path / "run")
    found = sorted(set(run.table()["step"]))
    cost = run.end["cost"]
    assert cost["dropped"] == 1
    # Step 6 is lost; then every second one, as often as its patience asks; then all.
    half = list(range(8, 8 + 2 * (2 * PATIENCE), 2))
    assert found == [*range(6), *half, *range(half[-1] + 1, 100)]
    assert cost["left_out"] == len(half)
    said = run.events()["text"].tolist()
    assert [text for text in said if "keeps up: 1 of 1 " in text] == said[-1:]


def test_thinning_waits_longer_after_each_loss() -> None:
    thinning = Thinning()
    asked = []
    for _ in range(3):
        thinning.lost()
        thinning.kept(CALM + 1)  # does not count as calm
        asked.append(next(k for k in range(1, 1000) if thinning.kept(CALM)))
        assert thinning.stretch == 1
    assert asked == [2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE]
    assert not any(thinning.kept(0) for _ in range(1000))  # it never records more than was asked
    assert thinning.stretch == 1
    assert thinning.dropped == 3


def test_one_step_too_many_in_the_queue_begins_the_count_again() -> None:
    thinning = Thinning()
    thinning.lost()
    for _ in range(2 * PATIENCE - 1):
        assert not thinning.kept(0)
    assert not thinning.kept(CALM + 1)
    assert [thinning.kept(0) for _ in range(2 * PATIENCE)].index(True) == 2 * PATIENCE - 1


def test_what_waits_for_a_writer_is_bounded_in_bytes_too(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(step: int, rows: int) -> Batch:
        columns = {"samples": torch.ones(rows, dtype=torch.int64)}
        columns["density"] = torch.zeros(rows, 256, dtype=torch.int64)  # 2056 bytes a row in all
        return Batch(step, [("train", "a", 1, columns)])

    monkeypatch.setattr(writer, "QUEUE_BYTES", 10_000)
    sink = writer.Writer(RunStore(tmp_path / "other", {}))
    sink.store = outlet.RunStore(tmp_path / "run", {})
    try:
        disk.open.clear()
        assert sink.put(batch(0, rows=9))  # more than the bound: alone it is taken
        assert disk.entered.wait(SECONDS)
        assert [sink.put(batch(step, rows=2)) for step in (1, 2, 3)] == [True, True, False]
        assert sink.put(Batch(3))  # one without statistics takes no room
        assert sink.dropped == 1
        disk.open.set()
    finally:
        sink.close(SECONDS)
    assert sink.error is None
    assert sorted(set(run_of(tmp_path / "run").table()["step"])) == [0, 1, 2]


def test_a_journal_keeps_scalars_of_fewer_steps_rather_than_ever_more() -> None:
    journal = Journal()
    for step in range(3 * MOST_SCALARS):
        journal.note(step, {"loss": float(step), "accuracy": 0.5})
        batch = journal.take(Batch(step))
        journal.give_back(batch)
        assert len(journal.scalars) <= MOST_SCALARS
    steps = sorted({step for step, _, _ in journal.scalars})
    assert steps[0] == 0
    assert steps[-1] == 3 * MOST_SCALARS - 1
    assert len(steps) > MOST_SCALARS / 5
    assert [name for step, name, _ in journal.scalars if step == 0] == ["loss", "accuracy"]


def test_a_journal_keeps_what_comes_rarely() -> None:
    journal = Journal()
    for step in range(2 * MOST_SCALARS):
        journal.note(step, {"loss": float(step)})
        if step % 1000 == 501:  # odd: not among the steps that are left when every other one goes
            journal.note(step, {"accuracy": 0.5})
        batch = journal.take(Batch(step))
        journal.give_back(batch)
    rare = [step for step, name, _ in journal.scalars if name == "accuracy"]
    assert len(rare) >= 2
    assert all(step % 1000 == 501 for step in rare)
