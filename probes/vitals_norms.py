"""Whether the statistics of a batch norm hold at each timestep, and in evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .hooks import Guard
from .modes import Hook, is_captured
from .recompute import in_backward
from .vitals_types import Key

PIECE = 1 << 17
"""Elements that are looked at together on a CPU: read from memory once."""

MOST_CALLS = 256
"""Calls of one norm that are followed in a step."""

_Call = tuple[Tensor, Tensor]


class NormVitals:
    """Further figures of the batch norms.

    Args:
        named: modules with their names, in network order.
        feeds: the spiking layer that each module leads to.
        guard: wraps each hook.
    """

    def __init__(
        self, named: dict[nn.Module, str], feeds: dict[nn.Module, str], guard: Guard
    ) -> None:
        self._norms: dict[nn.Module, str] = {
            module: name
            for module, name in named.items()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }
        self._feeds = feeds
        self._guard = guard
        self._handles: list[Any] = []
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._own: dict[nn.Module, bool] = {}

    def arm(self) -> None:
        """Put the hooks in place."""
        for module in self._norms:
            hook = Hook(module, self._guard(self._before_call))
            self._handles.append(module.register_forward_pre_hook(hook))

    def disarm(self) -> None:
        """Remove the hooks and forget the step."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._calls, self._own = [], {}, {}

    def _before_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if in_backward() or not torch.is_grad_enabled() or not args:
            return
        values = args[0].detach()
        if is_captured(values):
            return
        calls = self._calls.setdefault(module, [])
        if values.ndim < 2 or values.numel() == 0 or len(calls) >= MOST_CALLS:
            return
        rows = values.reshape(values.shape[0], values.shape[1], -1)
        size = max(1, PIECE // rows[0].numel()) if rows.device.type == "cpu" else len(rows)
        parts = [_mean_and_square(part.float()) for part in torch.split(rows, size)]
        means, squares = (torch.cat(each) for each in zip(*parts, strict=True))
        calls.append((means, squares))
        # Without running statistics a norm uses those of the batch also in evaluation.
        self._own[module] = module.training or getattr(module, "running_mean", None) is None

    def finish(self, timesteps: int, batch_first: bool) -> list[tuple[Key, Tensor | float]]:
        """Return the figures of the step.

        Args:
            timesteps: T of the spiking layers; 0 if unknown.
            batch_first: whether a merged axis of samples and timesteps counts samples outside.
        """
        figures: list[tuple[Key, Tensor | float]] = []
        for module, calls in self._calls.items():
            if calls:
                figures += self._judge(module, calls, timesteps, batch_first)
        return figures

    def _judge(
        self, module: nn.Module, calls: list[_Call], timesteps: int, batch_first: bool
    ) -> list[tuple[Key, Tensor | float]]:
        key = Key(self._feeds[module], self._norms[module], 0, "")
        means, squares = (torch.cat(parts) for parts in zip(*calls, strict=True))
        mean = means.mean(0)
        variance = (squares.mean(0) - mean * mean).clamp(min=1e-12)
        figures: list[tuple[Key, Tensor | float]] = [
            (key._replace(quantity="norm_batch"), float(self._own[module]))
        ]
        running, spread = (
            getattr(module, "running_mean", None),
            getattr(module, "running_var", None),
        )
        if isinstance(running, Tensor) and isinstance(spread, Tensor):
            off = ((running - mean).square() / variance).mean().sqrt()
            log = 0.5 * (spread.float().clamp(min=1e-12) / variance).log()
            figures.append((key._replace(quantity="norm_off"), off))
            figures.append((key._replace(quantity="norm_scale"), log.square().mean().sqrt()))
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            figures.append((key._replace(quantity="gamma_mean"), weight.detach().mean()))
        grouped = _by_timestep(means, len(calls), timesteps, batch_first)
        if grouped is not None:
            apart = float(len(calls) > 1 and self._own[module])
            figures.append((key._replace(quantity="norm_apart"), apart))
            shift = timestep_shift(grouped, mean, variance)
            figures += [
                (key._replace(t=t + 1, quantity="norm_shift"), shift[t]) for t in range(timesteps)
            ]
        return figures


def _mean_and_square(rows: Tensor) -> _Call:
    # A norm reads the input once and keeps nothing; var_mean costs ten times as much on a CPU.
    return rows.mean(2), torch.linalg.vector_norm(rows, dim=2).square() / rows.shape[2]


def timestep_shift(rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return how far each timestep's channel means lie from those of the norm, in its spread.

    Args:
        rows: means of each sample, ``[T, N, C]``.
        mean: mean that the norm takes off, ``[C]``.
        variance: its square of the scale, ``[C]``.

    Returns:
        Root mean square over channels, ``[T]``, less what N samples show by chance.

    Example:
        >>> rows = torch.tensor([[[1.0], [1.0]], [[3.0], [3.0]]])
        >>> timestep_shift(rows, torch.tensor([2.0]), torch.tensor([4.0])).tolist()
        [0.5, 0.5]

    Source:
        Severity of the temporal covariate shift that a norm sees; ours after Kook et al., arXiv
        2511.08708.
    """
    off = (rows.mean(1) - mean).square()
    chance = rows.var(1, correction=0) / max(rows.shape[1] - 1, 1)
    return ((off - chance) / variance).mean(-1).clamp(min=0).sqrt()


def _by_timestep(means: Tensor, calls: int, timesteps: int, batch_first: bool) -> Tensor | None:
    """Return the rows ``[T, N, C]`` of a step; None where they cannot be told apart."""
    if timesteps < 2 or len(means) % timesteps:
        return None
    if calls not in (1, timesteps):
        return None
    samples = len(means) // timesteps
    if calls == 1 and batch_first:
        return means.reshape(samples, timesteps, -1).transpose(0, 1)
    return means.reshape(timesteps, samples, -1)
