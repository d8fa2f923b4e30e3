"""The demo's network for handwritten digits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .block import SpikingBlock
from .counts import require_at_least_one
from .normalisation import Norm


class DigitsNet(nn.Module):
    """Six spiking convolution layers for images of 8 x 8 pixels; see :func:`digits_net`."""

    def __init__(
        self, timesteps: int, channels: int, classes: int, norm: Norm, **neuron: Any
    ) -> None:
        super().__init__()
        self.timesteps = timesteps
        c = channels
        self.block1 = SpikingBlock(1, c, norm=norm, **neuron)
        self.block2 = SpikingBlock(c, c, norm=norm, **neuron)
        self.block3 = SpikingBlock(c, 2 * c, stride=2, norm=norm, **neuron)
        self.block4 = SpikingBlock(2 * c, 2 * c, norm=norm, **neuron)
        self.block5 = SpikingBlock(2 * c, 4 * c, stride=2, norm=norm, **neuron)
        self.block6 = SpikingBlock(4 * c, 4 * c, norm=norm, **neuron)
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
    timesteps: int = 6, channels: int = 16, classes: int = 10, norm: Norm = "batch", **neuron: Any
) -> DigitsNet:
    """Build a convolutional spiking network for the handwritten digits.

    Six spiking layers (``block1.lif`` to ``block6.lif``), direct coding, a linear
    readout whose logits are averaged over the timesteps.

    Args:
        timesteps: T, how long each image is shown.
        channels: channels of the first two blocks; twice as many in the next two, then four times.
        classes: number of classes.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``, over time and batch.
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
    return DigitsNet(timesteps, channels, classes, norm, **neuron)
