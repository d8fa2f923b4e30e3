"""Small figures of a layer's tensors, in passes that stay in a cache."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 16_384
"""Elements of the input that are compared between the first and the last timestep."""

PIECE = 1 << 16
"""Elements of a gradient that are looked at together on a CPU."""


def products(one: Tensor, other: Tensor) -> Tensor:
    """Return the sums of one * other and of its magnitude.

    Example:
        >>> products(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2.0, 3.0, -4.0])).tolist()
        [-2.0, 6.0]
    """
    if one.device.type != "cpu":
        product = (one * other).float()
        return torch.stack([product.sum(), product.abs().sum()])
    total = size = 0.0
    space = torch.empty(min(PIECE, one.numel()), dtype=torch.promote_types(one.dtype, other.dtype))
    parts = torch.split(one.reshape(-1), PIECE), torch.split(other.reshape(-1), PIECE)
    for a, b in zip(*parts, strict=True):
        product = torch.mul(a, b, out=space[: a.numel()])
        total += product.sum().item()
        size += product.abs_().sum().item()
    return torch.tensor([total, size])


def some(values: Tensor) -> Tensor:
    """Return a copy of at most about :data:`SAMPLE` values in float32."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)].to(torch.float32, copy=True)
