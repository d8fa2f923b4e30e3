"""Distances between two recorded laws, and what they would be if both were samples of one law."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

ROUNDING = 1e-9
"""Two edges closer than this share of a bin are one edge."""

_MANY = 1e9  # stands for infinitely many degrees of freedom in scipy's F law

# E|X||Y| of two Gaussians with correlation r is 2/pi sd sd g(r^2). A polynomial for g (error below
# 6e-4 of at least 1) splits the double sum over bins into products of single sums.
_SQUARE = np.sin(np.linspace(0.0, np.pi / 2, 2001)) ** 2
_G = np.polynomial.Polynomial.fit(
    _SQUARE, np.sqrt(1 - _SQUARE) + np.sqrt(_SQUARE) * np.arcsin(np.sqrt(_SQUARE)), 4
).convert()

# The root of a gamma variable (Nakagami) of shape nu: nu = 1/2 for one Gaussian mode, larger for
# many. The table inverts mean^2 / mean square.
_NU = np.logspace(np.log10(0.5), 4.0, 500)
_RATIO = np.exp(2 * (special.gammaln(_NU + 0.5) - special.gammaln(_NU))) / _NU


class Null(NamedTuple):
    """Law of a distance D between two samples of one law: D^2 = floor + scale chi^2_modes / modes.

    Args:
        mean: expected distance, ``[...]``.
        floor: part of the squared distance that hardly varies, ``[...]``.
        scale: mean of the part that varies, ``[...]``.
        modes: its degrees of freedom, ``[...]``.
    """

    mean: Any
    floor: Any
    scale: Any
    modes: Any

    def quantile(self, probability: Any, freedom: Any = np.inf) -> np.ndarray:
        """Return the value that the distance stays below with this probability, ``[...]``.

        Args:
            probability: between 0 and 1.
            freedom: degrees of freedom (above 2) behind the estimated sample sizes; with a noisy
                estimate the varying part is an F variable where it would be a chi^2 variable.
        """
        freedom = np.clip(freedom, None, _MANY)
        varying = self.scale * special.fdtri(self.modes, freedom, probability)
        return np.asarray(np.sqrt(self.floor * freedom / np.maximum(freedom - 2.0, 0.5) + varying))

    def exceedance(self, distance: Any, freedom: Any = np.inf) -> np.ndarray:
        """Return the probability of at least this distance under the null, ``[...]``."""
        freedom = np.clip(freedom, None, _MANY)
        scale = np.asarray(self.scale, dtype=float)
        above = np.asarray(distance, dtype=float) ** 2 - self.floor * freedom / np.maximum(
            freedom - 2.0, 0.5
        )
        never = np.where(above > 0, np.inf, 0.0)  # a law without spread never moves by chance
        ratio = np.divide(np.maximum(above, 0.0), scale, out=never, where=scale > 0)
        return np.asarray(special.fdtrc(self.modes, freedom, ratio))

    def scaled(self, factor: Any) -> Null:
        """Return the null of the distance times a factor, ``[...]``."""
        square = np.asarray(factor) ** 2
        return Null(self.mean * factor, self.floor * square, self.scale * square, self.modes)


def probabilities(counts: Any, edges: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check a histogram and return its shares and edges.

    Args:
        counts: counts or masses, ``[..., bins]``.
        edges: increasing bin edges, ``[bins + 1]``.

    Returns:
        ``(shares [..., bins], edges [bins + 1])``; each row of shares sums to 1.

    Raises:
        ValueError: an empty, negative or non-finite histogram, or edges that do not fit it.

    Example:
        >>> probabilities([1, 3], [0.0, 0.5, 1.0])[0].tolist()
        [0.25, 0.75]
    """
    counts = np.asarray(counts, dtype=float)
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or counts.ndim == 0 or len(edges) != counts.shape[-1] + 1:
        raise ValueError(
            f"edges of shape {edges.shape} do not fit counts of shape {counts.shape}: "
            "one edge more than bins is needed"
        )
    if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges {edges.tolist()[:6]}... must be finite and increasing")
    if not np.isfinite(counts).all() or (counts < 0).any():
        bad = counts[~(np.isfinite(counts) & (counts >= 0))][0]
        raise ValueError(f"a histogram with count {bad} is not possible: counts are finite, >= 0")
    total = counts.sum(axis=-1, keepdims=True)
    if (total == 0).any():
        where = np.argwhere(total[..., 0] == 0)[0].tolist()
        raise ValueError(f"histogram at index {where} is empty: it needs at least one count")
    return counts / total, edges


