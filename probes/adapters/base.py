"""What an adapter is: what one framework calls the parts of its spiking layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, finfo, nn, no_grad

from ...analysis.neuron import NeuronSpec, after_reset, fires
from ...analysis.surrogate import Surrogate
from .measure import derivative
from .writing import SAME, Undo, device_of, has_derivative, same_number, same_slope

WRITABLE = ("start", "threshold", "surrogate")
"""What a remedy may want to write into a layer."""


class Call(NamedTuple):
    """One call of a layer, before it runs.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        current: the input current, time first, ``[T, N, ...]``, without gradient.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    current: Tensor


class State(NamedTuple):
    """What a layer carries into a call.

    Args:
        v: potential after the last reset, ``[N, ...]``, but see ``late``.
        current: filtered current of a synapse, ``[N, ...]``; None for none or an empty one.
        fresh: whether the call begins a new sequence.
        joined: whether the gradient flows through the state into the call before; not so where
            the user detached it.
        passed: whether it is the potential that the call before handed out.
        late: whether v is before the reset that the spikes which it implies bring.
    """

    v: Tensor
    current: Tensor | None
    fresh: bool
    joined: bool = True
    passed: bool = False
    late: bool = False

    def start(self, spec: NeuronSpec) -> Tensor:
        """Return the potential after the last reset, also where that is yet to come.

        Args:
            spec: the dynamics in force.
        """
        if not self.late:
            return self.v
        spec = replace(spec, delayed_reset=True)
        with no_grad():
            v: Tensor = after_reset(spec, self.v, fires(spec, self.v))
        return v


@dataclass(frozen=True)
class SpikingLayer:
    """One spiking layer of a live model, in our words.

    Args:
        name: its name in the model.
        module: the layer itself.
        spec: its dynamics when the probe was attached, in plain numbers or arrays.
        surrogate: the derivative of its spike as measured, else as declared; None if unknown.
    """

    name: str
    module: nn.Module
    spec: NeuronSpec
    surrogate: Surrogate | None

    @property
    def scale(self) -> float:
        """Potential that one unit of the density's axis stands for: the threshold's mean size."""
        size = float(np.abs(np.mean(np.asarray(self.spec.threshold, dtype=float))))
        return size if np.isfinite(size) and size > 0.0 else 1.0


class Adapter(ABC):
    """One framework; an instance holds no state.

    Nothing here imports the framework unless the user has: an adapter looks it up in
    ``sys.modules``. Hooks call ``state``, ``live_spec``, ``time_first``, ``spikes`` and
    ``with_spikes`` inside the user's training step: none of them may wait for the device, draw a
    random number or change the module.
    """

    framework: str
    tested: tuple[str, str] | None = None
    """First and last version that the contract was tested with; None where none applies."""

    @abstractmethod
    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a spiking layer of this framework."""

    @abstractmethod
    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the layer's dynamics and surrogate, once, when the probe is attached.

        Raises:
            ValueError: the layer has no closed form that replay could follow, or cannot be read;
                the message is the reason shown to the user.
        """

    @abstractmethod
    def state(self, module: nn.Module, call: Call) -> State:
        """Return what the layer carries into the call that is about to run."""

    def live_spec(self, module: nn.Module, layer: SpikingLayer) -> NeuronSpec:
        """Return the dynamics of the last call; learned values as tensors that broadcast over u.

        A threshold that changes from timestep to timestep is ``[T, 1, ...]``.
        """
        return layer.spec

    def live_surrogate(self, module: nn.Module, layer: SpikingLayer) -> Surrogate | None:
        """Return the surrogate of the last call, its numbers as tensors if they are learned."""
        return layer.surrogate

    def current(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> int | str:
        """Return the place of the input current among the arguments: index or keyword."""
        return 0 if args else next(iter(kwargs))

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return a view ``[T, N, ...]`` of an input or output; T is 1 for a single timestep."""
        return tensor

    def spikes(self, module: nn.Module, output: Any) -> Tensor:
        """Return the spikes among what the layer returns."""
        if not isinstance(output, Tensor):
            raise TypeError(f"the layer returned {type(output).__name__}, not a tensor of spikes")
        return output

    def with_spikes(self, module: nn.Module, output: Any, spikes: Tensor) -> Any:
        """Return the layer's output with another tensor in place of its spikes."""
        return spikes

    def potential(self, module: nn.Module, output: Any) -> int | None:
        """Return the place of the potential among what the layer returns; None if it keeps it.

        u where the reset is late, else v: a loss may read it, and the gradient then has a way into
        the layer that is not through its spikes.
        """
        return None

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Return the layer's spike as a function of u - threshold, to be measured by autograd."""
        return None

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return the surrogate that the layer's settings declare; None if it names none."""
        return None

    def can_write(self, module: nn.Module, field: str, value: Any = None) -> str | None:
        """Return why a field cannot be written, in words; None if it can.

        Args:
            module: the layer.
            field: one of :data:`WRITABLE`.
            value: what would be written; None asks about the field alone.
        """
        try:
            self._described(module, field)
        except ValueError as error:
            return str(error)
        return self.obstacle(module, field, value)

    def write(self, module: nn.Module, field: str, value: Any) -> Undo:
        """Write one field into a live layer, and check that the layer then has it.

        Args:
            module: the layer.
            field: one of :data:`WRITABLE`.
            value: start potential or threshold (a number, array or tensor, potential), or the
                surrogate. A threshold leaves the surrogate as it is around the new threshold.

        Returns:
            A function that puts back what was there: the same objects, the same bits.

        Raises:
            ValueError: it cannot be written, or the layer does not have it afterwards; the layer is
                as it was.
        """
        name = f"{field} of {type(module).__name__}"
        try:
            before = self._described(module, field)
        except ValueError as error:
            raise ValueError(f"{name} cannot be written: {error}") from None
        if (reason := self.obstacle(module, field, value)) is not None:
            raise ValueError(f"{name} cannot be written: {reason}")
        slope = self._slope(before)
        undo = self._put(before, field, value)
        try:
            layer = self.describe("", module)
            if field == "surrogate":
                held: Any = layer.surrogate
                function, where = self.spike_function(module), device_of(module)
                right = has_derivative(function, value, layer.scale, where)
            else:
                held = getattr(layer.spec, field)
                wanted = value.detach().cpu() if isinstance(value, Tensor) else value
                right = same_number(held, wanted, _rounding(module))
                if right and not same_slope(slope, self._slope(before)):
                    held, right = "another surrogate than before", False
        except BaseException:
            undo()
            raise
        if not right:
            undo()
            raise ValueError(
                f"{name} was written as {value!r}, but the layer then has {held!r}: taken back"
            )
        return undo

    def _described(self, module: nn.Module, field: str) -> SpikingLayer:
        if field not in WRITABLE:
            raise ValueError(f"{field!r} is not one of {', '.join(WRITABLE)}")
        return self.describe("", module)

    @abstractmethod
    def obstacle(self, module: nn.Module, field: str, value: Any) -> str | None:
        """Return why a layer that can be read cannot be written; None if it can."""

    @abstractmethod
    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Write a field that nothing stands against; ``layer`` is as it was described before."""

    def _slope(self, layer: SpikingLayer) -> Any:
        """Return the derivative of the layer's spike as it is now; None if unknown."""
        function, where = self.spike_function(layer.module), device_of(layer.module)
        return None if function is None else derivative(function, layer.scale, device=where)


def _rounding(module: nn.Module) -> float:
    """Return how far a number may be off, in the precision of the layer's tensors."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return max([SAME, *(finfo(t.dtype).eps for t in tensors)])
