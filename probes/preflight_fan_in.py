"""Which parameters of a model make the current of each spiking layer.

The autograd graph of the current is followed back, up to the spikes that it is made of. What is
found nearest to the layer on each path is what scales its current: a dense or convolution layer,
or the affine part of a norm behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter, SpikingLayer
from .fresh import forget_state, fresh_copy
from .header import find_layers
from .modes import eager
from .preflight_batches import Batch
from .preflight_record import call

CALLS = 3
"""Calls of a layer that are looked at: the second timestep shows what comes back to it."""

NODES = 200_000
"""Most nodes of a graph that are followed; beyond it nothing is told."""


@dataclass
class FanIn:
    """The parameters before one spiking layer, names as in ``named_parameters()``.

    Args:
        weight: what its current is multiplied by.
        bias: what is added.
        recurrent: what its own spikes are multiplied by on their way back to it.
        unknown: why nothing could be told; empty if it could.
    """

    weight: list[str] = field(default_factory=list)
    bias: list[str] = field(default_factory=list)
    recurrent: list[str] = field(default_factory=list)
    unknown: str = ""


def fan_in(
    model: nn.Module, batch: Batch, forward: Callable[[nn.Module, Any], Any] | None = None
) -> dict[str, FanIn]:
    """Find the parameters that make each layer's current, on a copy of the model.

    Args:
        model: the model; it is not run.
        batch: one batch.
        forward: as in :func:`.preflight_record.run`.

    Returns:
        Layer to its parameters.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> model = nn.Sequential(nn.Linear(4, 3), LIF(), nn.Linear(3, 2, bias=False), LIF())
        >>> for name, found in fan_in(model, (torch.ones(2, 5, 4), None)).items():
        ...     print(name, found.weight, found.bias)
        1 ['0.weight'] ['0.bias']
        3 ['2.weight'] []
    """
    copy = fresh_copy(model)
    forget_state(copy)
    inputs = batch[0]
    if inputs.is_floating_point():
        inputs = inputs.detach().clone().requires_grad_()
    names: dict[int, str] = {id(inputs): ""}
    for name, parameter in copy.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
        names[id(parameter)] = name
    walk = _Walk(names)
    layers = find_layers(copy)[0]
    handles = [handle for layer, adapter in layers for handle in walk.listen(layer, adapter)]
    try:
        with eager(), torch.enable_grad():
            call(copy, inputs, forward)
        return {layer.name: walk.fan_in(layer.name) for layer, _ in layers}
    finally:
        for handle in handles:
            handle.remove()


class _Walk:
    """The graph of one forward pass, cut at the spikes of each layer."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._currents: dict[str, list[Any]] = {}
        self._cuts: dict[Any, str] = {}
        self._seen: dict[Any, _Below] = {}

    def listen(self, layer: SpikingLayer, adapter: Adapter) -> list[Any]:
        """Hook one layer: its current where it comes in, its output where it leaves."""
        calls = self._currents.setdefault(layer.name, [])

        def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            place = adapter.current(module, args, kwargs)
            current = kwargs[place] if isinstance(place, str) else args[place]
            if len(calls) < CALLS:
                calls.append(current.grad_fn)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    self._cuts[tensor.grad_fn] = layer.name

        return [
            layer.module.register_forward_pre_hook(before, with_kwargs=True),
            layer.module.register_forward_hook(after),
        ]

    def fan_in(self, layer: str) -> FanIn:
        """Return the parameters before a layer."""
        found = FanIn()
        starts = [start for start in self._currents[layer] if start is not None]
        if not self._currents[layer]:
            found.unknown = "it was not called"
        elif not starts:
            found.unknown = "no parameter lies before it"
        for start in starts:
            if not self._explore(start):
                found.unknown = "its graph is too large to follow"
                return found
            self._collect(start, layer, found)
        # The same matrix may carry both what comes from below and what comes back.
        found.weight = [name for name in found.weight if name not in found.recurrent]
        if not found.unknown and not (found.weight or found.recurrent):
            found.unknown = "no weight was found between it and the spikes or inputs before it"
        return found

    def _explore(self, start: Any) -> bool:
        """Note for each node below which parameters and which sources it hangs on."""
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                below = _Below()
                for child in _children(node):
                    below.parameters |= self._seen[child].parameters
                    below.sources |= self._seen[child].sources
                self._seen[node] = below
                continue
            if node in self._seen:
                continue
            if len(self._seen) > NODES:
                return False
            variable = getattr(node, "variable", None)
            if node in self._cuts:
                self._seen[node] = _Below(sources={self._cuts[node]})
            elif variable is not None:
                name = self._names.get(id(variable), "")
                self._seen[node] = _Below({name}, set()) if name else _Below(sources={""})
            else:
                self._seen[node] = _Below()
                stack.append((node, True))
                stack += [(child, False) for child in _children(node)]
        return True

    def _collect(self, start: Any, layer: str, found: FanIn) -> None:
        """Walk down from the current to the first weight on every path."""
        stack, visited = [start], set()
        while stack:
            node = stack.pop()
            if node in visited or node in self._cuts:
                continue
            visited.add(node)
            children = _children(node)
            own = set().union(
                *(self._seen[child].parameters for child in children
                  if not self._seen[child].sources)
            )  # fmt: skip
            biases = {name for name in own if "bias" in name.rpartition(".")[2]}
            weights = own - biases
            data = [child for child in children if self._seen[child].sources]
            back = layer in self._seen[node].sources
            for name in sorted(biases):
                if name not in found.bias:
                    found.bias.append(name)
            into = found.recurrent if back else found.weight
            for name in sorted(weights):
                if name not in into:
                    into.append(name)
            if not weights:
                stack += data


@dataclass
class _Below:
    """What a node of the graph hangs on: names of parameters, and of layers ("" for the input)."""

    parameters: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    return []
