"""Threshold-dependent batch norm over the samples of all processes."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..models.normalisation import ThresholdBatchNorm
from .sync import processes, summed, summed_with_gradient


class SynchronisedThresholdBatchNorm(ThresholdBatchNorm):
    """tdBN whose statistics are those of the batch of all ranks, as if one process had seen it.

    With one process it is :class:`ThresholdBatchNorm` itself. Takes a batch norm's place with the
    same parameters and running statistics, for inputs ``[N, channels, ...]``.

    Source:
        Zheng et al. 2021 (AAAI), equations 6 to 8; Ioffe and Szegedy 2015 for the gradient.
    """

    @classmethod
    def in_place_of(cls, norm: nn.modules.batchnorm._BatchNorm, threshold: float) -> Self:
        """Return a tdBN that shares parameters and statistics with a batch norm."""
        new = cls(norm.num_features, threshold=threshold)
        new._parameters = norm._parameters
        new._buffers = norm._buffers
        new.eps, new.momentum, new.training = norm.eps, norm.momentum, norm.training
        new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
        return new

    def forward(self, current: Tensor) -> Tensor:
        """Normalise ``[T * N, channels, ...]``; time and batch are one merged axis."""
        if not (self.training and processes() > 1):
            return super().forward(current)
        wide = current.to(torch.promote_types(current.dtype, torch.float32))
        axes = [axis for axis in range(wide.ndim) if axis != 1]
        shape = [1, -1, *[1] * (wide.ndim - 2)]
        count = summed(wide.new_tensor(wide.numel() // wide.shape[1]))
        mean = summed_with_gradient(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        var = summed_with_gradient((centred * centred).sum(axes)) / count
        self._follow(mean.detach(), var.detach(), count)
        scale = self.weight * (self.alpha * self.threshold) / torch.sqrt(var + self.eps)
        out = centred * scale.view(shape) + self.bias.view(shape)
        return out.to(current.dtype)

    def _follow(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Move the running statistics, with the unbiased variance as torch does."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.running_mean is None or self.running_var is None:
            return
        share = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = var * (count / (count - 1.0))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
