"""The hooks of one spiking layer during a recorded step.

The layer's input and output are replaced by identity views; gradients are read off those views,
so that they belong to this layer and not to whoever else uses the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from . import accumulators, capture
from .accumulators import Block
from .adapters import Adapter, Call, SpikingLayer, State
from .fine import joint_counts, unit_spikes
from .levels import STANDARD, Level
from .modes import Hook, Unscale, wide
from .recompute import Repeats, in_backward

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(eq=False)
class _Call:
    """One call of a layer: the timesteps ``t`` to ``t + T - 1`` of a sequence."""

    t: int
    mode: str
    spec: NeuronSpec
    surrogate: Surrogate | None
    potential: Tensor | None
    spikes: Tensor
    joined: bool = False
    """Whether the gradient flows on into the call before this one."""
    passed: bool = False
    """Whether its state is the potential that the call before handed out."""
    later: _Call | None = None
    backward: int | None = None
    """The backward pass that its gradients come from."""
    grad_spikes: Tensor | None = None
    grad_handed: Tensor | None = None
    first: tuple[Tensor, Tensor] | None = None
    """dL/dI and dL/du of the first timestep, which the call before this one needs."""

    @property
    def u(self) -> Tensor:
        """The pre-reset potential; kept at levels that look at the backward pass."""
        assert self.potential is not None
        return self.potential

    @property
    def after(self) -> tuple[Tensor, Tensor] | None:
        """dL/dI and dL/du of the timestep after its last, None where the gradient is cut."""
        return self.later.first if self.later is not None and self.later.joined else None


class LayerHooks:
    """Records one layer while armed.

    Args:
        layer: what is recorded.
        adapter: how to read it.
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        level: what is read of a step.

    ``forward`` and ``backward`` hold the statistics of the step, keyed by (mode, first timestep,
    number of timesteps); ``notes`` holds (kind, sentence) about what could not be recorded;
    ``sequences`` holds the number of timesteps of each sequence that the layer went through.
    ``held`` counts the bytes of potentials that wait for the backward pass.
    ``joints`` (keyed like ``backward``) and ``maps`` (by mode: spikes of each unit, and samples
    times timesteps) hold what only the level "full" reads.
    """

    def __init__(
        self,
        layer: SpikingLayer,
        adapter: Adapter,
        guard: Guard,
        unscale: Unscale,
        level: Level = STANDARD,
    ) -> None:
        self.layer = layer
        self.joints: dict[tuple[str, int, int], Tensor] = {}
        self.maps: dict[str, tuple[Tensor, int]] = {}
        self._level = level
        self.forward: dict[tuple[str, int, int], Block] = {}
        self.backward: dict[tuple[str, int, int], Block] = {}
        self.notes: dict[str, str] = {}
        self.sequences: list[int] = []
        self.timesteps: int | None = None
        self._adapter = adapter
        self._scale = layer.scale
        self._before = guard(self._before_call)
        self._after = guard(self._after_call)
        self._guard = guard
        self._unscale = unscale
        self._handles: list[Any] = []
        self._entered: tuple[State, Tensor, _Call | None] | None = None
        self._last: _Call | None = None
        self._fired: Tensor | None = None
        self._half: list[_Call] = []  # dL/ds has arrived, dL/dI has not
        self._repeats = Repeats()
        self._could_learn = False
        self.reached = False
        self.held = 0

    def arm(self) -> None:
        """Put the hooks in place for the coming step."""
        module = self.layer.module
        self._handles = [
            module.register_forward_pre_hook(Hook(module, self._before), with_kwargs=True),
            # First of all: what other hooks do with the spikes, such as put them into a penalty,
            # then comes after our view and counts as downstream.
            module.register_forward_hook(Hook(module, self._after), prepend=True),
        ]

    def disarm(self) -> None:
        """Remove the hooks and forget everything that belongs to the step."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.forward, self.backward, self.notes = {}, {}, {}
        self.joints, self.maps = {}, {}
        self.sequences = []
        self._entered, self._last, self._fired, self._half = None, None, None, []
        self._could_learn, self.reached, self.held = False, False, 0
        self._repeats.forget()

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
        if (note := accumulators.take_note()) is not None:
            self.notes["route"] = note
        # A sequence that began before the recording did is shorter than it was.
        for length in self.sequences[1 if "carried" in self.notes else 0 :]:
            if self.timesteps not in (None, length):
                self.notes.setdefault("timesteps", _TIMESTEPS.format(a=self.timesteps, b=length))
            self.timesteps = length

    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._entered = None
        repeated: _Call | None = None
        if in_backward():
            repeated = self._repeats.find()
            if repeated is None or not torch.is_grad_enabled():
                return None
        place = self._adapter.current(module, args, kwargs)
        current: Tensor = kwargs[place] if isinstance(place, str) else args[place]
        timed = self._floating(
            "input", self._adapter.time_first(module, current.detach()), torch.get_default_dtype()
        )
        if timed.numel() == 0:
            self.notes.setdefault("empty", _EMPTY.format(shape=tuple(current.shape)))
            return None
        state = self._adapter.state(module, Call(args, kwargs, timed))
        if not self._level.gradients:
            self._entered = state, current, repeated
            return None
        view = current.view_as(current)
        self._entered = state, view, repeated
        if isinstance(place, str):
            return args, {**kwargs, place: view}
        return (*args[:place], view, *args[place + 1 :]), kwargs

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._entered is None:
            return None
        (state, current, call), self._entered = self._entered, None
        spikes = self._adapter.spikes(module, output)
        view = spikes.view_as(spikes) if self._level.gradients else spikes
        if call is None:
            with torch.no_grad():
                call = self._record(module, state, current.detach(), view.detach())
            if self._repeats.note(call) and self._level.gradients:
                self._could_learn = self._could_learn or module.training
        if not self._level.gradients:
            return None
        call.joined, call.passed = state.joined, state.passed
        place = self._adapter.potential(module, output)
        if view.requires_grad:
            self._could_learn = self._could_learn or module.training
            self._listen(call, current, view)
        elif module.training and torch.is_grad_enabled() and view.is_floating_point():
            self.notes.setdefault("no_input_gradient", _NO_INPUT_GRADIENT)
        output = self._adapter.with_spikes(module, output, view)
        if place is not None and output[place].requires_grad:
            handed = output[place].view_as(output[place])
            self._told(call, handed, self._at_handed)
            output = (*output[:place], handed, *output[place + 1 :])
        return output

    def _record(self, module: nn.Module, state: State, current: Tensor, output: Tensor) -> _Call:
        """Replay the call and fold what it did into the statistics of the step."""
        if state.fresh:
            self._last, self._fired = None, None
        elif self._last is None:
            self.notes.setdefault("carried", _CARRIED)
        spec = self._adapter.live_spec(module, self.layer)
        current = self._adapter.time_first(module, current)
        current = self._floating("input", current, torch.get_default_dtype())
        spikes = self._adapter.time_first(module, output)
        spikes = self._floating("output", spikes, current.dtype)
        if not (isinstance(spec.spike_height, int | float) and spec.spike_height == 1):
            spikes = spikes / spec.spike_height
        t = 1 if self._last is None else self._last.t + len(self._last.spikes)
        if self._last is not None:
            so_far = wide(self._last.spikes).sum(0)
            self._fired = so_far if self._fired is None else self._fired + so_far
        surrogate = self._adapter.live_surrogate(module, self.layer)
        block, u, spikes = accumulators.forward_pass(
            spec,
            current,
            spikes,
            state.v,
            state.current,
            scale=self._scale,
            surrogate=surrogate,
            fired_before=self._fired,
            t=t,
            histogram=self._level.histogram,
            keep_u=self._level.gradients,
        )
        if not self._level.gradients:
            u = None
        call = _Call(t, "train" if module.training else "eval", spec, surrogate, u, spikes)
        self.held += 0 if u is None else u.nbytes
        self._fold(self.forward, call, block)
        if self._level.fine:
            self._map(call)
        if self._last is None:
            self.sequences.append(0)
        else:
            self._last.later = call
        self.sequences[-1] += len(spikes)
        self._last = call
        return call

    def _map(self, call: _Call) -> None:
        """Count the spikes of each unit."""
        fired = unit_spikes(wide(call.spikes))
        chances = call.spikes.shape[0] * call.spikes.shape[1]
        before = self.maps.get(call.mode)
        if before is not None and before[0].shape == fired.shape:
            fired, chances = fired + before[0], chances + before[1]
        self.maps[call.mode] = fired, chances

    def _floating(self, what: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor as it is, or what holds whole numbers as floating ones."""
        if tensor.is_floating_point():
            return tensor
        self.notes.setdefault(f"{what}_dtype", _DTYPE.format(what=what, dtype=tensor.dtype))
        return tensor.to(dtype)

    def _listen(self, call: _Call, current: Tensor, spikes: Tensor) -> None:
        """Have the gradients at the layer's two ends told."""
        self._told(call, spikes, self._at_output)
        if current.requires_grad:
            self._told(call, current, self._at_input)

    def _told(self, call: _Call, of: Tensor, act: Callable[[_Call, Tensor], None]) -> None:
        """Have a gradient told as it is without loss scaling."""

        def hook(gradient: Tensor) -> None:
            if self._is_first_backward(call):
                gradient = self._adapter.time_first(self.layer.module, gradient.detach())
                act(call, self._unscale(wide(gradient)))

        of.register_hook(self._guard(hook))  # type: ignore[no-untyped-call]

    def _is_first_backward(self, call: _Call) -> bool:
        now = torch._C._current_graph_task_id()
        if call.backward is None:
            call.backward = now
        if call.backward != now:
            self.notes.setdefault("second_backward", _SECOND_BACKWARD)
        return call.backward == now

    def _at_output(self, call: _Call, gradient: Tensor) -> None:
        self.reached = True
        height = call.spec.spike_height
        if not (isinstance(height, int | float) and height == 1):
            gradient = gradient * height
        call.grad_spikes = gradient
        self._half.append(call)

    def _at_handed(self, call: _Call, gradient: Tensor) -> None:
        call.grad_handed = gradient

    def _at_input(self, call: _Call, gradient: Tensor) -> None:
        self.reached = True
        downstream = call.grad_spikes
        if downstream is None:
            # The spikes themselves are not on the loss path, a later timestep is.
            downstream = torch.zeros_like(gradient)
        else:
            self._half.remove(call)
        with torch.no_grad():
            inside = capture.gradients(
                call.spec,
                call.surrogate,
                call.u,
                call.spikes,
                gradient,
                downstream,
                call.after,
                call.grad_handed,
                call.later is not None and call.later.passed,
            )
            call.first = gradient[0], inside.at_first()
            self._fold(self.backward, call, accumulators.backward_block(inside))
            if self._level.fine:
                self._join(call, inside)

    def _join(self, call: _Call, inside: capture.LayerGradients) -> None:
        """Count potential and gradient together, one timestep after another."""
        whole = slice(0, call.u.shape[1])
        threshold = call.spec.threshold
        timed = capture.is_timed(threshold, call.u)
        counts = torch.cat(
            [
                joint_counts(
                    call.u[t : t + 1],
                    threshold[t : t + 1] if timed else threshold,
                    self._scale,
                    inside.part(slice(t, t + 1), whole).s_total,
                )
                for t in range(len(call.u))
            ]
        )
        key = (call.mode, call.t, len(call.spikes))
        self.joints[key] = self.joints[key] + counts if key in self.joints else counts

    def _fold(self, into: dict[tuple[str, int, int], Block], call: _Call, block: Block) -> None:
        key = (call.mode, call.t, len(call.spikes))
        into[key] = accumulators.merge(into[key], block) if key in into else block


def resets_midway(layers: list[LayerHooks]) -> None:
    """Note each layer that forgot its state where another went on through the same timesteps."""
    cuts = [set(accumulate(hooks.sequences)) for hooks in layers]
    for hooks, own in zip(layers, cuts, strict=True):
        for other, whole in zip(layers, cuts, strict=True):
            if whole and whole < own and max(whole) == max(own):
                text = _RESET.format(t=min(own - whole), other=other.layer.name)
                hooks.notes.setdefault("reset", text)
                # Its short sequences are told by this; they are not those of the network.
                hooks.notes.pop("timesteps", None)
                hooks.timesteps = other.timesteps


_NO_INPUT_GRADIENT = (
    "its input needs no gradient (nothing before it is trained): dL/du cannot be recorded"
)
_EMPTY = "its input of shape {shape} holds nothing: the call is not recorded"
_TIMESTEPS = "the number of timesteps changed from {a} to {b}; its rows are kept apart by t"
_CARRIED = (
    "its state comes from before the recording began: t counts from the first recorded timestep"
)
_RESET = (
    "its state was reset after {t} timesteps of the step, where layer {other!r} went on: t counts "
    "from 1 again"
)
_DTYPE = (
    "its {what} is {dtype}, through which no gradient flows; it is recorded as floating numbers"
)
_SECOND_BACKWARD = (
    "a second backward pass went through the same forward pass: only the gradients of the first "
    "are recorded"
)
