"""One folder that grows by parts: numbered on, compacted, kept within a size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .compaction import TOGETHER, compact, keep_within
from .parts import TABLES, part_path, part_paths, part_range, write_part


class Appender:
    """The parts of a folder that one process writes.

    Args:
        folder: the folder; what it holds already is gone on with.
        most: bound of its size in bytes; None for none.

    ``merges`` counts how often neighbouring records were merged to stay within the bound, ``full``
    says that more is needed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for step in range(2):
        ...     Appender(folder, None).append(
        ...         "scalars", {"step": [step], "name": ["loss"], "value": [1.0]})
        >>> [path.name for path in part_paths(folder, "scalars")]
        ['scalars-00000001.parquet', 'scalars-00000002.parquet']
    """

    def __init__(self, folder: Path, most: int | None) -> None:
        self.merges = 0
        self.full = False
        self._folder, self._most = folder, most
        self._parts = {
            table: max((part_range(path)[1] for path in part_paths(folder, table)), default=0)
            for table in TABLES
        }
        self._since = dict.fromkeys(TABLES, 0)
        self._more: set[str] = set()

    def append(self, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
        """Write the next part of a table; it is on disk when this returns."""
        number = self._parts[table] + 1
        part = part_path(self._folder, table, number)
        write_part(part, table, columns)
        size = part.stat().st_size  # the next one will be about as large
        self._parts[table] = number
        self._since[table] = (self._since[table] + 1) % TOGETHER
        if self._since[table] == 0 or table in self._more:
            # A run at a time: what waits for the writer meanwhile must not become too much.
            if compact(self._folder, table, TOGETHER, runs=1):
                self._more.add(table)
            else:
                self._more.discard(table)
        if self._most is not None:
            fits, merges = keep_within(self._folder, self._most, size)
            self.merges += merges
            self.full = not fits
