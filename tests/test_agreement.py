"""Several processes keep one budget: the same steps, and nobody waits for anybody."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

import spikescope
from spikescope.data.parts import part_paths, read_part
from spikescope.probes import agreement
from spikescope.probes.agreement import Agreement
from spikescope.probes.budget import Clock, Cost
from spikescope.probes.pace import Pace

STEP = 1.0
"""Seconds of a step without recording."""

STEPS = 100
"""Steps of the processes below."""


class Rank:
    """One of several processes, on one clock."""

    def __init__(self, store: Any, budget: float | None, price: float, every: int = 1) -> None:
        self.now = 0.0
        self.price = price
        self.step = 0
        self.recorded: list[int] = []
        self.cost = Cost(budget, Clock(lambda: self.now, lambda: self.now))
        agreed = None if store is None else Agreement("run", self.cost, lambda: store)
        self.pace = Pace(lambda step: step % every == 0, self.cost, agreed)

    def prepare(self) -> bool:
        self._records = self.pace.records(self.step)
        return self._records

    def finish(self, slowest: float) -> None:
        """End the step: where the others took longer, it has waited for them."""
        self.now += STEP + slowest
        if self._records:
            self.recorded.append(self.step)
            self.cost.add(self.price, self.price)
        self.pace.end_step(recorded=self._records)
        settle()
        self.step += 1


def settle() -> None:
    """Wait for what is told beside the training."""
    for thread in threading.enumerate():
        if thread.name == "spikescope-budget":
            thread.join(10.0)


def train(ranks: list[Rank], steps: int, seed: int = 0) -> float:
    """Train in step, whoever comes first; return by which share recording slowed it."""
    rng = random.Random(seed)
    for _ in range(steps):
        order = rng.sample(ranks, len(ranks))
        records = {rank: rank.prepare() for rank in order}
        slowest = max(rank.price * records[rank] for rank in ranks)
        for rank in order:
            rank.finish(slowest)
    return ranks[0].now / (steps * STEP) - 1.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("every", [1, 3])
def test_ranks_record_the_same_steps_and_the_slowest_keeps_the_budget(
    seed: int, every: int
) -> None:
    store = HashStore()
    ranks = [Rank(store, 0.05, price, every) for price in (0.01, 0.3, 0.02)]
    slowed = train(ranks, 600, seed)
    assert ranks[0].recorded == ranks[1].recorded == ranks[2].recorded
    assert 0.7 * 0.05 < slowed <= 0.05 + 0.3 / 600
    # Between two records who is slow can tell what the first one cost.
    assert all(b - a > 1 for a, b in itertools.pairwise(ranks[0].recorded))
    # Few questions: a key for each, and one for what is spent.
    assert store.num_keys() <= 3 * len(ranks[0].recorded) + 2
    # What each says of it is what it was: within the last record.
    for rank in ranks:
        assert rank.cost.share == pytest.approx(slowed, abs=2 * 0.3 / 600)
        assert rank.cost.recorded + rank.cost.skipped == 600 / every
        assert rank.cost.recorded == len(rank.recorded)


def test_each_by_itself_would_record_other_steps() -> None:
    ranks = [Rank(None, 0.05, price) for price in (0.01, 0.3)]
    slowed = train(ranks, 200)
    assert ranks[0].recorded != ranks[1].recorded
    assert slowed > 0.055  # each kept its own budget, and they waited for one another's records


def test_a_rank_that_is_far_behind_records_what_the_others_have() -> None:
    store = HashStore()
    fast, slow = Rank(store, 0.1, 0.3), Rank(store, 0.1, 0.3)
    for step in range(300):
        fast.prepare()
        fast.finish(0.3 * fast._records)
        if step >= 40:
            slow.prepare()
            slow.finish(0.3 * slow._records)
    assert len(slow.recorded) > 40
    assert slow.recorded == fast.recorded[: len(slow.recorded)]


def test_a_rank_that_dies_is_not_missed() -> None:
    store = HashStore()
    ranks = [Rank(store, 0.05, 0.2), Rank(store, 0.05, 0.2)]
    train(ranks, 100)
    before = list(ranks[1].recorded)
    began = time.monotonic()
    train(ranks[:1], 400)
    assert time.monotonic() - began < agreement.PATIENCE / 2
    assert ranks[0].recorded[: len(before)] == before
    assert len(ranks[0].recorded) > 3 * len(before)


def test_old_answers_are_removed() -> None:
    store = HashStore()
    cost = Cost(0.5)
    rank = Agreement("run", cost, lambda: store, tidies=True)
    for step in range(0, 2000, 2):
        assert rank.includes(step)
    assert store.num_keys() == agreement.KEPT + 1


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", 0.05)
    released = threading.Event()

    class Gone:
        def compare_set(self, *_: str) -> bytes:
            released.wait(10.0)
            return b"0"

    rank = Agreement("run", Cost(0.1), Gone)
    with pytest.raises(TimeoutError, match=r"has not answered for 0\.05 s"):
        rank.includes(0)
    rank.tell()
    released.set()
    settle()

    def refused() -> Any:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        Agreement("run", Cost(0.1), refused).includes(0)
    Agreement("run", Cost(0.1), refused).tell()  # nobody hears of that: the next question does
    settle()


# ---- processes

TRAINING = """
import json, os, signal, sys, time
import torch
import spikescope
from spikescope.probes.lif import LIF
from spikescope.probes.recorder import Recorder
from spikescope.probes import writer
from torch import nn

