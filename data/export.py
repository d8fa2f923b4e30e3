"""A run's tables for other programs: CSV and Parquet with one file per table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .runs import Run

SLICE = 100
"""Steps of histograms that are held at once."""


def export_tables(run: Run, folder: Path, form: str) -> list[Path]:
    """Write a run's tables into a new folder.

    Args:
        run: an opened run.
        folder: folder to make; it must not exist.
        form: ``"csv"`` or ``"parquet"``.

    Returns:
        The files: ``record`` (a row per step, mode, layer and t; stored and derived columns),
        ``density`` (a row per filled bin: step, mode, layer, t, its edges in potential as u -
        threshold, elements), ``scalars``, ``events``, and ``run.json`` with the header.

    Raises:
        ValueError: another form.
        FileExistsError: the folder exists.

    Example:
        >>> export_tables(None, Path("out"), "xml")
        Traceback (most recent call last):
        ...
        ValueError: form='xml' is not one of 'csv', 'parquet'
    """
    if form not in ("csv", "parquet"):
        raise ValueError(f"form={form!r} is not one of 'csv', 'parquet'")
    folder.mkdir(parents=True)
    written = []
    tables: dict[str, Iterator[pd.DataFrame]] = {
        "record": iter([run.table()]),
        "density": _densities(run),
        "scalars": iter([run.scalars().reset_index()]),
        "events": iter([run.events()]),
    }
    for name, frames in tables.items():
        path = folder / f"{name}.{form}"
        if form == "csv":
            _write_csv(path, frames)
        else:
            _write_parquet(path, frames)
        written.append(path)
    header = folder / "run.json"
    header.write_text(json.dumps(run.header, indent=2, ensure_ascii=False), encoding="utf-8")
    return [*written, header]


def _write_csv(path: Path, frames: Iterator[pd.DataFrame]) -> None:
    for number, frame in enumerate(frames):
        frame.to_csv(path, index=False, mode="w" if number == 0 else "a", header=number == 0)


def _write_parquet(path: Path, frames: Iterator[pd.DataFrame]) -> None:
    writer: pq.ParquetWriter | None = None
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()


def _densities(run: Run) -> Iterator[pd.DataFrame]:
    """Return the filled bins of all histograms, slice by slice."""
    columns = {"step": "int64", "mode": "str", "layer": "str", "t": "int64", "low": "float64",
               "high": "float64", "elements": "int64"}  # fmt: skip
    # So that a run without records has a table with its headers, too.
    yield pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    keys = run.table(["samples"])[["step", "mode"]].drop_duplicates()
    for mode, steps in keys.groupby("mode", sort=False)["step"]:
        every = [int(step) for step in steps]
        for begin in range(0, len(every), SLICE):
            found = run.densities(mode=str(mode), steps=every[begin : begin + SLICE])
            for layer, law in found.items():
                record, t, at = law.counts.nonzero()
                edges = law.edges * law.scale
                yield pd.DataFrame(
                    {
                        "step": law.steps[record],
                        "mode": pd.Series([str(mode)] * len(record), dtype="str"),
                        "layer": pd.Series([layer] * len(record), dtype="str"),
                        "t": law.t[t],
                        "low": edges[at],
                        "high": edges[at + 1],
                        "elements": law.counts[record, t, at],
                    }
                )
