"""The compiled route of a CPU: one pass in C where torch needs some sixty.

The C compiler of the machine is asked once, when a model is watched (about a second); what it made
is kept in the user's cache folder. Without a compiler, or with ``SPIKESCOPE_NATIVE=0``, the same
numbers come from the torch route at about four times the cost. Tests hold all routes together.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import math
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from ..data.schema import COVERAGE_EPSILON, DENSITY_BINS, coarsen_density

SHAPES = (
    "rectangular",
    "triangular",
    "exponential",
    "gaussian",
    "sigmoid",
    "fast_sigmoid",
    "arctan",
)
"""Surrogates that the C code knows, in its order."""

_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp-simd", "-ffp-contract=off")
_FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_SOURCE = Path(__file__).with_name("native.c")
_ROW_SUMS, _COUNTS = 8, 6
_EXPONENT = 5
_SHARE = 1 << 18
"""Elements that are worth a thread of their own."""


class _Surrogate(ctypes.Structure):
    _fields_ = (
        ("shape", ctypes.c_int32),
        ("peak", ctypes.c_float),
        ("width", ctypes.c_float),
        ("covered", ctypes.c_float),
        ("open", ctypes.c_float),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled code, None where there is none. The first call may compile it."""
    if os.environ.get("SPIKESCOPE_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _built() -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise OSError("no C compiler")
    # Code for one processor may not run on another that shares the home folder.
    mark = "\n".join((_SOURCE.read_text(encoding="utf-8"), *_FLAGS, compiler, _processor()))
    name = f"native-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.so"
    folder = _cache()
    path = folder / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as space:
            made = Path(space) / name
            command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE), "-lm"]
            subprocess.run(command, capture_output=True, timeout=60, check=True)
            made.replace(path)
    return path


