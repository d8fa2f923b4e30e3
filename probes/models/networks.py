"""Spiking networks to try things on, set up as papers set them up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..lif import LIF
from .training import require_at_least_one


class SpikingBlock(nn.Module):
    """Convolution, batch norm and a spiking layer, on a sequence.

    Convolution and norm treat all timesteps alike: time and batch are one merged axis for them.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: 2 halves height and width.
        neuron: settings of the :class:`LIF` layer.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, **neuron: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.lif = LIF(**neuron)

    def forward(self, spikes: Tensor) -> Tensor:
        """Turn ``[T, N, channels_in, H, W]`` into spikes ``[T, N, channels_out, H', W']``."""
        current: Tensor = self.norm(self.conv(spikes.flatten(0, 1)))
        out: Tensor = self.lif(torch.unflatten(current, 0, spikes.shape[:2]))
        return out


class DigitsNet(nn.Module):
    """Six spiking convolution layers for images of 8 x 8 pixels; see :func:`digits_net`."""

    def __init__(self, timesteps: int, channels: int, classes: int, **neuron: Any) -> None:
        super().__init__()
        self.timesteps = timesteps
        c = channels
        self.block1 = SpikingBlock(1, c, **neuron)
        self.block2 = SpikingBlock(c, c, **neuron)
        self.block3 = SpikingBlock(c, 2 * c, stride=2, **neuron)
        self.block4 = SpikingBlock(2 * c, 2 * c, **neuron)
        self.block5 = SpikingBlock(2 * c, 4 * c, stride=2, **neuron)
        self.block6 = SpikingBlock(4 * c, 4 * c, **neuron)
        self.readout = nn.Linear(4 * c * 2 * 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``[N, 1, 8, 8]`` into logits ``[N, classes]``, the mean over timesteps."""
        # Direct coding: the same image at each timestep; block1 learns to turn it into spikes.
        x = images.expand(self.timesteps, *images.shape)
        x = self.block2(self.block1(x))
        x = self.block4(self.block3(x))
        x = self.block6(self.block5(x))
        logits: Tensor = self.readout(x.flatten(2)).mean(0)
        return logits


def digits_net(
    timesteps: int = 6, channels: int = 16, classes: int = 10, **neuron: Any
) -> DigitsNet:
    """Build a convolutional spiking network for the handwritten digits.

    Six spiking layers (``block1.lif`` to ``block6.lif``), plain batch norm over time and batch,
    direct coding, a linear readout whose logits are averaged over the timesteps.

    Args:
        timesteps: T, how long each image is shown.
        channels: channels of the first two blocks; twice as many in the next two, then four times.
        classes: number of classes.
        neuron: settings of every :class:`LIF` layer; its defaults are the field's.

    Raises:
        ValueError: ``timesteps``, ``channels`` or ``classes`` below 1, or a setting that no
            neuron can have.

    Example:
        >>> import torch
        >>> digits_net(timesteps=2, channels=4)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])

    Source:
        Zheng et al. 2021 (AAAI), "Going deeper with directly-trained larger spiking neural
        networks", for direct coding and norm over merged time and batch.
    """
    require_at_least_one(timesteps=timesteps, channels=channels, classes=classes)
    return DigitsNet(timesteps, channels, classes, **neuron)
