"""Which process writes a run, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STARTED = 19
"""Place of the start time behind the name of the program in ``/proc/PID/stat`` (field 22)."""


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others: host, pid, when it started, since which boot.

    Example:
        >>> is_alive(this_process())
        True
    """
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "boot": _boot()}


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process still runs; None if it ran on another host.

    A process number is given out again after some time: where the system says when a process
    started, a later one of the same number is not taken for it.

    Args:
        process: what :func:`this_process` said there; of older runs only ``host`` and ``pid``.
    """
    if process.get("host") != socket.gethostname():
        return None
    try:
        pid = int(process["pid"])
        os.kill(pid, 0)
    except PermissionError:
        pass  # it is somebody else's
    except (ProcessLookupError, KeyError, TypeError, ValueError, OverflowError):
        return False
    for name, now in (("boot", _boot()), ("started", _started(pid))):
        known = process.get(name)
        if known is not None and now is not None and known != now:
            return False
    return True


def _boot() -> str | None:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, None where nobody says it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The name of the program, in brackets, may hold anything.
        return int(stat.rpartition(")")[2].split()[_STARTED])
    except (OSError, ValueError, IndexError):
        return None
