"""The statistics of a forward pass on a CPU, piece by piece of a size that stays in its cache.

The definitions are those of :mod:`.accumulators`; here each element is read a few dozen times from
the cache and once from memory, and a replayed potential need never get there. Sums of a piece are
taken in the data's own dtype, sums over pieces in float64. What is unusual (NaN, infinities, sizes
whose squares leave float32) is left to the general route.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .accumulators_merge import Block
from .densities_cpu import LONGEST
from .observed import Dynamics, Observed
from .sums_cpu import Sums, Units, Unusual
from .update_rule import Update, is_plain

PIECE = 1 << 17
"""Elements per piece and thread: a compromise of what fits a cache and what a call costs."""


def pieces(timesteps: int, samples: int, units: int) -> tuple[int, int]:
    """Return how to cut ``[T, N, M]``: how many timesteps and samples make a piece.

    A layer of which several timesteps fit into a piece is cut along time only, another along its
    samples and into single timesteps.
    """
    size = PIECE * torch.get_num_threads()
    together = max(1, min(timesteps, LONGEST, size // max(1, samples * units)))
    share = samples if together > 1 else max(1, min(samples, size // max(1, units)))
    return together, share


def cut(values: Tensor, sizes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    """Return the pieces ``[k, n, M]`` of ``[T, N, ...]``, by timesteps and then by samples."""
    flat = values.reshape(*values.shape[:2], -1)
    return [torch.split(rows, sizes[1], 1) for rows in torch.split(flat, sizes[0])]


class _Source:
    """Where the potential comes from: it is there."""

    def __init__(self, u: list[tuple[Tensor, ...]], threshold: float) -> None:
        self._u, self._threshold = u, u[0][0].new_tensor(threshold)

    def put(self, row: int, share: int, z: Tensor, space: Tensor) -> None:
        """Put u - threshold of a piece into z."""
        torch.sub(self._u[row][share], self._threshold, out=z)


class _Replayed:
    """Where the potential comes from: it is replayed, a timestep after the other of each share."""

    def __init__(
        self,
        dynamics: Dynamics,
        current: list[tuple[Tensor, ...]],
        spikes: list[tuple[Tensor, ...]],
        sizes: tuple[int, int],
        each: bool,
        late: bool,
    ) -> None:
        spec, like = dynamics.spec, spikes[0][0]
        self._update = Update(spec, like.dtype)
        self._threshold = like.new_tensor(spec.threshold)
        self._current, self._spikes = current, spikes
        self._late: Update | None = None
        if late and spec.reset != "none":
            self._late = Update(replace(spec, delayed_reset=True), like.dtype)
            self._fires = torch.ge if spec.fires_at_threshold else torch.gt
            self._settled = torch.empty_like(like) if each else torch.empty_like(like[:1])
        start = dynamics.start
        self._apart = each  # each timestep has a start of its own
        self._start = cut(start if self._apart else start.unsqueeze(0), sizes)
        self._kept: list[tuple[Tensor, ...]] | None = None
        self._v: Tensor | None = None

    def keep(self, u: Tensor, sizes: tuple[int, int]) -> None:
        """Leave the potential of the first samples in u, ``[T, n, ...]``."""
        self._kept = cut(u, sizes)

    def put(self, row: int, share: int, z: Tensor, space: Tensor) -> None:
        """Put u - threshold of a piece into z."""
        given, seen = self._current[row][share], self._spikes[row][share]
        if self._apart:
            self._update.charge(self._begin(row, share, space), given, z, space)
        else:
            v = self._v
            if row == 0 or v is None:
                v = self._begin(0, share, space[:1])
                self._v = torch.empty_like(z[:1])
            room = self._v
            assert room is not None
            for now, entering, fired in (
                [(z, given, seen)]
                if len(z) == 1
                else zip(*(torch.split(part, 1) for part in (z, given, seen)), strict=True)
            ):
                self._update.charge(v, entering, now, space[:1])
                v = self._update.release(now, fired, room)
            if v is not room:  # without a reset v is u itself, which is written over
                room.copy_(v)
        if self._kept is not None and share < len(self._kept[row]):
            kept = self._kept[row][share]
            kept.copy_(z[:, : kept.shape[1]])
        z.sub_(self._threshold)

    def _begin(self, row: int, share: int, space: Tensor) -> Tensor:
        """Return the potential that a piece begins with, after the reset."""
        start = self._start[row][share]
        if self._late is None:
            return start
        fired = self._fires(start, self._threshold, out=space)
        room = self._settled.view(-1)[: start.numel()].view(start.shape)
        return self._late.release(start, fired, room)


def handles(seen: Observed) -> bool:
    """Return whether this route is made for a forward pass: plain numbers, one wide dtype."""
    layer = [seen.threshold]
    if seen.surrogate is not None:
        layer += [seen.surrogate.peak, seen.surrogate.width]
    like = seen.u
    if seen.dynamics is not None:
        like = seen.current
        if like is None or not is_plain(seen.dynamics.spec, like, seen.spikes, seen.dynamics.start):
            return False
    return (
        like is not None
        and suits(like)
        and like.dtype == seen.spikes.dtype
        and all(not isinstance(number, Tensor) or number.numel() == 1 for number in layer)
    )


def suits(values: Tensor) -> bool:
    """Return whether a tensor is one for this route."""
    wide = values.dtype in (torch.float32, torch.float64)
    return values.device.type == "cpu" and wide and values.numel() > 0


def forward(seen: Observed) -> Block | None:
    """Summarise one forward pass, replayed or not; see :func:`.accumulators.forward_block`.

    Args:
        seen: what is known of it; one that :func:`handles` takes. Leaves u there where it was
            replayed and is kept.

    Returns:
        The forward columns, or None where the values are unusual.
    """
    like = seen.spikes
    timesteps, samples, *shape = like.shape
    units = math.prod(shape)
    if units >= 2**24 or timesteps * samples >= 2**24:
        return None
    sizes = pieces(timesteps, samples, units)
    spikes = cut(like, sizes)
    current = None if seen.current is None else cut(seen.current, sizes)
    source: _Source | _Replayed
    if seen.dynamics is None:
        assert seen.u is not None
        source = _Source(cut(seen.u, sizes), float(seen.threshold))
    else:
        assert current is not None
        source = _Replayed(seen.dynamics, current, spikes, sizes, seen.apart, seen.late)
        if seen.keep_u:
            kept = samples if seen.keep_samples is None else min(seen.keep_samples, samples)
            seen.u = like.new_empty(timesteps, kept, *shape)
            source.keep(seen.u, sizes)
    sums = Sums(seen, (timesteps, samples, units))
    try:
        _go_through(sums, source, seen, spikes, current, sizes)
    except Unusual:
        seen.u = None if seen.dynamics is not None else seen.u
        return None
    seen.units = sums.fired.round().long().view(shape)
    return sums.block()


def _go_through(
    sums: Sums,
    source: _Source | _Replayed,
    seen: Observed,
    spikes: list[tuple[Tensor, ...]],
    current: list[tuple[Tensor, ...]] | None,
    sizes: tuple[int, int],
) -> None:
    implied = None if seen.implied is None else cut(seen.implied, sizes)
    whose = _Whose(seen, sizes[1])
    rooms = seen.spikes.new_empty(2, spikes[0][0].numel())
    for share, like in enumerate(spikes[0]):
        units = whose.units(share)
        samples = slice(share * sizes[1], share * sizes[1] + like.shape[1])
        z, space = (room[: like.numel()].view(like.shape) for room in rooms)
        for row, observed in enumerate(piece[share] for piece in spikes):
            t = row * sizes[0]
            if len(observed) < len(z):  # the last piece is shorter
                z, space = z[: len(observed)], space[: len(observed)]
            source.put(row, share, z, space)
            sums.follow(t, observed, units)
            sums.add(
                (slice(t, t + len(observed)), samples),
                z,
                None if implied is None else implied[row][share],
                observed,
                None if current is None else current[row][share],
                space,
            )
    whose.end(sums)


class _Whose:
    """The units of a layer, share by share of its samples."""

    def __init__(self, seen: Observed, share: int) -> None:
        self._past, self._t, self._like = seen.past, seen.t, seen.spikes
        kept: list[Tensor] = []
        if seen.past is not None:
            kept = [seen.past.ever] + ([] if seen.past.always is None else [seen.past.always])
        elif seen.fired_before is not None and seen.t > 1:
            kept = [seen.fired_before]
        self._parts = [torch.split(part.flatten(1), share) for part in kept]

    def units(self, share: int) -> Units:
        """Return what the units of a share have done so far."""
        parts = [part[share] for part in self._parts]
        if self._past is not None:
            return Units(*parts, begun=self._past.t > 0)
        if not parts:
            return Units()
        kinds = parts[0] > 0, parts[0] == self._t - 1
        return Units(*(kind.to(self._like.dtype) for kind in kinds), begun=True)

    def end(self, sums: Sums) -> None:
        """Note what was followed in place."""
        if self._past is not None:
            self._past.t += 1
            if sums.saturated[-1] == 0:  # nobody comes back
                self._past.always = None
