"""The kernels' route beside the others, and a recorder on it, run by `test_kernels.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accumulator_truth import check
from interpreted_cases import (  # noqa: F401
    ARCTAN,
    Only,
    data,
    forward,
    inside,
    on_a_cpu,
    same,
    truth_of,
)
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.analysis.neuron import NeuronSpec
from spikescope.data.schema import COLUMNS
from spikescope.probes import accumulators, kernels
from spikescope.probes.lif import LIF

# The interpreter computes with numpy, which warns where a device does not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("on_a_cpu"),
]


@pytest.mark.parametrize("route", [route.name for route in accumulators.ROUTES])
def test_every_route_says_the_same_of_a_pass_that_all_handle(route: str) -> None:
    spec = NeuronSpec(decay=0.7, reset="to_value")
    values = data((3, 3, 70), spec)
    block, u = forward(route, spec, values)
    check(block, truth_of(spec, values, u, ARCTAN))
    same(block, forward("general", spec, values)[0])
    with Only(route):
        one = accumulators.backward_block(inside("hard"))
    with Only("general"):
        same(one, accumulators.backward_block(inside("hard")), rel=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 40), nn.Linear(40, 30)
        self.low, self.high = LIF(decay=0.6), LIF(decay=0.8, gain=0.2, reset="to_value")
        self.readout = nn.Linear(30, 2)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(self.first(x) * 4)
        return self.readout(self.high(self.second(low) * 20))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_narrow_gradient_arrives_as_it_is(
    scaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    x = 2 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    dtypes, tables = [], []
    real = kernels.backward
    kernel = accumulators.ROUTES[0]
    watching = accumulators.Route(
        *("kernel", kernels.handles, kernels.forward, kernels.handles_gradients),
        lambda given: (dtypes.append((given.like.dtype, given.grad_spikes.dtype)), real(given))[1],
        replays=True,
    )
    for name, routes in (("kernel", (watching,)), ("torch", ())):
        assert kernel.name == "kernel"
        if name == "torch":
            monkeypatch.setattr(kernels, "DEVICES", set())
        monkeypatch.setattr(accumulators, "ROUTES", (*routes, accumulators.ROUTES[-1]))
        net = seeded(Net)
        with spikescope.watch(net, tmp_path / name, every=1, scaler=scaler) as probe:
            with torch.autocast("cpu", torch.bfloat16):
                loss = (net(x) ** 2).sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table())
    # A scaled one is widened first: the factor may take it out of a narrow range.
    assert dtypes == [(torch.float32 if scaled else torch.bfloat16,) * 2] * 2
    for column in ("grad_u_rms", "grad_s_rms", "grad_s_total_rms"):
        np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-5)
        assert (tables[0][column] > 0).all()


@pytest.mark.parametrize("collect", ["economy", "full"])
def test_a_training_is_recorded_alike(
    collect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 2 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    called = []
    real = kernels.forward
    routes = [
        accumulators.Route(
            "kernel",
            kernels.handles,
            lambda seen: (called.append(seen), real(seen))[1],
            kernels.handles_gradients,
            kernels.backward,
            replays=True,
        ),
        *accumulators.ROUTES[1:],
    ]
    tables = []
    for name, kept in (("kernel", routes), ("torch", routes[1:])):
        monkeypatch.setattr(accumulators, "ROUTES", tuple(kept))
        net = seeded(Net)
        with spikescope.watch(net, tmp_path / name, every=1, collect=collect) as probe:
            (net(x) ** 2).sum().backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table())
    kernel, plain = tables
    assert len(called) == 2
    assert all((seen.u is not None) == (collect == "full") for seen in called)
    assert kernel["spikes"].sum() > 0
    for column in kernel.columns:
        if column in COLUMNS and COLUMNS[column].dtype == "int64":
            assert kernel[column].tolist() == plain[column].tolist(), column
    for column in ("u_mean", "u_std", "coverage", "grad_u_rms", "grad_s_total_rms"):
        np.testing.assert_allclose(kernel[column], plain[column], rtol=1e-5, atol=1e-8)