def _cache() -> Path:
    """Return a folder of this user alone: what lies there is loaded into the process."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "spikescope"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} can be written by others")
    return folder


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("flags", "model n"))))


def _surrogate(surrogate: Surrogate | None) -> _Surrogate | None:
    """Return what the C code needs of a surrogate, None where it does not know it."""
    if surrogate is None:
        return _Surrogate(-1, 0.0, 1.0, -1.0, -1.0)
    numbers = surrogate.peak, surrogate.width
    if surrogate.shape not in SHAPES or not all(isinstance(n, int | float) for n in numbers):
        return None
    return _known(surrogate)


@functools.lru_cache(maxsize=64)
def _known(surrogate: Surrogate) -> _Surrogate:
    level = COVERAGE_EPSILON * surrogate.peak
    return _Surrogate(
        SHAPES.index(surrogate.shape),
        surrogate.peak,
        surrogate.width,
        _furthest(lambda z: bool(surrogate.derivative(z, xp=torch) > level)),
        _furthest(lambda z: bool(surrogate.derivative(z, xp=torch) != 0)),
    )


def _furthest(holds: Callable[[Tensor], bool]) -> float:
    """Return the largest float32 distance at which something holds that ends with distance.

    It is asked of torch's own arithmetic, so that both routes count the same elements.
    """

    def at(bits: int) -> Tensor:
        return torch.tensor([bits], dtype=torch.int32).view(torch.float32)

    low, high = 0, 0x7F7FFFFF  # bit patterns of 0 and of the largest number: they rise with it
    if not holds(at(low)):
        return -1.0
    if holds(at(high)):
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(at(middle)) else (low, middle)
    return float(at(low))


def _rows(*tensors: Tensor | None) -> list[Tensor | None] | None:
    """Return tensors as ``[T, N, M]`` with contiguous rows, None where one has another dtype."""
    out: list[Tensor | None] = []
    for tensor in tensors:
        if tensor is None:
            out.append(None)
            continue
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return None
        flat = tensor.reshape(*tensor.shape[:2], -1)
        out.append(flat if flat.stride(-1) == 1 or flat.shape[-1] == 1 else flat.contiguous())
    return out


def _pointer(tensor: Any) -> ctypes.c_void_p:
    if tensor is None:
        return ctypes.c_void_p(None)
    at = tensor.data_ptr() if isinstance(tensor, Tensor) else tensor.ctypes.data
    return ctypes.c_void_p(at)


def _shares(samples: int, size: int) -> list[tuple[int, int]]:
    """Return the ranges of samples that threads of their own look at."""
    threads = max(1, min(torch.get_num_threads(), samples, size // _SHARE))
    ends = [samples * k // threads for k in range(threads + 1)]
    return list(itertools.pairwise(ends))


def _run(act: Callable[[tuple[int, int]], Any], shares: list[tuple[int, int]]) -> list[Any]:
    if len(shares) == 1:
        return [act(shares[0])]
    with ThreadPoolExecutor(len(shares), "spikescope-native") as threads:
        return list(threads.map(act, shares))


@dataclass
class ForwardSums:
    """What one forward pass adds up to.

    Args:
        rows: ``[T, N, 8]``: sums of z, z^2, input, input^2, spikes, slope, slope^2, covered.
        counts: ``[T, 6]``: silent, saturated, mismatch, near_mismatch, open, exponent.
        density: ``[T, bin]``.
        extrema: ``[T, 2]``: smallest and largest z.
    """

    rows: np.ndarray
    counts: np.ndarray
    density: np.ndarray
    extrema: np.ndarray


def forward(
    u: Tensor,
    spikes: Tensor,
    current: Tensor | None,
    *,
    threshold: float,
    scale: float,
    rounding: float,
    surrogate: Surrogate | None,
    fired_before: Tensor | None,
    t: int,
    fires_at_threshold: bool,
    histogram: bool,
) -> ForwardSums | None:
    """Add up one forward pass; None where this route cannot, or something is not finite."""
    code = library()
    known = _surrogate(surrogate)
    flat = _rows(u, spikes, current)
    if code is None or known is None or flat is None:
        return None
    timesteps, samples, units = flat[0].shape  # type: ignore[union-attr]
    ever = np.zeros((samples, units), dtype=np.uint8)
    always = np.ones((samples, units), dtype=np.uint8)
    if fired_before is not None:
        before = fired_before.reshape(samples, units)
        ever[:] = (before > 0).numpy()
        always[:] = (before == t - 1).numpy()
    rows = np.empty((timesteps, samples, _ROW_SUMS))
    strides = _strides(flat)

    def act(share: tuple[int, int]) -> ForwardSums | None:
        sums = ForwardSums(
            rows,
            np.zeros((timesteps, _COUNTS), dtype=np.int64),
            np.zeros((timesteps, DENSITY_BINS), dtype=np.int64),
            np.tile(np.array([np.inf, -np.inf], dtype=np.float32), (timesteps, 1)),
        )
        failed = code.forward(
            *map(_pointer, (*flat, strides)),
            *map(ctypes.c_int64, (timesteps, *share, units, samples)),
            *map(ctypes.c_float, (threshold, scale, rounding)),
            *map(ctypes.c_int, (fires_at_threshold, histogram)),
            ctypes.byref(known),
            *map(_pointer, (ever, always, rows, sums.counts, sums.density, sums.extrema)),
        )
        return None if failed else sums

    parts = _run(act, _shares(samples, u.numel()))
    if any(part is None for part in parts):
        return None
    return functools.reduce(_joined, parts)


def _joined(one: ForwardSums, other: ForwardSums) -> ForwardSums:
    """Add what two threads counted; each row belongs to one of them."""
    counts = one.counts + other.counts
    widest = np.maximum(one.counts[:, _EXPONENT], other.counts[:, _EXPONENT])
    counts[:, _EXPONENT] = widest
    density = np.zeros_like(one.density)
    for part in (one, other):
        for t, doublings in enumerate(widest - part.counts[:, _EXPONENT]):
            density[t] += coarsen_density(part.density[t], int(doublings))
    extrema = np.stack(
        (
            np.minimum(one.extrema[:, 0], other.extrema[:, 0]),
            np.maximum(one.extrema[:, 1], other.extrema[:, 1]),
        ),
        axis=1,
    )
    return ForwardSums(one.rows, counts, density, extrema)


def backward(
    spec: NeuronSpec,
    surrogate: Surrogate | None,
    potential: Tensor,
    spikes: Tensor,
    grad_input: Tensor,
    grad_spikes: Tensor,
    later: Tensor | None,
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Add up the gradients of one backward pass.

    Args:
        spec: the layer's dynamics, without a synaptic filter.
        surrogate: its surrogate.
        potential: u, ``[T, N, ...]``.
        spikes: 0 or 1, ``[T, N, ...]``.
        grad_input: dL/dI, ``[T, N, ...]``.
        grad_spikes: dL/ds from downstream, ``[T, N, ...]``.
        later: dL/du of the timestep after the last, ``[N, ...]``; None at the end.

    Returns:
        Sums of squares ``[T, N, 4]`` and zeros ``[T, 4]`` of dL/ds, dL/ds in total, dL/du and the
        residual, and whether dL/ds in total differs from dL/ds; None where this route cannot, or
        something is not finite.
    """
    code = library()
    known = _surrogate(surrogate)
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    numbers = spec.decay, spec.gain, spec.threshold, amount, spec.reset_value, spec.synapse_decay
    if code is None or known is None or not all(isinstance(n, int | float) for n in numbers):
        return None
    behind = None if later is None else later.unsqueeze(0)
    flat = _rows(potential, spikes, grad_input, grad_spikes, behind)
    if flat is None or spec.synapse_decay != 0:
        return None
    timesteps, samples, units = flat[0].shape  # type: ignore[union-attr]
    through = spec.reset_gradient and spec.reset != "none"
    reset = {"subtract": 1, "to_value": 2, "none": 0}[spec.reset] if through else 0
    if spec.reset == "to_value":
        reset |= 4
        amount = spec.reset_value
    rows = np.zeros((timesteps, samples, 4))
    strides = _strides(flat)

    def act(share: tuple[int, int]) -> np.ndarray | None:
        zeros = np.zeros((timesteps, 4), dtype=np.int64)
        failed = code.backward(
            *map(_pointer, (*flat, strides)),
            *map(ctypes.c_int64, (timesteps, *share, units, samples)),
            *map(ctypes.c_float, (spec.decay, spec.gain, spec.threshold)),
            ctypes.c_int(reset),
            ctypes.c_float(amount),
            ctypes.byref(known),
            *map(_pointer, (rows, zeros)),
        )
        return None if failed else zeros

    parts = _run(act, _shares(samples, potential.numel()))
    if any(part is None for part in parts):
        return None
    return rows, np.sum(parts, axis=0), through


def _strides(tensors: list[Tensor | None]) -> np.ndarray:
    """Return the strides over timesteps and samples of each tensor, in elements."""
    pairs = [(0, 0) if one is None else (one.stride(0), one.stride(1)) for one in tensors]
    return np.array(pairs, dtype=np.int64)
