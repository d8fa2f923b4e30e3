"""A figure with its error, and how records make one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

ALPHA = 0.01
"""A rule fires when the one-sided 99 % interval of its figure clears the bound."""

CONFIDENCE_Z = 2.326
"""Standard errors from a figure to the end of that interval."""


@dataclass(frozen=True)
class Figure:
    """A pooled figure with its standard error; numbers, or arrays of one shape.

    Args:
        value: mean over the records of the window.
        error: standard error of that mean; NaN if one record of one sample is all there is.
    """

    value: Any
    error: Any

    @property
    def low(self) -> Any:
        """Lower end of the one-sided 99 % interval."""
        return self.value - CONFIDENCE_Z * self.error

    @property
    def high(self) -> Any:
        """Upper end of the one-sided 99 % interval."""
        return self.value + CONFIDENCE_Z * self.error

    def at(self, *place: int) -> Figure:
        """Return one entry of figures that are arrays."""
        return Figure(float(self.value[place]), float(self.error[place]))


def pool_over(values: Any, errors: Any, axis: int = -1) -> Figure:
    """Return the means of figures over records, each with the larger of its two standard errors.

    Args:
        values: ``[..., R, ...]`` the figure in each record; NaN where it was not recorded.
        errors: the same shape: standard error inside each record; NaN where unknown.
        axis: the axis of the records.

    Returns:
        The means; an error follows from the errors inside the records, or from the spread between
        them where that is larger.
    """
    values, errors = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    seen = np.isfinite(values)
    count = seen.sum(axis)
    some = np.maximum(count, 1)
    mean = np.where(seen, values, 0.0).sum(axis) / some
    known = (np.isfinite(errors) | ~seen).all(axis)
    inside = np.sqrt(np.where(seen & np.isfinite(errors), errors**2, 0.0).sum(axis)) / some
    spread = np.where(seen, values - np.expand_dims(mean, axis), 0.0)
    between = np.sqrt((spread**2).sum(axis) / np.maximum(count - 1, 1) / some)
    error = np.fmax(np.where(known, inside, np.nan), np.where(count > 1, between, np.nan))
    nothing = count == 0
    return Figure(np.where(nothing, np.nan, mean), np.where(nothing, np.nan, error))


def pool(values: Any, errors: Any) -> Figure:
    """Return the mean of one figure over records, with the larger of its two standard errors.

    Args:
        values: ``[R]`` the figure in each record; NaN where it was not recorded.
        errors: ``[R]`` standard error inside each record; NaN where unknown.

    Returns:
        See :func:`pool_over`.

    Example:
        >>> pool(np.array([1.0, 3.0]), np.array([0.1, 0.1])).error
        1.0
    """
    figure = pool_over(values, errors)
    return Figure(float(figure.value), float(figure.error))


def share_below(values: np.ndarray, errors: np.ndarray, edge: float) -> Figure:
    """Return the share of figures below an edge; its lower end counts those that surely are.

    Args:
        values: ``[n]`` figures.
        errors: ``[n]`` their standard errors, those of the edge included.
        edge: the edge.

    Returns:
        The share. The error is such that the lower end of its interval is the share of the figures
        whose own intervals clear the edge, each at 1 % / n: in 99 of 100 cases the true share is
        at least that, however the figures hang together.

    Example:
        >>> one = share_below(np.array([0.0, 0.9, 2.0, 3.0]), np.array([0.1, 0.1, 0.1, 0.1]), 1.0)
        >>> one.value, round(one.low, 9)
        (0.5, 0.25)

    Source:
        Bonferroni's inequality.
    """
    z = -float(special.ndtri(ALPHA / len(values)))
    share, low = float((values < edge).mean()), float((values + z * errors < edge).mean())
    return Figure(share, (share - low) / CONFIDENCE_Z)


def none_of(count: float) -> Figure:
    """Return the share 0 of so many; its upper end is that of the exact interval.

    Example:
        >>> round(none_of(128).high, 4)  # about 4.6 / 128
        0.0353

    Source:
        Clopper and Pearson 1934: 0 of n have a chance of 1 % where the share is 1 - 0.01^(1/n).
    """
    return Figure(0.0, -float(np.expm1(np.log(ALPHA) / max(count, 1.0))) / CONFIDENCE_Z)


def total_of_every(values: np.ndarray, distance: float) -> Figure:
    """Return the sum over all steps of what was recorded at every ``distance``-th of them.

    Args:
        values: ``[m]`` what was recorded, in the order of the steps.
        distance: steps from one record to the next; at 1 nothing is missing and the error is 0.

    Returns:
        The sum; its error follows from the differences of neighbours, in which a slow trend
        cancels.

    Example:
        >>> one = total_of_every(np.array([1.0, 3.0, 2.0, 2.0]), 10.0)
        >>> float(one.value), round(float(one.error), 2)
        (80.0, 17.32)

    Source:
        Wolter, "Introduction to Variance Estimation", 2nd ed. 2007, eq. 8.2.4 (systematic samples).
    """
    count = len(values)
    if count < 2:
        return Figure(float(values.sum()) * distance, 0.0 if distance <= 1.0 else np.nan)
    variance = float((np.diff(values) ** 2).sum()) / (2.0 * (count - 1))
    missing = max(1.0 - 1.0 / distance, 0.0)
    return Figure(float(values.sum()) * distance, distance * np.sqrt(missing * count * variance))


def stretch(steps: np.ndarray, holds: np.ndarray) -> tuple[int, int]:
    """Return first and last step of the unbroken stretch at the end; the last step if none.

    Args:
        steps: ``[R]`` recorded steps, rising.
        holds: ``[R]`` whether it holds there.

    Example:
        >>> stretch(np.array([0, 10, 20, 30]), np.array([True, False, True, True]))
        (20, 30)
    """
    broken = np.flatnonzero(~np.asarray(holds, dtype=bool))
    first = int(broken[-1]) + 1 if len(broken) else 0
    return int(steps[min(first, len(steps) - 1)]), int(steps[-1])


def total_over(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return sums without what is NaN; NaN where nothing else is there.

    Example:
        >>> total_over(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist()
        [1.0, nan]
    """
    seen = ~np.isnan(values)
    total = np.where(seen, values, 0.0).sum(axis)
    return np.where(seen.any(axis), total, np.nan)
