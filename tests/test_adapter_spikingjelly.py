"""Reading SpikingJelly's layers: equal to plain torch written from the documented equations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spikescope
import torch
from adapter_truth import (
    SAMPLES,
    TIMESTEPS,
    Inside,
    Net,
    PlainFire,
    assert_equal_to_truth,
    framework,
    loss_of,
    same_bits,
    self_check,
    train,
)
from reference_network import seeded
from spikescope.analysis.neuron import NeuronSpec
from spikescope.probes.adapters.adapter_spikingjelly import SpikingJellyAdapter
from torch import Tensor, nn

neuron = framework("spikingjelly.activation_based.neuron")
surrogate = framework("spikingjelly.activation_based.surrogate")
functional = framework("spikingjelly.activation_based.functional")

# Release 0.0.0.0.14 compiles its neurons by torch.jit, which torch has deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

ADAPTER = SpikingJellyAdapter()
SOFT, HARD, SHIFTED = {"v_reset": None}, {"v_reset": 0.0}, {"v_reset": -0.25}

NEURONS: dict[str, tuple[str, dict[str, Any]]] = {
    "IF soft": ("IFNode", SOFT),
    "IF hard": ("IFNode", HARD),
    "IF to -0.25, detached": ("IFNode", SHIFTED | {"detach_reset": True}),
    "LIF soft": ("LIFNode", SOFT | {"tau": 2.0}),
    "LIF soft, detached": ("LIFNode", SOFT | {"tau": 2.0, "detach_reset": True}),
    "LIF soft, input outside": ("LIFNode", SOFT | {"tau": 1.5, "decay_input": False}),
    "LIF hard": ("LIFNode", HARD | {"tau": 2.0}),
    "LIF hard, detached": ("LIFNode", HARD | {"tau": 1.5, "detach_reset": True}),
    "LIF hard, input outside": ("LIFNode", HARD | {"tau": 3.0, "decay_input": False}),
    "LIF to -0.25": ("LIFNode", SHIFTED | {"tau": 1.5}),
    "LIF to -0.25, outside": ("LIFNode", SHIFTED | {"tau": 2.0, "decay_input": False}),
    "LIF threshold 0.5": ("LIFNode", SOFT | {"tau": 2.0, "v_threshold": 0.5}),
    "PLIF soft": ("ParametricLIFNode", SOFT | {"init_tau": 2.0}),
    "PLIF hard, outside": ("ParametricLIFNode", HARD | {"init_tau": 3.0, "decay_input": False}),
    "PLIF to -0.25": ("ParametricLIFNode", SHIFTED | {"init_tau": 1.5}),
}
NEWER: dict[str, tuple[str, dict[str, Any]]] = {
    "simple IF": ("SimpleIFNode", HARD),
    "simple LIF": ("SimpleLIFNode", SHIFTED | {"tau": 2.0, "decay_input": False}),
    "half threshold": ("HalfThresholdIFNode", {"v_threshold": 0.75}),
    "CUBA": ("CUBALIFNode", SHIFTED | {"c_decay": 0.5, "v_decay": 0.75, "v_threshold": 0.5}),
}
NEURONS |= {name: row for name, row in NEWER.items() if hasattr(neuron, row[0])}

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "ATan": lambda z: 1.0 / (1.0 + (math.pi * z) ** 2),
    "Sigmoid": lambda z: 4.0 * torch.sigmoid(4.0 * z) * (1.0 - torch.sigmoid(4.0 * z)),
}


def build(kind: str, step_mode: str = "m", shape: str = "ATan", **settings: Any) -> nn.Module:
    function = getattr(surrogate, shape)()
    layer = getattr(neuron, kind)(surrogate_function=function, **settings)
    layer.step_mode = step_mode
    assert isinstance(layer, nn.Module)
    return layer


def run(layer: nn.Module, current: Tensor) -> Tensor:
    """Run a layer over a whole sequence from a fresh state."""
    layer.reset()
    if layer.step_mode == "m":
        return layer(current)
    return torch.stack([layer(now) for now in current])


def network(kind: str, step_mode: str = "m", shape: str = "ATan", **settings: Any) -> Net:
    net = seeded(lambda: Net(lambda: build(kind, step_mode, shape, **settings), run))
    assert isinstance(net, Net)
    return net


def plain(kind: str, shape: str = "ATan", **settings: Any) -> Callable[[Tensor, Inside], Tensor]:
    """Return the layer as SpikingJelly's documentation defines it: charge, fire, reset."""
    tau = settings.get("tau")
    if kind == "ParametricLIFNode":  # 1/tau = sigmoid(w), w kept in float32
        w = torch.tensor(-math.log(settings["init_tau"] - 1.0)).double()
        tau = 1.0 / float(w.sigmoid())
    inside_leak = settings.get("decay_input", True)
    threshold = settings.get("v_threshold", 1.0)
    v_reset = settings.get("v_reset")
    rest = v_reset or 0.0
    start = {"SimpleLIFNode": 0.0, "HalfThresholdIFNode": threshold / 2.0}.get(kind, rest)

    def layer(current: Tensor, inside: Inside) -> Tensor:
        v = torch.full_like(current[0], start)
        c = torch.zeros_like(v)
        emitted = []
        for x in current:
            if kind == "CUBALIFNode":
                c = settings["c_decay"] * c + x
                h = settings["v_decay"] * v + c
            elif tau is None:
                h = v + x
            elif inside_leak:
                h = v + (x - (v - rest)) / tau
            else:
                h = v - (v - rest) / tau + x
            s = PlainFire.apply(h - threshold, SLOPES[shape], False)
            emitted.append(inside.keep(h, s))
            back = s.detach() if settings.get("detach_reset") else s
            v = h - threshold * back if v_reset is None else (1.0 - back) * h + back * v_reset
        return torch.stack(emitted)

    return layer


def inputs(dtype: torch.dtype = torch.float32, samples: int = SAMPLES) -> Tensor:
    torch.manual_seed(5)
    return 9.0 * torch.randn(TIMESTEPS, samples, 6, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("name", NEURONS)
def test_captured_tensors_equal_the_documented_dynamics(
    name: str,
    step_mode: str,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, settings = NEURONS[name]
    net = network(kind, step_mode, **settings).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    layer = plain(kind, **settings)
    assert_equal_to_truth(net, inputs(dtype), layer, tmp_path / "run", monkeypatch, tolerance)
