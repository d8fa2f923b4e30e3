"""Processes that a training forks off, such as the workers of a data loader, have no share in it.

They inherit the model with its hooks and the run's name, but not the thread that writes, and the
run goes on without them: what they would say of it, its end above all, is not theirs to say.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """What a forked process has to let go of."""

    def abandon(self) -> None:
        """Touch nothing of the run any more."""


_all: weakref.WeakSet[Inherited] = weakref.WeakSet()


def let_go_when_forked(entry: Inherited) -> None:
    """Have a forked process let go of something that stays with the one that it comes from."""
    _all.add(entry)


def _in_child() -> None:
    for entry in list(_all):
        entry.abandon()
    _all.clear()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_in_child)
