"""What is summed up over the pieces of a forward pass on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data.schema import COVERAGE_EPSILON
from .accumulators_merge import Block
from .densities_cpu import Densities
from .observed import Observed
from .slopes import slope

LARGEST, SMALLEST = 1e15, 1e-12
"""Magnitudes between which a square is safe in float32; beyond them the general route scales."""

_FAR = 4.0
"""Variances from which on a mean, squared, takes digits from a sum of squares that is about 0."""


class Unusual(Exception):
    """The values are none that this route can sum up."""


class Moments:
    """Mean and variance of one quantity at each timestep, merged over pieces in float64.

    Args:
        timesteps: how many.
    """

    def __init__(self, timesteps: int) -> None:
        self.count = [0] * timesteps
        self.mean, self.spread = [0.0] * timesteps, [0.0] * timesteps

    def add(self, t: int, totals: list[float], values: Tensor, space: Tensor) -> None:
        """Take in a piece (Chan et al. 1983, eq. 1.5).

        Args:
            t: its first timestep.
            totals: its sum at each timestep.
            values: the piece, ``[k, n * M]``.
            space: like it; written over.

        Raises:
            Unusual: a square left the range of the dtype.
        """
        count = values.shape[1]
        for k, square in enumerate(squares(values)):
            mean = totals[k] / count
            spread = square - count * mean * mean
            if not SMALLEST**2 * count < square < LARGEST**2 * count:
                if square != 0.0 or bool(values[k].any()):
                    raise Unusual
            elif count * mean * mean > _FAR * spread:
                spread = _centred(mean, values[k], space[k])
            whole = self.count[t + k] + count
            away = mean - self.mean[t + k]
            self.spread[t + k] += spread + away * away * self.count[t + k] * count / whole
            self.mean[t + k] += away * count / whole
            self.count[t + k] = whole


def squares(values: Tensor) -> list[float]:
    """Return the sums of squares of each row of ``[k, n]``."""
    return [torch.dot(row, row).item() for row in values.unbind(0)]


def _centred(mean: float, values: Tensor, space: Tensor) -> float:
    """Return the sum of squares about the mean, where one pass would lose digits."""
    centred = torch.sub(values, mean, out=space)
    # The mean is rounded to the dtype; what that leaves is taken out of the squares.
    centre = values.new_tensor(mean).item()
    return max(torch.dot(centred, centred).item() - len(values) * (mean - centre) ** 2, 0.0)


def over_samples(name: str, each: Tensor, level: float = 0.0) -> Block:
    """Return mean and variance of a figure over samples, ``[T]`` of ``[T, N]``."""
    mean = each.mean(-1)
    return {
        f"{name}_sample_mean": mean + level,
        f"{name}_sample_var": (each - mean[:, None]).square_().mean(-1),
    }


class Units:
    """Which units ``[n, M]`` of some samples have ever fired, and which always (None: none)."""

    def __init__(self, fired_before: Tensor | None, like: Tensor, t: int) -> None:
        self.always: Tensor | None
        if fired_before is None or t == 1:
            self.ever, self.always = torch.zeros_like(like), torch.ones_like(like)
        else:
            self.ever = (fired_before > 0).to(like.dtype)
            self.always = (fired_before == t - 1).to(like.dtype)


class Sums:
    """What is summed up over the pieces of one forward pass.

    Sums and counts of each sample are in the data's dtype: a sample has fewer units than float32
    counts exactly.
    """

    def __init__(self, seen: Observed, shape: tuple[int, int, int]) -> None:
        self.seen, self.shape = seen, shape
        timesteps, samples, _ = shape
        self.u, self.input = Moments(timesteps), Moments(timesteps)
        self.low, self.high = [math.inf] * timesteps, [-math.inf] * timesteps
        self.slope, self.slope_square = [0.0] * timesteps, [0.0] * timesteps
        self.silent, self.saturated = [0.0] * timesteps, [0.0] * timesteps
        self.mismatch, self.near, self.open = ([0.0] * timesteps for _ in range(3))
        self.u_each, self.spikes, self.covered = seen.spikes.new_zeros(3, timesteps, samples)
        self.densities = Densities(timesteps, seen.scale) if seen.histogram else None
        surrogate = seen.surrogate
        self.level = 0.0 if surrogate is None else COVERAGE_EPSILON * float(surrogate.peak)
        self._open_to, self._closed_from = 0.0, math.inf

    def add(
        self,
        place: tuple[slice, slice],
        z: Tensor,
        implied: Tensor | None,
        seen: Tensor,
        given: Tensor | None,
        space: Tensor,
    ) -> None:
        """Take in a piece, ``[k, n, M]`` each; z is written over.

        Raises:
            Unusual: something in it is not finite, or of a size that a square does not bear.
        """
        t, flat, wide = place[0].start, z.view(len(z), -1), space.view(len(z), -1)
        reach = self._extent(t, flat)
        each = z.sum(-1)
        self.u_each[place] = each
        self.u.add(t, each.sum(1).tolist(), flat, wide)
        if given is not None:
            row = given.reshape(len(z), -1)
            self.input.add(t, row.sum(1).tolist(), row, wide)
        self._compare(t, z, implied, seen, space)
        if self.densities is not None:
            self.densities.add(t, z, reach, space)
        self.spikes[place] = seen.sum(-1)
        if self.seen.surrogate is not None:
            self._slopes(t, place, z, max(reach), space)

    def _extent(self, t: int, z: Tensor) -> list[float]:
        """Note the smallest and largest z of each timestep, and return the larger magnitudes."""
        reach = []
        for k, (low, high) in enumerate(zip(z.amin(1).tolist(), z.amax(1).tolist(), strict=True)):
            size = max(-low, high)
            # The comparison is false for a NaN, too.
            if not (SMALLEST < size < LARGEST or size == 0.0):
                raise Unusual
            self.low[t + k] = min(self.low[t + k], low)
            self.high[t + k] = max(self.high[t + k], high)
            reach.append(size)
        return reach

    def _compare(
        self, t: int, z: Tensor, implied: Tensor | None, seen: Tensor, space: Tensor
    ) -> None:
        """Count the spikes that the potential does not explain."""
        if implied is not None:
            torch.sub(implied, seen, out=space)
        elif self.seen.fires_at_threshold:
            torch.ge(z, 0.0, out=space).sub_(seen)
        else:
            torch.gt(z, 0.0, out=space).sub_(seen)
        row = space.view(-1)
        if torch.dot(row, row).item() == 0.0:
            return
        off = space != 0
        near = (off & (z.abs() <= self.seen.rounding)).sum((1, 2)).tolist()
        for k, wrong in enumerate(off.sum((1, 2)).tolist()):
            self.near[t + k] += near[k]
            self.mismatch[t + k] += wrong - near[k]

    def _slopes(
        self, t: int, place: tuple[slice, slice], z: Tensor, reach: float, space: Tensor
    ) -> None:
        assert self.seen.surrogate is not None
        height = slope(self.seen.surrogate, z, space)
        row, free = height.view(len(z), -1), z.view(len(z), -1)
        totals, squared = row.sum(1).tolist(), squares(row)
        if self._all_open(reach, z):
            above = [row.shape[1]] * len(row)
        else:
            above = torch.ne(row, 0.0, out=free).sum(1).tolist()
        for k, total in enumerate(totals):
            self.slope[t + k] += total
            self.slope_square[t + k] += squared[k]
            self.open[t + k] += above[k]
        self.covered[place] = torch.gt(height, self.level, out=z).sum(-1)

    def _all_open(self, reach: float, like: Tensor) -> bool:
        """Return whether the surrogate is above 0 up to a distance: no shape grows with it."""
        assert self.seen.surrogate is not None
        if reach >= self._closed_from:
            return False
        if reach > self._open_to:
            if not self.seen.surrogate.derivative(like.new_tensor([reach]), xp=torch) > 0:
                self._closed_from = reach
                return False
            self._open_to = reach
        return True

    def follow(self, t: int, seen: Tensor, units: Units) -> None:
        """Count the units that have never fired up to each timestep, and those that always have."""
        for k, now in enumerate(seen.unbind(0)):
            torch.maximum(units.ever, now, out=units.ever)
            self.silent[t + k] += now.numel() - units.ever.sum().item()
            if units.always is not None:
                kept = units.always.mul_(now).sum().item()
                self.saturated[t + k] += kept
                if kept == 0:  # nobody comes back
                    units.always = None

    def block(self) -> Block:
        """Return the forward columns."""
        timesteps, samples, units = self.shape
        level, count = float(self.seen.threshold), samples * units

        def constant(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full((timesteps,), value, dtype=dtype)

        def numbers(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        def counts(values: list[Any]) -> Tensor:
            return torch.tensor([round(value) for value in values])

        block = {
            "samples": constant(samples),
            "count": constant(count),
            "nonfinite": constant(0),
            "threshold": constant(level, torch.float64),
            "mismatch": counts(self.mismatch),
            "near_mismatch": counts(self.near),
            "u_mean": numbers(self.u.mean) + level,
            "u_var": numbers(self.u.spread) / count,
            **over_samples("u", self.u_each.double() / units, level),
            "u_min": numbers(self.low) + level,
            "u_max": numbers(self.high) + level,
            "spikes": self.spikes.double().sum(-1).round().long(),
            "silent": counts(self.silent),
            "saturated": counts(self.saturated),
            **over_samples("rate", self.spikes.double() / units),
        }
        if self.seen.current is not None:
            block["input_mean"] = numbers(self.input.mean)
            block["input_var"] = numbers(self.input.spread) / count
        if self.densities is not None:
            block |= self.densities.block()
        if self.seen.surrogate is None:
            return block | {
                "surrogate_mean": constant(math.nan, torch.float64),
                "surrogate_square": constant(math.nan, torch.float64),
                "covered": constant(0),
                "open": constant(0),
                "coverage_sample_mean": constant(math.nan, torch.float64),
                "coverage_sample_var": constant(math.nan, torch.float64),
            }
        return block | {
            "surrogate_mean": numbers(self.slope) / count,
            "surrogate_square": numbers(self.slope_square) / count,
            "covered": self.covered.double().sum(-1).round().long(),
            "open": counts(self.open),
            **over_samples("coverage", self.covered.double() / units),
        }
