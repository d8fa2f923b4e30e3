"""Layers without a closed form are read from their surrogate's calls, right to float rounding."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import seeded, stack_grads
from tap_networks import NEURONS, Learnable, Net, Neuron, StepOfZ, Stepwise, Window
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikescope
from spikescope.probes import accumulators, stream
from spikescope.probes import tap as tap_module

SAMPLES, TIMESTEPS = 24, 5


def data(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(SAMPLES, TIMESTEPS, 6, generator=generator).to(dtype)


def loss_of(output: Tensor) -> Tensor:
    """Return a loss that weighs timesteps and outputs unevenly."""
    weights = torch.linspace(0.5, 2.0, output[0].numel(), dtype=output.dtype)
    return ((output.flatten(1) - 0.3) ** 2 * weights).sum()


def record(
    net: nn.Module, path: Path, steps: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[dict[str, list[Any]]], spikescope.Run]:
    """Run watched steps; return what was summarised in each, and the run."""
    seen: list[dict[str, list[Any]]] = []
    forward, backward = accumulators.forward_block, accumulators.backward_block

    def spy_forward(u: Tensor, implied: Tensor, spikes: Tensor, *rest: Any, **more: Any) -> Any:
        seen[-1]["forward"].append((u[0] - more["threshold"], spikes[0], more["t"], more))
        return forward(u, implied, spikes, *rest, **more)

    def spy_backward(gradients: Any) -> Any:
        seen[-1]["backward"].append(gradients)
        return backward(gradients)

    monkeypatch.setattr(stream.accumulators, "forward_block", spy_forward)
    monkeypatch.setattr(stream.accumulators, "backward_block", spy_backward)
    with spikescope.watch(net, path, every=1) as probe:
        for step in range(steps):
            seen.append({"forward": [], "backward": []})
            net.zero_grad()
            loss_of(net(data(step, dtype))).backward()
            probe.step()
            with torch.no_grad():  # what is learned moves on
                for layer in (net.low, net.high):
                    getattr(layer, "level", torch.zeros(())).add_(0.03)
    return seen, spikescope.open_run(path)


def by_layer(entries: list[Any], net: Net) -> dict[str, list[Any]]:
    """Sort what one step saw into layers by their width, in order."""
    widths = {30: "low", 20: "high"}
    sorted_: dict[str, list[Any]] = {"low": [], "high": []}
    for entry in entries:
        tensor = entry[0] if isinstance(entry[0], Tensor) else entry.u
        sorted_[widths[tensor.shape[-1]]].append(entry)
    return sorted_


@pytest.fixture(params=NEURONS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_captured_tensors_equal_autograd(
    kind: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = seeded(lambda: Net(NEURONS[kind])).to(dtype)
    seen, run = record(net, tmp_path / "run", 2, dtype, monkeypatch)
    # float32: the surrogate's argument and ours round alike; gradients are the graph's own.
    close = (1e-5, 1e-6) if dtype == torch.float32 else (1e-12, 1e-13)
    tolerance = {"rtol": close[0], "atol": close[1]}
    forward = by_layer(seen[-1]["forward"], net)
    backward = by_layer(seen[-1]["backward"], net)
    assert [layer.name for layer in run.layers] == ["low", "high"]
    assert {layer.route for layer in run.covered} == {"tap"}
    for name in ("low", "high"):
        inside = getattr(net, name).inside
        us, ss, thresholds, zs = (list(part) for part in zip(*inside, strict=True))
        height = [float(s.detach().max()) for s in ss]
        assert min(height) > 0  # a silent layer would prove nothing
        entries = forward[name]
        assert [entry[2] for entry in entries] == list(range(1, TIMESTEPS + 1))
        z = torch.stack([entry[0] for entry in entries])
        torch.testing.assert_close(z, torch.stack(zs).detach(), **tolerance, check_dtype=True)
        spikes = torch.stack([entry[1] for entry in entries])
        assert torch.equal(spikes, (torch.stack(ss) != 0).to(dtype))
        gradients = backward[name][::-1]
        du = torch.cat([entry.u for entry in gradients])
        ds = torch.cat([entry.s_total for entry in gradients])
        expected_u = stack_grads(us)
        expected_s = stack_grads(ss) * torch.tensor(height, dtype=dtype)[:, None, None]
        torch.testing.assert_close(du, expected_u, **tolerance)
        torch.testing.assert_close(ds, expected_s, **tolerance)
        # Negative control: the branch behind the surrogate alone is something else.
        assert not torch.allclose(du[:-1] * 1.001, expected_u[:-1], rtol=1e-5)
        table = run.table(layer=name).set_index(["step", "t"]).loc[1]
        rms = (expected_u.double() ** 2).mean((1, 2)).sqrt()
        np.testing.assert_allclose(table["grad_u_rms"], rms, rtol=1e-5)
        assert (table["mismatch"] == 0).all()
        level = torch.stack([torch.as_tensor(x).mean().double() for x in thresholds]).detach()
        if run.layer(name).coordinate == "u":
            np.testing.assert_allclose(table["threshold"], level, rtol=1e-6)
            mean = torch.stack(us).double().mean((1, 2)).detach()
            np.testing.assert_allclose(table["u_mean"], mean, rtol=1e-4, atol=1e-6)
        else:
            assert (table["threshold"] == 0).all()


COORDINATES = {
    "learnable": "u - threshold",
    "learnable, setup_context, detached reset": "u - threshold",
    "adaptive threshold and width": "u",
    "threshold and width as numbers": "u",
    "spikes as high as theta": "u",
    "threshold in the surrogate": "u",
    "one timestep per call": "u - threshold",
}


def test_argument_and_surrogate_are_found(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = seeded(lambda: Net(NEURONS[kind])).double()
    _, run = record(net, tmp_path / "run", 4, torch.float64, monkeypatch)
    assert {layer.coordinate for layer in run.layers} == {COORDINATES[kind]}
    # Once measured, the surrogate explains the branch behind it in every later step. That its
    # width follows theta needs two values of theta, which two steps have.
    first = 2 if kind == "spikes as high as theta" else 1
    later = run.table().query(f"step >= {first}")
    assert (later["residual_count"] == later["grad_u_count"]).all()
    assert later["residual"].max() < 1e-6
    assert later["coverage"].between(0.01, 1.0).all()
    assert run.table().query("step == 0")["covered"].sum() == 0  # nothing was known yet


def test_a_surrogate_that_is_not_the_measured_one_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the residual: after the measurement the surrogate is changed."""
    net = seeded(lambda: Net(Learnable)).double()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for step in range(2):
            if step == 1:
                wider = staticmethod(lambda ctx, g: g / (1.0 + 5.0 * ctx.saved_tensors[0].abs()))
                monkeypatch.setattr(StepOfZ, "backward", wider)
            net.zero_grad()
            loss_of(net(data(step, torch.float64))).backward()
            probe.step()
    assert spikescope.open_run(tmp_path / "run").table().query("step == 1")["residual"].min() > 0.1


