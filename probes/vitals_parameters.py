"""How much a step moves the parameters, and what gradient they get."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .modes import wide
from .vitals_types import Key

SAMPLE = 4096
"""Values that are looked at of one parameter, evenly strided: a ratio of norms to about 1 %."""

Figures = list[tuple[Key, Tensor | float]]


class _Known(NamedTuple):
    module: nn.Module
    name: str
    parameter: nn.Parameter
    before: Tensor


class ParameterVitals:
    """Sizes and updates of the trained parameters.

    Args:
        named: modules with their names, in network order.
        feeds: the spiking layer that each module leads to.
        spiking: the spiking layers.
    """

    def __init__(
        self, named: dict[nn.Module, str], feeds: dict[nn.Module, str], spiking: set[nn.Module]
    ) -> None:
        self._named, self._feeds, self._spiking = named, feeds, spiking
        self._kept: list[_Known] = []
        self.device: torch.device | None = None

    def arm(self) -> None:
        """Keep some values of each parameter as they are before the step."""
        self._kept = []
        seen: set[int] = set()
        for module, prefix in self._named.items():
            for short, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen or not _readable(parameter):
                    continue
                seen.add(id(parameter))
                name = f"{prefix}.{short}" if prefix else short
                self._kept.append(_Known(module, name, parameter, sampled(parameter).clone()))
                self.device = parameter.device

    @property
    def held(self) -> int:
        """Bytes of the values that are kept until the step has moved them."""
        return sum(entry.before.nbytes for entry in self._kept)

    def disarm(self) -> None:
        """Forget the values."""
        self._kept = []

    def finish(self) -> Figures:
        """Return norms of values, updates and gradients, in the sample's own scale."""
        # A parameter that moved to another device or shape meanwhile cannot be compared.
        kept = [
            entry
            for entry in self._kept
            if entry.parameter.device == entry.before.device
            and sampled(entry.parameter).shape == entry.before.shape
        ]
        if not kept:
            return []
        after = [sampled(entry.parameter).float() for entry in kept]
        change = torch._foreach_sub(after, [entry.before.float() for entry in kept])
        norms = zip(torch._foreach_norm(after), torch._foreach_norm(change), strict=True)
        figures: Figures = []
        for entry, now, moved, (norm, update) in zip(kept, after, change, norms, strict=True):
            key = self._key(entry)
            figures += [
                (key._replace(quantity="value_norm"), norm),
                (key._replace(quantity="update_norm"), update),
                (key._replace(quantity="unmoved"), (moved == 0).float().mean()),
                (key._replace(quantity="dimensions"), float(entry.parameter.ndim)),
                (key._replace(quantity="epsilon"), float(torch.finfo(entry.parameter.dtype).eps)),
            ]
            if entry.module in self._spiking:
                figures.append((key._replace(quantity="value_mean"), now.mean()))
        return figures + self._gradients(kept)

    def _key(self, entry: _Known) -> Key:
        return Key(self._feeds[entry.module], entry.name, 0, "")

    def _gradients(self, kept: list[_Known]) -> Figures:
        arrived = [
            (entry, wide(local(entry.parameter.grad.detach())))
            for entry in kept
            if entry.parameter.grad is not None and not entry.parameter.grad.is_sparse
        ]
        if not arrived:  # zero_grad() came before the end of the step, or there was no backward
            return []
        norms = torch._foreach_norm([gradient for _, gradient in arrived])
        figures: Figures = []
        for (entry, gradient), norm in zip(arrived, norms, strict=True):
            key = self._key(entry)
            figures.append((key._replace(quantity="gradient_norm"), norm))
            if entry.module in self._spiking:
                figures.append((key._replace(quantity="gradient_mean"), gradient.mean()))
        for entry in kept:
            if entry.parameter.grad is None:
                figures.append((self._key(entry)._replace(quantity="no_gradient"), 1.0))
        return figures


def sampled(parameter: Tensor) -> Tensor:
    """Return at most about :data:`SAMPLE` values, evenly strided.

    Args:
        parameter: any shape.

    Example:
        >>> sampled(torch.arange(3.0 * SAMPLE).reshape(3, -1))[:3].tolist()
        [0.0, 3.0, 6.0]
    """
    values = local(parameter.detach())
    flat = values.view(-1) if values.is_contiguous() else values.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)]


def local(values: Tensor) -> Tensor:
    """Return what this process holds of a sharded tensor: the rest would have to be asked for."""
    shard: Tensor = values.to_local() if hasattr(values, "to_local") else values
    return shard


def _readable(parameter: nn.Parameter) -> bool:
    return bool(
        parameter.requires_grad
        and parameter.is_floating_point()
        and parameter.layout == torch.strided
        and not parameter.is_meta
        and local(parameter.detach()).numel() > 0
    )
