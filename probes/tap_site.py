"""One place in the code of a model that calls a surrogate: whose it is, and which timestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .stream import Stream
from .tap_rule import HIDDEN, FiringRule, Gap, Refused, height_place
from .tap_surrogate import Measured, Samples

NUMBER_SHARE = 0.02
"""A threshold inside a Function is found once it is known to this share of itself."""


@dataclass(eq=False)
class Site:
    """One place in the code of one module that calls a surrogate, in one mode."""

    owner: nn.Module
    function: type
    mode: str
    stream: Stream
    gap: Gap = field(default_factory=Gap)
    threshold: float | None = None
    height: Tensor | float = 1.0
    height_place: int | None = None
    measured: Measured | None = None
    samples: Samples = field(default_factory=Samples)
    settled: bool = False
    """Whether it has a name, or is known to repeat what another site does."""
    repeated: bool = False
    undecided: bool = False
    repeats: int = 0
    last: Tensor | None = None
    t: int = 0
    longest: int = 0
    """Largest timestep that was seen."""
    shape: torch.Size | None = None
    passes: tuple[int, int] = (0, 0)
    counts: tuple[int, int] = (0, 0)
    turned: bool = False
    """Whether a gradient came back since the last call."""

    def look(self, rule: FiringRule, inputs: Sequence[Any], output: Tensor) -> None:
        """Take one call as evidence of threshold and height; this waits for the device.

        Raises:
            NoSpike, Refused: see :meth:`.tap_rule.FiringRule.look`; no threshold explains the
                spikes.
        """
        self.gap.widen(*rule.look(inputs, output))
        if rule.place == HIDDEN:
            if self.gap.silent > self.gap.firing:
                raise Refused(_NO_THRESHOLD)
            self.threshold = self.gap.number(NUMBER_SHARE)
        if output.amax() > 0:
            self.height_place = height_place(inputs, output)
            if self.height_place is not None:
                self.height = inputs[self.height_place].detach()
            else:
                self.height = float(output.amax())

    def next_t(self, passes: tuple[int, int], shape: torch.Size) -> int:
        """Return the timestep of a call: calls go on with a sequence, or begin the next one.

        A pass of the model or of the layer that held several timesteps held a whole sequence.
        Where each held one timestep, they belong together until a backward pass lies between.

        Args:
            passes: how often the layer and how often the model have been called.
            shape: shape of the timestep.
        """
        same = [now == before for now, before in zip(passes, self.passes, strict=True)]
        if self.t == 0 or self.shape != shape:
            begins = True
        elif same[0]:
            begins = False
        elif self.counts[0] > 1:
            begins = True
        elif same[1]:
            begins = False
        else:
            begins = self.counts[1] > 1 or self.turned
        self.counts = (
            self.counts[0] + 1 if same[0] else 1,
            self.counts[1] + 1 if same[1] else 1,
        )
        self.passes, self.shape, self.turned = passes, shape, False
        self.t = 1 if begins else self.t + 1
        return self.t


def is_repetition(site: Site, sites: list[Site]) -> bool:
    """Return whether a site evaluates again what another one evaluated the call before.

    snnTorch does so to find out whom to reset: it gives the surrogate the potential that the
    timestep before fired with, and cuts the result off the graph.
    """
    calls = site.stream.calls
    others = [other for other in sites if other is not site]
    return calls > 1 and site.repeats >= calls - 1 and all(site.repeats > o.repeats for o in others)


def is_twin(site: Site, other: Site) -> bool:
    """Return whether two sites are one layer in another mode."""
    return other.stream.name == site.stream.name != "" and other.measured is not None


def entry_of(site: Site, rule: FiringRule, scale: float) -> dict[str, Any]:
    """Return what the run says of a layer."""
    return {
        "name": site.stream.name,
        "kind": type(site.owner).__name__,
        "covered": True,
        "route": "tap",
        "coordinate": "u - threshold" if rule.place == rule.argument else "u",
        "function": site.function.__qualname__,
        "spec": {},
        "surrogate": surrogate_of(site.measured),
        "scale": scale,
    }


def surrogate_of(measured: Measured | None) -> dict[str, Any] | None:
    """Return a fixed surrogate in plain numbers; one that follows an argument has none."""
    if measured is None or measured.place is not None:
        return None
    return dict(vars(measured.unit))


_NO_THRESHOLD = (
    "its surrogate is heard, but its spikes follow neither from the sign of its argument nor from "
    "a threshold among its arguments nor from a constant: name u and the threshold with "
    "probe.attach"
)
