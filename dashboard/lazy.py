"""A run read piece by piece: however long it is, a page touches a bounded part of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..data.densities import DENSITY_COLUMNS, Density, collect
from ..data.merge import merge_rows
from ..data.parts import PartError, read_part
from ..data.reading import rank_folders
from ..data.runs import Run, RunError
from ..data.schema import COLUMNS, KEYS, MODES, STORED, derive
from .part_index import PartIndex
from .quantiles import QUANTILES, Ribbon, quantiles

MOST_ROWS = 100_000
"""Rows of the record that are held at once; of a longer run evenly spaced steps stand for it."""

MOST_STEPS = 48
"""Steps whose quantiles are read for the ribbon."""

FRAMES = 16
"""Single steps that stay in memory beside the evenly spaced ones."""

JOINED = 5
"""How often a look is repeated because parts were joined in the middle of it."""

HISTOGRAMS = 3
"""Steps whose histograms of all layers stay in memory."""

Made = TypeVar("Made")
Key = TypeVar("Key")

_LIGHT = [name for name in STORED if name != "density"]


@dataclass
class _Known:
    """What has been read of a run; a part never changes, so that it holds for later looks too.

    ``lock`` is held for a moment only; the others while something is read, one thread at a time.
    What was read is kept if no step was forgotten meanwhile, which ``age`` tells.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    spreading: threading.RLock = field(default_factory=threading.RLock)
    ribbons: threading.RLock = field(default_factory=threading.RLock)
    frames: OrderedDict[int, pd.DataFrame] = field(default_factory=OrderedDict)
    # One frame for evenly spaced steps: one for each of them would be mostly overhead.
    spread: pd.DataFrame = field(default_factory=lambda: _no_rows())
    spread_steps: set[int] = field(default_factory=set)
    histograms: OrderedDict[int, pa.Table] = field(default_factory=OrderedDict)
    quantiles: OrderedDict[int, pd.DataFrame] = field(default_factory=OrderedDict)
    derived: OrderedDict[tuple[str, int, str], Any] = field(default_factory=OrderedDict)
    age: int = 0

    def __post_init__(self) -> None:
        self.parts = PartIndex(self.forget)

    def put(self, kept: OrderedDict[Key, Made], key: Key, value: Made, most: int, age: int) -> Made:
        """Put a value behind all others and drop the oldest beyond so many."""
        with self.lock:
            if age == self.age:
                kept[key] = value
                kept.move_to_end(key)
                while len(kept) > most:
                    kept.popitem(last=False)
        return value

    def forget(self, step: int) -> None:
        """Drop what was read of a step."""
        with self.lock:
            self.age += 1
            for kept in (self.frames, self.histograms, self.quantiles):
                kept.pop(step, None)
            self.spread_steps.discard(step)
            for key in [key for key in self.derived if key[1] == step]:
                del self.derived[key]