def train(net: Net, steps: int, path: Path | None) -> dict[str, Any]:
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []

    def one_step(step: int) -> None:
        optimizer.zero_grad()
        loss = loss_of(net(data(step)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    if path is None:
        for step in range(steps):
            one_step(step)
    else:
        with spikescope.watch(net, path, every=2) as probe:
            for step in range(steps):
                one_step(step)
                probe.step()
    state = [value.clone() for value in net.state_dict().values()]
    grads = [value.grad.clone() for value in net.parameters() if value.grad is not None]
    return {"losses": losses, "tensors": [*state, *grads, torch.get_rng_state()]}


def test_training_is_bit_identical(kind: str, tmp_path: Path) -> None:
    plain = train(seeded(lambda: Net(NEURONS[kind])), 20, None)
    tapped = train(seeded(lambda: Net(NEURONS[kind])), 20, tmp_path / "run")
    assert plain["losses"] == tapped["losses"]
    assert all(map(torch.equal, plain["tensors"], tapped["tensors"]))
    assert set(spikescope.open_run(tmp_path / "run").table()["step"]) == set(range(0, 20, 2))
    other = train(seeded(lambda: Net(NEURONS[kind]), seed=1), 20, None)
    assert plain["losses"] != other["losses"]  # the comparison can fail


METHODS = {
    (function, name): vars(function)[name]
    for function in (StepOfZ, Window)
    for name in ("forward", "backward")
}


def untouched() -> bool:
    return all(vars(function)[name] is was for (function, name), was in METHODS.items())


def test_functions_are_patched_in_recorded_steps_only(tmp_path: Path) -> None:
    net = seeded(lambda: Net(Learnable))
    assert untouched()
    with spikescope.watch(net, tmp_path / "run", every=2) as probe:
        assert not untouched()
        net(data()).sum().backward()
        probe.step()
        assert untouched()
        net(data()).sum().backward()
        probe.step()
        assert not untouched()
    assert untouched()
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_functions_are_restored_after_an_exception(error: BaseException, tmp_path: Path) -> None:
    net = seeded(lambda: Net(Learnable))
    with pytest.raises(type(error)), spikescope.watch(net, tmp_path / "run", every=1):
        net(data())
        raise error
    assert untouched()


def test_an_error_of_ours_restores_them_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(seeded(lambda: Net(Learnable)), 5, None)

    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(tap_module, "height_of", fail)
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped.*planted"):
        tapped = train(seeded(lambda: Net(Learnable)), 5, tmp_path / "run")
    assert plain["losses"] == tapped["losses"]
    assert untouched()


def test_two_probes_at_once_leave_when_both_are_done(tmp_path: Path) -> None:
    one, other = (seeded(lambda: Net(Learnable)).eval() for _ in range(2))
    first = spikescope.watch(one, tmp_path / "one", every=1)
    second = spikescope.watch(other, tmp_path / "other", every=1)
    first.__enter__()
    second.__enter__()
    for net in (one, other):
        net(data()).sum().backward()
    first.step()
    first.__exit__(None, None, None)
    assert not untouched()
    second.step()
    second.__exit__(None, None, None)
    assert untouched()
    tables = [spikescope.open_run(tmp_path / name).table() for name in ("one", "other")]
    assert (tables[0]["u_mean"] == tables[1]["u_mean"]).all()
    assert len(tables[0]) == 2 * TIMESTEPS


def test_a_layer_of_ours_is_not_read_twice(tmp_path: Path) -> None:
    from spikescope.probes.lif import LIF

    net = nn.Sequential(nn.Linear(6, 8), LIF(), nn.Linear(8, 8), Learnable())
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        net(data()).sum().backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [(layer.name, layer.route) for layer in run.layers] == [("1", "replay"), ("3", "tap")]
    assert len(run.table()) == SAMPLES + TIMESTEPS  # LIF takes the first axis for time


class TwoInOne(nn.Module):
    """Two layers of one width in the code of one module, through one shared surrogate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 12)
        self.spike = Spike()

    def forward(self, x: Tensor) -> Tensor:
        ua = ub = torch.zeros(len(x), 12)
        out = 0.0
        for t in range(x.shape[1]):
            ua = 0.5 * ua + self.a(x[:, t])
            sa = self.spike(ua - 0.5)
            ub = 0.5 * ub + 6.0 * self.b(sa)
            sb = self.spike(ub - 0.5)
            ua, ub = ua * (1.0 - sa), ub * (1.0 - sb)
            out = out + sb
        return torch.as_tensor(out)


class Spike(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = StepOfZ.apply(z)
        return out


def test_layers_in_one_module_are_told_apart_by_their_lines(tmp_path: Path) -> None:
    net = seeded(TwoInOne)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        net(data()).sum().backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [layer.name for layer in run.layers] == ["spike[1]", "spike[2]"]
    table = run.table().set_index(["layer", "t"])
    x = data()
    first = net.a(x[:, 0]) - 0.5
    np.testing.assert_allclose(
        table.loc[("spike[1]", 1), "u_mean"], first.mean().item(), rtol=1e-4, atol=1e-6
    )
    second = 6.0 * net.b((first >= 0).float()) - 0.5
    np.testing.assert_allclose(
        table.loc[("spike[2]", 1), "u_mean"], second.mean().item(), rtol=1e-4, atol=1e-6
    )
    assert len(table) == 2 * TIMESTEPS


def test_passes_of_one_step_are_sequences_of_their_own(tmp_path: Path) -> None:
    net = seeded(lambda: Net(Learnable)).eval()
    step = seeded(lambda: Net(Stepwise)).eval()
    for name, model in (("loop inside", net), ("loop outside", step)):
        with spikescope.watch(model, tmp_path / name, every=1) as probe:
            for part in data().split(8):
                loss_of(model(part)).backward()
            probe.step()
        table = spikescope.open_run(tmp_path / name).table(layer="low")
        assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
        assert (table["samples"] == SAMPLES).all()


def test_the_users_own_loop_over_time(tmp_path: Path) -> None:
    net = seeded(lambda: Net(Stepwise))
    assert isinstance(net.low, Stepwise)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for part in data().split(12):
            for layer in (net.low, net.high):
                layer.v, layer.inside = 0.0, []  # type: ignore[union-attr, assignment]
            torch.stack([net.once(part[:, t]) for t in range(TIMESTEPS)]).sum().backward()
        probe.step()
    # Net.once is no forward pass of the model: what is called for each timestep is the neuron.
    table = spikescope.open_run(tmp_path / "run").table(layer="high")
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert (table["samples"] == SAMPLES).all()


def test_train_and_eval_are_one_layer(tmp_path: Path) -> None:
    net = seeded(lambda: Net(Learnable))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(2):
            loss_of(net(data())).backward()
            net.eval()
            with torch.no_grad():
                net(data(1))
            net.train()
            probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [layer.name for layer in run.layers] == ["low", "high"]
    table = run.table(layer="low")
    assert len(table) == 2 * 2 * TIMESTEPS
    assert (table.query("mode == 'eval'")["grad_u_count"] == 0).all()
    assert (table.query("mode == 'eval' and step == 1")["covered"] > 0).all()


def test_a_copy_of_a_watched_model_is_clean(tmp_path: Path) -> None:
    net = seeded(lambda: Net(Learnable))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        with torch.no_grad():
            net(data())
        clone = copy.deepcopy(net)
        with torch.no_grad():
            clone(data())
        probe.step()
    assert (spikescope.open_run(tmp_path / "run").table()["samples"] == SAMPLES).all()


class Noisy(Neuron):
    """Fires by chance: no threshold explains its spikes."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        return Chance.apply(u), 0.5


class Many(Neuron):
    """Fires several times in a timestep."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        return Several.apply(u), 1.0


class Chance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        return (torch.rand_like(u) < torch.sigmoid(u)).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Several(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        return u.clamp(min=0.0).floor()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Silent(Learnable):
    """Never fires."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        z = u - 1000.0
        return StepOfZ.apply(z), 1000.0


class NoFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        soft = torch.sigmoid(x)
        return (x > 0).to(x.dtype) - soft.detach() + soft


REASONS: dict[str, tuple[type[nn.Module], str]] = {
    "by chance": (Noisy, "follow neither from the sign of its argument nor from a threshold"),
    "several": (Many, "several heights"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_be_read_is_listed_with_the_reason(case: str, tmp_path: Path) -> None:
    neuron, reason = REASONS[case]
    net = nn.Sequential(nn.Linear(6, 20), Learnable(), nn.Linear(20, 20), neuron())
    with torch.no_grad():
        net[2].weight.mul_(8.0)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for step in range(2):
            net(data(step)).sum().backward()
            probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [(layer.name, layer.covered) for layer in run.layers] == [("1", True), ("3", False)]
    assert reason in run.layer("3").reason
    assert set(run.table()["layer"]) == {"1"}
    (event,) = run.events().query("kind == 'not_covered'").to_dict("records")
    assert event["layer"] == "3"
    assert reason in event["text"]


def test_several_spikes_after_the_calibration_are_mismatches(tmp_path: Path) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 40), Many()))
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="not explained"),
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        net(0.5 * data().clamp(-1.5, 1.5)).sum().backward()
        probe.step()
        net(6.0 * data()).sum().backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert (table.groupby("step")["mismatch"].sum() > 0).tolist() == [False, True]


