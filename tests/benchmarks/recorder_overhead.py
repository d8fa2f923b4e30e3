"""What recording costs: steps with and without it, in pairs, in one run.

Run with ``python tests/benchmarks/recorder_overhead.py --out FILE``. A step of the conv SNN has six
spiking layers, T = 8, 28 x 28 pixels; the recurrent net has one layer of 256 units, T = 50.
Processor time is taken, so that a busy machine disturbs less, of pairs of neighbouring steps.
``--only`` measures some of the rows; those that the file holds already are kept, and each says
when it was measured. ``limit`` is what a record of conv16 takes at least: its four tensors per
layer are read once, and the operators of a summary run without any of our code around them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spikescope
from spikescope.probes.lif import LIF
from spikescope.probes.models.block import SpikingBlock

NETWORKS = ("conv16", "conv32", "recurrent")
LEVELS = ("economy", "standard", "full")


class ConvNet(nn.Module):
    """Six blocks of convolution, batch norm and LIF on 28 x 28 pixels."""

    def __init__(self, channels: int, timesteps: int = 8) -> None:
        super().__init__()
        c, self.timesteps = channels, timesteps
        self.blocks = nn.Sequential(
            SpikingBlock(1, c),
            SpikingBlock(c, c),
            SpikingBlock(c, 2 * c, stride=2),
            SpikingBlock(2 * c, 2 * c),
            SpikingBlock(2 * c, 4 * c, stride=2),
            SpikingBlock(4 * c, 4 * c),
        )
        self.readout = nn.Linear(4 * c * 49, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``[N, 1, 28, 28]`` into logits ``[N, 10]``."""
        x = self.blocks(images.expand(self.timesteps, *images.shape))
        logits: Tensor = self.readout(x.flatten(2)).mean(0)
        return logits


class RecurrentNet(nn.Module):
    """One recurrent spiking layer, one timestep per call."""

    def __init__(self, inputs: int = 64, units: int = 256) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(inputs, units), nn.Linear(units, units, bias=False)
        self.lif = LIF(step_mode="single", decay=0.9)
        self.readout = nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[T, N, inputs]`` into logits ``[N, 10]``."""
        self.lif.reset()
        spikes = x.new_zeros(x.shape[1], self.back.in_features)
        total = 0.0
        for now in x.unbind(0):
            spikes = self.lif(self.into(now) + self.back(spikes))
            total = total + spikes
        logits: Tensor = self.readout(total / len(x))
        return logits


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and its inputs."""
    torch.manual_seed(0)
    if name == "recurrent":
        return RecurrentNet(), 3.0 * torch.randn(50, 64, 64)
    return ConvNet(int(name.removeprefix("conv"))), torch.rand(64, 1, 28, 28)


