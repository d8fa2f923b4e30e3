"""The way out: statistics leave the device without waiting and are written by a thread."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.arrays import joined
from ..data.merge import merge_rows
from ..data.parts import TABLES
from ..data.schema import COLUMNS, DENSITY_BINS, KEYS, STORED
from .accumulators import Block
from .vitals_types import Reading

PART_ROWS = 20_000
"""A part is written when this many rows wait ..."""

PART_SECONDS = 2.0
"""... or the oldest of them has waited this long."""

QUEUE_LIMIT = 64
"""Recorded steps that may wait for the writer; beyond it a step is dropped and counted."""


class Store(Protocol):
    """What a writer writes to; see :class:`..data.store.RunStore`."""

    path: Any
    address: str
    first: int
    merges: int
    full: bool

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Write the next part of a table."""

    def know(self, layers: Any) -> None:
        """Say which layers there are."""

    def judge(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a judgement about the run."""

    def end(self, state: str, **facts: Any) -> None:
        """Say how the run ended."""


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


class Writer:
    """A thread that turns batches into parts of a run; it never blocks training.

    Args:
        store: the run that it writes.

    ``seconds`` is the time that its thread has worked. After a failure ``error`` holds it and
    everything later is dropped; ``notices`` collects what the numbers themselves say and the user
    should hear (NaN in u, say), as ``(step, layer, kind, text)``.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.error: BaseException | None = None
        self.dropped = 0
        self.seconds = self._told_seconds = 0.0
        self.notices: queue.SimpleQueue[tuple[int, str, str, str]] = queue.SimpleQueue()
        self._queue: queue.Queue[Batch | None] = queue.Queue(QUEUE_LIMIT)
        self._waiting = _Waiting()
        self._noticed: set[tuple[str, str]] = set()
        self._cost: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="spikescope-writer", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> bool:
        """Hand a batch over; a full queue drops it, counts that and returns False."""
        for index, (mode, layer, t, block) in enumerate(batch.blocks):
            batch.blocks[index] = (mode, layer, t, _to_host(block))
        batch.scalars = _scalars_to_host(batch.scalars)
        batch.vitals = [(keys, _copy(values)) for keys, values in batch.vitals]
        batch.fine = [entry._replace(counts=_copy(entry.counts)) for entry in batch.fine]
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            batch.arrived.append(event)
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def worked(self) -> float:
        """Return the seconds that the thread has worked since this was last asked."""
        before, self._told_seconds = self._told_seconds, self.seconds
        return self._told_seconds - before

    def close(self, timeout: float = 60.0) -> None:
        """Write what waits and end the thread; afterwards ``error`` is final."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            self.error = self.error or TimeoutError("the writer did not keep up")
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.error = self.error or TimeoutError("the writer did not keep up")

    def _run(self) -> None:
        open_ = True
        while open_:
            try:
                batch = self._queue.get(timeout=PART_SECONDS / 2)
            except queue.Empty:
                batch = Batch(step=-1)
            open_ = batch is not None
            if self.error is not None:
                continue
            try:
                if batch is not None:
                    self._take(batch)
                if not open_ or self._waiting.due():
                    self._write()
                self.seconds = time.thread_time()
            except Exception as error:  # the training must not learn of it in any other way
                self.error = error

    def _write(self) -> None:
        merges, full = self.store.merges, self.store.full
        self._waiting.write(self.store)
        if self._cost:
            self.store.judge("cost", self._cost)
            self._cost = {}
        if self.store.merges and not merges:
            self._tell("", "merged", _MERGED)
        if self.store.full and not full:
            self._tell("", "full", _FULL)

    def _tell(self, layer: str, kind: str, text: str) -> None:
        self.notices.put((-1, layer, kind, text))

    def _take(self, batch: Batch) -> None:
        for event in batch.arrived:
            event.synchronize()
        if batch.blocks:
            columns = _records(batch)
            self._waiting.add("records", columns)
            self._look(batch.step, columns)
        if batch.scalars:
            steps, names, values = zip(*batch.scalars, strict=True)
            numbers = [float(value) for value in values]
            self._waiting.add("scalars", {"step": steps, "name": names, "value": numbers})
        for keys, figures in batch.vitals:
            rows = [
                (batch.step, *key, value) for key, value in zip(keys, figures.tolist(), strict=True)
            ]
            self._waiting.add("vitals", _columns(TABLES["vitals"].names, rows))
        for table in ("joints", "maps"):
            found = [entry for entry in batch.fine if entry.table == table]
            if found:
                rows = [row for entry in found for row in _fine_rows(batch.step, entry)]
                self._waiting.add(table, _columns(TABLES[table].names, rows))
        self._cost = batch.cost or self._cost
        if batch.events:
            self._waiting.add("events", _columns(_EVENT, batch.events))

    def _look(self, step: int, columns: Mapping[str, Any]) -> None:
        """Notice, once per layer, what no later look at a mean would show."""
        for kind, text in _NOTICES.items():
            if not np.any(columns[kind]):
                continue
            bad: dict[str, int] = {}
            for layer, count in zip(columns["layer"], columns[kind], strict=True):
                bad[layer] = bad.get(layer, 0) + int(count)
            for layer, count in bad.items():
                if count and (layer, kind) not in self._noticed:
                    self._noticed.add((layer, kind))
                    notice = (step, layer, kind, text.format(layer=layer, step=step, count=count))
                    self.notices.put(notice)
                    self._waiting.add("events", _columns(_EVENT, [notice]))


_EVENT = ("step", "layer", "kind", "text")

_NOTICES = {
    "nonfinite": "layer {layer!r}, step {step}: u is NaN or infinite at {count} elements; they are "
    "counted and left out of the statistics",
    "grad_u_nonfinite": "layer {layer!r}, step {step}: dL/du is NaN or infinite at {count} "
    "elements; they are counted and left out of the statistics",
    "mismatch": "layer {layer!r}, step {step}: {count} spikes are not explained by the declared "
    "decay, threshold and reset; its figures may be wrong",
}


_MERGED = (
    "max_bytes is reached: neighbouring records are merged from now on, the oldest most; counts "
    "and moments stay exact"
)
_FULL = "max_bytes is too small even for merged records: the run grows beyond it"


class _Waiting:
    """Rows that are not on disk yet."""

    def __init__(self) -> None:
        self._chunks: dict[str, list[Mapping[str, Any]]] = {}
        self._rows = 0
        self._since = 0.0

    def add(self, table: str, columns: Mapping[str, Any]) -> None:
        if not self._chunks:
            self._since = time.monotonic()
        self._chunks.setdefault(table, []).append(columns)
        self._rows += len(next(iter(columns.values())))

    def due(self) -> bool:
        if not self._chunks:
            return False
        return self._rows >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS

    def write(self, store: Store) -> None:
        # One table after another: what is written needs no memory while the next one is.
        for table in list(self._chunks):
            store.append(table, joined(table, self._chunks.pop(table)))
        self._rows = 0


def _columns(names: Sequence[str], rows: list[Any]) -> dict[str, Any]:
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _records(batch: Batch) -> dict[str, Any]:
    """Return the stored columns of all blocks of a step; what a block did not see is 0 or NaN."""
    rows = [
        (mode, layer, t + k)
        for mode, layer, t, block in batch.blocks
        for k in range(len(block["samples"]))
    ]
    modes, layers, timesteps = zip(*rows, strict=True)
    columns = {
        "step": np.full(len(rows), batch.step),
        "mode": list(modes),
        "layer": list(layers),
        "t": np.array(timesteps),
    }
    for name in STORED:
        if name not in KEYS:
            columns[name] = _column(name, [block for *_, block in batch.blocks])
    if len(set(rows)) == len(rows):
        return columns
    # Calls of different length, or one timestep at a time: several blocks speak of one row.
    columns["density"] = list(columns["density"])
    merged = merge_rows(pd.DataFrame(columns))
    return {name: list(merged[name]) for name in STORED}


def _column(name: str, blocks: Sequence[Block]) -> np.ndarray:
    dtype = COLUMNS[name].dtype
    values = [block.get(name) for block in blocks]
    for place, found in enumerate(values):
        if found is None:
            values[place] = _absent(dtype, len(blocks[place]["samples"]))
    column: np.ndarray = torch.cat(values).numpy()  # type: ignore[arg-type]
    return column.astype(_STORED_AS[dtype], copy=False)


_STORED_AS = {"int64": np.int64, "float64": np.float64, "counts": np.int64}


def _absent(dtype: str, rows: int) -> Tensor:
    """Return what a column holds where a block did not see it."""
    if dtype == "counts":
        return torch.zeros(rows, DENSITY_BINS, dtype=torch.int64)
    if dtype == "float64":
        return torch.full((rows,), math.nan, dtype=torch.float64)
    return torch.zeros(rows, dtype=torch.int64)


def _fine_rows(step: int, entry: Fine) -> list[tuple[Any, ...]]:
    """Return the rows of the table that an entry belongs to."""
    counts = entry.counts.numpy()
    if entry.table == "maps":
        where = (step, entry.mode, entry.layer)
        return [(*where, list(entry.shape), entry.chances, counts.reshape(-1))]
    return [
        (step, entry.mode, entry.layer, entry.t + k, counts[k].reshape(-1))
        for k in range(len(counts))
    ]


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
