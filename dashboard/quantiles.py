"""Quantiles of u over training, from the histograms of evenly spaced steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ..data.schema import DENSITY_BINS, coarsen_density, density_edges

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of u that the ribbon over training shows."""

_KEYS = ["step", "mode", "layer", "t"]


@dataclass(frozen=True)
class Ribbon:
    """Quantiles of u of one layer over training.

    Args:
        frame: columns step, t and one per entry of :data:`QUANTILES`, on the axis of the law.
        whole: whether every step that is to be shown has been read.
    """

    frame: pd.DataFrame
    whole: bool


def quantiles(rows: pa.Table) -> pd.DataFrame:
    """Return quantiles of u - threshold (thresholds), a row per key.

    Args:
        rows: :data:`~spikescope.data.densities.DENSITY_COLUMNS`; rows of one key, such as those
            of several ranks, count as one.

    Returns:
        The keys and a column per entry of :data:`QUANTILES`; NaN where nothing was counted.

    Example:
        >>> counts = np.zeros(256, dtype=int)
        >>> counts[128] = 100  # all of it in the bin above the threshold, 1/64 thresholds wide
        >>> row = {"step": [0], "mode": ["train"], "layer": ["a"], "t": [1]}
        >>> row |= {"density": [counts], "density_exponent": [0]}
        >>> float(quantiles(pa.table(row))["0.5"].iloc[0] * 64)
        0.5
    """
    keys = rows.select(_KEYS).to_pandas()
    groups = keys.groupby(_KEYS, sort=False).ngroup().to_numpy()
    total = int(groups.max()) + 1 if len(groups) else 0
    first = np.full(total, len(groups))
    np.minimum.at(first, groups, np.arange(len(groups)))
    exponents = rows["density_exponent"].to_numpy()
    widest = np.zeros(total, dtype=exponents.dtype)
    np.maximum.at(widest, groups, exponents)
    # Each row holds the same number of bins, so that the lists are one matrix.
    lists = rows["density"].combine_chunks().flatten().to_numpy()
    counts = lists.reshape(len(rows), DENSITY_BINS)
    coarser = widest[groups] - exponents
    summed = np.zeros((total, DENSITY_BINS), dtype=np.int64)
    for doublings in np.unique(coarser):
        chosen = coarser == doublings
        np.add.at(summed, groups[chosen], coarsen_density(counts[chosen], int(doublings)))
    edges = density_edges(0)
    units = _in_bins(summed)
    places = edges[0] + (edges[1] - edges[0]) * units
    values = places * np.exp2(widest)[:, None]
    frame: pd.DataFrame = keys.iloc[first].reset_index(drop=True)
    return frame.assign(**{str(q): values[:, k] for k, q in enumerate(QUANTILES)})


def _in_bins(counts: np.ndarray) -> np.ndarray:
    """Return where the quantiles lie, in bins from the left end, ``[row, quantile]``.

    Args:
        counts: ``[row, bin]`` elements; inside a bin they are taken as evenly spread.
    """
    below = np.cumsum(counts, axis=1)
    amount = below[:, -1:]
    found = np.full((len(counts), len(QUANTILES)), np.nan)
    known = amount[:, 0] > 0
    rows = np.flatnonzero(known)
    for k, q in enumerate(QUANTILES):
        wanted = q * amount[known]
        # The first bin that reaches it; it cannot be empty.
        place = np.argmax(below[known] >= wanted, axis=1)
        inside = counts[rows, place]
        found[known, k] = place + 1 - (below[rows, place] - wanted[:, 0]) / inside
    return found
