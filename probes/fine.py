"""Counts of ``collect="full"``: the joint law of potential and gradient, spikes of each unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.fine import JOINT_G, JOINT_LEAST, JOINT_U, JOINT_WIDTH
from .modes import wide


def joint_counts(u: Tensor, threshold: Tensor | float, scale: float, gradient: Tensor) -> Tensor:
    """Count elements by (u - threshold) and by the power of two of a gradient.

    Args:
        u: pre-reset potential, ``[T, N, ...]``.
        threshold: threshold in force; a tensor must broadcast over u.
        scale: potential per unit of the axis of u.
        gradient: dL/ds, ``[T, N, ...]``.

    Returns:
        Counts ``[T, u_bin * g_bin]``; what is not finite is left out.

    Example:
        >>> counts = joint_counts(torch.ones(1, 1), 1.0, 1.0, torch.tensor([[0.5]]))
        >>> [divmod(place, JOINT_G) for place in counts[0].nonzero().flatten().tolist()]
        [(32, 62)]
    """
    half = JOINT_U // 2
    z = ((wide(u) - threshold) / scale).flatten(1)
    size = gradient.float().flatten(1)
    seen = torch.isfinite(z) & torch.isfinite(size)
    # The exponent of a float32, from its bits: a logarithm of each would cost ten times as much.
    power = torch.bitwise_right_shift(size.abs().view(torch.int32), 23) - 127
    g_bin = torch.where(size == 0, 0, (power - JOINT_LEAST + 1).clamp(1, JOINT_G - 1))
    u_bin = torch.floor(z.nan_to_num() / JOINT_WIDTH).clamp(-half, half - 1).long() + half
    counts = torch.zeros(len(u), JOINT_U * JOINT_G, dtype=torch.int64, device=u.device)
    return counts.scatter_add_(1, u_bin * JOINT_G + g_bin, seen.long())


def unit_spikes(spikes: Tensor) -> Tensor:
    """Return how often each unit fired over timesteps and samples, ``[...]`` of ``[T, N, ...]``.

    Example:
        >>> unit_spikes(torch.ones(2, 301, 1, dtype=torch.bfloat16)).tolist()
        [602]
    """
    fired = torch.zeros_like(spikes[0, 0], dtype=torch.float64)
    for now in spikes:
        fired += now.sum(0, dtype=torch.float32)  # a narrow one counts to 256
    return fired.round().long()
