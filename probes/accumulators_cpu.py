"""The statistics of a block on a CPU, piece by piece of a size that stays in its cache.

The definitions are those of :mod:`.accumulators`; here each element is read a few dozen times from
the cache and once from memory. Sums of a piece are taken in the data's own dtype, sums over pieces
in float64. What is unusual (NaN, infinities, sizes whose squares leave float32) is left to the
general route.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..data.schema import (
    COVERAGE_EPSILON,
    DENSITY_BINS,
    DENSITY_WIDTH,
    coarsen_density,
)
from .capture import Gradients, LayerGradients

Block = dict[str, Tensor]

PIECE = 1 << 17
"""Elements per piece and thread: five buffers of float32 fill a cache of 1 to 2 MiB."""

LARGEST, SMALLEST = 1e15, 1e-12
"""Magnitudes between which a square is safe in float32; beyond them the general route scales."""

_LANES = 4
"""Histograms per timestep: neighbours that count into one bin would wait for each other."""


def pieces(timesteps: int, samples: int, units: int) -> tuple[list[slice], list[slice]]:
    """Return how to cut ``[T, N, M]``: groups of timesteps and of samples.

    A layer of which several timesteps fit into a piece is cut along time only, another along its
    samples and into single timesteps.
    """
    size = PIECE * torch.get_num_threads()
    together = max(1, min(timesteps, size // max(1, samples * units)))
    share = samples if together > 1 else max(1, min(samples, size // max(1, units)))
    return (
        [slice(a, min(a + together, timesteps)) for a in range(0, timesteps, together)],
        [slice(a, min(a + share, samples)) for a in range(0, samples, share)],
    )


class _Forward:
    """Sums of one forward pass, ``[T]`` or ``[T, N]`` each, filled piece by piece."""

    def __init__(self, timesteps: int, samples: int, units: int, dtype: torch.dtype) -> None:
        def per_sample() -> Tensor:
            return torch.zeros(timesteps, samples, dtype=torch.float64)

        self.units = units
        self.sums = {name: per_sample() for name in ("u", "input")}
        self.squares = {name: per_sample() for name in ("u", "input")}
        self.centres = {name: per_sample() for name in ("u", "input")}
        self.spikes, self.covered = per_sample(), per_sample()
        self.slope, self.slope_square = per_sample(), per_sample()
        self.counts = torch.zeros(5, timesteps, dtype=torch.float64)
        self.silent, self.saturated, self.mismatch, self.near, self.open = self.counts
        self.low, self.high = [math.inf] * timesteps, [-math.inf] * timesteps
        self.density = np.zeros((timesteps, DENSITY_BINS), dtype=np.int64)
        self.exponent = [0] * timesteps

    def add_moments(
        self, name: str, rows: slice, samples: slice, values: Tensor, space: Tensor
    ) -> None:
        """Add sums, and sums of squares about a level near the piece's own mean."""
        summed = values.sum(-1)
        centre = (summed.double().sum(-1) / (values.shape[1] * self.units)).to(values.dtype)
        centred = torch.sub(values, centre[:, None, None], out=space)
        self.sums[name][rows, samples] = summed.double()
        self.squares[name][rows, samples] = centred.mul_(centred).sum(-1).double()
        self.centres[name][rows, samples] = centre.double()[:, None]

    def moments(self, name: str, level: float) -> Block:
        """Return mean and variance over all elements, and over the samples' means."""
        sums, squares, centres = self.sums[name], self.squares[name], self.centres[name]
        units = self.units
        each = sums / units
        mean = each.mean(-1)
        # From about each piece's level to about the mean of all.
        away = centres - mean[:, None]
        spread = squares + away * (2.0 * (sums - units * centres) + units * away)
        return {
            f"{name}_mean": mean + level,
            f"{name}_var": (spread.sum(-1) / (units * each.shape[1])).clamp_(min=0),
            **_over_samples(name, each, mean, level),
        }

    def add_counts(self, t: int, exponent: int, counts: np.ndarray) -> None:
        """Add a histogram; the narrower of the two ranges gives way."""
        widest = max(exponent, self.exponent[t])
        if exponent < widest:
            counts = coarsen_density(counts, widest - exponent)
        elif self.exponent[t] < widest:
            self.density[t] = coarsen_density(self.density[t], widest - self.exponent[t])
        self.exponent[t] = widest
        self.density[t] += counts