class LazyRun(Run):
    """A run of which every look reads only what it needs, and keeps a bounded part of that.

    Args:
        path: folder of the run.
        known: what an earlier look at the same folder has read.
    """

    def __init__(self, path: str | Path, known: _Known | None = None) -> None:
        super().__init__(path)
        self.known = known or _Known()

    def index(self, patience: float = np.inf) -> bool:
        """Learn which steps are in which part, the youngest part first.

        Args:
            patience: seconds after which the rest is left to the next look.

        Returns:
            Whether every part is known now.
        """
        return self._look(patience)

    def _look(self, patience: float = np.inf) -> bool:
        return self.known.parts.update(self.path, self._torn, patience)

    def steps(self, mode: str | None = "train") -> np.ndarray:
        """Return the recorded steps of a mode (of all if None), ``[R]``, rising."""
        self.index()
        return self.steps_so_far(mode)

    def steps_so_far(self, mode: str | None = "train") -> np.ndarray:
        """Return the recorded steps among the parts known so far, ``[R]``, rising."""
        return self.known.parts.steps(mode)

    def sampled(self, most: int, mode: str | None = None) -> np.ndarray:
        """Return at most so many recorded steps, evenly spaced, the last one among them.

        The spacing is a power of two, so that a growing run keeps the steps that it showed before.
        """
        steps = self.steps(mode)
        stride = 1
        while len(steps) > stride * max(most - 1, 1):
            stride *= 2
        return np.union1d(steps[::stride], steps[-1:])

    def rows_at(self, step: int, mode: str = "train") -> pd.DataFrame:
        """Return the record of one step, a row per (layer, t) in network order, all columns."""
        known = self.known
        with known.lock:
            age, frame = known.age, known.frames.get(step)
            if frame is None and step in known.spread_steps:
                frame = known.spread[known.spread["step"] == step]
        if frame is None:
            frame = self._frame_of([step])
            # A step that is not there yet may come.
            if len(frame):
                known.put(known.frames, step, frame, FRAMES, age)
        return frame[frame["mode"] == mode]

    def spread(self) -> np.ndarray:
        """Return the evenly spaced steps that stand for the run, all of them in a short one."""
        steps = self.steps(None)
        each = max(self.known.parts.rows / max(len(steps), 1), 1.0)
        return self.sampled(max(int(MOST_ROWS / each), 8))

    def overall(self) -> pd.DataFrame:
        """Return the record of evenly spaced steps, all of them in a short run."""
        known = self.known
        with known.spreading:
            wanted = {int(step) for step in self.spread()}
            with known.lock:
                age, before, had = known.age, known.spread, set(known.spread_steps)
            if had == wanted:
                return before
            read = self._frame_of(sorted(wanted - had))
            pieces = [before[before["step"].isin(list(wanted & had))], read]
            whole = pd.concat([piece for piece in pieces if len(piece)] or pieces[:1])
            whole = whole.sort_values("step", kind="stable", ignore_index=True)
            with known.lock:
                if age == known.age:
                    known.spread, known.spread_steps = whole, wanted
            return whole

    def _frame_of(self, steps: list[int]) -> pd.DataFrame:
        """Read the rows of some steps, one part after the other."""
        if not steps:
            return _no_rows()
        order = {entry.name: place for place, entry in enumerate(self.layers)}
        frame = self._rows(_LIGHT, steps).to_pandas()
        if len(rank_folders(self.path)) > 1:
            frame = merge_rows(frame)
        frame = frame.assign(_place=frame["layer"].map(order))
        frame = frame.sort_values(["step", "mode", "_place", "t"], kind="stable")
        return derive(frame.drop(columns="_place").reset_index(drop=True))[_columns()]

    def _rows(self, columns: list[str], steps: Iterable[int]) -> pa.Table:
        """Read columns of some steps from the parts that hold them."""
        wanted = np.unique(np.fromiter(steps, dtype=np.int64))
        self.index()
        for _ in range(JOINED):
            pieces = []
            vanished = False
            for path in self.known.parts.holding(wanted):
                try:
                    piece = read_part(path, columns, wanted)
                except PartError as error:
                    vanished |= not path.exists()
                    if path.exists():
                        self._torn[path.name] = str(error)
                    continue
                pieces.append(piece.filter(pc.is_in(piece["step"], pa.array(wanted))))
            if not vanished:
                break
            # A part that was joined with others meanwhile is read from where it is now.
            self._look()
        return pa.concat_tables(pieces) if pieces else pa.schema(_schema(columns)).empty_table()

    def density(
        self, layer: str, *, mode: str = "train", steps: Iterable[int] | None = None
    ) -> Density:
        """Return ``Run.density()``; for given steps only their parts are opened."""
        if steps is None:
            return super().density(layer, mode=mode)
        entry = self.layer(layer)
        wanted = sorted({int(step) for step in steps})
        if len(wanted) == 1:
            rows = self._histograms(wanted[0])
        else:
            rows = self._rows(list(DENSITY_COLUMNS), wanted)
        rows = rows.filter(pc.equal(rows["layer"], layer))
        return collect(rows.filter(pc.equal(rows["mode"], mode)), entry.scale)

    def densities(
        self, *, mode: str = "train", steps: Iterable[int] | None = None
    ) -> dict[str, Density]:
        """Return ``Run.densities()``; for given steps only their parts are opened."""
        if steps is None:
            return super().densities(mode=mode)
        rows = self._rows(list(DENSITY_COLUMNS), steps)
        rows = rows.filter(pc.equal(rows["mode"], mode))
        seen = set(pc.unique(rows["layer"]).to_pylist())
        return {
            layer.name: collect(rows.filter(pc.equal(rows["layer"], layer.name)), layer.scale)
            for layer in self.layers
            if layer.name in seen
        }

    def table(
        self,
        columns: Sequence[str] | None = None,
        *,
        layer: str | None = None,
        mode: str | None = None,
        since: int | None = None,
    ) -> pd.DataFrame:
        """Return ``Run.table()`` from memory; of a long run only evenly spaced steps."""
        check_request(self, columns, layer, mode)
        table = self.overall()
        keep = np.ones(len(table), dtype=bool)
        for name, wanted in (("layer", layer), ("mode", mode)):
            if wanted is not None:
                keep &= (table[name] == wanted).to_numpy()
        if since is not None:
            keep &= (table["step"] >= since).to_numpy()
        names = list(table.columns)
        if columns is not None:
            names = [*KEYS, *(name for name in columns if name not in KEYS)]
        return table.loc[keep, names]

    def _histograms(self, step: int) -> pa.Table:
        """Return the histograms of all layers at one step."""
        known = self.known
        with known.lock:
            age, rows = known.age, known.histograms.get(step)
        if rows is None:
            rows = self._rows(list(DENSITY_COLUMNS), [step])
        return known.put(known.histograms, step, rows, HISTOGRAMS, age) if len(rows) else rows

    def once(self, name: str, step: int, mode: str, make: Callable[[], Made]) -> Made:
        """Return what is worked out from one step, kept for the next look.

        Args:
            name: tells what is worked out.
            step: the recorded step that it follows from.
            mode: ``"train"`` or ``"eval"``.
            make: works it out.

        Returns:
            What ``make`` returned; it must not be changed.
        """
        key = (name, step, mode)
        known = self.known
        kept: OrderedDict[tuple[str, int, str], Made] = known.derived
        with known.lock:
            age = known.age
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        return known.put(kept, key, make(), FRAMES, age)

    def quantiles(self, layer: str, mode: str = "train", patience: float = np.inf) -> Ribbon:
        """Return quantiles of u over training, read from the densities of evenly spaced steps.

        Args:
            layer: name of a layer.
            mode: ``"train"`` or ``"eval"``.
            patience: seconds after which the rest is left to the next look.

        Returns:
            A :class:`~.quantiles.Ribbon`.
        """
        entry = self.layer(layer)
        until = time.monotonic() + patience
        wanted = [int(step) for step in self.sampled(MOST_STEPS, mode)]
        known = self.known
        with known.ribbons:
            with known.lock:
                for stale in set(known.quantiles) - set(wanted):
                    del known.quantiles[stale]
                age, kept = known.age, dict(known.quantiles)
            for step in _coarse_first([step for step in wanted if step not in kept]):
                kept[step] = quantiles(self._rows(list(DENSITY_COLUMNS), [step]))
                known.put(known.quantiles, step, kept[step], MOST_STEPS, age)
                if time.monotonic() > until:
                    break
        frames = [kept[step] for step in wanted if step in kept]
        names = ["step", "mode", "layer", "t", *map(str, QUANTILES)]
        found = pd.concat(frames) if frames else pd.DataFrame(columns=names)
        found = found[(found["layer"] == layer) & (found["mode"] == mode)]
        level = 1.0 if entry.coordinate == "u" else 0.0
        shifted = found[["step", "t"]].assign(
            **{str(q): found[str(q)].astype(float) + level for q in QUANTILES}
        )
        return Ribbon(shifted.reset_index(drop=True), all(step in kept for step in wanted))


