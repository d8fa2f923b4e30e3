"""The record of one layer whose potential and spikes are handed over as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from . import accumulators
from .accumulators import Block
from .capture import Gradients
from .fine import unit_spikes
from .levels import STANDARD, Level

Unscale = Callable[[Tensor], Tensor]

ROUNDING = 1e-3
"""Spikes may be off by this share of their height."""


@dataclass(eq=False)
class Moment:
    """One timestep of one layer, ``[N, ...]`` each, or a whole sequence where an axis is named.

    Args:
        mode: ``"train"`` or ``"eval"``.
        t: timestep, from 1.
        z: u - threshold, kept only where the surrogate is checked in the backward pass.
        version: how often z's memory had been written when it was looked at.
        height: what the layer emits for one spike.
        grad_spikes: dL/ds over all paths, per spike of height 1.
        grad_branch: dL/du through this spike alone.
        backward: the backward pass that its gradients come from.
        axis: the axis of a whole sequence that counts timesteps; None for one timestep.
    """

    mode: str
    t: int
    z: Tensor | None = None
    version: int = 0
    height: Tensor | float = 1.0
    surrogate: Surrogate | None = None
    grad_spikes: Tensor | None = None
    grad_branch: Tensor | None = None
    backward: int | None = None
    axis: int | None = None
    timesteps: int = 1

    def timed(self, tensor: Tensor) -> Tensor:
        """Return a tensor of this moment time first, ``[T, N, ...]``."""
        return tensor.unsqueeze(0) if self.axis is None else tensor.movedim(self.axis, 0)


class Stream:
    """Statistics of one layer during a recorded step.

    Args:
        name: name of the layer in the record.
        unscale: takes the factor of a scaled loss out of a gradient.
        level: what is read of a step.

    ``forward`` and ``backward`` are keyed by (mode, first timestep, number of timesteps) like
    those of a replayed layer; ``notes`` holds (kind, sentence) about what could not be recorded.
    """

    def __init__(self, name: str, unscale: Unscale, level: Level = STANDARD) -> None:
        self.name = name
        self.joints: dict[tuple[str, int, int], Tensor] = {}  # none: dL/ds arrives before dL/du
        self.maps: dict[str, tuple[Tensor, int]] = {}
        self._level = level
        self.forward: dict[tuple[str, int, int], Block] = {}
        self.backward: dict[tuple[str, int, int], Block] = {}
        self.notes: dict[str, str] = {}
        self.calls = 0
        self.reached = False
        self._unscale = unscale
        self._could_learn = False
        self._fired: Tensor | None = None
        self._half: list[Moment] = []  # dL/ds has arrived, dL/du has not

    def clear(self) -> None:
        """Forget everything that belongs to the step."""
        self.forward, self.backward, self.notes = {}, {}, {}
        self.maps = {}
        self.calls = 0
        self.reached, self._could_learn = False, False
        self._fired, self._half = None, []

    @property
    def waits_for_gradient(self) -> bool:
        """Whether a call could have received a gradient in this step and none did."""
        return self._could_learn and not self.reached

    def learns(self, mode: str) -> None:
        """Note that a gradient may arrive."""
        self._could_learn = self._could_learn or (mode == "train" and self._level.gradients)

    def record(
        self,
        moment: Moment,
        u: Tensor,
        spikes: Tensor,
        threshold: Tensor | float,
        scale: float,
        odd: Tensor | None = None,
    ) -> None:
        """Fold one timestep into the statistics of the step.

        Args:
            moment: when it was, and the surrogate in force.
            u: pre-reset potential in the coordinate of the layer, ``[N, ...]``.
            spikes: 0 or 1, ``[N, ...]``.
            threshold: threshold in force; a tensor must broadcast over u.
            scale: potential per unit of the density's axis.
            odd: where the layer emitted something that is no spike; counted as mismatch.
        """
        if isinstance(threshold, Tensor) and threshold.numel() > 1:
            threshold = moment.timed(torch.broadcast_to(threshold, u.shape))
        u, spikes = moment.timed(u), moment.timed(spikes)
        moment.timesteps = len(u)
        if moment.t == 1 or self._fired is None or self._fired.shape != spikes.shape[1:]:
            self._fired = torch.zeros_like(spikes[0])
        z = u - threshold
        # Whether a unit fires at equality is not known: there, what was seen is taken.
        implied = torch.where(z == 0, spikes, (z > 0).to(spikes.dtype))
        if odd is not None:
            implied = torch.where(moment.timed(odd), 1.0 - spikes, implied)
        block = accumulators.forward_block(
            u,
            implied,
            spikes,
            None,  # no input current was seen
            threshold=threshold,
            scale=scale,
            surrogate=moment.surrogate,
            fired_before=self._fired,
            t=moment.t,
            histogram=self._level.histogram,
        )
        self._fold(self.forward, moment, block)
        if self._level.fine:
            fired, chances = unit_spikes(spikes), spikes.shape[0] * spikes.shape[1]
            before = self.maps.get(moment.mode)
            if before is not None and before[0].shape == fired.shape:
                fired, chances = fired + before[0], chances + before[1]
            self.maps[moment.mode] = fired, chances
        self._fired = self._fired + spikes.sum(0)
        self.calls += 1

    def is_first_backward(self, moment: Moment) -> bool:
        """Return whether a gradient comes from the first backward pass; others are noted."""
        now = torch._C._current_graph_task_id()
        if moment.backward is None:
            moment.backward = now
        if moment.backward != now:
            self.notes.setdefault("second_backward", _SECOND_BACKWARD)
        return moment.backward == now

    def at_spikes(self, moment: Moment, grad: Tensor, branch: Tensor | None = None) -> None:
        """Take the gradient at the layer's output, and that behind the surrogate if it is seen."""
        self.reached = True
        total = self._unscale(grad) * moment.height
        if moment.grad_spikes is None:
            self._half.append(moment)
            moment.grad_spikes = total
        else:
            moment.grad_spikes = moment.grad_spikes + total
        if branch is not None:
            moment.grad_branch = self._unscale(branch)

    def at_potential(self, moment: Moment, grad: Tensor) -> None:
        """Take the gradient at the potential over all paths, and fold the moment's gradients."""
        self.reached = True
        grad = self._unscale(grad)
        total = moment.grad_spikes
        if total is None:
            # The spikes themselves are not on the loss path, a later timestep is.
            total = torch.zeros_like(grad)
        else:
            self._half.remove(moment)
        spikes = moment.timed(total)
        inside = Gradients(spikes, spikes, moment.timed(grad), _residual(moment, total))
        block = accumulators.backward_block(inside)
        self._keep(moment, block)
        moment.grad_spikes = moment.grad_branch = None

    def finish(self) -> None:
        """Fold what is left when the step ends: dL/ds whose dL/du could not be seen."""
        for moment in self._half:
            assert moment.grad_spikes is not None
            spikes = moment.timed(moment.grad_spikes)
            block = accumulators.gradient_block("grad_s_total", spikes)
            self._keep(moment, block)
        self._half = []

    def _keep(self, moment: Moment, block: Block) -> None:
        if not self._level.gradients:
            return
        # What reaches the spikes from downstream alone is not seen on this route.
        seen = {name: block[name] for name in block if name not in _DOWNSTREAM}
        self._fold(self.backward, moment, seen)

    def _fold(self, into: dict[tuple[str, int, int], Block], moment: Moment, block: Block) -> None:
        key = (moment.mode, moment.t, moment.timesteps)
        into[key] = accumulators.merge(into[key], block) if key in into else block


def _residual(moment: Moment, total: Tensor) -> Tensor | None:
    """Return the branch behind the surrogate minus what the measured surrogate implies."""
    z, branch = moment.z, moment.grad_branch
    if moment.surrogate is None or z is None or branch is None or z._version != moment.version:
        return None
    implied: Tensor = moment.surrogate.derivative(z, xp=torch) * total
    return moment.timed(branch - implied)


_SECOND_BACKWARD = (
    "a second backward pass went through the same forward pass: its gradients are not recorded"
)
_DOWNSTREAM = tuple(f"grad_s_{column}" for column in ("count", "nonfinite", "zero", "square"))


def on_gradient(tensor: Tensor, hook: Callable[..., Any]) -> Any:
    """Register a hook on a tensor's gradient; return its handle."""
    return tensor.register_hook(hook)  # type: ignore[no-untyped-call]
