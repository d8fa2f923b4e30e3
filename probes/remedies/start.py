"""MP-Init in the loop: a layer starts where its potential has been at the end of its sequences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import after_reset
from ...analysis.start_potential import KEPT, active_mean, mp_init
from .. import capture
from ..adapters import Call, State
from ..adapters.writing import START
from ..journal import SpikescopeWarning
from ..lif import LIF
from ..modes import Hook
from .base import LoopRemedy, Place, find_places
from .sync import summed

Over = Literal["active", "all"]


class MPInit(LoopRemedy):
    """Running mean of v at the last timestep, used as the start potential of every unit.

    The mean is the layer's own start potential: a buffer, saved with the model, the same in
    training and evaluation. Only batches in train mode feed it, and on every rank it is the mean
    over all ranks. A batch in which no unit fires leaves it as it is.

    Args:
        name: its name in the table.
        model: any model with spiking layers that can take a start potential.
        over: ``"active"``: mean over the units that fired at all, as published; ``"all"``.
        form: ``"released"`` keeps 0.9 of the old mean; ``"paper"`` keeps 0.1 (algorithm 1).
        published: behave as the released code does: the mean is no part of the state_dict, not
            synchronised and never negative, taken up when the next sequence in train mode begins
            (so also from the last validation batch), and pulled to 0 by a batch without spikes.
        layers: names of layers; None for all.

    Raises:
        ValueError: an unknown setting, or a layer that cannot take one start potential.

    Source:
        Kook et al., arXiv 2511.08708, algorithm 1; released code 3d2aa23.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        over: Over = "active",
        form: str = "released",
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        if over not in ("active", "all"):
            raise ValueError(f"over={over!r} is not one of 'active', 'all'")
        if form not in KEPT:
            raise ValueError(f"form={form!r} is not one of {', '.join(map(repr, KEPT))}")
        places = find_places(name, model, layers)
        for place in places:
            _require_one_start(place, name)
        super().__init__(name, places)
        self.form = form
        self.published = published
        self._claim(["start"])
        self._undo: list[Callable[[], object]] = []
        try:
            for place in places:
                self._undo.append(_give_start(place, plain=published))
        except ValueError:
            self.remove()
            raise
        self._watchers = [_Watcher(place, over, published) for place in places]
        if published:
            for watcher in self._watchers:
                watcher.takes_up(self._take_up_alone)

    def after_step(self) -> None:
        """Move each start towards the mean of v[T] since the last step, over all ranks."""
        if self.published or not self._watchers:
            return
        parts = [watcher.collect() for watcher in self._watchers]
        where = parts[0].device
        totals = summed(torch.stack([part.to(where) for part in parts]))
        with torch.no_grad():
            for watcher, (total, count) in zip(self._watchers, totals, strict=True):
                start = start_of(watcher.place.module)
                old = start.double()
                mean = (total / count.clip(min=1.0)).to(old.device)
                new = mp_init(old, mean, self.form)
                start.copy_(torch.where(count.to(old.device) > 0, new, old))

    def remove(self) -> None:
        """Take the hooks away and give each layer the start potential that it had."""
        for watcher in getattr(self, "_watchers", []):
            watcher.stop()
        for undo in reversed(self._undo):
            undo()
        self._undo, self._watchers = [], []
        super().remove()

    def report(self) -> list[dict[str, Any]]:
        """Return the start potential of each layer."""
        return [
            {"layer": place.name, "start": float(start_of(place.module))} for place in self.places
        ]

    def _take_up_alone(self, watcher: _Watcher) -> None:
        """Do what the released code does when the next sequence begins."""
        total, count = watcher.collect()
        start = start_of(watcher.place.module)
        with torch.no_grad():
            new = mp_init(start.double(), total / count.clip(min=1.0), self.form)
            start.copy_(new.clip(min=0.0))


def start_of(module: nn.Module) -> Tensor:
    """Return the tensor that holds a layer's start potential."""
    start: Tensor = module.start if isinstance(module, LIF) else getattr(module, START)
    return start


