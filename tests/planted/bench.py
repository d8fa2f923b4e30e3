"""A small task, small networks and a training loop in which a fault can be planted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spikescope
from spikescope.probes.lif import LIF, reset_state

FEATURES, CLASSES, BATCH = 24, 4, 48


class Task:
    """Classes are patterns; at each timestep a sample shows its own with fresh noise.

    Args:
        timesteps: T.
        seed: of patterns and noise.
        noise: standard deviation of the noise beside patterns of standard deviation 1.
        frozen: whether the noise is the same at each timestep.
        ramp: what is added to every feature, in proportion to t / T.
    """

    def __init__(
        self,
        timesteps: int = 6,
        seed: int = 0,
        noise: float = 1.0,
        frozen: bool = False,
        ramp: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.timesteps, self.noise, self.frozen, self.ramp = timesteps, noise, frozen, ramp
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.patterns = torch.randn(CLASSES, FEATURES, generator=self.generator)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return inputs ``[T, N, FEATURES]`` and classes ``[N]``."""
        targets = torch.randint(CLASSES, (BATCH,), generator=self.generator)
        drawn = 1 if self.frozen else self.timesteps
        noise = torch.randn(drawn, BATCH, FEATURES, generator=self.generator)
        inputs = (self.patterns[targets] + self.noise * noise).expand(self.timesteps, -1, -1)
        rise = torch.linspace(0.0, self.ramp, self.timesteps)[:, None, None]
        return (inputs + rise).to(self.dtype), targets


class Block(nn.Module):
    """Linear, batch norm if wanted, and a spiking layer, over ``[T, N, M]``."""

    def __init__(self, inside: int, outside: int, norm: bool, lif: nn.Module, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inside, outside)
        self.norm = nn.BatchNorm1d(outside) if norm else None
        self.lif = lif
        with torch.no_grad():
            self.linear.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        current = self.linear(x)
        if self.norm is not None:
            current = self.norm(current.flatten(0, 1)).unflatten(0, current.shape[:2])
        return self.lif(current)


class Net(nn.Module):
    """Blocks of one width and a linear readout, averaged over the timesteps."""

    def __init__(
        self,
        make: Callable[[], nn.Module] = LIF,
        depth: int = 3,
        width: int = 48,
        norm: bool = True,
        scale: float = 1.0,
        last: bool = False,
    ) -> None:
        super().__init__()
        sizes = [FEATURES] + [width] * depth
        # Spikes are fewer than features: without a norm the weights behind them are larger.
        self.blocks = nn.ModuleList(
            Block(a, b, norm, make(), 1.0 if norm else scale * (2.0 if k == 0 else 4.0))
            for k, (a, b) in enumerate(pairwise(sizes))
        )
        self.readout = nn.Linear(width, CLASSES)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits = self.readout(x)
        return logits[-1] if self.last else logits.mean(0)


class Looped(nn.Module):
    """A network of single-step layers, called once for each timestep."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        fresh: Callable[[nn.Module], Any],
        depth: int = 2,
        width: int = 48,
        scale: float = 1.0,
        norm: bool = False,
        call: Callable[[nn.Module, Tensor], Tensor] | None = None,
        last: bool = False,
    ) -> None:
        super().__init__()
        sizes = [FEATURES] + [width] * depth
        pairs = list(pairwise(sizes))
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.norm = nn.ModuleList(nn.BatchNorm1d(b) for _, b in pairs) if norm else None
        self.lif = nn.ModuleList(make() for _ in pairs)
        self.readout = nn.Linear(width, CLASSES)
        self.fresh, self.call, self.last = fresh, call, last
        with torch.no_grad():
            for k, linear in enumerate(self.linear):
                linear.weight.mul_(scale * (2.0 if k == 0 else 4.0))

    def forward(self, x: Tensor) -> Tensor:
        self.fresh(self)
        out = []
        for now in x:
            for k, (linear, lif) in enumerate(zip(self.linear, self.lif, strict=True)):
                now = linear(now)
                if self.norm is not None:
                    now = self.norm[k](now)
                now = lif(now) if self.call is None else self.call(lif, now)
            out.append(self.readout(now))
        return out[-1] if self.last else torch.stack(out).mean(0)


@dataclass
class Training:
    """What a training run is made of; a fault changes some of it.

    Args:
        model: the network.
        task: what it learns.
        steps: optimiser steps.
        rate: learning rate of Adam.
        optimizer: another optimiser.
        loss: of logits and targets.
        before: called with (training, step) before each step.
        after: called with (training, step) after the backward pass.
        context: what the forward pass runs in.
        scaler: of a scaled loss.
        watched: the model to watch, if not all of it.
    """

    model: nn.Module
    task: Task = field(default_factory=Task)
    steps: int = 100
    rate: float = 2e-3
    optimizer: Any = None
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    before: Callable[[Training, int], None] | None = None
    after: Callable[[Training, int], None] | None = None
    context: Callable[[], Any] | None = None
    scaler: Any = None
    every: int = 4
    time_axis: Any = None


def run(training: Training, path: Path) -> Path:
    """Train with a probe attached; return the run's folder."""
    from contextlib import nullcontext

    model = training.model
    model.train()
    optimizer = training.optimizer or torch.optim.Adam(model.parameters(), lr=training.rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with spikescope.watch(
            model, path, every=training.every, scaler=training.scaler, time_axis=training.time_axis
        ) as probe:
            for step in range(training.steps):
                inputs, targets = training.task.batch()
                if training.before is not None:
                    training.before(training, step)
                optimizer.zero_grad()
                reset_state(model)
                with training.context() if training.context else nullcontext():
                    logits = model(inputs)
                loss = training.loss(logits.float(), targets)
                scaled = loss if training.scaler is None else training.scaler.scale(loss)
                scaled.backward()
                if training.after is not None:
                    training.after(training, step)
                if training.scaler is None:
                    optimizer.step()
                else:
                    training.scaler.step(optimizer)
                    training.scaler.update()
                probe.step(loss=loss)
    assert probe.path is not None
    return probe.path


class Until(spikescope.Run):
    """A run as it was after a step: what a diagnosis during training saw."""

    def __init__(self, path: Path, last: int) -> None:
        super().__init__(path)
        self.last = last

    def _read(self, *args: Any, **kwargs: Any) -> Any:
        import pyarrow.compute as pc

        table = super()._read(*args, **kwargs)
        return table.filter(pc.less_equal(table["step"], self.last))
