"""Gradient from layer to layer: weight gains, correlation in time, verdicts over both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .gradient_statistics import GradientStatistics

Array = npt.NDArray[np.float64]
Verdict = Literal["fine", "warn", "fail"]
WARN_LOG = float(np.log(1e2))  # the gradient's variance changes by a factor 100 over the horizon
FAIL_LOG = float(np.log(1e6))


def feed_forward_gain(second: float) -> float:
    """Return the backward weight gain that keeps the gradient's variance through depth: 1/E[s^2].

    Takes the place of the 2 of He initialisation, for a layer without memory (decay 0 or T = 1).

    Args:
        second: E[s^2] of the surrogate derivative, 1 / potential squared.

    Returns:
        G_b = fan_out E[w^2], potential squared.

    Raises:
        ValueError: second not above 0.

    Example:
        >>> feed_forward_gain(0.25)
        4.0

    Source:
        Depth term of Condition IV, Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if not second > 0.0:
        raise ValueError(f"second={second!r} is not possible: E[s^2] must be above 0")
    return 1.0 / second


def weight_gains(
    weight: Any,
    *,
    stride: int | Sequence[int] = 1,
    dropout: float = 0.0,
    norm_scale: Any = 1.0,
    average_pool: int = 1,
    max_pool: int = 1,
    residual: bool = False,
    border: float = 1.0,
) -> tuple[float, float]:
    """Return forward and backward variance gain of a linear map and of what sits around it.

    Args:
        weight: dense [out, in], or convolution kernel [out, in, k, ...].
        stride: of the convolution, one number or one per dimension.
        dropout: probability that an input is dropped (kept inputs are scaled up).
        norm_scale: batch norm in evaluation mode, g / sigma, a number or one per output channel.
        average_pool: window of an average pool per dimension (two dimensions, stride = window).
        max_pool: window of a max pool per dimension.
        residual: whether an identity path is added.
        border: share of taps that do not fall on zero padding, :func:`padding_share`.

    Returns:
        ``(G_f, G_b)``: variance of an output per second moment of an input, and of an input's
        gradient per variance of an output's.

    Raises:
        ValueError: a weight that is no matrix or kernel, or numbers that are not possible.

    Example:
        >>> weight_gains(np.full((2, 4), 0.5))
        (1.0, 0.5)
        >>> [round(gain, 6) for gain in weight_gains(np.full((8, 4, 3, 3), 0.1), stride=2)]
        [0.36, 0.18]

    Source:
        Squared Frobenius norm per output and per input; pooling spreads k^2 gradients over k^2
        inputs (average) or passes one to one of k^2 inputs (max).
    """
    kernel = np.asarray(weight, dtype=float)
    if kernel.ndim < 2 or kernel.size == 0 or not np.isfinite(kernel).all():
        raise ValueError(f"weight of shape {kernel.shape} is no finite [out, in, ...] array")
    strides = np.broadcast_to(np.asarray(stride), (kernel.ndim - 2,))
    if np.any(strides < 1) or average_pool < 1 or max_pool < 1:
        raise ValueError(
            f"stride={stride!r}, average_pool={average_pool!r}, max_pool={max_pool!r} must be >= 1"
        )
    if not (0.0 <= dropout < 1.0 and 0.0 < border <= 1.0):
        raise ValueError(f"dropout={dropout!r} must be in [0, 1), border={border!r} in (0, 1]")
    scale = np.asarray(norm_scale, dtype=float).reshape(-1, *[1] * (kernel.ndim - 1))
    total = float(np.sum((kernel * scale) ** 2)) * border / (1.0 - dropout)
    forward = total / kernel.shape[0]
    pooling = average_pool**-4.0 * max_pool**-2.0
    backward = total / (kernel.shape[1] * float(np.prod(strides))) * pooling
    extra = 1.0 if residual else 0.0
    return forward + extra, backward + extra


def membrane_kernel(stats: GradientStatistics, lags: int) -> Array:
    """Return how much of a unit's gradient is left after k steps through its leak and reset.

    Args:
        stats: statistics of the layer.
        lags: largest k.

    Returns:
        Shape [lags + 1], 1 at k = 0: decay^k for a detached soft reset. Weighted with s at both
        ends where the statistics know it (a spike in between cuts a hard reset's path), else from
        independent factors A.
    """
    k = np.arange(lags + 1, dtype=float)
    if stats.carried is None:
        kernel = np.ones(lags + 1)
        kernel[1:] = stats.weighted_factor * stats.mean_factor ** (k[1:] - 1.0)
        return kernel
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.where(stats.correlation > 0.0, stats.carried / stats.correlation, 0.0)
    return _continued(known, lags)


