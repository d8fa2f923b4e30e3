"""SpikingJelly's neurons, from the layout of 0.0.0.0.14 to that of 2.0.0."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec
from ...analysis.surrogate import Surrogate
from ...analysis.surrogate_frameworks import FRAMEWORK_SURROGATES
from . import produced
from .base import Adapter, Call, SpikingLayer, State
from .classes import check_unchanged, framework_class
from .firing import fires_at_threshold
from .measure import surrogate_of
from .writing import (
    Undo,
    described_start,
    device_of,
    has_derivative,
    put,
    put_number,
    put_start,
    start_for,
)
from .written import WrittenSpike, natives

_PACKAGES = ("spikingjelly.activation_based.neuron", "spikingjelly.activation_based.rnn")

_SETTINGS: dict[str, tuple[str, ...]] = {
    "IFNode": (),
    "HalfThresholdIFNode": (),
    "SimpleIFNode": (),
    "LIFNode": ("tau",),
    "SimpleLIFNode": ("tau",),
    "ParametricLIFNode": ("w",),
    "CUBALIFNode": ("v_decay", "c_decay"),
}
"""The neurons that replay follows, and the attributes that their leak depends on."""

_DYNAMICS = (
    "forward",
    "single_step_forward",
    "multi_step_forward",
    "neuronal_charge",
    "neuronal_fire",
    "neuronal_reset",
    "single_step_functional_forward",
    "multi_step_functional_forward",
)

_REASONS = {
    "QIFNode": "its potential grows with the square of itself",
    "EIFNode": "its potential grows exponentially with itself",
    "IzhikevichNode": "an adaptation current feeds back into its potential",
    "LIAFNode": "it emits an activation of the potential, not its spikes",
    "KLIFNode": "its potential passes a learned gain and a rectifier",
    "GatedLIFNode": "its leak, reset and input pass learned gates",
    "ComplementaryLIFNode": "a second memory takes part in its reset",
    "ILIFNode": "it emits several spikes at once",
    "TernaryIFNode": "it emits spikes of both signs",
    "TernaryLIFNode": "it emits spikes of both signs",
    "PSN": "its potential is a learned mix of all timesteps",
    "MaskedPSN": "its potential is a learned mix of earlier timesteps",
    "SlidingPSN": "its potential is a learned mix of earlier timesteps",
}


class SpikingJellyAdapter(Adapter):
    """Reads the neurons of :data:`_SETTINGS` by replay; names the reason for every other one."""

    framework = "spikingjelly"
    tested = ("0.0.0.0.14", "2.0.0")

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a spiking neuron of SpikingJelly."""
        known = framework_class(module, _PACKAGES)
        return known is not None and "NonSpiking" not in known.__name__

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the dynamics of an IF, LIF or parametric LIF layer, and its measured surrogate."""
        known = framework_class(module, _PACKAGES)
        assert known is not None
        if known.__name__ not in _SETTINGS:
            why = _REASONS.get(known.__name__, f"it is none of {', '.join(_SETTINGS)}")
            raise ValueError(f"replay cannot follow {known.__name__}: {why}")
        check_unchanged(module, known, _DYNAMICS)
        spec = _spec(module, _plain)
        node: Any = module
        function = node.surrogate_function
        where = _device(function)
        scale = float(np.mean(np.abs(spec.threshold))) or 1.0
        spec = replace(
            spec,
            fires_at_threshold=fires_at_threshold(function, scale, where),
            start=described_start(module, _number(node._memories_rv["v"])),
        )
        surrogate = surrogate_of(function, self.declared(module), scale, where)
        return SpikingLayer(name, module, spec, surrogate)

    def live_spec(self, module: nn.Module, layer: SpikingLayer) -> NeuronSpec:
        """Return the dynamics as the layer's attributes stand now."""
        spec, fires = _spec(module, Tensor.detach), layer.spec.fires_at_threshold
        return spec if spec.fires_at_threshold == fires else replace(spec, fires_at_threshold=fires)

    def state(self, module: nn.Module, call: Call) -> State:
        """Return ``v``, a number until the first use, as the layer itself will expand it."""
        node: Any = module
        v, first, current = node.v, call.current[0], None
        own = produced.is_own(module, v)
        joined = own and v.requires_grad
        if hasattr(node, "materialize_states"):
            # Here a v of another shape than the input is thrown away for a new one.
            own = own and v.shape == first.shape
            joined = joined and own
            inputs = (call.current if node.step_mode == "m" else first,)
            v, *more = node.materialize_states(inputs, tuple(node.memories()), node.step_mode)
            current = more[0].detach() if _kind(node) == "CUBALIFNode" else None
        if not isinstance(v, Tensor):
            v = torch.full_like(first, v)
        return State(v.detach(), current, not own, joined)

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return the sequence of a multi-step layer as it is, a timestep with an axis in front."""
        return tensor if module.step_mode == "m" else tensor.unsqueeze(0)

    def spikes(self, module: nn.Module, output: Any) -> Tensor:
        """Return the output, after a note of the state that the layer leaves."""
        produced.remember(module, module.v)
        return super().spikes(module, output)

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Return the child module that turns u - threshold into spikes."""
        function = getattr(module, "surrogate_function", None)
        return function if callable(function) else None

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return what the surrogate's class and parameters stand for."""
        function: Any = getattr(module, "surrogate_function", None)
        if isinstance(function, WrittenSpike):
            return function.surrogate
        row = FRAMEWORK_SURROGATES.get((self.framework, type(function).__name__))
        if row is None or not all(hasattr(function, name) for name in row.defaults):
            return None
        return row.build(**{name: float(getattr(function, name)) for name in row.defaults})

    def obstacle(self, module: nn.Module, field: str, value: Any) -> str | None:
        """Return what stands against a start potential, or a surrogate of ours."""
        node: Any = module
        if field == "start" and isinstance(node._memories_rv["v"], Tensor):
            return "set_reset_value gave it a tensor to begin with, which would win"
        backend = getattr(node, "backend", "torch")
        if field == "surrogate" and value is not None and backend != "torch":
            if next(_natives(value), None) is None:
                return (
                    f"backend={backend!r} takes only SpikingJelly's own surrogates, which cannot "
                    f"be {value}: set backend='torch'"
                )
        return None

    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Set the attribute; a surrogate becomes SpikingJelly's own where it has that one."""
        module: Any = layer.module
        if field == "threshold":
            return put_number(module, "v_threshold", value)
        if field == "start":
            return put_start(module, value, begin)
        # Always another object: by default all layers share one.
        scale, where = layer.scale, device_of(module)
        own = (f for f in _natives(value) if has_derivative(f, value, scale, where))
        old = module.surrogate_function
        new = next(own, None) or WrittenSpike.in_place_of(old, value, scale, where)
        return put(module, "surrogate_function", new.train(old.training))


