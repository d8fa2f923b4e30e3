"""Parts of a run on disk: each is a Parquet file, written whole or not at all, with checksums."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    # collect="full": spikes of each unit over samples and timesteps, and the joint law of
    # (u - threshold) and |dL/ds|.
    "maps": pa.schema(
        [
            ("step", pa.int64()),
            ("mode", pa.string()),
            ("layer", pa.string()),
            ("shape", pa.list_(pa.int64())),
            ("chances", pa.int64()),
            ("spikes", pa.list_(pa.int64())),
        ]
    ),
    "joints": pa.schema(
        [
            ("step", pa.int64()),
            ("mode", pa.string()),
            ("layer", pa.string()),
            ("t", pa.int64()),
            ("counts", pa.list_(pa.int64())),
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


_MERGED, _STEPS = b"spikescope.merged", b"spikescope.steps"

GROUP_ROWS = 2048
"""Rows that are stored together: a look at one step of a large part reads no more than these."""


class PartError(ValueError):
    """A part that cannot be read; the message names the file and what is wrong with it."""


def part_path(folder: Path, table: str, first: int, last: int | None = None) -> Path:
    """Return where part ``first`` (from 1) of a table lies, or one made of parts up to ``last``."""
    to = "" if last is None or last == first else f"-{last:08d}"
    return folder / f"{table}-{first:08d}{to}.parquet"


def part_range(path: Path) -> tuple[int, int]:
    """Return the first and the last of the numbers that a part stands for."""
    numbers = [int(number) for number in path.stem.split("-")[1:]]
    return numbers[0], numbers[-1]


def part_paths(folder: Path, table: str) -> list[Path]:
    """Return the finished parts of a table in the order in which they were written.

    A part that was made of several stands in for them from the moment in which it is there.
    """
    number = "[0-9]" * 8
    found = [*folder.glob(f"{table}-{number}.parquet")]
    found += folder.glob(f"{table}-{number}-{number}.parquet")
    parts: list[Path] = []
    reached = 0
    # Of those that begin together the widest comes first; what lies inside it is skipped.
    for path in sorted(found, key=lambda path: (part_range(path)[0], -part_range(path)[1])):
        last = part_range(path)[1]
        if last > reached:
            parts.append(path)
            reached = last
    return parts


def write_part(
    path: Path, table: str, columns: Mapping[str, Iterable[Any]] | pa.Table, merged: int = 0
) -> None:
    """Write one part: temporary file, fsync, rename, so that a reader sees all of it or nothing.

    Args:
        path: final name of the part.
        table: a key of :data:`TABLES`.
        columns: the values of every column of that table, equally long.
        merged: how often neighbouring records were merged to get it.

    Raises:
        OSError: the disk refuses; no part is left behind.
    """
    frame = pa.table({name: columns[name] for name in TABLES[table].names}, schema=TABLES[table])
    facts = {_STEPS: _told(_steps_by_mode(frame))} if "mode" in frame.column_names else {}
    if merged:
        facts[_MERGED] = str(merged).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(
        frame.replace_schema_metadata(facts),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=GROUP_ROWS,
        # The only ones that are asked for; those of all columns would be most of the footer.
        write_statistics=["step"],
    )
    write_bytes(path, sink.getvalue().to_pybytes())


def _steps_by_mode(rows: pa.Table) -> dict[str, np.ndarray]:
    """Return the steps of each mode, rising."""
    steps = rows["step"].to_numpy()
    of_mode = {
        mode: pc.equal(rows["mode"], mode).to_numpy(zero_copy_only=False)
        for mode in pc.unique(rows["mode"]).to_pylist()
    }
    return {mode: np.unique(steps[chosen]) for mode, chosen in of_mode.items()}


def _told(steps: Mapping[str, np.ndarray]) -> bytes:
    """Return steps as a footer holds them: what it says is not covered by a page's checksum."""
    text = json.dumps({mode: held.tolist() for mode, held in steps.items()}).encode()
    return b"%08x %b" % (zlib.crc32(text), text)


def times_merged(path: Path) -> int:
    """Return how often neighbouring records were merged to get a part, from its footer.

    Raises:
        PartError: the footer cannot be read.
    """
    try:
        found = pq.read_metadata(path).metadata or {}
        return int(found.get(_MERGED, 0))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PartError(f"{path.name} cannot be read and is left out: {error}") from error


def part_steps(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Return which steps a part holds, from its footer where that says it.

    Args:
        path: a part of a table with the columns step and mode.

    Returns:
        Steps by mode, rising, and the number of its rows.

    Raises:
        PartError: the part is torn, truncated or altered.
    """
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PartError(f"{path.name} cannot be read and is left out: {error}") from error
    check, _, text = (footer.metadata or {}).get(_STEPS, b"").partition(b" ")
    if check == b"%08x" % zlib.crc32(text):
        held = {mode: np.array(steps, dtype=np.int64) for mode, steps in json.loads(text).items()}
        return held, footer.num_rows
    # An older part does not say it.
    rows = read_part(path, ["step", "mode"])
    return _steps_by_mode(rows), len(rows)


def read_part(
    path: Path, columns: list[str] | None = None, steps: np.ndarray | None = None
) -> pa.Table:
    """Read one part and verify its checksums.

    Args:
        path: the part.
        columns: columns to read; all if None.
        steps: ``[n]`` steps, rising: rows stored apart from any of them are not read; others
            may come along.

    Returns:
        An arrow table.

    Raises:
        PartError: the part is torn, truncated or altered.
    """
    schema = TABLES[path.name.partition("-")[0]]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            facts = file.metadata
            every = range(facts.num_row_groups)
            groups = [k for k in every if steps is None or _touches(facts.row_group(k), steps)]
            table = file.read_row_groups(groups, columns)
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PartError(f"{path.name} cannot be read and is left out: {reason}") from error
    names = schema.names if columns is None else columns
    # The checksums do not reach the footer: it must agree with itself and with the schema.
    rows = [facts.row_group(index).num_rows for index in every]
    expected = pa.schema([schema.field(name) for name in names])
    whole = sum(rows) == facts.num_rows and sum(rows[k] for k in groups) == table.num_rows
    if not (whole and table.schema.equals(expected)):
        raise PartError(f"{path.name} cannot be read and is left out: its footer was altered")
    return table.replace_schema_metadata(None)


def _touches(group: Any, steps: np.ndarray) -> bool:
    """Return whether a row group can hold any of the steps, from its statistics."""
    held = [group.column(k) for k in range(group.num_columns)]
    range_ = next(column.statistics for column in held if column.path_in_schema == "step")
    place = int(np.searchsorted(steps, range_.min))
    return place < len(steps) and bool(steps[place] <= range_.max)


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
