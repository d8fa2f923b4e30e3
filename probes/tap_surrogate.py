"""A surrogate measured from the gradients before and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..analysis.surrogate_identify import identify
from .tap_rule import Gap

PER_CALL = 512
"""Elements that one call gives."""

CALLS = 32
"""Calls of one step that give some."""

EDGE_SHARE = 0.05
"""A rectangle's width counts as known once it is known to this share of itself."""

_TRIES = 5  # recorded steps after which a surrogate counts as unknown
_FEWEST = 16
_MOST = 4000  # points that a fit looks at

Numbers = dict[int, Tensor | float]
"""The single numbers among a call's arguments, by their place."""


@dataclass(frozen=True)
class Measured:
    """A surrogate as it was measured, and the argument that its width follows.

    Args:
        unit: the surrogate where that argument is 1; the surrogate itself where there is none.
        place: place of the argument whose multiple the width is; None for a fixed width.
        keeps_area: whether the peak is then 1 / argument as high, so that the area stays.
        numbers: the other arguments during the measurement, which it holds for.
    """

    unit: Surrogate
    place: int | None
    keeps_area: bool
    numbers: Numbers

    def at(self, numbers: Numbers) -> Surrogate | None:
        """Return the surrogate of a call, None where it may be another one than was measured."""
        for place, value in self.numbers.items():
            now = numbers.get(place)
            if isinstance(value, float) and isinstance(now, float) and value != now:
                return None
        if self.place is None:
            return self.unit
        factor: Any = numbers.get(self.place)
        if factor is None:
            return None
        peak = self.unit.peak / factor if self.keeps_area else self.unit.peak
        return Surrogate(self.unit.shape, peak, self.unit.width * factor, self.unit.tail)


@dataclass(frozen=True)
class Sampled:
    """u - threshold at some elements of a call, and the call's numbers."""

    z: Tensor
    numbers: Numbers


class Samples:
    """Pairs of u - threshold and the surrogate's derivative there, of one layer."""

    def __init__(self) -> None:
        self._parts: list[tuple[Sampled, Tensor, Tensor]] = []  # on the device
        self._seen: list[tuple[dict[int, float], Any, Any]] = []  # on the host
        self._tries = 0
        self._loose = True

    @property
    def ready(self) -> bool:
        """Whether there is anything new to fit."""
        return bool(self._parts)

    def clear(self) -> None:
        """Forget what a step left unfinished."""
        self._parts = []

    def of(
        self, x: Tensor, threshold: Tensor | float, numbers: Numbers, known: bool
    ) -> Sampled | None:
        """Return what is kept of a call, None where no more is wanted.

        Args:
            x: the surrogate's argument.
            threshold: the threshold in its coordinate.
            numbers: single numbers among the arguments.
            known: whether the call's surrogate is known already.
        """
        wanted = self._loose or not known
        if not wanted or self._tries >= _TRIES or len(self._parts) >= CALLS:
            return None
        kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in numbers.items()}
        return Sampled(_some(x - threshold), kept)

    def take(self, sampled: Sampled, before: Tensor, behind: Tensor) -> None:
        """Take the gradients of a call: dL/ds per spike before the surrogate, dL/du behind it."""
        if len(self._parts) < CALLS:
            self._parts.append((sampled, _some(before.expand_as(behind)), _some(behind)))

    def measured(self) -> Measured | None:
        """Return the surrogate that explains all samples best, None if none does.

        This waits for the device. While an argument on the device has had one value only, the
        width may yet turn out to follow it: the next recorded steps are sampled, too.
        """
        self._tries += 1
        parts, self._parts = self._parts, []
        largest = max(float(before.abs().amax()) for _, before, _ in parts)
        for sampled, before, behind in parts:
            here = {place: float(value) for place, value in sampled.numbers.items()}
            z, given, out = (_host(part) for part in (sampled.z, before, behind))
            clear = np.isfinite(z) & np.isfinite(out) & (np.abs(given) > 1e-4 * largest)
            self._seen.append((here, z[clear], out[clear] / given[clear]))
        places = self._seen[0][0]
        values = {place: [here[place] for here, _, _ in self._seen] for place in places}
        varying = [place for place in places if len(set(values[place])) > 1]
        numbers = parts[0][0].numbers
        fixed = {place: numbers[place] for place in places if place not in varying}
        self._loose = any(isinstance(value, Tensor) for value in fixed.values())
        tries: list[tuple[int | None, bool]] = [(None, False)]
        tries += [(place, area) for place in varying for area in (True, False)]
        fits = []
        for place, keeps_area in tries:
            if place is not None and min(values[place]) <= 0.0:
                continue
            factor = [1.0 if place is None else here[place] for here, _, _ in self._seen]
            z = np.concatenate([z / f for f, (_, z, _) in zip(factor, self._seen, strict=True)])
            heights = [f if keeps_area else 1.0 for f in factor]
            slope = np.concatenate(
                [s * f for f, (_, _, s) in zip(heights, self._seen, strict=True)]
            )
            error, unit = _fit(z, slope)
            if unit is not None:
                fits.append((error, Measured(unit, place, keeps_area, fixed)))
        if not self._loose or self._tries >= _TRIES:
            self._seen = []
        # The simpler one comes first and wins where both fit to rounding.
        return min(fits, key=lambda fit: max(fit[0], 1e-6))[1] if fits else None


def numbers_of(inputs: Sequence[Any], argument: int) -> Numbers:
    """Return the arguments of a call that are a single number."""
    found: Numbers = {}
    for place, value in enumerate(inputs):
        if place == argument or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            found[place] = float(value)
        elif isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
            found[place] = value.detach().reshape(())
    return found


def _fit(z: Any, slope: Any) -> tuple[float, Surrogate | None]:
    """Return the largest deviation, in shares of the peak, and the surrogate behind samples."""
    z, first = np.unique(z, return_index=True)
    slope = slope[first]
    if len(z) < _FEWEST:
        return np.inf, None
    surrogate = _rectangle(z, slope)
    if surrogate is None:
        thin = slice(None, None, 1 + len(z) // _MOST)
        surrogate = identify(z[thin], slope[thin]).surrogate
    if surrogate is None:
        return np.inf, None
    error = np.max(np.abs(surrogate.derivative(z) - slope)) / surrogate.peak
    return float(error), surrogate


def _rectangle(z: Any, slope: Any) -> Surrogate | None:
    """Return the rectangle behind samples, as wide as the plainest number that they leave open."""
    peak = np.max(slope)
    inside = slope > 0.5 * peak
    if not peak > 0.0:
        return None
    if not np.allclose(slope, np.where(inside, peak, 0.0), rtol=0.0, atol=1e-3 * peak):
        return None
    least, most = np.max(np.abs(z[inside])), np.min(np.abs(z[~inside]), initial=np.inf)
    width = Gap(2.0 * float(least), 2.0 * float(most)).number(EDGE_SHARE)
    return None if width is None else Surrogate("rectangular", float(peak), width)


def _host(values: Tensor) -> Any:
    return values.double().cpu().numpy()


def _some(values: Tensor) -> Tensor:
    flat = values.detach().flatten()
    return flat[:: max(1, len(flat) // PER_CALL)].clone()