def _over_samples(name: str, each: Tensor, mean: Tensor, level: float = 0.0) -> Block:
    return {
        f"{name}_sample_mean": mean + level,
        f"{name}_sample_var": (each - mean[:, None]).square_().mean(-1),
    }


def forward_block(
    u: Tensor,
    implied: Tensor | None,
    spikes: Tensor,
    current: Tensor | None,
    *,
    threshold: Tensor | float,
    scale: float,
    surrogate: Surrogate | None,
    fired_before: Tensor | None,
    t: int,
    rounding: float,
    fires_at_threshold: bool,
    histogram: bool,
) -> Block | None:
    """Summarise one forward pass; see :func:`.accumulators.forward_block`.

    Returns:
        The forward columns, or None where the values are unusual.
    """
    u, spikes = u.reshape(*u.shape[:2], -1), spikes.reshape(*u.shape[:2], -1)
    timesteps, samples, units = u.shape
    implied = None if implied is None else implied.reshape(u.shape)
    current = None if current is None else current.reshape(u.shape)
    if fired_before is not None:
        fired_before = fired_before.reshape(samples, units)
    times, shares = pieces(timesteps, samples, units)
    out = _Forward(timesteps, samples, units, u.dtype)
    size = times[0].stop * shares[0].stop * units
    z_space, space = u.new_empty(size), u.new_empty(size)
    places = torch.empty(size, dtype=torch.int32) if histogram else None
    offsets = _offsets(times[0].stop, shares[0].stop * units) if histogram else None
    for share in shares:
        ever, always = _history(fired_before, spikes[0], share, t)
        for rows in times:
            shape = (rows.stop - rows.start, share.stop - share.start, units)
            count = math.prod(shape)
            z = torch.sub(u[rows, share], threshold, out=z_space[:count].view(shape))
            low = z.view(shape[0], -1).amin(1).tolist()
            high = z.view(shape[0], -1).amax(1).tolist()
            reach = [max(-a, b) for a, b in zip(low, high, strict=True)]
            # The comparison is false for a NaN, too.
            if not all(SMALLEST < size < LARGEST or size == 0.0 for size in reach):
                return None
            for k, place in enumerate(range(rows.start, rows.stop)):
                out.low[place] = min(out.low[place], low[k])
                out.high[place] = max(out.high[place], high[k])
            area = space[:count].view(shape)
            out.add_moments("u", rows, share, z, area)
            if current is not None:
                given = current[rows, share]
                out.add_moments("input", rows, share, given, area)
                if not _safe(out.squares["input"][rows, share], given, units):
                    return None
            seen = spikes[rows, share]
            if implied is not None:
                torch.sub(implied[rows, share], seen, out=area)
            else:
                compare = torch.ge if fires_at_threshold else torch.gt
                compare(z, 0.0, out=area).sub_(seen)
            if torch.dot(area.view(-1), area.view(-1)) != 0:
                near = (z.abs() <= rounding) & (area != 0)
                near_count = near.sum((1, 2))
                out.near[rows] += near_count
                out.mismatch[rows] += (area != 0).sum((1, 2)) - near_count
            if histogram:
                assert places is not None
                assert offsets is not None
                _count_into(out, rows, z, scale, (low, high), area, places[:count], offsets)
            out.spikes[rows, share] = seen.sum(-1).double()
            _follow(out, rows, seen, ever, always)
            if surrogate is not None:
                _slopes(out, rows, share, surrogate, z, area)
    return _finished(out, threshold, surrogate, current is not None, histogram, u)


def _history(
    fired: Tensor | None, like: Tensor, share: slice, t: int
) -> tuple[Tensor, list[Tensor]]:
    """Return which units of a share have ever fired, and which always (none: an empty list)."""
    if fired is None or t == 1:
        return torch.zeros_like(like[share]), [torch.ones_like(like[share])]
    before = fired[share]
    return (before > 0).to(like.dtype), [(before == t - 1).to(like.dtype)]


def _follow(out: _Forward, rows: slice, seen: Tensor, ever: Tensor, always: list[Tensor]) -> None:
    """Count the units that have never fired up to each timestep, and those that always have."""
    for k, place in enumerate(range(rows.start, rows.stop)):
        torch.maximum(ever, seen[k], out=ever)
        out.silent[place] += ever.numel() - ever.sum(-1).double().sum()
        if always:
            kept = always[0].mul_(seen[k]).sum(-1).double().sum()
            out.saturated[place] += kept
            if kept == 0:  # nobody comes back
                always.clear()


