"""Norse 1.1: modules with parameters ``p``; the caller carries their state."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec, Reset
from ...analysis.surrogate import Surrogate
from ...analysis.surrogate_frameworks import FRAMEWORK_SURROGATES, from_framework
from . import produced
from .base import Adapter, Call, SpikingLayer, State
from .measure import surrogate_of
from .writing import (
    Undo,
    described_start,
    has_derivative,
    put,
    put_start,
    start_for,
    together,
)
from .written import WrittenSpike, WrittenStep, natives

_STEPS = ("lif_feed_forward_step", "lif_box_feed_forward_step", "iaf_feed_forward_step")
_RESETS: dict[str, Reset] = {"reset_value": "to_value", "reset_subtract": "subtract"}


class NorseAdapter(Adapter):
    """Reads LIF, LIFCell, LIFBoxCell, IAF and IAFCell, by the step function that they run."""

    framework = "norse"
    tested = ("1.1.0", "1.1.0")

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is one of Norse, or derived from one, that fires."""
        family = any(c.__module__.startswith("norse.torch.module") for c in type(module).__mro__)
        return family and _firing(module) is not None

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the Euler step of the layer in numbers, and its surrogate as measured.

        Raises:
            ValueError: another step than the three that replay can follow, the adjoint method, or
                a reset function of the user's own.
        """
        _check(module)
        spec = _spec(module, _number)
        spike, scale = self.spike_function(module), float(np.mean(np.abs(spec.threshold)))
        surrogate = None
        if spike is not None:
            surrogate = surrogate_of(spike, self.declared(module), scale, _device(module))
        spec = replace(spec, start=described_start(module, spec.start))
        return SpikingLayer(name, module, spec, surrogate)

    def live_spec(self, module: nn.Module, layer: SpikingLayer) -> NeuronSpec:
        """Return the Euler step with the parameters of now, which may be learned ones."""
        return _spec(module, _live)

    def state(self, module: nn.Module, call: Call) -> State:
        """Return what the caller passes on; without it, what the layer falls back to."""
        now = call.current[0]
        given = call.args[1] if len(call.args) > 1 else call.kwargs.get("state")
        fresh, joined = True, False
        if given is None:
            given = _fallback(module, call)
        else:
            # A first state of the caller's own making begins a sequence, too.
            fresh = given.v.grad_fn is None and not produced.is_own(module, given.v)
            joined = given.v.requires_grad
        # The layer keeps its state in float32 or better, and may hold one number for all units.
        blank = torch.zeros_like(now, dtype=torch.promote_types(now.dtype, torch.float32))
        v = blank + (_rest(module) if given is None else given.v.detach())
        if given is None or not hasattr(given, "i"):
            return State(v, None, fresh, joined)
        # Norse keeps the current as it is after its decay, the spec as it is before.
        kept = _live(1.0 - _share(module, "tau_syn_inv"))
        return State(v, blank + given.i.detach() / (kept + (kept == 0)), fresh, joined)

    def current(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> int | str:
        """Return the place of the input current: the state may stand before it by keyword."""
        return 0 if args else "input_tensor"

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return the sequence as it is, and a cell's single timestep with a time axis in front."""
        return tensor.unsqueeze(0) if _is_cell(module) else tensor

    def spikes(self, module: nn.Module, output: Any) -> Tensor:
        """Return the first of (spikes, state)."""
        spikes: Tensor = output[0]
        return spikes

    def with_spikes(self, module: nn.Module, output: Any, spikes: Tensor) -> Any:
        """Return (spikes, state) with other spikes."""
        produced.remember(module, output[1].v)
        return (spikes, *output[1:])

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Return Norse's threshold function with the layer's method and alpha."""
        if isinstance(step := getattr(module, "activation", None), WrittenStep):
            return step.spike
        p = _firing(module)
        functional = sys.modules.get("norse.torch.functional.threshold")
        if functional is None or p.method == "adjoint":
            return None
        threshold: Callable[..., Tensor] = functional.threshold
        return lambda z: threshold(z, p.method, p.alpha)

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return the surrogate of that name and alpha, where it has one of our shapes."""
        if isinstance(step := getattr(module, "activation", None), WrittenStep):
            return step.spike.surrogate
        p = _firing(module)
        if ("norse", p.method) not in FRAMEWORK_SURROGATES:
            return None
        return from_framework("norse", p.method, alpha=_number(p.alpha))

    def obstacle(self, module: nn.Module, field: str, value: Any) -> str | None:
        """Return what stands against a start potential, or against new parameters."""
        layer: Any = module
        if field == "start":
            owner = getattr(layer.state_fallback, "__func__", layer.state_fallback)
            if not getattr(owner, "__module__", "").startswith("norse."):
                return "it begins with a state_fallback of the user's own"
        elif layer.p is not _firing(module) or not hasattr(layer.p, "_replace"):
            return f"its parameters are {type(layer.p).__name__}, not one tuple"
        if field == "threshold" and isinstance(layer.p.v_th, nn.Parameter):
            if not layer.p.v_th.requires_grad:
                return "it is a frozen parameter (requires_grad is False)"
        return None

    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Replace the tuple of parameters; a surrogate that it cannot name goes into the step."""
        module: Any = layer.module
        if field == "start":
            return put_start(module, value, begin)
        if field == "threshold":
            return _put_threshold(module, value)
        scale, where = layer.scale, _device(module)
        named = next(_methods(value, scale, where), None)
        old = self.spike_function(module)
        assert old is not None
        spike = WrittenSpike.in_place_of(old, value, scale, where) if named is None else None
        undos = [put(module, "p", module.p if named is None else module.p._replace(**named))]
        for name in ("activation", "activation_sparse"):
            step = getattr(module, name)
            own = step.step if isinstance(step, WrittenStep) else step
            new = own if spike is None or own is None else WrittenStep(own, spike)
            undos.append(put(module, name, new))
        return together(undos)


def _methods(surrogate: Surrogate, scale: float, where: torch.device) -> Iterator[dict[str, Any]]:
    """Yield method and alpha of Norse that have the derivative, as measured."""
    threshold: Any = sys.modules["norse.torch.functional.threshold"]
    named = natives("norse", surrogate, lambda method, p: {"method": method, **p})
    for method, alpha in (entry.values() for entry in named):
        knob = torch.tensor(alpha, dtype=torch.float64, device=where)
        spike = functools.partial(threshold.threshold, method=method, alpha=knob)
        if has_derivative(spike, surrogate, scale, where):
            yield {"method": method, "alpha": knob}


def _put_threshold(layer: Any, value: Any) -> Undo:
    """Replace v_th; a learned one stays the tensor that an optimiser knows."""
    old = torch.as_tensor(layer.p.v_th)
    new = torch.as_tensor(value, dtype=old.dtype, device=old.device).expand(old.shape).clone()
    if not old.requires_grad:
        return put(layer, "p", layer.p._replace(v_th=new))
    kept, old.data = old.data, new

    def undo() -> None:
        old.data = kept

    return undo


def begin(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Pass the layer's start potential where the caller passes no state; a hook before the call."""
    if (args[1] if len(args) > 1 else kwargs.get("state")) is not None:
        return None
    layer: Any = module
    x = args[0] if args else kwargs["input_tensor"]
    now = x.detach() if _is_cell(module) else x.detach()[0]
    # The layer keeps its state in float32 or better.
    v = start_for(module, now, torch.promote_types(now.dtype, torch.float32))
    state = layer.state_fallback(x)._replace(v=v)
    if len(args) > 1:
        return (args[0], state, *args[2:]), kwargs
    return args, {**kwargs, "state": state}


