"""Exact merging of record rows, after the merge rules of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .schema import COLUMNS, KEYS, STORED, coarsen_density


def merge_rows(table: pd.DataFrame, keys: Sequence[str] = KEYS) -> pd.DataFrame:
    """Merge all rows that agree on the keys into one, as if their data had been seen at once.

    Counts add, extrema extend, means and variances pool with their weights (Chan, Golub and
    LeVeque 1983, eq. 1.5), densities add on the widest of their ranges.

    Args:
        table: stored columns of the record.
        keys: columns that stay apart; the other keys take their first value.

    Returns:
        A table with one row per key, stored columns only, in order of first appearance.

    Example:
        >>> rows = pd.DataFrame({"layer": ["a", "a"], "count": [1, 3], "u_mean": [0.0, 4.0]})
        >>> merge_rows(rows, ["layer"]).values.tolist()
        [['a', 4, 3.0]]
    """
    names = [name for name in table.columns if name in STORED]
    groups = table.groupby(list(keys), sort=False).ngroup().to_numpy()
    total = int(groups.max()) + 1 if len(groups) else 0
    first = np.full(total, len(groups))
    np.minimum.at(first, groups, np.arange(len(groups)))
    out: dict[str, Any] = {}
    for name in names:
        out[name] = _merge_column(name, table, groups, total, first, out)
    return pd.DataFrame(out)


def _merge_column(
    name: str,
    table: pd.DataFrame,
    groups: np.ndarray,
    total: int,
    first: np.ndarray,
    done: dict[str, Any],
) -> Any:
    column = COLUMNS[name]
    values = table[name].to_numpy()
    if column.merge == "key":
        return values[first]
    if column.merge == "sum":
        return (
            np.bincount(groups, values, total).astype(np.int64)
            if _exact(values)
            else _add(values, groups, total)
        )
    if column.merge in ("min", "max", "exponent"):
        # fmin and fmax skip the NaN of a chunk that saw nothing.
        combine = np.fmin if column.merge == "min" else np.fmax
        merged = values[first].copy()
        combine.at(merged, groups, values)
        return merged
    if column.merge == "density":
        return _merge_density(table, groups, total)
    weights = table[column.weight].to_numpy().astype(float)
    if column.merge == "mean":
        return _weighted_mean(values, weights, groups, total)
    # A variance: the spread inside the chunks plus the spread between their means.
    means = table[column.mean].to_numpy()
    center = (
        done[column.mean] if column.mean in done else _weighted_mean(means, weights, groups, total)
    )
    return _weighted_mean(values + (means - center[groups]) ** 2, weights, groups, total)


def _weighted_mean(values: Any, weights: Any, groups: Any, total: int) -> np.ndarray:
    seen = weights > 0
    summed = np.bincount(groups[seen], weights[seen] * values[seen], total)
    weight = np.bincount(groups[seen], weights[seen], total)
    # What no row weighs (the threshold of a layer whose u is all NaN) stays as it was.
    unseen = np.full(total, np.nan)
    np.fmax.at(unseen, groups, values)
    np.divide(summed, weight, out=unseen, where=weight > 0)
    return unseen


def _exact(values: np.ndarray) -> bool:
    # bincount adds in float64, exact for integers while the total stays below 2^53.
    return bool(np.abs(values).sum() < 2**53)


def _add(values: np.ndarray, groups: np.ndarray, total: int) -> np.ndarray:
    summed = np.zeros(total, dtype=np.int64)
    np.add.at(summed, groups, values)
    return summed


def _merge_density(table: pd.DataFrame, groups: np.ndarray, total: int) -> list[np.ndarray]:
    exponents = table["density_exponent"].to_numpy()
    widest = np.zeros(total, dtype=np.int64)
    np.maximum.at(widest, groups, exponents)
    shifts = widest[groups] - exponents
    counts = np.array(table["density"].to_list(), dtype=np.int64)
    for shift in np.unique(shifts[shifts > 0]):
        narrow = shifts == shift
        counts[narrow] = coarsen_density(counts[narrow], int(shift))
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return list(np.add.reduceat(counts[order], starts)) if total else []
