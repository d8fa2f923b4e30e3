"""What recording costs on a GPU: a spiking ResNet-19 at CIFAR shapes.

Run with ``python tests/benchmarks/recorder_gpu.py --out FILE``; ``--device cpu --quick`` only
shows that it runs. It needs torch, triton and what the recorder needs (numpy, pandas, pyarrow,
scipy).

Per precision and T: a recorded step over its plain neighbour, with the device idle before and
after each (on a GPU by CUDA events and by the host's clock); blocks of 50 steps in which nobody
waits for the device, as a training runs them: without a probe, with one that records nothing, on
the default schedule, and every step; peak memory; the recorder's bytes per second against a copy
on the device in the same run. On a GPU every measured step runs under
``torch.cuda.set_sync_debug_mode("error")``: whatever waits for the device inside it ends the
recording, which is an error here. The mode does not see every wait; what it misses shows in the
blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recorder_overhead import facts
from torch import Tensor, nn

import spikescope
from spikescope.probes import accumulators
from spikescope.probes.lif import LIF
from spikescope.probes.models.catalogue import build_network

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
GOALS = {
    "recorded_over_plain": 1.10,
    "default_schedule_over_plain": 1.01,
    "unrecorded_over_plain": 1.005,
    "copy_over_recorder_bytes_per_s": 3.0,
}
EVERY = 50
"""The default schedule, and the steps of a block."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        batch: samples.
        pixels: height and width of an image.
        settings: of the network.
        pairs: pairs of neighbouring steps.
        blocks: blocks of each kind.
        block: steps of a block.
        copied: bytes of the copy on the device.
    """

    batch: int = 128
    pixels: int = 32
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    pairs: int = 20
    blocks: int = 5
    block: int = EVERY
    copied: int = 1 << 30


QUICK = Size(4, 8, {"widths": (4, 8, 8), "blocks": (1, 1, 1), "hidden": 8}, 2, 2, 3, 1 << 20)


class Device:
    """A device, its clock and what can be asked of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cuda = name == "cuda"

    def wait(self) -> None:
        """Let the device finish."""
        if self.cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def forbids_waiting(self) -> Iterator[None]:
        """Make an error of whatever waits for the device."""
        if not self.cuda:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def timed(self, work: Any) -> tuple[float, float]:
        """Return the seconds that work took on the host, and between two marks on the device.

        The device is idle before; afterwards the host waits for it, so that the first number is
        what a training that waits at each step would see. An event has a time only once the work
        before it is done, so both are read after the host has waited.
        """
        self.wait()
        marks = None
        if self.cuda:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
        start = time.perf_counter()
        with self.forbids_waiting():
            work()
        if marks is not None:
            marks[1].record()
        self.wait()
        host = time.perf_counter() - start
        return host, host if marks is None else marks[0].elapsed_time(marks[1]) / 1e3

    def peak(self, work: Any) -> int | None:
        """Return the most bytes that were allocated on the device meanwhile."""
        self.wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        if not self.cuda:
            return None
        return int(torch.cuda.max_memory_allocated())

    def allocated(self) -> int | None:
        """Return the bytes that tensors hold on the device now."""
        gc.collect()
        return int(torch.cuda.memory_allocated()) if self.cuda else None


class Training:
    """Steps of one network on random images, without a wait for the device."""

    def __init__(self, device: Device, precision: str, timesteps: int, size: Size) -> None:
        torch.manual_seed(0)
        shape = (3, size.pixels, size.pixels)
        net = build_network("resnet19", shape, 10, timesteps=timesteps, **size.settings)
        self.net = net.to(device.name)
        self.dtype, self.device = PRECISIONS[precision], device
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=0.9)
        self.images = torch.randn(size.batch, *shape, device=device.name)
        self.targets = torch.randint(0, 10, (size.batch,), device=device.name)

    def step(self, probe: Any = None) -> None:
        """Make a step."""
        self.optimizer.zero_grad(set_to_none=True)
        on = self.dtype is not None
        with torch.autocast(self.device.name, dtype=self.dtype or torch.bfloat16, enabled=on):
            loss = nn.functional.cross_entropy(self.net(self.images), self.targets)
        loss.backward()
        self.optimizer.step()
        if probe is not None:
            probe.step(loss=loss)

    def bytes_to_read(self) -> int:
        """Return the bytes of input, spikes and the gradients at both, of all spiking layers."""
        found: list[int] = []

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            for tensor in (args[0], output):  # the same image at each timestep lies there once
                size = tensor.numel() * tensor.element_size()
                found.append(min(size, tensor.untyped_storage().nbytes()))

        layers = [module for module in self.net.modules() if isinstance(module, LIF)]
        handles = [layer.register_forward_hook(hook) for layer in layers]
        self.step()
        for handle in handles:
            handle.remove()
        return 2 * sum(found)