def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Set v to the layer's start potential where it was reset; a hook before the call."""
    node: Any = module
    x = (args[0] if args else next(iter(kwargs.values()))).detach()
    now = x[0] if node.step_mode == "m" else x
    # A tensor of another shape is thrown away by the releases that have materialize_states.
    kept = isinstance(node.v, Tensor)
    if not kept or (hasattr(node, "materialize_states") and node.v.shape != now.shape):
        node.v = start_for(module, now)


def _natives(surrogate: Surrogate) -> Any:
    """Return SpikingJelly's own modules for a surrogate."""
    family: Any = sys.modules["spikingjelly.activation_based.surrogate"]
    return natives("spikingjelly", surrogate, lambda name, p: getattr(family, name)(**p))


def _number(value: Any) -> Any:
    return _plain(value) if isinstance(value, Tensor) else value


def _kind(module: nn.Module) -> str:
    known = framework_class(module, _PACKAGES)
    assert known is not None
    return known.__name__


def _device(function: object) -> torch.device:
    """Return where a surrogate's own parameters lie, if it has any."""
    tensor = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    return torch.device("cpu") if tensor is None else tensor.device


def _plain(value: Tensor) -> Any:
    """Return a tensor as a number or array."""
    numbers = value.detach().to("cpu", torch.float64).numpy()
    return float(numbers.item()) if numbers.size == 1 else numbers


def _spec(node: Any, convert: Callable[[Tensor], Any]) -> NeuronSpec:
    """Return the dynamics, with every tensor among the settings converted."""
    kind = _kind(node)
    flags = (kind, bool(getattr(node, "decay_input", False)), bool(node.detach_reset))
    settings = [getattr(node, name) for name in ("v_threshold", "v_reset", *_SETTINGS[kind])]
    if any(isinstance(value, Tensor) for value in settings):
        settings = [convert(value) if isinstance(value, Tensor) else value for value in settings]
        return _build(*flags, *settings)
    return _build_once(*flags, *settings)


def _build(
    kind: str, decay_input: bool, detach_reset: bool, threshold: Any, v_reset: Any, *own: Any
) -> NeuronSpec:
    others = {"threshold": threshold, "reset_gradient": not detach_reset}
    if v_reset is not None:  # None asks for the soft reset
        others |= {"reset": "to_value", "reset_value": v_reset}
    if kind == "CUBALIFNode":
        return NeuronSpec(decay=own[0], synapse_decay=own[1], **others)
    if not own:
        return NeuronSpec(decay=1.0, **others)
    others["rest"] = 0.0 if v_reset is None else v_reset
    build = NeuronSpec.from_plif if kind == "ParametricLIFNode" else NeuronSpec.from_tau
    return build(own[0], decay_input=decay_input, **others)


_build_once = functools.lru_cache(maxsize=1024)(_build)
"""For plain numbers: a layer's spec is asked for at every call and hardly ever changes."""