def measure(name: str, collect: str, pairs: int) -> dict[str, Any]:
    """Return the ratio of recorded to other steps, the median over pairs of neighbours."""
    model, inputs = build(name)
    targets = torch.randint(0, 10, (64,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step(probe: Any) -> float:
        before = time.process_time()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        probe.step(loss=loss)
        return time.process_time() - before

    seconds: dict[bool, list[float]] = {False: [], True: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        # In turn: neither neighbour is always the first.
        spikescope.watch(
            model, Path(folder) / "run", lambda k: k % 4 in (1, 2), collect=collect
        ) as probe,
    ):
        for _ in range(4):
            step(probe)
        for k in range(2 * pairs):
            recorded = probe.recording
            assert recorded == (k % 4 in (1, 2))
            seconds[recorded].append(step(probe))
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    ratio = statistics.median(ratios)
    return {
        "network": name,
        "collect": collect,
        "plain_s": statistics.median(seconds[False]),
        "recorded_s": statistics.median(seconds[True]),
        "recorded_over_plain": ratio,
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "default_schedule": 1.0 + (ratio - 1.0) / 50,
        "pairs": pairs,
    }


def unrecorded(pairs: int) -> dict[str, Any]:
    """Return what a step costs that is not recorded: with a probe on, and without."""
    model, inputs = build("conv16")
    inputs = inputs[:16]
    targets = torch.randint(0, 10, (16,))

    def run(probe: Any) -> float:
        before = time.process_time()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        model.zero_grad()
        if probe is not None:
            probe.step(loss=loss)
        return time.process_time() - before

    off, on = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        spikescope.watch(model, Path(folder) / "run", lambda k: False) as probe,
    ):
        for k in range(2 * pairs):
            (on if k % 2 else off).append(run(probe if k % 2 else None))
    ratios = sorted(a / b for a, b in zip(on, off, strict=True))
    # Of the median: order statistics, by the binomial law.
    away = round(0.98 * pairs**0.5)
    return {
        "unrecorded_over_plain": statistics.median(ratios),
        "interval_95": [ratios[pairs // 2 - away], ratios[pairs // 2 + away]],
        "pairs": pairs,
    }


def limit(rounds: int) -> dict[str, Any]:
    """Return the seconds that reading takes, and those of a bare summary by torch's operators."""
    model, inputs = build("conv16")
    with torch.no_grad():
        shapes, x = [], inputs.expand(8, *inputs.shape)
        for block in model.blocks:  # type: ignore[union-attr]
            x = block(x)
            shapes.append(x.shape)
    layers = [[torch.rand(shape) for _ in range(4)] for shape in shapes]
    spent: dict[str, list[float]] = {"read_once_s": [], "bare_operators_s": []}
    for _ in range(rounds):
        for name, act in (("read_once_s", _read), ("bare_operators_s", _bare)):
            before = time.process_time()
            for tensors in layers:
                act(*tensors)
            spent[name].append(time.process_time() - before)
    size = sum(tensor.nbytes for tensors in layers for tensor in tensors)
    middle = {name: statistics.median(seconds) for name, seconds in spent.items()}
    return {"network": "conv16", "collect": "standard", "bytes": size, **middle, "rounds": rounds}


def _read(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.sum()


def _bare(current: Tensor, spikes: Tensor, grad_input: Tensor, grad_spikes: Tensor) -> None:
    """Do the arithmetic of a summary on pieces of 2^17 elements: replay, sums, counts."""
    ones = torch.ones(())
    rooms = torch.empty(3, 1 << 17)
    flat = [tensor.flatten(1).split(1 << 17, 1) for tensor in (current, spikes)]
    for xs, ss in zip(*flat, strict=True):
        v = torch.zeros_like(xs[0])
        ever = torch.zeros_like(v)
        z, space = (room[: len(v)] for room in rooms[:2])
        for x, s in zip(xs, ss, strict=True):
            torch.add(x, v, alpha=0.5, out=z)
            torch.sub(z, s, out=v)
            z.sub_(ones)
            for values in (z, x):
                values.sum()
                torch.dot(values, values)
            z.amin()
            z.amax()
            torch.dot(torch.ge(z, 0.0, out=space).sub_(s), space)
            torch.mul(z, 32.0, out=space).floor_().clamp_(-128, 127).add_(128.0)
            torch.bincount(space.short(), minlength=256)
            torch.addcmul(ones, z, z, out=space)
            torch.le(space, 100.0, out=z).sum()
            torch.reciprocal(space, out=z).sum()
            torch.dot(z, z)
            s.sum()
            torch.maximum(ever, s, out=ever).sum()
    space = rooms[2]
    pairs = (tensor.flatten().split(1 << 17) for tensor in (spikes, grad_input, grad_spikes))
    for s, g, total in zip(*pairs, strict=True):
        free = space[: len(s)]
        for values in (g, total):
            torch.eq(values, 0.0, out=free).sum()
            torch.mul(values, values, out=free).sum()
        torch.add(total, g, alpha=-0.5, out=free)
        torch.dot(free, free)
        torch.eq(free, 0.0, out=free).sum()
        torch.dot(s, total)
        torch.dot(s, torch.abs(total, out=free))


def facts() -> dict[str, Any]:
    """Return where and with what it was measured."""
    ask = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(ask, capture_output=True, text=True, cwd=Path(__file__).parent)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {
        "processor": next((x.partition(": ")[2] for x in lines if x.startswith("model name")), ""),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "spikescope": spikescope.__version__,
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=12)
    names = [f"{name}-{level}" for name in NETWORKS for level in LEVELS]
    parser.add_argument("--only", nargs="+", choices=[*names, "unrecorded", "limit"])
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    only = wanted.only or [*names, "unrecorded", "limit"]
    known: dict[str, Any] = {}
    if wanted.out is not None and wanted.out.exists():
        known = json.loads(wanted.out.read_text())
    where = facts()
    rows = {f"{row['network']}-{row['collect']}": row for row in known.get("overhead", [])}
    for name in only:
        if name in names:
            rows[name] = measure(*name.split("-"), wanted.pairs) | {"commit": where["commit"]}
            print(json.dumps(rows[name]), file=sys.stderr)
    rest = {name: known[name] for name in ("unrecorded", "limit") if name in known}
    if "unrecorded" in only:
        rest["unrecorded"] = unrecorded(25 * wanted.pairs) | {"commit": where["commit"]}
    if "limit" in only:
        rest["limit"] = limit(wanted.pairs) | {"commit": where["commit"]}
    result = {**where, "overhead": [rows[name] for name in names if name in rows], **rest}
    text = json.dumps(result, indent=2)
    if wanted.out is None:
        print(text)
    else:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