def test_a_silent_layer_is_read_by_the_rule_of_its_surrogate(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 20), Silent(), nn.Linear(20, 20), Learnable())
    with torch.no_grad():
        net[2].bias.normal_(std=2.0)  # its input is silent
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        net(data()).sum().backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    table = run.table(layer="1")
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert table["spikes"].sum() == 0
    assert table["u_mean"].between(-1003.0, -997.0).all()


def test_where_nothing_fires_nothing_is_guessed(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 20), Silent())
    with (
        pytest.warns(spikescope.SpikescopeWarning) as warned,
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        net(data()).sum().backward()
        probe.step()
    texts = [str(entry.message) for entry in warned]
    assert any("its threshold cannot be told" in text for text in texts)
    assert all("\n" not in text for text in texts)


def test_a_model_without_any_surrogate(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 20), NoFunction())
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="no spiking layer was found"),
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        net(data()).sum().backward()
        probe.step()
    assert not probe.active
    assert not (tmp_path / "run").exists()


def test_a_copy_of_u_made_for_the_surrogate_has_no_total_gradient(tmp_path: Path) -> None:
    class Scaled(Learnable):
        def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
            return StepOfZ.apply(u / 0.5 - 1.0), 0.5

    net = seeded(lambda: Net(Scaled))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        with pytest.warns(spikescope.SpikescopeWarning, match="DivBackward0, which may be a copy"):
            loss_of(net(data())).backward()
            probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert (table["grad_u_count"] == 0).all()  # not the branch behind the surrogate in its place
    assert (table["grad_s_total_count"] > 0).all()


