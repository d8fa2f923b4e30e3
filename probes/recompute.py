"""Which record a call belongs to that activation checkpointing repeats in the backward pass."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction


def in_backward() -> bool:
    """Return whether a backward pass is under way: a forward pass in it is a repetition."""
    return bool(torch._C._current_graph_task_id() != -1)


class Repeats:
    """Finds the record of a call of one layer again when the call is repeated.

    The reentrant form of checkpointing runs the first pass without a graph and repeats it with
    one; gradients arrive in the repetition, statistics were taken in the first pass. The
    other form keeps the graph of the first pass, and its repetitions are no calls at all.
    """

    def __init__(self) -> None:
        self._calls: dict[Any, list[Any]] = {}
        self._repeated: dict[Any, int] = {}

    def note(self, record: Any) -> bool:
        """Keep the record of a call under the checkpoints that it runs in; say if there is one."""
        checkpoints = _entered()
        for checkpoint in checkpoints:
            self._calls.setdefault(checkpoint, []).append(record)
        return bool(checkpoints)

    def find(self) -> Any | None:
        """Return the record of the call that is now repeated; None if it needs none.

        The calls of one checkpoint are repeated in their order. Inside a checkpoint of a
        checkpoint, the repetition of the outer one is the first pass of a new inner one.
        """
        node = torch._C._current_autograd_node()
        calls = self._calls.get(node)
        if calls is None:
            return None
        place = self._repeated.get(node, 0)
        self._repeated[node] = place + 1
        record = calls[place % len(calls)]
        self.note(record)
        return record

    def forget(self) -> None:
        """Let go of the checkpoints of a step."""
        self._calls, self._repeated = {}, {}


def _entered() -> list[Any]:
    """Return the reentrant checkpoints whose first pass is under way, the innermost first.

    Torch does not hand them out: they are read off the stack, where the first pass is a frame.
    """
    if torch.is_grad_enabled():
        return []
    code = CheckpointFunction.forward.__code__
    found = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            found.append(frame.f_locals["ctx"])
        frame = frame.f_back
    return found
