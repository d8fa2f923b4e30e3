"""Runs without a fault: seeds, networks, frameworks, T, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF

from . import frameworks as fw
from .bench import Looped, Net, Task, Training


def lif(**settings: object) -> Callable[[], nn.Module]:
    return partial(LIF, **settings)  # type: ignore[arg-type]


def seeded(seed: int, build: Callable[[], Training]) -> Callable[[], Training]:
    def make() -> Training:
        torch.manual_seed(seed)
        return build()

    return make


def _sj(kind: str = "LIFNode", **settings: object) -> Callable[[], nn.Module]:
    make = fw.spikingjelly(kind, **settings)
    return lambda: fw.Stateful(make())


def _momentum() -> Training:
    model = Net()
    return Training(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


def _autocast() -> Training:
    return Training(Net(), context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))


SHAPES = {
    "fast sigmoid of slope 25": Surrogate("fast_sigmoid", 1.0, 0.04),
    "rectangle": Surrogate("rectangular", 1.0, 1.0),
    "triangle": Surrogate("triangular", 1.0, 1.0),
    "sigmoid of slope 4": Surrogate("sigmoid", 1.0, 0.25),
}

HEALTHY: dict[str, Callable[[], Training]] = {
    "batch norm, seed 0": seeded(0, lambda: Training(Net())),
    "batch norm, seed 1": seeded(1, lambda: Training(Net(), Task(seed=1))),
    "batch norm, seed 2": seeded(2, lambda: Training(Net(), Task(seed=2))),
    "no norm, seed 3": seeded(3, lambda: Training(Net(norm=False))),
    "no norm, seed 4": seeded(4, lambda: Training(Net(norm=False), Task(seed=4))),
    "T = 2": seeded(5, lambda: Training(Net(), Task(2))),
    "T = 4, hard reset": seeded(6, lambda: Training(Net(lif(reset="to_value")), Task(4))),
    "T = 12": seeded(7, lambda: Training(Net(), Task(12))),
    "T = 20, decay 0.8": seeded(8, lambda: Training(Net(lif(decay=0.8)), Task(20), steps=60)),
    "six layers": seeded(9, lambda: Training(Net(depth=6))),
    "detached reset": seeded(10, lambda: Training(Net(lif(detach_reset=True)))),
    "float64": seeded(11, lambda: Training(Net().double(), Task(dtype=torch.float64))),
    "bf16 autocast": seeded(12, _autocast),
    "SGD with momentum": seeded(13, _momentum),
    "direct coding": seeded(14, lambda: Training(Net(), Task(frozen=True, noise=0.7))),
    **{
        f"surrogate: {name}": seeded(
            20 + k, lambda shape=shape: Training(Net(lif(surrogate=shape)))
        )
        for k, (name, shape) in enumerate(SHAPES.items())
    },
    "SpikingJelly LIF": seeded(30, lambda: Training(Net(_sj(tau=2.0)))),
    "SpikingJelly LIF, soft": seeded(
        31, lambda: Training(Net(_sj(tau=2.0, v_reset=None)), Task(8))
    ),
    "SpikingJelly IF": seeded(32, lambda: Training(Net(_sj("IFNode")), Task(4))),
    "SpikingJelly PLIF": seeded(33, lambda: Training(Net(_sj("ParametricLIFNode")))),
    "snnTorch Leaky 0.9": seeded(
        34, lambda: Training(Looped(fw.snntorch(beta=0.9), fw.fresh_snntorch), Task(10), steps=60)
    ),
    "snnTorch Leaky 0.5, learned": seeded(
        35,
        lambda: Training(
            Looped(fw.snntorch(beta=0.5, learn_beta=True, learn_threshold=True), fw.fresh_snntorch)
        ),
    ),
    "Norse LIF": seeded(
        36, lambda: Training(Net(fw.Norse, norm=False, scale=2.0), Task(10), steps=60)
    ),
    "sinabs LIF": seeded(37, lambda: Training(Net(fw.Sinabs))),
}
"""Name to training; 27 runs."""
