"""What a spiking layer did, recomputed from its input, its spikes and two gradients.

The layer is never opened: the membrane potential is replayed from the input current and the
observed spikes, and the gradients inside follow from those at the layer's two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec, replay
from ..analysis.surrogate import Surrogate
from .modes import wide
from .update_rule import Update, is_plain


class Gradients(NamedTuple):
    """Gradients inside a layer, each ``[T, N, ...]``.

    Args:
        s: dL/ds from downstream layers only.
        s_total: dL/ds with the path through the reset.
        u: dL/du over all paths.
        residual: dL/du minus what the declared surrogate implies, of the samples that are checked
            (the first ones); None without a surrogate, or where none of them is.
    """

    s: Tensor
    s_total: Tensor
    u: Tensor
    residual: Tensor | None

    @property
    def like(self) -> Tensor:
        """A tensor of the same shape, dtype and device."""
        return self.u

    @property
    def whole(self) -> Gradients:
        """All of it at once."""
        return self

    def part(self, rows: slice, samples: slice) -> Gradients:
        """Return the gradients of some timesteps and samples."""
        return Gradients(*(None if v is None else v[rows, samples] for v in self))  # type: ignore[arg-type]


def membrane(
    spec: NeuronSpec,
    current: Tensor,
    spikes: Tensor,
    start: Tensor,
    filtered: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Recompute the pre-reset potential, fed with the observed spikes so that no error grows.

    Args:
        spec: the layer's dynamics.
        current: input current, ``[T, N, ...]``.
        spikes: observed spikes, 0 or 1, ``[T, N, ...]``.
        start: potential before the first timestep, ``[N, ...]``.
        filtered: current that a synaptic filter holds before it, ``[N, ...]``; None for none.

    Returns:
        ``(u, implied)``, both ``[T, N, ...]``: the potential, and the spikes that it implies.

    Example:
        >>> current = torch.tensor([[0.6], [0.8]])
        >>> u, implied = membrane(NeuronSpec(decay=0.5), current, torch.tensor([[0.0], [1.0]]),
        ...                       torch.zeros(1))
        >>> [round(value, 6) for value in u.flatten().tolist()], implied.flatten().tolist()
        ([0.6, 1.1], [0.0, 1.0])
    """
    held = 0.0 if filtered is None else filtered
    theta = spec.threshold if is_timed(spec.threshold, current) else None
    u, implied = replay(spec, current, spikes=spikes, start=start, threshold=theta, filtered=held)
    return u, implied


def potential(
    spec: NeuronSpec,
    current: Tensor,
    spikes: Tensor,
    start: Tensor,
    filtered: Tensor | None = None,
) -> Tensor:
    """Recompute the pre-reset potential alone, in as few passes as the layer's dynamics allow.

    Args:
        spec: the layer's dynamics.
        current: input current, ``[T, N, ...]``.
        spikes: observed spikes, 0 or 1, ``[T, N, ...]``.
        start: potential before the first timestep, ``[N, ...]``; or before each of them,
            ``[T, N, ...]``, where :func:`.update_rule.is_plain`.
        filtered: current that a synaptic filter holds before it, ``[N, ...]``; None for none.

    Returns:
        The u of :func:`membrane`, bit for bit.

    Example:
        >>> spikes = torch.tensor([[0.0], [1.0], [0.0]])
        >>> u = potential(NeuronSpec(decay=0.5), torch.ones(3, 1), spikes, torch.zeros(1))
        >>> u.flatten().tolist()
        [1.0, 1.5, 1.25]
    """
    if not is_plain(spec, current, spikes, start):
        return membrane(spec, current, spikes, start, filtered)[0]
    u = torch.empty_like(current, memory_format=torch.contiguous_format)
    update = Update(spec, u.dtype)
    if start.ndim == current.ndim:
        update.charge(start, current, u, torch.empty_like(u))
        return u
    space = torch.empty_like(u[0])
    v = start
    for now, given, seen in zip(u, current, spikes, strict=True):
        update.charge(v, given, now, space)
        v = update.release(now, seen, space)
    return u


def is_timed(value: Any, over: Tensor) -> bool:
    """Return whether a value that broadcasts over ``[T, N, ...]`` has an axis of timesteps.

    Example:
        >>> is_timed(torch.ones(3, 1, 1), torch.zeros(3, 4, 5)), is_timed(1.0, torch.zeros(3, 4))
        (True, False)
    """
    return isinstance(value, Tensor) and value.ndim == over.ndim and len(value) == len(over)


