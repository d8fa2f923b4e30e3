"""Has a law of the membrane potential moved? Verdicts with a stated false-alarm rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .distance import (
    Null,
    common_bins,
    law_on_bins,
    probabilities,
    total_variation,
    total_variation_null,
    wasserstein,
    wasserstein_null,
)
from .effective import (
    autocorrelation_time,
    autocovariance,
    effective_size,
    frozen_share,
    integrated_time,
    recorded_effective_size,
)

__all__ = [
    "DRIFTING",
    "NOT_ENOUGH_DATA",
    "STATIONARY",
    "LawDifference",
    "autocorrelation_time",
    "compare_laws",
    "drift_from_law",
    "drift_over_time",
    "drift_over_training",
    "effective_size",
    "frozen_share",
    "law_on_bins",
    "recorded_effective_size",
]

STATIONARY = "stationary"
DRIFTING = "drifting"
NOT_ENOUGH_DATA = "not enough data"

MINIMUM_SIZE = 20.0
"""Effective size below which the Gaussian limit behind the null band is not trusted."""

MINIMUM_FREEDOM = 4.0
"""Degrees of freedom below which an effective size is itself too uncertain."""

MARGIN = 1.2
"""Factor on standard errors that rest on an estimated autocorrelation time, for its own error."""

RESOLUTION = 0.1
"""Wasserstein-1 distance (thresholds) that must have been visible before "stationary" is said."""


@dataclass(frozen=True)
class LawDifference:
    """Distances of pairs of laws with their null band; all arrays ``[...]``.

    Args:
        w1: Wasserstein-1 distance, in the unit of the edges.
        tv: total-variation distance, between 0 and 1.
        w1_null: expected w1 of two samples of one law of these effective sizes.
        w1_band: value that w1 exceeds with probability alpha under one law.
        tv_null: the same as w1_null for tv.
        tv_band: the same as w1_band for tv; too wide where units of a sample hang together.
        p_value: probability of at least this w1 under one law.
        alpha: false-alarm rate of one comparison.
        verdict: ``"stationary"``, ``"drifting"`` or ``"not enough data"``, from w1 alone.
    """

    w1: np.ndarray
    tv: np.ndarray
    w1_null: np.ndarray
    w1_band: np.ndarray
    tv_null: np.ndarray
    tv_band: np.ndarray
    p_value: np.ndarray
    alpha: float
    verdict: np.ndarray

    @property
    def overall(self) -> np.ndarray:
        """Return one verdict for each row over the last axis: any drift counts, ``[...]``."""
        drifting = (self.verdict == DRIFTING).any(axis=-1)
        unknown = (self.verdict == NOT_ENOUGH_DATA).any(axis=-1)
        return np.where(drifting, DRIFTING, np.where(unknown, NOT_ENOUGH_DATA, STATIONARY))


def compare_laws(
    counts_a: Any,
    counts_b: Any,
    edges: Any,
    n_eff_a: Any,
    n_eff_b: Any,
    alpha: float = 0.01,
    *,
    edges_b: Any = None,
    freedom_a: Any = np.inf,
    freedom_b: Any = np.inf,
    resolution: float = RESOLUTION,
) -> LawDifference:
    """Compare two laws given as histograms, or a histogram with a law known exactly.

    Two rows of one training step hold the same samples. Their laws then differ less by chance
    than independent samples would, so the band is wide rather than narrow.

    Args:
        counts_a: ``[..., bins]``, counts or shares.
        counts_b: the same, broadcast against it.
        edges: bin edges ``[bins + 1]``, thresholds in a run.
        n_eff_a: effective size behind counts_a (:func:`effective_size`), ``[...]``; inf for a law
            that is known exactly, 0 for unknown.
        n_eff_b: effective size behind counts_b.
        alpha: false-alarm rate of each comparison.
        edges_b: edges of counts_b if they are not edges; one of the two is then made coarser.
        freedom_a: degrees of freedom behind n_eff_a: number of samples - 1, or inf if it is known.
        freedom_b: the same for n_eff_b.
        resolution: w1 that must lie above the band, had it occurred, to say "stationary".

    Returns:
        The distances with their null band, ``[...]``.

    Raises:
        ValueError: an empty or impossible histogram, edges of different families, alpha outside
            (0, 1), a negative or NaN size, or two laws that are both known exactly.

    Example:
        >>> edges = np.linspace(-2.0, 2.0, 9)
        >>> near = compare_laws([0, 0, 9, 41, 40, 10, 0, 0], [0, 0, 11, 39, 41, 9, 0, 0], edges,
        ...                     n_eff_a=100, n_eff_b=100, resolution=0.2)
        >>> round(float(near.w1), 3), round(float(near.w1_band), 3), str(near.verdict)
        (0.015, 0.151, 'stationary')
        >>> far = compare_laws([0, 0, 9, 41, 40, 10, 0, 0], [0, 0, 0, 10, 40, 40, 10, 0], edges,
        ...                    n_eff_a=100, n_eff_b=100)
        >>> round(float(far.w1), 3), str(far.verdict)
        (0.495, 'drifting')

    Source:
        Null band: limit of W1 (del Barrio, Gine and Matran 1999) with the design effect of Kish
        1965 and the degrees of freedom of Welch 1947.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha={alpha!r} is not possible: a false-alarm rate is in (0, 1)")
    size_a, size_b = _size("n_eff_a", n_eff_a), _size("n_eff_b", n_eff_b)
    if (np.isinf(size_a) & np.isinf(size_b)).any():
        raise ValueError("n_eff_a and n_eff_b are both inf: two exact laws have no null band")
    if edges_b is not None:
        counts_a, counts_b, edges = common_bins(counts_a, edges, counts_b, edges_b)
    share_a, edges = probabilities(counts_a, edges)
    share_b, edges = probabilities(counts_b, edges)

    # An unknown size becomes a tiny one: the band is then wide, and the verdict open.
    part_a, part_b = 1.0 / np.maximum(size_a, 1e-12), 1.0 / np.maximum(size_b, 1e-12)
    total = part_a + part_b
    pooled = share_a * (part_b / total)[..., None] + share_b * (part_a / total)[..., None]
    welch = part_a**2 / np.asarray(freedom_a) + part_b**2 / np.asarray(freedom_b)
    freedom = np.divide(total**2, welch, out=np.full(np.shape(welch), np.inf), where=welch > 0)
    known = (np.minimum(size_a, size_b) >= MINIMUM_SIZE) & (freedom >= MINIMUM_FREEDOM)
    return _judge(
        wasserstein(share_a, share_b, edges),
        total_variation(share_a, share_b),
        wasserstein_null(pooled, edges).scaled(np.sqrt(total)),
        total_variation_null(pooled).scaled(np.sqrt(total)),
        np.maximum(freedom, MINIMUM_FREEDOM),
        known,
        alpha,
        resolution,
    )


