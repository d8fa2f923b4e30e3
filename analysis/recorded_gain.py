"""How the gradient should change from layer to layer, predicted from a recorded forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .depth import layer_ratio
from .gradient_statistics import GradientStatistics, reset_kick
from .neuron_spec import NeuronSpec


class Gain(NamedTuple):
    """Predicted ratio of the norms of dL/du, lower layer over upper layer.

    Args:
        low: for a gradient that is new at every timestep, and inputs that keep their mean.
        high: for a gradient that is the same at every timestep, and inputs whose mean a batch
            norm takes out.
    """

    low: float
    high: float


def recorded_gain(lower: NeuronSpec, upper: NeuronSpec, below: Any, above: Any) -> Gain:
    """Predict how much of the gradient's norm one layer hands to the layer below it.

    The weights are not in the record, but what they do is: the variance that spikes of the lower
    layer make in the input of the upper one is, per unit, also the gradient's way back. So only
    the forward pass is used, and the gradients that were recorded can contradict it.

    Args:
        lower: dynamics of the layer below, plain numbers.
        upper: dynamics of the layer above.
        below: the record of the lower layer at one step, ``[T]`` each: rate, surrogate_mean
            (1 / potential) and surrogate_square (1 / potential^2).
        above: the record of the upper layer at the same step, ``[T]``: input_var (current^2).

    Returns:
        The gain; the gradient's correlation in time, and whether a batch norm takes the mean of
        the spikes out of the input, decide where in between it lies.

    Raises:
        ValueError: a layer that never or always fires, an input or surrogate that is not known.

    Example:
        >>> below = {"rate": [0.2] * 3, "surrogate_mean": [0.3] * 3, "surrogate_square": [0.1] * 3}
        >>> spec = NeuronSpec(decay=0.0, reset="none")
        >>> gain = recorded_gain(spec, spec, below, {"input_var": [1.6] * 3})
        >>> round(gain.low, 6), round(gain.high, 6)
        (0.894427, 1.0)

    Source:
        Backward by forward gain: sum of squared weights per output, for independent weights; layer
        ratio with memory: :func:`~spikescope.analysis.depth.layer_ratio`.
    """
    first, second, rate = (
        float(np.nanmean(np.asarray(below[name], dtype=float)))
        for name in ("surrogate_mean", "surrogate_square", "rate")
    )
    drive = float(np.nanmean(np.asarray(above["input_var"], dtype=float)))
    if not 0.0 < rate < 1.0:
        raise ValueError(f"a firing rate of {rate:g} carries no variance to the layer above")
    if not (second > 0.0 and drive > 0.0):
        raise ValueError("the surrogate of this layer, or the input of the next, is not known")
    # A sum of squared weights: what the input varies, over what the spikes do. Without a batch
    # norm the spikes' mean counts, too: each unit weighs it otherwise.
    squares = [float(upper.gain) ** 2 * drive / x for x in (rate, rate * (1.0 - rate))]
    timesteps = len(np.asarray(below["rate"]))
    stats = _statistics(lower, rate, first, second, timesteps)
    ends = ([1.0], np.ones(timesteps))
    low, high = (
        layer_ratio(stats, backward, c, timesteps=timesteps)
        for backward, c in zip(squares, ends, strict=True)
    )
    return Gain(float(np.sqrt(max(low, 0.0))), float(np.sqrt(max(high, 0.0))))


def leak_factor(spec: NeuronSpec, below: Any) -> float:
    """Return how much of the rms gradient a layer's leak and reset hand one timestep back.

    What the layers above add at each timestep comes on top: where the loss looks at every
    timestep, the recorded gradient falls more slowly than this.

    Args:
        spec: dynamics of the layer, plain numbers.
        below: its record at one step: rate, surrogate_mean and surrogate_square, ``[T]``.

    Returns:
        sqrt(E[A^2]), no unit.

    Example:
        >>> row = {"rate": [0.1], "surrogate_mean": [0.3], "surrogate_square": [0.1]}
        >>> leak_factor(NeuronSpec(decay=0.9, reset_gradient=False), row)
        0.9

    Source:
        A = d u[t+1] / d u[t], module ``gradient_statistics``.
    """
    rate, first, second = (
        float(np.nanmean(np.asarray(below[name], dtype=float)))
        for name in ("rate", "surrogate_mean", "surrogate_square")
    )
    square = _statistics(spec, rate, first, second, 1).mean_square_factor
    return float(np.sqrt(max(square, 0.0)))


def _statistics(
    spec: NeuronSpec, rate: float, first: float, second: float, timesteps: int
) -> GradientStatistics:
    """Return gradient statistics from moments; s of different timesteps counts as independent."""
    decay = float(spec.decay)
    # A spike cuts a hard reset's path; how u lies at the reset is not in these moments.
    kept = 1.0 - rate if spec.reset == "to_value" else 1.0
    kick = reset_kick(spec) if spec.reset == "subtract" and spec.reset_gradient else 0.0
    correlation = np.full(timesteps, first**2)
    correlation[0] = second
    return GradientStatistics(
        rate=rate,
        first=first,
        second=second,
        fourth=second**2,
        correlation=correlation,
        plateau=first**2,
        factor_mean=(decay * kept, -kick * first),
        factor_second=(decay**2 * kept, -2.0 * decay * kick * first, kick**2 * second),
        factor_weighted=(decay * kept, -kick * second / first if first > 0.0 else 0.0),
    )
