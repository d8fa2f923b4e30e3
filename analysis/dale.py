"""Fluctuation-driven initialisation of weights with fixed signs (Dale's law)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .initialisation import Kernel


@dataclass(frozen=True)
class DaleRates:
    """Rate parameters (inverse means) of exponentially distributed weights under Dale's law.

    Args:
        excitatory: of feed-forward excitatory weights.
        inhibitory: of feed-forward inhibitory weights' sizes.
        recurrent_excitatory: of recurrent excitatory weights; None without recurrence.
        recurrent_inhibitory: of recurrent inhibitory weights' sizes.
    """

    excitatory: float
    inhibitory: float
    recurrent_excitatory: float | None
    recurrent_inhibitory: float | None


def dale_init(
    excitatory_fan_in: float,
    inhibitory_fan_in: float,
    rate: float,
    excitatory: Kernel,
    inhibitory: Kernel,
    *,
    threshold: float = 1.0,
    xi: float = 1.0,
    recurrent_fan_in: float = 0.0,
    share: float = 0.9,
) -> DaleRates:
    """Return exponential weights with fixed signs whose means cancel (Dale's law, mean u = 0).

    Args:
        excitatory_fan_in: excitatory inputs per unit.
        inhibitory_fan_in: inhibitory inputs per unit.
        rate: input rate of both, in the kernels' unit of time; Poisson.
        excitatory: response to an excitatory spike of weight 1.
        inhibitory: size of the response to an inhibitory spike of weight 1.
        threshold: firing threshold, potential.
        xi: threshold / standard deviation of u.
        recurrent_fan_in: recurrent inputs per unit, with the same E/I ratio and
            kernels; 0 for none.
        share: part of the variance that is feed-forward, if there is recurrence.

    Returns:
        Rate parameters; a weight has mean 1 / rate parameter.

    Raises:
        ValueError: numbers that are not possible.

    Example:
        >>> kernel = Kernel(1.0, 0.5)
        >>> dale_init(100, 25, 0.01, kernel, kernel).excitatory
        2.23606797749979

    Source:
        Rossbroich, Gygax, Zenke 2022, with its balance written out; with recurrence the
        feed-forward variance is scaled to its share.
    """
    sizes = (excitatory_fan_in, inhibitory_fan_in, rate, threshold, xi)
    if min(sizes) <= 0.0 or recurrent_fan_in < 0.0 or not 0.0 < share <= 1.0:
        raise ValueError(
            f"fan-ins, rate, threshold and xi {sizes} must all be above 0, "
            f"share={share!r} in (0, 1]"
        )
    balance = inhibitory_fan_in * inhibitory.area / (excitatory_fan_in * excitatory.area)
    power = rate * (
        excitatory_fan_in * excitatory.energy + inhibitory_fan_in * inhibitory.energy / balance**2
    )
    scale = xi * float(np.sqrt(2.0 * power)) / threshold
    if recurrent_fan_in == 0.0:
        return DaleRates(scale, balance * scale, None, None)
    if share == 1.0:
        raise ValueError("share=1.0 leaves no variance for the recurrent weights: take it below 1")
    scale = scale / float(np.sqrt(share))
    total = excitatory_fan_in + inhibitory_fan_in
    ratio = float(np.sqrt(share * recurrent_fan_in / ((1.0 - share) * total)))
    return DaleRates(scale, balance * scale, ratio * scale, ratio * balance * scale)
