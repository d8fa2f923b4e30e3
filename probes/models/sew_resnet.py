"""Spike-element-wise residual networks for images, of chosen depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..lif import LIF
from .block import SpikingBlock
from .counts import require_at_least_one
from .normalisation import Norm, normalisation, start_for_spikes


class SEWBlock(nn.Module):
    """Two spiking convolutions; the input's spikes are added to what comes out (ADD).

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: 2 halves height and width.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``.
        neuron: settings of every :class:`LIF` layer.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, norm: Norm, **neuron: Any
    ) -> None:
        super().__init__()
        self.block1 = SpikingBlock(channels_in, channels_out, stride, norm, **neuron)
        self.block2 = SpikingBlock(channels_out, channels_out, 1, norm, **neuron)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = SpikingBlock(
                channels_in, channels_out, stride, norm, kernel=1, **neuron
            )

    def forward(self, spikes: Tensor) -> Tensor:
        """Turn ``[T, N, channels_in, H, W]`` into whole numbers of the same layout."""
        out: Tensor = self.block2(self.block1(spikes)) + self.shortcut(spikes)
        return out


class SpikingLinear(nn.Module):
    """Dense layer, norm and a spiking layer, on a sequence.

    Args:
        features: size of the input.
        units: size of the layer.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``.
        neuron: settings of the :class:`LIF` layer.
    """

    def __init__(self, features: int, units: int, norm: Norm, **neuron: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(features, units, bias=norm == "none")
        if norm == "none":
            start_for_spikes(self.linear.weight)
        lif = LIF(**neuron)
        self.norm = normalisation(norm, units, lif.spec.threshold)
        self.lif = lif

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn ``[T, N, features]`` into spikes ``[T, N, units]``."""
        driven = self.linear(inputs)
        current = self.norm(driven.flatten(0, 1)[:, :, None, None]).reshape(driven.shape)
        out: Tensor = self.lif(current)
        return out


class SEWResNet(nn.Module):
    """Residual stages between a spiking stem and a linear readout; see :func:`sew_resnet`."""

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: Sequence[int],
        widths: Sequence[int],
        hidden: int,
        timesteps: int,
        norm: Norm,
        **neuron: Any,
    ) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.stem = SpikingBlock(channels, widths[0], norm=norm, **neuron)
        before = widths[0]
        stages: list[nn.Module] = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            parts = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                parts.append(SEWBlock(before, width, stride, norm, **neuron))
                before = width
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.hidden = SpikingLinear(before, hidden, norm, **neuron) if hidden else nn.Identity()
        self.readout = nn.Linear(hidden or before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``[N, channels, H, W]`` into logits ``[N, classes]``, the mean over time."""
        x = self.stages(self.stem.encode(images, self.timesteps))
        logits: Tensor = self.readout(self.hidden(x.mean((3, 4)))).mean(0)
        return logits


def sew_resnet(
    image: tuple[int, int, int],
    classes: int = 10,
    blocks: Sequence[int] = (2, 2, 2, 2),
    widths: Sequence[int] = (64, 128, 256, 512),
    hidden: int = 0,
    timesteps: int = 4,
    norm: Norm = "batch",
    **neuron: Any,
) -> SEWResNet:
    """Build a spike-element-wise residual network with ADD, in the form for small images.

    A spiking 3 x 3 convolution; stages of residual blocks, the first at full size, each further
    one at half the size of the one before; the mean over pixels; a linear readout whose logits are
    averaged over the timesteps. It has ``2 sum(blocks) + 2`` layers with weights on the main path,
    one more with a hidden layer: blocks (2, 2, 2, 2) are ResNet-18, (3, 4, 6, 3) ResNet-34, and
    (3, 3, 2) with widths (128, 256, 512) and 256 hidden units ResNet-19.

    Args:
        image: channels, height and width of an image.
        classes: number of classes.
        blocks: residual blocks of each stage.
        widths: channels of each stage.
        hidden: units of a dense spiking layer before the readout; 0 for none.
        timesteps: T, how long each image is shown.
        norm: ``"none"``, ``"batch"`` or ``"tdbn"``.
        neuron: settings of every :class:`LIF` layer.

    Raises:
        ValueError: a count below 1, as many widths as not stages, or a setting that no neuron or
            norm can have.

    Example:
        >>> import torch
        >>> net = sew_resnet((1, 8, 8), blocks=(1, 1), widths=(4, 8), timesteps=2)
        >>> net(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])

    Source:
        Fang et al. 2021 (NeurIPS), "Deep residual learning in spiking neural networks", equation 5
        and table 1, for the block; Zheng et al. 2021 (AAAI) for ResNet-19.
    """
    if not blocks or len(blocks) != len(widths):
        raise ValueError(
            f"blocks={list(blocks)!r} and widths={list(widths)!r} do not fit: one number each per "
            "stage"
        )
    for count, width in zip(blocks, widths, strict=True):
        require_at_least_one(blocks=count, widths=width)
    require_at_least_one(classes=classes, timesteps=timesteps)
    if hidden < 0:
        raise ValueError(f"hidden={hidden!r} is not possible: it must be at least 0")
    return SEWResNet(image[0], classes, blocks, widths, hidden, timesteps, norm, **neuron)
