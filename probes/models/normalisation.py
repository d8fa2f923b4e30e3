"""Normalisation of the current that goes into a spiking layer."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

Norm = Literal["none", "batch", "tdbn"]
NORMS: tuple[Norm, ...] = ("none", "batch", "tdbn")


class ThresholdBatchNorm(nn.BatchNorm2d):
    """Threshold-dependent batch norm (tdBN): batch norm times ``alpha * threshold``.

    ``y = weight alpha V (x - mean) / sqrt(var + eps) + bias``, with mean and variance over time,
    batch and space, per channel. So at the start of training the current has mean 0 and standard
    deviation ``alpha V``, whatever the threshold V is.

    Args:
        channels: number of channels.
        threshold: V, the threshold of the spiking layer that follows.
        alpha: factor; 1 on a chain, ``1 / sqrt(2)`` where two such currents are added.

    Raises:
        ValueError: a threshold or alpha that is not a positive number, or fewer than one channel.

    Example:
        >>> import torch
        >>> norm = ThresholdBatchNorm(1, threshold=0.5)
        >>> current = norm(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1))
        >>> round(current.max().item(), 4)
        0.5

    Source:
        Zheng et al. 2021 (AAAI), "Going deeper with directly-trained larger spiking neural
        networks", equations 6 to 8.
    """

    def __init__(self, channels: int, threshold: float = 1.0, alpha: float = 1.0) -> None:
        for name, value in (("threshold", threshold), ("alpha", alpha)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name}={value!r} is not possible: it must be a positive number")
        if channels < 1:
            raise ValueError(f"channels={channels!r} is not possible: it must be at least 1")
        super().__init__(channels)
        self.threshold = float(threshold)
        self.alpha = float(alpha)

    def forward(self, current: Tensor) -> Tensor:
        """Normalise ``[T * N, channels, H, W]``; time and batch are one merged axis."""
        # Scaled inside the affine map: one pass over the tensor instead of two.
        scaled = self.weight * (self.alpha * self.threshold)
        training = self.training
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return nn.functional.batch_norm(
            current,
            self.running_mean,
            self.running_var,
            scaled,
            self.bias,
            training,
            self.momentum if self.momentum is not None else 0.1,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Show threshold and alpha in ``print(model)``."""
        return f"{self.num_features}, threshold={self.threshold}, alpha={self.alpha}"


def normalisation(
    norm: Norm, channels: int, threshold: float = 1.0, alpha: float = 1.0
) -> nn.Module:
    """Return the normalisation of one layer's current.

    Args:
        norm: ``"none"``, ``"batch"`` (plain batch norm) or ``"tdbn"``; both over time and batch.
        channels: number of channels.
        threshold: threshold of the spiking layer that follows.
        alpha: factor of tdBN.

    Returns:
        A module that takes ``[T * N, channels, H, W]``.

    Raises:
        ValueError: an unknown norm.

    Example:
        >>> normalisation("none", 4)
        Identity()
    """
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "tdbn":
        return ThresholdBatchNorm(channels, threshold, alpha)
    raise ValueError(f"norm={norm!r} is not one of {', '.join(map(repr, NORMS))}")


def start_for_spikes(weight: Tensor) -> None:
    """Draw weights such that sparse input spikes make a current of standard deviation about 1.

    Normal with standard deviation ``3 / sqrt(fan_in)``: right where one input in nine fires. The
    usual rules are made for inputs of variance 1 and leave a deep spiking network silent.

    Args:
        weight: ``[out, in, ...]``; overwritten.
    """
    nn.init.normal_(weight, 0.0, 3.0 / math.sqrt(weight[0].numel()))
