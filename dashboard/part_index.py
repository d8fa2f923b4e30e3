"""Which steps are in which part of a run, learnt bit by bit, the youngest part first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..data.parts import PartError, part_paths, part_steps
from ..data.reading import rank_folders

AGAIN = 0.05
"""Seconds between looks at what another thread is reading."""


File = tuple[int, int, int]


class PartIndex:
    """Steps of the parts of the table "records", those of all ranks; threads share it.

    While a run grows, parts are added, joined, and replaced by others with merged records.

    Args:
        forget: called with a step whose rows are no longer what they were.
    """

    def __init__(self, forget: Callable[[int], None]) -> None:
        self._forget = forget
        self._news = threading.Condition()
        self._held: dict[Path, dict[str, np.ndarray]] = {}
        self._files: dict[Path, File] = {}
        self._rows: dict[Path, int] = {}
        # What a thread is reading at the moment.
        self._taken: set[Path] = set()
        # Steps of parts that went, until all that came are known; and all there ever were.
        self._left: set[int] = set()
        self._ever: set[int] = set()
        self._listed = 0
        self._steps: dict[str | None, np.ndarray] = {}

    @property
    def rows(self) -> int:
        """Rows of the record, as far as is known."""
        with self._news:
            return sum(self._rows.values())

    @property
    def expected_rows(self) -> float:
        """Rows of the record, if the parts that are not known yet are like those that are."""
        with self._news:
            return sum(self._rows.values()) / max(len(self._rows), 1) * self._listed

    def parts(self) -> dict[Path, dict[str, np.ndarray]]:
        """Return the parts known so far, in the order of the record, with their steps by mode."""
        with self._news:
            return {path: self._held[path] for path in sorted(self._held)}

    def holding(self, steps: np.ndarray) -> list[Path]:
        """Return the parts known so far that hold any of these steps, ``[n]``, rising."""
        return [
            path
            for path, modes in self.parts().items()
            if any(_share(steps, held) for held in modes.values())
        ]

    def steps(self, mode: str | None) -> np.ndarray:
        """Return the steps of a mode (of all if None) known so far, ``[R]``, rising."""
        with self._news:
            if mode not in self._steps:
                pieces = [
                    steps
                    for part in self._held.values()
                    for name, steps in part.items()
                    if mode in (None, name)
                ]
                none = np.array([], dtype=np.int64)
                self._steps[mode] = np.unique(np.concatenate([none, *pieces]))
            return self._steps[mode]

    def update(self, folder: Path, problems: dict[str, str], patience: float = np.inf) -> bool:
        """Learn what is new on the disk.

        Args:
            folder: folder of the run.
            problems: gets a sentence for each part that cannot be read.
            patience: seconds after which the rest is left to the next time.

        Returns:
            Whether every part is known now.
        """
        until = time.monotonic() + patience
        listed = [part_paths(rank, "records") for rank in rank_folders(folder)]
        there = {path: file for paths in listed for path in paths if (file := _file(path))}
        self._drop(there)
        for path in _order(listed):
            with self._news:
                if path not in there or path in self._held or path in self._taken:
                    continue
                self._taken.add(path)
            self._learn(path, there[path], problems)
            if time.monotonic() > until:
                break
        with self._news:
            while not (whole := there.keys() <= self._held.keys()):
                # The rest is in the hands of another thread.
                if not there.keys() & self._taken or time.monotonic() > until:
                    break
                self._news.wait(AGAIN)
        if whole:
            self._settle()
        return whole

    def _drop(self, there: dict[Path, File]) -> None:
        with self._news:
            self._listed = len(there)
            for path in [path for path, file in self._files.items() if there.get(path) != file]:
                del self._files[path]
                self._left |= _all_steps(self._held.pop(path))
                self._rows.pop(path, None)
                self._steps.clear()

    def _learn(self, path: Path, file: File, problems: dict[str, str]) -> None:
        held: dict[str, np.ndarray] = {}
        rows = 0
        try:
            held, rows = part_steps(path)
            problems.pop(path.name, None)
        except PartError as error:
            if path.exists():
                problems[path.name] = str(error)
        finally:
            with self._news:
                self._taken.discard(path)
                self._held[path], self._rows[path], self._files[path] = held, rows, file
                self._steps.clear()
                now = _all_steps(held)
                # What was read of a step holds if only its file is another, or if none was there.
                grown = now & self._ever if not now <= self._left else ()
                self._ever |= now
                self._news.notify_all()
        for step in grown:
            self._forget(step)

    def _settle(self) -> None:
        """Forget what is gone, and the steps into which it was merged."""
        with self._news:
            left, self._left = self._left, set()
        kept = self.steps(None)
        for step in left - set(kept.tolist()):
            self._forget(step)
            before = int(np.searchsorted(kept, step)) - 1
            if before >= 0:
                self._forget(int(kept[before]))


def _file(path: Path) -> File | None:
    """Return what tells a file from another one of its name, None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _order(listed: list[list[Path]]) -> Iterator[Path]:
    """Yield where training stands and where it began, before all that lies between."""
    for paths in listed:
        yield from paths[-1:]
    for paths in listed:
        yield from paths[:1]
    for paths in listed:
        yield from reversed(paths[1:-1])


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two rising lists have a step in common."""
    if not (len(a) and len(b)) or a[-1] < b[0] or b[-1] < a[0]:
        return False
    return bool(np.isin(a, b).any())


def _all_steps(part: dict[str, np.ndarray]) -> set[int]:
    return {int(step) for steps in part.values() for step in steps}
