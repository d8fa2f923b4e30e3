"""A data set that a small network learns in a moment."""

from __future__ import annotations

import numpy as np

from spikescope.data.datasets import Dataset


def two_halves(count: int = 20, seed: int = 0) -> Dataset:
    """Return images that are bright in the upper or in the lower half, and noise."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    inputs = random.uniform(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    inputs[targets == 0, :, :4] += 0.7
    inputs[targets == 1, :, 4:] += 0.7
    half = count // 2
    return Dataset(inputs[:half], targets[:half], inputs[half:], targets[half:], "two halves")
