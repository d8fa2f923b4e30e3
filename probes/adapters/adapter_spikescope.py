"""Our own reference LIF layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec
from ...analysis.surrogate import Surrogate
from ..lif import LIF, spike
from .base import Adapter, Call, SpikingLayer, State
from .writing import Undo, put, put_number


class SpikescopeAdapter(Adapter):
    """Reads :class:`~spikescope.probes.lif.LIF`."""

    framework = "spikescope"

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a LIF layer of ours."""
        return isinstance(module, LIF)

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the layer's own record of its dynamics."""
        layer = cast(LIF, module)
        return SpikingLayer(name, layer, layer.spec, self.declared(layer))

    def live_spec(self, module: nn.Module, layer: SpikingLayer) -> NeuronSpec:
        """Return what the last call of the layer ran with; without a rule, what it is declared."""
        lif = cast(LIF, module)
        return layer.spec if lif.rule is None else lif.rule.in_force(lif)[0]

    def live_surrogate(self, module: nn.Module, layer: SpikingLayer) -> Surrogate | None:
        """Return the surrogate of the last call."""
        lif = cast(LIF, module)
        return layer.surrogate if lif.rule is None else lif.rule.in_force(lif)[1]

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
        surrogate = self.declared(module)
        return lambda z: spike(z, 0.0, surrogate)

    def declared(self, module: nn.Module) -> Surrogate:
        """Return the surrogate that the layer, or its rule, was given."""
        lif = cast(LIF, module)
        return lif.surrogate if lif.rule is None else lif.rule.described(lif)[1]

    def obstacle(self, module: nn.Module, field: str, value: Any) -> None:
        """Return None: our own layer takes every field."""

    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Set the layer's own attribute; ``start`` is its buffer."""
        module = cast(LIF, layer.module)
        if field == "threshold":
            return put_number(module, field, value)
        if field == "surrogate":
            return put(module, field, value)
        old = module.start
        return put(
            module, field, torch.as_tensor(value, dtype=old.dtype, device=old.device).clone()
        )