@contextlib.contextmanager
def routes_counted() -> Iterator[Counter[str]]:
    """Count which routes made the statistics."""
    before, counts = accumulators.ROUTES, Counter[str]()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            block = function(*args)
            counts[name] += block is not None
            return block

        return call

    accumulators.ROUTES = tuple(
        dataclasses.replace(
            route,
            forward=counted(f"{route.name} forward", route.forward),
            backward=counted(f"{route.name} backward", route.backward),
        )
        for route in before
    )
    try:
        yield counts
    finally:
        accumulators.ROUTES = before


def in_pairs(training: Training, size: Size, folder: Path) -> dict[str, Any]:
    """Return what a recorded step costs over its neighbour, alone on the device."""
    device = training.device
    rows: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with (
        routes_counted() as routes,
        # In turn: neither neighbour is always the first.
        spikescope.watch(training.net, folder / "pairs", lambda k: k % 4 in (1, 2)) as probe,
    ):
        for _ in range(8):  # kernels are compiled and chosen in the first of them
            training.step(probe)
        routes.clear()
        held = device.allocated()
        for _ in range(2 * size.pairs):
            recorded = probe.recording
            rows[recorded].append(device.timed(lambda: training.step(probe)))
        still = device.allocated()
        _check(probe)
        peaks = {}
        for _ in range(4):
            kind = "recorded" if probe.recording else "plain"
            peaks[kind] = device.peak(lambda: training.step(probe))
    out: dict[str, Any] = {"pairs": size.pairs, "routes": dict(routes)}
    for place, clock in enumerate(("host", "device")):
        plain, recorded = ([row[place] for row in rows[kind]] for kind in (False, True))
        ratios = [a / b for a, b in zip(recorded, plain, strict=True)]
        out[clock] = {
            "plain_s": statistics.median(plain),
            "recorded_s": statistics.median(recorded),
            "recorded_over_plain": statistics.median(ratios),
            "quartiles": statistics.quantiles(ratios, n=4)[::2],
        }
    out["memory"] = {
        "peak_bytes": peaks,
        "held_before_bytes": held,
        "held_after_bytes": still,
        "held_is_constant": None if held is None else held == still,
    }
    return out


def in_blocks(training: Training, size: Size, folder: Path) -> dict[str, Any]:
    """Return what blocks of steps take if nobody waits for the device between them."""
    schedules: dict[str, Any] = {
        "plain": None,
        "unrecorded": lambda k: False,
        "default_schedule": lambda k: k % size.block == 0,  # one of each block is recorded
        "recorded": lambda k: True,
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in schedules}
    order = list(schedules)
    for block in range(size.blocks):
        for kind in order if block % 2 == 0 else order[::-1]:
            if schedules[kind] is None:
                seconds[kind].append(_block(training, size, None))
                continue
            path = folder / f"{kind}-{block}"
            with spikescope.watch(training.net, path, schedules[kind]) as probe:
                seconds[kind].append(_block(training, size, probe))
                _check(probe)
    out: dict[str, Any] = {"steps_of_a_block": size.block, "blocks": size.blocks}
    for kind, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["plain"], strict=True)]
        out[kind] = {
            "step_s": statistics.median(times) / size.block,
            "over_plain": statistics.median(ratios),
            "quartiles": statistics.quantiles(ratios, n=4)[::2],
        }
    return out


def _block(training: Training, size: Size, probe: Any) -> float:
    def steps() -> None:
        for _ in range(size.block):
            training.step(probe)

    return training.device.timed(steps)[1]


