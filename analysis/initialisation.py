"""Fluctuation-driven initialisation: weights for a wanted mean and spread of u before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from .neuron_spec import NeuronSpec

Noise = Literal["bernoulli", "poisson"]


@dataclass(frozen=True)
class Kernel:
    """What one input spike of weight 1 adds to u, summed over time.

    Args:
        area: sum of the response (K1, or epsilon-bar in seconds if rates are in Hz).
        energy: sum of the squared response (K2, or epsilon-hat).
    """

    area: float
    energy: float


@dataclass(frozen=True)
class WeightInit:
    """Weights of one connection, and the potential without reset that all connections give.

    Args:
        weight_mean: mean of one weight.
        weight_std: standard deviation of one weight.
        mean: mean of u.
        temporal_std: standard deviation of u over time; what the recipe fixes.
        quenched_std: standard deviation over units of the mean of u; comes on top.
        crossing: P(u > threshold) per timestep from the temporal part alone.
        crossing_pooled: the same with the quenched part.
    """

    weight_mean: float
    weight_std: float
    mean: float
    temporal_std: float
    quenched_std: float
    crossing: float
    crossing_pooled: float


def discrete_kernel(spec: NeuronSpec) -> Kernel:
    """Return the response of a discrete LIF (with or without synaptic filter) to one spike.

    Args:
        spec: scalar dynamics; the reset is left out. snnTorch Leaky has gain 1, SpikingJelly's
            LIF gain 1 - decay, a synaptic filter ``synapse_decay``.

    Returns:
        Sum and sum of squares over timesteps, potential per unit weight.

    Raises:
        ValueError: a decay of 1, whose response never ends.

    Example:
        >>> discrete_kernel(NeuronSpec(decay=0.5))
        Kernel(area=2.0, energy=1.3333333333333333)

    Source:
        Geometric sums; with a filter they are those of stork (Rossbroich, Gygax, Zenke 2022).
    """
    a, b, gain = float(spec.decay), float(spec.synapse_decay), float(spec.gain)
    if a >= 1.0 or b >= 1.0:
        raise ValueError(
            f"decay={a:g}, synapse_decay={b:g}: both must be below 1 to forget a spike"
        )
    return Kernel(
        gain / ((1.0 - a) * (1.0 - b)),
        gain**2 * (1.0 + a * b) / ((1.0 - a**2) * (1.0 - b**2) * (1.0 - a * b)),
    )


def continuous_kernel(membrane_tau: float, synapse_tau: float) -> Kernel:
    """Return the response of a continuous current-based LIF, for rates in Hz.

    Args:
        membrane_tau: membrane time constant, s.
        synapse_tau: synaptic time constant, s.

    Returns:
        epsilon-bar and epsilon-hat, s.

    Raises:
        ValueError: a time constant that is not above 0.

    Example:
        >>> continuous_kernel(0.02, 0.01)
        Kernel(area=0.01, energy=0.0016666666666666668)

    Source:
        Rossbroich, Gygax, Zenke 2022.
    """
    if not (membrane_tau > 0.0 and synapse_tau > 0.0):
        raise ValueError(
            f"membrane_tau={membrane_tau!r} and synapse_tau={synapse_tau!r} must be > 0"
        )
    return Kernel(synapse_tau, synapse_tau**2 / (2.0 * (synapse_tau + membrane_tau)))


def fluctuation_init(
    fan_in: float,
    rate: float,
    kernel: Kernel,
    *,
    threshold: float = 1.0,
    mean: float = 0.0,
    xi: float = 1.0,
    std: float | None = None,
    noise: Noise = "bernoulli",
    density: float = 1.0,
) -> WeightInit:
    """Return dense weights that put the threshold xi standard deviations above the mean of u.

    Args:
        fan_in: inputs per unit: n dense, :func:`convolution_fan_in` for a convolution.
        rate: input rate in the kernel's unit of time: spikes per timestep (discrete) or Hz.
        kernel: response to one spike.
        threshold: firing threshold, potential.
        mean: wanted mean of u.
        xi: (threshold - mean) / standard deviation of u over time; typically 1 to 3.
        std: that standard deviation itself, instead of xi (for mean = threshold).
        noise: ``"bernoulli"``: at most one spike per timestep; ``"poisson"``: variance = mean.
        density: share of weights that a sparse mask keeps.

    Returns:
        Mean and standard deviation of a weight, with both parts of the spread of u.

    Raises:
        ValueError: numbers that are not possible, or a mean so large that no spread is left.

    Example:
        >>> init = fluctuation_init(300, 0.0158, discrete_kernel(NeuronSpec(decay=0.9)))
        >>> round(init.weight_std, 4), round(init.quenched_std, 3)
        (0.2018, 0.552)

    Source:
        Rossbroich, Gygax, Zenke 2022; the quenched part and the Bernoulli factor are derived.
    """
    return fluctuation_init_recurrent(
        [fan_in], [], rate, kernel, threshold=threshold, mean=mean, xi=xi, std=std, noise=noise,
        density=density,
    )[0]  # fmt: skip


def fluctuation_init_recurrent(
    feedforward: Sequence[float],
    recurrent: Sequence[float],
    rate: float,
    kernel: Kernel,
    *,
    share: float = 0.9,
    threshold: float = 1.0,
    mean: float = 0.0,
    xi: float = 1.0,
    std: float | None = None,
    noise: Noise = "bernoulli",
    density: float = 1.0,
) -> list[WeightInit]:
    """Return weights for several connections onto one layer, recurrent ones included.

    Args:
        feedforward: fan-in of each feed-forward connection.
        recurrent: fan-in of each recurrent connection; may be empty.
        rate: input rate of all of them.
        kernel: response to one spike.
        share: part of the variance that is feed-forward; 1 without recurrent connections.
        threshold: firing threshold, potential.
        mean: wanted mean of u; one weight mean is common to all connections.
        xi: (threshold - mean) / standard deviation of u over time.
        std: that standard deviation itself, instead of xi.
        noise: as in :func:`fluctuation_init`.
        density: share of weights that a sparse mask keeps.

    Returns:
        One :class:`WeightInit` per connection, feed-forward first.

    Raises:
        ValueError: as :func:`fluctuation_init`.

    Example:
        >>> ff, rec = fluctuation_init_recurrent([100], [400], 0.01, Kernel(1.0, 0.1), share=0.8)
        >>> round(ff.weight_std, 4), round(rec.weight_std, 4), round(ff.temporal_std, 6)
        (2.8427, 0.7107, 1.0)

    Source:
        Rossbroich, Gygax, Zenke 2022.
    """
    fans = [float(n) * density for n in (*feedforward, *recurrent)]
    if not feedforward or min(fans) <= 0.0 or not 0.0 < density <= 1.0:
        raise ValueError(
            f"fan-ins {[*feedforward, *recurrent]} with density={density!r} are not possible: give "
            "at least one feed-forward fan-in above 0 and a density in (0, 1]"
        )
    if not rate > 0.0 or (noise == "bernoulli" and not rate < 1.0):
        raise ValueError(
            f"rate={rate!r} is not possible: above 0, and below 1 spike per timestep for "
            "noise='bernoulli' (rates in Hz need noise='poisson')"
        )
    if noise not in ("bernoulli", "poisson"):
        raise ValueError(f"noise={noise!r} is not one of 'bernoulli', 'poisson'")
    if std is None:
        if not (xi > 0.0 and threshold > mean):
            raise ValueError(
                f"xi={xi!r} must be above 0 and mean={mean!r} below threshold={threshold!r}; "
                "give std instead for a mean at the threshold"
            )
        std = (threshold - mean) / xi
    if not std > 0.0:
        raise ValueError(f"std={std!r} is not possible: it must be above 0")
    if recurrent and not 0.0 < share < 1.0:
        raise ValueError(f"share={share!r} is not possible: it must be in (0, 1)")
    part = share if recurrent else 1.0
    shares = [part / len(feedforward)] * len(feedforward)
    shares += [(1.0 - part) / len(recurrent)] * len(recurrent) if recurrent else []
    variance = rate * (1.0 - rate) if noise == "bernoulli" else rate
    weight_mean = mean / (sum(fans) * rate * kernel.area)
    squares = [
        s * std**2 / (n * variance * kernel.energy) for s, n in zip(shares, fans, strict=True)
    ]
    if min(squares) <= weight_mean**2:
        raise ValueError(
            f"mean={mean:g} leaves no spread: weights of mean {weight_mean:.3g} alone vary more "
            f"than std={std:.3g} allows; lower the mean or xi, or raise the fan-in or the rate"
        )
    stds = [float(np.sqrt(square - weight_mean**2)) for square in squares]
    quenched = rate * kernel.area * np.sqrt(sum(n * s**2 for n, s in zip(fans, stds, strict=True)))
    return [
        WeightInit(
            weight_mean=float(weight_mean),
            weight_std=s,
            mean=float(mean),
            temporal_std=float(std),
            quenched_std=float(quenched),
            crossing=float(stats.norm.sf((threshold - mean) / std)),
            crossing_pooled=float(stats.norm.sf((threshold - mean) / np.hypot(std, quenched))),
        )
        for s in stds
    ]


def potential_spread(
    fan_in: float,
    rate: float,
    kernel: Kernel,
    weight_mean: float,
    weight_std: float,
    *,
    noise: Noise = "bernoulli",
) -> tuple[float, float, float]:
    """Return what given weights do to u without reset.

    Args:
        fan_in: inputs per unit.
        rate: input rate, in the kernel's unit of time.
        kernel: response to one spike.
        weight_mean: mean of one weight.
        weight_std: standard deviation of one weight.
        noise: ``"bernoulli"`` or ``"poisson"`` input.

    Returns:
        ``(mean, temporal std, quenched std)`` of u, potential.

    Example:
        >>> potential_spread(100, 0.5, Kernel(1.0, 1.0), 0.0, 0.2)
        (0.0, 1.0, 1.0)

    Source:
        Variance of a random sum; the ratio quenched / temporal is p K1^2 / ((1-p) K2).
    """
    variance = rate * (1.0 - rate) if noise == "bernoulli" else rate
    temporal = np.sqrt(fan_in * (weight_mean**2 + weight_std**2) * variance * kernel.energy)
    quenched = np.sqrt(fan_in) * weight_std * rate * kernel.area
    return fan_in * weight_mean * rate * kernel.area, float(temporal), float(quenched)


def convolution_fan_in(
    in_channels: int,
    kernel_size: Sequence[int],
    *,
    input_size: Sequence[int] | None = None,
    padding: int = 0,
    stride: int = 1,
) -> float:
    """Return the fan-in of a convolution, less the taps that fall on zero padding.

    Args:
        in_channels: input channels (per group).
        kernel_size: size of the kernel per dimension.
        input_size: size of the input per dimension; needed to correct for the padding.
        padding: zeros on each side.
        stride: step of the kernel.

    Returns:
        Mean number of inputs per output unit.

    Example:
        >>> convolution_fan_in(1, (3, 3), input_size=(8, 8), padding=1) / 9
        0.8402777777777777
        >>> convolution_fan_in(16, (3, 3))
        144.0

    Source:
        Rossbroich, Gygax, Zenke 2022 (fan-in); the padding correction is counted here.
    """
    return (
        in_channels
        * float(np.prod(kernel_size))
        * (1.0 if input_size is None else padding_share(kernel_size, input_size, padding, stride))
    )


def padding_share(
    kernel_size: Sequence[int], input_size: Sequence[int], padding: int, stride: int = 1
) -> float:
    """Return the share of a convolution's taps that fall on the input and not on zero padding.

    Args:
        kernel_size: taps per dimension.
        input_size: inputs per dimension.
        padding: zeros on each side, in every dimension.
        stride: step of the kernel, in every dimension.

    Returns:
        The share, in (0, 1]; 1 without padding.

    Raises:
        ValueError: sizes that do not fit each other.

    Example:
        >>> round(padding_share((3, 3), (8, 8), padding=1), 4)
        0.8403

    Source:
        Counted tap by tap, per dimension.
    """
    if len(kernel_size) != len(input_size):
        raise ValueError(
            f"kernel_size={kernel_size!r} and input_size={input_size!r} differ in length"
        )
    if padding < 0 or stride < 1:
        raise ValueError(f"padding={padding!r} must be >= 0 and stride={stride!r} >= 1")
    share = 1.0
    for k, size in zip(kernel_size, input_size, strict=True):
        if not 0 < k <= size + 2 * padding:
            raise ValueError(f"kernel {k} does not fit into {size} inputs with padding {padding}")
        starts = np.arange(0, size + 2 * padding - k + 1, stride) - padding
        taps = starts[:, None] + np.arange(k)
        share *= float(((taps >= 0) & (taps < size)).mean())
    return share
