"""Where the files of a data set are looked for, and what is said when one is missing or broken."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def require_folder(data: str, data_dir: str | Path | None, wanted: str) -> Path:
    """Return the folder of data sets.

    Args:
        data: name of the data set.
        data_dir: the folder, as the user gave it.
        wanted: which files are needed and where they come from, in words.

    Raises:
        FileNotFoundError: no folder was given, or there is none of that name.

    Example:
        >>> require_folder("mnist", None, "its four files")
        Traceback (most recent call last):
        FileNotFoundError: data 'mnist' comes in files: name their folder with data_dir (on the \
command line --data-dir); it needs its four files
    """
    if data_dir is None:
        raise FileNotFoundError(
            f"data {data!r} comes in files: name their folder with data_dir (on the command line "
            f"--data-dir); it needs {wanted}"
        )
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data_dir={str(folder)!r} is no folder: data {data!r} needs {wanted} in it"
        )
    return folder


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """Return the first path that is a file, or None."""
    return next((path for path in candidates if path.is_file()), None)


def missing(data: str, names: list[str], folder: Path, source: str) -> FileNotFoundError:
    """Return the error that says which files to get and where to put them.

    Args:
        data: name of the data set.
        names: the files that are not there.
        folder: where they belong.
        source: who publishes them, in words.
    """
    return FileNotFoundError(
        f"data {data!r} is not complete: download {', '.join(names)} ({source}) and put "
        f"{'it' if len(names) == 1 else 'them'} into {str(folder)!r}"
    )


def broken(path: Path | str, why: str) -> ValueError:
    """Return the error that says what is wrong with a file."""
    return ValueError(f"{str(path)!r} {why}: download it again")