def _check(probe: Any) -> None:
    if not probe.active:
        raise RuntimeError("the probe switched itself off; its warning says why")
    if probe.cost["dropped"] or probe.cost["left_out"]:
        warnings.warn(f"the writer did not keep up: {probe.cost}", stacklevel=2)


def copied_per_second(device: Device, size: int) -> float:
    """Return the bytes per second that a copy on the device reads and writes, the best of ten."""
    source = torch.zeros(size, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    return 2 * size / min(device.timed(lambda: target.copy_(source))[1] for _ in range(10))


def measure(device: Device, precision: str, timesteps: int, size: Size) -> dict[str, Any]:
    """Measure one precision and number of timesteps."""
    training = Training(device, precision, timesteps, size)
    for _ in range(3):
        training.step()
    with tempfile.TemporaryDirectory() as folder:
        pairs = in_pairs(training, size, Path(folder))
        blocks = in_blocks(training, size, Path(folder))
    alone, flowing = pairs["device"], blocks["recorded"]["step_s"] - blocks["plain"]["step_s"]
    needed, copy = training.bytes_to_read(), copied_per_second(device, size.copied)
    rates = {
        "bytes_to_read": needed,
        "copy_bytes_per_s": copy,
        "limit_s": needed / copy,
        "extra_s": {
            "alone": alone["recorded_s"] - alone["plain_s"],
            "flowing": flowing,
        },
    }
    rates["recorder_bytes_per_s"] = {
        kind: needed / extra if extra > 0 else None for kind, extra in rates["extra_s"].items()
    }
    return {
        "precision": precision,
        "timesteps": timesteps,
        "batch": size.batch,
        "alone": pairs,
        "flowing": blocks,
        "bytes": rates,
        "figures": {
            "recorded_over_plain": max(
                alone["recorded_over_plain"], blocks["recorded"]["over_plain"]
            ),
            "default_schedule_over_plain": blocks["default_schedule"]["over_plain"],
            "unrecorded_over_plain": blocks["unrecorded"]["over_plain"],
            "copy_over_recorder_bytes_per_s": flowing * copy / needed,
        },
    }


def missing(device: Device, quick: bool, rows: list[dict[str, Any]]) -> list[str]:
    """Return what did not run, a sentence each."""
    out = []
    if not device.cuda:
        out.append("no GPU: times are the host's, and say nothing about the goals")
        out.append("no CUDA events, no sync_debug_mode, no device memory, no kernel")
    if quick:
        out.append("not the shapes of the goals: a tiny network and batch")
    for row in rows:
        routes = row["alone"]["routes"]
        if device.cuda and any(not name.startswith("kernel") for name in routes):
            out.append(f"{row['precision']}, T = {row['timesteps']}: not all by kernels: {routes}")
    return out


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: whether it runs")
    parser.add_argument("--timesteps", nargs="+", type=int, default=[4, 8])
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=["bf16", "fp32"]
    )
    wanted = parser.parse_args()
    if wanted.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --quick shows that it runs")
    device, size = Device(wanted.device), QUICK if wanted.quick else Size()
    where = facts()
    if device.cuda:
        where |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        torch.backends.cudnn.benchmark = True
    rows: list[dict[str, Any]] = []
    failed = []
    for precision in wanted.precisions:
        for timesteps in wanted.timesteps:
            try:
                rows.append(measure(device, precision, timesteps, size))
            except RuntimeError as error:  # the other cases are worth having
                failed.append(f"{precision}, T = {timesteps}: {error}")
                print(failed[-1], file=sys.stderr)
            else:
                print(json.dumps(rows[-1]["figures"]), file=sys.stderr)
            gc.collect()
            if device.cuda:
                torch.cuda.empty_cache()
    out = {
        **where,
        "device": device.name,
        "quick": wanted.quick,
        "goals": GOALS,
        "did_not_run": [*missing(device, wanted.quick, rows), *failed],
        "rows": rows,
    }
    if device.cuda and not wanted.quick:
        out["goals_met"] = {
            name: [row["figures"][name] <= goal for row in rows] for name, goal in GOALS.items()
        }
    text = json.dumps(out, indent=2)
    if wanted.out is None:
        print(text)
    else:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
