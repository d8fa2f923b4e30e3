"""Who watches which module: one probe for each, so that none records what another one does."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

_runs: weakref.WeakKeyDictionary[nn.Module, str | Path] = weakref.WeakKeyDictionary()
"""The run that watches a model, and each of its spiking layers."""


def taken(modules: Mapping[str, nn.Module]) -> str | None:
    """Return why a probe must stay off, None if nobody watches any of its modules.

    Args:
        modules: by what the sentence calls them.
    """
    for what, module in modules.items():
        if module in _runs:
            return (
                f"{what} is being watched already, by the run {str(_runs[module])!r}: this second "
                "probe stays off"
            )
    return None


def claim(modules: Iterable[nn.Module], run: str | Path) -> None:
    """Say that a run watches some modules."""
    for module in modules:
        _runs[module] = run


def release(modules: Iterable[nn.Module], runs: Iterable[str | Path | None]) -> None:
    """Let modules be watched by others, as far as one of these runs watches them."""
    for module in modules:
        if _runs.get(module) in runs:
            _runs.pop(module, None)
