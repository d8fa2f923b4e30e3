"""Which units of a layer have fired so far, carried from call to call of one timestep each."""

from __future__ import annotations

import torch
from torch import Tensor


class Past:
    """Which units have fired in a sequence so far, and which at every timestep.

    A layer that is called timestep by timestep would pay for counts of each unit, and for
    comparisons with them, at each call.

    Args:
        like: spikes of one timestep, ``[N, ...]``.

    ``ever`` and ``always`` are 1 where that is so, ``[N, ...]`` like the spikes, and written over
    by whoever follows the sequence; ``t`` counts the timesteps that they hold.

    Example:
        >>> past = Past(torch.zeros(3))
        >>> past.take(torch.tensor([[1.0, 0.0, 1.0]]))
        >>> past.take(torch.tensor([[1.0, 0.0, 0.0]]))
        >>> past.counts().tolist()
        [2.0, 0.0, 1.0]
    """

    def __init__(self, like: Tensor) -> None:
        self.t = 0
        self.ever = torch.empty_like(like, memory_format=torch.contiguous_format)
        self.always: Tensor | None = torch.empty_like(self.ever)

    def take(self, spikes: Tensor) -> None:
        """Follow timesteps ``[T, N, ...]``."""
        for now in spikes:
            if self.t == 0:
                assert self.always is not None
                self.ever.copy_(now)
                self.always.copy_(now)
            else:
                torch.maximum(self.ever, now, out=self.ever)
                if self.always is not None:
                    self.always.mul_(now)
            self.t += 1

    def counts(self) -> Tensor:
        """Return counts of each unit that say the same: 0 for never, ``t`` for always."""
        if self.t == 0:
            return torch.zeros_like(self.ever)
        if self.always is None or self.t == 1:
            return self.ever.clone()
        return self.ever + self.always * (self.t - 1)
