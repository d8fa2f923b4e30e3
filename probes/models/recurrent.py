"""A recurrent spiking network for sequences, with leaky readout units."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..lif import LIF
from .counts import require_at_least_one
from .normalisation import Norm, normalisation, start_for_spikes


class RecurrentLayer(nn.Module):
    """Spiking layer whose spikes feed back to itself with one timestep of delay.

    ``I[t] = norm(input x[t]) + recurrent s[t-1]``, ``s[0] = 0``; the norm sees the feed-forward
    current of all timesteps at once, which the feedback cannot.

    Args:
        features: size of the input.
        units: size of the layer.
        norm: normalisation of the feed-forward current.
        neuron: settings of the :class:`LIF` layer.
    """

    def __init__(self, features: int, units: int, norm: Norm = "none", **neuron: Any) -> None:
        super().__init__()
        self.input = nn.Linear(features, units, bias=norm == "none")
        lif = LIF(**neuron, step_mode="single")
        self.norm = normalisation(norm, units, lif.spec.threshold)
        self.lif = lif
        self.recurrent = nn.Linear(units, units, bias=False)
        start_for_spikes(self.input.weight)
        nn.init.normal_(self.recurrent.weight, 0.0, 0.5 / math.sqrt(units))

    def forward(self, sequence: Tensor) -> Tensor:
        """Turn ``[T, N, features]`` into spikes ``[T, N, units]``."""
        driven = self.input(sequence)
        flat = driven.flatten(0, 1)[:, :, None, None]  # both norms want channels and space
        driven = self.norm(flat).reshape(driven.shape)
        self.lif.reset()
        spikes: list[Tensor] = []
        for now in driven.unbind(0):
            current = now + self.recurrent(spikes[-1]) if spikes else now
            spikes.append(self.lif(current))
        return torch.stack(spikes)


class LeakyReadout(nn.Module):
    """Units that do not fire: ``y[t] = decay y[t-1] + W s[t] + b``, ``y[0] = 0``.

    Args:
        features: size of the input.
        classes: number of units.
        decay: share of y that survives one timestep, in [0, 1).
    """

    def __init__(self, features: int, classes: int, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(
                f"readout_decay={decay!r} is not possible: it must be at least 0 and below 1"
            )
        self.linear = nn.Linear(features, classes)
        self.decay = decay

    def forward(self, spikes: Tensor) -> Tensor:
        """Turn spikes ``[T, N, features]`` into potentials ``[T, N, classes]``."""
        driven = self.linear(spikes)
        t = torch.arange(len(driven), device=driven.device)
        age = (t[:, None] - t).to(driven.dtype)
        # The recursion written out: what s[k] contributes to y[t] is decay^(t-k).
        kernel = torch.where(age >= 0, self.decay ** age.clamp(min=0), 0.0)
        potential: Tensor = (kernel @ driven.flatten(1)).reshape(driven.shape)
        return potential


class RecurrentNet(nn.Module):
    """Recurrent spiking layers under a leaky readout; see :func:`recurrent_net`."""

    def __init__(
        self,
        features: int,
        classes: int,
        units: tuple[int, ...],
        norm: Norm,
        readout_decay: float,
        **neuron: Any,
    ) -> None:
        super().__init__()
        sizes = (features, *units)
        self.layers = nn.ModuleList(
            RecurrentLayer(size, next_size, norm, **neuron) for size, next_size in pairwise(sizes)
        )
        self.readout = LeakyReadout(units[-1], classes, readout_decay)

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn sequences ``[N, T, features]`` into logits ``[N, classes]``.

        Images ``[N, channels, height, width]`` are read row by row.
        """
        if inputs.ndim == 4:
            inputs = inputs.transpose(1, 2).flatten(2)
        x = inputs.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.readout(x).amax(0)
        return logits


def recurrent_net(
    features: int,
    classes: int = 10,
    units: int | list[int] = 64,
    norm: Norm = "none",
    readout_decay: float = 0.9,
    **neuron: Any,
) -> RecurrentNet:
    """Build a recurrent spiking network for sequences.

    Args:
        features: size of the input at one timestep.
        classes: number of classes.
        units: size of the spiking layer, or of several, first to last.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``, of the feed-forward currents.
        readout_decay: share of the readout's potential that survives one timestep, in [0, 1).
        neuron: settings of every :class:`LIF` layer.

    Returns:
        Takes ``[N, T, features]``, gives logits ``[N, classes]``: the readout's maximum over time.

    Raises:
        ValueError: a count below 1, or a setting that no neuron, norm or readout can have.

    Example:
        >>> recurrent_net(8, units=16)(torch.zeros(3, 20, 8)).shape
        torch.Size([3, 10])

    Source:
        Zenke and Vogels 2021 (Neural Computation 33), methods, for recurrent layers, leaky
        readout units and the maximum over time.
    """
    sizes = (units,) if isinstance(units, int) else tuple(units)
    require_at_least_one(features=features, classes=classes, layers=len(sizes))
    for size in sizes:
        require_at_least_one(units=size)
    return RecurrentNet(features, classes, sizes, norm, readout_decay, **neuron)
