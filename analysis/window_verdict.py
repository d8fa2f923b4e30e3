"""Is the potential inside the surrogate's window, and if not, on which side and why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from .checks import ABOVE_ZERO, LARGEST, number
from .distance import probabilities
from .laws import HistogramLaw

CRITICAL = 0.05
"""Coverage below which a layer hardly learns. Ours."""

WARNING = 0.15
"""Coverage of the last layers of the vanilla net in DS-ATGO, figure 11 (15.13 %)."""

TOO_WIDE = 5.0
"""Width in thresholds above which LSG (Lian et al. 2023) lost 30 points of accuracy."""


@dataclass(frozen=True)
class WindowVerdict:
    """Where the law of u lies against the surrogate's window; all arrays ``[...]``.

    Args:
        coverage: share inside the window.
        error: its standard error.
        below: share under the window ("under threshold").
        above: share over it ("saturated").
        offset: (threshold - mean) / std, no unit.
        half_width: width / (2 std), no unit.
        gaussian: coverage of a Gaussian law of this mean and std.
        best: coverage of that law with the threshold one std above its mean (15.87 % firing).
        severity: ``"critical"``, ``"warning"`` or ``"fine"``.
        side: ``"under threshold"``, ``"saturated"``, or empty if fine.
        cause: ``"offset"`` (move threshold or mean), ``"width"`` (widen), or empty if fine.
        too_wide: whether the window exceeds 5 thresholds, where coverage says nothing.
    """

    coverage: np.ndarray
    error: np.ndarray
    below: np.ndarray
    above: np.ndarray
    offset: np.ndarray
    half_width: np.ndarray
    gaussian: np.ndarray
    best: np.ndarray
    severity: np.ndarray
    side: np.ndarray
    cause: np.ndarray
    too_wide: np.ndarray


def judge_window(
    counts: Any,
    edges: Any,
    threshold: Any,
    width: Any,
    mean: Any,
    std: Any,
    n_eff: Any = np.inf,
) -> WindowVerdict:
    """Say where the law of u lies against a rectangular window, or the interval of another shape.

    Args:
        counts: recorded histograms of u, ``[..., bins]``.
        edges: potential, ``[bins + 1]``.
        threshold: centre of the window, potential, a number or ``[...]``.
        width: its full width, potential; twice ``half_width(epsilon)`` for another shape.
        mean: recorded mean of u, potential.
        std: recorded standard deviation of u, potential, above 0.
        n_eff: effective size behind the histogram, for the standard error; inf for an exact law.

    Returns:
        The verdict, ``[...]``.

    Raises:
        ValueError: an impossible histogram, or a width or std that is not above 0.

    Example:
        >>> edges = np.linspace(-4.0, 4.0, 801)
        >>> counts = np.diff(special.ndtr((edges + 1.0) / 0.2))
        >>> found = judge_window(counts, edges, threshold=1.0, width=1.0, mean=-1.0, std=0.2)
        >>> str(found.severity), str(found.side), str(found.cause)
        ('critical', 'under threshold', 'offset')

    Source:
        Quantities of MPD-AGL (arXiv 2505.11863) and DS-ATGO (arXiv 2511.13050); bounds are ours.
    """
    wanted = "a finite number above 0"
    width = np.asarray(number("width", width, ABOVE_ZERO, LARGEST, wanted))
    std = np.asarray(number("std", std, ABOVE_ZERO, LARGEST, wanted))
    mean = np.asarray(number("mean", mean, -LARGEST, LARGEST, "finite"))
    share, edges = probabilities(counts, edges)
    law = HistogramLaw(edges, share)
    theta = np.broadcast_to(np.asarray(threshold, dtype=float), share.shape[:-1])
    low, high = theta - 0.5 * width, theta + 0.5 * width
    below = np.asarray(law.probability(-np.inf, low))
    above = np.asarray(law.probability(high, np.inf))
    coverage = np.asarray(law.probability(low, high))
    offset = (theta - mean) / std
    half = np.broadcast_to(0.5 * width / std, offset.shape)
    fine = coverage >= WARNING
    severity = np.where(fine, "fine", np.where(coverage < CRITICAL, "critical", "warning"))
    side = np.where(fine, "", np.where(below >= above, "under threshold", "saturated"))
    cause = np.where(fine, "", np.where(np.abs(offset) > half + 2.0, "offset", "width"))
    return WindowVerdict(
        coverage=coverage,
        error=np.sqrt(np.maximum(coverage * (1.0 - coverage), 0.0) / np.asarray(n_eff)),
        below=below,
        above=above,
        offset=offset,
        half_width=half,
        gaussian=special.ndtr(offset + half) - special.ndtr(offset - half),
        best=special.ndtr(1.0 + half) - special.ndtr(1.0 - half),
        severity=severity,
        side=side,
        cause=cause,
        too_wide=np.broadcast_to(width > TOO_WIDE * theta, offset.shape),
    )
