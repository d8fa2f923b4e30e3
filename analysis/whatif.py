"""What a remedy would do, predicted from the recorded law of u alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .adaptive_window import agl_width
from .checks import ABOVE_ZERO, LARGEST, number
from .distance import probabilities
from .laws import HistogramLaw
from .neuron import NeuronSpec
from .start_potential import post_reset_mean
from .surrogate import Surrogate

VALID_WIDTH = "exact at the current weights, up to the bins: the forward pass does not change"
VALID_THRESHOLD = (
    "first order at the current weights: exact at t = 1 of a layer whose input stays; later, other "
    "spikes change later resets, within the bound; deeper layers see other inputs"
)
VALID_START = "exact at t = 1 at the current weights for a layer whose input stays"


@dataclass(frozen=True)
class Prediction:
    """A layer's gradient window and rate under other fields; all arrays ``[...]``.

    Always read coverage together with gain2 and rate: a wide window covers much and passes little.

    Args:
        threshold: assumed threshold, potential.
        coverage: share of elements inside the surrogate's interval.
        gain1: E[h], mean of the surrogate derivative, 1 / potential.
        gain2: E[h^2], 1 / potential^2.
        rate: share of elements that fire.
        bin_error: largest error of coverage from the bins.
        rate_bin_error: largest error of rate from the bins.
        bound: largest change of coverage or rate through resets that a moved threshold changes,
            for fixed inputs; 0 if no threshold of an earlier timestep moves.
        validity: what the prediction holds for, in words.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    gain1: np.ndarray
    gain2: np.ndarray
    rate: np.ndarray
    bin_error: np.ndarray
    rate_bin_error: np.ndarray
    bound: np.ndarray
    validity: str


class RemovableDrift(NamedTuple):
    """What another constant start potential does to the shift at t = 1; each ``[...]``.

    Args:
        start: the start potential proposed.
        w1_before: Wasserstein-1 distance of the law at t = 1 to the reference, potential.
        w1_after: the same with the proposed start.
        share: 1 - w1_after / w1_before; 0 where there is no shift, negative is harm.
        rate_before: firing rate at t = 1.
        rate_after: the same with the proposed start.
    """

    start: np.ndarray
    w1_before: np.ndarray
    w1_after: np.ndarray
    share: np.ndarray
    rate_before: np.ndarray
    rate_after: np.ndarray


def predict(
    counts: Any, edges: Any, surrogate: Surrogate, threshold: Any, threshold_now: Any = None
) -> Prediction:
    """Predict coverage, gain and rate with another surrogate, and another threshold if wanted.

    Args:
        counts: recorded histograms of u, ``[..., T, bins]``.
        edges: potential, ``[bins + 1]``.
        surrogate: the one that is considered; its peak and width may be ``[..., T]``.
        threshold: the one that is considered, potential, a number or ``[..., T]``.
        threshold_now: the one in force in the recording; the same if None.

    Returns:
        The prediction, ``[..., T]``.

    Raises:
        ValueError: an impossible histogram, or a threshold that is not a number.

    Example:
        >>> edges = np.linspace(-3.0, 3.0, 601)
        >>> counts = np.diff(stats.norm.cdf(edges, 0.0, 0.5))[None]
        >>> now = predict(counts, edges, Surrogate("rectangular"), threshold=1.0)
        >>> now.coverage.round(4).tolist(), now.rate.round(4).tolist()
        ([0.1573], [0.0228])
        >>> moved = predict(counts, edges, Surrogate("rectangular"), 0.5, threshold_now=1.0)
        >>> moved.coverage.round(4).tolist(), moved.rate.round(4).tolist()
        ([0.4772], [0.1587])

    Source:
        Coverage of MPD-AGL (arXiv 2505.11863) and DS-ATGO (arXiv 2511.13050); prediction and
        bound are ours.
    """
    share, edges = probabilities(counts, edges)
    if share.ndim < 2:
        raise ValueError(f"counts of shape {share.shape} are not [..., T, bins]")
    law = HistogramLaw(edges, share)
    theta = _thresholds("threshold", threshold, share)
    now = theta if threshold_now is None else _thresholds("threshold_now", threshold_now, share)
    low, high = surrogate.interval(theta)
    bound = union_bound(share, edges, now, theta)
    rate_error = _bin_mass(share, edges, theta)
    return Prediction(
        threshold=theta,
        coverage=np.asarray(law.probability(low, high)),
        gain1=np.asarray(surrogate.moment(law, theta, 1)),
        gain2=np.asarray(surrogate.moment(law, theta, 2)),
        rate=np.asarray(law.probability(theta, np.inf)),
        bin_error=_bin_mass(share, edges, low) + _bin_mass(share, edges, high),
        rate_bin_error=rate_error,
        bound=bound,
        validity=VALID_WIDTH if np.array_equal(theta, now) else VALID_THRESHOLD,
    )


