"""The route of a CUDA device: one kernel replays the neuron and sums up what it reads.

A forward pass reads input and spikes once and writes u, in the layer's dtype, where the backward
pass needs it; a backward pass reads dL/ds, dL/dI and u once, and the spikes where the reset is
hard. Beside that, partial sums of each 256 elements (1024 in large layers) are written and merged,
68 bytes a timestep forward, 48 backward; and 130 KiB a timestep hold histograms of every range, so
that the range need not be known before the data are counted. Nothing waits for the device, all
memory is taken from the current stream's pool, and sums are merged in a fixed order: the same data
give the same bits.

Triton is imported when a tensor on such a device first arrives. If it is missing, or a kernel does
not compile, the other routes go on, and a note says so once.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
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

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LARGEST = torch.finfo(torch.float32).max


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


def reads(tensor: Tensor) -> bool:
    """Return whether the kernels read a tensor as it is, also where its dtype is narrow."""
    return _suits(tensor)


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
        block: Block = _launcher().forward(seen)
        return block
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
        block: Block = _launcher().backward(gradients)
        return block
    except Exception as error:  # likewise
        _give_up(error)
        return None


def _launcher() -> Any:
    return importlib.import_module(".kernels_launch", __package__)


def _suits(tensor: Tensor) -> bool:
    return (
        _Given.up is None
        and type(tensor) is Tensor  # no subclass, which may hold its data elsewhere
        and tensor.device.type in DEVICES
        and torch.version.hip is None
        and tensor.dtype in _DTYPES
        and tensor.ndim >= 2
        and 0 < tensor.numel()
        and tensor[0].numel() < 2**31
        and len(tensor) * tensor.shape[1] < 2**27  # up to 13 fields of 32-bit places
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