def _count_into(
    out: _Forward,
    rows: slice,
    z: Tensor,
    scale: float,
    reach: tuple[list[float], list[float]],
    space: Tensor,
    places: Tensor,
    offsets: Tensor,
) -> None:
    """Count a piece into the bins that :func:`.accumulators.density` defines."""
    ends = torch.tensor(reach, dtype=z.dtype) / scale  # rounded as z / scale is
    largest = torch.maximum(-ends[0], ends[1]).tolist()
    half = DENSITY_BINS // 2
    exponents = [max(0, math.frexp(size / (half * DENSITY_WIDTH))[1]) for size in largest]
    finest = [math.ldexp(1.0 / DENSITY_WIDTH, -exponent) for exponent in exponents]
    factor: Any = finest[0]
    if len(finest) > 1:
        factor = torch.tensor(finest, dtype=z.dtype)[:, None, None]
    scaled = z if scale == 1 else torch.div(z, scale, out=space)
    if min(finest) >= 1:
        bins = torch.mul(scaled, factor, out=space).floor_()
    else:
        # What the factor takes below the smallest number stays on its side of the threshold.
        side = torch.floor(scaled).clamp_(min=-1)
        bins = torch.mul(scaled, factor, out=space).floor_()
        torch.minimum(bins, side, out=bins)
    places.copy_(bins.view(-1)).add_(offsets[: places.numel()])
    counted = torch.bincount(places, minlength=len(exponents) * _LANES * DENSITY_BINS)
    histograms = counted.view(len(exponents), _LANES, DENSITY_BINS).sum(1).numpy()
    for k, exponent in enumerate(exponents):
        out.add_counts(rows.start + k, exponent, histograms[k])


def _offsets(timesteps: int, size: int) -> Tensor:
    """Return what brings a bin from -128 to 127 to its place in the histogram of its row."""
    lanes = torch.arange(size, dtype=torch.int32) % _LANES * DENSITY_BINS + DENSITY_BINS // 2
    rows = torch.arange(timesteps, dtype=torch.int32) * (_LANES * DENSITY_BINS)
    return (rows[:, None] + lanes).view(-1)


def _slopes(
    out: _Forward, rows: slice, share: slice, surrogate: Surrogate, z: Tensor, space: Tensor
) -> None:
    slope = surrogate.derivative(z, xp=torch)
    out.slope[rows, share] = slope.sum(-1).double()
    out.slope_square[rows, share] = torch.mul(slope, slope, out=space).sum(-1).double()
    level = COVERAGE_EPSILON * surrogate.peak
    out.covered[rows, share] = torch.gt(slope, level, out=space).sum(-1).double()
    if slope.amin() > 0:
        out.open[rows] += slope[0].numel()
    else:
        out.open[rows] += torch.ne(slope, 0.0, out=space).sum(-1).double().sum(-1)


def _safe(squares: Tensor, values: Tensor, units: int) -> bool:
    """Return whether sums of squares neither overflowed nor lost what they should hold."""
    least, most = torch.aminmax(squares)
    if not float(most) < LARGEST**2 * units:
        return False
    return float(least) > SMALLEST**2 * units or float(values.amax() - values.amin()) == 0.0


