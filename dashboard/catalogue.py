"""The runs under one folder: looked up by name, read once per state on disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..analysis.findings import Finding, diagnose
from ..data.reading import rank_folders
from ..data.runs import Run, RunError, find_runs
from ..data.schema import MODES
from ..data.store import last_written
from .figures_scalars import thin
from .lazy import LazyRun
from .words import worst

log = logging.getLogger(__name__)

KEPT = 4
"""Runs that stay in memory."""

SPARKLINE = 100
"""Points of a loss in the table of runs."""

PATIENCE = 0.3
"""Seconds that a page waits for the findings before it is shown without them."""

LONG = 200_000
"""Rows from which on a run is shown before its findings are worked out."""

HEAD_START = 3.0
"""Seconds that belong to the first page of a long run before it is checked."""

RESTING = 10.0
"""A run that is being recorded is checked again after so many times as long as the last check."""

_ONE_CHECK = threading.Lock()
"""Checks run one after the other: the processor belongs to the training."""

Stamp = tuple[int, float, str]


class Snapshot(LazyRun):
    """A run as it was when it was first looked at, read piece by piece.

    Readers on several threads share it; frames that it returns must not be changed. ``failure``
    says why the findings could not be worked out; it is empty where they could.

    Args:
        path: folder of the run.
        before: the same run as it was before, if it was looked at: what was read stays.
        catalogue: where its siblings are looked up.
    """

    def __init__(
        self, path: Path, before: Snapshot | None = None, catalogue: Catalogue | None = None
    ) -> None:
        super().__init__(path, None if before is None else before.known)
        self.stamp = stamp(path)
        self.catalogue = catalogue
        self._lock = threading.RLock()
        self._scalars: pd.DataFrame | None = None
        self._checker: threading.Thread | None = None
        self._checked = threading.Event()
        # The youngest findings, shared with the run as it was before: they are shown while new
        # ones are worked out, and a check that comes late still counts.
        self._found: list[list[Finding]] = [[]] if before is None else before._found
        self._rest: list[float] = [0.0] if before is None else before._rest
        self._outdated = False
        self._indexed = False
        if before is not None:
            before._outdated = True
            # Parts that were torn are not looked at again while they stay as they are.
            for name, why in list(before._torn.items()):
                if any((folder / name).exists() for folder in rank_folders(path)):
                    self._torn[name] = why
        self._due = 0.0
        self.failure = ""

    def index(self, patience: float = np.inf) -> bool:
        """Learn which steps are in which part; what is written later is another snapshot's."""
        if not self._indexed:
            self._indexed = super().index(patience)
        return self._indexed

    def scalars(self) -> pd.DataFrame:
        """Return ``Run.scalars()`` from memory."""
        with self._lock:
            if self._scalars is None:
                self._scalars = super().scalars()
            return self._scalars

    def siblings(self) -> list[str]:
        """Return the names of the runs beside this one, itself among them."""
        return list(self.catalogue.paths()) if self.catalogue is not None else [self.name]

    def sibling(self, name: str) -> Snapshot:
        """Return another run under the same root.

        Raises:
            RunError: no such run, or one that cannot be read.
        """
        if self.catalogue is None:
            raise RunError(f"There is no run named {name!r} here.")
        return self.catalogue.run(name)

    @property
    def findings(self) -> list[Finding]:
        """Findings of the run, the worst first; earlier ones while they are being worked out."""
        with self._lock:
            if self._checker is None and not self._resting:
                # A daemon: a long check must not keep the server from ending.
                self._checker = threading.Thread(target=self._check, daemon=True)
                self._due = time.monotonic() + (0.0 if self._long else PATIENCE)
                self._checker.start()
        if self._checker is not None:
            self._checked.wait(max(0.0, self._due - time.monotonic()))
        return self._found[0]

    @property
    def _long(self) -> bool:
        """Whether nobody should wait for the findings."""
        self.index(0.0)
        return self.known.parts.expected_rows >= LONG

    @property
    def _resting(self) -> bool:
        """Whether it is too early to check a run again that is being recorded."""
        return time.monotonic() < self._rest[0] and self.state == "recording"

    def check(self) -> bool:
        """Start to work the findings out, wait a moment, and return whether they are there.

        What is drawn after a True is whole; after a False it must be drawn again, even when the
        findings arrive in between.
        """
        _ = self.findings
        return not self.checking and not (self._checker is None and self._resting)

    @property
    def checking(self) -> bool:
        """Whether the findings are still being worked out."""
        return self._checker is not None and not self._checked.is_set()

    def _check(self) -> None:
        try:
            if self._long and not self._found[0]:
                time.sleep(HEAD_START)
            with _ONE_CHECK:
                if not self._outdated:
                    began = time.monotonic()
                    self._found[0] = diagnose(self)
                    took = time.monotonic() - began
                    self._rest[0] = time.monotonic() + RESTING * took
        except Exception as error:
            # What was recorded can be looked at all the same.
            log.exception("checking %s failed", self.name)
            self.failure = repr(error)
        finally:
            self._checked.set()

    @property
    def modes(self) -> list[str]:
        """Modes that were recorded, as far as is known by now, train first."""
        return [mode for mode in MODES if len(self.steps_so_far(mode))]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def stamp(path: Path) -> Stamp:
    """Return what changes when a run on disk changes: files, last write, state."""
    folders = rank_folders(path)
    files = sum(len(list(folder.iterdir())) for folder in folders)
    return files, max(map(last_written, folders)), Run(path).state


