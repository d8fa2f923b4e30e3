"""Recurrent layers of the frameworks, whose weights lie inside, are read by the tap."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import PlainStep, seeded, stack_grads
from torch import Tensor, nn

import spikescope

TIMESTEPS, SAMPLES = 5, 20


def framework(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("SPIKESCOPE_FRAMEWORKS") == "required":
                raise
            pytest.skip(f"{name} is not installed: {error}")


class Looped(nn.Module):
    """A recurrent layer and a readout, over ``[T, N, 6]``."""

    def __init__(self, layer: nn.Module, begin: Callable[[Any], Any]) -> None:
        super().__init__()
        self.fc, self.layer, self.out = nn.Linear(6, 10), layer, nn.Linear(10, 2)
        self.begin = begin

    def forward(self, x: Tensor) -> Tensor:
        state = self.begin(self.layer)
        total = torch.zeros(x.shape[1], 2)
        for now in x:
            spikes, state = self.once(self.fc(now), state)
            total = total + self.out(spikes)
        return total

    def once(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError


class WithRLeaky(Looped):
    def once(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        spikes, mem = self.layer(current, *state)
        return spikes, (spikes, mem)


class WithNorse(Looped):
    def once(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        spikes, after = self.layer(current, state)
        return spikes, after


def data() -> Tensor:
    return 3.0 * torch.rand(TIMESTEPS, SAMPLES, 6, generator=torch.Generator().manual_seed(0))


def rleaky_truth(net: Looped) -> list[tuple[Tensor, Tensor]]:
    """Run snnTorch's RLeaky by its published equations, with every gradient kept."""
    layer: Any = net.layer
    spk = mem = torch.zeros(SAMPLES, 10)
    total = torch.zeros(SAMPLES, 2)
    kept = []
    for now in data():
        reset = (mem > layer.threshold).float()
        u = 0.8 * mem + net.fc(now) + layer.recurrent(spk) - reset * layer.threshold
        spk = PlainStep.apply(u - layer.threshold, 1.0 / torch.pi)
        mem = u
        kept.append((u, spk))
        total = total + net.out(spk)
    return backward(total, kept)


def norse_truth(net: Looped) -> list[tuple[Tensor, Tensor]]:
    """Run Norse's recurrent LIF step: the reset is cut off the graph, u is the decayed v."""
    layer: Any = net.layer
    z = v = i = torch.zeros(SAMPLES, 10)
    total = torch.zeros(SAMPLES, 2)
    kept = []
    for now in data():
        i = i + torch.nn.functional.linear(net.fc(now), layer.input_weights)
        i = i + torch.nn.functional.linear(z, layer.recurrent_weights)
        u = v + 0.001 * 100.0 * ((0.0 - v) + i)
        i = i - 0.001 * 200.0 * i
        z_new = SuperSpike.apply(u - 0.05)
        v = (1 - z_new.detach()) * u
        z = z_new
        kept.append((u, z))
        total = total + net.out(z)
    return backward(total, kept)


class SuperSpike(torch.autograd.Function):
    """Norse 1.1.0's surrogate as it is released: 1 / (1 + |z|)^2."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] / (1.0 + z.abs()) ** 2


def backward(total: Tensor, kept: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    for tensors in kept:
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.retain_grad()
    (total**2).sum().backward()
    return kept


def rleaky() -> Looped:
    snn = framework("snntorch")
    layer = snn.RLeaky(beta=0.8, linear_features=10, threshold=0.7)
    return WithRLeaky(layer, lambda layer: layer.init_rleaky())


def norse_cell() -> Looped:
    norse = framework("norse.torch")
    parameters = norse.LIFParameters(v_th=torch.as_tensor(0.05))
    return WithNorse(norse.LIFRecurrentCell(10, 10, p=parameters), lambda layer: None)


CASES: dict[str, tuple[Callable[[], Looped], Any, float]] = {
    "snnTorch RLeaky": (rleaky, rleaky_truth, 0.7),
    "Norse LIFRecurrentCell": (norse_cell, norse_truth, 0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_a_recurrent_layer_is_read_right(case: str, tmp_path: Path) -> None:
    build, truth, threshold = CASES[case]
    net = seeded(build)
    assert isinstance(net, Looped)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(2):
            net.zero_grad()
            (net(data()) ** 2).sum().backward()
            probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [(layer.name, layer.route) for layer in run.layers] == [("layer", "tap")]
    us, spikes = (list(part) for part in zip(*truth(net), strict=True))
    for step in (0, 1):
        table = run.table().query(f"step == {step}")
        # The surrogate is called for the reset as well: only the firing counts.
        assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
        z = torch.stack(us).detach() - threshold
        np.testing.assert_allclose(table["u_mean"], z.double().mean((1, 2)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            table["u_var"], z.double().var((1, 2), unbiased=False), rtol=1e-4
        )
        counted = torch.stack(spikes).detach().sum((1, 2)).long()
        assert table["spikes"].tolist() == counted.tolist()
        assert counted.sum() > 0
        for column, tensors in (("grad_u_square", us), ("grad_s_total_square", spikes)):
            square = (stack_grads(tensors).double() ** 2).mean((1, 2))
            np.testing.assert_allclose(table[column], square, rtol=1e-4, err_msg=column)
        # Negative control: the gradient behind the surrogate alone is something else.
        assert not np.allclose(table["grad_u_square"][:-1], table["grad_s_total_square"][:-1])
    assert run.table().query("step == 1")["residual"].max() < 1e-5
