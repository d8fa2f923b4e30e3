# mypy: ignore-errors
# (Triton compiles these functions from their source: what a type checker reads is not what runs.)
"""The kernels that merge what tiles left: into sums of each sample, then into columns."""

from __future__ import annotations

import triton
import triton.language as tl

from .kernels_shared import BINS, HALF, RANGES, moments, range_exponent

_ROWS = ["rows", "chunks", "field", "field_out"]
_SIZES = ["timesteps", "samples", "units", "field"]


@triton.jit(do_not_specialize=_ROWS)
def sample_kernel(
    sums,
    counts,
    sums_out,
    counts_out,
    rows,
    chunks,
    field,
    field_out,
    KNOWN: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
):
    """Merge the chunks of each sample at each timestep, in a fixed order and in float64."""
    row = tl.program_id(0).to(tl.int64) * RB + tl.arange(0, RB)
    here = row < rows
    zero = tl.zeros([RB], tl.float64)
    n, total, given, fired, slope, slope_square = zero, zero, zero, zero, zero, zero
    low = tl.full([RB], float("inf"), tl.float32)
    high = -low
    none = tl.zeros([RB], tl.int64)
    covered, far, near, silent, saturated, opened = none, none, none, none, none, none
    for first in range(0, chunks, CB):
        column = first + tl.arange(0, CB)
        at = row[:, None] * chunks + column[None, :]
        there = here[:, None] & (column[None, :] < chunks)
        word = tl.load(counts + at, mask=there, other=0)
        weight = (word & 0xFFFF).to(tl.float64)
        n += tl.sum(weight, axis=1)
        covered += tl.sum(word >> 16, axis=1)
        word = tl.load(counts + field + at, mask=there, other=0)
        far += tl.sum(word & 0xFFFF, axis=1)
        near += tl.sum(word >> 16, axis=1)
        word = tl.load(counts + 2 * field + at, mask=there, other=0)
        silent += tl.sum(word & 0xFFFF, axis=1)
        saturated += tl.sum(word >> 16, axis=1)
        mean, _ = moments(sums + at, field, weight, there)
        total += tl.sum(weight * mean, axis=1)
        mean, _ = moments(sums + 4 * field + at, field, weight, there)
        given += tl.sum(weight * mean, axis=1)
        least = tl.load(sums + 8 * field + at, mask=there, other=float("inf"))
        low = tl.minimum(low, tl.min(least, axis=1))
        most = tl.load(sums + 9 * field + at, mask=there, other=float("-inf"))
        high = tl.maximum(high, tl.max(most, axis=1))
        fired += tl.sum(
            tl.load(sums + 10 * field + at, mask=there, other=0.0).to(tl.float64), axis=1
        )
        if KNOWN:
            opened += tl.sum(tl.load(counts + 3 * field + at, mask=there, other=0), axis=1)
            part = tl.load(sums + 11 * field + at, mask=there, other=0.0).to(tl.float64)
            slope += tl.sum(part, axis=1)
            part = tl.load(sums + 12 * field + at, mask=there, other=0.0).to(tl.float64)
            slope_square += tl.sum(part, axis=1)
    over = tl.maximum(n, 1.0)
    u_mean, given_mean = total / over, given / over
    square, given_square = zero, zero
    for first in range(0, chunks, CB):
        column = first + tl.arange(0, CB)
        at = row[:, None] * chunks + column[None, :]
        there = here[:, None] & (column[None, :] < chunks)
        weight = (tl.load(counts + at, mask=there, other=0) & 0xFFFF).to(tl.float64)
        # Spread inside the parts plus spread between their means (Chan et al. 1983, eq. 1.5).
        mean, inside = moments(sums + at, field, weight, there)
        away = mean - u_mean[:, None]
        square += tl.sum(inside + weight * away * away, axis=1)
        mean, inside = moments(sums + 4 * field + at, field, weight, there)
        away = mean - given_mean[:, None]
        given_square += tl.sum(inside + weight * away * away, axis=1)
    sums_out += row
    tl.store(sums_out, u_mean, mask=here)
    tl.store(sums_out + field_out, square, mask=here)
    tl.store(sums_out + 2 * field_out, low.to(tl.float64), mask=here)
    tl.store(sums_out + 3 * field_out, high.to(tl.float64), mask=here)
    tl.store(sums_out + 4 * field_out, given_mean, mask=here)
    tl.store(sums_out + 5 * field_out, given_square, mask=here)
    tl.store(sums_out + 6 * field_out, fired, mask=here)
    tl.store(sums_out + 7 * field_out, slope, mask=here)
    tl.store(sums_out + 8 * field_out, slope_square, mask=here)
    counts_out += row
    tl.store(counts_out, n.to(tl.int64), mask=here)
    tl.store(counts_out + field_out, covered, mask=here)
    tl.store(counts_out + 2 * field_out, far, mask=here)
    tl.store(counts_out + 3 * field_out, near, mask=here)
    tl.store(counts_out + 4 * field_out, silent, mask=here)
    tl.store(counts_out + 5 * field_out, saturated, mask=here)
    tl.store(counts_out + 6 * field_out, opened, mask=here)


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    sums,
    counts,
    density,
    floats_out,
    counts_out,
    density_out,
    timesteps,
    samples,
    units,
    field,
    scale,
    KNOWN: tl.constexpr,
    HISTOGRAM: tl.constexpr,
    SB: tl.constexpr,
):
    """Merge the samples of one timestep into its columns; bring the histograms to one range."""
    t = tl.program_id(0).to(tl.int64)
    sums += t * samples
    counts += t * samples
    zero = tl.zeros([SB], tl.float64)
    n, total, given, slope, slope_square, fired = zero, zero, zero, zero, zero, zero
    seen, means, rates, shares = zero, zero, zero, zero
    low, high = zero + float("inf"), zero - float("inf")
    none = tl.zeros([SB], tl.int64)
    covered, far, near, silent, saturated, opened = none, none, none, none, none, none
    for first in range(0, samples, SB):
        at = first + tl.arange(0, SB)
        there = at < samples
        here = tl.load(counts + at, mask=there, other=0)
        weight = here.to(tl.float64)
        some = weight > 0.0
        mean = tl.load(sums + at, mask=there, other=0.0)
        emitted = tl.load(sums + 6 * field + at, mask=there, other=0.0)
        over = tl.load(counts + field + at, mask=there, other=0)
        n += weight
        total += weight * mean
        given += weight * tl.load(sums + 4 * field + at, mask=there, other=0.0)
        fired += emitted
        low = tl.minimum(low, tl.load(sums + 2 * field + at, mask=there, other=float("inf")))
        high = tl.maximum(high, tl.load(sums + 3 * field + at, mask=there, other=float("-inf")))
        slope += tl.load(sums + 7 * field + at, mask=there, other=0.0)
        slope_square += tl.load(sums + 8 * field + at, mask=there, other=0.0)
        seen += some.to(tl.float64)
        means += tl.where(some, mean, 0.0)
        rates += tl.where(some, emitted, 0.0) / units
        shares += over.to(tl.float64) / tl.maximum(weight, 1.0)
        covered += over
        far += tl.load(counts + 2 * field + at, mask=there, other=0)
        near += tl.load(counts + 3 * field + at, mask=there, other=0)
        silent += tl.load(counts + 4 * field + at, mask=there, other=0)
        saturated += tl.load(counts + 5 * field + at, mask=there, other=0)
        opened += tl.load(counts + 6 * field + at, mask=there, other=0)
    count, several = tl.sum(n, axis=0), tl.sum(seen, axis=0)
    u_mean, input_mean = tl.sum(total, axis=0) / count, tl.sum(given, axis=0) / count
    sample_mean, rate = tl.sum(means, axis=0) / several, tl.sum(rates, axis=0) / several
    share = tl.sum(shares, axis=0) / several
    square, given_square, mean_square, rate_square, share_square = zero, zero, zero, zero, zero
    for first in range(0, samples, SB):
        at = first + tl.arange(0, SB)
        there = at < samples
        weight = tl.load(counts + at, mask=there, other=0).to(tl.float64)
        some = weight > 0.0
        mean = tl.load(sums + at, mask=there, other=0.0)
        inside = tl.load(sums + field + at, mask=there, other=0.0)
        square += tl.where(some, inside + weight * (mean - u_mean) * (mean - u_mean), 0.0)
        apart = tl.load(sums + 4 * field + at, mask=there, other=0.0) - input_mean
        inside = tl.load(sums + 5 * field + at, mask=there, other=0.0)
        given_square += tl.where(some, inside + weight * apart * apart, 0.0)
        mean_square += tl.where(some, (mean - sample_mean) * (mean - sample_mean), 0.0)
        apart = tl.load(sums + 6 * field + at, mask=there, other=0.0) / units - rate
        rate_square += tl.where(some, apart * apart, 0.0)
        over = tl.load(counts + field + at, mask=there, other=0).to(tl.float64)
        apart = over / tl.maximum(weight, 1.0) - share
        share_square += tl.where(some, apart * apart, 0.0)
    least, most = tl.min(low, axis=0), tl.max(high, axis=0)
    nothing = count - count + float("nan")

    floats_out += t
    tl.store(floats_out, u_mean)
    tl.store(floats_out + timesteps, tl.where(count > 0.0, least, nothing))
    tl.store(floats_out + 2 * timesteps, tl.where(count > 0.0, most, nothing))
    tl.store(floats_out + 3 * timesteps, sample_mean)
    tl.store(floats_out + 4 * timesteps, tl.sum(square, axis=0) / count)
    tl.store(floats_out + 5 * timesteps, tl.sum(mean_square, axis=0) / several)
    tl.store(floats_out + 6 * timesteps, input_mean)
    tl.store(floats_out + 7 * timesteps, tl.sum(given_square, axis=0) / count)
    tl.store(floats_out + 8 * timesteps, rate)
    tl.store(floats_out + 9 * timesteps, tl.sum(rate_square, axis=0) / several)
    if KNOWN:
        tl.store(floats_out + 10 * timesteps, tl.sum(slope, axis=0) / count)
        tl.store(floats_out + 11 * timesteps, tl.sum(slope_square, axis=0) / count)
        tl.store(floats_out + 12 * timesteps, share)
        tl.store(floats_out + 13 * timesteps, tl.sum(share_square, axis=0) / several)
    else:
        for column in tl.static_range(10, 14):
            tl.store(floats_out + column * timesteps, nothing)

    counts_out += t
    all_of_it = samples.to(tl.int64) * units
    tl.store(counts_out, several.to(tl.int64))
    tl.store(counts_out + timesteps, count.to(tl.int64))
    tl.store(counts_out + 2 * timesteps, all_of_it - count.to(tl.int64))
    tl.store(counts_out + 3 * timesteps, tl.sum(far, axis=0))
    tl.store(counts_out + 4 * timesteps, tl.sum(near, axis=0))
    tl.store(counts_out + 5 * timesteps, (tl.sum(fired, axis=0) + 0.5).to(tl.int64))
    tl.store(counts_out + 6 * timesteps, tl.sum(silent, axis=0))
    tl.store(counts_out + 7 * timesteps, tl.sum(saturated, axis=0))
    tl.store(counts_out + 8 * timesteps, tl.sum(covered, axis=0))
    tl.store(counts_out + 9 * timesteps, tl.sum(opened, axis=0))

    if HISTOGRAM:
        size = tl.maximum(tl.maximum(-least, most), 0.0).to(tl.float32)
        widest = range_exponent(size, scale)
        tl.store(counts_out + 10 * timesteps, widest.to(tl.int64))
        density += t * RANGES * BINS
        density_out += t * BINS
        bins = tl.arange(0, BINS)
        for doublings in tl.static_range(0, 8):
            exponent = widest - doublings
            there = bins >= tl.where(exponent >= 0, 0, 256)
            found = tl.load(density + exponent * BINS + bins, mask=there, other=0)
            merged = tl.sum(tl.reshape(found, [BINS >> doublings, 1 << doublings]), axis=1)
            place = tl.arange(0, BINS >> doublings) + (HALF - (HALF >> doublings))
            tl.atomic_add(density_out + place, merged.to(tl.int64), sem="relaxed")
        # Still finer ones lie in the two bins beside the threshold.
        found = tl.zeros([BINS], tl.int64)
        for exponent in range(0, widest - 7):
            found += tl.load(density + exponent * BINS + bins)
        below = tl.sum(tl.where(bins < HALF, found, 0), axis=0)
        above = tl.sum(tl.where(bins < HALF, 0, found), axis=0)
        beside = tl.where(bins == HALF, above, below)
        here = (bins == HALF) | (bins == HALF - 1)
        tl.atomic_add(density_out + bins, beside, mask=here, sem="relaxed")