writer.PART_SECONDS = 0.6  # a part takes some ten milliseconds, which the budget has to pay

folder, port, rank, wrapped, slow, dies, steps = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 12), LIF(), nn.Linear(12, 3))
if wrapped:
    model = nn.parallel.DistributedDataParallel(model)
if rank == slow:
    finish = Recorder.finish
    def late(*args):
        time.sleep(0.05)
        finish(*args)
    Recorder.finish = late
optimizer = torch.optim.SGD(model.parameters(), 0.05)
# Who dies early must have recorded something by then, also where the first record takes long.
budget = 0.9 if dies >= 0 else 0.3
with spikescope.watch(model, f"{folder}/run", every=1, budget=budget) as probe:
    began = last = time.perf_counter()
    slowest = 0.0
    for step in range(20 * steps):
        # Whose store is gone notices when it asks the next time.
        if step >= steps and not (dies == 0 and probe.active):
            break
        now = time.perf_counter()
        slowest, last = max(slowest, now - last), now
        optimizer.zero_grad()
        loss = model(2.0 * torch.randn(4, 8, 6)).square().mean()
        loss.backward()
        optimizer.step()
        time.sleep(0.01)
        probe.step(loss=loss)
        if dies == rank and step == 20:
            time.sleep(1.0)  # what was recorded before has been flushed
            os.kill(os.getpid(), signal.SIGKILL)
    took = time.perf_counter() - began
    facts = {"active": probe.active, "took": took, "slowest": slowest, **probe.cost}
    print(json.dumps(facts), flush=True)
os._exit(0)  # a store that is gone is not said good-bye to
"""


def processes(
    folder: Path, *, wrapped: int = 1, slow: int = -1, dies: int = -1, steps: int = STEPS
) -> list[tuple[int, str, str]]:
    """Train in two processes; return exit status, output and errors of each."""
    script = folder / "training.py"
    script.write_text(TRAINING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)]
            + [str(number) for number in (port, rank, wrapped, slow, dies, steps)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=100) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(started, said, strict=True)]


def steps_of(folder: Path) -> list[int]:
    parts = part_paths(folder, "records")
    return sorted(
        {step for part in parts for step in read_part(part, ["step"])["step"].to_pylist()}
    )


def test_two_processes_one_of_them_slow(tmp_path: Path) -> None:
    ended = processes(tmp_path, slow=1)
    assert [status for status, _, _ in ended] == [0, 0], ended
    facts = [json.loads(out) for _, out, _ in ended]
    assert not any("SpikescopeWarning" in errors for _, _, errors in ended)
    run = tmp_path / "run"
    assert steps_of(run) == steps_of(run / "ranks" / "0001")
    assert spikescope.open_run(run).table(["samples"])["samples"].eq(16).all()
    for fact in facts:
        assert fact["active"]
        assert fact["recorded"] == len(steps_of(run))
        # A record takes more than 50 ms on the slow rank; 3 tenths of the time are for records.
        assert 2 <= fact["recorded"] <= 2 + fact["took"] * 0.3 / 0.05
        assert fact["skipped"] > 10 * fact["recorded"]
        assert fact["recorded"] + fact["skipped"] in (STEPS, STEPS + 1)
    # The fast rank knows what the slow one spends.
    assert facts[0]["seconds"] > 0.05 * (facts[0]["recorded"] - 2)


@pytest.mark.parametrize("dies", [0, 1])
def test_the_other_process_goes_on_when_one_dies(dies: int, tmp_path: Path) -> None:
    ended = processes(tmp_path, wrapped=0, dies=dies, steps=200)
    status, out, errors = ended[1 - dies]
    assert ended[dies][0] == -signal.SIGKILL
    assert status == 0, errors
    facts = json.loads(out)
    assert facts["slowest"] < agreement.PATIENCE + 2.0
    if dies == 1:
        assert facts["took"] < 200 * 0.02 + agreement.PATIENCE
        assert facts["active"]
        assert "SpikescopeWarning" not in errors
        assert max(steps_of(tmp_path / "run")) > 150
        assert spikescope.open_run(tmp_path / "run").state == "finished"
    else:  # the store was in the process that died
        assert not facts["active"]
        assert errors.count("SpikescopeWarning: recording stopped") == 1, errors
    first = steps_of(tmp_path / "run" / "ranks" / "0001")
    early = [step for step in steps_of(tmp_path / "run") if step <= 20]
    assert [step for step in first if step <= 20] == early
