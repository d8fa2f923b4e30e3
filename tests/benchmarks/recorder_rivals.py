"""What recording the same content costs with other tools: time, memory, disk, in one run.

Run with ``python tests/benchmarks/recorder_rivals.py --out FILE``; ``--rivals``, ``--contents``
and ``--parts`` choose, and what a file holds already of the others is kept. Steps take turns: a
plain one, one that spikescope records, a plain one, one that the rival records. What a recorder
costs is the processor time of a step above that of the plain step before it, and that of its own
threads.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from recorder_overhead import facts
from rivals import CONTENTS, QUICK, RIVALS, Size, build, rival_on

import spikescope

PARTS = ("time", "memory")
GOAL = 10.0
SETTLE = 3.0
"""Seconds after which the threads have written what they hold."""


class Steps:
    """Training steps of one network."""

    def __init__(self, rival: str, size: Size) -> None:
        self.built = build(rival, size)
        self.images = torch.rand(size.batch, 1, size.pixels, size.pixels)
        self.targets = torch.randint(0, 10, (size.batch,))
        self.optimizer = torch.optim.SGD(self.built.net.parameters(), 1e-3)

    def train(self) -> torch.Tensor:
        """Make a step and return its loss."""
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.built.forward(self.images), self.targets)
        loss.backward()
        self.optimizer.step()
        return loss


def processor_time(threads: Any) -> float:
    """Return the seconds that threads have worked."""
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads]
    return sum(time.clock_gettime(clock) for clock in clocks)


def paired(rival: str, content: str, size: Size, pairs: int, folder: Path) -> dict[str, Any]:
    """Return what both recorders cost on one network, per recorded step."""
    steps = Steps(rival, size)
    rival_recorder = rival_on(rival, steps.built, folder / "rival", content)
    before = set(threading.enumerate())
    seconds: list[list[float]] = [[], [], [], []]
    with spikescope.watch(
        steps.built.net, folder / "run", lambda k: k % 4 == 1, collect=CONTENTS[content]
    ) as probe:
        own = set(threading.enumerate()) - before
        for k in range(4 * (pairs + 1)):
            assert probe.recording == (k % 4 == 1)
            start = time.thread_time()
            if k % 4 == 3:
                rival_recorder.arm()
            loss = steps.train()
            if k % 4 == 3:
                rival_recorder.finish(k)
            probe.step(loss=loss)
            seconds[k % 4].append(time.thread_time() - start)
            if k == 3:  # the first round warms up
                seconds = [[], [], [], []]
                spent = processor_time(own), processor_time(rival_recorder.threads)
        time.sleep(0.0 if size is QUICK else SETTLE)
        behind = [
            (processor_time(threads) - old) / pairs
            for threads, old in zip((own, rival_recorder.threads), spent, strict=True)
        ]
        rival_recorder.close()
    extra = []
    for place, threads in ((1, behind[0]), (3, behind[1])):
        neighbours = zip(seconds[place], seconds[place - 1], strict=True)
        extra.append([recorded - plain + threads for recorded, plain in neighbours])
    plain_s = statistics.median(seconds[0] + seconds[2])
    ratio = statistics.median(extra[1]) / statistics.median(extra[0])
    return {
        "pairs": pairs,
        "plain_s": plain_s,
        "level": CONTENTS[content],
        "own": _summary(extra[0], plain_s, behind[0]),
        "rival": _summary(extra[1], plain_s, behind[1]),
        "times_cheaper": ratio,
    }


def _summary(extra: list[float], plain: float, behind: float) -> dict[str, Any]:
    middle = statistics.median(extra)
    return {
        "extra_s": middle,
        "quartiles_s": statistics.quantiles(extra, n=4)[::2],
        "of_it_in_threads_s": behind,
        "step_over_plain": 1.0 + middle / plain,
    }


def alone(rival: str, kind: str, content: str, size: Size, records: int, folder: Path) -> None:
    """Record every step with one recorder, in a process of its own; print what it took."""
    steps = Steps(rival, size)
    spikescope.watch.__module__  # noqa: B018 - it is imported in every one of these processes
    other = None if kind != "rival" else rival_on(rival, steps.built, folder / "run", content)
    probe = None
    if kind == "own":
        probe = spikescope.watch(
            steps.built.net, folder / "run", every=1, collect=CONTENTS[content]
        )
        probe.__enter__()
    for k in range(records):
        if other is not None:
            other.arm()
        loss = steps.train()
        if other is not None:
            other.finish(k)
        if probe is not None:
            probe.step(loss=loss)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    if probe is not None:
        probe.__exit__(None, None, None)
    if other is not None:
        other.close()
    files = folder.rglob("*") if folder.exists() else ()
    disk = sum(file.stat().st_size for file in files if file.is_file())
    print(json.dumps({"peak_bytes": peak, "disk_bytes": disk}))


def in_a_process(rival: str, kind: str, content: str, quick: bool, records: int) -> dict[str, int]:
    """Run :func:`alone` and return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--alone", rival, kind, content, str(records), folder]
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])], capture_output=True, text=True, check=True
        )
    out: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return out


