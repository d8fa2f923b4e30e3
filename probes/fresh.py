"""A copy of a live model to try things on, and how a model forgets the last sequence."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

FORGET = {
    "spikescope": ("reset",),
    "spikingjelly": ("reset",),
    "snntorch": ("reset_mem", "reset_hidden"),
    "sinabs": ("reset_states",),
}
"""Method by which a framework's own modules forget; Norse hands its state around instead."""


def fresh_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy in which nothing refers to the model that it came from.

    Tensors that still hang on a graph (a state that was not reset) cannot be copied by torch: the
    copy gets their values.

    Args:
        model: any module.

    Returns:
        The copy, in the same mode, with all hooks that can be copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model.last = model.weight * 2  # a tensor inside a graph
        >>> fresh_copy(model).last.requires_grad
        False
    """
    known: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors(vars(module)):
            if tensor.grad_fn is not None:
                known[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, known)


def _tensors(value: Any, depth: int = 3) -> list[torch.Tensor]:
    """Return the tensors in an attribute, also those in containers inside it."""
    if isinstance(value, torch.Tensor):
        return [value]
    if depth == 0 or isinstance(value, nn.Module):
        return []
    inside: list[Any] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    return [tensor for item in inside for tensor in _tensors(item, depth - 1)]


def forget_state(model: nn.Module) -> None:
    """Make every layer of a known framework begin a new sequence.

    Args:
        model: any module; layers that keep no state are left alone.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> layer = LIF(step_mode="single")
        >>> _ = layer(torch.tensor([0.5]))
        >>> forget_state(layer)
        >>> layer.v is None
        True
    """
    for module in model.modules():
        roots = {cls.__module__.partition(".")[0] for cls in type(module).__mro__}
        for root in roots & FORGET.keys():
            for name in FORGET[root]:
                method = getattr(module, name, None)
                if callable(method):
                    method()
                    break
