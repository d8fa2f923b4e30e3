"""Many small parts become few; a folder stays within a size by merging neighbouring records.

A part that takes the place of others is complete on the disk before they go, and readers know from
its name what it stands for: they never see a row twice, and a kill in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .merge import merge_rows
from .parts import (
    TABLES,
    PartError,
    part_path,
    part_paths,
    part_range,
    read_part,
    times_merged,
    write_part,
)

TOGETHER = 32
"""Neighbouring parts of about one size that become one."""

LARGEST_PART = 4 << 20
"""Bytes of a part that is made of others ..."""

LARGEST_VALUES = 1 << 21
"""... and its numbers: 16 MB in memory, and a tenth of a second of the writer's time."""

SHARE = 8
"""A part takes at most this share of a bounded folder: merging the oldest leaves the newest alone.

So much is kept free, too, for what is there twice while one part takes the place of others.
"""

MOST_MERGED = 40
"""A record that stands for 2^40 neighbours is not merged further."""


def compact(
    folder: Path,
    table: str,
    together: int = TOGETHER,
    largest: int = LARGEST_PART,
    runs: int | None = None,
) -> int:
    """Turn runs of small neighbouring parts into one each.

    Args:
        folder: a folder of parts.
        table: a key of :data:`~spikescope.data.parts.TABLES`.
        together: how many it takes.
        largest: bytes of a part that is made of others.
        runs: how many runs at most; None for all.

    Returns:
        Number of parts that went.
    """
    gone = done = 0
    for run, whole in list(_runs(folder, table, largest)):
        if len(run) >= (2 if whole else together) and done != runs:
            gone += _replace(table, run, _joined(run))
            done += 1
    return gone


def _runs(folder: Path, table: str, largest: int) -> Iterator[tuple[list[Path], bool]]:
    """Yield neighbouring parts of one kind: merged as often, of one order of size, together small.

    With them comes whether the next one would make them too large. A part that cannot be read
    stays where it is: it is evidence.
    """

    def kind(path: Path) -> tuple[int, int, int]:
        first, last = part_range(path)
        try:
            return times_merged(path), (last - first + 1).bit_length() // 5, 0
        except PartError:
            return -1, first, 0

    for (merged, _, _), group in groupby(part_paths(folder, table), kind):
        run: list[Path] = []
        size = values = 0
        for path in group if merged >= 0 else ():
            own, many = path.stat().st_size, _values(path)
            if run and (size + own > largest or values + many > LARGEST_VALUES):
                yield run, True
                run, size, values = [], 0, 0
            run.append(path)
            size, values = size + own, values + many
        if run:
            yield run, False


def _values(path: Path) -> int:
    """Return how many numbers a part holds, from its footer."""
    facts = pq.read_metadata(path)
    groups = [facts.row_group(k) for k in range(facts.num_row_groups)]
    return sum(g.column(k).num_values for g in groups for k in range(g.num_columns))


def _joined(run: list[Path]) -> pa.Table | None:
    try:
        return pa.concat_tables([read_part(path) for path in run])
    except PartError:
        return None