def rebin(counts: Any, edges: Any, wanted: Any) -> np.ndarray:
    """Move a histogram to coarser or wider bins that are unions of its own; no count is lost.

    Args:
        counts: ``[..., bins]``.
        edges: its edges, ``[bins + 1]``.
        wanted: edges to move to, ``[wanted + 1]``.

    Returns:
        Counts ``[..., wanted]``.

    Raises:
        ValueError: a filled bin that does not lie inside one of the wanted bins.

    Example:
        >>> rebin([5, 1, 2, 0], [-2, -1, 0, 1, 2], [-4, -2, 0, 2, 4]).tolist()
        [0.0, 6.0, 2.0, 0.0]
    """
    counts = np.asarray(counts, dtype=float)
    edges, wanted = np.asarray(edges, dtype=float), np.asarray(wanted, dtype=float)
    slack = ROUNDING * np.diff(edges)
    target = np.searchsorted(wanted, 0.5 * (edges[1:] + edges[:-1])) - 1
    inside = (target >= 0) & (target < len(wanted) - 1)
    target = np.clip(target, 0, len(wanted) - 2)
    inside &= (edges[:-1] >= wanted[target] - slack) & (edges[1:] <= wanted[target + 1] + slack)
    filled = counts.reshape(-1, counts.shape[-1]).any(axis=0)
    if (filled & ~inside).any():
        bad = int(np.flatnonzero(filled & ~inside)[0])
        raise ValueError(
            f"bin [{edges[bad]:g}, {edges[bad + 1]:g}] does not lie inside one wanted bin: the "
            "edges must be those of one family (equal, or doubled in width)"
        )
    moves = inside[:, None] & (target[:, None] == np.arange(len(wanted) - 1))
    return np.asarray(counts @ moves)


