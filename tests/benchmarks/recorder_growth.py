"""Ten thousand steps on the schedule: memory, disk, reading time.

Run with ``python tests/benchmarks/recorder_growth.py --out FILE``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from recorder_overhead import facts
from torch import nn

import spikescope
from spikescope.probes.lif import LIF

BOUND = 20_000_000


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def size_of(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of the files of a folder."""
    sizes = [file.stat().st_size for file in folder.iterdir()]
    return sum(sizes), len(sizes)


def grow(folder: Path, steps: int) -> dict[str, Any]:
    """Record every step of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), LIF(), nn.Linear(32, 16), LIF())
    inputs = torch.randn(4, 8, 8)
    seen = []
    start = time.process_time()
    with spikescope.watch(model, folder / "run", every=1, max_bytes=BOUND) as probe:
        for step in range(steps):
            loss = model(inputs).mean()
            loss.backward()
            model.zero_grad()
            probe.step(loss=loss)
            if (step + 1) % (steps // 10) == 0:
                size, files = size_of(folder / "run")
                seen.append({"step": step + 1, "memory": resident(), "disk": size, "files": files})
    seconds = time.process_time() - start
    run = spikescope.open_run(folder / "run")
    start = time.process_time()
    table = run.table()
    reading = time.process_time() - start
    whole = table[table["layer"] == "1"].groupby("t")["count"].sum()
    return {
        "steps": steps,
        "max_bytes": BOUND,
        "processor_s": seconds,
        "read_table_s": reading,
        "records_kept": len(set(table["step"])),
        "dropped": run.end["dropped"],
        "elements_kept": whole.tolist(),
        "elements_recorded": (run.end["cost"]["recorded"] - 1 - run.end["dropped"]) * 8 * 32,
        "over_time": seen,
    }


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {**facts(), **grow(Path(folder), wanted.steps)}
    text = json.dumps(result, indent=2)
    print(text)
    if wanted.out is not None:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
