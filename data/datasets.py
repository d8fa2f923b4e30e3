"""Data sets as numpy arrays, split into a training and a test part; all of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dataset:
    """A data set for classification, split once into two parts.

    Args:
        train_inputs: images ``[N, channels, height, width]`` or sequences ``[N, T, features]``;
            float32, or uint8 where float32 would take four times the memory.
        train_targets: class of each input, ``[N]``, int64, counted from 0.
        test_inputs: ``[M, ...]``, of the same kind.
        test_targets: ``[M]``, int64.
        name: what people call it.
        scale: what a uint8 input is multiplied by to become the network's input.
    """

    train_inputs: NDArray[np.float32] | NDArray[np.uint8]
    train_targets: NDArray[np.int64]
    test_inputs: NDArray[np.float32] | NDArray[np.uint8]
    test_targets: NDArray[np.int64]
    name: str
    scale: float = 1.0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_targets.max(), self.test_targets.max())) + 1


def load(name: str, seed: int = 0, data_dir: str | Path | None = None, **settings: Any) -> Dataset:
    """Return a data set by its name.

    Args:
        name: a name in :data:`DATASETS`.
        seed: decides the split, and the samples of a synthetic data set; data sets that come with
            a test part of their own do not depend on it.
        data_dir: folder that holds the files of the data sets that come in files.
        settings: further arguments of the data set's own function.

    Raises:
        ValueError: an unknown name or setting, or a broken file.
        FileNotFoundError: a file is missing; the message says which, and where it belongs.
        ImportError: what the data set comes with is not installed.

    Example:
        >>> load("randman", classes=2, samples=10, timesteps=20).train_inputs.shape
        (16, 20, 20)
    """
    if name not in DATASETS:
        raise ValueError(f"data={name!r} is not one of {', '.join(map(repr, DATASETS))}")
    home, function = DATASETS[name]
    make: Callable[..., Dataset] = getattr(import_module(home, __package__), function)
    known = inspect.signature(make).parameters
    for setting in settings:
        if setting in ("seed", "data_dir") or setting not in known:
            possible = [each for each in known if each not in ("seed", "data_dir")]
            said = f"it has {', '.join(possible)}" if possible else "it has none"
            raise ValueError(f"data {name!r} has no setting {setting!r}: {said}")
    given = {"seed": seed, "data_dir": data_dir}
    return make(**{key: value for key, value in given.items() if key in known}, **settings)


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


def sequential_digits(seed: int = 0, test_share: float = 0.2) -> Dataset:
    """Return the digits as sequences: one row of pixels per timestep, from the top.

    Args:
        seed: decides which images are held out for the test.
        test_share: share of each class that is held out, strictly between 0 and 1.

    Returns:
        Inputs ``[N, 8, 8]`` in [0, 1]: timesteps, then pixels of the row.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: ``test_share`` leaves one part without some class.

    Example:
        >>> sequential_digits().train_inputs.shape
        (1438, 8, 8)

    Source:
        Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of rectified
        linear units", section 4.2, for images read as sequences (there pixel by pixel).
    """
    images = digits(seed, test_share)
    return replace(
        images,
        train_inputs=images.train_inputs[:, 0],
        test_inputs=images.test_inputs[:, 0],
        name="sequential-digits",
    )


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


DATASETS: dict[str, tuple[str, str]] = {
    "digits": (".datasets", "digits"),
    "sequential-digits": (".datasets", "sequential_digits"),
    "randman": (".datasets_randman", "randman"),
    "mnist": (".datasets_idx", "mnist"),
    "fashion-mnist": (".datasets_idx", "fashion_mnist"),
    "cifar10": (".datasets_cifar", "cifar10"),
    "shd": (".datasets_shd", "shd"),
}
"""Module and function of every data set, by the name that the command line knows."""
