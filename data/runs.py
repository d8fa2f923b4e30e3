"""Open a recorded run: read it lazily, also while it grows, and say what is torn or missing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .densities import DENSITY_COLUMNS, Density, collect
from .fine import Joint, Maps, collect_joint, collect_maps
from .merge import merge_rows
from .process import is_alive
from .reading import rank_folders, read_table
from .remote import Copy, is_remote
from .run_header import Layer, RunError, layers_of, read_header
from .schema import COLUMNS, KEYS, MODES, STORED, derive
from .store import END, HEADER, LAYERS, SILENT_SECONDS, last_written

__all__ = ["SILENT_SECONDS", "Layer", "Run", "RunError", "find_runs", "open_run"]


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Args:
        path: folder that ``spikescope.watch`` wrote, or an address such as ``s3://bucket/run``.

    Returns:
        A :class:`Run`; nothing but its header has been read.

    Raises:
        RunError: there is no such folder, it holds no run, or a newer spikescope wrote it.

    Example:
        >>> open_run("no/such/run")
        Traceback (most recent call last):
        ...
        spikescope.data.run_header.RunError: 'no/such/run' does not exist: name a folder with a run
    """
    return Run(path)


class Run:
    """A recorded run; every call sees what has been flushed so far."""

    def __init__(self, path: str | Path) -> None:
        self._copy: Copy | None = None
        if is_remote(path):
            self._copy = _copied(str(path))
        self.path = Path(path) if self._copy is None else self._copy.path
        self.header = read_header(self.path)
        self._layers: tuple[Any, tuple[Layer, ...]] = None, layers_of(self.path, self.header)
        self._torn: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.state}, {len(self.layers)} layers)"

    @property
    def name(self) -> str:
        """Name of the run, that of its folder."""
        return self.path.name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers in network order, those included that were found after the header was written."""
        file = self.path / LAYERS
        try:
            facts = file.stat()
            changed = facts.st_mtime_ns, facts.st_ino
            if changed != self._layers[0]:
                content = json.loads(file.read_text(encoding="utf-8"))
                self._layers = changed, layers_of(self.path, content)
        except FileNotFoundError:
            pass  # most runs need none
        except (OSError, ValueError) as error:
            self._torn[LAYERS] = f"{LAYERS} cannot be read and is left out: {error}"
        return self._layers[1]

    @property
    def covered(self) -> tuple[Layer, ...]:
        """Layers that were recorded, in network order."""
        return tuple(layer for layer in self.layers if layer.covered)

    @property
    def end(self) -> dict[str, Any]:
        """How the run ended: state, steps, error; empty while it is being written."""
        if self._copy is not None:
            self._copy.pull()
        try:
            content = json.loads((self.path / END).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def cost(self) -> dict[str, Any]:
        """What recording has cost, as far as it was written.

        ``budget``, the share ``spent`` of the training's own time, ``seconds``, and how many steps
        of the schedule were ``recorded`` and ``skipped``; empty where nothing is known.
        """
        cost = self.end.get("cost") or self.judgement("cost")
        return cost if isinstance(cost, dict) else {}

    @property
    def state(self) -> str:
        """``"recording"``, ``"finished"`` or ``"broken off"``."""
        end = self.end
        if end:
            return "finished" if end.get("state") == "finished" else "broken off"
        alive = is_alive(self.header)
        if alive is None:
            alive = time.time() - self.last_written < SILENT_SECONDS
        return "recording" if alive else "broken off"

    @property
    def last_written(self) -> float:
        """Time (seconds since 1970) of the youngest file of the run."""
        return last_written(self.path)

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
        if len(rank_folders(self.path)) > 1:
            table = merge_rows(table)
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
        entry = self.layer(layer)
        _check_mode(mode)
        equal = (("layer", layer), ("mode", mode))
        return collect(self._read("records", list(DENSITY_COLUMNS), equal, steps), entry.scale)

    def densities(
        self, *, mode: str = "train", steps: Iterable[int] | None = None
    ) -> dict[str, Density]:
        """Return the histograms of u of all recorded layers, by name, in one pass over the disk.

        Args:
            mode: ``"train"`` or ``"eval"``.
            steps: recorded steps to return; all if None.

        Returns:
            A :class:`Density` for each layer that has any, in network order.

        Raises:
            RunError: an unknown mode.
        """
        _check_mode(mode)
        rows = self._read("records", list(DENSITY_COLUMNS), (("mode", mode),), steps)
        by_name = {layer.name: layer for layer in self.layers}
        # Sorted once, the rows of a layer are a slice: no pass over all of them for each layer.
        rows = rows.take(pc.sort_indices(rows["layer"]))
        groups = pc.value_counts(rows["layer"]).to_pylist()
        ends = list(accumulate(group["counts"] for group in groups))
        slices = {
            group["values"]: rows.slice(end - group["counts"], group["counts"])
            for group, end in zip(groups, ends, strict=True)
        }
        return {
            name: collect(slices[name], by_name[name].scale)
            for name in sorted(slices, key=list(by_name).index)
        }

    def joint(
        self, layer: str, *, mode: str = "train", steps: Iterable[int] | None = None
    ) -> Joint:
        """Return the joint histograms of (u - threshold) and |dL/ds|, of ``collect="full"``.

        Args:
            layer: name of a layer that is read by replay.
            mode: ``"train"`` or ``"eval"``.
            steps: recorded steps to return; all if None.

        Returns:
            A :class:`~spikescope.data.fine.Joint` with counts ``[record, t, u_bin, g_bin]``.

        Raises:
            RunError: an unknown layer or mode.
        """
        entry = self.layer(layer)
        return collect_joint(self._fine("joints", layer, mode, steps), entry.scale)

    def maps(self, layer: str, *, mode: str = "train", steps: Iterable[int] | None = None) -> Maps:
        """Return which units of a layer fire how often, of ``collect="full"``.

        Args:
            layer: name of the layer.
            mode: ``"train"`` or ``"eval"``.
            steps: recorded steps to return; all if None.

        Returns:
            :class:`~spikescope.data.fine.Maps` over the units, ``[record, ...]``.

        Raises:
            RunError: an unknown layer or mode.
        """
        self.layer(layer)
        return collect_maps(self._fine("maps", layer, mode, steps))

    def _fine(self, table: str, layer: str, mode: str, steps: Iterable[int] | None) -> pd.DataFrame:
        _check_mode(mode)
        equal = (("layer", layer), ("mode", mode))
        frame: pd.DataFrame = self._read(table, None, equal, steps).to_pandas()
        return frame

    def scalars(self) -> pd.DataFrame:
        """Return loss and whatever else ``probe.step()`` was given, a row per step."""
        long = self._read("scalars").to_pandas()
        # A NaN is a value like any other here: it is what a diverged loss looks like.
        last = long.drop_duplicates(["step", "name"], keep="last")
        wide: pd.DataFrame = last.pivot(index="step", columns="name", values="value")
        wide.columns.name = None
        return wide.sort_index()

    def told(self, name: str) -> Any:
        """Return the steps ``[n]`` for which a scalar was told, NaN or not."""
        long = self._read("scalars").to_pandas()
        return long.loc[long["name"] == name, "step"].drop_duplicates().sort_values().to_numpy()

    def vitals(self) -> pd.DataFrame:
        """Return what recorded steps tell beside the statistics: columns of the table "vitals".

        Parameters and their updates, learned values, batch norms; a row per step, layer, name,
        timestep (0 for all) and quantity, whose meaning is in ``data.vitals.VITALS``.
        """
        vitals: pd.DataFrame = self._read("vitals").to_pandas()
        return vitals

    def judgement(self, name: str) -> dict[str, Any]:
        """Return what the run holds of judgements: its ``"lint"`` or its ``"findings"``; or {}."""
        try:
            content = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def events(self) -> pd.DataFrame:
        """Return what happened on the way: columns step, layer, kind, text."""
        events: pd.DataFrame = self._read("events").to_pandas()
        return events

    def _read(
        self,
        table: str,
        columns: list[str] | None = None,
        equal: Sequence[tuple[str, str]] = (),
        steps: Iterable[int] | None = None,
    ) -> pa.Table:
        """Read and join the parts of a table; torn ones are named in ``problems`` and left out."""
        if self._copy is not None:
            self._copy.pull()
        return read_table(self.path, table, self._torn, columns, equal, steps)


def find_runs(root: str | Path) -> list[Path]:
    """Return the run folders at or directly under a folder, by name; links out are not followed.

    Args:
        root: a run folder, or a folder of run folders.

    Returns:
        Paths of the folders that hold a ``run.json``.

    Raises:
        RunError: the folder does not exist, or is a file.
    """
    root = Path(root)
    if not root.is_dir():
        said = "is no folder" if root.exists() else "does not exist"
        raise RunError(f"{str(root)!r} {said}: name a run folder or a folder of runs")
    if (root / HEADER).is_file():
        return [root]
    inside = root.resolve()
    return sorted(
        path
        for path in root.iterdir()
        if (path / HEADER).is_file() and path.resolve().is_relative_to(inside)
    )


def _copied(address: str) -> Copy:
    try:
        copy = Copy(address)
        found = copy.pull()
    except Exception as error:  # each filesystem has its own
        raise RunError(f"{address!r} cannot be read: {error}") from error
    if not found:
        raise RunError(f"{address!r} does not exist: name a folder with a run")
    return copy


def _check_mode(mode: str | None) -> None:
    if mode is not None and mode not in MODES:
        raise RunError(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")
