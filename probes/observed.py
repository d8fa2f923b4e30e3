"""What is known of one forward pass of a layer before it is summarised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from .past import Past

ROUNDING_ULPS = 16
"""A replay that adds in another order than the layer differs by a few units in the last place."""


class Dynamics(NamedTuple):
    """From what the potential can be replayed.

    Args:
        spec: the layer's dynamics.
        start: potential before the first timestep, ``[N, ...]``, or before each of them,
            ``[T, N, ...]``.
    """

    spec: NeuronSpec
    start: Tensor


@dataclass
class Observed:
    """One forward pass of a layer, ``[T, N, ...]`` each with N independent samples.

    Args:
        u: pre-reset potential; None where a route is to replay it.
        implied: spikes (0 or 1) that u implies; None where it is what u does at the threshold.
        spikes: observed spikes (0 or 1).
        current: input current; None where it was not seen.
        threshold: threshold in force; a tensor must broadcast over u, ``[T, 1, ...]`` for one per
            timestep. So must the numbers of the surrogate.
        scale: potential per unit of the density's axis.
        surrogate: declared surrogate; without one its columns say that nothing was seen.
        fired_before: spikes of each element before this pass, ``[N, ...]``; None for none.
        t: first timestep of the pass, from 1.
        computed_in: dtype that the layer rounds in.
        fires_at_threshold: whether u = threshold is a spike, where ``implied`` is None.
        histogram: whether to count the density, too.
        dynamics: from what u is replayed; None where u is given.
        keep_u: whether whoever replays u leaves it here.
        keep_samples: of how many samples u is wanted, the first ones; None for all.
        past: in place of ``fired_before``, of a pass of one timestep; a route that looks at it
            takes the timestep into it.
        late: whether the start of the dynamics is before the reset that its own spikes imply.
        units: spikes of each unit over timesteps and samples, ``[...]``; left here by a route that
            counts them along.
    """

    u: Tensor | None
    implied: Tensor | None
    spikes: Tensor
    current: Tensor | None
    threshold: Tensor | float
    scale: float
    surrogate: Surrogate | None
    fired_before: Tensor | None
    t: int
    computed_in: torch.dtype
    fires_at_threshold: bool = True
    histogram: bool = True
    dynamics: Dynamics | None = None
    keep_u: bool = True
    keep_samples: int | None = None
    past: Past | None = None
    late: bool = False
    units: Tensor | None = None

    @property
    def apart(self) -> bool:
        """Whether each timestep is replayed from a start of its own."""
        return self.dynamics is not None and self.dynamics.start.ndim == self.spikes.ndim

    @property
    def rounding(self) -> float:
        """Distance from the threshold within which a replay may disagree with the layer."""
        return ROUNDING_ULPS * torch.finfo(self.computed_in).eps * self.scale