class _Watcher:
    """Sees v at the end of each sequence of one layer, recomputed from its input and spikes."""

    def __init__(self, place: Place, over: Over, everything: bool) -> None:
        self.place = place
        self._over = over
        self._everything = everything  # validation, too
        self._entered: tuple[State, Tensor] | None = None
        self._last: tuple[Tensor, Tensor] | None = None  # v and active of the open sequence
        self._total: Tensor | None = None  # sum of v and number of units, of closed sequences
        self._warned = False
        self._at_start: Callable[[_Watcher], None] | None = None
        module = place.module
        self._handles = [
            module.register_forward_pre_hook(Hook(module, self._before), with_kwargs=True),
            module.register_forward_hook(Hook(module, self._after)),
        ]

    def takes_up(self, act: Callable[[_Watcher], None]) -> None:
        """Have something done before a sequence in train mode begins, if one went before it."""
        module = self.place.module

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            fresh = not isinstance(module, LIF) or module.step_mode == "multi" or module.v is None
            if fresh and module.training and self._last is not None:
                act(self)

        handle = module.register_forward_pre_hook(
            Hook(module, begin), prepend=True, with_kwargs=True
        )
        self._handles.append(handle)

    def collect(self) -> Tensor:
        """Return ``[sum of v, number of units]`` since the last time, and begin anew."""
        self._close()
        total = self._total
        self._total = None
        if total is None:
            total = torch.zeros(2, dtype=torch.float64, device=start_of(self.place.module).device)
        return total

    def stop(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._last, self._total = [], None, None

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entered = None
        if not (module.training or self._everything):
            self._warn_if_forgotten()
            return
        adapter = self.place.adapter
        place = adapter.current(module, args, kwargs)
        current: Tensor = kwargs[place] if isinstance(place, str) else args[place]
        timed = adapter.time_first(module, current.detach())
        if timed.numel() == 0:
            return
        with torch.no_grad():
            self._entered = adapter.state(module, Call(args, kwargs, timed)), timed

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._entered is None:
            return
        (state, current), self._entered = self._entered, None
        adapter = self.place.adapter
        spec = adapter.live_spec(module, self.place.layer)
        spikes = adapter.time_first(module, adapter.spikes(module, output).detach())
        with torch.no_grad():
            spikes = spikes / spec.spike_height
            u, _ = capture.membrane(spec, current, spikes, state.start(spec), state.current)
            theta = spec.threshold
            if capture.is_timed(theta, u):
                theta = theta[-1]
            v = after_reset(spec, u[-1], spikes[-1].to(u.dtype), theta)
            active = (spikes > 0).any(0)
        if self._last is not None:
            if state.fresh:
                self._close()
            else:
                active = active | self._last[1]
        if self._everything:  # the code keeps one sequence, the latest
            self._total = None
        self._last = v, active

    def _close(self) -> None:
        """Add the sequence that has ended to the sums."""
        if self._last is None:
            return
        (v, active), self._last = self._last, None
        v = v.double()
        counted = torch.ones_like(active) if self._over == "all" else active
        mean, count = active_mean(v, counted, xp=torch)
        both = torch.stack([mean * count, count.to(v.dtype)])
        self._total = both if self._total is None else self._total + both

    def _warn_if_forgotten(self) -> None:
        if self._last is not None and not self._warned:
            self._warned = True
            warnings.warn(FORGOTTEN.format(layer=self.place.name), SpikescopeWarning, stacklevel=2)


FORGOTTEN = (
    "layer {layer!r} is evaluated after a training batch that after_step() was not told of: call "
    "after_step() of the remedy after each optimizer.step()"
)


def _require_one_start(place: Place, name: str) -> None:
    start = place.layer.spec.start
    if np.ndim(start) != 0:
        raise ValueError(
            f"layer {place.name!r} has a start potential per unit, of shape {np.shape(start)}: "
            f"remedy {name!r} needs one number"
        )


def _give_start(place: Place, plain: bool) -> Callable[[], object]:
    """Give a layer a start potential of its own to be moved; return how to take it back."""
    module = place.module
    if not isinstance(module, LIF):
        if plain:
            raise ValueError(
                f"layer {place.name!r} is a {type(module).__name__}: published=True is what the "
                "authors' own layer does, and is for spikescope's LIF alone"
            )
        return place.adapter.write(module, "start", float(place.layer.spec.start))
    found = module.start
    kept = found.detach().clone()
    if plain:
        # What the released code has is neither buffer nor parameter.
        del module.start
        module.start = kept
    else:
        module._buffers["start"] = kept

    def undo() -> None:
        if plain:
            del module.start
        module.register_buffer("start", found)

    return undo
