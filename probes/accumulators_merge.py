"""Merging blocks of statistics as if their data had been seen at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.schema import COLUMNS, DENSITY_BINS

Block = dict[str, Tensor]
"""From stored column to a tensor with one entry per timestep."""


def merge(one: Block, other: Block) -> Block:
    """Merge two blocks of the same timesteps as if their data had been seen at once.

    Args:
        one: a block.
        other: a block; a column that only one of the two has is taken as it is.

    Returns:
        The merged block; rules are those of the schema.

    Example:
        >>> one = {"count": torch.tensor([1]), "u_mean": torch.tensor([0.0])}
        >>> merge(one, {"count": torch.tensor([3]), "u_mean": torch.tensor([4.0])})["u_mean"].item()
        3.0
    """
    merged: Block = {**one, **other}
    for name in one.keys() & other.keys():
        a, b, column = one[name], other[name], COLUMNS[name]
        if column.merge == "sum":
            merged[name] = a + b
        elif column.merge == "min":
            merged[name] = torch.fmin(a, b)
        elif column.merge == "max":
            merged[name] = torch.fmax(a, b)
        elif column.merge == "exponent":
            merged[name] = torch.maximum(a, b)
        elif column.merge == "density":
            widest = torch.maximum(one["density_exponent"], other["density_exponent"])
            merged[name] = _coarsen(a, widest - one["density_exponent"]) + _coarsen(
                b, widest - other["density_exponent"]
            )
        elif column.merge == "mean":
            merged[name] = _pool(a, b, one[column.weight], other[column.weight])
        elif column.merge == "variance":
            # Spread inside the parts plus spread between their means (Chan et al. 1983, eq. 1.5).
            weights = one[column.weight], other[column.weight]
            center = _pool(one[column.mean], other[column.mean], *weights)
            merged[name] = _pool(
                a + (one[column.mean] - center) ** 2,
                b + (other[column.mean] - center) ** 2,
                *weights,
            )
    return merged


def _pool(a: Tensor, b: Tensor, weight_a: Tensor, weight_b: Tensor) -> Tensor:
    """Return the weighted mean; a part without weight may hold NaN and is not looked at."""
    summed = torch.where(weight_a > 0, a * weight_a, 0.0) + torch.where(
        weight_b > 0, b * weight_b, 0.0
    )
    weight = weight_a + weight_b
    # What neither part weighs (the threshold of a layer whose u is all NaN) stays as it was.
    return torch.where(weight > 0, summed / weight, torch.fmax(a, b))


def _coarsen(counts: Tensor, doublings: Tensor) -> Tensor:
    """Merge bins pairwise, each row its own number of times."""
    half = DENSITY_BINS // 2
    place = torch.arange(DENSITY_BINS, device=counts.device) - half
    target = half + torch.bitwise_right_shift(place, doublings.clamp(max=62)[:, None])
    return torch.zeros_like(counts).scatter_add_(1, target, counts)
