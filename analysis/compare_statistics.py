"""Is a difference more than noise: standard errors, many tests at once, where two sides part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

STAYS = 0.8
"""Share of the later records at which a difference must be significant, too, to count as parted."""

LEAST_RECORDS = 3
"""A difference parts two sides only if this many records (or all that there are) show it."""

PARTING = ("mode", "layer", "quantity", "parts_at", "t", "difference", "error", "unequal_from")
"""Columns of what :func:`parting` returns."""


def within_runs(
    errors: tuple[NDArray[Any], NDArray[Any]], samples: tuple[NDArray[Any], NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return standard error and degrees of freedom of a difference of two single runs.

    Args:
        errors: standard error of each side over its samples, any one shape.
        samples: number of samples of each side, the same shape.

    Returns:
        Standard error of the difference, and its degrees of freedom.

    Example:
        >>> error, freedom = within_runs((np.array(3.0), np.array(4.0)), (np.array(11),) * 2)
        >>> float(error), round(float(freedom), 2)
        (5.0, 18.55)

    Source:
        Welch 1947, Biometrika 34, "The generalization of Student's problem when several different
        population variances are involved".
    """
    first, second = (np.asarray(error, dtype=float) ** 2 for error in errors)
    freedoms = [np.asarray(count, dtype=float) - 1.0 for count in samples]
    return np.sqrt(first + second), _welch(first, second, freedoms[0], freedoms[1])


def between_runs(
    a: NDArray[Any], b: NDArray[Any], *, paired: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return standard error and degrees of freedom of the difference of two groups' means.

    Args:
        a: a value per run, ``[runs, ...]``.
        b: the same of the other group; with ``paired`` in the same order of seeds.
        paired: whether run i of both groups has the same seed.

    Returns:
        Standard error of mean(b) - mean(a) over the seeds, and its degrees of freedom; where one
        group is a single run, the spread of the other one stands for both.

    Example:
        >>> a, b = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [3.5], [3.5]])
        >>> [round(float(x[0]), 4) for x in between_runs(a, b, paired=True)]
        [0.2887, 2.0]
        >>> [round(float(x[0]), 4) for x in between_runs(a, b, paired=False)]
        [0.7638, 3.92]

    Source:
        Student's paired test; Welch 1947 for groups of unequal spread.
    """
    n_a, n_b = len(a), len(b)
    if paired:
        error = np.std(b - a, axis=0, ddof=1) / np.sqrt(n_a)
        return error, np.full(error.shape, n_a - 1.0)
    if min(n_a, n_b) == 1:
        group = a if n_a > 1 else b
        error = np.std(group, axis=0, ddof=1) * np.sqrt(1 / n_a + 1 / n_b)
        return error, np.full(error.shape, len(group) - 1.0)
    first, second = np.var(a, axis=0, ddof=1) / n_a, np.var(b, axis=0, ddof=1) / n_b
    freedom = _welch(first, second, np.array(n_a - 1.0), np.array(n_b - 1.0))
    return np.sqrt(first + second), freedom


def _welch(
    first: NDArray[Any], second: NDArray[Any], freedom_a: NDArray[Any], freedom_b: NDArray[Any]
) -> NDArray[Any]:
    """Return Welch's degrees of freedom from the squared standard errors; 1 where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (first + second) ** 2 / (first**2 / freedom_a + second**2 / freedom_b)
    return np.where(first + second > 0, freedom, np.where(np.isnan(first + second), np.nan, 1.0))


def two_sided(difference: NDArray[Any], error: NDArray[Any], freedom: NDArray[Any]) -> NDArray[Any]:
    """Return the two-sided p of a difference under Student's law; NaN where the error is unknown.

    Args:
        difference: any shape.
        error: its standard error, same shape; NaN where unknown.
        freedom: degrees of freedom of the error, same shape.

    Returns:
        Probability of so large a difference by chance, same shape.

    Example:
        >>> p = two_sided(np.array([2.0, 0.0, 1.0]), np.array([1.0, 0.0, np.nan]), np.full(3, 9.0))
        >>> p.round(4).tolist()
        [0.0766, 1.0, nan]
    """
    # Without any spread there is no noise: equal is equal and different is different.
    sure = np.where(difference == 0, 0.0, np.inf)
    ratio = np.divide(np.abs(difference), error, out=sure, where=(error > 0) | np.isnan(error))
    p: NDArray[Any] = 2.0 * stats.t.sf(ratio, freedom)
    return np.where(np.isnan(ratio), np.nan, p)


