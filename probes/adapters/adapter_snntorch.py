"""snnTorch's neurons, 0.9.4 to 1.0.0: one call per timestep, the reset a timestep late."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec, Reset, fires
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
    has_derivative,
    put,
    put_number,
    put_start,
    start_for,
)
from .written import WrittenSpike, natives

_PACKAGES = ("snntorch._neurons",)
_FOLLOWED = ("Leaky", "Lapicque", "Synaptic", "StateLeaky")

_RESETS: dict[str, Reset] = {
    "_base_sub": "subtract",
    "_base_zero": "to_value",
    "_base_int": "none",
}
"""The update function, chosen once when the layer is built, decides on the reset."""

_NAMES = {"subtract": "subtract", "zero": "to_value", "none": "none"}

_DYNAMICS = ("forward", "fire", "mem_reset", "_base_state_function", *_RESETS)

_REASONS = {
    "RLeaky": "its spikes return to it through weights of its own",
    "RSynaptic": "its spikes return to it through weights of its own",
    "Alpha": "its potential is the difference of two filtered currents",
    "SLSTM": "it is an LSTM cell, whose gates are no leak",
    "SConv2dLSTM": "it is an LSTM cell, whose gates are no leak",
    "DeltaLeaky": "it fires on a change of the potential, not on the potential",
    "LeakyParallel": "it holds its input weights itself and cuts the potential off below 0",
    "LeakyKernel": "it holds its input weights itself and cuts the potential off below 0",
    "LinearLeaky": "it holds its input weights itself",
    "AssociativeLeaky": "it holds input, key and value weights itself",
}

_SMALLEST = 1e-30
"""A late soft reset is carried as threshold / decay; a decay of 0 is taken as this."""

_at_threshold: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether u = threshold fires, as measured when a layer was described."""


