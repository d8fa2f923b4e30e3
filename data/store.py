"""The writing side of a run: a new folder, its header, its parts, its end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .parts import TABLES, part_path, part_paths, write_json, write_part
from .schema import FORMAT_VERSION

HEADER = "run.json"
END = "end.json"
LAYERS = "layers.json"
"""The layers as far as they are known by now; it stands in for those of the header."""


class RunStore:
    """One run folder that this process writes.

    Args:
        path: wanted folder; if something is there already, the next free name with a number.
        header: what is known before the first step; format, name, host, process are added.

    Raises:
        OSError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> store = RunStore(Path(tempfile.mkdtemp()) / "run", {})
        >>> store.append("scalars", {"step": [0], "name": ["loss"], "value": [2.3]})
        >>> store.end("finished", steps=1)
        >>> sorted(file.name for file in store.path.iterdir())
        ['end.json', 'run.json', 'scalars-00000001.parquet']
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = _new_folder(Path(path))
        self._parts = {table: len(part_paths(self.path, table)) for table in TABLES}
        write_json(
            self.path / HEADER,
            {
                "format": FORMAT_VERSION,
                "name": self.path.name,
                "created": time.time(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                **header,
            },
        )

    def append(self, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
        """Write the next part of a table; it is on disk when this returns."""
        number = self._parts[table] + 1
        write_part(part_path(self.path, table, number), table, columns)
        self._parts[table] = number

    def know(self, layers: Iterable[Mapping[str, Any]]) -> None:
        """Say which layers there are, all of them, where the header could not know it yet."""
        write_json(self.path / LAYERS, {"layers": list(layers)})

    def judge(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a judgement about the run, ``"lint"`` or ``"findings"``; a later one replaces it."""
        write_json(self.path / f"{name}.json", content)

    def end(self, state: str, **facts: Any) -> None:
        """Say how the run ended; without this a reader calls it broken off."""
        write_json(self.path / END, {"state": state, "ended": time.time(), **facts})


def _new_folder(wanted: Path) -> Path:
    """Make and return a folder that did not exist: ``run``, ``run-2``, ``run-3``, ..."""
    if not wanted.name:  # "." has no name that a number could be added to
        wanted = wanted.resolve()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path