def adjusted(p: NDArray[Any]) -> NDArray[Any]:
    """Return p adjusted for the number of tests, so that a level bounds the false discovery rate.

    Args:
        p: p of each test, ``[n]``; NaN where there was no test.

    Returns:
        Adjusted p ``[n]``; NaN where there was no test.

    Example:
        >>> adjusted(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
        [0.03, 0.04, 0.04, nan]

    Source:
        Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57, 289-300; valid also under positive
        dependence (Benjamini and Yekutieli 2001, theorem 1.2).
    """
    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def parting(table: pd.DataFrame) -> pd.DataFrame:
    """Return where two sides part, for each layer and quantity.

    They part at the first record whose difference is significant and stays: at
    :data:`STAYS` of the records from there on, and at :data:`LEAST_RECORDS` at least (all, if
    fewer were compared), the difference is significant with the same sign.

    Sides of one law part rarely: to part takes at least one significant difference, and where no
    difference is real the adjusted p lets one pass somewhere in the whole table with a probability
    of at most the level.

    Args:
        table: what ``spikescope.compare`` returned.

    Returns:
        A row per (mode, layer, quantity): ``parts_at`` (step, or loss, NaN if they do not part),
        the timestep ``t`` that parts first, ``difference`` and ``error`` there, and
        ``unequal_from``, the first record at which the two sides are not exactly equal.
        Earliest first.

    Example:
        >>> steps = range(5)
        >>> rows = [("train", "lif", 1, "rate", s, 0.2 * (s > 1), 0.01, s > 1) for s in steps]
        >>> names = ["mode", "layer", "t", "quantity", "step", "difference", "error", "significant"]
        >>> parting(pd.DataFrame(rows, columns=names))[["layer", "parts_at"]].values.tolist()
        [['lif', 2.0]]
    """
    axis = "loss" if "loss" in table.columns else "step"
    # Training goes forward in steps, but downward in loss.
    forward = table.sort_values(axis, ascending=axis == "step", kind="stable")
    rows = []
    for (mode, layer, quantity), group in forward.groupby(
        ["mode", "layer", "quantity"], sort=False
    ):
        best: tuple[float, int, float, float] | None = None
        for t, series in group.groupby("t", sort=True):
            place = _parts(series["difference"].to_numpy(), series["significant"].to_numpy())
            if place is None:
                continue
            here = series.iloc[place]
            point = float(here[axis])
            earlier = best is None or (point < best[0] if axis == "step" else point > best[0])
            if earlier:
                best = point, int(str(t)), float(here["difference"]), float(here["error"])
        unequal = group.loc[group["difference"] != 0, axis]
        rows.append(
            {
                "mode": mode,
                "layer": layer,
                "quantity": quantity,
                "parts_at": best[0] if best else np.nan,
                "t": best[1] if best else None,
                "difference": best[2] if best else np.nan,
                "error": best[3] if best else np.nan,
                "unequal_from": float(unequal.iloc[0]) if len(unequal) else np.nan,
            }
        )
    found = pd.DataFrame(rows, columns=list(PARTING))
    found["t"] = found["t"].astype("Int64")
    return found.sort_values(
        ["parts_at", "unequal_from"], ascending=axis == "step", kind="stable", ignore_index=True
    )


def _parts(difference: NDArray[Any], significant: NDArray[Any]) -> int | None:
    """Return the place of the first difference that is significant and stays, or None."""
    needed = min(LEAST_RECORDS, len(difference))
    found = []
    for sign in (1, -1):
        alike = significant & (np.sign(difference) == sign)
        after = np.cumsum(alike[::-1])[::-1]  # how many from here on
        left = np.arange(len(alike), 0, -1)
        stays = alike & (after >= needed) & (after >= STAYS * left)
        if stays.any():
            found.append(int(np.argmax(stays)))
    return min(found, default=None)