def layer_ratio(
    stats: GradientStatistics,
    backward_gain: float,
    gradient_correlation: Any,
    *,
    timesteps: int | None = None,
) -> float:
    """Return how the gradient's variance changes from one layer to the layer below it.

    Args:
        stats: statistics of the lower layer: Q(k) of s, and its leak and reset factor.
        backward_gain: G_b of the weights between them, times the lower neuron's gain squared.
        gradient_correlation: autocorrelation of the upper layer's gradient over time at lags 0,
            1, ..., normalised to 1 at lag 0; taken as 0 beyond its end.
        timesteps: length T of the sequence; None for T much longer than the memory.

    Returns:
        D = sum_t E[delta_lower^2] / sum_t E[delta_upper^2].

    Raises:
        ValueError: a mean square factor of 1 or more without a finite T, or bad numbers.

    Example:
        >>> stats = GradientStatistics(0.1, 0.5, 0.25, 0.06, np.full(3, 0.25), 0.25,
        ...                            (0.5, 0.0), (0.25, 0.0, 0.0), (0.5, 0.0))
        >>> layer_ratio(stats, 1.0, [1.0])
        0.3333333333333333
        >>> layer_ratio(stats, 1.0, [1.0, 0.5])
        0.5

    Source:
        Derived from the update rule with the upper gradient correlated in time and independent of
        the lower layer; within 6 % of simulated stacks for decays 0, .5, .9 and a soft reset.
    """
    c = np.asarray(gradient_correlation, dtype=float)
    if c.ndim != 1 or c.size == 0 or abs(c[0] - 1.0) > 1e-9:
        raise ValueError("gradient_correlation must be a list of numbers that starts with 1")
    if not backward_gain >= 0.0:
        raise ValueError(f"backward_gain={backward_gain!r} is not possible: it must be >= 0")
    if timesteps is not None and timesteps < 1:
        raise ValueError(f"timesteps={timesteps!r} is not possible: it must be at least 1")
    lags = c.size - 1 if timesteps is None else min(c.size, timesteps) - 1
    overlap = membrane_kernel(stats, lags) * _extended(stats, lags) * c[: lags + 1]
    if timesteps is None:
        past = np.full(lags + 1, _long_run(stats))
    else:
        # A pair of times with the earlier one at m sends gradient back over m timesteps.
        reach = np.cumsum(_energy_left(stats, timesteps - 1))
        past = np.array([reach[: timesteps - k].sum() / timesteps for k in range(lags + 1)])
    total = past * overlap
    return float(backward_gain * (total[0] + 2.0 * total[1:].sum()))


def pass_correlation(stats: GradientStatistics, gradient_correlation: Any) -> Array:
    """Return the autocorrelation of the lower layer's gradient from that of the upper one.

    Args:
        stats: statistics of the lower layer.
        gradient_correlation: of the upper layer's gradient, lags 0, 1, ..., 1 at lag 0.

    Returns:
        The same for the lower layer, same shape; lags beyond its end count as 0.

    Example:
        >>> stats = GradientStatistics(0.1, 0.5, 0.25, 0.06, np.full(3, 0.25), 0.25,
        ...                            (0.5, 0.0), (0.25, 0.0, 0.0), (0.5, 0.0))
        >>> pass_correlation(stats, [1.0, 0.0, 0.0]).round(3).tolist()
        [1.0, 0.5, 0.25]

    Source:
        The filter of :func:`layer_ratio` at a lag other than 0; derived.
    """
    c = np.asarray(gradient_correlation, dtype=float)
    lags = c.size - 1
    source = _extended(stats, lags) * c
    kernel = membrane_kernel(stats, 2 * lags)
    k = np.arange(-lags, lags + 1)
    both = np.concatenate([source[:0:-1], source])
    tau = np.arange(lags + 1)
    out = kernel[np.abs(tau[:, None] - k[None, :])] @ both
    return np.asarray(out / out[0])


def stacked_layer_ratio(
    stats: GradientStatistics,
    backward_gain: float,
    layers: int,
    *,
    timesteps: int | None = None,
    lags: int = 200,
) -> float:
    """Return the mean (geometric) layer ratio through a stack of equal layers.

    The top layer's gradient is that of a loss at every timestep that is new at each, passed
    through the top layer's own leak.

    Args:
        stats: statistics of each layer.
        backward_gain: G_b between two layers, times the gain squared.
        layers: number of layers, at least 2.
        timesteps: length of the sequence; None for a long one.
        lags: largest lag kept.

    Returns:
        The geometric mean of D over the ``layers - 1`` steps down.

    Raises:
        ValueError: fewer than 2 layers, or a gradient that does not pass.

    Example:
        >>> stats = GradientStatistics(0.1, 0.5, 0.25, 0.06, np.full(3, 0.25), 0.25,
        ...                            (0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0))
        >>> stacked_layer_ratio(stats, 4.0, 5)
        1.0

    Source:
        :func:`layer_ratio` and :func:`pass_correlation` in turn.
    """
    if layers < 2:
        raise ValueError(f"layers={layers!r} has no layer below another: give at least 2")
    c = membrane_kernel(stats, lags if timesteps is None else min(lags, timesteps - 1))
    logs = []
    for _ in range(layers - 1):
        ratio = layer_ratio(stats, backward_gain, c, timesteps=timesteps)
        if ratio <= 0.0:
            raise ValueError(f"the layer ratio is {ratio:g}: no gradient passes (gain or s is 0)")
        logs.append(np.log(ratio))
        c = pass_correlation(stats, c)
    return float(np.exp(np.mean(logs)))


