"""Sinabs layers under the probe: the truth, undisturbed, with every trap of the framework."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
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
from torch import Tensor, nn

import spikescope
from spikescope.probes.adapters.adapter_sinabs import SinabsAdapter

sinabs = framework("sinabs.layers")
from sinabs import activation as sa  # noqa: E402

ADAPTER = SinabsAdapter()
SINGLE = {"spike_fn": sa.SingleSpike}


def exponential(z: Tensor, threshold: float, width: float = 0.5, scale: float = 1.0) -> Tensor:
    """Return the derivative of Shrestha and Orchard 2018, its width given in thresholds."""
    return scale / (threshold * width) * torch.exp(-z.abs() / (threshold * width))


def gaussian(z: Tensor, threshold: float) -> Tensor:
    return torch.exp(-(z**2) / (2 * 0.5**2)) / (0.5 * math.sqrt(2 * math.pi))


def by_hand(settings: dict[str, Any], slope: Any = exponential) -> Any:
    """Return a plain layer in the notation of Sinabs: time constants in timesteps."""
    tau, tau_syn = settings.get("tau_mem"), settings.get("tau_syn")
    threshold = settings.get("spike_threshold", 1.0)
    reset = settings.get("reset_fn", sa.MembraneSubtract())
    normalised = tau is not None and settings.get("norm_input", True)

    def layer(current: Tensor, inside: Inside) -> Tensor:
        def alpha(tau: float) -> Tensor:
            return torch.exp(-1.0 / torch.tensor(tau, dtype=current.dtype))

        a = torch.ones((), dtype=current.dtype) if tau is None else alpha(tau)
        v, i = torch.zeros_like(current[0]), torch.zeros_like(current[0])
        outs = []
        for now in current:
            i = now if tau_syn is None else alpha(tau_syn) * (i + now)
            u = a * v + ((1 - a) * i if normalised else i)
            s = PlainFire.apply(u - threshold, lambda z: slope(z, threshold), False)
            if isinstance(reset, sa.MembraneReset):
                v = torch.where(s == 0, u, 0.0) + reset.reset_value
            else:
                v = u - s * (reset.subtract_value or threshold)
            outs.append(inside.keep(u, s))
        return torch.stack(outs)

    return layer


def batch_first(layer: nn.Module, current: Tensor) -> Tensor:
    layer.reset_states()
    # Spikes leave the layer in float32 whatever comes in.
    return layer(current.transpose(0, 1)).transpose(0, 1).to(current.dtype)


def squeezed(layer: nn.Module, current: Tensor) -> Tensor:
    """Call a layer on batch and time in one axis."""
    layer.reset_states()
    flat = layer(current.transpose(0, 1).flatten(0, 1))
    return flat.unflatten(0, current.shape[1::-1]).transpose(0, 1).to(current.dtype)


def halves(layer: nn.Module, current: Tensor) -> Tensor:
    """Call a layer twice; it keeps its state."""
    layer.reset_states()
    parts = [current[:2].transpose(0, 1), current[2:].transpose(0, 1)]
    return torch.cat([layer(part) for part in parts], 1).transpose(0, 1).to(current.dtype)


LEAKY = {"tau_mem": 2.5, "spike_threshold": 0.25}
LAYERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "LIF": (sinabs.LIF, batch_first, LEAKY),
    "LIF, input as it is": (sinabs.LIF, batch_first, {"tau_mem": 2.5, "norm_input": False}),
    "LIF with synapse": (
        sinabs.LIF,
        batch_first,
        {"tau_mem": 2.5, "tau_syn": 1.5, "norm_input": False, "spike_threshold": 0.75},
    ),
    "LIF with synapse, normalised": (
        sinabs.LIF,
        batch_first,
        {"tau_mem": 2.0, "tau_syn": 4.0, "spike_threshold": 0.5},
    ),
    "LIF in two calls": (
        sinabs.LIF,
        halves,
        LEAKY | {"tau_syn": 1.5},
    ),
    "LIF, hard": (
        sinabs.LIF,
        batch_first,
        LEAKY | {"reset_fn": sa.MembraneReset()},
    ),
    "LIF, hard to a value": (
        sinabs.LIF,
        halves,
        {"tau_mem": 2.5, "norm_input": False, "reset_fn": sa.MembraneReset(reset_value=-0.25)},
    ),
    "LIF, soft by an amount": (
        sinabs.LIF,
        batch_first,
        {
            "tau_mem": 2.5,
            "spike_threshold": 0.25,
            "reset_fn": sa.MembraneSubtract(subtract_value=0.5),
        },
    ),
    "LIF, learned alphas": (
        sinabs.LIF,
        batch_first,
        LEAKY | {"train_alphas": True},
    ),
    "LIF, at most 1": (
        sinabs.LIF,
        batch_first,
        LEAKY | {"spike_fn": sa.MaxSpike(1)},
    ),
    "LIF, gaussian": (
        sinabs.LIF,
        batch_first,
        LEAKY | {"surrogate_grad_fn": sa.Gaussian()},
    ),
    "LIFSqueeze": (
        sinabs.LIFSqueeze,
        squeezed,
        LEAKY | {"batch_size": SAMPLES},
    ),
    "IAF": (sinabs.IAF, batch_first, {}),
    "IAF with synapse": (sinabs.IAF, batch_first, {"tau_syn": 2.0}),
    "IAF, hard": (sinabs.IAF, halves, {"reset_fn": sa.MembraneReset()}),
    "IAFSqueeze": (sinabs.IAFSqueeze, squeezed, {"num_timesteps": TIMESTEPS}),
}


def build(name: str, **more: Any) -> Net:
    make, run, settings = LAYERS[name]
    return seeded(lambda: Net(lambda: make(**(SINGLE | settings | more)), run))  # type: ignore[return-value]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_captured_tensors_equal_autograd(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, settings = LAYERS[name]
    net = build(name).to(dtype)
    x = 8.0 * torch.randn(TIMESTEPS, SAMPLES, 6, dtype=dtype)
    slope = gaussian if "surrogate_grad_fn" in settings else exponential
    assert_equal_to_truth(net, x, by_hand(settings, slope), tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("name", LAYERS)
def test_training_is_bit_identical(name: str, tmp_path: Path) -> None:
    plain = train(build(name), None)
    watched = train(build(name), tmp_path / "run")
    assert same_bits(plain, watched)
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert table["near_mismatch"].sum() <= 5  # u within rounding of the threshold


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau_mem": 2.6},
        {"tau_syn": 1.55},
        {"spike_threshold": 0.765},
        {"norm_input": True},
        {"reset_fn": sa.MembraneReset()},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_declaration_turns_the_self_check_red(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "LIF with synapse"
    x = 4.0 * torch.randn(TIMESTEPS, 300, 6)
    sound = self_check(build(name), x, tmp_path / "sound")
    net, told = build(name), build(name, **wrong)
    spec_of = SinabsAdapter.live_spec

    def live_spec(self: Any, module: Any, layer: Any) -> Any:
        return spec_of(self, told.low if module is net.low else module, layer)

    monkeypatch.setattr(SinabsAdapter, "live_spec", live_spec)
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained by the declared"):
        mismatches, residual = self_check(net, x, tmp_path / "wrong")
    assert sound[0] == 0
    assert sound[1] < 2e-6
    assert mismatches > 5
    assert residual > 100 * sound[1]


def test_a_wrong_surrogate_shows_in_the_residual(tmp_path: Path) -> None:
    def steeper(net: Net) -> None:
        net.low.surrogate_grad_fn = sa.SingleExponential(grad_width=0.45)

    x = 4.0 * torch.randn(TIMESTEPS, 50, 6)
    assert self_check(build("LIF"), x, tmp_path / "sound")[1] < 2e-6
    mismatches, residual = self_check(build("LIF"), x, tmp_path / "run", steeper)
    assert mismatches == 0
    assert residual > 1e-3


def test_time_constants_train_by_default_and_are_followed(tmp_path: Path) -> None:
    net = build("LIF with synapse")
    x = 4.0 * torch.randn(TIMESTEPS, 50, 6)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    taus = []
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(net(x)).backward()
            optimizer.step()
            probe.step()
            taus.append((net.low.tau_mem.item(), net.low.tau_syn.item()))
    assert len(set(taus)) == 4
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6


def test_channels_with_time_constants_of_their_own(tmp_path: Path) -> None:
    taus = torch.linspace(1.5, 6.0, 9)
    net = seeded(
        lambda: nn.Sequential(nn.Linear(6, 9), sinabs.LIF(tau_mem=taus, norm_input=False, **SINGLE))
    )
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss_of(net(4.0 * torch.randn(SAMPLES, TIMESTEPS, 6))).backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6
    assert table["spikes"].sum() > 5


def calls(net: nn.Module, path: Path, *actions: Any) -> Any:
    """Watch one step of several calls; return its rows."""
    with spikescope.watch(net, path, every=1) as probe:
        total = torch.zeros(())
        for action in actions:
            out = action()
            total = total if out is None else total + loss_of(out)
        total.backward()
        probe.step()
    return spikescope.open_run(path).table()


def test_a_carried_state_goes_on_and_a_reset_one_begins_again(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(6, 9), sinabs.LIF(tau_mem=2.5, **SINGLE)))

    x = 4.0 * torch.randn(SAMPLES, TIMESTEPS, 6)
    once, twice = list(range(1, TIMESTEPS + 1)), list(range(1, 2 * TIMESTEPS + 1))
    for name, between, expected in (
        ("carried", lambda net: None, twice),
        ("reset", lambda net: net[1].reset_states(), once),
        ("cut", lambda net: net[1].zero_grad(), twice),
        ("made anew", lambda net: net[1].init_state_with_shape((SAMPLES, 9)), once),
    ):
        net = fresh()
        table = calls(
            net,
            tmp_path / name,
            lambda net=net: net(x),
            lambda net=net, between=between: between(net),
            lambda net=net: net(x),
        )
        assert table["t"].tolist() == expected, name
        assert table["mismatch"].sum() == 0, name
        assert table["residual"].max() < 2e-6, name


def test_evaluation_without_gradient_and_in_inference_mode(tmp_path: Path) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), sinabs.LIF(tau_mem=2.5, **SINGLE)))
    x = 4.0 * torch.randn(SAMPLES, TIMESTEPS, 6)
    net.eval()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                for _ in range(2):
                    net[1].reset_states()
                    net(x)
                # What inference mode made cannot be reset outside of it.
                net[1].init_state_with_shape((SAMPLES, 9))
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table(mode="eval")
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert table["samples"].tolist() == [4 * SAMPLES] * TIMESTEPS
    assert table["mismatch"].sum() == 0


def test_a_changed_batch_size_draws_states_and_is_followed(tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        net = seeded(
            lambda: nn.Sequential(nn.Linear(6, 9), sinabs.LIF(tau_mem=2.5, tau_syn=1.5, **SINGLE))
        )
        x = 4.0 * torch.randn(SAMPLES, TIMESTEPS, 6)

        def cut(layer: Any = net[1]) -> None:
            layer.v_mem, layer.i_syn = layer.v_mem.detach(), layer.i_syn.detach()

        runs = (lambda net=net: net(x), cut, lambda net=net: net(x[:4]))  # noqa: B023
        if watched:
            table = calls(net, tmp_path / "run", *runs)
            assert table["mismatch"].sum() == 0
            assert table["residual"].max() < 2e-6
            assert table["samples"].iloc[0] == SAMPLES + 4
        else:
            sum(loss_of(out) for run in runs if (out := run()) is not None).backward()
        ends.append((net[0].weight.grad, net[1].v_mem, torch.get_rng_state()))
    for plain, seen in zip(*ends, strict=True):
        assert torch.equal(plain, seen)


def test_a_changed_shape_begins_with_zeros(tmp_path: Path) -> None:
    layer = sinabs.LIF(tau_mem=2.5, **SINGLE)
    net = seeded(lambda: nn.ModuleList([nn.Linear(6, 9), layer, nn.Linear(6, 5)]))
    x = 4.0 * torch.randn(SAMPLES, TIMESTEPS, 6)
    table = calls(net, tmp_path / "run", lambda: layer(net[0](x)), lambda: layer(net[2](x)))
    assert table["count"].tolist() == [SAMPLES * 14] * TIMESTEPS
    assert table["mismatch"].sum() == 0


def test_a_copy_of_a_watched_layer_is_the_same_layer(tmp_path: Path) -> None:
    net = build("LIF")
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        x = torch.randn(TIMESTEPS, SAMPLES, 6)
        before = net(x)
        twin = copy.deepcopy(net)
        assert torch.equal(twin(x), before)
        before.sum().backward()
        probe.step()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: sinabs.LIF(tau_mem=2.5), "LIF with spike_fn MultiSpike may emit several spikes"),
        (lambda: sinabs.IAF(spike_fn=sa.MaxSpike(2)), "IAF with spike_fn MaxSpike may emit"),
        (
            lambda: sinabs.LIF(tau_mem=2.5, min_v_mem=-1.0, **SINGLE),
            "LIF clips its potential at min_v_mem=-1",
        ),
        (
            lambda: sinabs.LIFRecurrent(tau_mem=2.5, rec_connect=nn.Linear(3, 3), **SINGLE),
            "LIFRecurrent has recurrent weights inside the layer",
        ),
        (
            lambda: sinabs.ALIF(tau_mem=2.5, tau_adapt=3.0),
            "ALIF is not one of LIF, IAF, LIFSqueeze, IAFSqueeze",
        ),
        (
            lambda: sinabs.LIF(tau_mem=2.5, reset_fn=lambda s, state, th: state, **SINGLE),
            "LIF resets by function",
        ),
        (
            lambda: sinabs.IAF(reset_fn=sa.MembraneReset(reset_value=0.1), **SINGLE),
            r"IAF with MembraneReset\(reset_value=0.1\) adds that value in every timestep",
        ),
    ],
)
def test_what_replay_cannot_follow_is_refused_with_the_reason(make: Any, reason: str) -> None:
    layer = make()
    assert ADAPTER.handles(layer)
    with pytest.raises(ValueError, match=reason) as caught:
        ADAPTER.describe("low", layer)
    assert "\n" not in str(caught.value)


def test_layers_that_do_not_fire_are_none_of_ours() -> None:
    for module in (sinabs.ExpLeak(tau_mem=2.0), sinabs.SumPool2d(2), nn.Linear(2, 2)):
        assert not ADAPTER.handles(module)


def test_surrogates_are_measured_with_their_threshold() -> None:
    layer = sinabs.LIF(tau_mem=2.5, spike_threshold=0.2, **SINGLE)
    found = ADAPTER.describe("low", layer).surrogate
    assert found == ADAPTER.declared(layer)
    assert (found.shape, found.peak, found.width) == (
        "exponential",
        *map(pytest.approx, (10.0, 0.1)),
    )


def test_what_is_no_bump_has_no_surrogate() -> None:
    for function in (sa.Heaviside(), sa.MultiGaussian(), sa.Gaussian(mu=1.0)):
        layer = sinabs.LIF(tau_mem=2.5, surrogate_grad_fn=function, **SINGLE)
        assert ADAPTER.declared(layer) is None
        assert ADAPTER.describe("low", layer).surrogate is None


def test_a_potential_at_the_threshold_fires(tmp_path: Path) -> None:
    layer = sinabs.IAF(**SINGLE)
    with spikescope.watch(layer, tmp_path / "run", every=1) as probe:
        spikes = layer(torch.tensor([[[1.0, 0.5]]], requires_grad=True))
        spikes.sum().backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert spikes.flatten().tolist() == [1.0, 0.0]
    assert table["mismatch"].sum() + table["near_mismatch"].sum() == 0
