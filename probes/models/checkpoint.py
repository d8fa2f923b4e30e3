"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; whatever happens meanwhile, the old one or the new one is there.

    Args:
        path: the file; one that exists is replaced.
        content: tensors, numbers, texts, and lists and dicts of them.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, must survive a loss of power
    finally:
        os.close(folder)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no checkpoint of ours, or not whole.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}: nothing to resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a torn file fails anywhere in torch's reader, in many ways
        raise ValueError(
            f"{str(path)!r} is no checkpoint, or not a whole one: resume another run"
        ) from error
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{str(path)!r} is no checkpoint of spikescope: resume another run")
    if content["format"] != FORMAT:
        raise ValueError(
            f"checkpoint {str(path)!r} has format {content['format']!r}, but this version reads "
            f"{FORMAT}"
        )
    return content


def random_state() -> dict[str, Any]:
    """Return the global random states: Python's, numpy's, torch's, CUDA's."""
    version, words, rest = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(words), rest],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the global random states back to what :func:`random_state` gave."""
    version, words, rest = state["python"]
    random.setstate((version, tuple(words), rest))
    kind, keys, *more = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *more))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    # A run of a machine with other devices is resumed with what they have in common.
    for device, each in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(each, device)