@triton.jit(do_not_specialize=_ROWS)
def gradient_sample_kernel(
    sums,
    counts,
    sums_out,
    counts_out,
    rows,
    chunks,
    field,
    field_out,
    FIELDS: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
):
    """Merge the chunks of each sample at each timestep, in a fixed order and in float64."""
    row = tl.program_id(0).to(tl.int64) * RB + tl.arange(0, RB)
    here = row < rows
    for name in tl.static_range(0, FIELDS):
        finite, zeros = tl.zeros([RB], tl.int64), tl.zeros([RB], tl.int64)
        squares = tl.zeros([RB], tl.float64)
        for first in range(0, chunks, CB):
            column = first + tl.arange(0, CB)
            at = row[:, None] * chunks + column[None, :]
            there = here[:, None] & (column[None, :] < chunks)
            word = tl.load(counts + name * field + at, mask=there, other=0)
            finite += tl.sum(word & 0xFFFF, axis=1)
            zeros += tl.sum(word >> 16, axis=1)
            unit = tl.load(sums + 2 * name * field + at, mask=there, other=0.0).to(tl.float64)
            part = tl.load(sums + (2 * name + 1) * field + at, mask=there, other=0.0)
            squares += tl.sum(part.to(tl.float64) * unit * unit, axis=1)
        tl.store(sums_out + name * field_out + row, squares, mask=here)
        tl.store(counts_out + 2 * name * field_out + row, finite, mask=here)
        tl.store(counts_out + (2 * name + 1) * field_out + row, zeros, mask=here)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    sums,
    counts,
    floats_out,
    counts_out,
    timesteps,
    samples,
    units,
    field,
    FIELDS: tl.constexpr,
    SB: tl.constexpr,
):
    """Merge the samples of one timestep into its columns."""
    t = tl.program_id(0).to(tl.int64)
    sums += t * samples
    counts += t * samples
    floats_out += t
    counts_out += t
    for name in tl.static_range(0, FIELDS):
        finite, zeros = tl.zeros([SB], tl.int64), tl.zeros([SB], tl.int64)
        squares, seen, figures = (
            tl.zeros([SB], tl.float64), tl.zeros([SB], tl.float64), tl.zeros([SB], tl.float64),
        )  # fmt: skip
        for first in range(0, samples, SB):
            at = first + tl.arange(0, SB)
            there = at < samples
            n = tl.load(counts + 2 * name * field + at, mask=there, other=0)
            square = tl.load(sums + name * field + at, mask=there, other=0.0)
            finite += n
            zeros += tl.load(counts + (2 * name + 1) * field + at, mask=there, other=0)
            squares += square
            seen += (n > 0).to(tl.float64)
            figures += square / tl.maximum(n, 1).to(tl.float64)
        count = tl.sum(finite, axis=0)
        tl.store(floats_out + name * timesteps, tl.sum(squares, axis=0) / count.to(tl.float64))
        tl.store(counts_out + 3 * name * timesteps, count)
        missing = samples.to(tl.int64) * units - count
        tl.store(counts_out + (3 * name + 1) * timesteps, missing)
        tl.store(counts_out + (3 * name + 2) * timesteps, tl.sum(zeros, axis=0))
        if name == 2:  # dL/du, whose spread over samples is kept, too
            several = tl.sum(seen, axis=0)
            mean = tl.sum(figures, axis=0) / several
            spread = tl.zeros([SB], tl.float64)
            for first in range(0, samples, SB):
                at = first + tl.arange(0, SB)
                there = at < samples
                n = tl.load(counts + 2 * name * field + at, mask=there, other=0)
                square = tl.load(sums + name * field + at, mask=there, other=0.0)
                apart = square / tl.maximum(n, 1).to(tl.float64) - mean
                spread += tl.where(n > 0, apart * apart, 0.0)
            tl.store(floats_out + 4 * timesteps, mean)
            tl.store(floats_out + 5 * timesteps, tl.sum(spread, axis=0) / several)
            tl.store(counts_out + 12 * timesteps, several.to(tl.int64))
