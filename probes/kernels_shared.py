# mypy: ignore-errors
# (Triton compiles these functions from their source: what a type checker reads is not what runs.)
"""What the kernels share: rounding, surrogate shapes, moments of a row, the range of a density."""

from __future__ import annotations

import triton
import triton.language as tl

BINS = tl.constexpr(256)
HALF = tl.constexpr(128)
RANGES = tl.constexpr(128)
"""Ranges that a density may have: a float32 has that many powers of two above 1."""


@triton.jit
def rounded(x, NARROW: tl.constexpr):
    """Round to what a layer that computes in a narrow dtype holds."""
    if NARROW == "bfloat16":
        # In integers: to nearest, ties to even.
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    elif NARROW == "float16":
        x = x.to(tl.float16).to(tl.float32)
    return x


@triton.jit
def shape_value(x, tail, SHAPE: tl.constexpr):
    """Return a surrogate's unit-height shape at x; :mod:`..analysis.surrogate_shapes` has them."""
    far = tl.abs(x)
    if SHAPE == "rectangular":
        value = tl.where(far < 0.5, 1.0, 0.0)
    elif SHAPE == "triangular":
        value = tl.maximum(1.0 - far, 0.0)
    elif SHAPE == "exponential":
        value = tl.exp(-far)
    elif SHAPE == "gaussian":
        value = tl.exp(-0.5 * x * x)
    elif SHAPE == "sigmoid":
        e = tl.exp(-far)
        value = tl.div_rn(4.0 * e, (1.0 + e) * (1.0 + e))
    elif SHAPE == "fast_sigmoid":
        value = tl.div_rn(1.0, (1.0 + far) * (1.0 + far))
    elif SHAPE == "arctan":
        value = tl.div_rn(1.0, 1.0 + x * x)
    elif SHAPE == "q_pseudo_spike":
        y = far * tl.div_rn(2.0, tail - 1.0)
        whole = 1.0 + y
        # log1p: what 1 + y rounded away comes back as the ratio of y to what was left of it.
        left = whole - 1.0
        ratio = tl.where((left == y) | (left == 0.0), 1.0, tl.div_rn(y, left))
        log1p = tl.where(left == 0.0, y, tl.log(whole) * ratio)
        value = tl.exp(-tail * log1p)
    else:
        tl.static_assert(False, "the kernel has no such surrogate shape")
    return value


@triton.jit
def unit_near(size):
    """Return a power of two near a size, and one over it; neither leaves float32."""
    biased = (size.to(tl.int32, bitcast=True) >> 23) & 0xFF
    biased = tl.minimum(tl.maximum(biased, 7), 247)
    return (biased << 23).to(tl.float32, bitcast=True), ((254 - biased) << 23).to(
        tl.float32, bitcast=True
    )


@triton.jit
def store_moments(x, kept, count, size, into, field, mask):
    """Store what the moments of each row are made of: four figures in float32.

    They are a power of two near the largest element, so that no sum leaves float32 whatever
    diverged; and, in units of it, a centre near the mean and the first two moments about it. What
    float64 is needed for is left to :func:`moments`: many devices are slow at it.

    Args:
        x: values, 0 where not kept, ``[rows, columns]``.
        kept: which count.
        count: how many do, ``[rows]``.
        size: largest magnitude, ``[rows]``.
        into: where to, ``[rows]``.
        field: distance from one figure to the next.
        mask: which rows there are.
    """
    unit, over = unit_near(size)
    relative = x * over[:, None]
    n = tl.maximum(count, 1).to(tl.float32)
    centre = tl.div_rn(tl.sum(relative, axis=1), n)
    apart = tl.where(kept, relative - centre[:, None], 0.0)
    tl.store(into, unit, mask=mask)
    tl.store(into + field, centre, mask=mask)
    tl.store(into + 2 * field, tl.sum(apart, axis=1), mask=mask)
    tl.store(into + 3 * field, tl.sum(apart * apart, axis=1), mask=mask)


@triton.jit
def moments(at, field, weight, mask):
    """Return mean and sum of squares about it, in float64, of what :func:`store_moments` left."""
    unit = tl.load(at, mask=mask, other=0.0).to(tl.float64)
    centre = tl.load(at + field, mask=mask, other=0.0).to(tl.float64)
    first = tl.load(at + 2 * field, mask=mask, other=0.0).to(tl.float64)
    second = tl.load(at + 3 * field, mask=mask, other=0.0).to(tl.float64)
    # The centre was rounded to float32: what that left is in the first moment about it.
    rest = first / tl.maximum(weight, 1.0)
    return (centre + rest) * unit, tl.maximum(second - first * rest, 0.0) * unit * unit


@triton.jit
def store_square(x, there, sums, counts, field, mask):
    """Store a row's sum of squares and its unit; how many are finite, and how many of them 0."""
    finite = there & (tl.abs(x) < float("inf"))
    x = tl.where(finite, x, 0.0)
    unit, over = unit_near(tl.max(tl.abs(x), axis=1))
    relative = x * over[:, None]
    tl.store(sums, unit, mask=mask)
    tl.store(sums + field, tl.sum(relative * relative, axis=1), mask=mask)
    packed = finite.to(tl.int32) + ((finite & (x == 0.0)).to(tl.int32) << 16)
    tl.store(counts, tl.sum(packed, axis=1), mask=mask)


@triton.jit
def range_exponent(size, scale):
    """Return how often a density's range of two thresholds doubles until a size lies inside."""
    reach = 0.5 * tl.minimum(tl.div_rn(size, scale), 3.4028234663852886e38)
    # The bits hold the exponent of 1.x * 2^e, and the range is the first power of two above.
    return tl.maximum((reach.to(tl.int32, bitcast=True) >> 23) - 126, 0)


@triton.jit
def tile(chunks, BN: tl.constexpr, BM: tl.constexpr):
    """Return which samples and which units this program looks at, and the chunk's number."""
    program = tl.program_id(0)
    chunk = program % chunks
    rows = (program // chunks).to(tl.int64) * BN + tl.arange(0, BN)
    return rows, chunk * BM + tl.arange(0, BM), chunk
