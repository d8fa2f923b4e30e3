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
from ..data.parts import PartError, part_paths, read_part
from ..data.runs import Run, RunError
from ..data.schema import COLUMNS, KEYS, MODES, STORED, derive

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of u that the ribbon over training shows."""

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

_LIGHT = [name for name in STORED if name != "density"]


@dataclass
class _Known:
    """What has been read of a run; a part never changes, so that it holds for later looks too."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    # Steps of each part by mode, and its rows.
    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    # Steps by mode, until another part is known.
    steps: dict[str | None, np.ndarray] = field(default_factory=dict)
    frames: OrderedDict[int, pd.DataFrame] = field(default_factory=OrderedDict)
    # One frame for evenly spaced steps: one for each of them would be mostly overhead.
    spread: pd.DataFrame = field(default_factory=lambda: _no_rows())
    spread_steps: set[int] = field(default_factory=set)
    histograms: OrderedDict[int, pa.Table] = field(default_factory=OrderedDict)
    quantiles: dict[int, pd.DataFrame] = field(default_factory=dict)
    derived: OrderedDict[tuple[str, int, str], Any] = field(default_factory=OrderedDict)

    @property
    def rows(self) -> int:
        """Rows of the record, as far as is known."""
        return sum(self.counts.values())

    def forget(self, step: int) -> None:
        """Drop what was read of a step."""
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
        until = time.monotonic() + patience
        known = self.known
        with known.lock:
            paths = part_paths(self.path, "records")
            names = {path.name for path in paths}
            # Parts are joined, and their oldest records merged, while a run grows.
            gone = [name for name in known.parts if name not in names]
            before = {step for name in gone for step in _all_steps(known.parts[name])}
            new = [path for path in paths if path.name not in known.parts]
            # Where training stands and where it began, before all that lies between.
            for path in [*new[-1:], *new[:1], *new[-2:0:-1]]:
                if path.name in known.parts:
                    continue
                known.parts[path.name] = self._steps_of(path)
                known.steps.clear()
                now = _all_steps(known.parts[path.name])
                # What was read of a step holds if only its file is another.
                for step in now if not now <= before else ():
                    known.forget(step)
                if time.monotonic() > until:
                    break
            for name in gone:
                del known.parts[name]
                known.counts.pop(name, None)
                known.steps.clear()
            if before:
                kept = set(self.steps_so_far(None).tolist())
                for step in before - kept:
                    known.forget(step)
            return len(known.parts) >= len(paths)

    def _steps_of(self, path: Path) -> dict[str, np.ndarray]:
        try:
            keys = read_part(path, ["step", "mode"])
        except PartError as error:
            if path.exists():
                self._torn[path.name] = str(error)
            return {}
        self.known.counts[path.name] = len(keys)
        steps = keys["step"].to_numpy()
        found = {}
        for mode in pc.unique(keys["mode"]).to_pylist():
            chosen = pc.equal(keys["mode"], mode).to_numpy(zero_copy_only=False)
            found[mode] = np.unique(steps[chosen])
        return found

    def steps(self, mode: str | None = "train") -> np.ndarray:
        """Return the recorded steps of a mode (of all if None), ``[R]``, rising."""
        self.index()
        return self.steps_so_far(mode)

    def steps_so_far(self, mode: str | None = "train") -> np.ndarray:
        """Return the recorded steps among the parts known so far, ``[R]``, rising."""
        with self.known.lock:
            if mode not in self.known.steps:
                pieces = [
                    steps
                    for part in self.known.parts.values()
                    for name, steps in part.items()
                    if mode in (None, name)
                ]
                none = np.array([], dtype=np.int64)
                self.known.steps[mode] = np.unique(np.concatenate([none, *pieces]))
            return self.known.steps[mode]

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
        with self.known.lock:
            frame = self.known.frames.get(step)
            if frame is None and step in self.known.spread_steps:
                frame = self.known.spread[self.known.spread["step"] == step]
            if frame is None:
                frame = self._frame_of([step])
                self.known.frames[step] = frame
            if step in self.known.frames:
                self.known.frames.move_to_end(step)
            while len(self.known.frames) > FRAMES:
                self.known.frames.popitem(last=False)
        return frame[frame["mode"] == mode]

    def overall(self) -> pd.DataFrame:
        """Return the record of evenly spaced steps, all of them in a short run."""
        steps = self.steps(None)
        known = self.known
        with known.lock:
            each = max(known.rows / max(len(steps), 1), 1.0)
            wanted = {int(step) for step in self.sampled(max(int(MOST_ROWS / each), 8))}
            missing = sorted(wanted - known.spread_steps)
            if missing or known.spread_steps - wanted:
                kept = known.spread["step"].isin(list(wanted & known.spread_steps))
                pieces = [known.spread[kept], self._frame_of(missing)]
                whole = pd.concat([piece for piece in pieces if len(piece)] or pieces[:1])
                known.spread = whole.sort_values("step", kind="stable", ignore_index=True)
                known.spread_steps = wanted
            return known.spread

    def _frame_of(self, steps: list[int]) -> pd.DataFrame:
        """Read the rows of some steps, one part after the other."""
        if not steps:
            return _no_rows()
        order = {entry.name: place for place, entry in enumerate(self.layers)}
        frame = self._rows(_LIGHT, steps).to_pandas()
        frame = frame.assign(_place=frame["layer"].map(order))
        frame = frame.sort_values(["step", "mode", "_place", "t"], kind="stable")
        return derive(frame.drop(columns="_place").reset_index(drop=True))[_columns()]

    def _rows(self, columns: list[str], steps: Iterable[int]) -> pa.Table:
        """Read columns of some steps from the parts that hold them."""
        wanted = np.unique(np.fromiter(steps, dtype=np.int64))
        for _ in range(JOINED):
            self.index()
            pieces = []
            vanished = False
            for path in part_paths(self.path, "records"):
                held = self.known.parts.get(path.name, {})
                if not any(np.isin(wanted, inside).any() for inside in held.values()):
                    continue
                try:
                    piece = read_part(path, columns, wanted)
                except PartError as error:
                    vanished |= not path.exists()
                    if path.exists():
                        self._torn[path.name] = str(error)
                    continue
                pieces.append(piece.filter(pc.is_in(piece["step"], pa.array(wanted))))
            # A part that was joined with others meanwhile is read from where it is now.
            if not vanished:
                break
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
        with self.known.lock:
            kept = self.known.histograms
            if step not in kept:
                kept[step] = self._rows(list(DENSITY_COLUMNS), [step])
            kept.move_to_end(step)
            while len(kept) > HISTOGRAMS:
                kept.popitem(last=False)
            return kept[step]

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
        with self.known.lock:
            if key not in self.known.derived:
                self.known.derived[key] = make()
            self.known.derived.move_to_end(key)
            while len(self.known.derived) > FRAMES:
                self.known.derived.popitem(last=False)
            return self.known.derived[key]  # type: ignore[no-any-return]

    def quantiles(self, layer: str, mode: str = "train", patience: float = np.inf) -> Ribbon:
        """Return quantiles of u over training, read from the densities of evenly spaced steps.

        Args:
            layer: name of a layer.
            mode: ``"train"`` or ``"eval"``.
            patience: seconds after which the rest is left to the next look.

        Returns:
            A :class:`Ribbon`.
        """
        entry = self.layer(layer)
        until = time.monotonic() + patience
        wanted = [int(step) for step in self.sampled(MOST_STEPS, mode)]
        with self.known.lock:
            kept = self.known.quantiles
            for stale in set(kept) - set(wanted):
                del kept[stale]
            missing = [step for step in wanted if step not in kept]
            for step in _coarse_first(missing):
                kept[step] = _quantiles(self._rows(list(DENSITY_COLUMNS), [step]))
                if time.monotonic() > until:
                    break
            whole = all(step in kept for step in wanted)
            frames = [kept[step] for step in wanted if step in kept]
        names = ["step", "mode", "layer", "t", *map(str, QUANTILES)]
        frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=names)
        frame = frame[(frame["layer"] == layer) & (frame["mode"] == mode)]
        level = 1.0 if entry.coordinate == "u" else 0.0
        shifted = frame[["step", "t"]].assign(
            **{str(q): frame[str(q)].astype(float) + level for q in QUANTILES}
        )
        return Ribbon(shifted.reset_index(drop=True), whole)


