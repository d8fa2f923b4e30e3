"""MNIST and Fashion-MNIST from their IDX files."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset
from .datasets_files import broken, first_existing, missing, require_folder

PARTS = {"train": "train", "test": "t10k"}
CLASSES = 10
UNSIGNED_BYTE = 8
PIECE = 2**20


def mnist(data_dir: str | Path | None = None) -> Dataset:
    """Return handwritten digits, 28 x 28 pixels, from the four IDX files of MNIST.

    Args:
        data_dir: folder that holds ``mnist/train-images-idx3-ubyte`` and so on, each file packed
            (``.gz``) or not; ``MNIST/raw/`` is found, too.

    Returns:
        Inputs ``[N, 1, 28, 28]``, uint8 with scale 1/255; the published test part.

    Raises:
        FileNotFoundError: a file is missing; the message says which.
        ValueError: a file is broken.

    Source:
        LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
        recognition".
    """
    return _load("mnist", "MNIST", "the MNIST database of LeCun, Cortes and Burges", data_dir)


def fashion_mnist(data_dir: str | Path | None = None) -> Dataset:
    """Return pictures of clothes, 28 x 28 pixels, from the four IDX files of Fashion-MNIST.

    Args:
        data_dir: folder that holds ``fashion-mnist/train-images-idx3-ubyte`` and so on, each file
            packed (``.gz``) or not; ``FashionMNIST/raw/`` is found, too.

    Returns:
        Inputs ``[N, 1, 28, 28]``, uint8 with scale 1/255; the published test part.

    Raises:
        FileNotFoundError: a file is missing; the message says which.
        ValueError: a file is broken.

    Source:
        Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking
        machine learning algorithms".
    """
    source = "the Fashion-MNIST page of Zalando Research"
    return _load("fashion-mnist", "FashionMNIST", source, data_dir)


def _load(data: str, other: str, source: str, data_dir: str | Path | None) -> Dataset:
    names = {
        (part, kind): f"{prefix}-{kind}-idx{axes}-ubyte"
        for part, prefix in PARTS.items()
        for kind, axes in (("images", 3), ("labels", 1))
    }
    wanted = f"{', '.join(f'{name}.gz' for name in names.values())} ({source})"
    folder = require_folder(data, data_dir, wanted)
    # Both data sets use the same file names: a folder of their own tells them apart.
    places = [folder / data, folder / other / "raw"]
    if folder.name.lower() == data:
        places.append(folder)
    found = {
        key: first_existing(
            place / f"{written}{packed}"
            for place in places
            for written in (name, name.replace("-idx", ".idx"))
            for packed in ("", ".gz")
        )
        for key, name in names.items()
    }
    absent = [f"{names[key]}.gz" for key, path in found.items() if path is None]
    if absent:
        raise missing(data, absent, places[0], source)
    arrays = {key: read_idx(path) for key, path in found.items() if path is not None}
    for part in PARTS:
        _check_part(found[part, "images"], arrays[part, "images"], arrays[part, "labels"])
    train, test = arrays["train", "images"], arrays["test", "images"]
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"the images of {data!r} have {train.shape[1:]} pixels for training and "
            f"{test.shape[1:]} for the test: these files do not belong together"
        )
    return Dataset(
        train[:, None],
        arrays["train", "labels"].astype(np.int64),
        test[:, None],
        arrays["test", "labels"].astype(np.int64),
        data,
        scale=1.0 / 255.0,
    )


def _check_part(path: Path | None, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if images.ndim != 3 or labels.ndim != 1:
        raise broken(str(path), f"holds {images.ndim} axes beside {labels.ndim}, not 3 beside 1")
    if len(images) != len(labels):
        raise broken(str(path), f"holds {len(images)} images beside {len(labels)} labels")
    if images.size == 0:
        raise broken(str(path), "holds no image")
    if labels.max() >= CLASSES:
        raise broken(str(path), f"has a label {labels.max()} beside it, but there are 0 to 9")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes from an IDX file, packed with gzip or not.

    Args:
        path: the file; packed if its name ends in ``.gz``.

    Returns:
        The array in the shape that the file's header says.

    Raises:
        ValueError: the file is no IDX file of bytes, is shorter or longer than its header says, or
            cannot be unpacked.

    Source:
        The page of the MNIST database, "the IDX file format": two zero bytes, type (8: unsigned
        byte), number of axes, sizes as big-endian 32-bit numbers, then the values.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0":
                raise broken(path, "is no IDX file (it does not begin with two zero bytes)")
            kind, axes = start[2], start[3]
            if kind != UNSIGNED_BYTE or not 1 <= axes <= 4:
                raise broken(
                    path, f"is no IDX file of bytes (its type is {kind}, its axes are {axes})"
                )
            sizes = file.read(4 * axes)
            if len(sizes) < 4 * axes:
                raise broken(path, "ends inside its header")
            shape = struct.unpack(f">{axes}I", sizes)
            size = math.prod(shape)
            content = _read_at_most(file, size + 1)  # one more, to see a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken(path, f"cannot be unpacked ({' '.join(str(error).split())})") from error
    if len(content) != size:
        more = "at least " if len(content) > size else ""
        raise broken(path, f"holds {more}{len(content)} values, but its header says {size} {shape}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_at_most(file: io.BufferedIOBase, size: int) -> bytearray:
    """Read piece by piece: what a broken header asks for may not fit into memory."""
    content = bytearray()  # an array on bytes could not be written to
    while len(content) < size and (piece := file.read(min(PIECE, size - len(content)))):
        content += piece
    return content
