"""The record's schema: its columns, their kinds, the bins of the density.

One row describes one layer at one timestep of one recorded step. Stored columns merge exactly
over chunks of the same row (several forward passes of a step, several processes); derived columns
are computed from them when a run is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .schema_columns import COLUMNS, Column, Merge

__all__ = [
    "COLUMNS",
    "COVERAGE_EPSILON",
    "DENSITY_BINS",
    "DENSITY_WIDTH",
    "DERIVED",
    "FORMAT_VERSION",
    "KEYS",
    "MODES",
    "STORED",
    "Column",
    "Merge",
    "coarsen_density",
    "density_edges",
    "derive",
]

FORMAT_VERSION = 1
"""Raised when a reader of today could misread a run of tomorrow."""

DENSITY_BINS = 256
"""Bins of the density of u. A power of two, so that halving the resolution pairs them up."""

DENSITY_WIDTH = 1.0 / 64.0
"""Width of a bin in thresholds at exponent 0: 256 bins reach 2 thresholds each way."""

COVERAGE_EPSILON = 1e-2
"""An element is covered where the surrogate exceeds this share of its peak."""

MODES = ("train", "eval")

KEYS = tuple(name for name, column in COLUMNS.items() if column.merge == "key")
STORED = tuple(name for name, column in COLUMNS.items() if column.merge != "derived")
DERIVED = tuple(name for name, column in COLUMNS.items() if column.merge == "derived")


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """Add the derived columns to a table of stored ones.

    Args:
        table: a row per (step, mode, layer, t) with the stored columns, density not needed.

    Returns:
        The table with every derived column, in the order of :data:`COLUMNS`.

    Example:
        >>> row = {name: [1.0] for name in STORED if name not in KEYS and name != "density"}
        >>> row |= {"count": [8], "nonfinite": [0], "spikes": [2], "covered": [6]}
        >>> derive(pd.DataFrame(row))[["rate", "coverage"]].values.tolist()
        [[0.25, 0.75]]
    """
    arrays: dict[str, Any] = {
        name: table[name].to_numpy() for name in table.columns if name not in ("mode", "layer")
    }
    derived: dict[str, Any] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in DERIVED:
            function = COLUMNS[name].derive
            assert function is not None  # a derived column without its function is a typo above
            derived[name] = function(arrays)
    return pd.concat([table, pd.DataFrame(derived, index=table.index)], axis=1)


def density_edges(exponent: int) -> np.ndarray:
    """Return the ``[DENSITY_BINS + 1]`` bin edges of (u - threshold), in thresholds.

    Args:
        exponent: how often the range was doubled.

    Returns:
        Edges, symmetric about the threshold at 0.

    Example:
        >>> density_edges(0)[[0, 128, 256]].tolist(), float(density_edges(1)[-1])
        ([-2.0, 0.0, 2.0], 4.0)
    """
    half = DENSITY_BINS // 2
    return np.arange(-half, half + 1) * (DENSITY_WIDTH * 2.0**exponent)


def coarsen_density(counts: np.ndarray, doublings: int) -> np.ndarray:
    """Merge bins pairwise until the range is ``2**doublings`` times as wide; no count is lost.

    Args:
        counts: ``[..., DENSITY_BINS]`` integer counts.
        doublings: how often to double, >= 0.

    Returns:
        Counts of the same shape on the wider range.

    Example:
        >>> counts = np.zeros(DENSITY_BINS, dtype=int)
        >>> counts[[127, 128, 129]] = 5, 1, 2
        >>> coarsen_density(counts, 1)[[127, 128]].tolist()
        [5, 3]
    """
    half = DENSITY_BINS // 2
    target = half + ((np.arange(DENSITY_BINS) - half) >> min(doublings, 62))
    # Neighbours share a target: the sums between the places where it changes.
    merged = np.zeros_like(counts)
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    merged[..., target[starts]] = np.add.reduceat(counts, starts, axis=-1)
    return merged
