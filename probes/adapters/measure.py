"""The surrogate that a spike function really has: its derivative, taken by autograd on a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...analysis.surrogate import Surrogate
from ...analysis.surrogate_identify import identify

REACH = 5.0
"""The grid spans this many thresholds to either side, at least this much potential."""

AGREEMENT = 1e-5
"""Deviation, in shares of the peak, up to which a declared surrogate is the measured one."""


def grid(scale: float = 1.0) -> Any:
    """Return distances from the threshold: even over the whole span, ever finer towards 0.

    Args:
        scale: size of the threshold, potential, above 0.

    Returns:
        Ascending distances u - threshold, potential, ``[n]``, symmetric, with 0.

    Example:
        >>> x = grid()
        >>> float(x[0]), float(x[-1]), bool((x == 0.0).any()), bool((x == -x[::-1]).all())
        (-5.0, 5.0, True, True)
    """
    span = REACH * max(scale, 1.0)
    side = np.union1d(
        np.linspace(0.0, span, 1001), np.geomspace(1e-5 * REACH * min(scale, 1.0), span, 800)
    )
    return np.concatenate([-side[:0:-1], side])


def derivative(
    function: Callable[[Tensor], Tensor],
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Any, Any]:
    """Measure the derivative of a spike by autograd.

    Args:
        function: the spike as a function of u - threshold.
        scale: size of the threshold, potential.
        dtype: precision to measure in; what overflows there shows as it would in training.
        device: where the function can compute.

    Returns:
        ``(x, derivative)``: distances from the threshold, potential, and the derivative there,
        1 / potential, ``[n]`` each. 0 where the function passes no gradient at all. The random
        state is left as it was.

    Example:
        >>> x, slope = derivative(lambda z: torch.sigmoid(4.0 * z))
        >>> float(slope[x == 0.0][0])
        1.0
    """
    # Rounding may make two points one.
    rounded = np.unique(torch.from_numpy(grid(scale)).to(dtype).double().numpy())
    x = torch.from_numpy(rounded).to(device, dtype).requires_grad_(True)
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        spikes = function(x)
        slope = None
        if spikes.requires_grad:
            (slope,) = torch.autograd.grad(spikes.sum(), x, allow_unused=True)
    if slope is None:
        slope = torch.zeros_like(x)
    return rounded, slope.double().cpu().numpy()


def surrogate_of(
    function: Callable[[Tensor], Tensor],
    declared: Surrogate | None,
    scale: float = 1.0,
    device: torch.device | str = "cpu",
) -> Surrogate | None:
    """Return the surrogate that a layer has: as declared if that is true, else as measured.

    Args:
        function: the spike as a function of u - threshold.
        declared: what the layer's settings say, if they say anything.
        scale: size of the threshold, potential.
        device: where the function can compute.

    Returns:
        The surrogate; None where no known shape describes what was measured.

    Example:
        >>> surrogate_of(lambda z: torch.sigmoid(4.0 * z), Surrogate("sigmoid", 1.0, 0.5)).width
        0.25
    """
    x, slope = derivative(function, scale, device=device)
    if declared is not None and np.all(np.isfinite(slope)):
        error = np.abs(declared.derivative(x) - slope)
        if np.max(error) <= AGREEMENT * np.max(np.abs(slope)):
            return declared
    return identify(x, slope).surrogate
