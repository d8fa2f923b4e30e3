"""What a probe was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .levels import Level
from .modes import Unscale
from .schedule import Schedule

LEAST_BYTES = 100_000
"""A run's header and a few merged records of a small network need about this much."""


@dataclass(frozen=True)
class Settings:
    """The checked arguments of :func:`.probe.watch`."""

    schedule: Schedule
    unscale: Unscale
    time_axis: Mapping[str, int | None]
    level: Level
    budget: float | None
    max_bytes: int | None
    resume: bool | int

    def facts(self) -> dict[str, Any]:
        """Return what the header of the run says of them."""
        return {"collect": self.level.name, "budget": self.budget, "max_bytes": self.max_bytes}


def as_bytes(max_bytes: Any) -> int | None:
    """Return the bound of a run's size.

    Raises:
        ValueError: no whole number, or too few bytes for anything.

    Example:
        >>> as_bytes(50_000_000)
        50000000
    """
    if max_bytes is None:
        return None
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < LEAST_BYTES:
        raise ValueError(
            f"max_bytes={max_bytes!r} is not possible: give a whole number >= {LEAST_BYTES}"
        )
    return max_bytes


def as_resume(resume: Any) -> bool | int:
    """Return whether to go on with a run, or at which step.

    Raises:
        ValueError: neither a bool nor a step.

    Example:
        >>> as_resume(1200), as_resume(True)
        (1200, True)
    """
    if isinstance(resume, bool) or (isinstance(resume, int) and resume >= 0):
        return resume
    raise ValueError(f"resume={resume!r} is not possible: give True, False or a step >= 0")