def common_bins(
    counts_a: Any, edges_a: Any, counts_b: Any, edges_b: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two histograms on the coarser of their two sets of edges, and these edges.

    Args:
        counts_a: ``[..., bins_a]``, on edges_a ``[bins_a + 1]``.
        edges_a: edges of the first.
        counts_b: ``[..., bins_b]``, on edges_b ``[bins_b + 1]``.
        edges_b: edges of the second.

    Returns:
        ``(counts_a [..., bins], counts_b [..., bins], edges [bins + 1])``.

    Raises:
        ValueError: edges of two different families.

    Example:
        >>> a, b, edges = common_bins([1, 2, 0, 0], [-2, -1, 0, 1, 2], [4, 4], [-2, 0, 2])
        >>> a.tolist(), b.tolist(), edges.tolist()
        ([3.0, 0.0], [4.0, 4.0], [-2.0, 0.0, 2.0])
    """
    edges_a, edges_b = np.asarray(edges_a, dtype=float), np.asarray(edges_b, dtype=float)
    if edges_a.shape == edges_b.shape and np.array_equal(edges_a, edges_b):
        return np.asarray(counts_a, dtype=float), np.asarray(counts_b, dtype=float), edges_a
    coarse_a = np.diff(edges_a).max() >= np.diff(edges_b).max()
    edges = edges_a if coarse_a else edges_b
    return rebin(counts_a, edges_a, edges), rebin(counts_b, edges_b, edges), edges


def law_on_bins(cumulative: Any, edges: Any) -> np.ndarray:
    """Return the shares that a law has in the bins, what lies outside added to the end bins.

    Args:
        cumulative: distribution function of the law at the edges, ``[..., bins + 1]``.
        edges: ``[bins + 1]``.

    Returns:
        Shares ``[..., bins]``, each row sums to 1.

    Raises:
        ValueError: values that no distribution function has.

    Example:
        >>> law_on_bins([0.1, 0.5, 0.8], [-1.0, 0.0, 1.0]).tolist()
        [0.5, 0.5]
    """
    values = np.asarray(cumulative, dtype=float)
    if values.shape[-1] != len(edges) or not (np.diff(values) >= 0).all():
        raise ValueError(f"cumulative of shape {values.shape} must rise over {len(edges)} edges")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"cumulative from {values.min():g} to {values.max():g} leaves [0, 1]")
    values = values.copy()
    values[..., 0], values[..., -1] = 0.0, 1.0
    return np.diff(values)


def centres(edges: np.ndarray) -> np.ndarray:
    """Return the ``[bins]`` middles of bins with edges ``[bins + 1]``.

    Args:
        edges: ``[bins + 1]``, rising.

    Returns:
        ``[bins]``, in the unit of the edges.

    Example:
        >>> centres(np.array([0.0, 1.0, 3.0])).tolist()
        [0.5, 2.0]
    """
    return np.asarray(0.5 * (edges[1:] + edges[:-1]))


def wasserstein(share_a: np.ndarray, share_b: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance of masses at the same positions.

    Equal to ``scipy.stats.wasserstein_distance`` with the shares as weights, for many pairs at
    once. In a histogram the positions are the bin centres: each mass moves by half a bin at most,
    and two laws on the same bins share that.

    Args:
        share_a: ``[..., bins]``, rows sum to 1.
        share_b: the same, broadcast against it.
        positions: increasing, ``[bins]``.

    Returns:
        Distance in the unit of the positions, ``[...]``.

    Example:
        >>> positions = np.array([0.5, 1.5, 2.5])
        >>> float(wasserstein(np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5]), positions))
        1.5

    Source:
        Vallender 1974: W1 is the area between the distribution functions.
    """
    cumulative = np.cumsum(np.asarray(share_a) - share_b, axis=-1)[..., :-1]
    return np.asarray((np.abs(cumulative) * np.diff(positions)).sum(axis=-1))


def total_variation(share_a: np.ndarray, share_b: np.ndarray) -> np.ndarray:
    """Return the total-variation distance of histograms on the same bins.

    Args:
        share_a: ``[..., bins]``, rows sum to 1.
        share_b: the same, broadcast against it.

    Returns:
        Half the absolute difference, between 0 and 1, ``[...]``.

    Example:
        >>> float(total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])))
        0.25
    """
    return np.asarray(0.5 * np.abs(np.asarray(share_a) - share_b).sum(axis=-1))


def wasserstein_null(share: np.ndarray, positions: np.ndarray) -> Null:
    """Return what W1 is between two samples of one law, per sqrt(1/n_a + 1/n_b).

    The difference of two empirical distribution functions tends to a Brownian bridge B(F(x)), so
    W1 tends to the integral of |B(F(x))|: its mean is sqrt(2/pi) times the integral of
    sqrt(F (1 - F)), its mean square M follows from E|X||Y| of two Gaussians. The integral of
    |B| is at least that of B, the shift of the mean, whose variance V is the law's; so the tail is
    that of V chi^2_1 and the rest of the mean square, M - V, is taken as constant. Simulated
    bridges of normal, exponential, bimodal, atomic and heavy-tailed laws exceed the quantiles so
    found 0.7 to 1.05 times as often as they should, down to a probability of 0.002.

    Args:
        share: the law, ``[..., bins]``, rows sum to 1.
        positions: where its masses lie, increasing, ``[bins]``.

    Returns:
        The null, ``[...]``, in the unit of the positions.

    Example:
        >>> edges = np.linspace(-6, 6, 1201)
        >>> null = wasserstein_null(np.diff(special.ndtr(edges)), centres(edges))
        >>> round(float(null.mean), 4), round(float(null.quantile(0.99)), 3)
        (1.2884, 2.737)

    Source:
        del Barrio, Gine and Matran 1999, theorem 1.1(a) (the limit of W1).
    """
    below = np.clip(np.cumsum(share, axis=-1)[..., :-1], 0.0, 1.0)
    spread = np.diff(positions) * np.sqrt(below * (1.0 - below))
    # corr(B(s), B(t)) of a bridge is the root of odds(s) / odds(t) for s <= t. The odds are
    # bounded so that their powers stay finite; what is cut off has no spread.
    odds = np.clip(below, 1e-12, 1.0) / np.clip(1.0 - below, 1e-12, 1.0)
    square = np.pi / 2 * (spread**2).sum(axis=-1)
    for power, coefficient in enumerate(np.asarray(_G.coef, dtype=float)):
        earlier = np.cumsum(spread * odds**power, axis=-1) - spread * odds**power
        square = square + 2.0 * coefficient * (spread * odds**-power * earlier).sum(axis=-1)
    square = 2 / np.pi * square
    centred = positions - (share * positions).sum(axis=-1, keepdims=True)
    shift = (share * centred**2).sum(axis=-1)
    floor = np.maximum(square - shift, 0.0)
    return Null(np.sqrt(2 / np.pi) * spread.sum(axis=-1), floor, shift, np.ones(np.shape(shift)))


def total_variation_null(share: np.ndarray) -> Null:
    """Return what TV is between two samples of one law, per sqrt(1/n_a + 1/n_b).

    Args:
        share: the law, ``[..., bins]``, rows sum to 1.

    Returns:
        The null, ``[...]``: the root of a gamma variable with the exact mean and mean square. In
        bins with less than one expected count the Gaussian form is too large, never too small.

    Example:
        >>> null = total_variation_null(np.full(4, 0.25))
        >>> round(float(null.mean), 4), round(float(null.quantile(0.99)), 3)
        (0.691, 1.474)

    Source:
        Mean: sum over bins of sqrt(2/pi) sqrt(p (1 - p)) / 2 (absolute mean of a Gaussian).
    """
    share = np.asarray(share, dtype=float)
    spread = np.sqrt(share * (1.0 - share))
    # corr of two bins is -sqrt(odds odds); a bin with everything in it has no spread.
    odds = np.where(share < 1.0, share / np.where(share < 1.0, 1.0 - share, 1.0), 0.0)
    square = np.pi / 2 * (spread**2).sum(axis=-1)
    for power, coefficient in enumerate(np.asarray(_G.coef, dtype=float)):
        part = spread * odds**power
        square = square + coefficient * (part.sum(axis=-1) ** 2 - (part**2).sum(axis=-1))
    square = 2 / np.pi * 0.25 * square
    mean = np.sqrt(2 / np.pi) * 0.5 * spread.sum(axis=-1)
    ratio = np.divide(mean**2, square, out=np.ones(np.shape(square)), where=square > 0)
    modes = 2.0 * np.interp(ratio, _RATIO, _NU)
    return Null(mean, np.zeros(np.shape(square)), square, modes)


def sample_shares(a: Any, b: Any, width: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return two samples as shares of the values, or of the bins, that occur in either.

    Args:
        a: values, any shape.
        b: values, any shape.
        width: width of bins on a grid through 0; 0 takes the values as they are.

    Returns:
        ``(share_a, share_b, positions)``, each ``[values]``, positions increasing.

    Raises:
        ValueError: an empty sample, or a value that is not finite.

    Example:
        >>> [part.tolist() for part in sample_shares([0.1, 0.7], [0.7, 1.3], width=0.5)]
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.75, 1.25]]
    """
    samples = [np.asarray(values, dtype=float).ravel() for values in (a, b)]
    for values in samples:
        if values.size == 0 or not np.isfinite(values).all():
            raise ValueError(
                f"a sample of {values.size} values, {int((~np.isfinite(values)).sum())} not finite,"
                " has no distance: at least one value, all finite, is needed"
            )
    both = np.concatenate(samples)
    if width > 0:
        both = (np.floor(both / width) + 0.5) * width
    positions, index = np.unique(both, return_inverse=True)
    parts = np.split(index.ravel(), [samples[0].size])
    shares = [np.bincount(part, minlength=positions.size) / part.size for part in parts]
    return shares[0], shares[1], positions
