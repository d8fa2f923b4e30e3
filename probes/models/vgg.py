"""Spiking VGG-style networks for images: a plain chain of convolutions, of chosen depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .block import SpikingBlock
from .counts import require_at_least_one
from .normalisation import Norm

DEPTHS = range(5, 20)
"""Possible numbers of layers with weights: the spiking ones and the readout."""

MOST_STAGES = 5


class VGG(nn.Module):
    """A chain of spiking convolutions with pooling between stages; see :func:`vgg`."""

    def __init__(
        self,
        image: tuple[int, int, int],
        stages: list[list[int]],
        classes: int,
        timesteps: int,
        norm: Norm,
        **neuron: Any,
    ) -> None:
        super().__init__()
        self.timesteps = timesteps
        channels, height, width = image
        blocks = []
        for widths in stages:
            for out in widths:
                blocks.append(SpikingBlock(channels, out, norm=norm, **neuron))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        ends = torch.tensor([len(widths) for widths in stages]).cumsum(0).tolist()
        self._pool_before = frozenset(ends[:-1])
        shrink = 2 ** (len(stages) - 1)
        self.readout = nn.Linear(channels * (height // shrink) * (width // shrink), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``[N, channels, H, W]`` into logits ``[N, classes]``, the mean over time."""
        x = images
        for number, block in enumerate(self.blocks):
            if number == 0:
                x = block.encode(images, self.timesteps)  # type: ignore[operator]
                continue
            if number in self._pool_before:
                pooled = nn.functional.avg_pool2d(x.flatten(0, 1), 2)
                x = torch.unflatten(pooled, 0, x.shape[:2])
            x = block(x)
        logits: Tensor = self.readout(x.flatten(2)).mean(0)
        return logits


def vgg(
    image: tuple[int, int, int],
    classes: int = 10,
    depth: int = 9,
    channels: int = 64,
    timesteps: int = 4,
    norm: Norm = "batch",
    **neuron: Any,
) -> VGG:
    """Build a spiking VGG-style network.

    ``depth - 1`` spiking 3 x 3 convolutions in stages, average pooling between the stages, a
    linear readout whose logits are averaged over the timesteps. Channels double from stage to
    stage, up to 8 times the first. There are as many stages (at most 5) as leave at least 2 x 2
    pixels; later stages get the layers that do not divide evenly.

    Args:
        image: channels, height and width of an image.
        classes: number of classes.
        depth: layers with weights, readout included, 5 to 19.
        channels: channels of the first stage.
        timesteps: T, how long each image is shown.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``.
        neuron: settings of every :class:`LIF` layer.

    Raises:
        ValueError: another depth, a count below 1, images below 2 x 2 pixels, or a setting that no
            neuron or norm can have.

    Example:
        >>> net = vgg((1, 8, 8), depth=5, channels=4, timesteps=2)
        >>> net(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])

    Source:
        Simonyan and Zisserman 2015 (ICLR), "Very deep convolutional networks", for the chain;
        Zheng et al. 2021 (AAAI) for direct coding and norm over merged time and batch.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth={depth!r} is not possible: a VGG-style network has 5 to 19 layers")
    require_at_least_one(classes=classes, channels=channels, timesteps=timesteps)
    size = min(image[1:])
    if size < 2:
        raise ValueError(f"images of {image[1]} x {image[2]} pixels are too small: 2 x 2 at least")
    count = min(MOST_STAGES, depth - 1, size.bit_length() - 1)
    base, left_over = divmod(depth - 1, count)
    stages = [
        [channels * min(2**stage, 8)] * (base + (stage >= count - left_over))
        for stage in range(count)
    ]
    return VGG(image, stages, classes, timesteps, norm, **neuron)