def gradients(
    spec: NeuronSpec,
    surrogate: Surrogate | None,
    u: Tensor,
    spikes: Tensor,
    grad_input: Tensor,
    grad_spikes: Tensor,
    later: tuple[Tensor, Tensor] | None = None,
    handed: Tensor | None = None,
    passed: bool = False,
    checked: int | None = None,
) -> LayerGradients:
    """Derive the gradients inside a layer from those at its input and its spikes.

    ``dL/du[t] = (dL/dI[t] - synapse_decay dL/dI[t+1]) / gain``; the total dL/ds adds the path
    through the reset, ``(dv/ds)[t] decay dL/du[t+1]``; and what the leak does not explain of dL/du
    must be the surrogate times the total dL/ds.

    Args:
        spec: the layer's dynamics.
        surrogate: its declared surrogate, if known.
        u: pre-reset potential, ``[T, N, ...]``; that of some first samples will do, unless
            :func:`looks_at_potential`. They are the ones that the surrogate is checked on.
        spikes: observed spikes, 0 or 1, ``[T, N, ...]``.
        grad_input: dL/dI, ``[T, N, ...]``.
        grad_spikes: dL/ds from downstream, ``[T, N, ...]``.
        later: ``(dL/dI, dL/du)`` of the timestep after the last, ``[N, ...]``; None at the end of
            the sequence.
        handed: gradient on the potential that the layer hands out next to its spikes, which a
            loss may read; ``[T, N, ...]``, None for none. It is u where the reset is late, else v.
        passed: whether the next timestep received that very potential, so that ``handed`` holds
            what flows back from there, too.
        checked: on how many samples, the first ones, the surrogate is checked; None for all of
            which u is there.

    Returns:
        The gradients, which are worked out where they are looked at.

    Example:
        >>> one = torch.ones(1, 1)
        >>> spec, sg = NeuronSpec(decay=0.5, gain=0.5), Surrogate("rectangular", peak=1.0)
        >>> inside = gradients(spec, sg, one, one, grad_input=one, grad_spikes=2 * one)
        >>> inside.u.item(), inside.residual.item()
        (2.0, 0.0)
    """
    return LayerGradients(
        spec, surrogate, u, spikes, grad_input, grad_spikes, later, handed, passed, checked
    )


