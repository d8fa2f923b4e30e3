"""The hooks of one spiking layer during a recorded step.

The layer's input and output are replaced by identity views; gradients are read off those views,
so that they belong to this layer and not to whoever else uses the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.neuron import NeuronSpec
from . import accumulators, capture
from .accumulators import Block
from .adapters import Adapter, Call, SpikingLayer, State

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(eq=False)
class _Call:
    """One call of a layer: the timesteps ``t`` to ``t + T - 1`` of a sequence."""

    t: int
    mode: str
    spec: NeuronSpec
    u: Tensor
    spikes: Tensor
    later: _Call | None = None
    grad_spikes: Tensor | None = None
    first: tuple[Tensor, Tensor] | None = None
    """dL/dI and dL/du of the first timestep, which the call before this one needs."""


class LayerHooks:
    """Records one layer while armed.

    Args:
        layer: what is recorded.
        adapter: how to read it.
        guard: wraps each hook so that an error of ours never reaches the training.

    ``forward`` and ``backward`` hold the statistics of the step, keyed by (mode, first timestep,
    number of timesteps); ``notes`` holds (kind, sentence) about what could not be recorded.
    """

    def __init__(self, layer: SpikingLayer, adapter: Adapter, guard: Guard) -> None:
        self.layer = layer
        self.forward: dict[tuple[str, int, int], Block] = {}
        self.backward: dict[tuple[str, int, int], Block] = {}
        self.notes: dict[str, str] = {}
        self.calls = 0
        self.timesteps: int | None = None
        self._adapter = adapter
        self._scale = layer.scale
        self._before = guard(self._before_call)
        self._after = guard(self._after_call)
        self._guard = guard
        self._handles: list[Any] = []
        self._entered: tuple[State, Tensor] | None = None
        self._last: _Call | None = None
        self._fired: Tensor | None = None
        self._half: list[_Call] = []  # dL/ds has arrived, dL/dI has not
        self._could_learn = False
        self.reached = False

    def arm(self) -> None:
        """Put the hooks in place for the coming step."""
        module = self.layer.module
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, always_call=False),
        ]

    def disarm(self) -> None:
        """Remove the hooks and forget everything that belongs to the step."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.forward, self.backward, self.notes = {}, {}, {}
        self.calls = 0
        self._entered, self._last, self._fired, self._half = None, None, None, []
        self._could_learn, self.reached = False, False

    @property
    def waits_for_gradient(self) -> bool:
        """Whether a call could have received a gradient in this step and none did."""
        return self._could_learn and not self.reached

    def finish(self) -> None:
        """Fold what is left when the step ends: dL/ds of calls whose input needs no gradient."""
        for call in self._half:
            assert call.grad_spikes is not None
            block = accumulators.gradient_block("grad_s", call.grad_spikes)
            self._fold(self.backward, call, block)
            self.notes.setdefault("no_input_gradient", _NO_INPUT_GRADIENT)
        self._half = []

    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._entered = None
        place = self._adapter.current(module, args, kwargs)
        current: Tensor = kwargs[place] if isinstance(place, str) else args[place]
        timed = self._adapter.time_first(module, current.detach())
        if timed.numel() == 0:
            self.notes.setdefault("empty", _EMPTY.format(shape=tuple(current.shape)))
            return None
        state = self._adapter.state(module, Call(args, kwargs, timed))
        view = current.view_as(current)
        self._entered = state, view
        if isinstance(place, str):
            return args, {**kwargs, place: view}
        return (*args[:place], view, *args[place + 1 :]), kwargs

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._entered is None:
            return None
        (state, current), self._entered = self._entered, None
        if state.fresh:
            self._last, self._fired = None, None
        spikes = self._adapter.spikes(module, output)
        view = spikes.view_as(spikes)
        with torch.no_grad():
            call = self._record(module, state, current.detach(), view.detach())
        self.calls += 1
        if view.requires_grad:
            self._could_learn = self._could_learn or module.training
            _on_gradient(view, self._guard(lambda grad: self._at_output(call, grad)))
            if current.requires_grad:
                _on_gradient(current, self._guard(lambda grad: self._at_input(call, grad)))
        elif module.training and torch.is_grad_enabled():
            self.notes.setdefault("no_input_gradient", _NO_INPUT_GRADIENT)
        return self._adapter.with_spikes(module, output, view)

    def _record(self, module: nn.Module, state: State, current: Tensor, output: Tensor) -> _Call:
        """Replay the call and fold what it did into the statistics of the step."""
        spec = self._adapter.live_spec(module, self.layer)
        current = self._adapter.time_first(module, current)
        spikes = self._adapter.time_first(module, output)
        if not (isinstance(spec.spike_height, int | float) and spec.spike_height == 1):
            spikes = spikes / spec.spike_height
        u, implied = capture.membrane(spec, current, spikes, state.v, state.current)
        t = 1 if self._last is None else self._last.t + len(self._last.u)
        fired = torch.zeros_like(spikes[0]) if self._fired is None else self._fired
        call = _Call(t, "train" if module.training else "eval", spec, u, spikes)
        block = accumulators.forward_block(
            u,
            implied,
            spikes,
            current,
            threshold=spec.threshold,
            scale=self._scale,
            surrogate=self.layer.surrogate,
            fired_before=fired,
            t=t,
        )
        self._fold(self.forward, call, block)
        self._count_timesteps(t + len(u) - 1)
        if self._last is not None:
            self._last.later = call
        self._last, self._fired = call, fired + spikes.sum(0)
        return call

    def _count_timesteps(self, last: int) -> None:
        single = self._last is not None or last == 1
        if not single:
            if self.timesteps not in (None, last):
                self.notes.setdefault("timesteps", _TIMESTEPS.format(a=self.timesteps, b=last))
            self.timesteps = last

    def _at_output(self, call: _Call, grad: Tensor) -> None:
        timed = self._adapter.time_first(self.layer.module, grad) * call.spec.spike_height
        self.reached = True
        if call.grad_spikes is None:
            self._half.append(call)
        call.grad_spikes = timed if call.grad_spikes is None else call.grad_spikes + timed

    def _at_input(self, call: _Call, grad: Tensor) -> None:
        with torch.no_grad():
            grad_input = self._adapter.time_first(self.layer.module, grad)
            self.reached = True
            downstream = call.grad_spikes
            if downstream is None:
                # The spikes themselves are not on the loss path, a later timestep is.
                downstream = torch.zeros_like(grad_input)
            else:
                self._half.remove(call)
            inside = capture.gradients(
                call.spec,
                self.layer.surrogate,
                call.u,
                call.spikes,
                grad_input,
                downstream,
                None if call.later is None else call.later.first,
            )
            call.first = grad_input[0], inside.u[0]
            self._fold(self.backward, call, accumulators.backward_block(inside))

    def _fold(self, into: dict[tuple[str, int, int], Block], call: _Call, block: Block) -> None:
        key = (call.mode, call.t, len(call.u))
        into[key] = accumulators.merge(into[key], block) if key in into else block


_NO_INPUT_GRADIENT = (
    "its input needs no gradient (nothing before it is trained): dL/du cannot be recorded"
)
_EMPTY = "its input of shape {shape} holds nothing: the call is not recorded"
_TIMESTEPS = "the number of timesteps changed from {a} to {b}; its rows are kept apart by t"


def _on_gradient(tensor: Tensor, hook: Callable[..., Any]) -> None:
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]
