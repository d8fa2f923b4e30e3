"""A run for TensorBoard: scalars and histograms, written through the tensorboard package."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from .runs import Run

CURVES = ("coverage", "rate", "u_mean", "u_std", "grad_u_rms")
"""Columns of the record that become scalars, by layer and timestep."""


def export_tensorboard(run: Run, folder: Path) -> Path:
    """Write a run's scalars, curves and histograms of u as TensorBoard events.

    Args:
        run: an opened run.
        folder: log folder to make; it must not exist.

    Returns:
        The folder.

    Raises:
        ValueError: the tensorboard package is not installed.
        FileExistsError: the folder exists.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
            HistogramProto,
            Summary,
        )
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )
    except ImportError as error:
        raise ValueError(
            "the export for TensorBoard needs its package: pip install tensorboard"
        ) from error
    folder.mkdir(parents=True)
    created = float(run.header.get("created") or 0.0)
    path = folder / f"events.out.tfevents.{int(created)}.spikescope"
    with path.open("wb") as file:
        writer = RecordWriter(file)

        def write(step: int, tag: str, **value: Any) -> None:
            summary = Summary(value=[Summary.Value(tag=tag, **value)])
            event = Event(wall_time=created + step, step=step, summary=summary)
            writer.write(event.SerializeToString())

        writer.write(Event(wall_time=created, file_version="brain.Event:2").SerializeToString())
        for step, row in run.scalars().iterrows():
            for name, number in row.dropna().items():
                write(int(str(step)), str(name), simple_value=_single(float(number)))
        for line in run.table(list(CURVES)).to_dict("records"):
            for curve in CURVES:
                if np.isfinite(line[curve]):
                    tag = f"{line['layer']}/{line['mode']}/t{line['t']}/{curve}"
                    write(int(line["step"]), tag, simple_value=_single(float(line[curve])))
        for mode in ("train", "eval"):
            for layer, law in run.densities(mode=mode).items():
                centre = (law.edges[1:] + law.edges[:-1]) / 2 * law.scale
                limits = (law.edges[1:] * law.scale).tolist()
                for place in zip(*law.counts.sum(axis=-1).nonzero(), strict=True):
                    counts = law.counts[place].astype(float)
                    filled = np.flatnonzero(counts)
                    histogram = HistogramProto(
                        min=float(law.edges[filled[0]] * law.scale),
                        max=float(law.edges[filled[-1] + 1] * law.scale),
                        num=float(counts.sum()),
                        sum=float(counts @ centre),
                        sum_squares=float(counts @ centre**2),
                        bucket_limit=limits,
                        bucket=counts.tolist(),
                    )
                    tag = f"{layer}/{mode}/t{law.t[place[1]]}/u-threshold"
                    write(int(law.steps[place[0]]), tag, histo=histogram)
    return folder


def _single(value: float) -> float:
    """Return a number that fits into the single precision of an event; infinite if too large."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float(np.copysign(np.inf, value))
