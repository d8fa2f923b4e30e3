"""Layers of the frameworks for the planted networks; a framework that is missing is said."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn


def load(name: str) -> Any:
    """Import a framework's module, whatever it warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def spikingjelly(kind: str = "LIFNode", **settings: Any) -> Any:
    """Return a builder of multi-step layers of SpikingJelly, each with a surrogate of its own."""
    neuron = load("spikingjelly.activation_based.neuron")
    surrogate = load("spikingjelly.activation_based.surrogate")

    def make() -> nn.Module:
        own = settings.get("surrogate_function") or surrogate.ATan()
        return getattr(neuron, kind)(step_mode="m", **{**settings, "surrogate_function": own})

    return make


class Stateful(nn.Module):
    """A layer of SpikingJelly that is reset before each sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.node = layer

    def forward(self, x: Tensor) -> Tensor:
        self.node.reset()
        return self.node(x)


def snntorch(**settings: Any) -> Any:
    """Return a builder of snnTorch's Leaky with a hidden state."""
    snn, surrogate = load("snntorch"), load("snntorch.surrogate")
    settings.setdefault("spike_grad", surrogate.atan())
    return lambda: snn.Leaky(init_hidden=True, **settings)


def fresh_snntorch(model: nn.Module) -> None:
    """Forget the hidden states of snnTorch."""
    for module in model.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()


class Norse(nn.Module):
    """Norse's LIF over a sequence, state dropped."""

    def __init__(self, method: str = "triangle") -> None:
        super().__init__()
        norse = load("norse.torch")
        alpha = torch.tensor(100.0 if method == "super" else 1.0)
        parameters = norse.LIFParameters(method=method, alpha=alpha)
        self.lif = norse.LIF(p=parameters, dt=0.1 / 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(x)[0]


class Sinabs(nn.Module):
    """Sinabs' LIF with single spikes, in time-first layout."""

    def __init__(self, tau: float = 3.0) -> None:
        super().__init__()
        layers, activation = load("sinabs.layers"), load("sinabs.activation")
        self.lif = layers.LIF(
            tau_mem=tau,
            spike_fn=activation.SingleSpike,
            surrogate_grad_fn=activation.SingleExponential(),
            norm_input=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset_states()
        return self.lif(x.transpose(0, 1).contiguous()).transpose(0, 1)
