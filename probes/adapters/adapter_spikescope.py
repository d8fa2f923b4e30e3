"""Our own reference LIF layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ...analysis.surrogate import Surrogate
from ..lif import LIF, spike
from .base import Adapter, Call, SpikingLayer, State


class SpikescopeAdapter(Adapter):
    """Reads :class:`~spikescope.probes.lif.LIF`."""

    framework = "spikescope"

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a LIF layer of ours."""
        return isinstance(module, LIF)

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the layer's own record of its dynamics."""
        layer = cast(LIF, module)
        return SpikingLayer(name, layer, layer.spec, layer.surrogate)

    def state(self, module: nn.Module, call: Call) -> State:
        """Return the potential that the layer itself will begin with."""
        layer = cast(LIF, module)
        fresh = layer.step_mode == "multi" or layer.v is None
        joined = not fresh and layer.v is not None and layer.v.requires_grad
        return State(layer.carried(call.current[0]).detach(), None, fresh, joined)

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return the sequence as it is, and a single timestep with a time axis in front."""
        return tensor if cast(LIF, module).step_mode == "multi" else tensor.unsqueeze(0)

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the layer's spike with its threshold at 0."""
        surrogate = cast(LIF, module).surrogate
        return lambda z: spike(z, 0.0, surrogate)

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return the surrogate that the layer was given."""
        return cast(LIF, module).surrogate
