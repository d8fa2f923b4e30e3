"""Findings while the training goes on: a thread that diagnoses what is on disk, and tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.findings import Finding

OnFindings = Callable[[list["Finding"]], None]

LEAST_PAUSE = 5.0
"""Seconds between two looks ..."""

PAUSE_SHARE = 20.0
"""... and at least this many times what the last one took: 5 % of one core at most."""


class LiveFindings:
    """Tells a function of the user's about new findings, in a thread of its own.

    Args:
        path: folder or address of the run.
        tell: called with the findings that were not there before, the gravest first; never with
            an empty list. What it raises is kept in ``error``, and it is not called again.
        pause: least seconds between two looks.
    """

    def __init__(self, path: str | Path, tell: OnFindings, pause: float = LEAST_PAUSE) -> None:
        self.error: BaseException | None = None
        self._path, self._tell, self._pause = path, tell, pause
        self._told: set[tuple[str, str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spikescope-findings", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 30.0) -> None:
        """End the thread; a look that is under way is waited for."""
        self._stop.set()
        self._thread.join(timeout)

    def tell(self, found: list[Finding]) -> None:
        """Tell what is new among some findings."""
        new = [f for f in found if (f.code, f.layer, f.severity) not in self._told]
        self._told |= {(f.code, f.layer, f.severity) for f in new}
        if not new or self.error is not None:
            return
        try:
            self._tell(new)
        except Exception as error:  # the user's own: the training must not end by it
            self.error = error

    def _run(self) -> None:
        pause = self._pause
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                self.tell(findings_of(self._path))
            except Exception as error:  # ours
                self.error = error
                return
            pause = max(self._pause, PAUSE_SHARE * (time.monotonic() - began))


def findings_of(path: str | Path) -> list[Finding]:
    """Return the findings of a run folder as it is now."""
    from ..analysis.findings import diagnose
    from ..data.runs import open_run

    return diagnose(open_run(path))
