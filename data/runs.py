"""Open a recorded run: read it lazily, also while it grows, and say what is torn or missing."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .parts import TABLES, PartError, part_paths, read_part
from .schema import (
    COLUMNS,
    FORMAT_VERSION,
    KEYS,
    MODES,
    STORED,
    coarsen_density,
    density_edges,
    derive,
)
from .store import END, HEADER

SILENT_SECONDS = 900.0
"""A run written on another host counts as broken off after this long without a new part."""


class RunError(ValueError):
    """A path that is no readable run; the message says what is there and what would be right."""


@dataclass(frozen=True)
class Layer:
    """One module of the watched model.

    Args:
        name: its name in the model.
        kind: its class.
        covered: whether it was recorded.
        reason: why not, if it was not.
        spec: fields of its NeuronSpec.
        surrogate: fields of its Surrogate, None if it has none.
        scale: potential that one unit of the density's axis stands for (the threshold).
    """

    name: str
    kind: str = ""
    covered: bool = True
    reason: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    surrogate: dict[str, Any] | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Density:
    """Histograms of u of one layer over training.

    Args:
        steps: ``[R]`` recorded steps.
        t: ``[T]`` timesteps, from 1.
        counts: ``[R, T, bin]`` elements; a row that was not recorded is all zero.
        edges: ``[bin + 1]`` edges of (u - threshold) in thresholds.
        scale: potential per unit of ``edges``.
    """

    steps: np.ndarray
    t: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    scale: float


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Args:
        path: folder that ``spikescope.watch`` wrote.

    Returns:
        A :class:`Run`; nothing but its header has been read.

    Raises:
        RunError: there is no such folder, it holds no run, or a newer spikescope wrote it.

    Example:
        >>> open_run("no/such/run")
        Traceback (most recent call last):
        ...
        spikescope.data.runs.RunError: 'no/such/run' does not exist: name a folder with a run
    """
    return Run(path)


