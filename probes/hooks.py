"""The hooks of one spiking layer during a recorded step.

The layer's input and output are replaced by identity views; gradients are read off those views,
so that they belong to this layer and not to whoever else uses the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from . import accumulators, kernels
from .adapters import Adapter, Call, SpikingLayer, State
from .layer_sums import LayerSums, align
from .levels import STANDARD, Level
from .modes import Hook, Unscale, as_it_is, is_captured, wide
from .recompute import Repeats, in_backward
from .stretch import Gathered, Visit
from .update_rule import Numbers

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


class LayerHooks(LayerSums):
    """Records one layer while armed.

    Args:
        layer: what is recorded.
        adapter: how to read it.
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        level: what is read of a step.
        apart: whether each call is summarised by itself and its whole potential kept.

    ``forward`` and ``backward`` hold the statistics of the step, keyed by (mode, first timestep,
    number of timesteps); ``notes`` holds (kind, sentence) about what could not be recorded;
    ``sequences`` holds the number of timesteps of each sequence that the layer went through.
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
        *,
        apart: bool = False,
    ) -> None:
        super().__init__(layer.scale, level, apart=apart)
        self.layer = layer
        self.notes: dict[str, str] = {}
        self.timesteps: int | None = None
        self.tiny: float | None = None
        self._adapter = adapter
        self._before = guard(self._before_call)
        self._after = guard(self._after_call)
        self._guard = guard
        self._unscale = unscale
        self._handles: list[Any] = []
        self._entered: tuple[State, Tensor, Visit | None] | None = None
        self._half: list[Visit] = []  # dL/ds has arrived, dL/dI has not
        self._repeats = Repeats()
        self._numbers = Numbers()
        self._could_learn = False
        self.reached = False

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
        self.clear()
        self.notes, self.tiny = {}, None
        self._entered, self._half = None, []
        self._could_learn, self.reached = False, False
        self._repeats.forget()

    @property
    def waits_for_gradient(self) -> bool:
        """Whether a call could have received a gradient in this step and none did."""
        return self._could_learn and not self.reached

    def finish(self) -> None:
        """Fold what is left when the step ends: dL/ds of calls whose input needs no gradient."""
        self._close()
        for stretch in self._partial:
            self._fold_gathered(stretch)
        for call in self._half:
            assert call.grad_spikes is not None
            block = accumulators.gradient_block("grad_s", call.grad_spikes)
            mode, t, _ = call.stretch.key
            self._fold(self.backward, (mode, t + call.place, len(call.grad_spikes)), block)
            self.notes.setdefault("no_input_gradient", _NO_INPUT_GRADIENT)
        self._half = []
        if (note := accumulators.take_note()) is not None:
            self.notes["route"] = note
        # A sequence that began before the recording did is shorter than it was.
        for length in self.sequences[1 if "carried" in self.notes else 0 :]:
            if self.timesteps not in (None, length):
                self.notes.setdefault("timesteps", _TIMESTEPS.format(a=self.timesteps, b=length))
            self.timesteps = length
        align(self.forward, self.backward)

    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._entered = None
        repeated: Visit | None = None
        if in_backward():
            repeated = self._repeats.find()
            if repeated is None or not torch.is_grad_enabled():
                return None
        place = self._adapter.current(module, args, kwargs)
        current: Tensor = kwargs[place] if isinstance(place, str) else args[place]
        timed = self._floating(
            "input", self._adapter.time_first(module, current.detach()), torch.get_default_dtype()
        )
        if is_captured(current):
            self.notes.setdefault("captured", _CAPTURED)
            return None
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
        place = self._adapter.potential(module, output)
        if call is None:
            # What comes before must be reached by the gradient of all that is gathered.
            flows = state.joined or not view.requires_grad
            with torch.no_grad():
                call = self._record(
                    module,
                    state,
                    current.detach(),
                    view.detach(),
                    gather=place is None and not state.passed,
                    go_on=flows,
                )
            if self._repeats.note(call) and self._level.gradients:
                self._could_learn = self._could_learn or module.training
        if not self._level.gradients:
            return None
        if call.place == 0:
            call.stretch.joined, call.stretch.passed = state.joined, state.passed
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

    def _record(
        self,
        module: nn.Module,
        state: State,
        current: Tensor,
        output: Tensor,
        *,
        gather: bool = False,
        go_on: bool = True,
    ) -> Visit:
        """Take a call into the statistics of the step, at once or with those that follow."""
        if not state.fresh and self._last is None:
            self.notes.setdefault("carried", _CARRIED)
        spec = self._numbers.of(self._adapter.live_spec(module, self.layer))
        current = self._adapter.time_first(module, current)
        current = self._floating("input", current, torch.get_default_dtype())
        spikes = self._adapter.time_first(module, output)
        spikes = self._floating("output", spikes, current.dtype)
        if not (isinstance(spec.spike_height, int | float) and spec.spike_height == 1):
            spikes = spikes / spec.spike_height
        surrogate = self._adapter.live_surrogate(module, self.layer)
        mode = "train" if module.training else "eval"
        gather = gather and not self._apart and Gathered.suits(spec, current, spikes, state.v)
        held = self._open
        if (
            held is None
            or held.gathered is None
            or not gather
            or not go_on
            or state.fresh
            or held.mode != mode
            or held.spec is not spec
            or held.surrogate is not surrogate
            or not held.gathered.takes(current, state.late)
        ):
            self._close()
            held = self._begin(state.fresh, mode, spec, surrogate, spikes)
            held.gathered = Gathered(current, state.late) if gather else None
        self.sequences[-1] += len(current)
        if held.gathered is None:
            self._sum_up(held, current, state.v, state.current, late=state.late)
            return Visit(held)
        self._open = held
        place = held.gathered.add(current, spikes, state.v)
        held.spikes = held.gathered.spikes[: place + 1]
        return Visit(held, place)

    def _floating(self, what: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor as it is, or what holds whole numbers as floating ones."""
        if tensor.is_floating_point():
            return tensor
        self.notes.setdefault(f"{what}_dtype", _DTYPE.format(what=what, dtype=tensor.dtype))
        return tensor.to(dtype)

    def _listen(self, call: Visit, current: Tensor, spikes: Tensor) -> None:
        """Have the gradients at the layer's two ends told."""
        self._told(call, spikes, self._at_output)
        if current.requires_grad:
            self._told(call, current, self._at_input)

    def _told(self, call: Visit, of: Tensor, act: Callable[[Visit, Tensor], None]) -> None:
        """Have a gradient told as it is without loss scaling."""

        def hook(gradient: Tensor) -> None:
            if self._is_first_backward(call):
                self.tiny = float(torch.finfo(gradient.dtype).tiny)
                gradient = self._adapter.time_first(self.layer.module, gradient.detach())
                act(call, self._as_read(gradient))

        # Taken back with the others: a graph that outlives the step would keep what we know of it.
        handle = of.register_hook(self._guard(hook))  # type: ignore[no-untyped-call]
        self._handles.append(handle)

    def _as_read(self, gradient: Tensor) -> Tensor:
        """Return a gradient without loss scaling, in a dtype in which it can be summed up."""
        if self._unscale is as_it_is and kernels.reads(gradient):
            return gradient  # widened in registers: no pass of its own
        return self._unscale(wide(gradient))

    def _is_first_backward(self, call: Visit) -> bool:
        now = torch._C._current_graph_task_id()
        if call.backward is None:
            call.backward = now
        if call.backward != now:
            self.notes.setdefault("second_backward", _SECOND_BACKWARD)
        return call.backward == now

    def _at_output(self, call: Visit, gradient: Tensor) -> None:
        self.reached = True
        height = call.spec.spike_height
        if not (isinstance(height, int | float) and height == 1):
            gradient = wide(gradient) * height
        call.grad_spikes = gradient
        self._half.append(call)

    def _at_handed(self, call: Visit, gradient: Tensor) -> None:
        call.grad_handed = gradient

    def _at_input(self, call: Visit, gradient: Tensor) -> None:
        self.reached = True
        stretch, downstream = call.stretch, call.grad_spikes
        if downstream is not None:
            self._half.remove(call)
        held = stretch.gathered
        if held is None:
            if downstream is None:
                # The spikes themselves are not on the loss path, a later timestep is.
                downstream = torch.zeros_like(gradient)
            handed = call.grad_handed
            call.grad_spikes = call.grad_handed = None  # or they would stay until the step ends
            self._turn(stretch, slice(None), gradient, downstream, handed)
            return
        if stretch is self._open:
            self._close()
        with torch.no_grad():
            held.add_gradients(call.place, gradient, downstream)
            call.grad_spikes = None
            if call.place == 0:
                # The timesteps before may need it before all of these have got theirs.
                gain = stretch.spec.gain
                first = wide(gradient[0])
                stretch.first = first, first if gain == 1 else first / gain
        if held.complete:
            self._fold_gathered(stretch)
            if stretch in self._partial:
                self._partial.remove(stretch)
        elif len(held.arrived) == 1:
            self._partial.append(stretch)


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
_CAPTURED = (
    "it was called while a CUDA graph was captured, which is run later without us: not recorded"
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
