"""One module per timestep and layer, so that a library that sees modules sees every timestep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import ADAPTERS, Adapter
from .fresh import forget_state, fresh_copy
from .misfit import misfit
from .modes import plain_modules, unwrapped

Forward = Callable[[nn.Module, Tensor], Any]


class TappedModel(nn.Module):
    """A copy of a model in which each timestep of a layer's output passes its own ``nn.Identity``.

    A layer that is called once per timestep, or once with the whole sequence, looks to a library
    of attribution like one module of which the last call counts. Here every timestep is a module
    of its own that is called once per forward pass, batch first. Each pass begins a new sequence.

    Args:
        model: the user's model, in eval mode; it is copied and stays as it was.
        inputs: one batch ``[N, ...]``, to see how often each layer runs.
        forward: ``(model, inputs) -> outputs [N, classes]``; None calls the model and takes
            the mean over T of outputs ``[T, N, classes]``.
        layers: names of the layers, spiking or not; None for all spiking layers.

    Raises:
        ValueError: the model is in train mode, has no spiking layer, a named layer is unknown or
            is not on the way to the output, the batch does not go through the model, or the output
            is not ``[N, classes]``.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> model = nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(3, 2)).eval()
        >>> tapped = TappedModel(model, torch.ones(1, 5, 2), lambda m, x: m(x.transpose(0, 1)))
        >>> len(tapped.taps["1"]), tapped(torch.ones(4, 5, 2)).shape
        (5, torch.Size([4, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        forward: Forward | None = None,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if model.training:
            raise ValueError(
                "the model is in train mode, in which batch norm and dropout would answer for the "
                "batch and not for the sample: call model.eval() first"
            )
        self.model = fresh_copy(unwrapped(model))
        self.taps: dict[str, list[nn.Identity]] = {}
        self._forward = forward
        self._calls: dict[str, int] = {}
        self._replaced: dict[str, Tensor] = {}
        self._gates: Tensor | None = None
        self._orders: dict[tuple[int, ...], Tensor] = {}
        for name, module, adapter in _chosen(self.model, layers):
            module.register_forward_hook(self._divide(name, adapter))
            self.taps[name] = []
        with torch.no_grad():
            self.outputs = self._first_outputs(inputs)
        for name, taps in self.taps.items():
            if not taps:
                raise ValueError(
                    f"layer {name!r} did not run: it is not on the way from the input to the output"
                )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[N, classes]`` of a new sequence."""
        return self.through(self._forward or _plain_call, inputs)

    def _first_outputs(self, inputs: Tensor) -> Tensor:
        """Run the model once, and say where the batch fails if it does."""
        try:
            outputs: Tensor = self(inputs)
        except (ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            run = self._forward or _plain_call
            raise ValueError(misfit(self.model, [inputs], run, error)) from error
        return outputs

    def through(self, run: Forward, inputs: Tensor) -> Tensor:
        """Return outputs ``[N, classes]`` of a new sequence that a function runs."""
        forget_state(self.model)
        self._calls = dict.fromkeys(self.taps, 0)
        with torch.random.fork_rng(devices=[]):  # the path of an integral needs one network
            torch.manual_seed(0)
            outputs = run(self.model, inputs)
        if isinstance(outputs, tuple | list):
            outputs = outputs[0]
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"the model returned {type(outputs).__name__}: give forward=, a function "
                "(model, inputs) -> outputs [N, classes]"
            )
        steps = max(self._calls.values(), default=0)
        if outputs.ndim == 3 and tuple(outputs.shape[:2]) == (steps, len(inputs)):
            outputs = outputs.mean(0)
        if outputs.ndim != 2 or len(outputs) != len(inputs):
            raise ValueError(
                f"the output has shape {tuple(outputs.shape)} for {len(inputs)} samples, but must "
                "be [N, classes]: give forward=, a function (model, inputs) -> outputs"
            )
        return outputs

    @contextlib.contextmanager
    def replaced(self, outputs: dict[str, Tensor]) -> Iterator[None]:
        """Let layers hand on given outputs ``[N, T, ...]`` in place of their own."""
        self._replaced = outputs
        try:
            yield
        finally:
            self._replaced = {}

    @contextlib.contextmanager
    def gated(self, gates: Tensor) -> Iterator[None]:
        """Multiply what every layer hands on at t by ``gates[:, t]``, ``[N, T]``."""
        self._gates = gates
        try:
            yield
        finally:
            self._gates = None

    @property
    def timesteps(self) -> int:
        """Timesteps of a sequence: of the layer that runs most often."""
        return max(map(len, self.taps.values()))

    @property
    def ran(self) -> int:
        """Timesteps that the last forward pass went through."""
        return max(self._calls.values())

    @contextlib.contextmanager
    def seen(self, name: str) -> Iterator[list[Tensor]]:
        """Collect what a layer hands on at each timestep, ``[N, ...]`` each."""
        collected: list[Tensor] = []
        handles = [
            tap.register_forward_hook(lambda _, __, output: collected.append(output))
            for tap in self.taps[name]
        ]
        try:
            yield collected
        finally:
            for handle in handles:
                handle.remove()

    def _divide(self, name: str, adapter: Adapter | None) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if adapter is None:
                return self._passed(name, output)
            spikes = adapter.spikes(module, output)
            times = adapter.time_first(module, spikes)
            passed = torch.stack([self._passed(name, now) for now in times.unbind(0)])
            joined = passed.reshape(-1)[self._back(module, adapter, spikes)].view(spikes.shape)
            return adapter.with_spikes(module, output, joined)

        return hook

    def _passed(self, name: str, now: Tensor) -> Tensor:
        """Send one timestep through the next tap of its layer."""
        place = self._calls[name]
        self._calls[name] = place + 1
        taps = self.taps[name]
        if place == len(taps):
            taps.append(nn.Identity())
        given = self._replaced.get(name)
        passed: Tensor = taps[place](now if given is None else given[:, place])
        if self._gates is not None:
            gate = self._gates[:, place].to(passed.dtype)
            passed = passed * gate.view(-1, *[1] * (passed.ndim - 1))
        return passed

    def _back(self, module: nn.Module, adapter: Adapter, spikes: Tensor) -> Tensor:
        """Return where each element of the layer's own layout lies in the time-first view."""
        key = (id(module), *spikes.shape)
        if key not in self._orders:
            number = torch.arange(spikes.numel(), device=spikes.device).view(spikes.shape)
            self._orders[key] = torch.argsort(adapter.time_first(module, number).reshape(-1))
        return self._orders[key]


def _plain_call(model: nn.Module, inputs: Tensor) -> Any:
    return model(inputs)


def _chosen(
    model: nn.Module, names: Sequence[str] | None
) -> Iterator[tuple[str, nn.Module, Adapter | None]]:
    found = {
        name: (module, next((a for a in ADAPTERS if a.handles(module)), None))
        for name, module in plain_modules(model)
    }
    if names is None:
        names = [name for name, (_, adapter) in found.items() if adapter is not None]
        if not names:
            raise ValueError(
                "the model has no spiking layer of a known framework: name the modules with layers="
            )
    for name in names:
        if name not in found:
            raise ValueError(f"layer {name!r} is not in the model; it has {', '.join(found)}")
        yield (name, *found[name])
