"""Reading the parts of a run, also while they are written, replaced and come from several ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .parts import TABLES, PartError, may_hold, part_paths, read_part

RANKS = "ranks"
"""Folder of the folders in which the other processes of a distributed training write."""

OF_ONE_RANK = ("scalars", "vitals")
"""Tables that rank 0 writes alone: what it was told, and what its share of the batch showed."""

_TRIES = 5


def rank_folders(path: Path) -> list[Path]:
    """Return the folders of a run's ranks, its own first."""
    return [path, *sorted(folder for folder in path.glob(f"{RANKS}/*") if folder.is_dir())]


def read_table(
    path: Path,
    table: str,
    problems: dict[str, str],
    columns: list[str] | None = None,
    equal: Sequence[tuple[str, str]] = (),
    steps: Iterable[int] | None = None,
) -> pa.Table:
    """Read and join the parts of a table; torn ones are named and left out.

    Args:
        path: folder of the run.
        table: a key of :data:`~spikescope.data.parts.TABLES`.
        problems: gets a sentence for each part that cannot be read.
        columns: columns to read; all if None.
        equal: columns with the value that rows must have.
        steps: steps to read; all if None.
    """
    wanted = None if steps is None else np.unique(np.fromiter(steps, dtype=np.int64))
    folders = [path] if table in OF_ONE_RANK else rank_folders(path)
    pieces = [
        piece
        for folder in folders
        for piece in _read_folder(folder, table, problems, columns, equal, wanted)
    ]
    if pieces:
        return pa.concat_tables(pieces)
    schema = TABLES[table]
    chosen = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    return chosen.empty_table()


def _read_folder(
    folder: Path,
    table: str,
    problems: dict[str, str],
    columns: list[str] | None,
    equal: Sequence[tuple[str, str]],
    wanted: np.ndarray | None,
) -> list[pa.Table]:
    for attempt in range(_TRIES):
        pieces = []
        gone = False
        torn: dict[str, str] = {}
        for path in part_paths(folder, table):
            try:
                if wanted is not None and not may_hold(path, wanted):
                    continue
                piece = read_part(path, columns)
            except PartError as error:
                gone = gone or not path.exists()
                torn[path.name] = str(error)
                continue
            for name, value in equal:
                piece = piece.filter(pc.equal(piece[name], value))
            if wanted is not None:
                piece = piece.filter(pc.is_in(piece["step"], pa.array(wanted)))
            pieces.append(piece)
        # A part that went while it was read stands in another one by now: look again.
        if not gone or attempt == _TRIES - 1:
            break
    problems.update(torn)
    return pieces
