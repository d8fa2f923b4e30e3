"""Errors planted in every function of ours that a recorded training calls, one at a time."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import spikescope

PACKAGE = Path(spikescope.__file__).parent
FOLDERS = (PACKAGE / "probes", PACKAGE / "data")

NOT_OURS = ("probes/lif.py", "probes/models/", "probes/remedies/")
"""Networks that the package offers: in them the training itself works."""

SHELL = {
    "Probe.__enter__",
    "Probe.__exit__",
    "Probe.step",
    "Probe.log",
    "Probe.attach",
    "Probe.active",
    "Probe.path",
    "Probe.recording",
    "Probe._guarded",
    "Probe._guarded.<locals>.call",
    "Session.path",
    "Session.recording",
    "Hook.__call__",
    "_patch.<locals>.heard",
}
"""What stands between the user's code and the guard, and does nothing else."""

TELLING = {
    "Session.say",
    "Session.fail",
    "Session.break_off",
    "Session._forget",
    "Journal.say",
    "describe",
}
"""What tells the user of an error: one in it cannot be told."""

THREADS = {
    "Writer._run",
    "LiveFindings._run",
    "asked.<locals>.run",
    "Agreement.tell.<locals>.<lambda>",
}
"""The first function of each thread; what it calls is guarded. What nobody waits for may fail."""

Name = tuple[str, str]
"""File of a function, from the package on, and its qualified name."""


def name_of(code: CodeType) -> Name | None:
    """Return the name of a function in which an error may be planted, None for any other."""
    path = Path(code.co_filename)
    if not any(path.is_relative_to(folder) for folder in FOLDERS):
        return None
    file, name = path.relative_to(PACKAGE).as_posix(), code.co_qualname
    ours = not file.startswith(NOT_OURS) and "<module>" not in name and "comp>" not in name
    is_class_body = not code.co_flags & 0x2  # only functions have optimised locals
    if not ours or is_class_body or "<genexpr>" in name or name in SHELL | TELLING | THREADS:
        return None
    return file, name


@dataclass
class Plant:
    """Raises at the first call of one function in each thread, and notes which are called.

    Args:
        target: where; None for nowhere, to note what is called.
        error: what is raised.
        threads: whether threads beside the training's own are looked at.
    """

    target: CodeType | None = None
    error: Callable[[], BaseException] = lambda: ZeroDivisionError("planted")
    threads: bool = True
    seen: dict[CodeType, None] = field(default_factory=dict)
    raised: int = 0

    def _raise(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code is self.target:
            self.raised += 1
            raise self.error()

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        self.seen[frame.f_code] = None

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Trace this thread, and those that begin meanwhile; who raises is traced no more."""
        trace: Any = self._note if self.target is None else self._raise
        before, before_threads = sys.gettrace(), threading.gettrace()
        if self.threads:
            threading.settrace(trace)
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(before_threads)  # type: ignore[arg-type]

    def found(self) -> dict[Name, CodeType]:
        """Return the functions of ours among those that were called."""
        named = ((name_of(code), code) for code in self.seen)
        return {name: code for name, code in named if name is not None}


def heard(warned: list[warnings.WarningMessage]) -> list[str]:
    """Return the warnings that tell of a planted error."""
    return [str(entry.message) for entry in warned if "planted" in str(entry.message)]
