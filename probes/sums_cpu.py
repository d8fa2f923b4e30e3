"""What is summed up over the pieces of a forward pass on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .accumulators_merge import Block
from .densities_cpu import Densities
from .observed import Observed
from .slopes_cpu import Slope, squares

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
    """Which units ``[n, M]`` of some samples have ever fired, and which always (None: none).

    Args:
        ever: 1 where a unit has fired, written over; None for room to be made.
        always: 1 where it has at every timestep, likewise.
        begun: whether there were timesteps before.
    """

    def __init__(
        self, ever: Tensor | None = None, always: Tensor | None = None, *, begun: bool = False
    ) -> None:
        self._ever, self._always, self._begun = ever, always, begun

    def follow(self, now: Tensor) -> tuple[float, float]:
        """Take in a timestep; return how many units never fired, and how many always did."""
        if not self._begun:
            return self._begin(now)
        assert self._ever is not None
        torch.maximum(self._ever, now, out=self._ever)
        kept = 0.0
        if self._always is not None:
            kept = self._always.mul_(now).sum().item()
            if kept == 0:  # nobody comes back
                self._always = None
        return now.numel() - self._ever.sum().item(), kept

    def _begin(self, now: Tensor) -> tuple[float, float]:
        self._begun, fired = True, now.sum().item()
        self._ever = now.clone() if self._ever is None else self._ever.copy_(now)
        if fired == 0:
            self._always = None
        else:
            self._always = now.clone() if self._always is None else self._always.copy_(now)
        return now.numel() - fired, fired


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
        self.fired = seen.spikes.new_zeros(shape[2])
        self._zero = seen.spikes.new_zeros(())
        surrogate = seen.surrogate
        self._slope = None if surrogate is None else Slope(surrogate, seen.spikes.dtype)

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
        self.fired += seen.sum((0, 1))
        if self._slope is not None:
            self._slopes(self._slope, place, z, max(reach), space)

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
            torch.ge(z, self._zero, out=space).sub_(seen)
        else:
            torch.gt(z, self._zero, out=space).sub_(seen)
        row = space.view(-1)
        if torch.dot(row, row).item() == 0.0:
            return
        off = space != 0
        near = (off & (z.abs() <= self.seen.rounding)).sum((1, 2)).tolist()
        for k, wrong in enumerate(off.sum((1, 2)).tolist()):
            self.near[t + k] += near[k]
            self.mismatch[t + k] += wrong - near[k]

    def _slopes(
        self, by: Slope, place: tuple[slice, slice], z: Tensor, reach: float, space: Tensor
    ) -> None:
        t, (totals, squared, above, covered) = place[0].start, by.sums(z, reach, space)
        for k, total in enumerate(totals):
            self.slope[t + k] += total
            self.slope_square[t + k] += squared[k]
            self.open[t + k] += above[k]
        self.covered[place] = covered

    def follow(self, t: int, seen: Tensor, units: Units) -> None:
        """Count the units that have never fired up to each timestep, and those that always have."""
        for k, now in enumerate(seen.unbind(0)):
            silent, saturated = units.follow(now)
            self.silent[t + k] += silent
            self.saturated[t + k] += saturated

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
