"""Randman: classes of spike times that lie on smooth random manifolds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset, stratified_split

PRECISION = 1e-3
"""Harmonics whose amplitude is below this share of the first one are left out."""

MOST_HARMONICS = 1000


def randman(
    seed: int = 0,
    classes: int = 10,
    units: int = 20,
    timesteps: int = 50,
    dimensions: int = 1,
    alpha: float = 3.0,
    samples: int = 200,
    test_share: float = 0.2,
) -> Dataset:
    """Return spike trains in which each unit fires once, and only the times tell the class.

    Each class is a manifold; a sample is a random point on it, whose coordinates are the spike
    times of the units: coordinate y in [0, 1] is a spike in timestep 1 + floor(y T).

    Args:
        seed: decides manifolds, points and split.
        classes: number of manifolds.
        units: dimension of the space that the manifolds lie in; one input unit per coordinate.
        timesteps: T.
        dimensions: intrinsic dimension of the manifolds.
        alpha: smoothness; the k-th harmonic has amplitude ``k ** -alpha``.
        samples: points per class, training and test part together.
        test_share: share of each class that is held out, strictly between 0 and 1.

    Returns:
        Inputs ``[N, T, units]``, 0 or 1; each unit fires exactly once in each sample.

    Raises:
        ValueError: a count below 1, fewer than two classes, a negative or infinite ``alpha``, or a
            part without some class.

    Example:
        >>> data = randman(classes=3, units=4, timesteps=10, samples=50)
        >>> data.train_inputs.shape, data.train_inputs.sum(1).mean().item()
        ((120, 10, 4), 1.0)

    Source:
        Zenke and Vogels 2021 (Neural Computation 33), "The remarkable robustness of surrogate
        gradient learning", methods, smooth random manifolds.
    """
    counts = {"units": units, "timesteps": timesteps, "dimensions": dimensions, "samples": samples}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count!r} is not possible: it must be at least 1")
    if classes < 2:
        raise ValueError(f"classes={classes!r} is not possible: it must be at least 2")
    if not 0.0 <= alpha < math.inf:
        raise ValueError(f"alpha={alpha!r} is not possible: it must be 0 or more, and finite")
    targets = np.repeat(np.arange(classes), samples)
    train, test = stratified_split(targets, test_share, seed)  # refuses a seed below 0
    inputs = np.zeros((len(targets), timesteps, units), dtype=np.float32)
    for label in range(classes):
        # A stream for each class: a manifold does not depend on how many others there are.
        random = np.random.default_rng([seed, label])
        parameters = manifold_parameters(random, units, dimensions, alpha)
        points = standardise(manifold(random.random((samples, dimensions)), parameters, alpha))
        times = np.minimum((points * timesteps).astype(np.int64), timesteps - 1)
        rows = np.arange(label * samples, (label + 1) * samples)
        inputs[rows[:, None], times, np.arange(units)] = 1.0
    return Dataset(inputs[train], targets[train], inputs[test], targets[test], "randman")


def manifold_parameters(
    random: np.random.Generator, units: int, dimensions: int, alpha: float
) -> NDArray[np.float64]:
    """Draw the parameters of one manifold.

    Args:
        random: source of the numbers.
        units: dimension of the space around the manifold.
        dimensions: intrinsic dimension.
        alpha: smoothness; decides how many harmonics are worth computing.

    Returns:
        ``[units, dimensions, 3, harmonics]``, uniform in [0, 1): amplitude, frequency, phase.

    Example:
        >>> manifold_parameters(np.random.default_rng(0), 5, 2, 3.0).shape
        (5, 2, 3, 10)
    """
    harmonics = MOST_HARMONICS
    if alpha > 0.0:
        # The tolerance keeps 1e-3 ** (-1 / 3) at 10 although it is computed a hair above.
        harmonics = math.ceil(min(MOST_HARMONICS, PRECISION ** (-1.0 / alpha)) - 1e-9)
    return random.random((units, dimensions, 3, harmonics))


def manifold(
    points: NDArray[np.float64], parameters: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """Map intrinsic coordinates to coordinates in the space around the manifold.

    Coordinate i is the product over intrinsic dimensions j of
    ``sum over k of k^-alpha A_ijk sin(2 pi (k x_j B_ijk + C_ijk))``, with k from 1.

    Args:
        points: intrinsic coordinates, ``[samples, dimensions]`` in [0, 1].
        parameters: A, B and C, ``[units, dimensions, 3, harmonics]``.
        alpha: smoothness.

    Returns:
        Coordinates ``[samples, units]``, not yet standardised.

    Example:
        >>> quarter = np.array([[[[1.0], [1.0], [0.0]]]])  # one sine wave
        >>> manifold(np.array([[0.25], [0.75]]), quarter, 3.0).round(6).tolist()
        [[1.0], [-1.0]]

    Source:
        Zenke and Vogels 2021, methods, smooth random manifolds. The authors' program differs:
        its k-th harmonic has amplitude ``(k + 1)^-alpha``, which is a rougher manifold.
    """
    harmonics = parameters.shape[-1]
    k = np.arange(1, harmonics + 1)
    falloff = k.astype(np.float64) ** -alpha
    out = np.ones((len(points), len(parameters)))
    for unit, of_unit in enumerate(parameters):
        for x, (amplitude, frequency, phase) in zip(points.T, of_unit, strict=True):
            waves = np.sin(2.0 * np.pi * (np.outer(x, k * frequency) + phase))
            out[:, unit] *= waves @ (falloff * amplitude)
    return out


def standardise(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretch each coordinate so that its samples fill [0, 1].

    Args:
        coordinates: ``[samples, units]``.

    Returns:
        The same shape; a coordinate that is the same for all samples becomes 0.

    Example:
        >>> standardise(np.array([[1.0], [2.0], [5.0]])).ravel().tolist()
        [0.0, 0.25, 1.0]
    """
    low = coordinates.min(0)
    span = coordinates.max(0) - low
    stretched: NDArray[np.float64] = (coordinates - low) / np.where(span > 0.0, span, 1.0)
    return stretched