@dataclass(frozen=True)
class Ribbon:
    """Quantiles of u of one layer over training.

    Args:
        frame: columns step, t and one per entry of :data:`QUANTILES`, on the axis of the law.
        whole: whether every step that is to be shown has been read.
    """

    frame: pd.DataFrame
    whole: bool


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


def _all_steps(part: dict[str, np.ndarray]) -> set[int]:
    return {int(step) for steps in part.values() for step in steps}


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


def _quantiles(rows: pa.Table) -> pd.DataFrame:
    """Return quantiles of u - threshold (thresholds) of every row, rows of one key together."""
    columns: dict[str, list[object]] = {name: [] for name in ("step", "mode", "layer", "t")}
    values = []
    for mode in pc.unique(rows["mode"]).to_pylist() if len(rows) else []:
        of_mode = rows.filter(pc.equal(rows["mode"], mode))
        for layer in pc.unique(of_mode["layer"]).to_pylist():
            law = collect(of_mode.filter(pc.equal(of_mode["layer"], layer)), 1.0)
            counts = law.counts[0].astype(float)
            below = np.concatenate([np.zeros((len(law.t), 1)), np.cumsum(counts, axis=1)], axis=1)
            for t, line in zip(law.t, below, strict=True):
                known = line[-1] > 0
                values.append(
                    np.interp(np.array(QUANTILES) * line[-1], line, law.edges)
                    if known
                    else np.full(len(QUANTILES), np.nan)
                )
                for name, value in zip(columns, (law.steps[0], mode, layer, t), strict=True):
                    columns[name].append(value)
    table = np.array(values).reshape(-1, len(QUANTILES))
    return pd.DataFrame(columns | {str(q): table[:, k] for k, q in enumerate(QUANTILES)})
