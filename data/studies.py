"""Studies of a trained model beside its run: one file each, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("attribution", "timesteps", "fidelity")
_META = "meta"
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class StudyError(ValueError):
    """A study that cannot be written or read; the message names the file."""


@dataclass(frozen=True)
class Study:
    """One study.

    Args:
        kind: one of :data:`KINDS`.
        name: what tells it from others of its kind.
        meta: what JSON can hold.
        arrays: figures by name.
    """

    kind: str
    name: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def write_study(
    folder: str | Path,
    kind: str,
    name: str,
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Path:
    """Write a study into a run's folder; one of the same kind and name is replaced.

    Args:
        folder: the run's folder.
        kind: one of :data:`KINDS`.
        name: letters, digits, ``_`` and ``-``.
        meta: what JSON can hold.
        arrays: figures by name; numbers only.

    Returns:
        Path of the file.

    Raises:
        StudyError: an unknown kind, a name that is no file name, or a folder that is no run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "run.json").write_text("{}")
        >>> _ = write_study(folder, "timesteps", "all", {"samples": 2}, {"fall": np.ones(3)})
        >>> [study.name for study in read_studies(folder)[0]]
        ['all']
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise StudyError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name):
        raise StudyError(f"name={name!r} is no name of a study: use letters, digits, _ and -")
    if not (folder / "run.json").is_file():
        raise StudyError(f"{str(folder)!r} is no run: it has no run.json")
    content = io.BytesIO()
    header = np.array(json.dumps({"written": time.time(), **meta}, allow_nan=True))
    np.savez_compressed(content, allow_pickle=False, **{_META: header}, **dict(arrays))
    path = folder / f"{kind}.{name}.npz"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content.getvalue())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def read_studies(folder: str | Path, kind: str | None = None) -> tuple[list[Study], list[str]]:
    """Read the studies of a run.

    Args:
        folder: the run's folder.
        kind: only this kind; None for all.

    Returns:
        Studies, newest first, and a sentence for each file that could not be read.

    Example:
        See :func:`write_study`.
    """
    studies, problems = [], []
    for path in sorted(Path(folder).glob("*.npz")):
        found, _, name = path.stem.partition(".")
        if found not in KINDS or kind not in (None, found):
            continue
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
                arrays = {key: content[key] for key in content.files if key != _META}
                meta = json.loads(str(content[_META]))
        except _BROKEN as error:
            problems.append(f"{path.name} cannot be read and is left out ({error})")
            continue
        studies.append(Study(found, name, meta, arrays))
    studies.sort(key=lambda study: study.meta.get("written", 0.0), reverse=True)
    return studies, problems
