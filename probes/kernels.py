"""The route of a CUDA device: one kernel replays the neuron and sums up what it reads.

A forward pass reads input and spikes once and writes u (4 bytes per element) where the backward
pass needs it; a backward pass reads dL/ds, dL/dI and u once, and the spikes where the reset is
hard. What the kernels leave behind for merging is 1 to 2 % of that, and 129 KiB per timestep for
histograms. Nothing waits for the device, all memory is taken from the current stream's pool, and
sums are merged in a fixed order: the same data give the same bits.

Triton is imported when a tensor on such a device first arrives. If it is missing, or a kernel does
not compile, the other routes go on, and a note says so once.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from typing import Any

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from ..data.schema import COVERAGE_EPSILON, DENSITY_BINS
from .accumulators_merge import Block
from .capture import Gradients, LayerGradients
from .observed import Observed

SHAPES = (
    "rectangular",
    "triangular",
    "exponential",
    "gaussian",
    "sigmoid",
    "fast_sigmoid",
    "arctan",
    "q_pseudo_spike",
)
"""The surrogate shapes that the kernels have."""

DEVICES = {"cuda"}

TILE = 256
"""Elements of a program, in samples and units: one warp, which needs no barrier."""

_RANGES = 128
_NARROW = {torch.float32: "", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_LARGEST = torch.finfo(torch.float32).max

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


class _Given:
    """Why the kernels were given up, and whether that was told."""

    up: str | None = None
    told = False


def take_note() -> str | None:
    """Return why the kernels were given up, the first time that it is asked after that."""
    if _Given.up is None or _Given.told:
        return None
    _Given.told = True
    return _Given.up


def _give_up(error: Exception) -> None:
    first = (str(error).strip() or repr(error)).splitlines()[0]
    _Given.up = (
        "the statistics go the general route, which reads the data many times, because the kernel "
        f"failed: {type(error).__name__}: {first}"
    )


def handles(seen: Observed) -> bool:
    """Return whether the kernels are made for a forward pass.

    That is a layer replayed from plain numbers, without a synaptic filter, in float32 or less.
    """
    if seen.dynamics is None or seen.current is None:
        return False
    (spec, start), current, spikes = seen.dynamics, seen.current, seen.spikes
    return (
        _suits(current)
        and _suits(spikes)
        and type(start) is Tensor
        and start.dtype == current.dtype
        and start.device == spikes.device == current.device
        and current.shape == spikes.shape
        and _is_plain(spec, seen.surrogate)
        # Where a narrow dtype rounds the leak's number differs from device to device.
        and (current.dtype == torch.float32 or spec.rest == 0)
    )


def handles_gradients(gradients: Gradients | LayerGradients) -> bool:
    """Return whether the kernels are made for a backward pass."""
    if not isinstance(gradients, LayerGradients) or not _suits(gradients.like):
        return False
    of = gradients
    others = [of.grad_spikes, of.potential, of.spikes]
    if of.handed is not None:
        others.append(of.handed)
    return _is_plain(of.spec, of.surrogate) and all(
        _suits(other) and other.shape == of.like.shape and other.device == of.like.device
        for other in others
    )


def forward(seen: Observed) -> Block | None:
    """Replay and summarise a forward pass; leaves u in ``seen`` where it is kept.

    Args:
        seen: what is known of it; one that :func:`handles` takes.

    Returns:
        The forward columns, ``[T]`` each; None where the kernels fail.
    """
    try:
        return _forward(seen)
    except Exception as error:  # the training must go on, and so should the recording
        _give_up(error)
        return None


def backward(gradients: Gradients | LayerGradients) -> Block | None:
    """Summarise a backward pass.

    Args:
        gradients: those that :func:`handles_gradients` takes.

    Returns:
        The gradient columns, ``[T]`` each; None where the kernels fail.
    """
    assert isinstance(gradients, LayerGradients)
    try:
        return _backward(gradients)
    except Exception as error:  # likewise
        _give_up(error)
        return None


def _suits(tensor: Tensor) -> bool:
    return (
        _Given.up is None
        and type(tensor) is Tensor  # no subclass, which may hold its data elsewhere
        and tensor.device.type in DEVICES
        and torch.version.hip is None
        and tensor.dtype in _NARROW
        and tensor.ndim >= 2
        and 0 < tensor.numel()
        and tensor[0].numel() < 2**31
    )


def _is_plain(spec: NeuronSpec, surrogate: Surrogate | None) -> bool:
    numbers = [spec.decay, spec.gain, spec.threshold, spec.reset_value, spec.rest]
    numbers += [spec.synapse_decay, spec.reset_amount or 0.0]
    if surrogate is not None:
        numbers += [surrogate.peak, surrogate.width, surrogate.tail]
    return (
        all(
            isinstance(number, int | float) and (abs(number) <= _LARGEST or math.isinf(number))
            for number in numbers
        )
        and spec.synapse_decay == 0
        and (surrogate is None or surrogate.shape in SHAPES)
    )


def _forward(seen: Observed) -> Block:
    kernels = importlib.import_module(".kernels_forward", __package__)
    assert seen.dynamics is not None
    assert seen.current is not None
    (spec, start), surrogate = seen.dynamics, seen.surrogate
    view = _View(seen.current)
    current, spikes, start = view.flat(seen.current), view.flat(seen.spikes), view.of_sample(start)
    fired = start if seen.fired_before is None else view.of_sample(seen.fired_before)
    timesteps, samples, units = current.shape
    u = current.new_empty(current.shape if seen.keep_u else (1, 1, 1), dtype=torch.float32)
    sums, counts = view.scratch(13, torch.float32), view.scratch(4, torch.int32)
    shape = (timesteps if seen.histogram else 0, DENSITY_BINS)
    density = torch.zeros(shape, dtype=torch.int64, device=u.device)
    ranged = torch.zeros(shape[0], _RANGES, shape[1], dtype=torch.int32, device=u.device)
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    late = spec.delayed_reset and spec.reset == "subtract"
    peak, width, tail = _numbers(surrogate)
    scale = float(seen.scale)
    with _on(u.device):
        kernels.replay_kernel[(view.programs,)](
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
            num_warps=1,
            enable_fp_fusion=False,
        )
        each, each_counts = view.by_sample(9, torch.float64), view.by_sample(7, torch.int64)
        view.merge(
            kernels.sample_kernel, sums, counts, each, each_counts, KNOWN=surrogate is not None
        )
        floats = each.new_empty(len(_FLOATS), timesteps)
        whole = each_counts.new_empty(len(_COUNTS), timesteps)
        kernels.forward_kernel[(timesteps,)](
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
            SB=_power(samples),
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


def _backward(gradients: LayerGradients) -> Block:
    kernels = importlib.import_module(".kernels_backward", __package__)
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
        kernels.gradient_kernel[(view.programs,)](
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
            num_warps=1,
            enable_fp_fusion=False,
        )
        each = view.by_sample(fields, torch.float64)
        each_counts = view.by_sample(2 * fields, torch.int64)
        view.merge(kernels.gradient_sample_kernel, sums, counts, each, each_counts, FIELDS=fields)
        floats, whole = each.new_empty(6, timesteps), each_counts.new_empty(13, timesteps)
        kernels.backward_kernel[(timesteps,)](
            each,
            each_counts,
            floats,
            whole,
            timesteps,
            samples,
            units,
            timesteps * samples,
            FIELDS=fields,
            SB=_power(samples),
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
        self.columns = max(16, _power(units))
        self.rows = TILE // self.columns
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
        columns = _power(self.chunks)
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


def _power(size: int) -> int:
    """Return the power of two that holds a size, as far as one program goes."""
    return min(TILE, 1 << (size - 1).bit_length())


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
