"""Parts of a run on disk: each is a Parquet file, written whole or not at all, with checksums."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .schema import COLUMNS, STORED

_ARROW = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "str": pa.string(),
    "counts": pa.list_(pa.int64()),
}

TABLES: dict[str, pa.Schema] = {
    "records": pa.schema([(name, _ARROW[COLUMNS[name].dtype]) for name in STORED]),
    "scalars": pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())]),
    "events": pa.schema(
        [
            ("step", pa.int64()),
            ("layer", pa.string()),
            ("kind", pa.string()),
            ("text", pa.string()),
        ]
    ),
    "vitals": pa.schema(
        [
            ("step", pa.int64()),
            ("layer", pa.string()),
            ("name", pa.string()),
            ("t", pa.int64()),
            ("quantity", pa.string()),
            ("value", pa.float64()),
        ]
    ),
}
"""The tables of a run, a schema each."""


class PartError(ValueError):
    """A part that cannot be read; the message names the file and what is wrong with it."""


def part_path(folder: Path, table: str, number: int) -> Path:
    """Return where part ``number`` (from 1) of a table lies."""
    return folder / f"{table}-{number:08d}.parquet"


def part_paths(folder: Path, table: str) -> list[Path]:
    """Return the finished parts of a table in the order in which they were written."""
    return sorted(folder.glob(f"{table}-{'[0-9]' * 8}.parquet"))


def write_part(path: Path, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write one part: temporary file, fsync, rename, so that a reader sees all of it or nothing.

    Args:
        path: final name of the part.
        table: a key of :data:`TABLES`.
        columns: the values of every column of that table, equally long.

    Raises:
        OSError: the disk refuses; no part is left behind.
    """
    frame = pa.table({name: columns[name] for name in TABLES[table].names}, schema=TABLES[table])
    sink = pa.BufferOutputStream()
    pq.write_table(frame, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one part and verify its checksums.

    Args:
        path: the part.
        columns: columns to read; all if None.

    Returns:
        An arrow table.

    Raises:
        PartError: the part is torn, truncated or altered.
    """
    schema = TABLES[path.name.rpartition("-")[0]]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns)
            facts = file.metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PartError(f"{path.name} cannot be read and is left out: {reason}") from error
    names = schema.names if columns is None else columns
    # The checksums do not reach the footer: it must agree with itself and with the schema.
    rows = sum(facts.row_group(index).num_rows for index in range(facts.num_row_groups))
    expected = pa.schema([schema.field(name) for name in names])
    if not (rows == table.num_rows == facts.num_rows and table.schema.equals(expected)):
        raise PartError(f"{path.name} cannot be read and is left out: its footer was altered")
    return table


def may_hold(path: Path, steps: np.ndarray) -> bool:
    """Return whether a part can hold any of these steps, from its footer alone.

    Args:
        path: the part.
        steps: ``[n]`` steps, rising.

    Raises:
        PartError: the footer cannot be read.
    """
    try:
        footer = pq.read_metadata(path)
        column = footer.schema.names.index("step")
        groups = [footer.row_group(k).column(column) for k in range(footer.num_row_groups)]
        ranges = [(group.statistics.min, group.statistics.max) for group in groups]
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise PartError(f"{path.name} cannot be read and is left out: {error}") from error
    places = [np.searchsorted(steps, low) for low, _ in ranges]
    return any(
        place < len(steps) and steps[place] <= high
        for place, (_, high) in zip(places, ranges, strict=True)
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; numbers that JSON lacks become null."""
    text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, default=str)
    write_bytes(path, (text + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return value


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbour, so that a kill leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; not every system lets a folder be opened.
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