def union_bound(counts: Any, edges: Any, threshold_now: Any, threshold: Any) -> np.ndarray:
    """Bound how far the law at t can be from the recorded one when the thresholds had moved.

    Two runs with the same inputs are equal until a spike differs, and a first difference at s
    needs u[s] between the two thresholds: the chance of any is at most the sum over s < t.

    Args:
        counts: recorded histograms of u, ``[..., T, bins]``.
        edges: potential, ``[bins + 1]``.
        threshold_now: thresholds of the recording, potential, a number or ``[..., T]``.
        threshold: thresholds that the changed run really uses (predicted ones as stand-in).

    Returns:
        Bound on the change of any probability of u[t], ``[..., T]``, at most 1. It is loose: a
        difference is damped by the decay.

    Raises:
        ValueError: an impossible histogram, or a threshold that is not a number.

    Example:
        >>> edges = np.array([0.0, 1.0, 2.0, 3.0])
        >>> union_bound([[2, 1, 1], [2, 1, 1], [2, 1, 1]], edges, 1.0, 2.0).tolist()
        [0.0, 0.25, 0.5]

    Source:
        Ours: union bound over the first differing decision.
    """
    share, edges = probabilities(counts, edges)
    now = _thresholds("threshold_now", threshold_now, share)
    new = _thresholds("threshold", threshold, share)
    law = HistogramLaw(edges, share)
    between = np.asarray(law.probability(np.minimum(now, new), np.maximum(now, new)))
    return np.asarray(np.minimum(np.cumsum(between, axis=-1) - between, 1.0))


