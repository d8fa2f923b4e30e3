"""What one flush hands over, and how it leaves the device without anybody waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .accumulators import Block
from .vitals_types import Reading


class Fine(NamedTuple):
    """Counts of one layer that go into a table of their own.

    Args:
        table: ``"joints"`` or ``"maps"``.
        mode: ``"train"`` or ``"eval"``.
        layer: name of the layer.
        t: first timestep of ``[T, ...]`` counts; 0 for all timesteps together.
        counts: the counts.
        shape: shape of the units.
        chances: samples times timesteps.
    """

    table: str
    mode: str
    layer: str
    t: int
    counts: Tensor
    shape: tuple[int, ...] = ()
    chances: int = 0


@dataclass
class Batch:
    """What one flush hands over: blocks with the key of their rows, scalars, events.

    Args:
        step: the recorded step.
        blocks: ``(mode, layer, first t, block)``; the tensors are on their way to the host.
        scalars: ``(step, name, value)``.
        events: ``(step, layer, kind, text)``.
        vitals: further figures of the step, their keys with one tensor of values.
        fine: counts of the level "full".
        cost: what recording has cost so far.
        arrived: device events after which the tensors may be read.
    """

    step: int
    blocks: list[tuple[str, str, int, Block]] = field(default_factory=list)
    scalars: list[tuple[int, str, Tensor | float]] = field(default_factory=list)
    events: list[tuple[int, str, str, str]] = field(default_factory=list)
    vitals: list[Reading] = field(default_factory=list)
    fine: list[Fine] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    arrived: list[Any] = field(default_factory=list)


def size_of(batch: Batch) -> int:
    """Return the bytes of a batch's statistics."""
    blocks = sum(values.nbytes for *_, block in batch.blocks for values in block.values())
    return blocks + sum(entry.counts.nbytes for entry in batch.fine)


def send(batch: Batch) -> None:
    """Let everything in a batch leave for the host, and note when it will have arrived."""
    for index, (mode, layer, t, block) in enumerate(batch.blocks):
        batch.blocks[index] = (mode, layer, t, _to_host(block))
    batch.scalars = _scalars_to_host(batch.scalars)
    batch.vitals = [(keys, _copy(values)) for keys, values in batch.vitals]
    batch.fine = [entry._replace(counts=_copy(entry.counts)) for entry in batch.fine]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        batch.arrived.append(event)


def _to_host(block: Block) -> Block:
    """Start the copy to the host; on a CUDA device nobody waits for it here."""
    return {name: _copy(values) for name, values in block.items()}


def _copy(values: Tensor) -> Tensor:
    if not values.is_cuda:
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _scalars_to_host(
    scalars: list[tuple[int, str, Tensor | float]],
) -> list[tuple[int, str, Tensor | float]]:
    """Copy the scalar tensors of a device at once: one transfer for all steps they come from."""
    out = list(scalars)
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for place, (_, _, value) in enumerate(scalars):
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append((place, value.reshape(()).double()))
    for entries in by_device.values():
        host = _copy(torch.stack([value for _, value in entries]))
        for index, (place, _) in enumerate(entries):
            out[place] = (*scalars[place][:2], host[index])
    return out
