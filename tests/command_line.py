"""The command, called in this process."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest

from spikescope import cli


def command(*words: Any, monkeypatch: pytest.MonkeyPatch, columns: int = 160) -> int:
    """Run ``spikescope`` with these words on a terminal so wide, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["spikescope", *map(str, words)])
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # undone afterwards
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
