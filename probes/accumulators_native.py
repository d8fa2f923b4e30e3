"""The columns of a block from what the compiled route added up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from . import native
from .capture import Gradients, LayerGradients

Block = dict[str, Tensor]


def forward_block(
    u: Tensor,
    implied: Tensor | None,
    spikes: Tensor,
    current: Tensor | None,
    *,
    threshold: Tensor | float,
    surrogate: Surrogate | None,
    histogram: bool,
    **more: Any,
) -> Block | None:
    """Summarise one forward pass; see :func:`.accumulators_cpu.forward_block`.

    Returns:
        The forward columns, or None where the compiled route is not to be had or cannot.
    """
    if implied is not None or isinstance(threshold, Tensor):
        return None
    sums = native.forward(
        u,
        spikes,
        current,
        threshold=threshold,
        surrogate=surrogate,
        histogram=histogram,
        **more,
    )
    if sums is None:
        return None
    rows = sums.rows
    timesteps, samples, _ = rows.shape
    units = u[0, 0].numel()
    z, zz, given, given2, emitted, slope, slope2, covered = np.moveaxis(rows, 2, 0)
    silent, saturated, mismatch, near, open_, exponent = sums.counts.T
    low, high = sums.extrema.astype(float).T
    whole = samples * units
    block: dict[str, Any] = {
        "samples": np.full(timesteps, samples),
        "count": np.full(timesteps, whole),
        "nonfinite": np.zeros(timesteps, dtype=np.int64),
        "threshold": np.full(timesteps, float(threshold)),
        "mismatch": mismatch,
        "near_mismatch": near,
        **_moments("u", z, zz, units, threshold),
        **_over_samples("u", z / units, threshold),
        "u_min": low + threshold,
        "u_max": high + threshold,
        "spikes": np.rint(emitted.sum(1)).astype(np.int64),
        "silent": silent,
        "saturated": saturated,
        **_over_samples("rate", emitted / units),
    }
    if current is not None:
        block |= _moments("input", given, given2, units)
    if histogram:
        block |= {"density": sums.density, "density_exponent": exponent}
    if surrogate is None:
        unknown, none = np.full(timesteps, math.nan), np.zeros(timesteps, dtype=np.int64)
        block |= dict.fromkeys(("surrogate_mean", "surrogate_square"), unknown)
        block |= dict.fromkeys(("covered", "open"), none)
        block |= dict.fromkeys(("coverage_sample_mean", "coverage_sample_var"), unknown)
    else:
        block |= {
            "surrogate_mean": slope.sum(1) / whole,
            "surrogate_square": slope2.sum(1) / whole,
            "covered": np.rint(covered.sum(1)).astype(np.int64),
            "open": open_,
            **_over_samples("coverage", covered / units),
        }
    return _tensors(block)


def backward_block(gradients: Gradients | LayerGradients) -> Block | None:
    """Summarise one backward pass; None where the compiled route is not to be had or cannot."""
    if not isinstance(gradients, LayerGradients) or gradients.handed is not None:
        return None
    sums = native.backward(
        gradients.spec,
        gradients.surrogate,
        gradients.potential,
        gradients.spikes,
        gradients.like,
        gradients.grad_spikes,
        None if gradients.later is None else gradients.later[1],
    )
    if sums is None:
        return None
    squares, zeros, through = sums
    timesteps, samples, _ = squares.shape
    units = gradients.like[0, 0].numel()
    count = np.full(timesteps, samples * units)
    block: dict[str, Any] = {}
    for name, place in (("grad_s", 0), ("grad_s_total", 1 if through else 0), ("grad_u", 2)):
        block |= {
            f"{name}_count": count,
            f"{name}_nonfinite": np.zeros_like(count),
            f"{name}_zero": zeros[:, place],
            f"{name}_square": squares[:, :, place].sum(1) / count,
        }
    block["grad_samples"] = np.full_like(count, samples)
    block |= _over_samples("grad_u", squares[:, :, 2] / units)
    if gradients.surrogate is not None:
        block["residual_count"] = count
        block["residual_square"] = squares[:, :, 3].sum(1) / count
    return _tensors(block)


def _moments(
    name: str, sums: np.ndarray, squares: np.ndarray, units: int, level: float = 0.0
) -> dict[str, np.ndarray]:
    count = sums.shape[1] * units
    mean = sums.sum(1) / count
    # Squares of float32 are exact in float64; a mean of 1e4 spreads costs half of its digits.
    spread = np.maximum(squares.sum(1) / count - mean**2, 0.0)
    return {f"{name}_mean": mean + level, f"{name}_var": spread}


def _over_samples(name: str, each: np.ndarray, level: float = 0.0) -> dict[str, np.ndarray]:
    return {f"{name}_sample_mean": each.mean(1) + level, f"{name}_sample_var": each.var(1)}


def _tensors(block: dict[str, np.ndarray]) -> Block:
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in block.items()}
