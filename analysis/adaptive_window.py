"""Windows and thresholds that follow the spread of the potential: MPD-AGL and DS-ATGO."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .checks import ABOVE_ZERO, LARGEST, is_number, number

WIDTH_BOUNDS = (0.2, 5.0)
"""Smallest and largest window, in thresholds. Ours; wider windows cost LSG its accuracy."""


class Clamped(NamedTuple):
    """A value held between bounds, and whether they changed it."""

    value: Any
    clamped: Any


def agl_rms_scale(gamma: Any, beta: Any, threshold: Any, alpha: Any = 1.0, xp: Any = np) -> Any:
    """Return the scale of the input over all channels: what the published mean of gamma leaves out.

    Args:
        gamma: scale of the batch norm per channel, ``[channels]``.
        beta: its offset per channel, ``[channels]``, potential.
        threshold: initial threshold of the layer, potential.
        alpha: factor of tdBN, no unit.
        xp: numpy, or torch for tensors.

    Returns:
        sqrt(mean(gamma^2) + var(beta) / (alpha threshold)^2), no unit; never negative.

    Example:
        >>> float(agl_rms_scale(np.array([0.6, -0.8]), np.array([0.0, 0.0]), 0.5).round(6))
        0.707107

    Source:
        Ours: pooled standard deviation over channels, in place of the mean of gamma.
    """
    offset = ((beta - beta.mean()) ** 2).mean() / (alpha * threshold) ** 2
    return xp.sqrt((gamma**2).mean() + offset)


def agl_width(
    scale: Any, threshold: Any, decay: Any, t: Any, alpha: Any = 1.0, layer: str = "this layer"
) -> Any:
    """Return the width of the rectangular surrogate: twice the predicted spread of u.

    Args:
        scale: mean of the batch norm's gamma over channels, as published, or
            :func:`agl_rms_scale`; no unit.
        threshold: initial threshold, potential.
        decay: of the membrane, in [0, 1].
        t: timestep from 1; all t >= 2 share one width.
        alpha: factor of tdBN, no unit (the released code leaves it out; it is 1 there).
        layer: name for the message.

    Returns:
        Full width, potential; the peak is 1 / width. (LSG: the same with scale 1 and t >= 2.)

    Raises:
        ValueError: a scale of 0 or below, which would block every gradient of the layer.

    Example:
        >>> round(agl_width(1.0, 0.5, 0.2, t=1), 4), round(agl_width(1.0, 0.5, 0.2, t=2), 4)
        (1.0, 1.0198)
        >>> agl_width(-0.1, 0.5, 0.2, t=2, layer="net.3")
        Traceback (most recent call last):
        ...
        ValueError: gbar=-0.1 of net.3 gives no window: it must be above 0; take the rms of gamma

    Source:
        MPD-AGL, arXiv 2505.11863, released code 61abbf3: kappa_t = 2 gbar theta0 sqrt(1 + decay^2).
    """
    if is_number(scale) and not np.all(np.asarray(scale) > 0):
        raise ValueError(
            f"gbar={scale!r} of {layer} gives no window: it must be above 0; take the rms of gamma"
        )
    past = (t >= 2) * 1.0
    return 2.0 * alpha * threshold * scale * (1.0 + past * decay * decay) ** 0.5


def true_std_width(std: Any) -> Any:
    """Return twice the recorded standard deviation of u, the width that MPD-AGL predicts.

    Args:
        std: standard deviation of u at this timestep, potential.

    Returns:
        Full width, potential.

    Raises:
        ValueError: a standard deviation of 0 or below.

    Example:
        >>> true_std_width(0.5)
        1.0

    Source:
        Ours, after MPD-AGL, arXiv 2505.11863: the window is one standard deviation either side.
    """
    if is_number(std):
        std = number("std", std, ABOVE_ZERO, LARGEST, "a finite number above 0")
    return 2.0 * std


def clamp_width(width: Any, threshold: Any, xp: Any = np) -> Clamped:
    """Return the width held between 0.2 and 5 thresholds.

    Args:
        width: full width, potential.
        threshold: potential.
        xp: numpy, or torch for tensors.

    Returns:
        Width (potential) and whether it was changed.

    Example:
        >>> clamp_width(np.array([0.05, 1.0]), 1.0)
        Clamped(value=array([0.2, 1. ]), clamped=array([ True, False]))

    Source:
        Ours. Above 5 thresholds LSG (Lian et al. 2023) lost 30 points of accuracy.
    """
    low, high = WIDTH_BOUNDS
    value = xp.clip(width, low * threshold, high * threshold)
    return Clamped(value, value != width)


def atgo_threshold(mean: Any, std: Any, fc: Any = 1.0, floor: Any = 0.0, xp: Any = np) -> Clamped:
    """Return the threshold one standard deviation above the mean, so that 15.87 % fire.

    Args:
        mean: mean of u over the batch at this timestep, potential.
        std: its (unbiased) standard deviation, potential.
        fc: factor of the paper, no unit.
        floor: smallest threshold, potential; above 0, or a silent unit at u = 0 may fire.
        xp: numpy, or torch for tensors.

    Returns:
        Threshold (potential) and whether the floor changed it.

    Example:
        >>> atgo_threshold(-2.0, 0.5, floor=0.05)
        Clamped(value=np.float64(0.05), clamped=np.True_)

    Source:
        DS-ATGO, arXiv 2511.13050, eq. 5 ("true") and theorem 1; the floor is ours.
    """
    wanted = fc * (mean + std)
    value = xp.clip(wanted, floor, None)
    return Clamped(value, value != wanted)


def atgo_estimated_threshold(decay: Any, threshold: Any, fc: Any = 1.0) -> Any:
    """Return the threshold from the decay alone, without any batch statistics.

    Args:
        decay: of the membrane, in [0, 1].
        threshold: initial threshold, potential.
        fc: factor of the paper, no unit.

    Returns:
        Threshold, potential.

    Example:
        >>> round(atgo_estimated_threshold(0.2, 0.5), 6)
        0.509902

    Source:
        DS-ATGO, arXiv 2511.13050, eq. 5 ("estimated"; not in the released code).
    """
    return fc * (1.0 + decay * decay) ** 0.5 * threshold


def running_threshold(running: Any, batch: Any, momentum: float = 0.1) -> Any:
    """Return the threshold for inference after one more batch; one per layer and timestep.

    Args:
        running: value so far, potential; 1 at the start in the released code.
        batch: threshold of this batch, potential.
        momentum: share of the new value, in (0, 1].

    Returns:
        New running threshold, potential.

    Example:
        >>> round(running_threshold(1.0, 0.5), 6)
        0.95

    Source:
        DS-ATGO, arXiv 2511.13050, eq. 6 with m = 0.1.
    """
    return (1.0 - momentum) * running + momentum * batch


def atgo_width(driver: Any, threshold: Any, k0: Any = 1.0, xp: Any = np) -> Any:
    """Return the width that follows the spread of u: k0 (1 + tanh(driver - initial threshold)).

    Args:
        driver: the standard deviation of u (released code) or the threshold in force (paper),
            potential. With the latter a shift of the mean changes the width as well.
        threshold: initial threshold, potential.
        k0: width where driver and threshold agree, potential.
        xp: numpy, or torch for tensors.

    Returns:
        Full width between 0 and 2 k0, potential; the peak is 1 / width. The rule has units:
        it is meant for potentials of the order of 1, see :func:`clamp_width`.

    Example:
        >>> float(atgo_width(0.5, 1.0).round(6)), float(atgo_width(1.0, 1.0))
        (0.537883, 1.0)

    Source:
        DS-ATGO, arXiv 2511.13050, eq. 7 (its two cases are one, tanh is odd); code 333ad21.
    """
    return k0 * (1.0 + xp.tanh(driver - threshold))
