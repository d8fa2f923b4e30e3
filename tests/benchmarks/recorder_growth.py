"""Ten thousand recorded steps: memory, queue, disk, reading time; are they flat and bounded?

Run with ``python tests/benchmarks/recorder_growth.py --out FILE``. Every step is recorded, the
inputs change, and the run's bound is so small that neighbouring records are merged many times.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from recorder_overhead import facts
from scipy import stats
from torch import nn

import spikescope
from spikescope.data.parts import part_paths, times_merged
from spikescope.probes.lif import LIF
from spikescope.probes.writer import Writer

SAMPLES, TIMESTEPS, UNITS = 8, 4, 32
LOOKS = 40


def resident() -> int:
    """Return the bytes of memory that this process needs now.

    What is free inside the allocators goes back to the system first: how much of it they keep is
    theirs, and differs from moment to moment.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pa.default_memory_pool().release_unused()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def tensor_bytes() -> int:
    """Return the bytes of all tensors that are alive."""
    kinds = (torch.Tensor, torch.nn.Parameter)  # a compiler's stand-ins have no storage
    alive = [entry for entry in gc.get_objects() if type(entry) in kinds]
    storages = {entry.untyped_storage().data_ptr(): entry.untyped_storage() for entry in alive}
    return sum(storage.nbytes() for storage in storages.values())


def size_of(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of the files of a folder."""
    sizes = []
    for file in folder.iterdir():
        try:
            sizes.append(file.stat().st_size)
        except FileNotFoundError:  # it has become part of another one
            continue
    return sum(sizes), len(sizes)


def slope(looks: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return how a figure grows per 1,000 steps in the second half, with its 95 % interval."""
    late = looks[len(looks) // 2 :]
    steps, values = np.array([[look["step"], look[name]] for look in late], dtype=float).T
    fit = stats.linregress(steps / 1e3, values)
    reach = float(stats.t.ppf(0.975, len(late) - 2) * fit.stderr)
    return {
        "bytes_per_1000_steps": float(fit.slope),
        "interval": [float(fit.slope - reach), float(fit.slope + reach)],
        "range_bytes": float(values.max() - values.min()),
    }


def grow(folder: Path, steps: int, bound: int) -> dict[str, Any]:
    """Record every step of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, UNITS), LIF(), nn.Linear(UNITS, 16), LIF())
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    looks: list[dict[str, Any]] = []
    queued: list[int] = []
    put = Writer.put

    def counted(self: Writer, batch: Any) -> bool:
        queued.append(self.waiting)
        return put(self, batch)

    Writer.put = counted  # type: ignore[method-assign]
    begin, processor = time.perf_counter(), time.process_time()
    try:
        with spikescope.watch(model, folder / "run", every=1, max_bytes=bound) as probe:
            for step in range(steps):
                inputs = torch.randn(TIMESTEPS, SAMPLES, 8)
                loss = model(inputs).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                probe.step(loss=loss)
                if (step + 1) % max(1, steps // LOOKS) == 0:
                    size, files = size_of(folder / "run")
                    looks.append(
                        {
                            "step": step + 1,
                            "memory": resident(),
                            "tensors": tensor_bytes(),
                            "queue": max(queued[-steps // LOOKS :], default=0),
                            "disk": size,
                            "files": files,
                        }
                    )
            seconds = time.perf_counter() - begin, time.process_time() - processor
    finally:
        Writer.put = put  # type: ignore[method-assign]
    return {
        "steps": steps,
        "max_bytes": bound,
        "wall_s": seconds[0],
        "processor_s": seconds[1],
        "memory": slope(looks, "memory"),
        "tensors": slope(looks, "tensors"),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "longest_queue": max(queued),
        "largest_disk": max(look["disk"] for look in looks),
        **reading(folder / "run", steps),
        "over_time": looks,
    }


def reading(folder: Path, steps: int) -> dict[str, Any]:
    """Return what the run holds at its end, and how long it takes to read that."""
    begin, processor = time.perf_counter(), time.process_time()
    run = spikescope.open_run(folder)
    table = run.table()
    counts = run.density("1").counts
    losses = run.scalars()
    seconds = time.perf_counter() - begin, time.process_time() - processor
    kept = np.unique(table["step"])
    gaps = np.diff(kept)
    each = table[table["layer"] == "1"].groupby("t")["count"].sum()
    merged = [times_merged(path) for path in part_paths(folder, "records")]
    elements = steps * SAMPLES * UNITS
    return {
        "reading_wall_s": seconds[0],
        "reading_processor_s": seconds[1],
        "records_kept": len(kept),
        "scalars_kept": len(losses),
        "cost": run.end["cost"],
        "dropped": run.end["dropped"],
        "every_element_is_in_the_record": bool((each == elements).all()),
        "every_element_is_in_the_histograms": int(counts.sum()) == TIMESTEPS * elements,
        "times_merged_oldest_to_newest": merged,
        "longest_gap_by_quarter": [int(part.max(initial=0)) for part in np.array_split(gaps, 4)],
        "newest_gap": int(gaps[-1]),
    }


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--bound", type=int, default=2_000_000)
    parser.add_argument("--quick", action="store_true", help="few steps: whether it runs")
    wanted = parser.parse_args()
    steps, bound = (160, 250_000) if wanted.quick else (wanted.steps, wanted.bound)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        result = {**facts(), **grow(Path(folder), steps, bound)}
    text = json.dumps(result, indent=2)
    print(text)
    if wanted.out is not None:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
