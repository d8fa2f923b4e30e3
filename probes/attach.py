"""What the user's own code hands over of a layer that nothing else can read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .levels import STANDARD, Level
from .modes import Unscale, wide
from .stream import ROUNDING, Moment, Stream, on_gradient
from .tap_rule import fits

SPIKE_TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(eq=False)
class _Layer:
    """One layer that was handed over."""

    stream: Stream
    shifted: bool
    scale: float
    t: int = 0
    turned: bool = False
    """Whether a gradient came back since the last call."""

    def next_t(self, given: int | None) -> int:
        """Return the timestep: as given, else counted until a backward pass lies between."""
        self.t = (1 if self.turned else self.t + 1) if given is None else given
        self.turned = False
        return self.t


class Attached:
    """The layers of one model that its own code names.

    Args:
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        level: what is read of a step.
    """

    def __init__(self, guard: Guard, unscale: Unscale, level: Level = STANDARD) -> None:
        self._guard, self._unscale, self._level = guard, unscale, level
        self._layers: dict[str, _Layer] = {}
        self._handles: list[Any] = []

    def take(
        self,
        name: str,
        mode: str,
        u: Tensor | None,
        z: Tensor | None,
        spikes: Tensor,
        threshold: Tensor | float | None,
        t: int | None,
    ) -> None:
        """Record one timestep of one layer; see :meth:`.probe.Probe.attach`.

        Raises:
            ValueError: what was given does not fit together.
        """
        potential, level = check(u, z, spikes, threshold, t)
        layer = self._layers.get(name)
        shifted = z is not None
        if layer is None:  # looked at closely once
            if not _has_one_height(spikes.detach().float()):
                raise ValueError("spikes take several values: give 0 and one height")
            layer = _Layer(Stream(name, self._unscale, self._level), shifted, _scale(level))
            self._layers[name] = layer
        if layer.shifted != shifted:
            before, now = ("z", "u") if layer.shifted else ("u", "z")
            raise ValueError(f"{now}= was given, and {before}= earlier: give the same in each call")
        moment = Moment(mode, layer.next_t(t))
        with torch.no_grad():
            u_now = wide(potential.detach())
            moment.height, fired = _fired(wide(spikes.detach().to(u_now.dtype)))
            layer.stream.record(moment, u_now, fired, level, layer.scale)
        if spikes.requires_grad:
            layer.stream.learns(mode)
            self._listen(spikes, layer, moment, layer.stream.at_spikes)
        if potential.requires_grad:
            self._listen(potential, layer, moment, layer.stream.at_potential)

    def disarm(self) -> None:
        """Remove the hooks and forget what belongs to the step."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for layer in self._layers.values():
            layer.stream.clear()
            layer.t = 0

    def finish(self) -> list[Stream]:
        """End the step: return the records of the layers."""
        for layer in self._layers.values():
            layer.stream.finish()
        return [layer.stream for layer in self._layers.values() if layer.stream.forward]

    def entries(self) -> list[dict[str, Any]]:
        """Return what the run says of each layer."""
        return [
            {
                "name": name,
                "kind": "attached",
                "covered": True,
                "route": "attach",
                "coordinate": "u - threshold" if layer.shifted else "u",
                "spec": {},
                "surrogate": None,
                "scale": layer.scale,
            }
            for name, layer in self._layers.items()
        ]

    def _listen(
        self, tensor: Tensor, layer: _Layer, moment: Moment, act: Callable[..., None]
    ) -> None:
        def hook(gradient: Tensor) -> None:
            layer.turned = True
            if not layer.stream.is_first_backward(moment):
                return
            with torch.no_grad():
                act(moment, wide(gradient.detach()))

        self._handles.append(on_gradient(tensor, self._guard(hook)))


def check(u: Any, z: Any, spikes: Any, threshold: Any, t: Any) -> tuple[Tensor, Tensor | float]:
    """Return the potential that was given and the threshold in its coordinate.

    Raises:
        ValueError: a line that quotes what does not fit and says what would be right.
    """
    if (u is None) == (z is None):
        given = "neither" if u is None else "both"
        raise ValueError(f"{given} of u= and z= was given: give u= with threshold=, or z= alone")
    name, potential = ("u", u) if z is None else ("z", z)
    for what, value in ((name, potential), ("spikes", spikes)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{what}={value!r} is no tensor: give one timestep, [N, ...]")
    if not potential.is_floating_point():
        raise ValueError(f"{name} is {potential.dtype}: give floating numbers")
    if not (spikes.is_floating_point() or spikes.dtype in SPIKE_TYPES):
        raise ValueError(f"spikes are {spikes.dtype}: give floating numbers, integers or bools")
    if potential.shape != spikes.shape or potential.dim() == 0:
        raise ValueError(
            f"{name} of shape {tuple(potential.shape)} and spikes of shape {tuple(spikes.shape)}: "
            "give one timestep of both, [N, ...] each"
        )
    if potential.numel() == 0:
        raise ValueError(f"{name} of shape {tuple(potential.shape)} holds nothing")
    if t is not None and (not isinstance(t, int) or isinstance(t, bool) or t < 1):
        raise ValueError(f"t={t!r} is not possible: timesteps are whole numbers from 1")
    if z is not None:
        if threshold is not None:
            raise ValueError(f"threshold={threshold!r} is in z already: give z= alone")
        return potential, 0.0
    if isinstance(threshold, Tensor):
        if not (threshold.is_floating_point() and fits(threshold, potential)):
            raise ValueError(
                f"threshold is {threshold.dtype} of shape {tuple(threshold.shape)}: give floating "
                f"numbers that broadcast over u of shape {tuple(potential.shape)}"
            )
        return potential, threshold.detach()
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ValueError(f"threshold={threshold!r}: u= needs one, give a number or a tensor")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold={threshold!r} is not finite: give a finite number")
    return potential, float(threshold)


def _fired(spikes: Tensor) -> tuple[Tensor, Tensor]:
    """Return what one spike is worth, and 1 where there is one, else 0.

    A spike that is written as hard - soft.detach() + soft leaves rounding where there is none.
    """
    largest = spikes.amax()
    height = torch.where(largest > ROUNDING, largest, 1.0)
    return height, (spikes > 0.5 * height).to(spikes.dtype)


def _has_one_height(spikes: Tensor) -> bool:
    """Return whether spikes are 0 or one height; this waits for the device."""
    height, fired = _fired(spikes)
    return bool(((spikes - fired * height).abs() <= ROUNDING * height).all())


def _scale(threshold: Tensor | float) -> float:
    """Return the potential per unit of the density's axis; this waits for the device."""
    level = float(threshold.double().mean()) if isinstance(threshold, Tensor) else threshold
    return abs(level) or 1.0
