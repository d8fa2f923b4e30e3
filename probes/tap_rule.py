"""From what a surrogate's Function was given and returned: does it spike, and at which threshold.

Nothing is taken from names. Each possible threshold is kept until a spike contradicts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

GAP_SHARE = 0.1
"""A threshold counts as found once no wider share of the seen range lies free about it."""

_PRECISION = 1e-6


HIDDEN = -1
"""Stands for a threshold that is no argument: each layer's calls must show it."""


class NoSpike(Exception):
    """What a Function returns is no spike at all."""


class Refused(ValueError):
    """Spikes that cannot be read; the message is the reason shown to the user."""


@dataclass
class Gap:
    """Where the argument, minus one possible threshold, was seen to fire and not to fire."""

    silent: float = -math.inf
    firing: float = math.inf

    def widen(self, silent: float, firing: float) -> None:
        """Take in what one call showed."""
        self.silent, self.firing = max(self.silent, silent), min(self.firing, firing)

    @property
    def consistent(self) -> bool:
        """Whether no spike contradicts this threshold."""
        return self.silent <= 0.0 <= self.firing and self.silent < self.firing

    def number(self, share: float) -> float | None:
        """Return the plainest decimal number inside, None while more than a share of it is free.

        Args:
            share: largest width of the gap, in shares of the number.

        Example:
            >>> Gap(silent=0.9987, firing=1.0004).number(0.01)
            1.0
        """
        middle = 0.5 * (self.silent + self.firing)
        if not (self.seen and 0.0 < self.firing - self.silent <= share * abs(middle)):
            return None
        places = -math.floor(math.log10(abs(middle)))
        tries = (round(middle, places + digits) for digits in range(17))
        return next((value for value in tries if self.silent < value <= self.firing), middle)

    @property
    def seen(self) -> bool:
        """Whether some fired and some did not."""
        return math.isfinite(self.silent) and math.isfinite(self.firing)


@dataclass
class FiringRule:
    """What one Function class does, as far as its calls have told.

    ``place`` is where the threshold is among the arguments; the place of the argument itself
    stands for a threshold of 0, so that the argument is u - threshold; :data:`HIDDEN` for a
    number that the Function keeps to itself. None: not known yet.
    """

    argument: int
    place: int | None = None
    _gaps: dict[int, Gap] = field(default_factory=dict)
    _varies: bool = False
    _low: float = math.inf
    _high: float = -math.inf
    _rivals: tuple[int, ...] = ()

    def look(self, inputs: Sequence[Any], output: Tensor) -> tuple[float, float]:
        """Take one call as evidence; this waits for the device.

        Returns:
            The largest argument that was silent and the smallest that fired.

        Raises:
            NoSpike: the output is none of 0 and a height.
            Refused: there are several heights.
        """
        x = inputs[self.argument]
        places = candidates(inputs, self.argument)
        figures = _measure(x, output, list(places.values()))
        varies, least, largest, uneven, low, high, *margins = figures
        if math.isfinite(least):  # something fired
            if least <= 0.0 or (uneven and height_place(inputs, output) is None):
                raise NoSpike
            if largest > least * (1.0 + _PRECISION) and height_place(inputs, output) is None:
                raise Refused("its spikes have several heights, as those of a multi-spike layer do")
        self._varies = self._varies or varies > 0
        self._low, self._high = min(self._low, low), max(self._high, high)
        for index, place in enumerate(places):
            self._gaps.setdefault(place, Gap()).widen(margins[2 * index], margins[2 * index + 1])
        if self._varies and all(gap.seen for gap in self._gaps.values()):
            self._decide(places)
        return margins[0], margins[1]

    @property
    def plausible(self) -> bool:
        """Whether what was seen may be a spiking layer: potentials are no whole numbers."""
        return self._varies

    def unsettled(self, inputs: Sequence[Any]) -> bool:
        """Return whether a call must be looked at: the rule is open, or rivals come apart."""
        if self.place is None:
            return True
        here = threshold_of(inputs, self.place, self.argument)
        return any(not _same(here, inputs[rival]) for rival in self._rivals)

    def _decide(self, places: dict[int, Any]) -> None:
        alive = [place for place in places if self._gaps[place].consistent]
        self._rivals = ()
        if not alive:
            self.place = HIDDEN
            return
        self.place = None
        first, *rest = alive
        if any(not _same(places[first], places[other]) for other in rest):
            return  # different thresholds explain every spike: wait for more
        gap = self._gaps[first]
        if first == self.argument and gap.firing - gap.silent > GAP_SHARE * self._spread:
            return  # 0 lies between the spikes and the rest, but so do others
        self.place = first
        # Waiting for a device at each call is no way to tell them apart: mismatches would show.
        self._rivals = tuple(place for place in rest if not _on_device(places[place]))

    @property
    def _spread(self) -> float:
        return self._high - self._low


