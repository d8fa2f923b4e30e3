"""What one layer did in a step, as it is summed up stretch by stretch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from . import accumulators, capture
from .accumulators import Block
from .figures import products, some
from .fine import joint_counts, unit_spikes
from .levels import Level
from .modes import wide
from .past import Past
from .stretch import Stretch

Key = tuple[str, int, int]
"""Mode, first timestep, number of timesteps."""

CHECKED = 1 << 13
"""On a CPU the self-check of the gradients looks at so many elements of a timestep."""


class LayerSums:
    """The statistics of one layer in a step.

    Args:
        scale: potential per unit of the density's axis.
        level: what is read of a step.
        apart: whether each call is summed up by itself, and its whole potential kept.

    ``forward`` and ``backward`` hold the statistics, keyed by (mode, first timestep, number of
    timesteps); ``sequences`` holds the number of timesteps of each sequence that the layer went
    through; ``held`` counts the bytes of potentials and copies that wait for the backward pass.
    ``units`` holds, by mode, the spikes of each unit, and samples times timesteps; ``first`` and
    ``last`` some values of the input at the ends of the first sequence; ``felt`` the sums of
    s dL/ds and of its magnitude; ``joints`` (keyed like the statistics) what only the level "full"
    reads.
    """

    def __init__(self, scale: float, level: Level, *, apart: bool = False) -> None:
        self._scale, self._level, self._apart = scale, level, apart
        self.clear()

    def clear(self) -> None:
        """Forget the step."""
        self.forward: dict[Key, Block] = {}
        self.backward: dict[Key, Block] = {}
        self.joints: dict[Key, Tensor] = {}
        self.units: dict[str, tuple[Tensor, int]] = {}
        self.first: Tensor | None = None
        self.last: Tensor | None = None
        self.felt: Tensor | None = None
        self.sequences: list[int] = []
        self._last: Stretch | None = None
        self._open: Stretch | None = None  # timesteps are being gathered
        self._partial: list[Stretch] = []  # not all that was gathered has got gradients
        self._fired: Tensor | None = None
        self._past: Past | None = None  # in place of it, where the calls are of one timestep
        self.held = 0

    @property
    def maps(self) -> dict[str, tuple[Tensor, int]]:
        """What the level "full" keeps of the spikes of each unit."""
        return self.units if self._level.fine else {}

    def _begin(
        self, fresh: bool, mode: str, spec: NeuronSpec, surrogate: Surrogate | None, spikes: Tensor
    ) -> Stretch:
        """Begin with timesteps that are summarised together."""
        before = None if fresh else self._last
        if before is None:
            self._fired = self._past = None
            self.sequences.append(0)
        elif self._past is None:
            so_far = wide(before.spikes).sum(0)
            self._fired = so_far if self._fired is None else self._fired + so_far
        t = 1 if before is None else before.t + len(before.spikes)
        self._last = Stretch(t, mode, spec, surrogate, spikes)
        if before is not None:
            before.later = self._last
        return self._last

    def _close(self) -> None:
        """Summarise what was gathered."""
        stretch, self._open = self._open, None
        if stretch is not None and stretch.gathered is not None:
            held = stretch.gathered
            self.held += held.nbytes
            start = held.start[: held.count]
            self._sum_up(stretch, held.current[: held.count], start, None, late=held.late)
            held.let_go()

    def _sum_up(
        self,
        stretch: Stretch,
        current: Tensor,
        start: Tensor,
        filtered: Tensor | None,
        *,
        late: bool,
    ) -> None:
        """Replay some timesteps and fold what they did into the statistics of the step."""
        few = self._checked(current) if not capture.looks_at_potential(stretch.spec) else None
        past = self._carried(stretch)
        block, stretch.u, stretch.spikes, units = accumulators.forward_pass(
            stretch.spec,
            current,
            stretch.spikes,
            start,
            filtered,
            scale=self._scale,
            surrogate=stretch.surrogate,
            fired_before=self._fired,
            t=stretch.t,
            histogram=self._level.histogram,
            keep_u=self._level.gradients,
            keep_samples=None if self._level.fine else few,
            late=late,
            past=past,
        )
        if not self._level.gradients:
            stretch.u = None
        if stretch.u is not None:  # not nbytes, which a compiler that looks on cannot trace
            self.held += stretch.u.numel() * stretch.u.element_size()
        self._fold(self.forward, stretch.key, block)
        self._count_units(stretch, units)
        if len(self.sequences) == 1:  # later sequences of the step hold other samples
            if self.first is None:
                self.first = some(current[0])
            self.last = some(current[-1])

    def _checked(self, like: Tensor) -> int | None:
        """Return on how many samples the surrogate is checked; None for all."""
        if like.device.type != "cpu" or self._apart:
            return None
        return max(1, CHECKED // max(1, like[0, :1].numel()))

    def _carried(self, stretch: Stretch) -> Past | None:
        """Return what is carried from call to call on a CPU, in calls of one timestep."""
        if len(stretch.spikes) > 1 or stretch.spikes.device.type != "cpu":
            if self._past is not None:
                self._fired, self._past = self._past.counts(), None
        elif stretch.t == 1:
            self._past = Past(wide(stretch.spikes[0]))
        return self._past

    def _count_units(self, stretch: Stretch, fired: Tensor | None) -> None:
        """Count the spikes of each unit."""
        spikes = stretch.spikes
        chances = spikes.shape[0] * spikes.shape[1]
        if fired is None:
            fired = unit_spikes(spikes)
        before = self.units.get(stretch.mode)
        if before is not None and before[0].shape == fired.shape:
            fired, chances = fired + before[0], chances + before[1]
        self.units[stretch.mode] = fired, chances

    def _fold_gathered(self, stretch: Stretch) -> None:
        """Fold the gradients that have arrived for what was gathered, and let go of them."""
        held = stretch.gathered
        assert held is not None
        assert held.grad_input is not None
        assert held.grad_spikes is not None
        for run in held.runs():
            self._turn(stretch, run, held.grad_input[run], held.grad_spikes[run], None)
        held.grad_input = held.grad_spikes = None

    def _turn(
        self,
        stretch: Stretch,
        run: slice,
        gradient: Tensor,
        downstream: Tensor,
        handed: Tensor | None,
    ) -> None:
        """Fold gradients of some timesteps into the statistics of the step."""
        assert stretch.u is not None
        whole = run.stop is None or run.stop == len(stretch.spikes)
        with torch.no_grad():
            inside = capture.gradients(
                stretch.spec,
                stretch.surrogate,
                stretch.u[run],
                stretch.spikes[run],
                gradient,
                downstream,
                stretch.after if whole else None,
                handed,
                stretch.later is not None and stretch.later.passed,
                self._checked(gradient),
            )
            if stretch.later is not None and whole:
                stretch.later.first = None
            if stretch.gathered is None and stretch.t > 1:
                first = gradient[0], inside.at_first()
                # A copy, since a view would keep all of the gradient.
                stretch.first = (
                    first if len(gradient) == 1 else (first[0].clone(), first[1].clone())
                )
            mode, t, _ = stretch.key
            key = mode, t + (run.start or 0), len(gradient)
            self._fold(self.backward, key, accumulators.backward_block(inside))
            both = inside.felt
            if both is None:
                both = products(stretch.spikes[run], downstream)
            self.felt = both if self.felt is None else self.felt + both
            if self._level.fine:
                self._join(key, stretch.spec.threshold, inside)

    def _join(self, key: Key, threshold: Any, inside: capture.LayerGradients) -> None:
        """Count potential and gradient together, one timestep after another."""
        u = inside.potential
        whole = slice(0, u.shape[1])
        timed = capture.is_timed(threshold, u)
        counts = torch.cat(
            [
                joint_counts(
                    u[t : t + 1],
                    threshold[t : t + 1] if timed else threshold,
                    self._scale,
                    inside.part(slice(t, t + 1), whole).s_total,
                )
                for t in range(len(u))
            ]
        )
        self.joints[key] = self.joints[key] + counts if key in self.joints else counts

    def _fold(
        self,
        into: dict[Key, Block],
        key: Key,
        block: Block,
    ) -> None:
        into[key] = accumulators.merge(into[key], block) if key in into else block


def align(forward: dict[Key, Block], backward: dict[Key, Block]) -> None:
    """Cut the blocks of a step such that forward and backward ones lie side by side.

    Args:
        forward: by mode, first timestep and number of timesteps; changed in place.
        backward: likewise; where a gradient reached some of the timesteps only, it has others.

    Example:
        >>> forward = {("train", 1, 2): {"count": torch.tensor([5, 6])}}
        >>> backward = {("train", 2, 1): {"grad_s_count": torch.tensor([7])}}
        >>> align(forward, backward)
        >>> forward
        {('train', 1, 1): {'count': tensor([5])}, ('train', 2, 1): {'count': tensor([6])}}
    """
    if backward.keys() <= forward.keys():
        return
    ends: dict[str, set[int]] = {}
    for mode, t, length in (*forward, *backward):
        ends.setdefault(mode, set()).update((t, t + length))
    for blocks in (forward, backward):
        whole = dict(blocks)
        blocks.clear()
        for (mode, t, length), block in whole.items():
            inside = sorted(end for end in ends[mode] if t <= end <= t + length)
            for a, b in pairwise(inside):
                part = {name: values[a - t : b - t] for name, values in block.items()}
                key = mode, a, b - a
                blocks[key] = accumulators.merge(blocks[key], part) if key in blocks else part
