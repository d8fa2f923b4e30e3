"""What one flush hands over, and how it leaves the device without anybody waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    blocks = [block for *_, block in batch.blocks]
    statistics = [values for block in blocks for values in block.values()]
    others = [values for _, values in batch.vitals] + [entry.counts for entry in batch.fine]
    there = iter(to_host([*statistics, *others], batch.arrived))
    batch.blocks = [
        (mode, layer, t, {name: next(there) for name in block})
        for mode, layer, t, block in batch.blocks
    ]
    batch.vitals = [(keys, next(there)) for keys, _ in batch.vitals]
    batch.fine = [entry._replace(counts=next(there)) for entry in batch.fine]
    batch.scalars = _scalars_to_host(batch.scalars, batch.arrived)


def to_host(tensors: Sequence[Tensor], arrived: list[Any]) -> list[Tensor]:
    """Start the copies of tensors to the host; nobody waits for a device here.

    All tensors of a device and dtype travel as one: a copy of its own for each number of each
    layer would keep the training's thread busy for milliseconds.

    Args:
        tensors: what is to be copied; what lies on the host already stays what it is.
        arrived: gets an event of each device; after them the copies may be read.

    Returns:
        The copies, of the same shapes.
    """
    out = list(tensors)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, values in enumerate(tensors):
        if values.is_cuda:
            groups.setdefault((values.device, values.dtype), []).append(place)
    for (device, _), places in groups.items():
        stream = torch.cuda.current_stream(device)
        group = [tensors[place] for place in places]
        for values in group:
            # It may come from another stream, whose allocator must not give it away too early.
            values.record_stream(stream)
        for place, copy in zip(places, together(group, _pinned), strict=True):
            out[place] = copy
    for device in dict.fromkeys(device for device, _ in groups):
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))  # of that device, current or not
        arrived.append(event)
    return out


def together(tensors: Sequence[Tensor], copy: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Copy tensors of one dtype as one.

    Args:
        tensors: of any shapes.
        copy: copies a tensor ``[n]``.

    Example:
        >>> [one.tolist() for one in together([torch.tensor(1), torch.tensor([[2], [3]])],
        ...                                   torch.clone)]
        [1, [[2], [3]]]
    """
    whole = copy(torch.cat([values.reshape(-1) for values in tensors]))
    parts = torch.split(whole, [values.numel() for values in tensors])
    return [part.view(values.shape) for part, values in zip(parts, tensors, strict=True)]


def _pinned(values: Tensor) -> Tensor:
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _scalars_to_host(
    scalars: list[tuple[int, str, Tensor | float]], arrived: list[Any]
) -> list[tuple[int, str, Tensor | float]]:
    """Copy the scalar tensors of all steps that they come from."""
    places = [k for k, (_, _, value) in enumerate(scalars) if isinstance(value, Tensor)]
    values = [scalars[k][2].reshape(()).double() for k in places]  # type: ignore[union-attr]
    out = list(scalars)
    for place, value in zip(places, to_host(values, arrived), strict=True):
        out[place] = (*scalars[place][:2], value)
    return out
