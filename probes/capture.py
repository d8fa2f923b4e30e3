"""What a spiking layer did, recomputed from its input, its spikes and two gradients.

The layer is never opened: the membrane potential is replayed from the input current and the
observed spikes, and the gradients inside follow from those at the layer's two ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec, replay
from ..analysis.surrogate import Surrogate


class Gradients(NamedTuple):
    """Gradients inside a layer, each ``[T, N, ...]``.

    Args:
        s: dL/ds from downstream layers only.
        s_total: dL/ds with the path through the reset.
        u: dL/du over all paths.
        residual: dL/du minus what the declared surrogate implies; None without a surrogate.
    """

    s: Tensor
    s_total: Tensor
    u: Tensor
    residual: Tensor | None


def membrane(
    spec: NeuronSpec,
    current: Tensor,
    spikes: Tensor,
    start: Tensor,
    filtered: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Recompute the pre-reset potential, fed with the observed spikes so that no error grows.

    Args:
        spec: the layer's dynamics.
        current: input current, ``[T, N, ...]``.
        spikes: observed spikes, 0 or 1, ``[T, N, ...]``.
        start: potential before the first timestep, ``[N, ...]``.
        filtered: current that a synaptic filter holds before it, ``[N, ...]``; None for none.

    Returns:
        ``(u, implied)``, both ``[T, N, ...]``: the potential, and the spikes that it implies.

    Example:
        >>> current = torch.tensor([[0.6], [0.8]])
        >>> u, implied = membrane(NeuronSpec(decay=0.5), current, torch.tensor([[0.0], [1.0]]),
        ...                       torch.zeros(1))
        >>> [round(value, 6) for value in u.flatten().tolist()], implied.flatten().tolist()
        ([0.6, 1.1], [0.0, 1.0])
    """
    held = 0.0 if filtered is None else filtered
    theta = spec.threshold if is_timed(spec.threshold, current) else None
    u, implied = replay(spec, current, spikes=spikes, start=start, threshold=theta, filtered=held)
    return u, implied


def is_timed(value: Any, over: Tensor) -> bool:
    """Return whether a value that broadcasts over ``[T, N, ...]`` has an axis of timesteps.

    Example:
        >>> is_timed(torch.ones(3, 1, 1), torch.zeros(3, 4, 5)), is_timed(1.0, torch.zeros(3, 4))
        (True, False)
    """
    return isinstance(value, Tensor) and value.ndim == over.ndim and len(value) == len(over)


def gradients(
    spec: NeuronSpec,
    surrogate: Surrogate | None,
    u: Tensor,
    spikes: Tensor,
    grad_input: Tensor,
    grad_spikes: Tensor,
    later: tuple[Tensor, Tensor] | None = None,
    handed: Tensor | None = None,
    passed: bool = False,
) -> Gradients:
    """Derive the gradients inside a layer from those at its input and its spikes.

    ``dL/du[t] = (dL/dI[t] - synapse_decay dL/dI[t+1]) / gain``; the total dL/ds adds the path
    through the reset, ``(dv/ds)[t] decay dL/du[t+1]``; and what the leak does not explain of dL/du
    must be the surrogate times the total dL/ds.

    Args:
        spec: the layer's dynamics.
        surrogate: its declared surrogate, if known.
        u: pre-reset potential, ``[T, N, ...]``.
        spikes: observed spikes, 0 or 1, ``[T, N, ...]``.
        grad_input: dL/dI, ``[T, N, ...]``.
        grad_spikes: dL/ds from downstream, ``[T, N, ...]``.
        later: ``(dL/dI, dL/du)`` of the timestep after the last, ``[N, ...]``; None at the end of
            the sequence.
        handed: gradient on the potential that the layer hands out next to its spikes, which a
            loss may read; ``[T, N, ...]``, None for none. It is u where the reset is late, else v.
        passed: whether the next timestep received that very potential, so that ``handed`` holds
            what flows back from there, too.

    Returns:
        The :class:`Gradients`.

    Example:
        >>> one = torch.ones(1, 1)
        >>> spec, sg = NeuronSpec(decay=0.5, gain=0.5), Surrogate("rectangular", peak=1.0)
        >>> inside = gradients(spec, sg, one, one, grad_input=one, grad_spikes=2 * one)
        >>> inside.u.item(), inside.residual.item()
        (2.0, 0.0)
    """
    none = torch.zeros_like(grad_input[0])
    next_input, next_u = (none, none) if later is None else later
    filtered = grad_input - spec.synapse_decay * _ahead(grad_input, next_input)
    grad_u = filtered / spec.gain
    carried = spec.decay * _ahead(grad_u, next_u)
    direct: Tensor | float = 0.0
    if handed is not None and spec.delayed_reset:
        direct = handed
        carried = torch.zeros_like(carried) if passed else carried
    elif handed is not None:
        carried = handed if passed else carried + handed
    total = grad_spikes
    if spec.reset_gradient and spec.reset != "none":
        total = grad_spikes + _reset_slope(spec, u) * carried
    residual = None
    if surrogate is not None:
        kept = carried * (1.0 - spikes) if spec.reset == "to_value" else carried
        residual = (
            grad_u - kept - direct - surrogate.derivative(u - spec.threshold, xp=torch) * total
        )
    return Gradients(grad_spikes, total, grad_u, residual)


def _ahead(values: Tensor, last: Tensor) -> Tensor:
    """Return the values of the next timestep, ``last`` after the final one."""
    return torch.cat([values[1:], last.unsqueeze(0)])


def _reset_slope(spec: NeuronSpec, u: Tensor) -> Any:
    """Return dv/ds at fixed u: what one more spike takes away from the carried potential."""
    if spec.reset == "to_value":
        return spec.reset_value - u
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    return -amount