class SnnTorchAdapter(Adapter):
    """Reads the neurons of :data:`_FOLLOWED` by replay; names the reason for every other one."""

    framework = "snntorch"
    tested = ("0.9.4", "1.0.0")

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a neuron of snnTorch."""
        return framework_class(module, _PACKAGES) is not None

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the dynamics that the layer's tensors tell, and its surrogate as measured."""
        layer: Any = module
        _check(layer)
        where, function = layer.threshold.device, layer.spike_grad
        scale = float(layer.threshold.detach().double().mean().abs()) or 1.0
        _at_threshold[module] = fires_at_threshold(function, scale, where)
        spec = _spec(layer, _number)
        if np.any(np.asarray(spec.spike_height) == 0):
            raise ValueError(
                f"its graded_spikes_factor {spec.spike_height!r} turns spikes into zeros: they "
                "cannot be read off its output"
            )
        surrogate = surrogate_of(function, self.declared(module), scale, where)
        spec = replace(spec, start=described_start(module, spec.start))
        return SpikingLayer(name, module, spec, surrogate)

    def live_spec(self, module: nn.Module, layer: SpikingLayer | None = None) -> NeuronSpec:
        """Return the dynamics with the layer's tensors, whose values nobody looks at."""
        return _spec(module, lambda value: value)

    def state(self, module: nn.Module, call: Call) -> State:
        """Return the state that the caller passes, else the layer's own, less the late reset."""
        first, kind = call.current[0], _kind(module)
        if kind == "StateLeaky":
            return State(torch.zeros_like(first), None, fresh=True, joined=False)
        mem = _incoming(module, call, "mem")
        own = produced.is_own(module, mem) and mem.shape == first.shape
        joined, passed = own and mem.requires_grad, own and mem is not module.mem
        mem = _shaped(mem, first)
        current = _shaped(_incoming(module, call, "syn"), first) if kind == "Synaptic" else None
        # The next timestep begins by resetting what is above the threshold now. That is so without
        # reset_delay, too: there it is what a spike left above it.
        return State(mem, current, not own, joined, passed, late=True)

    def current(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> int | str:
        """Return the place of ``input_``, which stands before the states."""
        return 0 if args else "input_"

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return the timestep with a time axis in front, the sequence of a StateLeaky as it is."""
        return tensor if _kind(module) == "StateLeaky" else tensor.unsqueeze(0)

    def spikes(self, module: nn.Module, output: Any) -> Tensor:
        """Return the first of what the layer returns, after a note of the state it leaves."""
        produced.remember(module, getattr(module, "mem", None))
        return super().spikes(module, output[0] if isinstance(output, tuple) else output)

    def with_spikes(self, module: nn.Module, output: Any, spikes: Tensor) -> Any:
        """Return the spikes with the states that came with them."""
        return (spikes, *output[1:]) if isinstance(output, tuple) else spikes

    def potential(self, module: nn.Module, output: Any) -> int | None:
        """Return the last place: ``mem`` stands behind the spikes and the synaptic current."""
        return len(output) - 1 if isinstance(output, tuple) else None

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Return the layer's ``spike_grad``."""
        function = getattr(module, "spike_grad", None)
        return function if callable(function) else None

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return what the function that made ``spike_grad`` and the values it closed over say."""
        function: Any = getattr(module, "spike_grad", None)
        if isinstance(function, WrittenSpike):
            return function.surrogate
        if getattr(function, "__module__", None) != "snntorch.surrogate":
            return None
        if not hasattr(function, "__code__"):
            return None
        row = FRAMEWORK_SURROGATES.get((self.framework, function.__qualname__.split(".")[0]))
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        values = dict(zip(function.__code__.co_freevars, cells, strict=True))
        if row is None or not row.defaults.keys() <= values.keys():
            return None
        return row.build(**{name: float(values[name]) for name in row.defaults})

    def obstacle(self, module: nn.Module, field: str, value: Any) -> str | None:
        """Return what stands against a start potential or a learned threshold."""
        layer: Any = module
        if field == "threshold" and isinstance(layer.threshold, nn.Parameter):
            if not layer.threshold.requires_grad:
                return "it is a frozen parameter (requires_grad is False)"
        if field != "start":
            return None
        if _kind(module) == "StateLeaky":
            return "its potential is a filter of the input alone and has no state to begin with"
        if value is not None and _reset(layer) != "none":
            spec = _spec(layer, _number)
            start = _number(value.detach()) if isinstance(value, Tensor) else value
            if np.any(fires(spec, start)):
                return (
                    f"a state of {start!r}, above the threshold {spec.threshold!r}, is reset by "
                    "snnTorch before the first timestep: take one below"
                )
        return None

    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Set the attribute; a surrogate becomes snnTorch's own where it has that one."""
        module: Any = layer.module
        if field == "threshold":
            return put_number(module, field, value)
        if field == "start":
            return put_start(module, value, begin, leave)
        where, scale = module.threshold.device, layer.scale
        family: Any = sys.modules["snntorch.surrogate"]
        own = natives("snntorch", value, lambda name, p: getattr(family, name)(**p))
        # Not the sigmoid of 1.0.0, say, which is NaN far below the threshold.
        exact = (function for function in own if has_derivative(function, value, scale, where))
        new = next(exact, None) or WrittenSpike.in_place_of(module.spike_grad, value, scale, where)
        return put(module, "spike_grad", new)


def begin(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Set ``mem`` to the layer's start potential where a sequence begins; a hook before the call.

    A sequence begins with a state of zeros that the layer did not leave itself. Any other state
    that the caller passes is his own.
    """
    layer: Any = module
    now = (args[0] if args else kwargs["input_"]).detach()
    place = _place(module, "mem")
    given = args[place] if len(args) > place else kwargs.get("mem")
    mem = layer.mem if given is None else given
    start = start_for(module, now)
    if mem.shape == now.shape:
        # Inside compiled code, which knows no identity, zeros alone are the sign.
        if not torch.compiler.is_compiling() and produced.is_own(module, mem):
            return None
        start = torch.where((mem == 0).all(), start.to(mem.dtype), mem)
    if given is None:
        layer.mem = start
        return None
    if len(args) > place:
        return (*args[:place], start, *args[place + 1 :]), kwargs
    return args, {**kwargs, "mem": start}


def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Note the state that the layer leaves; a hook after the call."""
    if not torch.compiler.is_compiling():
        produced.remember(module, module.mem)


def _place(module: nn.Module, name: str) -> int:
    """Return the place of a state among the positional arguments."""
    return {"Synaptic": {"syn": 1, "mem": 2}}.get(_kind(module), {"mem": 1})[name]


def _kind(module: nn.Module) -> str:
    known = framework_class(module, _PACKAGES)
    assert known is not None
    return known.__name__


def _check(layer: Any) -> None:
    """Refuse what replay cannot follow.

    Raises:
        ValueError: with the reason.
    """
    known = framework_class(layer, _PACKAGES)
    assert known is not None
    kind = known.__name__
    if kind not in _FOLLOWED:
        why = _REASONS.get(kind, f"it is none of {', '.join(_FOLLOWED)}")
        raise ValueError(f"replay cannot follow {kind}: {why}")
    check_unchanged(layer, known, _DYNAMICS)
    if layer.inhibition:
        raise ValueError("inhibition=True silences all but one neuron: that is no threshold")
    if layer.state_quant:
        raise ValueError("state_quant rounds the potential: replay cannot follow it")
    if kind == "StateLeaky":
        if not layer.output or layer.kernel_truncation_steps is not None:
            raise ValueError(
                f"output={layer.output!r} and "
                f"kernel_truncation_steps={layer.kernel_truncation_steps!r}: a StateLeaky is read "
                "with output=True and None"
            )
        return
    reset = _reset(layer)
    if _NAMES.get(layer.reset_mechanism) != reset:
        raise ValueError(
            f"reset_mechanism={layer.reset_mechanism!r} was set after the layer was built and has "
            f"no full effect: it still runs {layer.state_function.__name__}"
        )
    if kind != "Leaky" and reset == "to_value" and _is_late(layer):
        raise ValueError(
            f"reset_mechanism='zero' in {kind} also drops the input of the timestep after a "
            "spike: replay cannot follow it"
        )


def _reset(layer: Any) -> Reset:
    name = layer.state_function.__name__
    if name not in _RESETS:
        raise ValueError(f"its update function {name} is none of {', '.join(_RESETS)}")
    return _RESETS[name]


def _is_late(layer: Any) -> bool:
    return bool(getattr(layer, "reset_delay", True))


def _spec(layer: Any, convert: Callable[[Tensor], Any]) -> NeuronSpec:
    """Return the dynamics, with the layer's tensors converted."""
    kind = _kind(layer)
    height = layer.graded_spikes_factor.detach()
    flags: dict[str, Any] = {"fires_at_threshold": _at_threshold.get(layer, False)}
    gain: Tensor | None = None
    synapse: Tensor | None = None
    if kind == "StateLeaky":
        flags |= {"reset": "none"}
        decay = (-1.0 / layer.tau.detach()).exp()
        height = height * height  # fire() has applied it already
    else:
        late = _is_late(layer)
        flags |= {"reset": _reset(layer), "delayed_reset": late, "reset_gradient": not late}
        if kind == "Lapicque":  # the leak is that of R and C, whatever beta says
            decay = 1.0 - (layer.time_step / (layer.R * layer.C)).detach()
            gain = (layer.time_step / layer.C).detach()
        else:
            decay = layer.beta.detach().clamp(0.0, 1.0)
        if flags["reset"] == "subtract":
            decay = decay.where(decay != 0.0, _SMALLEST)
        if kind == "Synaptic":
            synapse = layer.alpha.detach().clamp(0.0, 1.0)
    return NeuronSpec(
        decay=convert(decay),
        gain=1.0 if gain is None else convert(gain),
        threshold=convert(layer.threshold.detach()),
        spike_height=convert(height),
        synapse_decay=0.0 if synapse is None else convert(synapse),
        **flags,
    )


def _number(value: Tensor) -> Any:
    """Return a tensor as a number or array."""
    numbers = value.to("cpu", torch.float64).numpy()
    return float(numbers.item()) if numbers.size == 1 else numbers


def _incoming(module: Any, call: Call, name: str) -> Tensor:
    """Return a state that the caller passes, else the one that the layer holds."""
    place = _place(module, name)
    given = call.args[place] if len(call.args) > place else call.kwargs.get(name)
    state: Tensor = getattr(module, name) if given is None else given
    return state


def _shaped(state: Tensor, like: Tensor) -> Tensor:
    """Return the state; zeros, as the layer begins, for one of another shape than its input."""
    return state.detach() if state.shape == like.shape else torch.zeros_like(like)
