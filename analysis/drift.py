"""Has a law of the membrane potential moved? Verdicts with a stated false-alarm rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from .distance import (
    centres,
    common_bins,
    law_on_bins,
    probabilities,
    sample_shares,
    total_variation,
    total_variation_null,
    wasserstein,
    wasserstein_null,
)
from .effective import (
    autocorrelation_time,
    effective_size,
    frozen_share,
    recorded_effective_size,
)
from .law_difference import (
    DRIFTING,
    NOT_ENOUGH_DATA,
    RESOLUTION,
    STATIONARY,
    LawDifference,
    judge,
)
from .training_drift import drift_over_training

__all__ = [
    "DRIFTING",
    "NOT_ENOUGH_DATA",
    "STATIONARY",
    "LawDifference",
    "autocorrelation_time",
    "compare_laws",
    "compare_samples",
    "drift_from_law",
    "drift_over_time",
    "drift_over_training",
    "effective_size",
    "frozen_share",
    "law_on_bins",
    "recorded_effective_size",
]

SAMPLE_BIN = 0.05
"""Width (thresholds) of the bins in which two samples are compared by total variation."""

MINIMUM_SIZE = 20.0
"""Effective size below which the Gaussian limit behind the null band is not trusted."""

MINIMUM_FREEDOM = 4.0
"""Degrees of freedom below which an effective size is itself too uncertain."""


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
    if edges_b is not None:
        counts_a, counts_b, edges = common_bins(counts_a, edges, counts_b, edges_b)
    share_a, edges = probabilities(counts_a, edges)
    share_b, edges = probabilities(counts_b, edges)

    sizes = n_eff_a, n_eff_b, freedom_a, freedom_b
    laws = share_a, share_b, centres(edges)
    return _assess(laws, laws, sizes, alpha, resolution)


def compare_samples(
    a: Any,
    b: Any,
    n_eff_a: float,
    n_eff_b: float,
    alpha: float = 0.01,
    *,
    freedom_a: float = np.inf,
    freedom_b: float = np.inf,
    resolution: float = RESOLUTION,
) -> LawDifference:
    """Compare two samples: w1 without any bins, tv on bins of 0.05 thresholds.

    Args:
        a: values of u in thresholds, any shape.
        b: the same.
        n_eff_a: effective size behind a: its number of values only if they are independent.
        n_eff_b: the same for b.
        alpha: false-alarm rate.
        freedom_a: degrees of freedom behind n_eff_a.
        freedom_b: the same for n_eff_b.
        resolution: see :func:`compare_laws`.

    Returns:
        The distances with their null band, numbers.

    Raises:
        ValueError: an empty sample, a value that is not finite, or an impossible size.

    Example:
        >>> values = np.linspace(0.0, 1.0, 101)
        >>> moved = compare_samples(values, values + 0.3, 101, 101)
        >>> round(float(moved.w1), 6), str(moved.verdict)
        (0.3, 'drifting')

    Source:
        As :func:`compare_laws`.
    """
    sizes = n_eff_a, n_eff_b, freedom_a, freedom_b
    binned = sample_shares(a, b, SAMPLE_BIN)
    return _assess(sample_shares(a, b), binned, sizes, alpha, resolution)


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


def _assess(
    laws: tuple[np.ndarray, ...],
    binned: tuple[np.ndarray, ...],
    sizes: tuple[Any, Any, Any, Any],
    alpha: float,
    resolution: float,
) -> LawDifference:
    """Compare shares at positions (for w1) and in bins (for tv), given sizes and freedoms."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha={alpha!r} is not possible: a false-alarm rate is in (0, 1)")
    size_a, size_b = _size("n_eff_a", sizes[0]), _size("n_eff_b", sizes[1])
    if (np.isinf(size_a) & np.isinf(size_b)).any():
        raise ValueError("n_eff_a and n_eff_b are both inf: two exact laws have no null band")
    # An unknown size becomes a tiny one: the band is then wide, and the verdict open.
    part_a, part_b = 1.0 / np.maximum(size_a, 1e-12), 1.0 / np.maximum(size_b, 1e-12)
    total = part_a + part_b
    welch = part_a**2 / np.asarray(sizes[2]) + part_b**2 / np.asarray(sizes[3])
    freedom = np.divide(total**2, welch, out=np.full(np.shape(welch), np.inf), where=welch > 0)
    known = (np.minimum(size_a, size_b) >= MINIMUM_SIZE) & (freedom >= MINIMUM_FREEDOM)

    def pooled(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(a * (part_b / total)[..., None] + b * (part_a / total)[..., None])

    share_a, share_b, positions = laws
    bin_a, bin_b, _ = binned
    return judge(
        wasserstein(share_a, share_b, positions),
        total_variation(bin_a, bin_b),
        wasserstein_null(pooled(share_a, share_b), positions).scaled(np.sqrt(total)),
        total_variation_null(pooled(bin_a, bin_b)).scaled(np.sqrt(total)),
        np.maximum(freedom, MINIMUM_FREEDOM),
        known,
        alpha,
        resolution,
    )


def _size(name: str, value: Any) -> np.ndarray:
    size = np.asarray(value, dtype=float)
    if np.isnan(size).any() or (size < 0).any():
        bad = size[np.isnan(size) | (size < 0)].flat[0]
        raise ValueError(f"{name}={bad} is not possible: an effective size is 0 or more")
    return size
