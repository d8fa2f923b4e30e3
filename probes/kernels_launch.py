"""Launching the kernels: how a pass lies before them, and what becomes of what they leave."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..data.schema import COVERAGE_EPSILON, DENSITY_BINS
from .accumulators_merge import Block
from .capture import LayerGradients
from .kernels_backward import gradient_kernel
from .kernels_forward import replay_kernel
from .kernels_merging import (
    backward_kernel,
    forward_kernel,
    gradient_sample_kernel,
    sample_kernel,
)
from .observed import Observed

WARP = 256
"""Elements of a warp: 8 of each thread, whose state stays in registers."""

TILE = 256
"""Elements of a program, in samples and units: one warp, which needs no barrier."""

LARGE_TILE = 1024
"""That of a layer that fills the device all the same: a quarter of the sums to merge.

Where programs of one warp send theirs to the few addresses of a timestep's histogram, the memory
that adds them up is busier than the one that is read.
"""

LARGE = 1 << 20
"""Elements of a timestep from which a layer does: a thousand programs."""

_RANGES = 128
_NARROW = {torch.float32: "", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_FLOATS = (
    "u_mean",
    "u_min",
    "u_max",
    "u_sample_mean",
    "u_var",
    "u_sample_var",
    "input_mean",
    "input_var",
    "rate_sample_mean",
    "rate_sample_var",
    "surrogate_mean",
    "surrogate_square",
    "coverage_sample_mean",
    "coverage_sample_var",
)
_LEVELLED = 4  # the first of them are seen from the threshold
_COUNTS = (
    "samples",
    "count",
    "nonfinite",
    "mismatch",
    "near_mismatch",
    "spikes",
    "silent",
    "saturated",
    "covered",
    "open",
    "density_exponent",
)
_GRADIENTS = ("grad_s", "grad_s_total", "grad_u")


def forward(seen: Observed) -> Block:
    """Replay and summarise a forward pass; leaves u in ``seen`` where it is kept.

    Args:
        seen: what is known of it; one that :func:`.kernels.handles` takes.

    Returns:
        The forward columns, ``[T]`` each (``density`` is ``[T, bin]``).
    """
    assert seen.dynamics is not None
    assert seen.current is not None
    (spec, start), surrogate = seen.dynamics, seen.surrogate
    view = _View(seen.current)
    current, spikes, start = view.flat(seen.current), view.flat(seen.spikes), view.of_sample(start)
    fired = start if seen.fired_before is None else view.of_sample(seen.fired_before)
    timesteps, samples, units = current.shape
    # In the layer's own dtype: what it rounded to, without a loss, in half the bytes.
    u = current.new_empty(current.shape if seen.keep_u else (1, 1, 1))
    sums, counts = view.scratch(13, torch.float32), view.scratch(4, torch.int32)
    shape = (timesteps if seen.histogram else 0, DENSITY_BINS)
    density = torch.zeros(shape, dtype=torch.int64, device=u.device)
    ranged = torch.zeros(shape[0], _RANGES, shape[1], dtype=torch.int32, device=u.device)
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    late = spec.delayed_reset and spec.reset == "subtract"
    peak, width, tail = _numbers(surrogate)
    scale = float(seen.scale)
    with _on(u.device):
        replay_kernel[(view.programs,)](
            current,
            spikes,
            start,
            fired,
            u,
            ranged,
            sums,
            counts,
            timesteps,
            samples,
            units,
            view.chunks,
            sums[0].numel(),
            *current.stride()[:2],
            *spikes.stride()[:2],
            start.stride(0),
            fired.stride(0),
            *u.stride()[:2],
            float(spec.decay),
            float(spec.gain),
            float((1.0 - spec.decay) * spec.rest),
            float(spec.threshold),
            _as_compared(spec.threshold, current.dtype),
            float(spec.reset_value),
            float(amount / spec.decay if late else amount),
            scale,
            seen.rounding,
            peak,
            width,
            tail,
            COVERAGE_EPSILON * peak,
            float(seen.t),
            RESET=spec.reset,
            AT=seen.fires_at_threshold,
            LEAKS=spec.rest != 0,
            NARROW=_NARROW[current.dtype],
            SHAPE="unknown" if surrogate is None else surrogate.shape,
            HISTOGRAM=seen.histogram,
            FIRED=seen.fired_before is not None,
            KEEP=seen.keep_u,
            BN=view.rows,
            BM=view.columns,
            num_warps=view.warps,
            enable_fp_fusion=False,
        )
        each, each_counts = view.by_sample(9, torch.float64), view.by_sample(7, torch.int64)
        view.merge(sample_kernel, sums, counts, each, each_counts, KNOWN=surrogate is not None)
        floats = each.new_empty(len(_FLOATS), timesteps)
        whole = each_counts.new_empty(len(_COUNTS), timesteps)
        forward_kernel[(timesteps,)](
            each,
            each_counts,
            ranged,
            floats,
            whole,
            density,
            timesteps,
            samples,
            units,
            timesteps * samples,
            scale,
            KNOWN=surrogate is not None,
            HISTOGRAM=seen.histogram,
            SB=_power(samples, TILE),
            enable_fp_fusion=False,
        )
    floats[:_LEVELLED] += float(spec.threshold)
    if seen.keep_u:
        seen.u = view.back(u)
    block = dict(zip(_FLOATS, floats, strict=True)) | dict(zip(_COUNTS, whole, strict=True))
    block["threshold"] = torch.full_like(floats[0], float(spec.threshold))
    if seen.histogram:
        block["density"] = density
    else:
        del block["density_exponent"]
    return block


def backward(gradients: LayerGradients) -> Block:
    """Summarise a backward pass.

    Args:
        gradients: those that :func:`.kernels.handles_gradients` takes.

    Returns:
        The gradient columns, ``[T]`` each.
    """
    spec, surrogate = gradients.spec, gradients.surrogate
    view = _View(gradients.like)
    grad_input, grad_spikes = view.flat(gradients.like), view.flat(gradients.grad_spikes)
    u, spikes = view.flat(gradients.potential), view.flat(gradients.spikes)
    handed = u if gradients.handed is None else view.flat(gradients.handed)
    after = u[0] if gradients.later is None else view.of_sample(gradients.later[1])
    timesteps, samples, units = u.shape
    fields = len(_GRADIENTS) + (surrogate is not None)
    sums, counts = view.scratch(2 * fields, torch.float32), view.scratch(fields, torch.int32)
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    with _on(u.device):
        gradient_kernel[(view.programs,)](
            grad_spikes,
            grad_input,
            u,
            spikes,
            after,
            handed,
            sums,
            counts,
            timesteps,
            samples,
            units,
            view.chunks,
            sums[0].numel(),
            *grad_spikes.stride()[:2],
            *grad_input.stride()[:2],
            *u.stride()[:2],
            *spikes.stride()[:2],
            after.stride(0),
            *handed.stride()[:2],
            float(spec.decay),
            float(spec.gain),
            float(spec.threshold),
            float(spec.reset_value),
            float(amount),
            *_numbers(surrogate),
            RESET=spec.reset,
            THROUGH=spec.reset_gradient and spec.reset != "none",
            SHAPE="unknown" if surrogate is None else surrogate.shape,
            HANDED=gradients.handed is not None,
            PASSED=gradients.passed,
            LATE=spec.delayed_reset,
            AFTER=gradients.later is not None,
            BN=view.rows,
            BM=view.columns,
            num_warps=view.warps,
            enable_fp_fusion=False,
        )
        each = view.by_sample(fields, torch.float64)
        each_counts = view.by_sample(2 * fields, torch.int64)
        view.merge(gradient_sample_kernel, sums, counts, each, each_counts, FIELDS=fields)
        floats, whole = each.new_empty(6, timesteps), each_counts.new_empty(13, timesteps)
        backward_kernel[(timesteps,)](
            each,
            each_counts,
            floats,
            whole,
            timesteps,
            samples,
            units,
            timesteps * samples,
            FIELDS=fields,
            SB=_power(samples, TILE),
            enable_fp_fusion=False,
        )
    block: Block = {}
    for place, name in enumerate(_GRADIENTS):
        block[f"{name}_square"] = floats[place]
        for of, column in enumerate(("count", "nonfinite", "zero")):
            block[f"{name}_{column}"] = whole[3 * place + of]
    block |= {"grad_u_sample_mean": floats[4], "grad_u_sample_var": floats[5]}
    block["grad_samples"] = whole[12]
    if surrogate is not None:
        block |= {"residual_count": whole[9], "residual_square": floats[3]}
    return block


class _View:
    """How the elements of a pass lie before the kernels: samples in rows, units in columns.

    Args:
        like: the tensor ``[T, N, ...]`` whose order of units in memory all others take.
    """

    def __init__(self, like: Tensor) -> None:
        strides = like.stride()
        inner = sorted(range(2, like.ndim), key=lambda axis: -strides[axis])
        self._order = (0, 1, *inner)
        self._shape = like.shape
        self._device = like.device
        timesteps, samples, *shape = like.shape
        self._size = timesteps, samples, math.prod(shape)
        units = self._size[2]
        tile = LARGE_TILE if samples * units >= LARGE else TILE
        self.warps = max(1, tile // WARP)
        self.columns = max(16, _power(units, tile))
        self.rows = tile // self.columns
        self.chunks = math.ceil(units / self.columns)
        self.programs = self.chunks * math.ceil(samples / self.rows)

    def flat(self, tensor: Tensor) -> Tensor:
        """Return ``[T, N, M]`` with neighbouring units side by side, a copy where it must be."""
        flat = tensor.permute(self._order).reshape(self._size)
        return flat if flat.stride(2) == 1 or flat.shape[2] == 1 else flat.contiguous()

    def of_sample(self, tensor: Tensor) -> Tensor:
        """Return what broadcasts over one timestep as ``[N, M]``."""
        whole = torch.broadcast_to(tensor, self._shape[1:])
        flat = whole.permute([axis - 1 for axis in self._order[1:]]).reshape(self._size[1:])
        return flat if flat.stride(1) == 1 or flat.shape[1] == 1 else flat.contiguous()

    def back(self, flat: Tensor) -> Tensor:
        """Return ``[T, N, M]`` as ``[T, N, ...]``."""
        turned = flat.view([self._shape[axis] for axis in self._order])
        return turned.permute([self._order.index(axis) for axis in range(len(self._order))])

    def scratch(self, fields: int, dtype: torch.dtype) -> Tensor:
        """Return room for figures of each tile, ``[field, T, N, chunk]``."""
        size = (fields, *self._size[:2], self.chunks)
        return torch.empty(size, dtype=dtype, device=self._device)

    def by_sample(self, fields: int, dtype: torch.dtype) -> Tensor:
        """Return room for figures of each sample, ``[field, T, N]``."""
        return torch.empty((fields, *self._size[:2]), dtype=dtype, device=self._device)

    def merge(
        self, kernel: Any, sums: Tensor, counts: Tensor, sums_out: Tensor, counts_out: Tensor,
        **constants: Any,
    ) -> None:  # fmt: skip
        """Have a kernel merge the chunks of each sample."""
        columns = _power(self.chunks, TILE)
        together = TILE // columns
        rows = sums_out[0].numel()
        kernel[(math.ceil(rows / together),)](
            sums,
            counts,
            sums_out,
            counts_out,
            rows,
            self.chunks,
            sums[0].numel(),
            rows,
            RB=together,
            CB=columns,
            enable_fp_fusion=False,
            **constants,
        )


def _power(size: int, most: int) -> int:
    """Return the power of two that holds a size, as far as one program goes."""
    return min(most, 1 << (size - 1).bit_length())


def _as_compared(threshold: float, dtype: torch.dtype) -> float:
    """Return a threshold as a layer compares with it: rounded to its dtype; asks no device."""
    return float(torch.tensor(threshold, dtype=dtype, device="cpu"))


def _numbers(surrogate: Surrogate | None) -> tuple[float, float, float]:
    """Return peak, width and tail as floating numbers: Triton would compile a whole 1 in."""
    if surrogate is None:
        return 1.0, 1.0, 2.0
    return float(surrogate.peak), float(surrogate.width), float(surrogate.tail)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a device the one that kernels are launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