class OneLine(nn.Module):
    """A loop over layers of different width, with one line that fires for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(6, 14), nn.Linear(14, 10)])

    def forward(self, x: Tensor) -> Tensor:
        state: list[Any] = [0.0, 0.0]
        for t in range(x.shape[1]):
            s = x[:, t]
            for place, linear in enumerate(self.linears):
                u = 0.5 * state[place] + linear(s)
                s = StepOfZ.apply(u - 0.2)
                state[place] = u * (1.0 - s)
        return s


def test_layers_in_one_line_are_told_apart_by_their_width(tmp_path: Path) -> None:
    with spikescope.watch(seeded(OneLine), tmp_path / "run", every=1) as probe:
        probe._session._model(data()).sum().backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [layer.name for layer in run.layers] == ["OneLine[1]", "OneLine[2]"]
    counts = run.table().groupby("layer")["count"].unique().map(list).to_dict()
    assert counts == {"OneLine[1]": [SAMPLES * 14], "OneLine[2]": [SAMPLES * 10]}


def test_images_of_any_size_are_one_layer(tmp_path: Path) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), Learnable()))
    conv, neuron = net[0], net[1]
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for size in (8, 6):
            images = torch.randn(4 * 3, 1, size, size)
            neuron(conv(images).unflatten(0, (4, 3))).sum().backward()
            probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert [layer.name for layer in run.layers] == ["1"]
    assert run.table()["count"].tolist() == [4 * 4 * 36] * 3 + [4 * 4 * 16] * 3


def test_loss_scaling_is_taken_out(tmp_path: Path) -> None:
    tables = []
    for name, scale in (("plain", None), ("scaled", 1024.0)):
        net = seeded(lambda: Net(Learnable)).eval()
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        with spikescope.watch(net, tmp_path / name, every=1, scaler=scaler) as probe:
            loss = loss_of(net(data()))
            (loss if scaler is None else scaler.scale(loss)).backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table())
    for column in ("grad_u_square", "grad_s_total_square"):
        np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_activation_checkpointing(reentrant: bool, tmp_path: Path) -> None:
    tables = []
    for checkpointed in (False, True):
        net = seeded(lambda: Net(Learnable)).eval()
        with spikescope.watch(net, tmp_path / str(checkpointed), every=1) as probe:
            for _ in range(2):
                x = net.first(data())
                low = (
                    torch.utils.checkpoint.checkpoint(net.low, x, use_reentrant=reentrant)
                    if checkpointed
                    else net.low(x)
                )
                loss_of(net.readout(net.high(net.second(low)))).backward()
                probe.step()
        tables.append(spikescope.open_run(tmp_path / str(checkpointed)).table())
    plain, again = tables
    for column in ("count", "spikes", "grad_u_count", "u_mean", "grad_u_square", "t"):
        np.testing.assert_allclose(again[column], plain[column], rtol=1e-6, err_msg=column)


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: numbers taken out of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name.startswith(("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_after_the_calibration(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The route of accelerators: that of a CPU looks at values as it likes.
    monkeypatch.setattr(stream.accumulators, "ROUTES", stream.accumulators.ROUTES[-1:])
    net = seeded(lambda: Net(NEURONS[kind]))
    thread = threading.get_ident()
    taken: list[str] = []

    def spied(name: str) -> Any:
        was = getattr(Tensor, name)

        def spy(self: Tensor, *args: Any) -> Any:
            if threading.get_ident() == thread:
                taken.append(name)
            return was(self, *args)

        return spy

    for name in ("tolist", "numpy", "item"):
        monkeypatch.setattr(Tensor, name, spied(name))
    waits: list[int] = []
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for step in range(7):
            taken.clear()
            with Waits() as mode:
                loss_of(net(data(step))).backward()
                probe.step()
            waits.append(len(mode.seen) + len(taken))
    assert waits[0] > 0  # the calibration does
    # While an argument on the device had one value only, five recorded steps are looked at.
    assert waits[5:] == [0, 0]
    if kind != "spikes as high as theta":
        assert waits[1:] == [0] * 6


class Bare(Learnable):
    """Keeps no tensors, so that it can be compiled as a whole."""

    def keep(self, u: Tensor, s: Tensor, threshold: Any, z: Tensor) -> None:
        return


def compiled_training(path: Path | None) -> tuple[int, list[float]]:
    """Train a compiled network; return how often something was compiled, and the losses."""
    torch._dynamo.reset()
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    net = seeded(lambda: Net(Bare)).eval()
    model = torch.compile(net, backend=backend)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    losses = []

    def once(step: int) -> None:
        optimizer.zero_grad()
        loss = loss_of(model(data(step)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    if path is None:
        for step in range(6):
            once(step)
    else:
        with spikescope.watch(model, path, every=2) as probe:
            for step in range(6):
                once(step)
                probe.step()
    return len(compiled), losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_is_not_compiled_again(tmp_path: Path) -> None:
    plain, tapped = compiled_training(None), compiled_training(tmp_path / "run")
    assert plain == tapped
    assert plain[0] > 0  # it was compiled at all
    run = spikescope.open_run(tmp_path / "run")
    assert [layer.name for layer in run.layers] == ["low", "high"]
    assert set(run.table()["step"]) == {0, 2, 4}
