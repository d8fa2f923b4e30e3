"""Kill a writing process at random instants, and look at what is left.

A process that has everything loaded forks a child per kill; the child writes, compacts and merges
until it is killed, or goes on with a run that was killed before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import columns, header, row

from spikescope.data.runs import open_run

TIMESTEPS = 2
PERIOD = 5
ROW = row(0, "a", 1)

SPAWNER = """
import json, os, random, signal, sys, time
from spikescope.data import appending
from spikescope.data.store import RunStore
appending.TOGETHER = 4  # compacts often
header, steps = json.loads(sys.stdin.readline())

def write(path, resume, most, told):
    store = RunStore(path, header, resume=resume, max_bytes=most)
    os.write(told, b"%d\\n" % store.first)
    step = store.first
    while True:
        rows = steps[step % len(steps)]
        rows["step"] = [step] * len(rows["t"])
        store.append("records", rows)
        os.write(told, b"%d\\n" % (step + 1))  # what is said here has been flushed
        step += 1

for line in sys.stdin:
    path, resume, most, delay = json.loads(line)
    hear, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        try:
            write(path, resume, most, told)
        finally:
            os._exit(3)
    os.close(told)
    with os.fdopen(hear) as heard:
        first = heard.readline()
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        said = [first, *heard.read().splitlines()]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print(json.dumps([killed, int(said[-1] or -1)]), flush=True)
"""


@dataclass
class Kill:
    """What one kill left.

    Args:
        flushed: steps that were said to be on disk.
        steps: steps that can be read.
        problems: what could not be read.
        exact: whether what can be read is what was written, every count once.
    """

    flushed: int
    steps: int
    problems: list[str]
    exact: bool


def step_columns(step: int) -> dict[str, list[Any]]:
    """Return the rows of a step; densities tell neighbouring steps apart."""
    mark = step % PERIOD
    rows = [
        ROW | {"step": step, "t": t, "density": [mark + 1] * 256} for t in range(1, TIMESTEPS + 1)
    ]
    return columns(rows)


def fuzz(folder: Path, kills: int, seed: int = 0, longest: float = 0.08) -> list[Kill]:
    """Kill a writer again and again: of five in a row all but the first go on with one run."""
    rng = np.random.default_rng(seed)
    pipe = subprocess.PIPE
    out = []
    with subprocess.Popen([sys.executable, "-c", SPAWNER], stdin=pipe, stdout=pipe, text=True) as p:
        assert p.stdin is not None
        assert p.stdout is not None
        first = [header(["a"]), [step_columns(k) for k in range(PERIOD)]]
        p.stdin.write(json.dumps(first, default=lambda value: value.tolist()) + "\n")
        for number in range(kills):
            path = folder / f"run{number // 5}"
            most = 100_000 if number // 5 % 2 else None
            wish = [str(path), bool(number % 5), most, float(rng.uniform(0.0, longest))]
            p.stdin.write(json.dumps(wish) + "\n")
            p.stdin.flush()
            killed, flushed = json.loads(p.stdout.readline())
            assert killed, "the writer ended by itself"
            out.append(look(path, flushed))
        p.stdin.close()
    return out


def look(path: Path, flushed: int) -> Kill:
    """Read what is left of a run."""
    run = open_run(path)
    table = run.table(["count"])
    whole = table.groupby("t")["count"].sum() // ROW["count"]
    steps = int(whole.iloc[0]) if len(whole) else 0
    marks = sum(k % PERIOD + 1 for k in range(steps))
    counts = run.density("a").counts
    exact = (
        whole.tolist() in ([], [steps] * TIMESTEPS)
        and not table.duplicated(["step", "t"]).any()
        and (not steps or (counts.sum(0) == marks).all())
        and run.state == "broken off"
    )
    return Kill(flushed, steps, run.problems, bool(exact))