_LAZY: weakref.WeakKeyDictionary[Run, LazyRun] = weakref.WeakKeyDictionary()


def lazy(run: Run) -> LazyRun:
    """Return the same run, read piece by piece; what was read is kept as long as the run."""
    if isinstance(run, LazyRun):
        return run
    if run not in _LAZY:
        _LAZY[run] = LazyRun(run.path)
    return _LAZY[run]


def last_step(record: LazyRun, layer: str, mode: str = "train") -> int | None:
    """Return the last step at which a layer was recorded; None if it never was."""
    for step in record.steps(mode)[: -FRAMES - 1 : -1]:
        if (record.rows_at(int(step), mode)["layer"] == layer).any():
            return int(step)
    overall = record.overall()
    seen = overall[(overall["layer"] == layer) & (overall["mode"] == mode)]["step"]
    return int(seen.iloc[-1]) if len(seen) else None


def check_request(
    run: Run, columns: Sequence[str] | None, layer: str | None, mode: str | None
) -> None:
    """Refuse what ``Run.table()`` refuses."""
    for name in columns or ():
        if name not in COLUMNS or name == "density":
            raise RunError(f"column {name!r} is not in this table; see spikescope.data.schema")
    if mode is not None and mode not in MODES:
        raise RunError(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")
    if layer is not None:
        run.layer(layer)


def _schema(columns: list[str]) -> list[pa.Field]:
    kinds = {"int64": pa.int64(), "float64": pa.float64(), "str": pa.string()}
    return [
        pa.field(name, kinds.get(COLUMNS[name].dtype, pa.list_(pa.int64()))) for name in columns
    ]


def _no_rows() -> pd.DataFrame:
    """Return a record without rows."""
    return derive(pa.schema(_schema(_LIGHT)).empty_table().to_pandas())[_columns()]


def _columns() -> list[str]:
    return [name for name in COLUMNS if name != "density"]


def _coarse_first(steps: list[int]) -> list[int]:
    """Order steps so that the first ones read span the whole training."""
    ordered: list[int] = []
    stride = 1 << max(len(steps) - 1, 0).bit_length()
    while stride:
        ordered += [step for step in steps[::stride] if step not in ordered]
        stride //= 2
    return ordered
