"""What a recorded step also tells: parameters and their updates, learned values, batch norms.

All of it is read in recorded steps only, on the device, and leaves it with the statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter
from .hooks import Guard, LayerHooks
from .modes import Unscale, plain_modules
from .vitals_layers import LayerVitals
from .vitals_norms import NormVitals
from .vitals_order import CallOrder
from .vitals_parameters import ParameterVitals
from .vitals_types import Key, Reading


class Vitals:
    """The further figures of one model.

    Args:
        model: the model as the user built it.
        layers: the recorders of its spiking layers that are read by replay, with their adapters.
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        failed: called with the error if these figures cannot be read; the rest goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: list[tuple[LayerHooks, Adapter]],
        guard: Guard,
        unscale: Unscale,
        failed: Callable[[Exception], None],
    ) -> None:
        named = {module: name for name, module in plain_modules(model)}
        spiking = {entry.layer.module: entry.layer.name for entry, _ in layers}
        self._order = CallOrder(list(named), spiking, guard)
        feeds = self._order.feeds
        self._hooks = [entry for entry, _ in layers]
        self._batch_first = any(adapter.framework == "sinabs" for _, adapter in layers)
        self._unscale = unscale
        self._failed = failed
        self._off = False
        self._parameters = ParameterVitals(named, feeds, set(spiking))
        self._norms = NormVitals(named, feeds, guard)
        self._layers = [LayerVitals(entry, adapter) for entry, adapter in layers]

    def arm(self) -> None:
        """Look at the parameters before the step, and put the hooks in place."""
        if self._off:
            return
        try:
            self._order.arm()
            self._parameters.arm()
            self._norms.arm()
        except Exception as error:
            self._give_up(error)

    @property
    def held(self) -> int:
        """Bytes of samples of the parameters that are kept during a recorded step."""
        return self._parameters.held

    def finish(self) -> list[Reading]:
        """Return the step's figures; call it after the optimiser's step."""
        if self._off:
            return []
        try:
            return self._finish()
        except Exception as error:
            self._give_up(error)
            return []

    def disarm(self) -> None:
        """Remove the hooks and forget what belongs to the step."""
        self._order.disarm()
        self._parameters.disarm()
        self._norms.disarm()

    def _finish(self) -> list[Reading]:
        self._order.finish()
        timesteps = max((entry.timesteps or 0 for entry in self._hooks), default=0)
        figures: list[tuple[Key, Tensor | float]] = []
        for layer in self._layers:
            figures += layer.finish()
        figures += self._norms.finish(timesteps, self._batch_first)
        figures += self._parameters.finish()
        figures += self._loss_scale()
        return stacked(figures)

    def _loss_scale(self) -> list[tuple[Key, Tensor | float]]:
        device = self._parameters.device
        if device is None or not self._hooks:
            return []
        # The factor is not asked for, which would wait for the device: it is what unscaling does.
        return [(Key("", "", 0, "loss_scale"), 1.0 / self._unscale(torch.ones((), device=device)))]

    def _give_up(self, error: Exception) -> None:
        self._off = True
        self.disarm()
        self._failed(error)


def stacked(figures: list[tuple[Key, Tensor | float]]) -> list[Reading]:
    """Return figures as one tensor per device: one copy to the host each.

    Args:
        figures: keys with numbers, or tensors of one element.

    Example:
        >>> keys = Key("", "a", 0, "norm"), Key("", "b", 0, "norm")
        >>> [(found, values.tolist()) for found, values in stacked([(keys[0], 1.0)])]
        [([Key(layer='', name='a', t=0, quantity='norm')], [1.0])]
    """
    by_device: dict[Any, list[tuple[Key, Tensor | float]]] = {}
    for key, value in figures:
        by_device.setdefault(getattr(value, "device", None), []).append((key, value))
    out: list[Reading] = []
    for device, entries in by_device.items():
        keys = [key for key, _ in entries]
        if device is None:
            out.append((keys, torch.tensor([value for _, value in entries], dtype=torch.float64)))
        else:
            values = [value.detach().reshape(()).float() for _, value in entries]  # type: ignore[union-attr]
            out.append((keys, torch.stack(values)))
    return out