def _check(module: nn.Module) -> None:
    """Refuse what replay cannot follow."""
    kind, step = type(module).__name__, getattr(getattr(module, "activation", None), "__name__", "")
    if hasattr(module, "recurrent_weights"):
        raise ValueError(
            f"{kind} has recurrent weights inside the layer: its potential does not follow from "
            "input and spikes alone"
        )
    if _firing(module).method == "adjoint":
        raise ValueError(
            f"{kind} with method 'adjoint' has a backward pass of its own: take another method"
        )
    if step not in _STEPS:
        raise ValueError(
            f"{kind} runs {step or 'no step function'}, but replay follows {', '.join(_STEPS)}"
        )
    reset = getattr(getattr(module.p, "reset_method", None), "__name__", "reset_value")
    if reset not in _RESETS:
        raise ValueError(
            f"{kind} resets by {reset}, but replay follows {' and '.join(sorted(_RESETS))}"
        )


def _spec(module: nn.Module, value: Callable[[Any], Any]) -> NeuronSpec:
    """Return the layer's step; ``value`` turns each parameter into a number or a live tensor."""
    p: Any = module.p
    common = {
        "threshold": value(p.v_th),
        "reset_value": value(p.v_reset),
        "fires_at_threshold": False,
    }
    if not hasattr(p, "tau_mem_inv"):  # the integrate-and-fire step
        return NeuronSpec(decay=1.0, gain=1.0, reset="to_value", start=value(p.v_reset), **common)
    leak = value(_share(module, "tau_mem_inv"))
    synapse = 1.0 - value(_share(module, "tau_syn_inv")) if hasattr(p, "tau_syn_inv") else 0.0
    reset = _RESETS[getattr(getattr(p, "reset_method", None), "__name__", "reset_value")]
    rest = value(p.v_leak)
    return NeuronSpec(
        decay=1.0 - leak,
        gain=leak,
        reset=reset,
        rest=rest,
        start=rest,
        synapse_decay=synapse,
        **common,
    )