def time_verdict(variance_ratio: float, timesteps: int) -> Verdict:
    """Judge the growth of the gradient's variance over a horizon, from T |ln chi^2|.

    Args:
        variance_ratio: chi^2, change of the variance per timestep.
        timesteps: horizon T.

    Returns:
        ``"fine"`` below a factor of 100, ``"warn"`` below 1e6, else ``"fail"``.

    Raises:
        ValueError: a negative ratio, or no timestep.

    Example:
        >>> [time_verdict(ratio, 100) for ratio in (1.01, 1.1, 1.5)]
        ['fine', 'warn', 'fail']

    Source:
        Convention: 100 is what adaptive optimisers absorb, 1e6 is lost in float32 sums.
    """
    if not (variance_ratio >= 0.0 and timesteps >= 1):
        raise ValueError(
            f"variance_ratio={variance_ratio!r} must be >= 0 and timesteps={timesteps!r} >= 1"
        )
    change = np.inf if variance_ratio == 0.0 else timesteps * abs(np.log(variance_ratio))
    return "fine" if change < WARN_LOG else "warn" if change < FAIL_LOG else "fail"


def jointly_stable(time_growth: float, depth_growth: float) -> bool:
    """Return whether gradients through time and depth together stay bounded: R_t + R_d <= 1.

    The number of paths over a grid of timesteps and layers is binomial, so amplitudes add.

    Args:
        time_growth: R_t, growth of the amplitude per timestep within a layer.
        depth_growth: R_d, growth of the amplitude per layer at one timestep.

    Returns:
        True where the sum is at most 1, up to rounding.

    Raises:
        ValueError: a negative growth.

    Example:
        >>> jointly_stable(0.5, 0.5), jointly_stable(1.0, 1.0)
        (True, False)

    Source:
        Local Stability Condition, Herranz-Celotti and Rouat, arXiv 2308.12075.
    """
    if not (time_growth >= 0.0 and depth_growth >= 0.0):
        raise ValueError(f"growths {time_growth!r} and {depth_growth!r} must both be >= 0")
    return bool(time_growth + depth_growth <= 1.0 + 1e-9)


def _energy_left(stats: GradientStatistics, lags: int) -> Array:
    """Return what is left of the gradient's energy after k steps back, k = 0, ..., lags."""
    if stats.decline is None:
        return np.asarray(stats.mean_square_factor ** np.arange(lags + 1, dtype=float))
    return _continued(stats.decline, lags)


def _long_run(stats: GradientStatistics) -> float:
    """Return the sum of the energy left over all steps back."""
    known = np.array([1.0, stats.mean_square_factor]) if stats.decline is None else stats.decline
    last = _last_ratio(known)
    if last >= 1.0:
        raise ValueError(
            f"E[A^2]={stats.mean_square_factor:.6g} never forgets: the ratio needs a finite number "
            "of timesteps"
        )
    return float(known.sum() + known[-1] * last / (1.0 - last))


def _last_ratio(known: Array) -> float:
    """Return the factor per lag at a sequence's end, at most 1, from up to five lags of it."""
    span = min(5, known.size - 1)
    if span < 1 or known[-1] <= 0.0 or known[-1 - span] <= 0.0:
        return 0.0
    return float(min(1.0, (known[-1] / known[-1 - span]) ** (1.0 / span)))


def _continued(known: Array, lags: int) -> Array:
    """Return a sequence up to a lag, continued geometrically."""
    beyond = np.arange(1, lags + 2 - known.size, dtype=float)
    return np.concatenate([known[: lags + 1], known[-1] * _last_ratio(known) ** beyond])


def _extended(stats: GradientStatistics, lags: int) -> Array:
    """Return Q(0), ..., Q(lags); beyond the recorded lags it is the plateau."""
    known = stats.correlation[: lags + 1]
    return np.concatenate([known, np.full(lags + 1 - known.size, stats.plateau)])
