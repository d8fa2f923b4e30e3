"""Does the law of the potential still move over training, beyond the jitter of its steps?"""

from __future__ import annotations

from typing import Any

import numpy as np

from .distance import Null, centres, probabilities, total_variation, wasserstein
from .effective import autocovariance, integrated_time
from .law_difference import RESOLUTION, LawDifference, judge

MARGIN = 1.2
"""Factor on standard errors that rest on an estimated autocorrelation time, for its own error."""


def drift_over_training(
    counts: Any,
    edges: Any,
    alpha: float = 0.01,
    *,
    windows: int = 4,
    resolution: float = RESOLUTION,
) -> LawDifference:
    """Compare successive windows of training with the last one.

    The batches and the jitter of the weights move the law from record to record also when
    training has settled. What is chance is therefore read off the spread of the records inside
    the windows, with their autocorrelation, not off the number of values.

    Args:
        counts: ``[..., R, bins]`` histograms of R records at equal distances in training.
        edges: ``[bins + 1]``.
        alpha: rate at which a settled row is called drifting, over its comparisons together.
        windows: number of windows of R // windows records; a remainder is dropped at the start.
        resolution: see :func:`compare_laws`.

    Returns:
        Differences ``[..., windows - 1]``: entry i is window i against the last one. "Not enough
        data" where a window is worth fewer than 2 independent records.

    Raises:
        ValueError: fewer than 8 records to a window, or an impossible histogram.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> jitter = 0.02 * rng.standard_normal(80)
        >>> settled = [np.histogram(rng.normal(m, 0.5, 400), 64, (-3, 3))[0] for m in jitter]
        >>> edges = np.linspace(-3.0, 3.0, 65)
        >>> str(drift_over_training(settled, edges).overall)
        'stationary'
        >>> moved = [np.histogram(rng.normal(m + 0.2 * (r < 40), 0.5, 400), 64, (-3, 3))[0]
        ...          for r, m in enumerate(jitter)]
        >>> drift_over_training(moved, edges).verdict.tolist()
        ['drifting', 'drifting', 'stationary']

    Source:
        Windows against the last: Geweke 1992. Band: the difference of the windows' distribution
        functions is taken as one mode, |N(0, 1)| times the integral of its standard error, which
        has the largest tail of all Gaussian processes with these standard errors.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha={alpha!r} is not possible: a false-alarm rate is in (0, 1)")
    share, edges = probabilities(counts, edges)
    length = share.shape[-2] // windows if share.ndim > 1 and windows > 1 else 0
    if length < 8:
        raise ValueError(
            f"counts of shape {share.shape} in windows={windows} leave {length} records to a "
            "window: at least 8 in each of 2 or more are needed"
        )
    share = share[..., share.shape[-2] - windows * length :, :]
    share = share.reshape(*share.shape[:-2], windows, length, share.shape[-1])
    law = share.mean(axis=-2)

    positions = centres(edges)
    time = integrated_time(autocovariance(share @ positions).mean(axis=-2), length)[..., None]
    worth = length / time
    # The variance inside a window misses the part that the whole window shares.
    factor = MARGIN * np.sqrt((length - 1) / np.maximum(length - time, 1.0) / worth)[..., None]
    error = factor * share.std(axis=-2, ddof=1)
    below = factor * np.cumsum(share, axis=-1).std(axis=-2, ddof=1)[..., :-1]
    mode = (np.hypot(below[..., :-1, :], below[..., -1:, :]) * np.diff(positions)).sum(axis=-1)
    bins = 0.5 * np.hypot(error[..., :-1, :], error[..., -1:, :]).sum(axis=-1)
    freedom = np.broadcast_to(2.0 * (np.maximum(worth, 2.0) - 1.0), mode.shape)
    return judge(
        wasserstein(law[..., :-1, :], law[..., -1:, :], positions),
        total_variation(law[..., :-1, :], law[..., -1:, :]),
        _one_mode(mode),
        _one_mode(bins),
        freedom,
        np.broadcast_to(worth >= 2.0, mode.shape),
        alpha / (windows - 1),
        resolution,
    )


def _one_mode(scale: np.ndarray) -> Null:
    ones = np.ones(scale.shape)
    return Null(np.sqrt(2 / np.pi) * scale, 0.0 * ones, scale**2, ones)
