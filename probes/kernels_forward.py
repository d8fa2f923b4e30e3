# mypy: ignore-errors
# (Triton compiles these functions from their source: what a type checker reads is not what runs.)
"""The kernel of a forward pass: replay, and sums of each tile."""

from __future__ import annotations

import triton
import triton.language as tl

from .kernels_shared import (
    BINS,
    HALF,
    RANGES,
    range_exponent,
    rounded,
    shape_value,
    store_moments,
    tile,
)

_SIZES = ["timesteps", "samples", "chunks", "field"]


@triton.jit(do_not_specialize=_SIZES)
def replay_kernel(
    current,
    spikes,
    start,
    fired,
    potential,
    density,
    sums,
    counts,
    timesteps,
    samples,
    units,
    chunks,
    field,
    current_t,
    current_n,
    spikes_t,
    spikes_n,
    start_n,
    fired_n,
    potential_t,
    potential_n,
    decay,
    gain,
    leak,
    threshold,
    fires_from,
    reset_value,
    amount,
    scale,
    rounding,
    peak,
    width,
    tail,
    covered_above,
    elapsed,
    RESET: tl.constexpr,
    AT: tl.constexpr,
    LEAKS: tl.constexpr,
    NARROW: tl.constexpr,
    SHAPE: tl.constexpr,
    HISTOGRAM: tl.constexpr,
    FIRED: tl.constexpr,
    KEEP: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
):
    """Replay the neuron over time in registers, and sum what each timestep shows of each row.

    A tile is some samples (rows) and a chunk of their units (columns). ``sums`` [field, t, sample,
    chunk] receive what makes the moments of u (0 to 3) and of the input (4 to 7), the extrema (8,
    9), spikes (10), the surrogate and its squares (11, 12); ``counts``, two to a word, how many are
    finite and covered (0), disagree far and near (1), are silent and saturated (2), open (3).
    ``density`` [t, exponent, bin] counts each tile at its own range.
    """
    rows, columns, chunk = tile(chunks, BN, BM)
    there = (rows[:, None] < samples) & (columns[None, :] < units)
    row_there = rows < samples
    current += rows[:, None] * current_n + columns[None, :]
    spikes += rows[:, None] * spikes_n + columns[None, :]
    potential += rows[:, None] * potential_n + columns[None, :]
    v = tl.load(start + rows[:, None] * start_n + columns[None, :], mask=there, other=0.0)
    v = v.to(tl.float32)
    if FIRED:
        so_far = tl.load(fired + rows[:, None] * fired_n + columns[None, :], mask=there, other=0.0)
        so_far = so_far.to(tl.float32)
    else:
        so_far = tl.zeros([BN, BM], tl.float32)
    sums += rows * chunks + chunk
    counts += rows * chunks + chunk
    for _ in range(timesteps):
        given = tl.load(current, mask=there, other=0.0).to(tl.float32)
        seen = tl.load(spikes, mask=there, other=0.0).to(tl.float32)
        # The very operations of the layer, each rounded as it rounds: nothing is contracted.
        u = rounded(rounded(v * decay, NARROW) + rounded(given * gain, NARROW), NARROW)
        if LEAKS:
            u = u + leak
        if KEEP:
            tl.store(potential, u, mask=there)
        if RESET == "subtract":
            v = rounded(u - rounded(seen * amount, NARROW), NARROW)
        elif RESET == "to_value":
            kept = rounded(u * (1.0 - seen), NARROW)
            v = rounded(kept + rounded(seen * reset_value, NARROW), NARROW)
        else:
            v = u

        z = u - threshold
        finite = there & (tl.abs(z) < float("inf"))
        low = tl.min(tl.where(finite, z, float("inf")), axis=1)
        high = tl.max(tl.where(finite, z, float("-inf")), axis=1)
        size = tl.maximum(tl.maximum(-low, high), 0.0)
        z = tl.where(finite, z, 0.0)
        if SHAPE == "unknown":
            covered = tl.zeros([BN, BM], tl.int32)
        else:
            slope = peak * shape_value(tl.div_rn(z, width), tail, SHAPE)
            slope = tl.where(finite, slope, 0.0)
            covered = (slope > covered_above).to(tl.int32)
            opened = tl.sum((slope != 0.0).to(tl.int32), axis=1)
            tl.store(counts + 3 * field, opened, mask=row_there)
            tl.store(sums + 11 * field, tl.sum(slope, axis=1), mask=row_there)
            tl.store(sums + 12 * field, tl.sum(slope * slope, axis=1), mask=row_there)
        shown = tl.sum(finite.to(tl.int32) + (covered << 16), axis=1)
        count = shown & 0xFFFF
        tl.store(counts, shown, mask=row_there)

        store_moments(z, finite, count, size, sums, field, row_there)
        given = tl.where(finite, given, 0.0)
        size_given = tl.max(tl.abs(given), axis=1)
        store_moments(given, finite, count, size_given, sums + 4 * field, field, row_there)
        tl.store(sums + 8 * field, low, mask=row_there)
        tl.store(sums + 9 * field, high, mask=row_there)

        implied = (u >= fires_from) if AT else (u > fires_from)
        wrong = finite & (implied.to(tl.float32) != seen)
        near = wrong & (tl.abs(z) <= rounding)
        apart = (wrong.to(tl.int32) - near.to(tl.int32)) + (near.to(tl.int32) << 16)
        tl.store(counts + field, tl.sum(apart, axis=1), mask=row_there)

        so_far += seen
        ever = (there & (so_far == 0.0)).to(tl.int32)
        always = (there & (so_far == elapsed)).to(tl.int32)
        tl.store(counts + 2 * field, tl.sum(ever + (always << 16), axis=1), mask=row_there)
        tl.store(sums + 10 * field, tl.sum(seen, axis=1), mask=row_there)

        if HISTOGRAM:
            # The tile's own range, one of its 128 histograms: a coarser one is a merge of a finer.
            exponent = range_exponent(tl.max(size, axis=0), scale)
            finest = ((133 - exponent) << 23).to(tl.float32, bitcast=True)  # 64 / 2^exponent
            scaled = tl.div_rn(z, scale)
            places = tl.floor(scaled * finest)
            # What the factor takes below the smallest number stays on its side of the threshold.
            places = tl.where(scaled < 0.0, tl.minimum(places, -1.0), places)
            places = tl.minimum(tl.maximum(places, -128.0), 127.0).to(tl.int32) + HALF
            bins = tl.arange(0, BINS)
            counted = tl.histogram(tl.reshape(places, [BN * BM]), BINS)
            # What is not finite, or not there, came in as 0.
            counted -= tl.where(bins == HALF, BN * BM - tl.sum(count, axis=0), 0)
            tl.atomic_add(
                density + exponent * BINS + bins, counted, mask=counted != 0, sem="relaxed"
            )
            density += RANGES * BINS

        current += current_t
        spikes += spikes_t
        potential += potential_t
        sums += samples * chunks
        counts += samples * chunks
        elapsed += 1.0
