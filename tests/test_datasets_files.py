"""Data sets that come in files: read right, missing said, broken refused."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from dataset_files import (
    CIFAR_TRAIN,
    cifar_parts,
    idx,
    write_cifar,
    write_cifar_archive,
    write_mnist,
    write_shd,
)

from spikescope.data import datasets_shd
from spikescope.data.datasets import load
from spikescope.data.datasets_idx import read_idx


def refused(message, call, kind=ValueError):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "place"),
    [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion-mnist", "fashion-mnist")],
)
def test_idx_files_are_read(tmp_path, packed, name, place):
    arrays = write_mnist(tmp_path / place, packed)
    data = load(name, data_dir=tmp_path)
    np.testing.assert_array_equal(data.train_inputs[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.train_targets, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test_inputs[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_targets, arrays["t10k-labels-idx1-ubyte"])
    assert data.train_inputs.dtype == np.uint8
    assert data.train_targets.dtype == np.int64
    assert (data.name, data.classes, data.scale) == (name, 10, 1 / 255)
    assert data.train_inputs.flags.writeable  # torch warns about arrays that are not


def test_the_folder_itself_serves_if_it_has_the_name_of_the_data(tmp_path):
    write_mnist(tmp_path / "mnist")
    assert load("mnist", data_dir=tmp_path / "mnist").train_inputs.shape == (20, 1, 28, 28)
    # The other data set has the same file names: it is not taken for this one.
    refused("not complete", lambda: load("fashion-mnist", data_dir=tmp_path), FileNotFoundError)
    refused(
        "not complete",
        lambda: load("fashion-mnist", data_dir=tmp_path / "mnist"),
        FileNotFoundError,
    )


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
        ("fashion-mnist", ["train-labels-idx1-ubyte.gz"]),
        ("cifar10", ["cifar-10-binary.tar.gz"]),
        ("shd", ["shd_train.h5", "shd_test.h5"]),
    ],
)
def test_what_is_missing_is_said_and_where_it_belongs(tmp_path, name, files):
    for folder, message in (
        (None, "name their folder with data_dir"),
        (tmp_path / "none", "is no folder"),
        (tmp_path, "is not complete: download"),
    ):
        said = refused(message, lambda: load(name, data_dir=folder), FileNotFoundError)  # noqa: B023
        assert all(file in said for file in files)
    assert str(tmp_path) in said


def test_only_the_absent_file_is_asked_for(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    said = refused("not complete", lambda: load("mnist", data_dir=tmp_path), FileNotFoundError)
    assert "t10k-labels-idx1-ubyte.gz" in said
    assert "train-images" not in said
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    said = refused("not complete", lambda: load("cifar10", data_dir=tmp_path), FileNotFoundError)
    assert "data_batch_3.bin" in said
    assert "data_batch_2.bin" not in said


GOOD = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with two zero bytes"),
        (b"\x1f\x8b" + GOOD, "does not begin with two zero bytes"),
        (b"\0\0\x0d\x01" + GOOD[4:], "its type is 13"),
        (b"\0\0\x08\x00" + GOOD[4:], "its axes are 0"),
        (GOOD[:10], "ends inside its header"),
        (GOOD[:-1], r"holds 23 values, but its header says 24 \(2, 3, 4\)"),
        (GOOD + b"x", "holds at least 25 values, but its header says 24"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "holds 0 values, but its header says"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_broken_idx_files(tmp_path, content, message, packed):
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(content) if packed else content)
    said = refused(message, lambda: read_idx(path))
    assert str(path) in said
    path.write_bytes(gzip.compress(GOOD) if packed else GOOD)
    assert read_idx(path).shape == (2, 3, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:20],
        lambda good: b"not gzip at all",
        lambda good: good[:15] + bytes([good[15] ^ 255]) + good[16:],
        lambda good: good[:-6] + b"\0\0\0\0\0\0",
    ],
    ids=["cut", "no gzip", "a wrong byte", "a wrong sum"],
)
def test_packed_files_that_cannot_be_unpacked(tmp_path, change):
    path = tmp_path / "file.gz"
    path.write_bytes(change(gzip.compress(GOOD)))
    refused("cannot be unpacked|no IDX file|values", lambda: read_idx(path))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(19), "20 images beside 19 labels"),
        ("train-labels-idx1-ubyte", np.full(20, 10), "a label 10 beside it"),
        ("train-labels-idx1-ubyte", np.zeros((20, 1)), "3 axes beside 2"),
        ("t10k-images-idx3-ubyte", np.zeros((10, 784)), "2 axes beside 1"),
        ("t10k-images-idx3-ubyte", np.zeros((10, 27, 28)), "do not belong together"),
        ("t10k-images-idx3-ubyte", np.zeros((0, 28, 28)), "0 images beside 10 labels"),
    ],
)
def test_files_that_do_not_fit_each_other(tmp_path, name, array, message):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / name).write_bytes(idx(array))
    refused(message, lambda: load("mnist", data_dir=tmp_path))


def test_a_part_without_images_is_refused(tmp_path):
    write_mnist(tmp_path / "mnist", test=0)
    refused("holds no image", lambda: load("mnist", data_dir=tmp_path))


@pytest.mark.parametrize("place", [".", "cifar10", "cifar-10-batches-bin", "archive"])
def test_cifar_files_are_read(tmp_path, place):
    if place == "archive":
        parts = write_cifar_archive(tmp_path / "cifar-10-binary.tar.gz")
    else:
        parts = write_cifar(tmp_path / place)
    data = load("cifar10", data_dir=tmp_path)
    assert data.train_inputs.shape == (20, 3, 32, 32)
    assert data.train_inputs.dtype == np.uint8
    rows = parts["data_batch_2.bin"]
    # A record: the class, then the red, the green and the blue plane, each row by row.
    assert data.train_targets[4] == rows[0, 0]
    assert data.train_inputs[4, 0, 0, 1] == rows[0, 2]
    assert data.train_inputs[4, 1, 0, 0] == rows[0, 1 + 1024]
    assert data.train_inputs[4, 2, 31, 31] == rows[0, -1]
    np.testing.assert_array_equal(data.test_inputs.reshape(4, -1), parts["test_batch.bin"][:, 1:])
    assert data.test_inputs.flags.writeable
    assert data.scale == 1 / 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.tobytes()[:-1], "holds 12291 bytes.*records of 3073"),
        (lambda rows: b"", "holds 0 bytes"),
        (lambda rows: b"\x0a" + rows.tobytes()[1:], "a class 10, but CIFAR-10 has 0 to 9"),
        (lambda rows: rows[:-1].tobytes(), "holds 3 images, but others hold 4"),
    ],
)
def test_broken_cifar_files(tmp_path, change, message):
    write_cifar(tmp_path)
    (tmp_path / CIFAR_TRAIN[1]).write_bytes(change(cifar_parts()[CIFAR_TRAIN[1]]))
    said = refused(message, lambda: load("cifar10", data_dir=tmp_path))
    assert "data_batch_2.bin" in said


def test_broken_cifar_archives(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar_archive(path, without=["data_batch_4.bin"])
    refused("does not hold data_batch_4.bin", lambda: load("cifar10", data_dir=tmp_path))
    write_cifar_archive(path)
    whole = path.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        b"no archive",
        whole[:50] + b"\0" * 900 + whole[950:],
    ):
        path.write_bytes(content)
        refused("cannot be unpacked", lambda: load("cifar10", data_dir=tmp_path))


def small_shd(folder, **change):
    """Write two files of three recordings each, with the given parts in place of the sound ones."""
    parts = {
        "times": [[0.0, 0.25, 0.25, 0.49], [1.25], []],
        "units": [[0, 3, 3, 699], [5], []],
        "labels": [0, 19, 4],
        **change,
    }
    for name in datasets_shd.NAMES:
        write_shd(folder / name, **parts)


@pytest.mark.parametrize("chunk", [1, 2, 256])
@pytest.mark.parametrize("place", [".", "shd"])
def test_spikes_are_counted_into_timesteps(tmp_path, monkeypatch, chunk, place):
    monkeypatch.setattr(datasets_shd, "CHUNK", chunk)
    (tmp_path / place).mkdir(exist_ok=True)
    small_shd(tmp_path / place)
    data = load("shd", data_dir=tmp_path, timesteps=4, duration=1.0)
    assert data.train_inputs.shape == (3, 4, 700)
    assert data.train_inputs.dtype == np.uint8
    expected = np.zeros((3, 4, 700))
    expected[0, 0, 0] = 1
    expected[0, 1, 3] = 2  # 0.25 s is where the second timestep begins
    expected[0, 1, 699] = 1
    np.testing.assert_array_equal(data.train_inputs, expected)  # 1.25 s is past the end
    assert data.train_targets.tolist() == [0, 19, 4]
    assert data.scale == 1.0
    longer = load("shd", data_dir=tmp_path, timesteps=4, duration=2.0)
    assert longer.train_inputs[1, 2, 5] == 1


def test_counts_stop_at_what_a_byte_holds(tmp_path):
    small_shd(tmp_path, times=[[0.1] * 300, [], []], units=[[7] * 300, [], []])
    assert load("shd", data_dir=tmp_path, timesteps=2).train_inputs[0, 0, 7] == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": [[0, 3, 3, 700], [5], []]}, "recording 0.*has a unit 700"),
        ({"units": [[0, 3, 3], [5], []]}, "recording 0.*4 times and 3 units"),
        ({"times": [[0, 0, 0, 0], [-0.5], []]}, "recording 1.*negative or no number"),
        ({"times": [[0, 0, 0, 0], [float("nan")], []]}, "recording 1.*negative or no number"),
        ({"labels": [0, 20, 4]}, "a class 20, but there are 0 to 19"),
        ({"labels": [0, 19]}, "3 lists of times, 3 of units and 2 labels"),
        ({"times": [], "units": [], "labels": []}, "0 lists of times"),
    ],
)
def test_broken_recordings(tmp_path, change, message):
    small_shd(tmp_path, **change)
    refused(message, lambda: load("shd", data_dir=tmp_path))


def test_files_that_are_no_hdf5(tmp_path):
    small_shd(tmp_path)
    path = tmp_path / "shd_train.h5"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        said = refused("cannot be read as HDF5", lambda: load("shd", data_dir=tmp_path))
        assert "shd_train.h5" in said
    import h5py

    with h5py.File(path, "w") as file:
        file["something"] = 1
    refused("cannot be read as HDF5", lambda: load("shd", data_dir=tmp_path))
    with h5py.File(path, "w") as file:
        file["spikes"] = 1
        file["labels"] = 1
    refused("cannot be read as HDF5", lambda: load("shd", data_dir=tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timesteps": 0}, "timesteps=0 is not possible"),
        ({"duration": 0.0}, "duration=0.0 is not possible"),
        ({"duration": float("nan")}, "duration=nan is not possible"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    refused(message, lambda: load("shd", data_dir=tmp_path, **settings))


def test_settings_that_a_data_set_does_not_have():
    refused(
        "data 'shd' has no setting 'time': it has timesteps, duration",
        lambda: load("shd", data_dir="/", time=3),
    )
    refused(
        "data 'mnist' has no setting 'seed_of_split': it has none",
        lambda: load("mnist", seed_of_split=3),
    )


def test_missing_h5py_names_the_command(tmp_path, monkeypatch):
    small_shd(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(
        r"pip install 'spikescope\[data\]'", lambda: load("shd", data_dir=tmp_path), ImportError
    )
