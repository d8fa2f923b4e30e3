"""Small data sets in the real file formats, for tests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

import numpy as np


def idx(array, magic=None):
    """Return the bytes of an IDX file."""
    array = np.asarray(array, dtype=np.uint8)
    start = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    return start + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_arrays(train=20, test=10, seed=0):
    """Return images of 28 x 28 pixels with their classes, by file name."""
    random = np.random.default_rng(seed)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    return arrays


def write_mnist(folder, packed=False, **counts):
    """Write the four files of MNIST into a folder, and return what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = idx_arrays(**counts)
    for name, array in arrays.items():
        content = idx(array)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return arrays


CIFAR_TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]


def cifar_parts(count=4, seed=0):
    """Return records, one row of class and pixels each, by file name."""
    random = np.random.default_rng(seed)
    parts = {}
    for name in (*CIFAR_TRAIN, "test_batch.bin"):
        rows = random.integers(0, 256, (count, 3073), np.uint8)
        rows[:, 0] = random.integers(0, 10, count)
        parts[name] = rows
    return parts


def write_cifar(folder, **settings):
    """Write the six files of CIFAR-10 into a folder, and return what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = cifar_parts(**settings)
    for name, rows in parts.items():
        (folder / name).write_bytes(rows.tobytes())
    return parts


def write_cifar_archive(path, without=(), **settings):
    """Write the archive of CIFAR-10 as it is downloaded, and return what it holds."""
    parts = cifar_parts(**settings)
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in parts.items():
            if name not in without:
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = rows.size
                archive.addfile(member, io.BytesIO(rows.tobytes()))
    return parts


def write_shd(path, times, units, labels):
    """Write one HDF5 file of spikes, lists of times [s] and of units, as they are published."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("spikes")
        kinds = {"times": np.float16, "units": np.uint16}
        for (name, kind), lists in zip(kinds.items(), (times, units), strict=True):
            kept = group.create_dataset(name, (len(lists),), dtype=h5py.vlen_dtype(kind))
            for number, values in enumerate(lists):
                kept[number] = np.asarray(values, dtype=kind)
        file["labels"] = np.asarray(labels, dtype=np.uint16)
