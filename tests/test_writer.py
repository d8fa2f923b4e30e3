"""The writer never makes training wait, says what it lost, and writes the rest."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import header

from spikescope.analysis.surrogate import Surrogate
from spikescope.data.parts import part_paths
from spikescope.data.runs import Run, open_run
from spikescope.data.store import RunStore
from spikescope.probes import batch as batch_module
from spikescope.probes import writer as module
from spikescope.probes.accumulators import Block, backward_block, forward_block
from spikescope.probes.batch import Batch
from spikescope.probes.capture import Gradients
from spikescope.probes.writer import Writer

QUEUE_LIMIT = 48
SECONDS = 20.0
"""Longer than anything here takes; a test that needs it has failed."""


class Gate(RunStore):
    """A store whose disk answers only when it is let, and that can refuse."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, header(["a", "b"]))
        self.open = threading.Event()
        self.entered = threading.Event()
        self.failure: OSError | None = None
        self.open.set()

    def append(self, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
        self.entered.set()
        assert self.open.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        super().append(table, columns)


@pytest.fixture
def store(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "run")


@pytest.fixture
def writer(store: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(module, "QUEUE_LIMIT", QUEUE_LIMIT)
    before = set(threading.enumerate())
    writer = Writer(store)
    yield writer
    store.open.set()
    writer.close(SECONDS)
    assert set(threading.enumerate()) <= before, "a thread is left"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each batch as it comes."""
    monkeypatch.setattr(module, "PART_ROWS", 1)


def block(u: torch.Tensor) -> Block:
    spikes = (u >= 1.0).to(u.dtype)
    return forward_block(
        u,
        spikes,
        spikes,
        u,
        threshold=1.0,
        scale=1.0,
        surrogate=Surrogate(),
        fired_before=torch.zeros_like(u[0]),
        t=1,
    )


def batch(step: int, timesteps: int = 2, layer: str = "a") -> Batch:
    blocks = [("train", layer, 1, block(torch.rand(timesteps, 3, 4)))]
    return Batch(step, blocks, scalars=[(step, "loss", torch.tensor(0.5 * step))])


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.001)


def run_of(store: RunStore) -> Run:
    run = open_run(store.path)
    run.table()
    assert run.problems == []
    return run


# ---- what is written


def test_close_writes_everything(writer: Writer, store: Gate) -> None:
    for step in range(10):
        writer.put(batch(step))
    writer.put(Batch(10, events=[(10, "a", "note", "something happened")]))
    writer.close(SECONDS)
    assert (writer.error, writer.dropped) == (None, 0)
    run = run_of(store)
    assert run.table()[["step", "t"]].to_numpy().tolist() == [
        [step, t] for step in range(10) for t in (1, 2)
    ]
    assert run.scalars()["loss"].tolist() == [0.5 * step for step in range(10)]
    assert run.events().to_numpy().tolist() == [[10, "a", "note", "something happened"]]
    assert len(part_paths(store.path, "records")) == 1  # ten small steps are one part


def test_what_waits_is_written_before_the_end_too(
    writer: Writer, store: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.05)
    writer.put(batch(0))
    until(lambda: part_paths(store.path, "records"))
    assert len(run_of(store).table()) == 2


def test_many_rows_are_a_part_at_once(
    writer: Writer, store: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 8)  # a step here is 3 records and a scalar
    monkeypatch.setattr(module, "PART_SECONDS", 1e6)
    writer.put(batch(0, timesteps=3))
    until(lambda: writer._queue.empty())
    assert part_paths(store.path, "records") == []
    writer.put(batch(1, timesteps=3))
    until(lambda: part_paths(store.path, "records"))
    assert len(run_of(store).table()) == 6


def test_numbers_arrive_unchanged_and_what_was_not_seen_is_empty(
    writer: Writer, store: Gate
) -> None:
    seen = block(torch.rand(2, 3, 4))
    writer.put(Batch(4, [("eval", "b", 3, seen)]))
    writer.close(SECONDS)
    table = run_of(store).table(layer="b", mode="eval")
    assert table["t"].tolist() == [3, 4]
    for name, values in seen.items():
        if name != "density":
            assert table[name].tolist() == values.tolist(), name
    counts = run_of(store).density("b", mode="eval").counts
    assert np.array_equal(counts[0], seen["density"].numpy())
    assert table["grad_u_count"].tolist() == [0, 0]
    assert table["grad_u_square"].isna().all()


def test_blocks_of_different_length_merge_where_they_overlap(writer: Writer, store: Gate) -> None:
    long, short = torch.rand(4, 3, 5), 0.5 + torch.rand(2, 6, 5)
    single = torch.rand(1, 2, 5)
    blocks = [("train", "a", 1, block(long)), ("train", "a", 1, block(short))]
    blocks += [("train", "a", 3, block(single)), ("eval", "a", 1, block(single))]
    writer.put(Batch(0, blocks))
    writer.close(SECONDS)
    table = run_of(store).table(mode="train")
    assert table["t"].tolist() == [1, 2, 3, 4]
    at = [
        torch.cat([long[0], short[0]]),
        torch.cat([long[1], short[1]]),
        torch.cat([long[2], single[0]]),
        long[3],
    ]
    assert table["samples"].tolist() == [9, 9, 5, 3]
    assert table["spikes"].tolist() == [int((values >= 1).sum()) for values in at]
    for name, figure in (("u_mean", torch.mean), ("u_var", lambda v: v.var(correction=0))):
        # 15 float32 additions of numbers below 1.5.
        want = [figure(values.double()).item() for values in at]
        assert table[name].to_numpy() == pytest.approx(want, abs=15 * 1.5 * 1.2e-7)
        kept_apart = [figure(values.double()).item() for values in long]
        assert table[name].to_numpy() != pytest.approx(kept_apart, abs=15 * 1.5 * 1.2e-7)
    assert len(run_of(store).table(mode="eval")) == 1


def test_scalars_of_any_kind_become_numbers(writer: Writer, store: Gate) -> None:
    values = [
        torch.tensor(1.5),
        torch.tensor([2]),
        3.0,
        torch.tensor(float("nan")),
        torch.tensor(True),
    ]
    scalars = [(k, "loss", value) for k, value in enumerate(values)]
    writer.put(Batch(5, scalars=scalars))  # type: ignore[arg-type]
    writer.close(SECONDS)
    got = run_of(store).scalars()["loss"].tolist()
    assert got == pytest.approx([1.5, 2.0, 3.0, float("nan"), 1.0], nan_ok=True)


# ---- training never waits


def test_a_slow_disk_makes_nobody_wait_and_drops_are_counted(
    writer: Writer, store: Gate, at_once: None
) -> None:
    store.open.clear()
    writer.put(batch(0))
    assert store.entered.wait(SECONDS)  # the thread now hangs in the store
    more = 10
    ready = [batch(1 + step) for step in range(QUEUE_LIMIT + more)]
    begin = time.monotonic()
    for entry in ready:
        writer.put(entry)
    # All these calls while the disk stands still; waiting even once for it would take SECONDS.
    assert time.monotonic() - begin < SECONDS / 4
    assert writer.dropped == more
    assert writer.error is None
    store.open.set()
    writer.close(SECONDS)
    assert sorted(set(run_of(store).table()["step"])) == list(range(QUEUE_LIMIT + 1))


def test_a_disk_that_never_answers_is_an_error_at_the_end(
    writer: Writer, store: Gate, at_once: None
) -> None:
    store.open.clear()
    writer.put(batch(0))
    assert store.entered.wait(SECONDS)
    begin = time.monotonic()
    writer.close(timeout=0.05)
    assert time.monotonic() - begin < SECONDS / 4
    assert isinstance(writer.error, TimeoutError)


def test_a_full_queue_at_the_end_is_an_error(writer: Writer, store: Gate, at_once: None) -> None:
    store.open.clear()
    writer.put(batch(0))
    assert store.entered.wait(SECONDS)
    for step in range(QUEUE_LIMIT):
        writer.put(batch(step + 1))
    writer.close(timeout=0.05)
    assert isinstance(writer.error, TimeoutError)


# ---- failures


def test_a_failing_disk_sets_the_error_and_later_steps_do_not_raise(
    writer: Writer, store: Gate, at_once: None
) -> None:
    writer.put(batch(0))
    until(lambda: part_paths(store.path, "scalars"))
    store.failure = OSError(errno.ENOSPC, "No space left on device")
    writer.put(batch(1))
    until(lambda: writer.error)
    assert writer.error is store.failure
    for step in range(3 * QUEUE_LIMIT):
        writer.put(batch(step + 2))
    store.failure = None  # room again: the run still ends where it broke
    writer.close(SECONDS)
    assert isinstance(writer.error, OSError)
    assert sorted(set(run_of(store).table()["step"])) == [0]


def test_a_batch_that_makes_no_sense_is_an_error_of_the_writer_only(
    writer: Writer, store: Gate
) -> None:
    writer.put(batch(0))
    broken = batch(1)
    del broken.blocks[0][3]["samples"]
    writer.put(broken)
    until(lambda: writer.error)
    assert isinstance(writer.error, KeyError)
    writer.put(batch(2))
    writer.close(SECONDS)


# ---- notices


def sick(step: int, layer: str, **wrong: int) -> Batch:
    """Return a step whose second timestep counts what is wrong."""
    values = torch.rand(2, 3, 4)
    seen = block(values) | backward_block(Gradients(values, values, values, None))
    for name, count in wrong.items():
        seen[name] = torch.tensor([1, count - 1])
    return Batch(step, [("train", layer, 1, seen)])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nonfinite", "u is NaN or infinite at 5 elements"),
        ("grad_u_nonfinite", "dL/du is NaN or infinite at 5 elements"),
        ("mismatch", "5 spikes are not explained"),
    ],
)
def test_what_is_wrong_is_noticed_once_per_layer(
    kind: str, words: str, writer: Writer, store: Gate
) -> None:
    writer.put(sick(0, "a"))  # a sound step is not noticed
    for step in (1, 2):
        writer.put(sick(step, "a", **{kind: 5}))
        writer.put(sick(step, "b", **{kind: 5}))
    writer.close(SECONDS)
    notices = [writer.notices.get() for _ in range(writer.notices.qsize())]
    assert [notice[:3] for notice in notices] == [(1, "a", kind), (1, "b", kind)]
    for _, layer, _, text in notices:
        assert f"layer {layer!r}, step 1: " in text
        assert words in text
    assert run_of(store).events().to_numpy().tolist() == [list(notice) for notice in notices]


def test_each_kind_is_noticed_on_its_own(writer: Writer, store: Gate) -> None:
    writer.put(sick(3, "a", nonfinite=2, mismatch=2, near_mismatch=9))
    writer.close(SECONDS)
    kinds = [writer.notices.get()[2] for _ in range(writer.notices.qsize())]
    assert sorted(kinds) == ["mismatch", "nonfinite"]


# ---- the thread


def test_no_thread_is_left_after_close(store: Gate) -> None:
    before = set(threading.enumerate())
    writer = Writer(store)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon  # a training that ends without close is not held up
    writer.close(SECONDS)
    assert not thread.is_alive()
    writer.close(SECONDS)  # twice is harmless
    assert writer.error is None


# ---- from a device


class OnDevice:
    """What a tensor on a CUDA device is to the way out."""

    is_cuda = True

    def __init__(self, values: torch.Tensor, device: str) -> None:
        self.values, self.device = values, torch.device(device)
        self.dtype = values.dtype
        self.streams: list[Any] = []

    def record_stream(self, stream: Any) -> None:
        self.streams.append(stream)


def test_a_device_sends_one_copy_of_each_dtype_and_one_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[str, torch.dtype, int]] = []
    events: list[Any] = []

    def together(group: list[OnDevice], copy: Any) -> list[torch.Tensor]:
        assert copy is batch_module._pinned
        sent.append((str(group[0].device), group[0].dtype, len(group)))
        return [entry.values.clone() for entry in group]

    class Event:
        def record(self, stream: Any) -> None:
            events.append(stream)

    monkeypatch.setattr(batch_module, "together", together)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    whole, half = torch.arange(3), torch.rand(2, 2)
    given: list[Any] = [
        OnDevice(whole, "cuda:1"),
        half,  # on the host already
        OnDevice(half, "cuda:1"),
        OnDevice(whole + 1, "cuda:1"),
        OnDevice(whole + 2, "cuda:0"),
    ]
    arrived: list[Any] = []
    there = batch_module.to_host(given, arrived)
    assert [torch.equal(a, b) for a, b in zip(
        there, (whole, half, half, whole + 1, whole + 2), strict=True
    )] == 5 * [True]  # fmt: skip
    assert there[1] is half
    assert sent == [
        ("cuda:1", torch.int64, 2),
        ("cuda:1", torch.float32, 1),
        ("cuda:0", torch.int64, 1),
    ]
    # The model may lie on a device that is not the current one.
    assert events == ["stream of cuda:1", "stream of cuda:0"]
    assert len(arrived) == 2
    for entry in given[:1] + given[2:]:
        assert entry.streams == [f"stream of {entry.device}"]


def test_tensors_that_travel_as_one_arrive_as_they_were() -> None:
    given = [torch.tensor(7), torch.arange(6).view(2, 3), torch.zeros(0, 4, dtype=torch.int64)]
    given += [torch.tensor([5]).expand(3), torch.arange(12).view(3, 4).T]
    copied: list[int] = []

    def copy(values: torch.Tensor) -> torch.Tensor:
        copied.append(values.numel())
        return values.clone()

    there = batch_module.together(given, copy)
    assert copied == [1 + 6 + 0 + 3 + 12]
    for a, b in zip(there, given, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b)
