"""A spiking network in plain torch whose every inner tensor keeps its gradient: the truth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class PlainStep(torch.autograd.Function):
    """Heaviside forward, arctan surrogate of height 1 backward, written out by hand."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.width = width
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return grads[0] / (1.0 + (z / ctx.width) ** 2), None


WIDTH = 1.0 / math.pi


def plain_layer(
    current: Tensor,
    *,
    decay: float,
    gain: float,
    threshold: float,
    reset: str,
    start: float,
    detach: bool,
    reset_value: float = 0.0,
    rest: float = 0.0,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Run one layer over ``[T, N, M]``; return what it emits, and u, s, emitted s per timestep.

    The second list holds the spike tensors themselves (their gradient is the total dL/ds), the
    third the copies handed downstream (their gradient is the downstream dL/ds).
    """
    v = torch.full_like(current[0], start)
    us, spikes, emitted = [], [], []
    for now in current:
        u = decay * v + gain * now + (1 - decay) * rest
        s = PlainStep.apply(u - threshold, WIDTH)
        out = s.view_as(s)
        back = s.detach() if detach else s
        if reset == "subtract":
            v = u - threshold * back
        elif reset == "to_value":
            v = u * (1 - back) + reset_value * back
        else:
            v = u
        for tensor, kept in ((u, us), (s, spikes), (out, emitted)):
            if tensor.requires_grad:
                tensor.retain_grad()
            kept.append(tensor)
    return torch.stack(emitted), us, spikes, emitted


def stack_grads(tensors: list[Tensor]) -> Tensor:
    """Return the gradients of a list of timesteps, 0 where none arrived, ``[T, ...]``."""
    return torch.stack([torch.zeros_like(x) if x.grad is None else x.grad for x in tensors])


def seeded(build: Any, seed: int = 0) -> nn.Module:
    """Build a module under a fixed seed."""
    torch.manual_seed(seed)
    module = build()
    assert isinstance(module, nn.Module)
    return module
