"""DECOLLE: local learning without gradient in time; what of the initialisation theory remains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from .initialisation import Kernel


@dataclass(frozen=True)
class DecollePotential:
    """Potential of a DECOLLE layer at initialisation.

    Args:
        mean: mean of U with the bias.
        temporal_std: standard deviation over time, reset left out.
        quenched_std: standard deviation over units of the mean of U.
        bias: offset that gives the target rate.
    """

    mean: float
    temporal_std: float
    quenched_std: float
    bias: float


def decolle_kernel(membrane_decay: float, synapse_decay: float) -> Kernel:
    """Return sum and sum of squares of DECOLLE's doubly filtered input.

    Args:
        membrane_decay: alpha, in [0, 1).
        synapse_decay: beta, in [0, 1).

    Returns:
        Sum and sum of squares over timesteps, potential per unit weight.

    Raises:
        ValueError: a decay outside [0, 1).

    Example:
        >>> kernel = decolle_kernel(0.97, 0.92)
        >>> kernel.area, round(kernel.energy, 4)
        (1.0, 0.0112)

    Source:
        Layer of Kaiser, Mostafa, Neftci 2020 with unit-area filters; geometric sums.
    """
    a, b = membrane_decay, synapse_decay
    if not (0.0 <= a < 1.0 and 0.0 <= b < 1.0):
        raise ValueError(f"membrane_decay={a!r} and synapse_decay={b!r} must both be in [0, 1)")
    return Kernel(1.0, (1 - a) * (1 - b) * (1 + a * b) / ((1 + a) * (1 + b) * (1 - a * b)))


def decolle_bias(
    fan_in: int,
    input_rate: float,
    weight_mean: float,
    weight_std: float,
    target_rate: float,
    *,
    membrane_decay: float = 0.97,
    synapse_decay: float = 0.92,
    reset_weight: float = 1.0,
) -> DecollePotential:
    """Return the bias with which a DECOLLE layer (threshold 0) fires at a target rate.

    Args:
        fan_in: inputs per unit.
        input_rate: spikes per timestep of one input, in (0, 1).
        weight_mean: mean of one weight.
        weight_std: standard deviation of one weight.
        target_rate: wanted spikes per timestep, in (0, 1); 1/2 for Condition I.
        membrane_decay: alpha.
        synapse_decay: beta.
        reset_weight: size of the filtered reset.

    Returns:
        Bias, mean and both parts of the spread of U.

    Raises:
        ValueError: rates outside (0, 1), or weights without any spread.

    Example:
        >>> round(decolle_bias(100, 0.1, 0.0, 0.1, 0.5).bias, 6)
        0.5

    Source:
        Condition I applied to DECOLLE's layer; U normal, the reset counted by its mean.
    """
    for name, value in (("input_rate", input_rate), ("target_rate", target_rate)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name}={value!r} is not possible: it must be in (0, 1)")
    kernel = decolle_kernel(membrane_decay, synapse_decay)
    power = fan_in * (weight_mean**2 + weight_std**2)
    temporal = float(np.sqrt(power * input_rate * (1.0 - input_rate) * kernel.energy))
    quenched = float(np.sqrt(fan_in) * weight_std * input_rate)
    spread = float(np.hypot(temporal, quenched))
    if not spread > 0.0:
        raise ValueError(f"weights of std {weight_std!r} give U no spread: the rate is 0 or 1")
    mean = spread * float(special.ndtri(target_rate))
    bias = reset_weight * target_rate + mean - fan_in * weight_mean * input_rate
    return DecollePotential(mean, temporal, quenched, bias)


def decolle_gradient_variance(
    second: float,
    error_variance: float,
    input_rate: float,
    *,
    membrane_decay: float = 0.97,
    synapse_decay: float = 0.92,
) -> float:
    """Return the variance of a weight's gradient in DECOLLE: E[s^2] Var[error] E[P^2].

    Args:
        second: E[s^2] of the surrogate derivative.
        error_variance: variance of the local error that arrives at a unit.
        input_rate: spikes per timestep of one input.
        membrane_decay: alpha.
        synapse_decay: beta.

    Returns:
        The variance, in the square of the error's unit.

    Raises:
        ValueError: a decay outside [0, 1).

    Example:
        >>> round(decolle_gradient_variance(0.25, 1.0, 0.1), 6)
        0.002751

    Source:
        Product of independent factors of the local rule; there is no gradient in time, so
        Conditions III and IV do not apply.
    """
    kernel = decolle_kernel(membrane_decay, synapse_decay)
    trace = input_rate * (1.0 - input_rate) * kernel.energy + input_rate**2
    return second * error_variance * trace
