"""Real data sets as numpy arrays, split into a training and a test part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dataset:
    """A data set for classification, split once into two parts.

    Args:
        train_inputs: ``[N, ...]``, float32.
        train_targets: class of each input, ``[N]``, int64, counted from 0.
        test_inputs: ``[M, ...]``, float32.
        test_targets: ``[M]``, int64.
        name: what people call it.
    """

    train_inputs: NDArray[np.float32]
    train_targets: NDArray[np.int64]
    test_inputs: NDArray[np.float32]
    test_targets: NDArray[np.int64]
    name: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_targets.max(), self.test_targets.max())) + 1


def load(name: str, seed: int = 0) -> Dataset:
    """Return a data set by its name.

    Args:
        name: a name in :data:`DATASETS`.
        seed: decides the split.

    Raises:
        ValueError: an unknown name.
        ImportError: what the data set comes with is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"data={name!r} is not one of {', '.join(map(repr, DATASETS))}")
    return DATASETS[name](seed)


def digits(seed: int = 0, test_share: float = 0.2) -> Dataset:
    """Return scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, no download.

    Args:
        seed: decides which images are held out for the test.
        test_share: share of each class that is held out, strictly between 0 and 1.

    Returns:
        Inputs ``[N, 1, 8, 8]`` in [0, 1]; every class has its share in both parts.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: ``test_share`` leaves one part without some class.

    Example:
        >>> data = digits()
        >>> data.train_inputs.shape, data.test_inputs.shape
        ((1438, 1, 8, 8), (359, 1, 8, 8))

    Source:
        Alpaydin and Kaynak 1998, UCI machine learning repository, "Optical recognition of
        handwritten digits" (its test part, as bundled with scikit-learn).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'spikescope[demo]'"
        ) from error
    bundle: Any = load_digits()
    inputs = (bundle.images[:, None] / 16.0).astype(np.float32)  # grey levels are 0 to 16
    targets = bundle.target.astype(np.int64)
    train, test = stratified_split(targets, test_share, seed)
    return Dataset(inputs[train], targets[train], inputs[test], targets[test], "digits")


def stratified_split(
    targets: NDArray[np.int64], test_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split positions at random so that every class has the same share in the test part.

    Args:
        targets: class of each sample, ``[N]``.
        test_share: share of each class for the test part, strictly between 0 and 1; rounded to
            whole samples.
        seed: decides which ones.

    Returns:
        ``(train, test)``: positions in increasing order; together each position once.

    Raises:
        ValueError: a class would be missing from one of the two parts, or a negative seed.

    Example:
        >>> train, test = stratified_split(np.array([0, 0, 0, 1, 1, 1]), 1 / 3, seed=0)
        >>> len(train), len(test)
        (4, 2)
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError(f"test_share={test_share!r} is not possible: it must be between 0 and 1")
    if seed < 0:
        raise ValueError(f"seed={seed!r} is not possible: it must be 0 or more")
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        count = round(test_share * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"test_share={test_share!r} puts {count} of the {len(members)} samples of class "
                f"{label} into the test part: each part needs at least one"
            )
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


DATASETS: dict[str, Callable[[int], Dataset]] = {"digits": digits}
"""Every data set by the name that the command line knows."""
