"""Values of u in which the units of a sample hang together, as those of one image do."""

import numpy as np

from spikescope.analysis.effective import effective_size


def clustered(rng, shared, runs=400, samples=48, units=60, scale=0.0):
    """Values [runs, samples, units]: own offsets of units, and a part that a sample shares."""
    offsets = 0.3 * rng.standard_normal(units)
    image = rng.standard_normal((runs, samples, 1))
    spread = np.exp(scale * rng.standard_normal((runs, samples, 1)))
    own = rng.standard_normal((runs, samples, units))
    return 0.4 * (offsets + spread * (np.sqrt(shared) * image + np.sqrt(1 - shared) * own))


def sizes_of(values):
    means = values.mean(axis=-1)
    count = values.shape[-1] * values.shape[-2]
    return effective_size(values.var(axis=(-1, -2)), means.var(axis=-1), values.shape[-2], count)
