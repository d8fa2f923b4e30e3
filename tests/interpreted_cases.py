"""Passes and gradients that the kernels are given in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accumulator_truth import backward_truth, check, forward_truth
from torch import Tensor

from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.surrogate import Surrogate
from spikescope.data.schema import COLUMNS
from spikescope.probes import accumulators, capture, kernels

ARCTAN = Surrogate("arctan", peak=1.5, width=0.4)

SPECS: dict[str, dict[str, Any]] = {
    "soft": {"decay": 0.7},
    "soft, gain": {"decay": 0.7, "gain": 0.3, "threshold": 0.8, "reset_amount": 0.6},
    "soft, hidden": {"decay": 0.9, "reset_gradient": False, "fires_at_threshold": False},
    "hard": {"decay": 0.6, "reset": "to_value", "reset_value": 0.25},
    "hard, rest": {"decay": 0.6, "reset": "to_value", "rest": 0.1, "reset_gradient": False},
    "late": {"decay": 0.6, "delayed_reset": True, "reset_gradient": False},
    "none": {"decay": 0.5, "reset": "none"},
}
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels take tensors of a CPU."""
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})


class Only:
    """Takes one route alone."""

    def __init__(self, name: str) -> None:
        self.kept = tuple(route for route in accumulators.ROUTES if route.name == name)

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(accumulators, "ROUTES", self.kept)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


def data(
    shape: tuple[int, ...], spec: NeuronSpec, dtype: torch.dtype = torch.float32, scale: float = 1.3
) -> dict[str, Tensor]:
    """Return what a layer took and gave, two of a hundred spikes wrong."""
    generator = torch.Generator().manual_seed(sum(shape))
    current = (scale * torch.randn(shape, generator=generator)).to(dtype)
    start = torch.rand(shape[1:], generator=generator).to(dtype)
    spikes = torch.zeros_like(current)
    v = start
    for t, given in enumerate(current):  # the layer itself, in its own dtype
        _, spikes[t], v = step(spec, v, given)
    spikes.view(-1)[::50] = 1.0 - spikes.view(-1)[::50]
    return {"current": current, "spikes": spikes, "start": start}


def forward(
    name: str, spec: NeuronSpec, values: dict[str, Tensor], **more: Any
) -> tuple[Any, Tensor]:
    known: dict[str, Any] = {"scale": 1.0, "surrogate": ARCTAN, "fired_before": None, "t": 1}
    with Only(name):
        block, u, *_ = accumulators.forward_pass(
            spec, values["current"], values["spikes"], values["start"], **known | more
        )
    return block, u if u is None else u.float()


def same(one: dict[str, Tensor], other: dict[str, Tensor], rel: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert (values.dtype, values.shape) == (other[name].dtype, other[name].shape), name
        if COLUMNS[name].dtype != "float64":
            assert torch.equal(values, other[name]), name
        else:
            floor = 0.0 if "square" in name or "grad" in name else 1e-7
            assert values.numpy() == pytest.approx(
                other[name].numpy(), rel=rel, abs=floor, nan_ok=True
            ), name


def truth_of(
    spec: NeuronSpec, values: dict[str, Tensor], u: Tensor, surrogate: Surrogate | None
) -> Any:
    """Return what two passes in float64 say of a potential."""
    wide = {name: value.float().numpy() for name, value in values.items()}
    return forward_truth(
        {
            "u": u.numpy(),
            "implied": (u >= spec.threshold).float().numpy(),
            "spikes": wide["spikes"],
            "current": wide["current"],
            "fired_before": np.zeros(u.shape[1:], np.float32),
            "threshold": spec.threshold,
            "scale": 1.0,
            "t": 1,
        },
        surrogate,
    )


def inside(
    kind: str,
    size: float = 1.0,
    later: bool = True,
    handed: str = "",
    shape: str = "arctan",
    known: bool = True,
) -> capture.LayerGradients:
    generator = torch.Generator().manual_seed(5)

    def draw(*lengths: int) -> Tensor:
        values = size * torch.randn(*lengths, generator=generator)
        return values * (torch.rand(*lengths, generator=generator) > 0.2)

    u = torch.randn(2, 3, 40, generator=generator)
    return capture.gradients(
        NeuronSpec(**SPECS[kind]),
        Surrogate(shape, peak=1.5, width=0.4) if known else None,
        u,
        (u > 1).float(),
        draw(2, 3, 40),
        draw(2, 3, 40),
        (draw(3, 40), draw(3, 40)) if later else None,
        draw(2, 3, 40) if handed else None,
        handed == "passed",
    )


def agree(gradients: capture.LayerGradients) -> dict[str, Tensor]:
    """Compare the kernel with the general route and with float64; return what it says."""
    with Only("kernel"):
        block = accumulators.backward_block(gradients)
    with Only("general"):
        same(block, accumulators.backward_block(gradients), rel=1e-5)
    s, s_total, u, residual = gradients.whole
    if residual is not None:
        whole = {"s": s, "s_total": s_total, "u": u}
        truth = backward_truth({name: v.numpy() for name, v in whole.items()} | {
            "residual": residual.numpy()
        })  # fmt: skip
        # The residual of a right declaration is rounding itself: the general route bounds it.
        check({name: v for name, v in block.items() if "residual" not in name}, truth)
    return block
