"""The update rule of a layer whose dynamics are plain numbers, in place on a CPU."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec, after_reset, fires


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


class Numbers:
    """Dynamics whose tensors hold one number each, as plain numbers on a CPU.

    The last ones are kept: as long as the numbers stay the same, so does the object.

    Example:
        >>> numbers, spec = Numbers(), NeuronSpec(decay=torch.tensor(0.5))
        >>> numbers.of(spec).decay, numbers.of(spec) is numbers.of(spec)
        (0.5, True)
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Any, ...], NeuronSpec] | None = None

    def of(self, spec: NeuronSpec) -> NeuronSpec:
        """Return the dynamics in plain numbers, or as they are where that is not the same."""
        values = [getattr(spec, name) for name in _FIELDS]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not tensors or any(t.ndim > 0 or t.device.type != "cpu" for t in tensors):
            return spec
        # (1 - decay) rest would be rounded elsewhere.
        if not (isinstance(spec.rest, int | float) and spec.rest == 0):
            return spec
        if not all(isinstance(value, _PLAIN) for value in values):
            return spec
        key = tuple(value.item() if isinstance(value, Tensor) else value for value in values)
        if self._last is None or self._last[0] != key:
            numbers: dict[str, Any] = dict(zip(_FIELDS, key, strict=True))
            self._last = key, replace(spec, **numbers)
        return self._last[1]


_FIELDS = tuple(field.name for field in fields(NeuronSpec))
_PLAIN = (Tensor, int, float, str, type(None))


def settled(spec: NeuronSpec, u: Tensor) -> Tensor:
    """Return the potential after the reset that a timestep leaves to the next one.

    Args:
        spec: the layer's dynamics.
        u: pre-reset potential of the timestep before, ``[N, ...]``; or before each of them,
            ``[T, N, ...]``.
    """
    v: Tensor = after_reset(replace(spec, delayed_reset=True), u, fires(spec, u))
    return v


def is_power_of_two(value: float) -> bool:
    """Return whether a product with a number is exact, so that it may be part of a sum."""
    return math.frexp(value)[0] == 0.5


class Update:
    """The update rule of a layer in plain numbers, in place; rounds as the layer does.

    Args:
        spec: the layer's dynamics, see :func:`is_plain`.
        dtype: what the layer computes in.

    Example:
        >>> update, u, v = Update(NeuronSpec(decay=0.5)), torch.zeros(1), torch.full((1,), 1.5)
        >>> update.charge(v, torch.full((1,), 0.5), u, torch.empty(1))
        >>> u.item(), update.release(u, torch.ones(1), v).item()
        (1.25, 0.25)
    """

    def __init__(self, spec: NeuronSpec, dtype: torch.dtype = torch.float32) -> None:
        self._spec = spec
        amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
        late = spec.delayed_reset and spec.reset == "subtract"
        self._amount = amount / spec.decay if late else amount
        # A tensor of one element costs less per call than a number, and rounds alike.
        self._decay = torch.tensor(spec.decay, dtype=dtype)
        self._gain = torch.tensor(spec.gain, dtype=dtype)
        self._rest = torch.tensor((1.0 - spec.decay) * spec.rest, dtype=dtype)
        self._decay_exact = spec.gain == 1 and is_power_of_two(spec.decay)
        self._gain_exact = is_power_of_two(spec.gain)

    def charge(self, v: Tensor, given: Tensor, out: Tensor, space: Tensor) -> None:
        """Put u, from the carried v and the input current, into ``out``; v may be ``space``."""
        spec = self._spec
        if self._decay_exact:
            torch.add(given, v, alpha=spec.decay, out=out)
        else:
            torch.mul(v, self._decay, out=out)
            if self._gain_exact:
                out.add_(given, alpha=spec.gain)
            else:
                out.add_(torch.mul(given, self._gain, out=space))
        if spec.rest != 0:
            out.add_(self._rest)

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
