"""The report, EVIDENCE.md, and the conclusions for programs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def write_report(studies: list[ModuleType], out: Path, quick: bool) -> None:
    """Write EVIDENCE.md, its plots and ``results/conclusions.json``."""
    raise NotImplementedError
