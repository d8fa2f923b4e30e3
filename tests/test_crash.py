"""Whatever was flushed survives kill -9 at any instant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import columns, header, row

from spikescope.data.parts import part_paths
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

KILLS = 12
TIMESTEPS = 3

WRITER = """
import json, sys
from spikescope.data.store import RunStore
path, header, steps = json.load(sys.stdin)
store = RunStore(path, header)
print("ready", flush=True)
step = 0
while True:
    rows = steps[step % len(steps)]
    rows["step"] = [step] * len(rows["t"])
    store.append("records", rows)
    print(step, flush=True)  # what is said here has been flushed
    step += 1
"""

PERIOD = 5
ROW = row(0, "a", 1)


def step_columns(step: int) -> dict[str, list[Any]]:
    """Return the rows of a step; densities and means tell neighbouring steps apart."""
    mark = step % PERIOD
    rows = [
        ROW | {"step": step, "t": t, "u_mean": mark + t / 8, "density": [mark] * 256}
        for t in range(1, TIMESTEPS + 1)
    ]
    return columns(rows)


def expected(steps: int) -> list[list[float]]:
    return [
        [step, t, step % PERIOD + t / 8] for step in range(steps) for t in range(1, TIMESTEPS + 1)
    ]


def kill_after(path: Path, delay: float) -> int:
    """Kill a writing process a while after its start; return how many steps it had flushed."""
    command = [sys.executable, "-c", WRITER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump(
            [str(path), header(["a"]), [step_columns(k) for k in range(PERIOD)]], process.stdin
        )
        process.stdin.close()
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
        finally:
            process.kill()
        flushed = process.stdout.read().count("\n")
    assert process.returncode == -signal.SIGKILL
    return flushed


def test_everything_flushed_survives_a_kill_at_any_instant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seen = []
    for number in range(KILLS):
        path = tmp_path / f"run{number}"
        flushed = kill_after(path, delay=float(rng.uniform(0.0, 0.15)))
        run = open_run(path)
        table = run.table(["u_mean"])
        steps = len(table) // TIMESTEPS
        # What was said to be flushed is there; one more may have got its name unsaid.
        assert flushed <= steps <= flushed + 1
        assert table[["step", "t", "u_mean"]].to_numpy().tolist() == expected(steps)
        assert run.problems == []
        assert run.state == "broken off"
        if steps:
            counts = run.density("a").counts
            assert (counts == np.arange(steps)[:, None, None] % PERIOD).all()
        assert len(part_paths(path, "records")) == steps
        left = [file.name for file in path.iterdir() if file.name.startswith(".")]
        assert len(left) <= 1  # at most the temporary file of the part in hand
        seen.append(steps)
    assert max(seen) > 1, "no process got as far as writing"


def test_writing_under_the_final_name_would_show_torn_parts(tmp_path: Path) -> None:
    # The control: a part cut where a kill may cut it, without the rename, is a problem to read.
    store = RunStore(tmp_path / "run", header(["a"]))
    store.append("records", step_columns(0))
    store.append("records", step_columns(1))
    part = part_paths(store.path, "records")[1]
    os.truncate(part, part.stat().st_size // 2)
    run = open_run(store.path)
    assert len(run.table()) == TIMESTEPS
    assert len(run.problems) == 1


def test_a_run_that_was_killed_is_not_continued_but_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    kill_after(path, delay=0.05)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    again = RunStore(path, header(["a"]))
    assert again.path.name == "run-2"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
