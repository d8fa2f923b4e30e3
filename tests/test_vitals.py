"""Parameters, updates, units and batch norms of a recorded step, against plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import spikescope
from spikescope.probes.lif import LIF
from spikescope.probes.vitals_norms import timestep_shift
from spikescope.probes.vitals_parameters import SAMPLE, sampled

TIMESTEPS, SAMPLES = 4, 6


class Net(nn.Module):
    """The readout stands first in the definition and last in the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(8, 2)
        self.linear = nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8)
        self.lif = LIF(threshold=0.7)

    def forward(self, x: Tensor) -> Tensor:
        self.current = self.linear(x)
        normed = self.norm(self.current.flatten(0, 1)).unflatten(0, x.shape[:2])
        self.fed = normed
        self.spikes = self.lif(normed)
        self.spikes.retain_grad()
        return self.readout(self.spikes)


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Net, dict[str, Tensor], dict[tuple[str, str, int], float]]:
    torch.manual_seed(0)
    model = Net()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(TIMESTEPS, SAMPLES, 5) + torch.linspace(0, 3, TIMESTEPS)[:, None, None]
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        probe.step(loss=loss)
    assert probe.path is not None
    rows = spikescope.open_run(probe.path).vitals()
    figures = {
        (name or layer, quantity, t): value
        for layer, name, t, quantity, value in rows[
            ["layer", "name", "t", "quantity", "value"]
        ].itertuples(index=False)
    }
    return model, before, figures


def test_parameters(recorded: tuple[Net, dict[str, Tensor], dict]) -> None:  # type: ignore[type-arg]
    model, before, figures = recorded
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        assert figures[name, "value_norm", 0] == pytest.approx(float(value.norm()), rel=1e-6)
        moved = (value - before[name]).norm()
        assert figures[name, "update_norm", 0] == pytest.approx(float(moved), rel=1e-5)
        assert figures[name, "gradient_norm", 0] == pytest.approx(
            float(parameter.grad.norm()), rel=1e-5
        )
        assert figures[name, "dimensions", 0] == value.ndim
    assert figures["linear.weight", "update_norm", 0] > 0


def test_units_and_scale(recorded: tuple[Net, dict[str, Tensor], dict]) -> None:  # type: ignore[type-arg]
    model, _, figures = recorded
    count = model.spikes.detach().sum((0, 1))
    assert figures["lif", "dead_units", 0] == pytest.approx(float((count == 0).float().mean()))
    full = (count == TIMESTEPS * SAMPLES).float().mean()
    assert figures["lif", "saturated_units", 0] == pytest.approx(float(full))
    assert figures["lif", "chances", 0] == TIMESTEPS * SAMPLES
    product = model.spikes.detach() * model.spikes.grad
    felt = product.sum().abs() / product.abs().sum()
    assert figures["lif", "scale_felt", 0] == pytest.approx(float(felt), rel=1e-4)
    first, last = model.fed.detach()[[0, -1]]
    total = first.var(correction=0) + last.var(correction=0)
    share = 1 - (last - first).var(correction=0) / total
    assert figures["lif", "input_frozen", 0] == pytest.approx(float(share), abs=1e-5)


def test_norms(recorded: tuple[Net, dict[str, Tensor], dict]) -> None:  # type: ignore[type-arg]
    model, _, figures = recorded
    seen = model.current.detach()
    mean, spread = seen.mean((0, 1)), seen.flatten(0, 1).std(0, correction=0)
    off = ((model.norm.running_mean - mean) / spread).square().mean().sqrt()
    assert figures["norm", "norm_off", 0] == pytest.approx(float(off), rel=1e-4)
    assert figures["norm", "norm_batch", 0] == 1
    # A group of N shows its mean up to the variance over N - 1 by chance.
    by_chance = seen.var(1, correction=0) / (SAMPLES - 1)
    square = ((seen.mean(1) - mean) ** 2 - by_chance) / spread**2
    shifts = [figures["norm", "norm_shift", t] for t in range(1, TIMESTEPS + 1)]
    assert shifts == pytest.approx(square.mean(-1).clamp(min=0).sqrt().tolist(), rel=1e-3)
    assert max(shifts) > 0.5


def test_the_shift_of_fresh_noise_is_chance() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 40, 3000)
    shift = timestep_shift(rows, torch.zeros(3000), torch.ones(3000))
    # Without the correction each would be sqrt(1 / 40) = 0.16.
    assert float(shift.max()) < 0.04
    moved = timestep_shift(rows + 0.5, torch.zeros(3000), torch.ones(3000))
    assert moved.tolist() == pytest.approx([0.5] * 5, abs=0.02)


def test_the_layer_that_a_parameter_leads_to_follows_the_calls(tmp_path: Path) -> None:
    model = Net()
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        model(torch.randn(TIMESTEPS, SAMPLES, 5)).sum().backward()
        probe.step()
    assert probe.path is not None
    rows = spikescope.open_run(probe.path).vitals()
    feeds = rows[rows["quantity"] == "value_norm"].set_index("name")["layer"].to_dict()
    assert feeds["linear.weight"] == feeds["norm.weight"] == "lif"
    assert feeds["readout.weight"] == ""


def test_a_large_parameter_is_sampled() -> None:
    values = torch.randn(64, 1024)
    some = sampled(values)
    assert SAMPLE <= some.numel() < 2 * SAMPLE
    assert torch.equal(some, values.flatten()[:: values.numel() // SAMPLE])
    assert sampled(values.T).numel() == some.numel()
