# mypy: ignore-errors
# (Triton compiles these functions from their source: what a type checker reads is not what runs.)
"""The kernel of a backward pass: gradients inside the layer, and sums of each tile."""

from __future__ import annotations

import triton
import triton.language as tl

from .kernels_shared import shape_value, store_square, tile

_SIZES = ["timesteps", "samples", "chunks", "field"]


@triton.jit(do_not_specialize=_SIZES)
def gradient_kernel(
    grad_spikes,
    grad_input,
    potential,
    spikes,
    after,
    handed,
    sums,
    counts,
    timesteps,
    samples,
    units,
    chunks,
    field,
    grad_spikes_t,
    grad_spikes_n,
    grad_input_t,
    grad_input_n,
    potential_t,
    potential_n,
    spikes_t,
    spikes_n,
    after_n,
    handed_t,
    handed_n,
    decay,
    gain,
    threshold,
    reset_value,
    amount,
    peak,
    width,
    tail,
    RESET: tl.constexpr,
    THROUGH: tl.constexpr,
    SHAPE: tl.constexpr,
    HANDED: tl.constexpr,
    PASSED: tl.constexpr,
    LATE: tl.constexpr,
    AFTER: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
):
    """Go back through time with dL/du in registers, and sum what each timestep shows of each row.

    ``sums`` [field, t, sample, chunk] receive a unit and the squares in it of dL/ds, of the total
    dL/ds, of dL/du and of the residual; ``counts``, two to a word, how many are finite and how many
    of them 0.
    """
    rows, columns, chunk = tile(chunks, BN, BM)
    there = (rows[:, None] < samples) & (columns[None, :] < units)
    row_there = rows < samples
    last = (timesteps - 1).to(tl.int64)  # times a stride it may leave 32 bits
    grad_spikes += last * grad_spikes_t + rows[:, None] * grad_spikes_n + columns[None, :]
    grad_input += last * grad_input_t + rows[:, None] * grad_input_n + columns[None, :]
    potential += last * potential_t + rows[:, None] * potential_n + columns[None, :]
    spikes += last * spikes_t + rows[:, None] * spikes_n + columns[None, :]
    if HANDED:
        handed += last * handed_t + rows[:, None] * handed_n + columns[None, :]
    if AFTER:
        behind = tl.load(after + rows[:, None] * after_n + columns[None, :], mask=there, other=0.0)
        behind = behind.to(tl.float32)
    else:
        behind = tl.zeros([BN, BM], tl.float32)
    sums += (last * samples + rows) * chunks + chunk
    counts += (last * samples + rows) * chunks + chunk
    for _ in range(timesteps):
        grad_s = tl.load(grad_spikes, mask=there, other=0.0).to(tl.float32)
        grad_u = tl.div_rn(tl.load(grad_input, mask=there, other=0.0).to(tl.float32), gain)
        carried = decay * behind
        direct = tl.zeros([BN, BM], tl.float32)
        if HANDED:
            given = tl.load(handed, mask=there, other=0.0).to(tl.float32)
            if LATE:
                direct = given
                if PASSED:
                    carried = tl.zeros([BN, BM], tl.float32)
            elif PASSED:
                carried = given
            else:
                carried = carried + given
        if RESET == "to_value" or SHAPE != "unknown":
            u = tl.load(potential, mask=there, other=0.0).to(tl.float32)
        total = grad_s
        if THROUGH and RESET == "subtract":
            total = grad_s - amount * carried
        elif THROUGH and RESET == "to_value":
            total = grad_s + (reset_value - u) * carried

        store_square(grad_s, there, sums, counts, field, row_there)
        store_square(total, there, sums + 2 * field, counts + field, field, row_there)
        store_square(grad_u, there, sums + 4 * field, counts + 2 * field, field, row_there)
        if SHAPE != "unknown":
            kept = carried
            if RESET == "to_value":
                kept = carried * (1.0 - tl.load(spikes, mask=there, other=0.0).to(tl.float32))
            slope = peak * shape_value(tl.div_rn(u - threshold, width), tail, SHAPE)
            left = grad_u - kept - direct - slope * total
            store_square(left, there, sums + 6 * field, counts + 3 * field, field, row_there)

        behind = grad_u
        grad_spikes -= grad_spikes_t
        grad_input -= grad_input_t
        potential -= potential_t
        spikes -= spikes_t
        if HANDED:
            handed -= handed_t
        sums -= samples * chunks
        counts -= samples * chunks
