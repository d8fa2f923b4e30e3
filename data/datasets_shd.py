"""Spiking Heidelberg Digits from their HDF5 files, counted into timesteps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset
from .datasets_files import broken, first_existing, missing, require_folder

UNITS = 700
CLASSES = 20
CHUNK = 256
"""Recordings read at a time: their spike times are gone before the next ones are read."""

NAMES = ("shd_train.h5", "shd_test.h5")
SOURCE = "the Heidelberg spiking data sets of Cramer et al., unpacked with gunzip"


def shd(data_dir: str | Path | None = None, timesteps: int = 100, duration: float = 1.4) -> Dataset:
    """Return spoken digits, English and German, as spikes of 700 model cochlea units.

    A spike at time x falls into timestep ``1 + floor(x / duration * timesteps)``; later ones are
    left out. Several spikes of one unit in one timestep are counted (up to 255).

    Args:
        data_dir: folder that holds ``shd_train.h5`` and ``shd_test.h5``; also inside ``shd``.
        timesteps: T.
        duration: seconds that the timesteps cover; the longest recording lasts 1.37 s.

    Returns:
        Inputs ``[N, T, 700]``, spike counts, uint8; the published test part (two speakers that the
        training part does not have). All of it takes 7.3 MB per timestep.

    Raises:
        FileNotFoundError: a file is missing; the message says which.
        ValueError: a file is broken, or a setting is not possible.
        ImportError: h5py is not installed.

    Source:
        Cramer, Stradmann, Schemmel and Zenke 2022 (IEEE TNNLS), "The Heidelberg spiking data sets
        for the systematic evaluation of spiking neural networks".
    """
    if timesteps < 1:
        raise ValueError(f"timesteps={timesteps!r} is not possible: it must be at least 1")
    if not 0.0 < duration < math.inf:
        raise ValueError(f"duration={duration!r} is not possible: it must be a positive time in s")
    folder = require_folder("shd", data_dir, f"{' and '.join(NAMES)} ({SOURCE})")
    places = (folder, folder / "shd")
    found = {name: first_existing(place / name for place in places) for name in NAMES}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise missing("shd", absent, folder, SOURCE)
    train, test = (
        read_recordings(path, timesteps, duration) for path in found.values() if path is not None
    )
    return Dataset(*train, *test, "shd")


def read_recordings(
    path: Path, timesteps: int, duration: float
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one HDF5 file, a few recordings at a time.

    Args:
        path: the file.
        timesteps: T.
        duration: seconds that the timesteps cover.

    Returns:
        ``(counts, classes)``: ``[N, T, 700]`` and ``[N]``.

    Raises:
        ValueError: the file is broken.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "the Spiking Heidelberg Digits come as HDF5, and h5py is not installed: "
            "pip install 'spikescope[data]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            times, units, labels = file["spikes/times"], file["spikes/units"], file["labels"]
            if not len(times) == len(units) == len(labels) > 0:
                raise broken(
                    path,
                    f"holds {len(times)} lists of times, {len(units)} of units and {len(labels)} "
                    "labels, but it needs as many of each",
                )
            classes = np.asarray(labels[:], dtype=np.int64)
            counts = np.zeros((len(classes), timesteps, UNITS), dtype=np.uint8)
            for first in range(0, len(classes), CHUNK):
                rows = slice(first, first + CHUNK)
                some = zip(counts[rows], times[rows], units[rows], strict=True)
                for number, (out, when, which) in enumerate(some, first):
                    _count(out, when, which, duration, f"{path}: recording {number}")
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        # h5py's own words for a torn file, a missing group, a torn chunk, a wrong kind.
        raise broken(
            path, f"cannot be read as HDF5 spikes ({' '.join(str(error).split())})"
        ) from error
    if classes.min() < 0 or classes.max() >= CLASSES:
        raise broken(path, f"has a class {classes.max()}, but there are 0 to {CLASSES - 1}")
    return counts, classes


def _count(out: NDArray[np.uint8], times: Any, units: Any, duration: float, origin: str) -> None:
    """Count the spikes of one recording into ``[T, 700]``."""
    when = np.asarray(times, dtype=np.float64)
    which = np.asarray(units, dtype=np.int64)
    if len(when) != len(which):
        raise broken(origin, f"has {len(when)} times and {len(which)} units")
    if len(which) and not 0 <= which.min() <= which.max() < UNITS:
        raise broken(origin, f"has a unit {which.max()}, but there are 0 to {UNITS - 1}")
    if not (when >= 0.0).all():
        raise broken(origin, "has a spike time that is negative or no number")
    timesteps = len(out)
    kept = when < duration
    # Just below the end, rounding may reach T.
    t = np.minimum((when[kept] / duration * timesteps).astype(np.int64), timesteps - 1)
    places = np.bincount(t * UNITS + which[kept], minlength=timesteps * UNITS)
    out[:] = np.minimum(places, 255).reshape(timesteps, UNITS)
