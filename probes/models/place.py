"""Where runs are to be written: looked at before any training."""

from __future__ import annotations

import tempfile
from pathlib import Path


def require_folder(folder: Path) -> None:
    """Make the folder that runs are to be written under.

    Args:
        folder: with or without its parents; it may exist.

    Raises:
        ValueError: it cannot be made, or nothing can be written to it; one line.

    Example:
        >>> require_folder(Path("/dev/null/runs"))
        Traceback (most recent call last):
        ...
        ValueError: out='/dev/null/runs' is not possible (Not a directory): name another folder
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"out={str(folder)!r} is not possible ({error.strerror}): name another folder"
        ) from error