def candidates(inputs: Sequence[Any], argument: int) -> dict[int, Any]:
    """Return the possible thresholds by place: 0 for the argument's own, numbers, tensors."""
    x = inputs[argument]
    found: dict[int, Any] = {argument: 0.0}
    for place, value in enumerate(inputs):
        if place == argument:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[place] = float(value)
        elif isinstance(value, Tensor) and value.is_floating_point() and fits(value, x):
            found[place] = value.detach()
    return found


def threshold_of(inputs: Sequence[Any], place: int, argument: int) -> Tensor | float:
    """Return the threshold in force in a call, in the coordinate of the argument."""
    if place == argument:
        return 0.0
    value = inputs[place]
    return value.detach() if isinstance(value, Tensor) else float(value)


def argument_of(inputs: Sequence[Any], output: Any) -> int | None:
    """Return the place of the argument: the first real tensor of the result's shape."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() == 0:
        return None
    for place, value in enumerate(inputs):
        if isinstance(value, Tensor):
            if value.shape != output.shape or not value.is_floating_point():
                continue
            # A parameter is binarised or quantised, it does not fire.
            return None if isinstance(value, torch.nn.Parameter) else place
    return None


def height_of(output: Tensor, usual: Tensor | float) -> Tensor | float:
    """Return what one spike is worth in an output; ``usual`` where nothing fired."""
    if isinstance(usual, Tensor) and usual.numel() > 1:
        return usual
    largest = output.amax()
    return torch.where(largest > 0, largest, usual)


def height_place(inputs: Sequence[Any], output: Tensor) -> int | None:
    """Return the place of the argument that spikes are as high as; this waits for the device."""
    fired = output != 0
    for place, value in enumerate(inputs):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if not fits(value, output) or value.shape == output.shape:
            continue
        if bool((torch.where(fired, value.detach(), 0.0) == output).all()):
            return place
    return None


def fits(value: Tensor, x: Tensor) -> bool:
    """Return whether a value broadcasts over x."""
    try:
        return bool(np.broadcast_shapes(value.shape, x.shape) == tuple(x.shape))
    except ValueError:
        return False


def _same(one: Tensor | float, other: Tensor | float) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    return one == other


def _on_device(value: Tensor | float) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _measure(x: Tensor, output: Tensor, thresholds: Sequence[Any]) -> list[float]:
    """Return, in one transfer, what a call tells.

    Whether x is anything but integers; smallest and largest height, and whether heights are
    anything but multiples of the smallest; smallest and largest x; and for each threshold the
    largest x - threshold that was silent and the smallest that fired.
    """
    x, output = x.detach(), output.detach()
    finite = torch.isfinite(x)
    fired = (output != 0) & finite
    silent = (output == 0) & finite
    settled = torch.where(finite, x, 0.0)
    least = torch.where(fired, output, torch.inf).amin()
    units = output / least
    figures = [
        (settled != settled.round()).any(),
        least,
        torch.where(fired, output, -torch.inf).amax(),
        (fired & ((units - units.round()).abs() > 1e-3)).any(),
        torch.where(finite, x, torch.inf).amin(),
        torch.where(finite, x, -torch.inf).amax(),
    ]
    for threshold in thresholds:
        margin = x - threshold
        figures.append(torch.where(silent, margin, -torch.inf).amax())
        figures.append(torch.where(fired, margin, torch.inf).amin())
    values: list[float] = torch.stack([figure.double() for figure in figures]).tolist()
    return values