@dataclass(frozen=True)
class Summary:
    """What the table of runs says about one run.

    Args:
        steps: number of recorded steps.
        last_step: the last of them, None without any.
        losses: loss over training, thinned; empty if none was given.
        worst: the gravest finding, None without any.
        size: bytes on disk.
        problems: what could not be read, a sentence each.
    """

    steps: int
    last_step: int | None
    losses: np.ndarray
    worst: Finding | None
    size: int
    problems: list[str]

    @classmethod
    def of(cls, run: Snapshot) -> Summary:
        """Summarise a run."""
        steps = run.steps(None)
        scalars = run.scalars()
        losses = scalars["loss"].dropna() if "loss" in scalars else pd.Series(dtype=float)
        kept = losses.to_numpy(dtype=float)
        return cls(
            len(steps),
            int(steps[-1]) if len(steps) else None,
            kept[thin(kept, SPARKLINE)],
            worst(run.findings),
            run.size,
            run.problems,
        )


class Catalogue:
    """The runs at or directly under a folder.

    Args:
        root: a run folder, or a folder of run folders.

    Raises:
        RunError: the folder does not exist.
    """

    def __init__(self, root: Path) -> None:
        # The last part of a path names a run; "." has none until it is resolved.
        self.root = Path(root).resolve()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Snapshot] = OrderedDict()
        self._summaries: dict[str, tuple[Stamp, Summary]] = {}
        self.paths()

    def paths(self) -> dict[str, Path]:
        """Return the folders of the runs that are there now, by name."""
        return {path.name: path for path in find_runs(self.root)}

    @property
    def only(self) -> str:
        """Name of the run when the root itself is one, else empty."""
        paths = self.paths()
        name, path = next(iter(paths.items()), ("", None))
        return name if path == self.root else ""

    def run(self, name: str) -> Snapshot:
        """Return a run by its name.

        Args:
            name: from a link: looked up among the runs found, it never becomes part of a path.

        Returns:
            The run as it is on disk now.

        Raises:
            RunError: no such run, or one that cannot be read.
        """
        path = self._path(name)
        with self._lock:
            known = self._open.get(name)
            if known is None or known.stamp != stamp(path):
                known = Snapshot(path, known, self)
                self._open[name] = known
            self._open.move_to_end(name)
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
            return known

    def known(self, name: str) -> bool:
        """Return whether a run's summary is whole and at hand without reading the run."""
        with self._lock:
            return name in self._summaries

    def summary(self, name: str) -> Summary:
        """Return what the table of runs says about a run; kept while the run stays as it is.

        Args:
            name: name of a run.

        Returns:
            Its summary.

        Raises:
            RunError: no such run, or one that cannot be read.
        """
        path = self._path(name)
        now = stamp(path)
        with self._lock:
            known = self._summaries.get(name)
        if known is not None and known[0] == now:
            return known[1]
        run = self.run(name)
        whole = run.check()
        made = Summary.of(run)
        if whole:
            with self._lock:
                self._summaries[name] = (now, made)
        return made

    def _path(self, name: str) -> Path:
        paths = self.paths()
        if name not in paths:
            raise RunError(
                f"There is no run named {name!r} here. It may have been moved or deleted."
            )
        return paths[name]
