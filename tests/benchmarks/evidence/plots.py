"""The plots of the report: one function each, results in, an image out."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def against_grid(by_task: dict[str, dict[str, list[Any]]], path: Path) -> None:
    """Draw the grid's accuracies with the chosen, the default and the recommended one."""
    raise NotImplementedError
