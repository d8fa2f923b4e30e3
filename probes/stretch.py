"""What is summarised together: the timesteps of one call, or of many calls of one timestep each.

A layer that is called timestep by timestep would pay for a summary each time. Its numbers are
copied instead, a few megabytes at most, and summarised together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from .modes import wide
from .update_rule import is_plain

ROOM = 1 << 20
"""Elements of one quantity that are gathered before they are summarised."""

MOST = 256
"""Timesteps that are gathered at most."""


@dataclass(eq=False)
class Stretch:
    """Consecutive timesteps of a layer, ``[T, N, ...]`` each.

    Args:
        t: the first of them.
        mode: ``"train"`` or ``"eval"``.
        spec: the dynamics in force.
        surrogate: the surrogate in force.
        spikes: observed spikes; where they are gathered, those that came so far.
        u: potential, as far as the backward pass needs it; None before it is summarised.
        joined: whether the gradient flows on into what came before.
        passed: whether the state is the potential that the call before handed out.
        later: the timesteps that follow.
        first: dL/dI and dL/du of the first timestep, which those before need.
    """

    t: int
    mode: str
    spec: NeuronSpec
    surrogate: Surrogate | None
    spikes: Tensor
    u: Tensor | None = None
    joined: bool = False
    passed: bool = False
    later: Stretch | None = None
    first: tuple[Tensor, Tensor] | None = None
    gathered: Gathered | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """Under which its statistics are kept."""
        return self.mode, self.t, len(self.spikes)

    @property
    def after(self) -> tuple[Tensor, Tensor] | None:
        """dL/dI and dL/du of the timestep after its last, None where the gradient is cut."""
        return self.later.first if self.later is not None and self.later.joined else None


@dataclass(eq=False)
class Visit:
    """One call of a layer.

    Args:
        stretch: where its timesteps are.
        place: the first of them in there.
        backward: the backward pass that its gradients come from.
        grad_spikes: dL/ds, ``[T, N, ...]``, once it has arrived.
        grad_handed: gradient on the potential that the layer handed out.
    """

    stretch: Stretch
    place: int = 0
    backward: int | None = None
    grad_spikes: Tensor | None = None
    grad_handed: Tensor | None = None

    @property
    def spec(self) -> NeuronSpec:
        """The dynamics in force."""
        return self.stretch.spec

    @property
    def u(self) -> Tensor:
        """Potential of a call that is summarised by itself."""
        assert self.stretch.u is not None
        return wide(self.stretch.u)

    @property
    def spikes(self) -> Tensor:
        """Spikes of a call that is summarised by itself."""
        return self.stretch.spikes


@dataclass(eq=False)
class Gathered:
    """Copies of timesteps that came one by one, ``[room, N, ...]`` each.

    Args:
        like: the input of the first one, ``[1, N, ...]``.
        late: whether each start is before its reset.
    """

    like: Tensor
    late: bool = False
    current: Tensor = field(init=False)
    spikes: Tensor = field(init=False)
    start: Tensor = field(init=False)
    grad_input: Tensor | None = None
    grad_spikes: Tensor | None = None
    count: int = 0
    arrived: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.like = self.like.new_empty(()).expand(self.like.shape)  # not the tensor itself
        room = max(1, min(MOST, ROOM // self.like.numel()))
        shape = (room, *self.like.shape[1:])
        self.current, self.spikes, self.start = (self.like.new_empty(shape) for _ in range(3))

    @staticmethod
    def suits(spec: NeuronSpec, current: Tensor, spikes: Tensor, start: Tensor) -> bool:
        """Return whether timesteps like this one are gathered."""
        return (
            len(current) == 1
            and current.numel() <= ROOM // 8
            and current.dtype in (torch.float32, torch.float64)
            and is_plain(spec, current, spikes, start)
        )

    def takes(self, like: Tensor, late: bool) -> bool:
        """Return whether another timestep fits in."""
        return (
            self.count < len(self.current)  # none after letting go
            and self.like.shape == like.shape
            and self.like.dtype == like.dtype
            and self.late == late
        )

    def add(self, current: Tensor, spikes: Tensor, start: Tensor) -> int:
        """Copy a timestep, and return its place."""
        place = self.count
        self.current[place].copy_(current[0])
        self.spikes[place].copy_(spikes[0])
        self.start[place].copy_(start)
        self.count += 1
        return place

    def let_go(self) -> None:
        """Forget what is needed no more once it is summed up."""
        self.current = self.start = self.like = self.like.new_empty(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self.current.nbytes + self.spikes.nbytes + self.start.nbytes

    def add_gradients(self, place: int, grad_input: Tensor, grad_spikes: Tensor | None) -> None:
        """Copy the gradients of a timestep; dL/ds is 0 where its spikes reach no loss."""
        if self.grad_input is None or self.grad_spikes is None:
            self.grad_input = torch.empty_like(self.spikes[: self.count])
            self.grad_spikes = torch.empty_like(self.grad_input)
        self.grad_input[place].copy_(grad_input[0])
        if grad_spikes is None:
            self.grad_spikes[place].zero_()
        else:
            self.grad_spikes[place].copy_(grad_spikes[0])
        self.arrived.add(place)

    @property
    def complete(self) -> bool:
        """Whether every timestep has got its gradients."""
        return len(self.arrived) == self.count

    def runs(self) -> Iterator[slice]:
        """Yield the runs of neighbours that got gradients, the last one first."""
        stop = None
        for place in range(self.count - 1, -2, -1):
            if place in self.arrived:
                stop = place + 1 if stop is None else stop
            elif stop is not None:
                yield slice(place + 1, stop)
                stop = None