def _replace(table: str, run: list[Path], rows: pa.Table | None, merged: int | None = None) -> int:
    """Write what takes the place of parts, then remove them; return how many went."""
    if rows is None:
        return 0
    level = times_merged(run[0]) if merged is None else merged
    new = part_path(run[0].parent, table, part_range(run[0])[0], part_range(run[-1])[1])
    write_part(new, table, rows, level)
    old = [path for path in run if path != new]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def size_of(folder: Path) -> int:
    """Return the bytes that the files of a folder take."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def keep_within(folder: Path, most: int, spare: int = 0) -> tuple[bool, int]:
    """Merge neighbouring records until a folder is small enough; the newest stay finest.

    Counts and moments of two recorded steps merge as if their data had been seen at once, and
    stand under the first of the two; of each scalar and each vital every other value is kept.

    Args:
        folder: a folder of parts.
        most: bytes.
        spare: bytes of them to keep free for the next part.

    Returns:
        Whether it is small enough now, and how many merges that took.
    """
    merges = 0
    aim = max(most // 2, most - most // SHARE - spare)
    while size_of(folder) > aim:
        if not _merge_once(folder, most // SHARE):
            return size_of(folder) <= most, merges
        merges += 1
    return True, merges


def _merge_once(folder: Path, largest: int) -> bool:
    """Halve the number of records in one part of the table that takes the most room."""
    sizes = {
        table: sum(path.stat().st_size for path in part_paths(folder, table)) for table in TABLES
    }
    for table in sorted(sizes, key=lambda name: -sizes[name]):
        if table == "events":  # few, and each says something else
            continue
        # What has one record only can be merged when it is one with its neighbours.
        compact(folder, table, 2, min(largest, LARGEST_PART))
        for path, merged in _in_turn(part_paths(folder, table)):
            try:
                rows = read_part(path)
            except PartError:
                continue
            halved = halve(table, rows)
            if halved is not None and merged < MOST_MERGED:
                _replace(table, [path], halved, merged + 1)
                return True
    # Each part holds one record: the two oldest become one part, whose records can be merged.
    for table in sorted(sizes, key=lambda name: -sizes[name]):
        oldest = [path for path, _ in _levels(part_paths(folder, table))[:2]]
        rows = _joined(oldest) if len(oldest) == 2 and table != "events" else None
        if rows is not None:
            _replace(table, oldest, rows, max(times_merged(path) for path in oldest))
            return True
    return False


def _in_turn(paths: list[Path]) -> list[tuple[Path, int]]:
    """Return the parts in the order in which they should be merged, each with its level.

    First comes the largest of those that stay no coarser than the one before them: records become
    coarser with age, and none much coarser than its neighbours. The newest is last.
    """
    levels = _levels(paths)
    before = [MOST_MERGED, *(level for _, level in levels)]
    fit = [entry for entry, older in zip(levels, before, strict=False) if entry[1] < older]
    fit.sort(key=lambda entry: -entry[0].stat().st_size)
    order = fit + [entry for entry in levels if entry not in fit]
    return sorted(order, key=lambda entry: entry == levels[-1])


def _levels(paths: list[Path]) -> list[tuple[Path, int]]:
    """Return the parts that can be read, with how often each was merged."""
    levels = []
    for path in paths:
        try:
            levels.append((path, times_merged(path)))
        except PartError:
            continue
    return levels


def halve(table: str, rows: pa.Table) -> pa.Table | None:
    """Return rows with every two neighbouring steps made one; None if nothing becomes fewer.

    Args:
        table: a key of :data:`~spikescope.data.parts.TABLES`.
        rows: rows of that table.

    Example:
        >>> rows = {"step": [0, 10, 20], "name": ["loss"] * 3, "value": [3.0, 2.0, 1.0]}
        >>> halve("scalars", pa.table(rows, schema=TABLES["scalars"]))["step"].to_pylist()
        [0, 20]
    """
    steps, place = np.unique(rows["step"].to_numpy(), return_inverse=True)
    if len(steps) < 2:
        return None
    if table in ("scalars", "vitals"):
        return _every_other(table, rows)
    frame = rows.to_pandas()
    frame["step"] = steps[place - place % 2]
    if table == "records":
        frame = merge_rows(frame)
    else:
        frame = add_counts(frame, "spikes" if table == "maps" else "counts")
    return pa.table({name: frame[name] for name in TABLES[table].names}, schema=TABLES[table])


def _every_other(table: str, rows: pa.Table) -> pa.Table | None:
    """Return every other value of each series: what comes rarely is not lost beside the rest."""
    frame = rows.to_pandas()
    series = [name for name in frame.columns if name not in ("step", "value")]
    seen = frame.drop_duplicates(["step", *series]).sort_values("step", kind="stable")
    seen = seen.assign(_kept=seen.groupby(series, sort=False).cumcount() % 2 == 0)
    kept = frame.merge(seen[["step", *series, "_kept"]], "left", ["step", *series])["_kept"]
    return rows.filter(pa.array(kept)) if not kept.all() else None


def add_counts(frame: pd.DataFrame, counts: str) -> pd.DataFrame:
    """Return a table of counts with one row per key: lists of one length and chances add up.

    Args:
        frame: rows of the table "maps" or "joints".
        counts: name of its column of lists.
    """
    keys = [name for name in ("step", "mode", "layer", "t") if name in frame]
    frame = frame.assign(_size=frame[counts].map(len))  # a layer may change its shape
    out = []
    for _, group in frame.groupby([*keys, "_size"], sort=False):
        row = group.iloc[0].to_dict()
        row[counts] = np.sum(np.stack(group[counts].to_list()), axis=0)
        if "chances" in group:
            row["chances"] = int(group["chances"].sum())
        out.append(row)
    return pd.DataFrame(out, columns=[name for name in frame.columns if name != "_size"])


def drop_from(folder: Path, step: int) -> int:
    """Remove everything from a step on, part by part; return how many rows went.

    Args:
        folder: a folder of parts.
        step: the first step that is not kept.
    """
    gone = 0
    for table in TABLES:
        for path in part_paths(folder, table):
            try:
                rows = read_part(path)
            except PartError:
                continue
            kept = rows.filter(pa.array(rows["step"].to_numpy() < step))
            if len(kept) < len(rows):
                gone += len(rows) - len(kept)
                write_part(path, table, kept, times_merged(path))
    return gone
