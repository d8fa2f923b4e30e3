"""What a spiking layer tells beside its statistics: dead units, frozen input, scale, values."""

from __future__ import annotations

from torch import Tensor

from .adapters import Adapter
from .hooks import LayerHooks
from .vitals_types import Key

LEARNED = ("threshold", "decay", "synapse_decay")
"""Fields of the dynamics whose values are followed where a layer may learn them."""


class LayerVitals:
    """Further figures of one spiking layer.

    Args:
        hooks: the recorder of the layer.
        adapter: how to read it.
    """

    def __init__(self, hooks: LayerHooks, adapter: Adapter) -> None:
        self._hooks = hooks
        self._adapter = adapter
        self._learns = any(p.requires_grad for p in hooks.layer.module.parameters())

    def finish(self) -> list[tuple[Key, Tensor | float]]:
        """Return the figures of the step."""
        key = Key(self._hooks.layer.name, "", 0, "")
        figures: list[tuple[Key, Tensor | float]] = []
        heard = self._hooks
        fired, chances = heard.units.get("train", heard.units.get("eval", (None, 0)))
        if fired is not None:
            dead = (fired == 0).float().mean()
            always = (fired == chances).float().mean()
            figures.append((key._replace(quantity="dead_units"), dead))
            figures.append((key._replace(quantity="saturated_units"), always))
            figures.append((key._replace(quantity="units"), float(fired.numel())))
            figures.append((key._replace(quantity="chances"), float(chances)))
        first, last = heard.first, heard.last
        if (heard.timesteps or 0) > 1 and first is not None and last is not None:
            if first.shape == last.shape:
                figures.append((key._replace(quantity="input_frozen"), frozen(first, last)))
        if heard.felt is not None:
            figures.append(
                (key._replace(quantity="scale_felt"), heard.felt[0].abs() / heard.felt[1])
            )
        if heard.tiny is not None:
            figures.append((key._replace(quantity="gradient_tiny"), heard.tiny))
        if self._learns:
            spec = self._adapter.live_spec(self._hooks.layer.module, self._hooks.layer)
            for name in LEARNED:
                value = getattr(spec, name)
                if isinstance(value, Tensor):
                    mean = value.detach().float().mean()
                    figures.append((key._replace(quantity=name), mean))
        return figures


def frozen(first: Tensor, last: Tensor) -> Tensor:
    """Return the share of the input's variance that stays from the first to the last timestep.

    Args:
        first: input at t = 1, any shape.
        last: input at t = T, same shape.

    Returns:
        The correlation of the two for equal variances: 1 for a frozen input, 0 for a fresh one.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.0, 1.0, 2.0])
        >>> float(frozen(x, x + 1.0)), float(frozen(x, -x))
        (1.0, -1.0)
    """
    spread = first.var(correction=0) + last.var(correction=0)
    return 1.0 - (last - first).var(correction=0) / spread
