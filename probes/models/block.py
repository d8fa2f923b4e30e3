"""A spiking convolution layer, the building block of the networks for images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..lif import LIF
from .normalisation import Norm, normalisation, start_for_spikes


class SpikingBlock(nn.Module):
    """Convolution, norm and a spiking layer, on a sequence.

    Convolution and norm treat all timesteps alike: time and batch are one merged axis for them.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: 2 halves height and width.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``.
        kernel: 3, or 1 on a shortcut.
        neuron: settings of the :class:`LIF` layer.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        norm: Norm = "batch",
        kernel: int = 3,
        **neuron: Any,
    ) -> None:
        super().__init__()
        plain = norm == "none"
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=plain
        )
        if plain:
            start_for_spikes(self.conv.weight)
        lif = LIF(**neuron)
        self.norm = normalisation(norm, channels_out, lif.spec.threshold)
        self.lif = lif

    def forward(self, spikes: Tensor) -> Tensor:
        """Turn ``[T, N, channels_in, H, W]`` into spikes ``[T, N, channels_out, H', W']``."""
        current: Tensor = self.norm(self.conv(spikes.flatten(0, 1)))
        out: Tensor = self.lif(torch.unflatten(current, 0, spikes.shape[:2]))
        return out

    def encode(self, images: Tensor, timesteps: int) -> Tensor:
        """Turn images ``[N, channels_in, H, W]`` into spikes ``[T, N, channels_out, H', W']``.

        Direct coding: the same current at each timestep, computed once.
        """
        current: Tensor = self.norm(self.conv(images))
        out: Tensor = self.lif(current.expand(timesteps, *current.shape))
        return out
