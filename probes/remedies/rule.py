"""A rule of a LIF layer whose threshold and window may differ from timestep to timestep."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...analysis.neuron import NeuronSpec, after_reset, integrate
from ...analysis.surrogate import Surrogate
from ..lif import LIF, Rule, spike


class Window(NamedTuple):
    """What is in force at one timestep; None for what the layer itself says.

    Args:
        threshold: potential, one number.
        width: full width of a rectangular surrogate of unit area, potential, one number.
    """

    threshold: Tensor | None = None
    width: Tensor | None = None


class TimedRule(Rule):
    """Asks :meth:`window` at every timestep, and remembers the answers of the last call.

    Args:
        initial: the surrogate before the first timestep is seen.
    """

    def __init__(self, initial: Surrogate) -> None:
        super().__init__()
        self.initial = initial
        self.t = 0
        self._seen: list[Window] = []
        self._axes = 0
        self._dtype = torch.float32

    @abstractmethod
    def window(self, layer: LIF, u: Tensor, t: int) -> Window:
        """Return threshold and width for the potential u at timestep t, counted from 1."""

    def begin(self, layer: LIF, fresh: bool) -> None:
        """Count timesteps from 1 in a new sequence."""
        self.t = 0 if fresh else self.t
        self._seen = []
        self._spec = layer.dynamics()

    def advance(self, layer: LIF, v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes of the next timestep and the potential after the reset."""
        self.t += 1
        u = integrate(self._spec, v, current)
        threshold, width = self.window(layer, u.detach(), self.t)
        # Rounded once and for all: a number and a tensor are not rounded alike in half precision.
        theta = None if threshold is None else threshold.to(u.dtype)
        self._seen.append(Window(theta, width))
        self._axes, self._dtype = u.ndim, u.dtype
        surrogate = self.initial if width is None else rectangle(width)
        s = spike(u, self._spec.threshold if theta is None else theta, surrogate)
        v = after_reset(self._spec, u, s.detach() if layer.detach_reset else s, theta)
        return s, v

    def in_force(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return threshold and width of each timestep of the last call."""
        spec, surrogate = layer.dynamics(), self.initial
        thresholds = [seen.threshold for seen in self._seen if seen.threshold is not None]
        if thresholds:
            spec = replace(spec, threshold=self._along_time(thresholds))
        widths = [seen.width for seen in self._seen if seen.width is not None]
        if widths:
            surrogate = rectangle(self._along_time(widths))
        return spec, surrogate

    def described(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return the layer's own threshold and the initial surrogate."""
        return layer.dynamics(), self.initial

    def last(self) -> dict[str, list[float]]:
        """Return thresholds and widths of the last call as numbers; waits for the device."""
        columns = {field: [getattr(seen, field) for seen in self._seen] for field in Window._fields}
        return {
            field: [float(value) for value in values if value is not None]
            for field, values in columns.items()
        }

    def _along_time(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values).reshape(-1, *[1] * self._axes)


def rectangle(width: Tensor | float) -> Surrogate:
    """Return the rectangular surrogate of unit area; a negative width is an empty window.

    Example:
        >>> rectangle(torch.tensor(0.5)).peak
        tensor(2.)
    """
    return Surrogate("rectangular", peak=(width >= 0) / width, width=width)


def install(layer: LIF, rule: Rule) -> None:
    """Give a layer a rule, on the device and in the precision that the layer's buffer has."""
    layer.rule = rule.to(layer.start.device, layer.start.dtype).train(layer.training)


def uninstall(layer: LIF) -> None:
    """Take a layer's rule away again."""
    del layer.rule
    layer.rule = None