def width_for_coverage(counts: Any, edges: Any, threshold: Any, coverage: float) -> np.ndarray:
    """Return the width of a rectangular surrogate that covers a wanted share of the elements.

    Args:
        counts: recorded histograms of u, ``[..., bins]``.
        edges: potential, ``[bins + 1]``.
        threshold: centre of the window, potential, a number or ``[...]``.
        coverage: wanted share, in (0, 1).

    Returns:
        Full width, potential, ``[...]``: twice the quantile of |u - threshold|. Print it with
        the gain: the peak is 1 / width.

    Raises:
        ValueError: a coverage outside (0, 1), or an impossible histogram.

    Example:
        >>> edges = np.linspace(-3.0, 3.0, 601)
        >>> counts = np.diff(stats.norm.cdf(edges, 0.0, 0.5))
        >>> float(width_for_coverage(counts, edges, 0.5, 0.47725).round(3))
        1.0

    Source:
        Ours: inverse of the coverage.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage={coverage!r} is not possible: it must be between 0 and 1")
    share, edges = probabilities(counts, edges)
    centre = np.broadcast_to(np.asarray(threshold, dtype=float), share.shape[:-1])
    widths = np.empty(share.shape[:-1])
    for index in np.ndindex(*widths.shape):
        # The covered share is piecewise linear in the half width, with breaks at the edges.
        half = np.unique(np.abs(edges - centre[index]))
        half = np.concatenate([[0.0], half])
        law = HistogramLaw(edges, share[index])
        covered = law.probability(centre[index] - half, centre[index] + half)
        stop = min(int(np.searchsorted(covered, coverage)), len(half) - 1)
        part = (coverage - covered[stop - 1]) / (covered[stop] - covered[stop - 1])
        widths[index] = 2.0 * (half[stop - 1] + part * (half[stop] - half[stop - 1]))
    return widths


def removable_drift(
    spec: NeuronSpec, first: Any, reference: Any, edges: Any, start: Any = None
) -> RemovableDrift:
    """Predict how much of the shift at t = 1 a constant start potential would remove.

    The first timestep is affine in the start potential, so another start shifts u[1] by
    decay (start - start now) and changes nothing else at t = 1. Only the shift of the mean can go
    that way; the spread of u[1] stays too narrow (a draw from the law would mend it).

    Args:
        spec: the layer's dynamics; its start is the one in force.
        first: histogram of u at t = 1, ``[..., bins]``.
        reference: histogram of u where it has settled, ``[..., bins]``.
        edges: potential, ``[bins + 1]``.
        start: start potential proposed; the reference's post-reset mean if None.

    Returns:
        Distances and rates before and after, ``[...]``.

    Raises:
        ValueError: an impossible histogram, or a layer with a synapse (u[1] is then not all).

    Example:
        >>> edges = np.linspace(-4.0, 4.0, 801)
        >>> first = np.diff(stats.norm.cdf(edges, 0.0, 0.5))
        >>> settled = np.diff(stats.norm.cdf(edges, 0.4, 0.5))
        >>> spec = NeuronSpec(decay=0.5, threshold=9.0)
        >>> gone = removable_drift(spec, first, settled, edges, start=0.6)
        >>> [round(float(value), 3) for value in gone]
        [0.6, 0.4, 0.1, 0.75, 0.0, 0.0]

    Source:
        MP-Init, Kook et al., arXiv 2511.08708, lemma 1; the removable share is ours.
    """
    if np.any(np.asarray(spec.synapse_decay) != 0):
        raise ValueError(
            f"synapse_decay={spec.synapse_decay!r}: with a synapse the start of the filter counts "
            "too; a start potential alone is predicted for synapse_decay=0"
        )
    a, edges = probabilities(first, edges)
    b, _ = probabilities(reference, edges)
    a, b = np.broadcast_arrays(a, b)
    new = np.asarray(post_reset_mean(spec, b, edges) if start is None else start, dtype=float)
    new = np.broadcast_to(new, a.shape[:-1])
    shift = np.asarray(spec.decay * (new - spec.start), dtype=float)
    before, after = np.empty(new.shape), np.empty(new.shape)
    u = 0.5 * (edges[1:] + edges[:-1])
    for index in np.ndindex(*new.shape):
        before[index] = stats.wasserstein_distance(u, u, a[index], b[index])
        after[index] = stats.wasserstein_distance(u + shift[index], u, a[index], b[index])
    law = HistogramLaw(edges, a)
    removed = np.divide(before - after, before, out=np.zeros(new.shape), where=before > 0)
    threshold = np.broadcast_to(np.asarray(spec.threshold, dtype=float), new.shape)
    return RemovableDrift(
        start=new,
        w1_before=before,
        w1_after=after,
        share=removed,
        rate_before=np.asarray(law.probability(threshold, np.inf)),
        rate_after=np.asarray(law.probability(threshold - shift, np.inf)),
    )


def agl_raises_coverage(
    scale: Any, threshold: Any, decay: Any, t: Any, width_now: Any, alpha: Any = 1.0
) -> Any:
    """Return whether MPD-AGL widens the window, and so raises coverage.

    Args:
        scale: mean of the batch norm's gamma, no unit.
        threshold: initial threshold, potential.
        decay: of the membrane.
        t: timestep from 1.
        width_now: full width in force, potential.
        alpha: factor of tdBN, no unit.

    Returns:
        True iff alpha scale sqrt(1 + decay^2 [t >= 2]) > width_now / (2 threshold).

    Raises:
        ValueError: a scale of 0 or below.

    Example:
        >>> agl_raises_coverage(1.0, 0.5, 0.2, t=2, width_now=1.0)
        True
        >>> agl_raises_coverage(0.5, 0.5, 0.2, t=2, width_now=1.0)
        False

    Source:
        Sign of the change of width under MPD-AGL, arXiv 2505.11863; ours.
    """
    number("width_now", width_now, ABOVE_ZERO, LARGEST, "a finite number above 0")
    return agl_width(scale, threshold, decay, t, alpha) > width_now


def _thresholds(name: str, value: Any, share: np.ndarray) -> np.ndarray:
    value = number(name, value, -LARGEST, LARGEST, "finite")
    return np.broadcast_to(np.asarray(value, dtype=float), share.shape[:-1])


def _bin_mass(share: np.ndarray, edges: np.ndarray, at: Any) -> np.ndarray:
    """Return the mass of the bin that holds a value, 0 on an edge or outside all bins."""
    at = np.broadcast_to(np.asarray(at, dtype=float), share.shape[:-1])
    index = np.searchsorted(edges, at) - 1
    inside = (index >= 0) & (index < share.shape[-1])
    index = np.clip(index, 0, share.shape[-1] - 1)
    mass = np.take_along_axis(share, index[..., None], axis=-1)[..., 0]
    return np.where(inside & (edges[index + 1] != at), mass, 0.0)
