"""By how much a training with a budget becomes slower: a watched copy and one that is not, in turn.

Run with ``python tests/benchmarks/recorder_budget.py --out FILE``; rows are added to those that the
file holds, so that it can be run in pieces. Two copies of a network train in one process, some
steps of one and as many of the other, in changing order; the first record and everything in
``probe.step`` are on the watched copy's bill. While the other one trains, the meter's clocks stand
still (its steps are none of the watched training's) and the writer waits (it must not slow them).
The interval is of a bootstrap over the pairs of blocks, of those with as many records among
themselves: how many there are in all is no chance, the budget says it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorder_overhead import build, facts
from torch import Tensor, nn

import spikescope
from spikescope.probes import session, writer
from spikescope.probes.budget import Clock, Cost
from spikescope.probes.lif import LIF

TRAININGS = {"2 ms": 48, "5 ms": 128, "25 ms": 512, "conv": None}
"""Width of the layers of a small network, by the length of its step; the last is convolutional."""

LEVELS, BUDGETS = ("economy", "standard", "full"), (0.01, 0.02, 0.05)

BLOCK = 0.25
"""Seconds of a block, about."""


class Small(nn.Module):
    """Two hidden layers of LIF neurons."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), LIF(decay=0.5), nn.Linear(width, width), LIF(decay=0.5)
        )
        self.readout = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[T, N, 64]`` into logits ``[N, 10]``."""
        logits: Tensor = self.readout(self.layers(x)).mean(0)
        return logits


def copy_of(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and its inputs, the same at each call."""
    width = TRAININGS[name]
    if width is None:
        model, images = build("conv16")
        return model, images[:10]
    torch.manual_seed(0)
    return Small(width), torch.randn(8, 64, 64)


class Halting:
    """The clocks of a meter, and a gate for the writer: both stand still at times."""

    def __init__(self) -> None:
        self.clock = Clock(lambda: time.perf_counter() - self.away[0], self._work)
        self.away = [0.0, 0.0]
        self.open = threading.Event()
        self.open.set()
        self._main = threading.get_ident()

    def _work(self) -> float:
        return time.thread_time() - self.away[1]

    @contextmanager
    def halted(self) -> Any:
        self.open.clear()
        before = time.perf_counter(), time.thread_time()
        yield
        self.away[0] += time.perf_counter() - before[0]
        self.away[1] += time.thread_time() - before[1]
        self.open.set()

    @contextmanager
    def installed(self) -> Any:
        """Let a probe's meter and its writer go by these clocks."""
        take, write, meter = writer.Writer._take, writer.Writer._write, session.cost_on

        def later(act: Any) -> Any:
            def call(*args: Any) -> None:
                self.open.wait()
                act(*args)

            return call

        writer.Writer._take, writer.Writer._write = later(take), later(write)
        session.cost_on = lambda device, budget: Cost(budget, self.clock)
        try:
            yield
        finally:
            writer.Writer._take, writer.Writer._write = take, write
            session.cost_on = meter
            self.open.set()


def train(model: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """Do one step of a training."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss


def measure(name: str, settings: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    """Return by which factor a watched training takes longer.

    Args:
        name: which training.
        settings: those of ``watch``; None to watch nothing, which tells what this method sees
            where there is nothing to see.
        seconds: about as long as it trains in all.
    """
    copies = [copy_of(name) for _ in range(2)]
    count = copies[0][1].shape[0 if name == "conv" else 1]
    targets = torch.randint(0, 10, (count,))
    watched, other = (
        (model, torch.optim.Adam(model.parameters(), 1e-3), inputs, targets)
        for model, inputs in copies
    )
    for one in (watched, other):
        for _ in range(5):
            train(*one)
    before = time.perf_counter()
    for _ in range(10):
        train(*other)
    steps = max(1, round(BLOCK * 10 / (time.perf_counter() - before)))
    rng, halting = np.random.default_rng(0), Halting()

    def plain(one: Any) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            train(*one)
        return time.perf_counter() - begin

    def with_probe(probe: Any) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            probe.step(loss=train(*watched))
        return time.perf_counter() - begin

    pairs: list[tuple[float, float]] = []
    records = [0]
    end = time.perf_counter() + seconds
    with tempfile.TemporaryDirectory() as folder, halting.installed():
        if settings is None:
            while time.perf_counter() < end:
                pairs.append((plain(watched), plain(other)))
            said: dict[str, Any] = {}
        else:
            model = watched[0]
            with spikescope.watch(model, Path(folder) / "run", every=1, **settings) as probe:
                while time.perf_counter() < end:
                    first = bool(rng.integers(2))
                    took = with_probe(probe) if first else 0.0
                    with halting.halted():
                        alone = plain(other)
                    pairs.append((took if first else with_probe(probe), alone))
                    records.append(probe._session.pace.cost.recorded)
                said = probe.cost
    kinds = np.diff(records) if settings is not None else np.zeros(len(pairs))
    ratio, low, high = interval(np.array(pairs), kinds, rng)
    return {
        "training": name,
        **(settings or {"collect": None, "budget": None}),
        "step_ms": 1e3 * float(np.sum(pairs, 0)[1]) / (steps * len(pairs)),
        "slower": ratio - 1.0,
        "interval_95": [low - 1.0, high - 1.0],
        "said": said.get("spent"),
        "recorded": said.get("recorded"),
        "steps": steps * len(pairs),
        "pairs": len(pairs),
    }


def interval(
    pairs: np.ndarray, kinds: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the ratio of the sums of pairs, and its 95 % interval by a bootstrap.

    Args:
        pairs: seconds of the watched and the other copy, ``[pairs, 2]``.
        kinds: what kind of pair each is; pairs are drawn among those of their kind.
        rng: source of the draws.
    """
    sums = np.zeros((4000, 2))
    for kind in np.unique(kinds):
        some = pairs[kinds == kind]
        sums += some[rng.integers(0, len(some), (len(sums), len(some)))].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    whole = pairs.sum(0)
    return float(whole[0] / whole[1]), float(low), float(high)


@contextmanager
def load(wanted: bool) -> Any:
    """Keep another core busy meanwhile."""
    if not wanted:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    """Measure, and write a JSON file or add to it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=TRAININGS)
    parser.add_argument("--levels", nargs="+", default=LEVELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS)
    parser.add_argument("--control", action="store_true", help="watch nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loaded", action="store_true", help="keep another core busy")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    where = facts() | {"loaded": wanted.loaded}
    known = {}
    if wanted.out is not None and wanted.out.exists():
        known = {_key(row): row for row in json.loads(wanted.out.read_text())["rows"]}
    cases = [{"collect": level, "budget": b} for level in wanted.levels for b in wanted.budgets]
    for name in wanted.trainings:
        for settings in [None] if wanted.control else cases:
            with load(wanted.loaded):
                row = measure(name, settings, wanted.seconds) | where
            print(json.dumps(row), file=sys.stderr)
            known[_key(row)] = row
    text = json.dumps({"rows": [known[key] for key in sorted(known)]}, indent=2)
    if wanted.out is None:
        print(text)
    else:
        wanted.out.write_text(text + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("threads", "loaded", "training", "collect", "budget")
    return tuple(str(row[name]) for name in names)


if __name__ == "__main__":
    main()