def _share(module: nn.Module, rate: str) -> Any:
    """Return dt times a rate, rounded as the layer rounds it."""
    return module.dt * getattr(module.p, rate)


def _number(value: Any) -> Any:
    """Return a parameter as a number, or as an array if there is one per unit."""
    if isinstance(value, Tensor):
        value = value.detach().double().cpu().numpy()
        return float(value) if value.size == 1 else value
    return float(value)


def _live(value: Any) -> Any:
    """Return a parameter as a tensor; a single number in double, which widens nothing."""
    tensor = torch.as_tensor(value).detach()
    return tensor.double() if tensor.ndim == 0 else tensor


def _rest(module: nn.Module) -> Any:
    """Return the potential that a layer begins with unless it is told otherwise."""
    p: Any = module.p
    return _live(p.v_leak if hasattr(p, "v_leak") else p.v_reset)


def _fallback(module: nn.Module, call: Call) -> Any:
    """Return the first state of a user's own ``state_fallback``; None for that of Norse."""
    fallback: Any = module.state_fallback
    owner = getattr(fallback, "__func__", fallback)
    if getattr(owner, "__module__", "").startswith("norse."):
        return None
    given = call.args[0] if call.args else call.kwargs["input_tensor"]
    # The layer will ask again: whatever is drawn here is drawn there once more.
    devices = [given.device] if given.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad():
        return fallback(given)


def _is_cell(module: nn.Module) -> bool:
    return any(c.__name__ in ("SNNCell", "SNNRecurrentCell") for c in type(module).__mro__)


def _firing(module: nn.Module) -> Any:
    """Return the parameters that name the surrogate: p, or the part of it that does; else None."""
    p = getattr(module, "p", None)
    parts = [p, *(p if isinstance(p, tuple) else ())]
    return next((part for part in parts if hasattr(part, "method")), None)


def _device(module: nn.Module) -> torch.device:
    threshold: Any = module.p
    threshold = threshold.v_th
    return threshold.device if isinstance(threshold, Tensor) else torch.device("cpu")