def _finished(
    out: _Forward,
    threshold: Tensor | float,
    surrogate: Surrogate | None,
    with_input: bool,
    histogram: bool,
    u: Tensor,
) -> Block:
    timesteps, samples, units = u.shape
    level = float(threshold)
    count = samples * units

    def constant(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((timesteps,), value, dtype=dtype)

    rate = out.spikes / units
    silent, saturated, mismatch, near, open_ = out.counts.round().long()
    block = {
        "samples": constant(samples),
        "count": constant(count),
        "nonfinite": constant(0),
        "threshold": constant(level, torch.float64),
        "mismatch": mismatch,
        "near_mismatch": near,
        **out.moments("u", level),
        "u_min": torch.tensor(out.low, dtype=torch.float64) + level,
        "u_max": torch.tensor(out.high, dtype=torch.float64) + level,
        "spikes": out.spikes.sum(-1).round().long(),
        "silent": silent,
        "saturated": saturated,
        **_over_samples("rate", rate, rate.mean(-1)),
    }
    if with_input:
        moments = out.moments("input", 0.0)
        block |= {name: moments[name] for name in ("input_mean", "input_var")}
    if histogram:
        block["density"] = torch.from_numpy(out.density)
        block["density_exponent"] = torch.tensor(out.exponent)
    if surrogate is None:
        unknown = constant(math.nan, torch.float64)
        block |= dict.fromkeys(("surrogate_mean", "surrogate_square"), unknown)
        block |= {"covered": constant(0), "open": constant(0)}
        return block | dict.fromkeys(("coverage_sample_mean", "coverage_sample_var"), unknown)
    share = out.covered / units
    return block | {
        "surrogate_mean": out.slope.sum(-1) / count,
        "surrogate_square": out.slope_square.sum(-1) / count,
        "covered": out.covered.sum(-1).round().long(),
        "open": open_,
        **_over_samples("coverage", share, share.mean(-1)),
    }


class _Gradient:
    """Sums of one gradient, filled piece by piece."""

    def __init__(self, timesteps: int, samples: int) -> None:
        self.squares = torch.zeros(timesteps, samples, dtype=torch.float64)
        self.zeros = torch.zeros(timesteps, dtype=torch.float64)

    def add(self, rows: slice, share: slice, values: Tensor, space: Tensor) -> bool:
        """Add a piece; False where something in it is not finite."""
        zeros = torch.eq(values, 0.0, out=space).sum(-1).double().sum(-1)
        self.zeros[rows] += zeros
        squares = torch.mul(values, values, out=space).sum(-1).double()
        whole = float(squares.sum())
        if not whole < math.inf:
            return False
        # One element of 1e-13 or more: what its square loses to the end of float32 is nothing.
        if whole > values.numel() * 1e-26:
            self.squares[rows, share] = squares
            return True
        if int(zeros.sum()) == values.numel():
            return True
        # A vanishing gradient is the very thing to measure: its square leaves float32.
        largest = float(values.abs().amax())
        unit = math.ldexp(1.0, min(120, -math.frexp(largest)[1]))
        values = values * unit
        if not float(values.abs().amax()) > 1e-9:  # it was below the smallest normal number
            return False
        self.squares[rows, share] = torch.mul(values, values, out=space).sum(-1).double() / unit**2
        return True


def backward_block(gradients: Gradients | LayerGradients) -> Block | None:
    """Summarise one backward pass; see :func:`.accumulators.backward_block`.

    Returns:
        The gradient columns, or None where a gradient is not finite.
    """
    timesteps, samples, *shape = gradients.like.shape
    units = math.prod(shape)
    times, shares = pieces(timesteps, samples, units)
    sums = {name: _Gradient(timesteps, samples) for name in ("s", "s_total", "u", "residual")}
    space: Tensor | None = None
    one_s, checked = False, False
    for share in shares:
        for rows in times:
            part = gradients.part(rows, share)
            checked, one_s = part.residual is not None, part.s_total is part.s
            for name, values in zip(sums, part, strict=True):
                if values is None or (name == "s_total" and one_s):
                    continue
                values = values.reshape(*values.shape[:2], -1)
                if space is None or space.numel() < values.numel() or space.dtype != values.dtype:
                    space = values.new_empty(values.numel())
                area = space[: values.numel()].view(values.shape)
                if not sums[name].add(rows, share, values, area):
                    return None
    if one_s:
        sums["s_total"] = sums["s"]
    return _backward_finished(sums, checked, samples, units)


def _backward_finished(
    sums: dict[str, _Gradient], checked: bool, samples: int, units: int
) -> Block:
    timesteps = len(sums["u"].squares)
    count = torch.full((timesteps,), samples * units)
    block: Block = {}
    for name in ("s", "s_total", "u"):
        block |= {
            f"grad_{name}_count": count,
            f"grad_{name}_nonfinite": torch.zeros_like(count),
            f"grad_{name}_zero": sums[name].zeros.round().long(),
            f"grad_{name}_square": sums[name].squares.sum(-1) / count,
        }
    each = sums["u"].squares / units
    block["grad_samples"] = torch.full_like(count, samples)
    block |= _over_samples("grad_u", each, each.mean(-1))
    if checked:
        block["residual_count"] = count
        block["residual_square"] = sums["residual"].squares.sum(-1) / count
    return block
