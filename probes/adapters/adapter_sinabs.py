"""Sinabs 3.1: layers that keep their state in buffers, batch before time."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec
from ...analysis.surrogate import Surrogate
from ...analysis.surrogate_frameworks import FRAMEWORK_SURROGATES, from_framework
from .base import Adapter, Call, SpikingLayer, State
from .classes import framework_class
from .measure import surrogate_of
from .writing import (
    START,
    Undo,
    described_start,
    has_derivative,
    put,
    put_number,
    put_start,
    same_slope,
    start_for,
    together,
)
from .written import WrittenSlope, natives

_LAYERS = ("LIF", "IAF", "LIFSqueeze", "IAFSqueeze")


class SinabsAdapter(Adapter):
    """Reads LIF and IAF, also in their squeezed variants, with at most one spike per timestep."""

    framework = "sinabs"
    tested = ("3.1.3", "3.1.3")

    def handles(self, module: nn.Module) -> bool:
        """Return whether the module is a stateful layer of Sinabs that fires."""
        known = framework_class(module, ("sinabs.layers",))
        return known is not None and getattr(module, "spike_fn", None) is not None

    def describe(self, name: str, module: nn.Module) -> SpikingLayer:
        """Return the layer's step in numbers, and its surrogate as measured.

        Raises:
            ValueError: recurrent or adaptive layers, several spikes per timestep, a clipped
                potential, or a reset that replay cannot follow.
        """
        _check(module)
        spec = _spec(module, _number)
        spike, scale = self.spike_function(module), float(np.mean(np.abs(spec.threshold)))
        surrogate = None
        if spike is not None:
            device = _threshold(module).device
            surrogate = surrogate_of(spike, self.declared(module), scale, device)
        spec = replace(spec, start=described_start(module, spec.start))
        return SpikingLayer(name, module, spec, surrogate)

    def live_spec(self, module: nn.Module, layer: SpikingLayer) -> NeuronSpec:
        """Return the step with the time constants of now: Sinabs trains them by default."""
        return _spec(module, Tensor.detach)

    def state(self, module: nn.Module, call: Call) -> State:
        """Return the buffers, as the layer itself will make them fit the input."""
        node: Any = module
        now = call.current[0]
        names = [name for name, _ in node.named_buffers()]
        buffers = [getattr(node, name) for name in names]
        if any(b.shape == (0,) or b.shape[1:] != now.shape[1:] for b in buffers):
            v, i, fresh, joined = torch.zeros_like(now), None, True, False
        else:
            v = buffers[names.index("v_mem")]
            fresh, joined = _was_reset(v), v.requires_grad
            if any(b.shape != now.shape for b in buffers):
                buffers = _resampled(buffers, len(now))
                fresh, joined = True, False
            held = dict(zip(names, buffers, strict=True))
            v, i = held["v_mem"].detach(), held.get("i_syn")
        shift = _reset_value(node)
        alpha = node.alpha_syn_calculated
        if i is None or alpha is None:
            return State(v - shift if shift else v, None, fresh, joined)
        # The buffer holds the current after its decay, the spec before it.
        alpha = alpha.detach()
        return State(v - shift if shift else v, i.detach() / (alpha + (alpha == 0)), fresh, joined)

    def time_first(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return ``[N, T, ...]``, or the two in one axis, with time first."""
        if hasattr(module, "squeeze_forward"):
            node: Any = module
            tensor = tensor.reshape(node.batch_size, node.num_timesteps, *tensor.shape[1:])
        return tensor.transpose(0, 1)

    def spike_function(self, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Return the layer's ``spike_fn`` with its surrogate, seen from the threshold."""
        node: Any = module
        if getattr(node, "spike_threshold", None) is None:
            return None
        threshold = _threshold(node)
        if threshold.numel() > 1:
            threshold = threshold.mean()
        return lambda z: node.spike_fn.apply(z + threshold, threshold, node.surrogate_grad_fn)

    def declared(self, module: nn.Module) -> Surrogate | None:
        """Return the surrogate that the fields of ``surrogate_grad_fn`` describe."""
        function: Any = getattr(module, "surrogate_grad_fn", None)
        if isinstance(function, WrittenSlope):
            return function.surrogate
        name = type(function).__name__
        row = FRAMEWORK_SURROGATES.get(("sinabs", name))
        if row is None or not _is_of_sinabs(function) or getattr(function, "mu", 0.0) != 0.0:
            return None
        fields = {key: getattr(function, key) for key in row.defaults if key != "threshold"}
        if "threshold" in row.defaults:
            fields["threshold"] = float(_threshold(module).double().mean())
        return from_framework("sinabs", name, **fields)

    def obstacle(self, module: nn.Module, field: str, value: Any) -> None:
        """Return None: a layer that can be read takes every field."""

    def _put(self, layer: SpikingLayer, field: str, value: Any) -> Undo:
        """Set the attribute; a surrogate becomes one of Sinabs where it has that one."""
        module = layer.module
        if field == "start":
            return _put_start(module, value)
        if field == "surrogate":
            return self._put_surrogate(module, value)
        slope = self._slope(layer)
        undo = put_number(module, "spike_threshold", value)
        if layer.surrogate is None or same_slope(slope, self._slope(layer)):
            return undo
        # Some surrogates of Sinabs measure their width in thresholds: it stays as it was.
        return together([undo, self._put_surrogate(module, layer.surrogate)])

    def _put_surrogate(self, module: nn.Module, surrogate: Surrogate) -> Undo:
        where, threshold = _threshold(module).device, float(_threshold(module).double().mean())
        scale = abs(threshold) or 1.0
        family: Any = sys.modules["sinabs.activation.surrogate_gradient_fn"]
        own = natives("sinabs", surrogate, lambda n, p: getattr(family, n)(**p), threshold)
        undo = put(module, "surrogate_grad_fn", WrittenSlope(surrogate))
        for function in own:
            put(module, "surrogate_grad_fn", function)
            if has_derivative(self.spike_function(module), surrogate, scale, where):
                return undo
        put(module, "surrogate_grad_fn", WrittenSlope(surrogate))
        return undo


def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Set ``v_mem`` to the layer's start potential where a sequence begins; a hook before the call.

    A sequence begins where the layer has no state yet, or one of zeros that was written to since
    the layer left it, as a reset does.
    """
    node: Any = module
    x = (args[0] if args else next(iter(kwargs.values()))).detach()
    if hasattr(node, "squeeze_forward"):
        x = x.reshape(node.batch_size, node.num_timesteps, *x.shape[1:])
    now, blank = x[:, 0], None
    if any(b.shape == (0,) or b.shape[1:] != now.shape[1:] for b in node.buffers()):
        node.init_state_with_shape(now.shape)
    elif not _was_reset(node.v_mem):
        return
    else:
        blank = (node.v_mem == 0).all()
        if len(node.v_mem) != len(now):
            # As the layer would right after: the random state moves by as much.
            node.handle_state_batch_size_mismatch(len(now))
    start = start_for(module, now) + _reset_value(node)
    if blank is not None:
        start = torch.where(blank, start, node.v_mem.to(start.dtype))
    # Written to, so that it counts as the state of a new sequence.
    node.v_mem = torch.empty_like(start).copy_(start)


def _put_start(module: nn.Module, value: Any) -> Undo:
    """Keep the start as a parameter: every buffer of a Sinabs layer counts as a state."""
    undo = put_start(module, value, begin, as_parameter=True)
    # The layer's own copy is built from its settings: it would lack the start.
    module.__dict__["__deepcopy__"] = functools.partial(_copied, module)

    def back() -> None:
        undo()
        if not hasattr(module, START):
            del module.__dict__["__deepcopy__"]

    return back


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return the layer's own copy of itself, with the start potential."""
    kind, start = type(module), module._parameters.pop(START)
    assert start is not None
    try:
        copied: Any = kind.__deepcopy__(module, memo)  # type: ignore[attr-defined]
    finally:
        module._parameters[START] = start
    _put_start(copied, start.detach())
    return cast(nn.Module, copied)


def _is_of_sinabs(thing: object) -> bool:
    """Return whether an object is of a class of Sinabs."""
    return type(thing).__module__.startswith("sinabs.")


def _check(module: nn.Module) -> None:
    """Refuse what replay cannot follow."""
    node: Any = module
    kind = type(module).__name__
    known = framework_class(module, ("sinabs.layers",))
    base = "" if known is None else known.__name__
    if hasattr(module, "rec_connect"):
        raise ValueError(
            f"{kind} has recurrent weights inside the layer: its potential does not follow from "
            "input and spikes alone"
        )
    if base not in _LAYERS:
        raise ValueError(f"{kind} is not one of {', '.join(_LAYERS)}, which replay follows")
    activation: Any = sys.modules.get("sinabs.activation")
    one_spike = node.spike_fn is getattr(activation, "SingleSpike", None) or (
        getattr(node.spike_fn, "max_num_spikes_per_bin", None) == 1
    )
    if not one_spike:
        name = getattr(node.spike_fn, "__name__", type(node.spike_fn).__name__)
        raise ValueError(
            f"{kind} with spike_fn {name} may emit several spikes per timestep: take SingleSpike"
        )
    if node.spike_threshold is None:
        raise ValueError(f"{kind} has spike_threshold None: give it a number")
    if node.min_v_mem is not None:
        raise ValueError(
            f"{kind} clips its potential at min_v_mem={float(node.min_v_mem):.6g}, which replay "
            "does not follow: take None"
        )
    reset = type(node.reset_fn).__name__
    if not _is_of_sinabs(node.reset_fn) or reset not in ("MembraneSubtract", "MembraneReset"):
        raise ValueError(
            f"{kind} resets by {reset}, but replay follows MembraneSubtract and MembraneReset"
        )
    if _reset_value(node) and base.startswith("IAF"):
        raise ValueError(
            f"{kind} with MembraneReset(reset_value={node.reset_fn.reset_value!r}) adds that value "
            "in every timestep, to silent units, too: take 0"
        )


def _spec(module: nn.Module, value: Callable[[Tensor], Any]) -> NeuronSpec:
    """Return the layer's step; ``value`` turns each parameter into a number or a live tensor."""
    node: Any = module
    decay = value(node.alpha_mem_calculated)
    gain: Any = 1.0 - decay if node.norm_input else 1.0
    synapse: Any = 0.0
    if node.alpha_syn_calculated is not None:
        # i = alpha (i + I) is alpha times the filter of the spec.
        synapse = value(node.alpha_syn_calculated)
        gain = gain * synapse
    common = {
        "decay": decay, "gain": gain, "synapse_decay": synapse, "threshold": value(_threshold(node))
    }  # fmt: skip
    if type(node.reset_fn).__name__ == "MembraneSubtract":
        return NeuronSpec(reset="subtract", reset_amount=node.reset_fn.subtract_value, **common)
    # The spike enters this reset by a comparison, which has no gradient; and the reset value is
    # added to silent units, too, which is a reset to 0 of a potential that rests elsewhere.
    shift = _reset_value(node)
    rest: Any = shift * decay / (1.0 - decay) if shift else 0.0
    return NeuronSpec(reset="to_value", reset_gradient=False, rest=rest, start=-shift, **common)


def _reset_value(node: Any) -> float:
    return float(getattr(node.reset_fn, "reset_value", 0.0))


def _threshold(module: nn.Module) -> Tensor:
    threshold: Any = module
    return torch.as_tensor(threshold.spike_threshold).detach()


def _number(value: Tensor) -> Any:
    """Return a parameter as a number, or as an array if there is one per unit."""
    array = value.detach().double().cpu().numpy()
    return float(array) if array.size == 1 else array


def _was_reset(v: Tensor) -> bool:
    """Return whether the buffer is another one than the layer left, or was written to since.

    What a layer leaves is the result of a sum and untouched; a reset zeroes it in place. Inference
    mode counts no versions: each call is taken as a sequence there.
    """
    return v.is_inference() or v._version > 0


def _resampled(buffers: list[Tensor], samples: int) -> list[Tensor]:
    """Return the states as the layer draws them anew when only the batch size has changed.

    The layer draws the same rows right after, since the random state is put back.
    """
    with torch.random.fork_rng([]):
        return [b.detach()[torch.randint(0, len(b), (samples,)).to(b.device)] for b in buffers]
