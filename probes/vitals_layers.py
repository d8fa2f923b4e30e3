"""What a spiking layer tells beside its statistics: dead units, frozen input, scale, values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter
from .hooks import Guard, LayerHooks
from .modes import Hook
from .recompute import in_backward
from .vitals_types import Key

SAMPLE = 16_384
"""Elements of the input that are compared between the first and the last timestep."""

PIECE = 1 << 16
"""Elements of a gradient that are looked at together on a CPU."""

LEARNED = ("threshold", "decay", "synapse_decay")
"""Fields of the dynamics whose values are followed where a layer may learn them."""


class LayerVitals:
    """Further figures of one spiking layer.

    Args:
        hooks: the recorder of the layer.
        adapter: how to read it.
        guard: wraps each hook.
    """

    def __init__(self, hooks: LayerHooks, adapter: Adapter, guard: Guard) -> None:
        self._hooks = hooks
        self._adapter = adapter
        self._guard = guard
        self._handles: list[Any] = []
        self._learns = any(p.requires_grad for p in hooks.layer.module.parameters())
        self._forget()

    def _forget(self) -> None:
        self._fired: Tensor | None = None
        self._chances = 0
        self._first: Tensor | None = None
        self._last: Tensor | None = None
        self._euler: Tensor | None = None
        self._tiny: float | None = None

    def arm(self) -> None:
        """Put the hook in place, behind that of the recorder."""
        module = self._hooks.layer.module
        act = Hook(module, self._guard(self._after_call))
        self._handles = [module.register_forward_hook(act, with_kwargs=True)]

    def disarm(self) -> None:
        """Remove the hook and forget the step."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def _after_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if in_backward() or not torch.is_grad_enabled():
            return
        adapter = self._adapter
        emitted = adapter.spikes(module, output)
        if emitted.numel() == 0 or not emitted.is_floating_point():
            return
        if emitted.requires_grad:
            self._listen(emitted)
        spikes = adapter.time_first(module, emitted.detach())
        fired = _firing(spikes)
        if self._fired is None or self._fired.shape == fired.shape:
            self._fired = fired if self._fired is None else self._fired + fired
            self._chances += spikes.shape[0] * spikes.shape[1]
        place = adapter.current(module, args, kwargs)
        current = kwargs[place] if isinstance(place, str) else args[place]
        if len(self._hooks.sequences) <= 1:  # later sequences of the step hold other samples
            timed = adapter.time_first(module, current.detach())
            if self._first is None:
                self._first = _some(timed[0])
            self._last = _some(timed[-1]) if len(timed) > 1 or self._last is not None else None
            if self._last is None:
                self._last = self._first

    def _listen(self, emitted: Tensor) -> None:
        held = emitted.detach()

        def hook(gradient: Tensor) -> None:
            self._tiny = float(torch.finfo(gradient.dtype).tiny)
            both = _products(held, gradient.detach())
            self._euler = both if self._euler is None else self._euler + both

        # Taken back with the other one: a graph that outlives the step would keep the spikes.
        handle = emitted.register_hook(self._guard(hook))  # type: ignore[no-untyped-call]
        self._handles.append(handle)

    def finish(self) -> list[tuple[Key, Tensor | float]]:
        """Return the figures of the step."""
        key = Key(self._hooks.layer.name, "", 0, "")
        figures: list[tuple[Key, Tensor | float]] = []
        if self._fired is not None:
            dead = (self._fired == 0).float().mean()
            always = (self._fired == self._chances).float().mean()
            figures.append((key._replace(quantity="dead_units"), dead))
            figures.append((key._replace(quantity="saturated_units"), always))
            figures.append((key._replace(quantity="units"), float(self._fired.numel())))
            figures.append((key._replace(quantity="chances"), float(self._chances)))
        timesteps = self._hooks.timesteps or 0
        first, last = self._first, self._last
        if timesteps > 1 and first is not None and last is not None and first.shape == last.shape:
            figures.append((key._replace(quantity="input_frozen"), frozen(first, last)))
        if self._euler is not None:
            figures.append(
                (key._replace(quantity="scale_felt"), self._euler[0].abs() / self._euler[1])
            )
        if self._tiny is not None:
            figures.append((key._replace(quantity="gradient_tiny"), self._tiny))
        if self._learns:
            spec = self._adapter.live_spec(self._hooks.layer.module, self._hooks.layer)
            for name in LEARNED:
                value = getattr(spec, name)
                if isinstance(value, Tensor):
                    mean = value.detach().float().mean()
                    figures.append((key._replace(quantity=name), mean))
        return figures


def _firing(spikes: Tensor) -> Tensor:
    """Return how often each unit fires, over timesteps and samples, one timestep after another."""
    space = torch.empty_like(spikes[0], dtype=torch.float32)
    fired = torch.zeros_like(space[0])
    for now in spikes:
        fired += torch.ne(now, 0.0, out=space).sum(0)
    return fired


def _products(one: Tensor, other: Tensor) -> Tensor:
    """Return the sums of one * other and of its magnitude, in pieces that stay in a cache."""
    if one.device.type != "cpu":
        product = (one * other).float()
        return torch.stack([product.sum(), product.abs().sum()])
    both = torch.zeros(2)
    parts = torch.split(one.reshape(-1), PIECE), torch.split(other.reshape(-1), PIECE)
    for a, b in zip(*parts, strict=True):
        product = (a * b).float()
        both += torch.stack([product.sum(), torch.linalg.vector_norm(product, 1)])
    return both


def frozen(first: Tensor, last: Tensor) -> Tensor:
    """Return the share of the input's variance that stays from the first to the last timestep.

    Args:
        first: input at t = 1, any shape.
        last: input at t = T, same shape.

    Returns:
        The correlation of the two for equal variances: 1 for a frozen input, 0 for a fresh one.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0])
        >>> float(frozen(x, x + 1.0)), float(frozen(x, -x))
        (1.0, -1.0)
    """
    spread = first.var(correction=0) + last.var(correction=0)
    return 1.0 - (last - first).var(correction=0) / spread


def _some(values: Tensor) -> Tensor:
    """Return a copy of at most about :data:`SAMPLE` values in float32."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)].float().clone()