class LayerGradients:
    """The gradients inside a layer, worked out as a whole or for a part at a time.

    A part that fits a cache costs a fraction of what the whole does. Arguments are those of
    :func:`gradients`; ``s``, ``s_total``, ``u`` and ``residual`` are those of :class:`Gradients`.
    ``felt`` holds the sums of s dL/ds and of its magnitude once somebody has taken them along.
    """

    def __init__(
        self,
        spec: NeuronSpec,
        surrogate: Surrogate | None,
        potential: Tensor,
        spikes: Tensor,
        grad_input: Tensor,
        grad_spikes: Tensor,
        later: tuple[Tensor, Tensor] | None,
        handed: Tensor | None,
        passed: bool,
        checked: int | None = None,
    ) -> None:
        self.spec = spec
        self.surrogate = surrogate
        self.potential = potential
        self.spikes = spikes
        self.like = grad_input
        self.grad_spikes = grad_spikes
        self.later = later
        self.handed = handed
        self.passed = passed
        self.felt: Tensor | None = None
        there = potential.shape[1]
        self._checked = there if checked is None else min(there, checked)

    def part(self, rows: slice, samples: slice) -> Gradients:
        """Return the gradients of some timesteps and samples."""
        spec = self._cut_spec(rows, samples)
        grad_s = wide(self.grad_spikes[rows, samples])
        handed = None if self.handed is None else wide(self.handed[rows, samples])
        total, carried = grad_s, None
        if spec.reset_gradient and spec.reset != "none":
            carried = self._carried(spec, rows, samples, handed)
            looked_at = looks_at_potential(spec)
            potential = wide(self.potential[rows, samples]) if looked_at else None
            total = _plus(grad_s, _reset_slope(spec, potential), carried)
        grad_u = self._at(rows, samples)
        residual = None
        count = self.checked(samples)
        if count > 0:
            if carried is None:
                carried = self._carried(spec, rows, samples, handed)
            some = slice(samples.start, samples.start + count)
            direct = handed is not None and spec.delayed_reset
            residual = self._residual(
                rows,
                some,
                grad_u[:, :count] - handed[:, :count] if direct else grad_u[:, :count],  # type: ignore[index]
                carried[:, :count],
                total[:, :count],
            )
        return Gradients(grad_s, total, grad_u, residual)

    def checked(self, samples: slice) -> int:
        """Return on how many of some samples, the first ones, the surrogate is checked."""
        if self.surrogate is None:
            return 0
        count: int = min(samples.stop, self._checked) - samples.start
        return max(0, count)

    def _carried(
        self, spec: NeuronSpec, rows: slice, samples: slice, handed: Tensor | None
    ) -> Tensor:
        """Return what reaches v from later timesteps and from those who were handed it."""
        if rows.stop < len(self.like):
            ahead = self._at(slice(rows.start + 1, rows.stop + 1), samples)
        else:
            ahead = _ahead(self._at(rows, samples), self._after(samples))
        carried: Tensor = spec.decay * ahead
        if handed is not None and spec.delayed_reset:
            return torch.zeros_like(carried) if self.passed else carried
        if handed is not None:
            return handed if self.passed else carried + handed
        return carried

    def _residual(
        self, rows: slice, samples: slice, grad_u: Tensor, carried: Tensor, total: Tensor
    ) -> Tensor:
        """Return what neither the leak nor the surrogate explains of dL/du."""
        assert self.surrogate is not None
        spec = self._cut_spec(rows, samples)
        if spec.reset == "to_value":
            carried = carried * (1.0 - wide(self.spikes[rows, samples]))
        surrogate = self._cut_surrogate(self.surrogate, rows, samples)
        potential = wide(self.potential[rows, samples])
        slope = surrogate.derivative(potential - spec.threshold, xp=torch)
        return torch.sub(grad_u, carried).sub_(slope.mul_(total))

    def at_first(self) -> Tensor:
        """Return dL/du of the first timestep, ``[N, ...]``."""
        return self._at(slice(0, 1), slice(0, self.like.shape[1]))[0]

    @cached_property
    def whole(self) -> Gradients:
        """All of it at once."""
        return self.part(slice(0, len(self.like)), slice(0, self.like.shape[1]))

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter(self.whole)

    @property
    def s(self) -> Tensor:
        """dL/ds from downstream layers only."""
        return self.whole.s

    @property
    def s_total(self) -> Tensor:
        """dL/ds with the path through the reset."""
        return self.whole.s_total

    @property
    def u(self) -> Tensor:
        """dL/du over all paths."""
        return self.whole.u

    @property
    def residual(self) -> Tensor | None:
        """dL/du minus what the declared surrogate implies."""
        return self.whole.residual

    def _at(self, rows: slice, samples: slice) -> Tensor:
        """Return dL/du from dL/dI: back through the gain and the synaptic filter."""
        grad, decay, gain = wide(self.like[rows, samples]), self.spec.synapse_decay, self.spec.gain
        if not (isinstance(decay, int | float) and decay == 0):
            if rows.stop < len(self.like):
                last = wide(self.like[rows.stop, samples])
            else:
                last = torch.zeros_like(grad[0]) if self.later is None else self.later[0][samples]
            grad = grad - self.cut(decay, rows, samples) * _ahead(grad, last)
        if isinstance(gain, int | float) and gain == 1:
            return grad
        through: Tensor = grad / self.cut(gain, rows, samples)
        return through

    def _after(self, samples: slice) -> Tensor:
        """Return dL/du of the timestep behind the last one."""
        if self.later is not None:
            return self.later[1][samples]
        return torch.zeros_like(wide(self.like[0, samples]))

    def cut(self, value: Any, rows: slice, samples: slice) -> Any:
        """Return what a value that broadcasts over u is for a part of it."""
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        return torch.broadcast_to(value, self.like.shape)[rows, samples]

    def _cut_spec(self, rows: slice, samples: slice) -> NeuronSpec:
        names = ("decay", "threshold", "reset_value", "reset_amount")
        values = {name: getattr(self.spec, name) for name in names}
        parts = {
            name: self.cut(value, rows, samples)
            for name, value in values.items()
            if isinstance(value, Tensor) and value.numel() > 1
        }
        return replace(self.spec, **parts) if parts else self.spec

    def _cut_surrogate(self, surrogate: Surrogate, rows: slice, samples: slice) -> Surrogate:
        parts = {
            name: self.cut(value, rows, samples)
            for name in ("peak", "width")
            if isinstance(value := getattr(surrogate, name), Tensor) and value.numel() > 1
        }
        return replace(surrogate, **parts) if parts else surrogate


def _plus(values: Tensor, factor: Any, other: Tensor) -> Tensor:
    """Return values + factor * other, in one pass where the factor is a number."""
    if isinstance(factor, int | float):
        return torch.add(values, other, alpha=factor)
    total: Tensor = values + factor * other
    return total


def _ahead(values: Tensor, last: Tensor) -> Tensor:
    """Return the values of the next timestep, ``last`` after the final one."""
    if len(values) == 1:
        return last.unsqueeze(0)
    return torch.cat([values[1:], last.unsqueeze(0)])


def looks_at_potential(spec: NeuronSpec) -> bool:
    """Return whether the gradients need the potential of every sample."""
    return spec.reset == "to_value" and spec.reset_gradient


def _reset_slope(spec: NeuronSpec, u: Tensor | None) -> Any:
    """Return dv/ds at fixed u: what one more spike takes away from the carried potential."""
    if u is not None:
        return spec.reset_value - u
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    return -amount
