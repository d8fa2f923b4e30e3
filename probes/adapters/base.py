"""The protocol of an adapter: what one framework calls the parts of its spiking layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec
from ...analysis.surrogate import Surrogate


@dataclass(frozen=True)
class SpikingLayer:
    """One spiking layer of a live model, in our words.

    Args:
        name: its name in the model.
        module: the layer itself.
        spec: its dynamics, in plain numbers.
        surrogate: the derivative of its spike, None if unknown.
    """

    name: str
    module: nn.Module
    spec: NeuronSpec
    surrogate: Surrogate | None

    @property
    def scale(self) -> float:
        """Potential that one unit of the density's axis stands for: the threshold's size."""
        size = abs(float(self.spec.threshold))
        return size if size > 0.0 else 1.0


class Adapter(Protocol):
    """What a framework's spiking layers look like; one object per framework, without state."""

    framework: str

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a spiking layer of this framework."""
        ...

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the layer's dynamics and surrogate.

        Raises:
            ValueError: the layer cannot be read; the message is the reason shown to the user.
        """
        ...

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return a view ``[T, N, ...]`` of the layer's input or output; T is 1 for one timestep."""
        ...

    def fresh(self, module: nn.Module) -> bool:
        """Return whether the next call begins a new sequence."""
        ...

    def start(self, module: nn.Module, current: Tensor) -> Tensor:
        """Return the potential v before the next call, ``[N, ...]``, without a gradient.

        Args:
            module: the layer, before its call.
            current: its input, time first.
        """
        ...
