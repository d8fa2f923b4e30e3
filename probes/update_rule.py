"""The update rule of a layer whose dynamics are plain numbers, in place on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec


def is_plain(spec: NeuronSpec, current: Tensor, spikes: Tensor, start: Tensor) -> bool:
    """Return whether a CPU can replay a layer in place: dynamics in plain numbers, one dtype."""
    numbers = (spec.decay, spec.gain, spec.threshold, spec.reset_value, spec.reset_amount or 0.0)
    return (
        all(isinstance(value, int | float) for value in (*numbers, spec.rest))
        and isinstance(spec.synapse_decay, int | float)
        and spec.synapse_decay == 0
        and current.device.type == "cpu"
        and current.dtype == spikes.dtype == start.dtype
        and current.shape == spikes.shape
    )


class Update:
    """The update rule of a layer in plain numbers, in place; rounds as the layer does.

    Args:
        spec: the layer's dynamics, see :func:`is_plain`.

    Example:
        >>> update, u, v = Update(NeuronSpec(decay=0.5)), torch.zeros(1), torch.full((1,), 1.5)
        >>> update.charge(v, torch.full((1,), 0.5), u, torch.empty(1))
        >>> u.item(), update.release(u, torch.ones(1), v).item()
        (1.25, 0.25)
    """

    def __init__(self, spec: NeuronSpec) -> None:
        self._spec = spec
        amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
        late = spec.delayed_reset and spec.reset == "subtract"
        self._amount = amount / spec.decay if late else amount

    def charge(self, v: Tensor, given: Tensor, out: Tensor, space: Tensor) -> None:
        """Put u, from the carried v and the input current, into ``out``; v may be ``space``."""
        spec = self._spec
        torch.mul(v, spec.decay, out=out)
        out.add_(given if spec.gain == 1 else torch.mul(given, spec.gain, out=space))
        if spec.rest != 0:
            out.add_((1.0 - spec.decay) * spec.rest)

    def release(self, u: Tensor, seen: Tensor, out: Tensor) -> Tensor:
        """Return v after the reset, in ``out`` or u itself."""
        spec = self._spec
        # A spike is exactly 0 or 1, so that a product with it rounds nothing.
        if spec.reset == "none":
            return u
        if spec.reset == "to_value":
            torch.addcmul(u, u, seen, value=-1.0, out=out)
            return out if spec.reset_value == 0 else out.add_(seen, alpha=spec.reset_value)
        return torch.sub(u, seen, alpha=self._amount, out=out)