def memory(rival: str, content: str, quick: bool, records: int) -> dict[str, Any]:
    """Return what each recorder takes of memory above a plain training, and of the disk."""
    plain = in_a_process(rival, "plain", content, quick, records)
    out: dict[str, Any] = {"records": records, "plain_peak_bytes": plain["peak_bytes"]}
    for kind in ("own", "rival"):
        found = in_a_process(rival, kind, content, quick, records)
        out[kind] = {
            "peak_above_plain_bytes": found["peak_bytes"] - plain["peak_bytes"],
            "disk_bytes_per_record": found["disk_bytes"] // records,
        }
    if rival != "tensorboard" and content == "same":
        short, long = (
            in_a_process(rival, "rival", "references", quick, n)["peak_bytes"]
            for n in (records, 2 * records)
        )
        # What the monitors keep if nobody clears them: every tensor with its graph.
        out["monitors_uncleared_bytes_per_record"] = (long - short) // records
    return out


def versions(rival: str) -> dict[str, str]:
    """Return the versions of what was compared."""
    names = {"numpy", "tensorboard" if rival == "tensorboard" else rival}
    names |= {"spikingjelly"} if rival == "tensorboard" else set()
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def row(
    wanted: argparse.Namespace, rival: str, content: str, old: dict[str, Any]
) -> dict[str, Any]:
    """Measure one rival at one content; a part that is not wanted stays as it was."""
    size = QUICK if wanted.quick else Size()
    out = {"rival": rival, "content": content, "size": size._asdict()}
    parts = {name: old[name] for name in PARTS if name in old}
    where = {**facts(), "versions": versions(rival)}
    if "time" in wanted.parts:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts["time"] = where | paired(rival, content, size, wanted.pairs, Path(folder))
    if "memory" in wanted.parts:
        parts["memory"] = where | memory(rival, content, wanted.quick, wanted.records)
    return out | parts


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--records", type=int, default=3)
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=RIVALS)
    parser.add_argument("--contents", nargs="+", default=list(CONTENTS), choices=list(CONTENTS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="a tiny network: whether it runs")
    parser.add_argument("--alone", nargs=5, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    if wanted.alone:
        rival, kind, content, records, folder = wanted.alone
        size = QUICK if wanted.quick else Size()
        alone(rival, kind, content, size, int(records), Path(folder))
        return
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if wanted.out is not None and wanted.out.exists():
        for old in json.loads(wanted.out.read_text())["rows"]:
            rows[old["rival"], old["content"]] = old
    for key in itertools.product(wanted.rivals, wanted.contents):
        rows[key] = row(wanted, *key, rows.get(key, {}))
        print(*key, json.dumps(rows[key].get("time")), file=sys.stderr)
    text = json.dumps({"goal_times_cheaper": GOAL, "rows": list(rows.values())}, indent=2)
    if wanted.out is None:
        print(text)
    else:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