class Run:
    """A recorded run; every call sees what has been flushed so far."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = _read_header(self.path)
        self.layers = _layers(self.path, self.header)
        self._torn: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.state}, {len(self.layers)} layers)"

    @property
    def name(self) -> str:
        """Name of the run, that of its folder."""
        return self.path.name

    @property
    def covered(self) -> tuple[Layer, ...]:
        """Layers that were recorded, in network order."""
        return tuple(layer for layer in self.layers if layer.covered)

    @property
    def end(self) -> dict[str, Any]:
        """How the run ended: state, steps, error; empty while it is being written."""
        try:
            content = json.loads((self.path / END).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def state(self) -> str:
        """``"recording"``, ``"finished"`` or ``"broken off"``."""
        end = self.end
        if end:
            return "finished" if end.get("state") == "finished" else "broken off"
        if self.header.get("host") == socket.gethostname():
            return "recording" if _alive(self.header.get("pid")) else "broken off"
        recent = time.time() - self.last_written < SILENT_SECONDS
        return "recording" if recent else "broken off"

    @property
    def last_written(self) -> float:
        """Time (seconds since 1970) of the youngest file of the run."""
        times = [0.0]
        for file in self.path.iterdir():
            try:
                times.append(file.stat().st_mtime)
            except OSError:  # a temporary file that has got its name in the meantime
                continue
        return max(times)

    @property
    def problems(self) -> list[str]:
        """What could not be read so far, a sentence each."""
        return list(self._torn.values())

    @property
    def seed(self) -> int | None:
        """Seed of torch's default generator when recording began."""
        return self.header.get("seed")

    def layer(self, name: str) -> Layer:
        """Return a layer by its name; an unknown name gets the list of known ones."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(repr(layer.name) for layer in self.layers) or "none"
        raise RunError(f"layer {name!r} is not in run {self.name!r}; its layers are {known}")

    def table(
        self,
        columns: Sequence[str] | None = None,
        *,
        layer: str | None = None,
        mode: str | None = None,
        since: int | None = None,
    ) -> pd.DataFrame:
        """Return the record without the densities.

        Args:
            columns: names of :data:`COLUMNS` to return beside the keys; all if None.
            layer: only this layer.
            mode: only ``"train"`` or ``"eval"``.
            since: only steps from this one on.

        Returns:
            A DataFrame with a row per (step, mode, layer, t), in the order step, mode, network
            order, t; stored and derived columns.

        Raises:
            RunError: an unknown layer, mode or column.
        """
        unknown = sorted(set(columns or ()) - set(COLUMNS))
        if unknown:
            raise RunError(f"column {unknown[0]!r} is unknown; there are {', '.join(COLUMNS)}")
        if "density" in (columns or ()):
            raise RunError("column 'density' is no number: read it with run.density(layer)")
        _check_mode(mode)
        if layer is not None:
            self.layer(layer)
        light = [name for name in STORED if name != "density"]
        table = self._read("records", light).to_pandas()
        for name, wanted in (("layer", layer), ("mode", mode)):
            if wanted is not None:
                table = table[table[name] == wanted]
        if since is not None:
            table = table[table["step"] >= since]
        order = {entry.name: place for place, entry in enumerate(self.layers)}
        table = table.assign(_place=table["layer"].map(order))
        table = table.sort_values(["step", "mode", "_place", "t"], kind="stable")
        table = derive(table.drop(columns="_place").reset_index(drop=True))
        wanted_columns = [name for name in COLUMNS if name in table.columns]
        if columns is not None:
            wanted_columns = [*KEYS, *(name for name in columns if name not in KEYS)]
        return table[wanted_columns]

    def density(
        self, layer: str, *, mode: str = "train", steps: Iterable[int] | None = None
    ) -> Density:
        """Return the histograms of u of one layer, brought to one set of bins.

        Args:
            layer: name of the layer.
            mode: ``"train"`` or ``"eval"``.
            steps: recorded steps to return; all if None.

        Returns:
            A :class:`Density` with counts ``[record, t, bin]``.

        Raises:
            RunError: an unknown layer or mode.
        """
        scale = self.layer(layer).scale
        _check_mode(mode)
        names = ["step", "mode", "layer", "t", "density", "density_exponent"]
        filters = (("layer", layer), ("mode", mode))
        rows = self._read("records", names, filters).to_pandas()
        if steps is not None:
            rows = rows[rows["step"].isin(list(steps))]
        if rows.empty:
            empty = np.array([], dtype=np.int64)
            counts = np.zeros((0, 0, len(density_edges(0)) - 1), dtype=np.int64)
            return Density(empty, empty, counts, density_edges(0), scale)
        at_steps, step_index = np.unique(rows["step"], return_inverse=True)
        at_t, t_index = np.unique(rows["t"], return_inverse=True)
        widest = int(rows["density_exponent"].max())
        edges = density_edges(widest)
        counts = np.zeros((len(at_steps), len(at_t), len(edges) - 1), dtype=np.int64)
        exponents = rows["density_exponent"].to_numpy()
        histograms = np.stack([np.asarray(value) for value in rows["density"]])
        for exponent in np.unique(exponents):
            chosen = exponents == exponent
            coarse = coarsen_density(histograms[chosen], widest - int(exponent))
            np.add.at(counts, (step_index[chosen], t_index[chosen]), coarse)
        return Density(at_steps, at_t, counts, edges, scale)

    def scalars(self) -> pd.DataFrame:
        """Return loss and whatever else ``probe.step()`` was given, a row per step."""
        long = self._read("scalars").to_pandas()
        # A NaN is a value like any other here: it is what a diverged loss looks like.
        last = long.drop_duplicates(["step", "name"], keep="last")
        wide: pd.DataFrame = last.pivot(index="step", columns="name", values="value")
        wide.columns.name = None
        return wide.sort_index()

    def events(self) -> pd.DataFrame:
        """Return what happened on the way: columns step, layer, kind, text."""
        events: pd.DataFrame = self._read("events").to_pandas()
        return events

    def _read(
        self,
        table: str,
        columns: list[str] | None = None,
        equal: Sequence[tuple[str, str]] = (),
    ) -> pa.Table:
        """Read and join the parts of a table; torn ones are named in ``problems`` and left out."""
        pieces = []
        for path in part_paths(self.path, table):
            try:
                piece = read_part(path, columns)
            except PartError as error:
                self._torn[path.name] = str(error)
                continue
            for name, value in equal:
                piece = piece.filter(pc.equal(piece[name], value))
            pieces.append(piece)
        if pieces:
            return pa.concat_tables(pieces)
        schema = TABLES[table]
        chosen = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return chosen.empty_table()


def find_runs(root: str | Path) -> list[Path]:
    """Return the run folders at or directly under a folder, by name; links out are not followed.

    Args:
        root: a run folder, or a folder of run folders.

    Returns:
        Paths of the folders that hold a ``run.json``.

    Raises:
        RunError: the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise RunError(f"{str(root)!r} does not exist: name a run folder or a folder of runs")
    if (root / HEADER).is_file():
        return [root]
    inside = root.resolve()
    return sorted(
        path
        for path in root.iterdir()
        if (path / HEADER).is_file() and path.resolve().is_relative_to(inside)
    )


def _read_header(path: Path) -> dict[str, Any]:
    shown = repr(str(path))
    if not path.exists():
        raise RunError(f"{shown} does not exist: name a folder with a run")
    file = path / HEADER
    if not file.is_file():
        raise RunError(f"{shown} is no run: it has no {HEADER}")
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{shown} is damaged: {HEADER} cannot be read ({error})") from error
    written = header.get("format") if isinstance(header, dict) else None
    if not isinstance(written, int):
        raise RunError(f"{shown} is damaged: {HEADER} does not say its format")
    if written > FORMAT_VERSION:
        raise RunError(
            f"{shown} has format {written}, this spikescope reads up to {FORMAT_VERSION}: upgrade "
            "spikescope to open it"
        )
    return dict(header)


def _layers(path: Path, header: dict[str, Any]) -> tuple[Layer, ...]:
    entries = header.get("layers", [])
    names = Layer.__dataclass_fields__
    try:
        return tuple(
            Layer(**{key: entry[key] for key in names if key in entry}) for entry in entries
        )
    except TypeError as error:
        raise RunError(f"{str(path)!r} is damaged: {HEADER} has broken layers ({error})") from error


def _check_mode(mode: str | None) -> None:
    if mode is not None and mode not in MODES:
        raise RunError(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