def drift_over_time(
    counts: Any,
    edges: Any,
    n_eff: Any,
    alpha: float = 0.01,
    *,
    freedom: Any = np.inf,
    resolution: float = RESOLUTION,
) -> LawDifference:
    """Compare the law at each timestep with that at the last one (temporal covariate shift).

    Args:
        counts: ``[..., T, bins]`` histograms of one step, T >= 2.
        edges: ``[bins + 1]``.
        n_eff: effective sizes, ``[..., T]``.
        alpha: rate at which a row without any drift is called drifting, over its T - 1 comparisons
            together (each is made at alpha / (T - 1), after Bonferroni).
        freedom: degrees of freedom behind n_eff, ``[..., T]`` or a number.
        resolution: see :func:`compare_laws`.

    Returns:
        Differences ``[..., T - 1]``: entry i is timestep i + 1 against timestep T.

    Raises:
        ValueError: fewer than two timesteps, or what :func:`compare_laws` refuses.

    Example:
        >>> edges = np.linspace(-2.0, 2.0, 9)
        >>> counts = [[0, 8, 40, 42, 10, 0, 0, 0], [0, 0, 9, 41, 40, 10, 0, 0],
        ...           [0, 0, 11, 39, 40, 10, 0, 0]]
        >>> drift = drift_over_time(counts, edges, [100, 100, 100], resolution=0.2)
        >>> drift.w1.round(3).tolist(), drift.verdict.tolist(), str(drift.overall)
        ([0.475, 0.01], ['drifting', 'stationary'], 'drifting')

    Source:
        Kook et al. 2025 (arXiv 2511.08708), temporal covariate shift; reference timestep T.
    """
    counts = np.asarray(counts, dtype=float)
    if counts.ndim < 2 or counts.shape[-2] < 2:
        raise ValueError(f"counts of shape {counts.shape} are not [..., T, bins] with T >= 2")
    counts, edges = probabilities(counts, edges)
    steps = counts.shape[-2]
    sizes = np.broadcast_to(np.asarray(n_eff, dtype=float), counts.shape[:-1])
    freedoms = np.broadcast_to(np.asarray(freedom, dtype=float), counts.shape[:-1])
    return compare_laws(
        counts[..., :-1, :],
        counts[..., -1:, :],
        edges,
        sizes[..., :-1],
        sizes[..., -1:],
        alpha / (steps - 1),
        freedom_a=freedoms[..., :-1],
        freedom_b=freedoms[..., -1:],
        resolution=resolution,
    )


