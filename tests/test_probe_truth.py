"""What the probe captures equals plain autograd: u, s, dL/ds (downstream, total), dL/du."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import WIDTH, plain_layer, seeded, stack_grads
from torch import Tensor, nn

import spikescope
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes import accumulators, layer_sums
from spikescope.probes.lif import LIF, reset_state

SURROGATE = Surrogate("arctan", peak=1.0, width=WIDTH)
TIMESTEPS, SAMPLES = 5, 7

NEURONS = {
    "soft": {"reset": "subtract"},
    "soft, detached": {"reset": "subtract", "detach_reset": True},
    "hard": {"reset": "to_value"},
    "hard, detached": {"reset": "to_value", "detach_reset": True},
    "hard, to -0.2": {"reset": "to_value", "reset_value": -0.2, "start": 0.25, "rest": 0.125},
    "none": {"reset": "none"},
    "gain 1 - decay": {"reset": "subtract", "decay": 0.9, "gain": 0.1, "threshold": 0.2},
}


class Net(nn.Module):
    """Two spiking layers of one kind between three linear ones."""

    def __init__(self, step_mode: str = "multi", **neuron: Any) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.low = LIF(surrogate=SURROGATE, step_mode=step_mode, **neuron)
        self.second = nn.Linear(9, 8)
        self.high = LIF(surrogate=SURROGATE, step_mode=step_mode, **neuron)
        self.readout = nn.Linear(8, 3)
        with torch.no_grad():
            self.second.weight.mul_(4.0)  # so that the upper layer fires, too

    def forward(self, x: Tensor) -> Tensor:
        if self.low.step_mode == "multi":
            return self._pass(x)
        reset_state(self)
        return torch.stack([self._pass(now) for now in x])

    def _pass(self, x: Tensor) -> Tensor:
        return self.readout(self.high(self.second(self.low(self.first(x)))))


class Truth(nn.Module):
    """The same network in plain torch with every inner gradient retained."""

    def __init__(self, net: Net, **neuron: Any) -> None:
        super().__init__()
        self.net = net
        settings = {"decay": 0.5, "gain": 1.0, "threshold": 1.0, "start": 0.0} | neuron
        settings["detach"] = settings.pop("detach_reset", False)
        self.settings = settings
        self.inside: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        for name, linear in (("low", self.net.first), ("high", self.net.second)):
            x, *self.inside[name] = plain_layer(linear(x), **self.settings)
        return self.net.readout(x)


def loss_of(output: Tensor) -> Tensor:
    """Return a loss that weighs timesteps and outputs unevenly."""
    weights = torch.linspace(0.5, 2.0, output[..., 0].numel(), dtype=output.dtype)
    return ((output**2).sum(-1).flatten() * weights).sum()


def record(
    net: nn.Module, x: Tensor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, list[Any]], spikescope.Run]:
    """Run one watched training step; return the tensors that were summarised, and the run."""
    seen: dict[str, list[Any]] = {"forward": [], "backward": []}
    forward, backward = accumulators.forward_pass, accumulators.backward_block

    def spy_forward(*args: Any, **more: Any) -> Any:
        passed = forward(*args, **more)
        _, u, spikes, _ = passed
        assert u is not None
        seen["forward"].append((u.clone(), spikes.clone()))
        return passed

    def spy_backward(gradients: Any) -> Any:
        seen["backward"].append([None if value is None else value.clone() for value in gradients])
        return backward(gradients)

    monkeypatch.setattr(layer_sums.accumulators, "forward_pass", spy_forward)
    monkeypatch.setattr(layer_sums.accumulators, "backward_block", spy_backward)
    with spikescope.watch(net, path, every=1) as probe:
        loss = loss_of(net(x))
        loss.backward()
        probe.step(loss=loss)
    return seen, spikescope.open_run(path)


def by_layer(entries: list[Any]) -> dict[str, list[Tensor]]:
    """Sort what was seen into layers, by their width: all timesteps of one come together."""
    widths = {9: "low", 8: "high"}
    seen = {widths[entry[0].shape[-1]]: list(entry) for entry in entries}
    assert len(seen) == len(entries) == 2
    return seen


@pytest.fixture(params=NEURONS)
def neuron(request: pytest.FixtureRequest) -> dict[str, Any]:
    return NEURONS[request.param]


@pytest.mark.parametrize("step_mode", ["multi", "single"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_captured_tensors_equal_autograd(
    neuron: dict[str, Any],
    step_mode: str,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = seeded(lambda: Net(step_mode, **neuron)).to(dtype)
    x = 3.0 * torch.randn(TIMESTEPS, SAMPLES, 6, dtype=dtype)
    truth = Truth(net, **neuron)
    loss_of(truth(x)).backward()
    net.zero_grad()
    seen, run = record(net, x, tmp_path / "run", monkeypatch)
    forward = by_layer(seen["forward"])
    backward = by_layer(seen["backward"])
    for name in ("low", "high"):
        us, spikes, emitted = truth.inside[name]
        u, s = forward[name]
        down, total, du, residual = backward[name]
        assert s.sum() > 0  # a silent layer would prove nothing
        expected = {
            "u": (u, torch.stack(us)),
            "s": (s, torch.stack(spikes)),
            "dL/ds downstream": (down, stack_grads(emitted)),
            "dL/ds total": (total, stack_grads(spikes)),
            "dL/du": (du, stack_grads(us)),
        }
        for what, (captured, true) in expected.items():
            error = (captured - true).abs().max() / true.abs().max()
            assert error <= (1e-6 if dtype == torch.float32 else 1e-13), (name, what, error)
        assert (residual.abs().max() / du.abs().max()) <= 2e-6
        rows = run.table(layer=name, mode="train")
        assert rows["mismatch"].sum() == 0
        assert rows["near_mismatch"].sum() == 0
        np.testing.assert_allclose(
            rows["grad_u_rms"], stack_grads(us).square().mean((1, 2)).sqrt().numpy(), rtol=2e-6
        )
        np.testing.assert_allclose(
            rows["u_mean"], torch.stack(us).mean((1, 2)).detach().numpy(), rtol=2e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("decay", 0.51), ("threshold", 1.02), ("reset_kind", "to_value"), ("gain", 1.02)],
)
def test_a_wrong_declaration_turns_the_self_check_red(
    field: str, value: Any, tmp_path: Path
) -> None:
    net = seeded(lambda: Net(reset="subtract"))
    x = 3.0 * torch.randn(TIMESTEPS, 200, 6)
    with spikescope.watch(net, tmp_path / "sound", every=1) as probe:
        loss_of(net(x)).backward()
        probe.step()
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="not explained by the declared"),
        spikescope.watch(net, tmp_path / "wrong", every=1) as probe,
    ):
        setattr(net.low, field, value)  # the layer now differs from what the probe was told
        loss_of(net(x)).backward()
        probe.step()
    sound = spikescope.open_run(tmp_path / "sound").table(layer="low")
    wrong = spikescope.open_run(tmp_path / "wrong").table(layer="low")
    assert sound["mismatch"].sum() == 0
    assert wrong["mismatch"].sum() > 10
    assert wrong["residual"].max() > 100 * sound["residual"].max()


def test_a_wrong_surrogate_shows_in_the_gradient_residual(tmp_path: Path) -> None:
    net = seeded(lambda: Net())
    x = 3.0 * torch.randn(TIMESTEPS, 50, 6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        net.low.surrogate = Surrogate("arctan", peak=1.0, width=1.02 * WIDTH)
        loss_of(net(x)).backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert run.table(layer="low")["residual"].min() > 1e-3
    assert run.table(layer="high")["residual"].max() < 2e-6


def test_eval_and_no_grad_are_recorded_apart(tmp_path: Path) -> None:
    net = seeded(Net)
    x = 3.0 * torch.randn(TIMESTEPS, SAMPLES, 6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss_of(net(x)).backward()
        net.eval()
        with torch.no_grad():
            net(x[:, :3])
        net.train()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table(layer="high")
    train, evaluated = (table[table["mode"] == mode] for mode in ("train", "eval"))
    assert train["samples"].tolist() == [SAMPLES] * TIMESTEPS
    assert evaluated["samples"].tolist() == [3] * TIMESTEPS
    assert (train["grad_u_count"] > 0).all()
    assert (evaluated["grad_u_count"] == 0).all()


def test_several_passes_of_a_step_merge_as_one(tmp_path: Path) -> None:
    net = seeded(Net)
    x = 3.0 * torch.randn(TIMESTEPS, 12, 6)
    tables = []
    for name, parts in (("whole", [x]), ("split", list(x.split([5, 4, 3], dim=1)))):
        with spikescope.watch(net, tmp_path / name, every=1) as probe:
            for part in parts:
                (net(part) ** 2).sum().backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table(layer="low"))
    whole, split = tables
    for column in ("count", "spikes", "covered", "silent", "samples"):
        assert (whole[column] == split[column]).all(), column
    for column in ("u_mean", "u_var", "grad_u_square", "u_sample_var", "grad_u_sample_var"):
        np.testing.assert_allclose(split[column], whole[column], rtol=1e-5, err_msg=column)


def test_one_timestep_at_a_time_records_what_the_whole_sequence_records(tmp_path: Path) -> None:
    x = 3.0 * torch.randn(TIMESTEPS, 40, 6)
    tables = []
    for mode in ("multi", "single"):
        net = seeded(lambda mode=mode: Net(mode))
        with spikescope.watch(net, tmp_path / mode, every=1) as probe:
            loss_of(net(x)).backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / mode).table())
    whole, single = tables
    low = whole[whole["layer"] == "low"]
    # Some fire early and then fall silent: only a memory of all timesteps counts them rightly.
    assert (np.diff(low["silent"]) < 0).any()
    for column in ("t", "count", "spikes", "silent", "saturated", "covered", "samples"):
        assert whole[column].tolist() == single[column].tolist(), column
    np.testing.assert_allclose(single["grad_u_rms"], whole["grad_u_rms"], rtol=1e-6)


def test_a_loss_that_is_changed_in_place_afterwards_is_recorded_as_it_was(tmp_path: Path) -> None:
    net = seeded(Net)
    with spikescope.watch(net, tmp_path / "run", every=2) as probe:
        for step in range(3):
            net(torch.ones(TIMESTEPS, 2, 6)).sum().backward()
            running = torch.tensor(float(step + 1))
            probe.step(loss=running)
            running.zero_()
    assert spikescope.open_run(tmp_path / "run").scalars()["loss"].tolist() == [1.0, 2.0, 3.0]
