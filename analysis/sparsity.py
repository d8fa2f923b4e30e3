"""Gradual sparsity loss on firing rates, and the schedules of its weight."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Schedule = Literal["linear", "exponential", "step", "random"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "exponential", "step", "random")


def sparsity_weight(epoch: float, epochs: int, schedule: Schedule = "linear") -> float:
    """Return the weight c of the sparsity loss at an epoch.

    Args:
        epoch: epochs done, 0 to ``epochs``.
        epochs: length of the training.
        schedule: ``"linear"`` from 0 at 1/5 to 1 at 3/5 of the training; ``"exponential"``: from
            1/5 on, 1 - c falls to .6 of itself each epoch, until 3/4; ``"step"`` at 1/2;
            ``"random"``: the probability of weight 1 (else 0), 1 - exp(-5 epoch / epochs).

    Returns:
        c in [0, 1], no unit.

    Raises:
        ValueError: an unknown schedule, or an epoch outside the training.

    Example:
        >>> [round(sparsity_weight(e, 100), 2) for e in (10, 20, 40, 60, 90)]
        [0.0, 0.0, 0.5, 1.0, 1.0]

    Source:
        Released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r} is not one of {', '.join(map(repr, SCHEDULES))}")
    if not (epochs >= 1 and 0 <= epoch <= epochs):
        raise ValueError(f"epoch={epoch!r} is not within a training of epochs={epochs!r}")
    if schedule == "linear":
        return float(np.clip((epoch - epochs / 5) / (2 * epochs / 5), 0.0, 1.0))
    if schedule == "exponential":
        if epoch < epochs / 5:
            return 0.0
        last = int(np.ceil(3 * epochs / 4)) - 1
        updates = min(int(epoch), last) - int(np.ceil(epochs / 5)) + 1
        return float(1.0 - 0.6 ** max(updates, 0))
    if schedule == "step":
        return float(epoch >= epochs / 2)
    return float(-np.expm1(-5.0 * epoch / epochs))


def sparsity_loss(rates: Any, final_rate: float, weight: float = 1.0) -> Any:
    """Return the loss that pulls the population rates to a final rate.

    Args:
        rates: spikes per timestep averaged over batch and units, any shape, such as [T, layers];
            a live tensor is not checked, which would stop the device.
        final_rate: wanted rate, in [0, 1].
        weight: c of :func:`sparsity_weight`.

    Returns:
        Sum over layers and timesteps of c (rate - final_rate)^2, a float, or a tensor with its
        gradient. It acts on the population's rate, not on each unit's.

    Raises:
        ValueError: rates or a final rate outside [0, 1].

    Example:
        >>> round(sparsity_loss([[0.5, 0.1], [0.3, 0.1]], final_rate=0.1), 6)
        0.2

    Source:
        Released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    if not 0.0 <= final_rate <= 1.0:
        raise ValueError(f"final_rate={final_rate!r} is not possible: it must be in [0, 1]")
    if hasattr(rates, "new_empty"):
        return weight * ((rates - final_rate) ** 2).sum()
    values = np.asarray(rates, dtype=float)
    if values.size == 0 or not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError(f"rates={rates!r} are not possible: all must be in [0, 1]")
    return float(weight * np.sum((values - final_rate) ** 2))


def spike_count_loss(counts: Any, bound: float, strength: float = 0.01) -> Any:
    """Return the loss on spike counts above a bound (fluctuation-driven experiments).

    Args:
        counts: spikes per unit over the sequence, any shape.
        bound: count that is free, spikes.
        strength: weight of the loss.

    Returns:
        strength times the mean of relu(count - bound)^2, a float, or a tensor with its gradient.

    Example:
        >>> spike_count_loss([5.0, 9.0], bound=7.0)
        0.02

    Source:
        Upper bound loss of stork, Rossbroich, Gygax, Zenke 2022.
    """
    if hasattr(counts, "new_empty"):
        return strength * ((counts - bound).clip(min=0.0) ** 2).mean()
    over = np.maximum(np.asarray(counts, dtype=float) - bound, 0.0)
    return float(strength * np.mean(over**2))