def drift_from_law(
    counts: Any,
    edges: Any,
    n_eff: Any,
    law: Any,
    alpha: float = 0.01,
    *,
    freedom: Any = np.inf,
    resolution: float = RESOLUTION,
) -> LawDifference:
    """Compare the law at each timestep with a law known exactly, such as the stationary one.

    Args:
        counts: ``[..., T, bins]`` histograms of one step.
        edges: ``[bins + 1]``.
        n_eff: effective sizes, ``[..., T]``.
        law: shares on the same bins (:func:`law_on_bins`), ``[..., bins]``.
        alpha: false-alarm rate of a row over its T comparisons together.
        freedom: degrees of freedom behind n_eff, ``[..., T]`` or a number.
        resolution: see :func:`compare_laws`.

    Returns:
        Differences ``[..., T]``.

    Raises:
        ValueError: what :func:`compare_laws` refuses.

    Example:
        >>> edges = np.linspace(-2.0, 2.0, 9)
        >>> drift = drift_from_law([[0, 0, 20, 80, 80, 20, 0, 0]], edges, [200],
        ...                        [0, 0, 0.1, 0.4, 0.4, 0.1, 0, 0])
        >>> float(drift.w1[0]), drift.verdict.tolist()
        (0.0, ['stationary'])
    """
    counts = np.asarray(counts, dtype=float)
    if counts.ndim < 2:
        raise ValueError(f"counts of shape {counts.shape} are not [..., T, bins]")
    sizes = np.broadcast_to(np.asarray(n_eff, dtype=float), counts.shape[:-1])
    reference = np.asarray(law, dtype=float)[..., None, :]
    each = alpha / counts.shape[-2]
    return compare_laws(
        counts, reference, edges, sizes, np.inf, each, freedom_a=freedom, resolution=resolution
    )


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

    centres = 0.5 * (edges[1:] + edges[:-1])
    time = integrated_time(autocovariance(share @ centres).mean(axis=-2), length)[..., None]
    worth = length / time
    # The variance inside a window misses the part that the whole window shares.
    factor = MARGIN * np.sqrt((length - 1) / np.maximum(length - time, 1.0) / worth)[..., None]
    error = factor * share.std(axis=-2, ddof=1)
    below = factor * np.cumsum(share, axis=-1).std(axis=-2, ddof=1)[..., :-1]
    mode = (np.hypot(below[..., :-1, :], below[..., -1:, :]) * np.diff(centres)).sum(axis=-1)
    bins = 0.5 * np.hypot(error[..., :-1, :], error[..., -1:, :]).sum(axis=-1)
    freedom = np.broadcast_to(2.0 * (np.maximum(worth, 2.0) - 1.0), mode.shape)
    return _judge(
        wasserstein(law[..., :-1, :], law[..., -1:, :], edges),
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


def _judge(
    w1: np.ndarray,
    tv: np.ndarray,
    w1_null: Null,
    tv_null: Null,
    freedom: Any,
    known: np.ndarray,
    alpha: float,
    resolution: float,
) -> LawDifference:
    band = w1_null.quantile(1.0 - alpha, freedom)
    p_value = w1_null.exceedance(w1, freedom)
    open_ = ~known | ((p_value >= alpha) & (band > resolution))
    verdict = np.where(open_, NOT_ENOUGH_DATA, np.where(p_value < alpha, DRIFTING, STATIONARY))
    return LawDifference(
        w1=w1,
        tv=tv,
        w1_null=np.asarray(w1_null.mean),
        w1_band=band,
        tv_null=np.asarray(tv_null.mean),
        tv_band=tv_null.quantile(1.0 - alpha, freedom),
        p_value=p_value,
        alpha=alpha,
        verdict=verdict,
    )


def _size(name: str, value: Any) -> np.ndarray:
    size = np.asarray(value, dtype=float)
    if np.isnan(size).any() or (size < 0).any():
        bad = size[np.isnan(size) | (size < 0)].flat[0]
        raise ValueError(f"{name}={bad} is not possible: an effective size is 0 or more")
    return size
