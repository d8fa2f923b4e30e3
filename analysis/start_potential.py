"""MP-Init: where a layer should start, from the law of its potential at the last timestep."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .checks import number
from .distance import probabilities
from .neuron import NeuronSpec, after_reset, fires

KEPT = {"released": 0.9, "paper": 0.1}
"""Share of the old start potential that MP-Init keeps: the released code against algorithm 1."""


class ActiveMean(NamedTuple):
    """Mean over the units that fired, and how many they are."""

    mean: Any
    count: Any


def active_mean(v: Any, active: Any, xp: Any = np) -> ActiveMean:
    """Return the mean of the last post-reset potential over the units that fired at all.

    It is not the mean over all units: the rarer the spikes, the more it is pulled to the reset
    value (hard reset) or to the overshoot (soft reset).

    Args:
        v: post-reset potential at t = T, ``[...]``.
        active: whether the unit fired in t = 1 to T, ``[...]`` booleans or 0 and 1.
        xp: numpy, or torch for tensors.

    Returns:
        Mean (potential) and number of active units; mean 0 and count 0 if there is none.

    Example:
        >>> active_mean(np.array([0.2, 0.6, -0.1]), np.array([True, True, False]))
        ActiveMean(mean=np.float64(0.4), count=np.int64(2))

    Source:
        Kook et al., arXiv 2511.08708, algorithm 1 (one scalar per layer, active neurons).
    """
    count = active.sum()
    return ActiveMean((v * active).sum() / xp.clip(count, 1, None), count)


def mp_init(start: Any, batch_mean: Any, form: str = "released") -> Any:
    """Return the start potential after one more batch: a running mean of v at t = T.

    Args:
        start: start potential now (0 before the first batch), potential.
        batch_mean: mean of v[T] in this batch, over active units as published
            (:func:`active_mean`) or over all of them.
        form: ``"released"`` keeps 0.9 of the old value; ``"paper"`` keeps 0.1, as algorithm 1
            prints it.

    Returns:
        New start potential for every unit, silent ones too.

    Raises:
        ValueError: an unknown form.

    Example:
        >>> round(mp_init(0.2, 0.6), 6), round(mp_init(0.2, 0.6, form="paper"), 6)
        (0.24, 0.56)

    Source:
        Kook et al., arXiv 2511.08708, algorithm 1; released code 3d2aa23.
    """
    if form not in KEPT:
        raise ValueError(f"form={form!r} is not one of {', '.join(KEPT)}")
    return KEPT[form] * start + (1.0 - KEPT[form]) * batch_mean


def post_reset_mean(spec: NeuronSpec, counts: Any, edges: Any) -> np.ndarray:
    """Return the mean of the post-reset potential v from a histogram of the pre-reset one.

    Args:
        spec: the layer's dynamics.
        counts: ``[..., bins]``.
        edges: potential, ``[bins + 1]``; one of them best at the threshold.

    Returns:
        Mean of v, potential, ``[...]``: the constant start that leaves the least squared error.

    Raises:
        ValueError: an impossible histogram.

    Example:
        >>> edges = np.array([0.0, 0.5, 1.0, 1.5])
        >>> float(post_reset_mean(NeuronSpec(reset="to_value"), [2, 1, 1], edges))
        0.3125

    Source:
        Kook et al., arXiv 2511.08708, lemma 1: argmin_c E(v - c)^2 = E[v].
    """
    share, edges = probabilities(counts, edges)
    u = 0.5 * (edges[1:] + edges[:-1])
    return np.asarray((share * after_reset(spec, u, fires(spec, u))).sum(axis=-1))


def start_from_law(spec: NeuronSpec, counts: Any, edges: Any, uniform: Any) -> np.ndarray:
    """Return start potentials drawn from the recorded law itself, not one constant.

    A constant removes the shift of the mean at t = 1; a draw removes the shift of the spread too.

    Args:
        spec: the layer's dynamics.
        counts: histogram of the pre-reset potential at a late timestep, ``[bins]``.
        edges: potential, ``[bins + 1]``.
        uniform: numbers in [0, 1), any shape: the caller owns the random state.

    Returns:
        Post-reset potentials, in the shape of uniform.

    Raises:
        ValueError: an impossible histogram, or a number outside [0, 1].

    Example:
        >>> edges = np.array([0.0, 0.5, 1.0, 1.5])
        >>> start_from_law(NeuronSpec(reset="subtract"), [2, 1, 1], edges, [0.25, 0.9]).round(3)
        array([0.25, 0.3 ])

    Source:
        Ours: the inverse distribution function of u, then the layer's own reset.
    """
    uniform = np.asarray(number("uniform", uniform, 0.0, 1.0, "between 0 and 1"))
    share, edges = probabilities(counts, edges)
    below = np.concatenate([[0.0], np.cumsum(share)])
    # Rounding may leave the last sum below 1; the last filled bin takes what is beyond it.
    index = np.minimum(np.searchsorted(below, uniform, "right") - 1, np.flatnonzero(share)[-1])
    inside = np.clip((uniform - below[index]) / share[index], 0.0, 1.0)
    u = edges[index] + inside * np.diff(edges)[index]
    return np.asarray(after_reset(spec, u, fires(spec, u)))
