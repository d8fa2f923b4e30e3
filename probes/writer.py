"""The way out: statistics leave the device without waiting and are written by a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..data.arrays import joined
from ..data.parts import TABLES
from .batch import Batch, send, size_of
from .rows import by_column, fine_rows, records

PART_ROWS = 20_000
"""A part is written when this many rows wait ..."""

PART_SECONDS = 2.0
"""... or the oldest of them has waited this long."""

QUEUE_LIMIT = 512
"""Recorded steps that may wait for the writer ..."""

QUEUE_BYTES = 32 << 20
"""... and what they may take in memory; beyond it a step is dropped and counted."""


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


class Writer:
    """A thread that turns batches into parts of a run; it never blocks training.

    Args:
        store: the run that it writes.
        news: gets something, from the thread, each time that it has worked.

    ``seconds`` is the processor time of its thread. After a failure ``error`` holds it and
    everything later is dropped; ``notices`` collects what the numbers themselves say and the user
    should hear (NaN in u, say), as ``(step, layer, kind, text)``.
    """

    def __init__(self, store: Store, news: deque[None] | None = None) -> None:
        self.store = store
        self._news: deque[None] = deque(maxlen=1) if news is None else news
        self.error: BaseException | None = None
        self.dropped = 0
        self.seconds = self._told_seconds = 0.0
        self.notices: queue.SimpleQueue[tuple[int, str, str, str]] = queue.SimpleQueue()
        self._queue: queue.Queue[Batch | None] = queue.Queue(QUEUE_LIMIT)
        # Each is written by one thread only.
        self._put_bytes = self._taken_bytes = 0
        self._waiting = _Waiting()
        self._noticed: set[tuple[str, str]] = set()
        self._cost: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="spikescope-writer", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> bool:
        """Hand a batch over; a full queue refuses it, which counts as a dropped step.

        Returns:
            Whether it was taken; what it holds is as it was if not.
        """
        size = size_of(batch)
        held = self._put_bytes - self._taken_bytes
        # Nobody else puts: it can only become emptier. A step alone is always taken.
        if self._queue.full() or (held and held + size > QUEUE_BYTES):
            self.dropped += bool(batch.blocks)
            return False
        self._put_bytes += size
        send(batch)
        self._queue.put_nowait(batch)
        return True

    @property
    def waiting(self) -> int:
        """Steps that wait for the thread."""
        return self._queue.qsize()

    def worked(self) -> float:
        """Return the seconds that the thread has worked since this was last asked."""
        before, self._told_seconds = self._told_seconds, self.seconds
        return self._told_seconds - before

    def close(self, timeout: float = 60.0, last: Batch | None = None) -> None:
        """Write what waits and end the thread; afterwards ``error`` is final.

        Args:
            timeout: seconds that it may take.
            last: what comes after all that waits; now there is time to wait for room.
        """
        try:
            if last is not None:
                self._put_bytes += size_of(last)
                send(last)
                self._queue.put(last, timeout=timeout)
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
            self._taken_bytes += size_of(batch) if batch is not None else 0
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
            self._news.append(None)

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
            columns = records(batch)
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
            self._waiting.add("vitals", by_column(TABLES["vitals"].names, rows))
        for table in ("joints", "maps"):
            found = [entry for entry in batch.fine if entry.table == table]
            if found:
                rows = [row for entry in found for row in fine_rows(batch.step, entry)]
                self._waiting.add(table, by_column(TABLES[table].names, rows))
        self._cost = batch.cost or self._cost
        if batch.events:
            self._waiting.add("events", by_column(_EVENT, batch.events))

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
                    self._waiting.add("events", by_column(_EVENT, [notice]))


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
