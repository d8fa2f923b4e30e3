"""Run batches through a copy of a model and keep what each element of its layers did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.layer_record import LayerRecord
from ..analysis.neuron import NeuronSpec
from .adapters import Adapter, SpikingLayer, State
from .fresh import forget_state, fresh_copy
from .header import find_layers
from .hooks import LayerHooks
from .modes import eager
from .preflight_batches import Batch, Loss, loss_of
from .stretch import Visit

ELEMENTS = 2**18
"""Elements (timesteps x samples x units) of a layer that are kept; beyond it units are drawn."""


@dataclass(frozen=True)
class Recording:
    """What the layers of one pass did, in the order in which they were called.

    Args:
        layers: name to record, input first.
    """

    layers: dict[str, LayerRecord]


class _Keeper(LayerHooks):
    """Hooks that keep the tensors themselves beside their statistics."""

    def __init__(self, layer: SpikingLayer, adapter: Adapter, order: list[str]) -> None:
        super().__init__(layer, adapter, lambda act: act, lambda gradient: gradient, apart=True)
        self.calls: list[tuple[bool, Visit, Tensor, Tensor]] = []
        self.downstream: dict[Visit, Tensor | None] = {}
        self._order = order

    def _record(
        self, module: nn.Module, state: State, current: Tensor, output: Tensor, **how: bool
    ) -> Visit:
        if self.layer.name not in self._order:
            self._order.append(self.layer.name)
        call = super()._record(module, state, current, output, **how)
        timed = self._adapter.time_first(module, current).float()
        start = state.start(self._adapter.live_spec(module, self.layer))
        begin = torch.broadcast_to(start.float(), timed.shape[1:])
        self.calls.append((state.fresh or not self.calls, call, timed, begin))
        return call

    def _at_output(self, call: Visit, gradient: Tensor) -> None:
        super()._at_output(call, gradient)
        self.downstream[call] = call.grad_spikes

    @property
    def mismatch(self) -> float:
        """Share of spikes that the dynamics do not explain."""
        wrong = sum(float(block["mismatch"].sum()) for block in self.forward.values())
        count = sum(float(block["count"].sum()) for block in self.forward.values())
        return wrong / count if count else 0.0


def run(
    model: nn.Module,
    batches: list[Batch],
    *,
    loss: Loss | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    seed: int = 0,
    gradients: bool = True,
    only: Iterable[str] | None = None,
) -> Recording:
    """Run batches through a copy of a model and return what its layers did.

    Args:
        model: a model that may be copied; itself it is not run.
        batches: (inputs, targets) each.
        loss: as in :func:`.preflight_batches.loss_of`.
        forward: ``forward(model, inputs)`` for models that are not simply called.
        seed: of dropout and of the random projection.
        gradients: whether to send the loss back.
        only: names of the layers to keep; all if None.

    Returns:
        The recording, samples of all batches side by side.
    """
    kept: dict[str, list[LayerRecord]] = {}
    order: list[str] = []
    names = None if only is None else list(only)
    for number, (inputs, targets) in enumerate(batches):
        copy = fresh_copy(model)
        forget_state(copy)
        keepers = [
            _Keeper(layer, adapter, order)
            for layer, adapter in find_layers(copy)[0]
            if names is None or layer.name in names
        ]
        torch.manual_seed(seed + number)
        with _armed(keepers), torch.set_grad_enabled(gradients):
            output = call(copy, inputs, forward)
            if gradients:
                generator = torch.Generator().manual_seed(seed + number)
                value = loss_of(output, targets, loss, generator)
                if value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
            for keeper in keepers:
                if keeper.calls:
                    records = _records(keeper, ELEMENTS // len(batches))
                    kept.setdefault(keeper.layer.name, []).extend(records)
    return Recording({name: _side_by_side(kept[name]) for name in order if name in kept})


def call(model: nn.Module, inputs: Any, forward: Callable[[nn.Module, Any], Any] | None) -> Any:
    """Return what the model gives for one batch, on the device that the model lives on."""
    first = next(model.parameters(), None)
    if isinstance(inputs, Tensor) and first is not None:
        inputs = inputs.to(first.device)
    return model(inputs) if forward is None else forward(model, inputs)


@contextlib.contextmanager
def _armed(keepers: list[_Keeper]) -> Iterator[None]:
    with eager():
        for keeper in keepers:
            keeper.arm()
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.disarm()


def _records(keeper: _Keeper, elements: int) -> list[LayerRecord]:
    """Return one record per sequence that the layer went through."""
    sequences: list[list[tuple[Visit, Tensor, Tensor]]] = []
    for fresh, call, current, begin in keeper.calls:
        if fresh:
            sequences.append([])
        sequences[-1].append((call, current, begin))
    return [_record(keeper, parts, elements) for parts in sequences]


def _record(
    keeper: _Keeper, parts: list[tuple[Visit, Tensor, Tensor]], elements: int
) -> LayerRecord:
    first = parts[0][0]
    steps = sum(len(call.u) for call, _, _ in parts)
    samples = first.u.shape[1] if first.u.ndim > 1 else 1
    units = first.u[0].numel() // samples
    most = max(1, elements // (steps * samples))
    chosen = np.arange(units)
    if units > most:  # drawn, since even spacing would follow channels or columns
        chosen = np.random.default_rng(0).permutation(units)[:most]
    pick = torch.from_numpy(chosen).to(first.u.device)

    def flat(tensors: list[Tensor]) -> Any:
        joined = torch.cat([tensor.detach() for tensor in tensors])
        return joined.reshape(steps, samples, units)[:, :, pick].float().cpu().numpy()

    gradients = [keeper.downstream.get(call) for call, _, _ in parts]
    grad_s = None
    if any(gradient is not None for gradient in gradients):
        grad_s = flat(
            [
                torch.zeros_like(call.u) if gradient is None else gradient
                for (call, _, _), gradient in zip(parts, gradients, strict=True)
            ]
        )
    begin = parts[0][2].reshape(samples, units)[:, pick].cpu().numpy()
    spec = flat_spec(first.spec, tuple(first.u.shape[2:]), chosen)
    return LayerRecord(
        name=keeper.layer.name,
        spec=spec,
        surrogate=keeper.layer.surrogate,
        current=flat([current for _, current, _ in parts]),
        u=flat([call.u for call, _, _ in parts]),
        spikes=flat([call.spikes for call, _, _ in parts]),
        start=begin,
        grad_s=grad_s,
        mismatch=keeper.mismatch,
        share=len(chosen) / units,
    )


def flat_spec(spec: NeuronSpec, shape: tuple[int, ...], chosen: Any) -> NeuronSpec:
    """Return dynamics whose fields are numbers, or one value per chosen unit."""
    changed: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "start":
            value = 0.0  # the record holds the start itself
        if isinstance(value, Tensor):
            value = value.detach().double().cpu().numpy()
        if isinstance(value, np.ndarray):
            while value.ndim > len(shape) and value.shape[0] == 1:
                value = value[0]
            if value.size == 1:
                value = float(value.reshape(()))
            elif value.min() == value.max():
                value = float(value.flat[0])
            else:
                value = np.broadcast_to(value, shape).reshape(-1)[chosen]
        changed[field.name] = value
    return NeuronSpec(**changed)


def _side_by_side(records: list[LayerRecord]) -> LayerRecord:
    """Return records of the same layer as one, samples next to each other."""
    first = records[0]
    if len(records) == 1:
        return first
    steps = min(len(record.u) for record in records)
    units = min(record.u.shape[2] for record in records)

    def joined(name: str) -> Any:
        return np.concatenate(
            [getattr(record, name)[:steps, :, :units] for record in records], axis=1
        )

    whole = all(record.grad_s is not None for record in records)
    return replace(
        first,
        current=joined("current"),
        u=joined("u"),
        spikes=joined("spikes"),
        start=np.concatenate([record.start[:, :units] for record in records]),
        grad_s=joined("grad_s") if whole else None,
        share=first.share * units / first.u.shape[2],
        mismatch=float(np.mean([record.mismatch for record in records])),
    )
