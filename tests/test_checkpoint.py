"""Checkpoints: whole or not at all, read without running code; random states put back."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
import torch

from spikescope.probes.models import checkpoint
from spikescope.probes.models.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"tensor": torch.arange(3.0), "settings": {"seed": 3, "names": ["a"]}})
    content = load_checkpoint(path)
    assert torch.equal(content["tensor"], torch.arange(3.0))
    assert content["settings"] == {"seed": 3, "names": ["a"]}
    save_checkpoint(path, {"tensor": torch.zeros(1)})
    assert load_checkpoint(path)["tensor"].tolist() == [0.0]
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize("where", ["save", "fsync", "replace"])
def test_a_failure_midway_leaves_the_old_one(tmp_path, monkeypatch, where):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"number": 1})

    def fail(*args, **kwargs):
        raise OSError("no space left")

    place = {"save": (torch, "save"), "fsync": (os, "fsync"), "replace": (type(path), "replace")}
    monkeypatch.setattr(*place[where], fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, {"number": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["number"] == 1
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_the_content_is_on_disk_before_it_gets_the_name(tmp_path, monkeypatch):
    """Otherwise a loss of power leaves an empty file under the good name."""
    done = []
    real_fsync, real_replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda a, b: (done.append("replace"), real_replace(a, b))[1]
    )
    save_checkpoint(tmp_path / "checkpoint.pt", {"number": 1})
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the folder


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_file_that_would_run_code_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "evil": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is no checkpoint, or not a whole one"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_broken_files(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"tensor": torch.arange(1000.0)})
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (b"", b"text", whole[:middle], whole[:100] + b"\0" * 300 + whole[400:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no checkpoint") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="is no checkpoint"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="is no checkpoint of spikescope"):
        load_checkpoint(path)
    torch.save({"format": checkpoint.FORMAT + 1}, path)
    with pytest.raises(ValueError, match="has format 2, but this version reads 1"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_checkpoint(tmp_path / "none.pt")


def test_random_states_come_back_through_a_file(tmp_path):
    def draws():
        return random.random(), np.random.normal(), torch.rand(3).tolist()  # noqa: NPY002

    np.random.normal()  # noqa: NPY002  (so that the second of a pair is waiting)
    save_checkpoint(tmp_path / "checkpoint.pt", {"random": random_state()})
    first = draws()
    assert draws() != first
    restore_random_state(load_checkpoint(tmp_path / "checkpoint.pt")["random"])
    assert draws() == first
