"""Where a recorded layer should start: proposed only where a replay shows that it helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .layer_record import Array, LayerRecord
from .neuron import after_reset, replay
from .stationary import stationary_law

SHIFT_LEAST = 0.25
"""Shift at t = 1, in thresholds, that is worth a change: as rule M1 of the findings has it."""

REMOVED_LEAST = 0.3
"""Share of the shift, over all timesteps, that a start must remove."""

CYCLES = 4
"""How often the recorded currents are repeated until the potential counts as settled."""

MOST_FROZEN = 0.98
ELEMENTS = 2**16

SOURCE = (
    "MP-Init, Kook et al. 2511.08708, lemma 1: the mean of v where it has settled; "
    "kept only if replaying the layer shows less shift over all timesteps"
)


@dataclass(frozen=True)
class StartSolution:
    """A start potential, and what it does to the shift of u away from where it settles.

    Args:
        start: proposed start potential, the same for every unit.
        before: shift at t = 1, Wasserstein-1 distance, potential.
        after: the same with the proposed start.
        removed: share of the shift over all timesteps that goes away; below 0 is harm.
        rings: whether the layer fires nearly periodically, so that one start for all would
            put its units in step; judged where the start would help otherwise.
    """

    start: float
    before: float
    after: float
    removed: float
    rings: bool

    def helps(self, scale: float) -> bool:
        """Return whether it is worth proposing; ``scale`` is the threshold, potential."""
        large = self.before >= SHIFT_LEAST * scale
        return large and not self.rings and self.removed >= REMOVED_LEAST


def solve_start(record: LayerRecord) -> StartSolution | None:
    """Return the start potential that suits a recorded layer best, and what it would do.

    The layer is replayed with its currents repeated until it has settled; each timestep is then
    compared with the settled one under the same current, so that only the start makes a
    difference.

    Args:
        record: the layer.

    Returns:
        The solution; None for a single timestep or a layer without memory.

    Example:
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> current = np.full((8, 4, 3), 0.3)
        >>> spec = NeuronSpec(decay=0.5, reset="none")
        >>> layer = LayerRecord("lif", spec, None, current, current, 0 * current, 0 * current[0])
        >>> found = solve_start(layer.rerun(spec, current))
        >>> round(found.start, 6), round(found.removed, 3)
        (0.6, 1.0)

    Source:
        Kook et al., arXiv 2511.08708, lemma 1; the check by replay is ours.
    """
    record = record.thinned(ELEMENTS)
    steps = len(record.u)
    if steps < 2 or not np.any(np.asarray(record.spec.decay) > 0.0):
        return None
    end = record
    for _ in range(CYCLES):
        v = after_reset(record.spec, end.u[-1], end.spikes[-1])
        end = record.rerun(record.spec, record.current, v)
    proposed = float(np.mean(after_reset(record.spec, end.u[-1], end.spikes[-1])))
    other, _ = replay(record.spec, record.current, start=np.full_like(record.start, proposed))
    now = np.array([_distance(record.u[t], end.u[t]) for t in range(steps)])
    then = np.array([_distance(other[t], end.u[t]) for t in range(steps)])
    removed = 1.0 - float(then.sum() / now.sum()) if now.sum() > 0.0 else 0.0
    in_step = removed >= REMOVED_LEAST and (law := settled(record)) is not None and law.rings
    return StartSolution(proposed, float(now[0]), float(then[0]), removed, in_step)


def _distance(one: Array, other: Array) -> float:
    """Return the Wasserstein-1 distance of two equally large samples."""
    return float(np.mean(np.abs(np.sort(one, axis=None) - np.sort(other, axis=None))))


def fixed_share(current: Array) -> float:
    """Return the share of the current's variance that stays fixed over time, 0 to .98.

    Args:
        current: ``[T, samples, units]``.

    Returns:
        The mean covariance of two different timesteps over the variance; 0 for one timestep.

    Example:
        >>> fixed_share(np.ones((5, 1, 1)) * np.array([[[0.0, 1.0, 2.0]]]))
        0.98
    """
    centred = current - current.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    steps, own = len(centred), float(np.mean(np.square(centred)))
    if steps < 2 or not own > 0.0:
        return 0.0
    together = float(np.mean(np.square(centred.sum(axis=0))))
    share = (together / steps - own) / ((steps - 1) * own)
    return float(np.clip(share, 0.0, MOST_FROZEN))


class Settled(NamedTuple):
    """What a layer does where its potential has settled.

    Args:
        rate: spikes per unit and timestep.
        rings: whether it fires nearly periodically: a constant start puts the units in step.
    """

    rate: float
    rings: bool


def settled(record: LayerRecord) -> Settled | None:
    """Return what the stationary law of the layer's current says.

    Args:
        record: the layer.

    Returns:
        Rate and ringing for a normal current of the recorded mean, spread and fixed share; None
        where no such law is known.

    Source:
        :func:`.stationary.stationary_law`.
    """
    mean, std = float(record.current.mean()), float(record.current.std())
    try:
        law = stationary_law(record.spec, mean, std, frozen=fixed_share(record.current))
        return Settled(float(law.rate), bool(law.rings)) if law.shape == () else None
    except (ValueError, ArithmeticError):
        return None
