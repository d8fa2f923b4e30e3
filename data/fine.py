"""What ``collect="full"`` keeps: the joint law of potential and gradient, and maps over units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .compaction import add_counts

JOINT_U = 64
"""Bins of (u - threshold), 1/16 of a threshold wide; the outermost hold what lies beyond, too."""

JOINT_WIDTH = 1.0 / 16.0

JOINT_G = 64
"""Bins of |dL/ds|: one for exactly 0, the others a factor of 2 wide."""

JOINT_LEAST = -62
"""The first bin above 0 ends at 2^-61; it holds what is smaller, too, the last what is larger."""


@dataclass(frozen=True)
class Joint:
    """Joint histograms of (u - threshold) and |dL/ds| of one layer over training.

    dL/ds is that with the path through the reset: what the surrogate is multiplied with.

    Args:
        steps: ``[R]`` recorded steps.
        t: ``[T]`` timesteps, from 1.
        counts: ``[R, T, u_bin, g_bin]`` elements; the outermost bins hold what lies beyond them.
        u_edges: ``[u_bin + 1]`` edges of (u - threshold) in thresholds.
        g_edges: ``[g_bin + 1]`` edges of |dL/ds|; the first bin, from 0 to 0, holds exact zeros.
        scale: potential per unit of ``u_edges``.
    """

    steps: np.ndarray
    t: np.ndarray
    counts: np.ndarray
    u_edges: np.ndarray
    g_edges: np.ndarray
    scale: float


@dataclass(frozen=True)
class Maps:
    """Spikes of each unit of one layer over training.

    Args:
        steps: ``[R]`` recorded steps.
        rate: ``[R, ...]`` firing rate of each unit, over samples and timesteps.
        silent: ``[R, ...]`` units that fired in no sample and timestep.
        saturated: ``[R, ...]`` units that fired in each sample and timestep.
        chances: ``[R]`` samples times timesteps.
    """

    steps: np.ndarray
    rate: np.ndarray
    silent: np.ndarray
    saturated: np.ndarray
    chances: np.ndarray


def joint_edges() -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of both axes of a joint histogram.

    Example:
        >>> u, g = joint_edges()
        >>> u[[0, 32, 64]].tolist(), g[:3].tolist() == [0.0, 0.0, 2.0**-61]
        ([-2.0, 0.0, 2.0], True)
    """
    half = JOINT_U // 2
    u_edges = np.arange(-half, half + 1) * JOINT_WIDTH
    powers = np.exp2(np.arange(JOINT_LEAST + 1, JOINT_LEAST + JOINT_G))
    return u_edges, np.concatenate(([0.0, 0.0], powers))


def collect_joint(rows: pd.DataFrame, scale: float) -> Joint:
    """Return the joint histograms of one layer and mode; rows of one step and timestep add up."""
    u_edges, g_edges = joint_edges()
    steps, step_place = np.unique(rows["step"].to_numpy(np.int64), return_inverse=True)
    t, t_place = np.unique(rows["t"].to_numpy(np.int64), return_inverse=True)
    counts = np.zeros((len(steps), len(t), JOINT_U * JOINT_G), dtype=np.int64)
    for row, (k, j) in enumerate(zip(step_place, t_place, strict=True)):
        counts[k, j] += np.asarray(rows["counts"].iloc[row])
    shape = (len(steps), len(t), JOINT_U, JOINT_G)
    return Joint(steps, t, counts.reshape(shape), u_edges, g_edges, scale)


def collect_maps(rows: pd.DataFrame) -> Maps:
    """Return the maps of one layer and mode; of a layer that changed its shape, the last shape."""
    if not len(rows):
        none = np.zeros(0, dtype=np.int64)
        return Maps(none, np.zeros((0, 0)), *(np.zeros((0, 0), dtype=bool),) * 2, none)
    shape = tuple(int(size) for size in rows["shape"].iloc[-1])
    rows = rows[rows["spikes"].map(len) == int(np.prod(shape))]
    rows = add_counts(rows, "spikes").sort_values("step")
    steps, chances = rows["step"].to_numpy(np.int64), rows["chances"].to_numpy(np.int64)
    spikes = np.stack(rows["spikes"].to_list()).reshape(-1, *shape)
    whole = chances.reshape(-1, *(1,) * len(shape))
    return Maps(steps, spikes / whole, spikes == 0, spikes == whole, chances)
