"""Counting a potential into the bins of the record on a CPU, piece by piece."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..data.schema import DENSITY_BINS, DENSITY_WIDTH, coarsen_density

LONGEST = 32
"""Timesteps per piece, so that a place in their histograms fits 16 bits."""

_LANES = 4
"""Histograms per timestep: neighbours that count into one bin would wait for each other."""

_HALF = DENSITY_BINS // 2

_PLACES = (torch.arange(256) % _LANES * DENSITY_BINS + _HALF).short()
"""What brings bins from -128 to 127 to their places, neighbour by neighbour."""


class Densities:
    """Densities of one forward pass, as :func:`.accumulators.density` defines them.

    Args:
        timesteps: how many.
        scale: potential per unit of the axis.

    Example:
        >>> densities = Densities(1, 1.0)
        >>> z = torch.tensor([[[-0.5, 0.0, 7.0]]])
        >>> densities.add(0, z, [7.0], torch.empty_like(z))
        >>> block = densities.block()
        >>> block["density_exponent"].tolist(), block["density"].nonzero()[:, 1].tolist()
        ([2], [120, 128, 240])
    """

    def __init__(self, timesteps: int, scale: float) -> None:
        self._scale = scale
        self._counts = np.zeros((timesteps, DENSITY_BINS), dtype=np.int64)
        self._exponents = [0] * timesteps
        self._places = torch.empty(0, dtype=torch.int16)
        self._finest: Tensor | None = None

    def add(self, t: int, z: Tensor, reach: list[float], space: Tensor) -> None:
        """Count a piece.

        Args:
            t: its first timestep.
            z: u - threshold, ``[T, N, M]``, finite.
            reach: largest magnitude of z at each timestep.
            space: like z; written over.
        """
        if self._scale != 1:  # rounded as z / scale is
            reach = (torch.tensor(reach, dtype=z.dtype) / self._scale).tolist()
        # At least the range of earlier pieces: two histograms of one range are merged by adding.
        exponents = [
            max(before, math.frexp(size / (_HALF * DENSITY_WIDTH))[1])
            for before, size in zip(self._exponents[t : t + len(z)], reach, strict=True)
        ]
        finest = [math.ldexp(1.0 / DENSITY_WIDTH, -exponent) for exponent in exponents]
        scaled = z if self._scale == 1 else torch.div(z, self._scale, out=space)
        if max(exponents) == 0:
            if self._finest is None:
                self._finest = z.new_tensor(1.0 / DENSITY_WIDTH)
            bins = torch.mul(scaled, self._finest, out=space).floor_()
        elif min(finest) >= 1:
            bins = torch.mul(scaled, z.new_tensor(finest)[:, None, None], out=space).floor_()
        else:
            factor = z.new_tensor(finest)[:, None, None]
            # What the factor takes below the smallest number stays on its side of the threshold.
            side = torch.floor(scaled).clamp_(min=-1)
            bins = torch.mul(scaled, factor, out=space).floor_()
            torch.minimum(bins, side, out=bins)
        self._count(t, bins, exponents)

    def _count(self, t: int, bins: Tensor, exponents: list[int]) -> None:
        size = bins.numel()
        whole = -(-size // len(_PLACES)) * len(_PLACES)
        if self._places.numel() < whole:  # the first piece is the largest
            self._places = torch.empty(whole, dtype=torch.int16)
        places = self._places[:size].copy_(bins.view(-1))
        if len(bins) > 1:
            rows = torch.arange(len(bins), dtype=torch.int16) * (_LANES * DENSITY_BINS)
            places.view(len(bins), -1).add_(rows[:, None])
        self._places[:whole].view(-1, len(_PLACES)).add_(_PLACES)
        counted = torch.bincount(places, minlength=len(bins) * _LANES * DENSITY_BINS)
        for k, exponent in enumerate(exponents):
            if exponent > self._exponents[t + k]:  # the narrower of the two ranges gives way
                doublings = exponent - self._exponents[t + k]
                if self._counts[t + k].any():
                    self._counts[t + k] = coarsen_density(self._counts[t + k], doublings)
                self._exponents[t + k] = exponent
        self._counts[t : t + len(bins)] += (
            counted.view(len(bins), _LANES, DENSITY_BINS).sum(1).numpy()
        )

    def block(self) -> dict[str, Tensor]:
        """Return ``density`` ``[T, bin]`` and ``density_exponent`` ``[T]``."""
        return {
            "density": torch.from_numpy(self._counts),
            "density_exponent": torch.tensor(self._exponents),
        }
