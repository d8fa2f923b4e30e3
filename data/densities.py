"""Histograms of u over training, brought from the record's rows to one set of bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .schema import DENSITY_BINS, coarsen_density, density_edges

DENSITY_COLUMNS = ("step", "mode", "layer", "t", "density", "density_exponent")


@dataclass(frozen=True)
class Density:
    """Histograms of u of one layer over training.

    Args:
        steps: ``[R]`` recorded steps.
        t: ``[T]`` timesteps, from 1.
        counts: ``[R, T, bin]`` elements; a row that was not recorded is all zero.
        edges: ``[bin + 1]`` edges of (u - threshold) in thresholds.
        scale: potential per unit of ``edges``.
    """

    steps: np.ndarray
    t: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    scale: float


def collect(rows: pa.Table, scale: float) -> Density:
    """Return the densities of one layer and mode on the widest of their ranges.

    Args:
        rows: :data:`DENSITY_COLUMNS` of the record.
        scale: potential per unit of the density's axis.

    Returns:
        A :class:`Density`; rows of one step and timestep add up.
    """
    if len(rows) == 0:
        none = np.array([], dtype=np.int64)
        counts = np.zeros((0, 0, DENSITY_BINS), dtype=np.int64)
        return Density(none, none, counts, density_edges(0), scale)
    steps, step_index = np.unique(rows["step"].to_numpy(), return_inverse=True)
    t, t_index = np.unique(rows["t"].to_numpy(), return_inverse=True)
    exponents = rows["density_exponent"].to_numpy()
    # Each row holds the same number of bins, so that the lists are one matrix.
    lists = rows["density"].combine_chunks()
    histograms = lists.flatten().to_numpy().reshape(len(rows), DENSITY_BINS)
    widest = int(exponents.max())
    counts = np.zeros((len(steps), len(t), DENSITY_BINS), dtype=np.int64)
    for exponent in np.unique(exponents):
        chosen = exponents == exponent
        coarse = coarsen_density(histograms[chosen], widest - int(exponent))
        np.add.at(counts, (step_index[chosen], t_index[chosen]), coarse)
    return Density(steps, t, counts, density_edges(widest), scale)
