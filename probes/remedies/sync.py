"""Sums over the processes of a distributed training; alone, a process is its own sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed


class Moments(NamedTuple):
    """Mean and unbiased standard deviation, one number each."""

    mean: Tensor
    std: Tensor


def processes() -> int:
    """Return how many processes train together; 1 where none have joined."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def summed(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradient; every process must call it.

    Args:
        values: one tensor per process, of the same shape and dtype.

    Returns:
        The sum, in the shape of the values.

    Example:
        >>> summed(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    total = values.detach().clone()
    if processes() > 1:
        distributed.all_reduce(total)
    return total


def summed_with_gradient(values: Tensor) -> Tensor:
    """Return the sum over all processes; its gradient comes from all of them, too.

    Example:
        >>> summed_with_gradient(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if processes() == 1:
        return values
    total: Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]
    return total


class _Summed(torch.autograd.Function):
    """The sum over processes; what each of them sends back is summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


def moments(u: Tensor, *, synchronise: bool = True) -> Moments:
    """Return mean and unbiased standard deviation over all elements of all processes.

    Args:
        u: potentials of any shape and floating dtype.
        synchronise: False for this process's elements alone.

    Returns:
        :class:`Moments` in at least float32, without gradient; a single element has no spread.

    Example:
        >>> mean, std = moments(torch.tensor([1.0, 2.0, 3.0]))
        >>> mean.item(), std.item()
        (2.0, 1.0)
    """
    wide = u.detach().to(torch.promote_types(u.dtype, torch.float32))
    if not synchronise or processes() == 1:
        mean = wide.mean()
        return Moments(mean, wide.std() if wide.numel() > 1 else torch.zeros_like(mean))
    var, mean = torch.var_mean(wide, correction=0)
    count = wide.numel()
    own = torch.stack([torch.full_like(mean, count), mean * count]).double()
    n, total = summed(own).unbind()
    all_mean = total / n
    # Spread inside the parts plus spread between their means (Chan et al. 1983, eq. 1.5).
    square = summed(count * (var.double() + (mean.double() - all_mean) ** 2))
    return Moments(
        all_mean.to(wide.dtype), torch.sqrt(square / (n - 1.0).clip(min=1.0)).to(wide.dtype)
    )
