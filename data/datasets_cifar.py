"""CIFAR-10 from its binary files."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset
from .datasets_files import broken, first_existing, missing, require_folder

IMAGE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
ARCHIVE = "cifar-10-binary.tar.gz"
SOURCE = "the CIFAR-10 page of Krizhevsky, University of Toronto, binary version"


def cifar10(data_dir: str | Path | None = None) -> Dataset:
    """Return CIFAR-10: colour photographs of 32 x 32 pixels in ten classes.

    Args:
        data_dir: folder that holds ``cifar-10-binary.tar.gz`` as downloaded, or unpacked the
            folder ``cifar-10-batches-bin`` (or just its files); also inside ``cifar10``.

    Returns:
        Inputs ``[N, 3, 32, 32]`` (red, green, blue), uint8 with scale 1/255; the published test
        part.

    Raises:
        FileNotFoundError: a file is missing; the message says which.
        ValueError: a file is broken.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images"; the page's
        description of the binary version.
    """
    folder = require_folder("cifar10", data_dir, f"{ARCHIVE} ({SOURCE})")
    tops = (folder, folder / "cifar10")
    places = [place for top in tops for place in (top / "cifar-10-batches-bin", top)]
    found = {name: first_existing(place / name for place in places) for name in (*TRAIN, TEST)}
    absent = [name for name, path in found.items() if path is None]
    archive = first_existing(top / ARCHIVE for top in tops)
    if not absent:
        contents = {name: path.read_bytes() for name, path in found.items() if path is not None}
        origin = {name: str(path) for name, path in found.items()}
    elif archive is not None:
        contents = _read_archive(archive)
        origin = {name: f"{archive}: {name}" for name in contents}
    elif len(absent) == len(found):
        raise missing("cifar10", [ARCHIVE], folder, SOURCE)
    else:
        raise missing("cifar10", absent, folder, f"inside {ARCHIVE} of {SOURCE}")
    parts = {name: read_records(contents[name], origin[name]) for name in (*TRAIN, TEST)}
    counts = {name: len(parts[name][1]) for name in TRAIN}
    for name, count in counts.items():
        if count != max(counts.values()):
            raise broken(
                origin[name], f"holds {count} images, but others hold {max(counts.values())}"
            )
    return Dataset(
        np.concatenate([parts[name][0] for name in TRAIN]),
        np.concatenate([parts[name][1] for name in TRAIN]),
        *parts[TEST],
        "cifar10",
        scale=1.0 / 255.0,
    )


def read_records(content: bytes, origin: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Split the content of a binary file into images and classes.

    Args:
        content: records of one byte for the class and 3072 for the image (red, green, blue plane).
        origin: name of the file, for messages.

    Returns:
        ``(images, classes)``: ``[N, 3, 32, 32]`` and ``[N]``.

    Raises:
        ValueError: no whole number of records, none at all, or a class above 9.

    Example:
        >>> images, classes = read_records(bytes([7]) + bytes(3072), "test_batch.bin")
        >>> images.shape, classes.tolist()
        ((1, 3, 32, 32), [7])
    """
    if len(content) == 0 or len(content) % RECORD:
        raise broken(
            origin, f"holds {len(content)} bytes, but CIFAR-10 comes in records of {RECORD}"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    classes = records[:, 0].astype(np.int64)
    if classes.max() >= CLASSES:
        raise broken(origin, f"has a class {classes.max()}, but CIFAR-10 has 0 to 9")
    return records[:, 1:].reshape(-1, *IMAGE).copy(), classes


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the data files out of the archive; nothing is unpacked to disk."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if name in (*TRAIN, TEST) else None
                if file is not None:
                    contents[name] = file.read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken(path, f"cannot be unpacked ({' '.join(str(error).split())})") from error
    absent = [name for name in (*TRAIN, TEST) if name not in contents]
    if absent:
        raise broken(path, f"does not hold {', '.join(absent)}")
    return contents
