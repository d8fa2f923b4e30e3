"""Norse layers under the probe: the truth, undisturbed, with every trap of the framework."""

from __future__ import annotations

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
from spikescope.probes.adapters.adapter_norse import NorseAdapter

norse = framework("norse.torch")
from norse.torch.functional.iaf import IAFParameters  # noqa: E402
from norse.torch.functional.lif import LIFParameters  # noqa: E402
from norse.torch.functional.lif_box import LIFBoxParameters  # noqa: E402
from norse.torch.functional.reset import reset_subtract  # noqa: E402

ADAPTER = NorseAdapter()

SLOPES = {
    "super": lambda x, a: (1 + x.abs()) ** -2,  # release 1.1.0 leaves alpha out
    "triangle": lambda x, a: a * (1 - x.abs()).clamp(min=0),
    "tanh": lambda x, a: 1 - (a * x).tanh() ** 2,
    "heavi_erfc": lambda x, a: 2 * torch.exp(-((a * x) ** 2)) / torch.tensor(math.pi).sqrt(),
}
"""The derivatives by hand; the square root of pi is one of float32 in Norse."""


def by_hand(p: dict[str, Any], kind: str, dt: float = 1e-3) -> Any:
    """Return a plain layer in the notation of Norse: rates per second, Euler steps."""
    settings = {"v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0, "method": "super", "alpha": 100.0} | p

    def rate(name: str, default: float) -> float:
        # The layer multiplies in float32.
        return dt * torch.tensor(settings.get(name, default))

    def layer(current: Tensor, inside: Inside) -> Tensor:
        leak, th, v_reset = (settings[name] for name in ("v_leak", "v_th", "v_reset"))
        v = torch.full_like(current[0], v_reset if kind == "IAF" else leak)
        i = torch.zeros_like(current[0])
        outs = []
        for now in current:
            if kind == "LIF":
                i = i + now
                u = v + rate("tau_mem_inv", 100.0) * ((leak - v) + i)
                i = i - rate("tau_syn_inv", 200.0) * i
            elif kind == "LIFBox":
                u = v + rate("tau_mem_inv", 100.0) * (now + leak - v)
            else:
                u = v + now
            s = PlainFire.apply(
                u - th, lambda x: SLOPES[settings["method"]](x, settings["alpha"]), True
            )
            if settings.get("reset_method") is reset_subtract:
                v = u - s * th
            else:
                v = u - s * (u - v_reset)
            outs.append(inside.keep(u, s))
        return torch.stack(outs)

    return layer


def tensors(p: dict[str, Any]) -> dict[str, Any]:
    return {k: torch.tensor(v) if isinstance(v, float) else v for k, v in p.items()}


def whole(layer: nn.Module, current: Tensor) -> Tensor:
    """Call a layer on the whole sequence."""
    return layer(current)[0]


def stepwise(layer: nn.Module, current: Tensor) -> Tensor:
    """Call a cell timestep by timestep, the state carried by the caller."""
    outs, state = [], None
    for now in current:
        s, state = layer(now, state)
        outs.append(s)
    return torch.stack(outs)


def halves(layer: nn.Module, current: Tensor) -> Tensor:
    """Call a layer twice, the state carried over by keyword."""
    first, state = layer(current[:2])
    return torch.cat([first, layer(input_tensor=current[2:], state=state)[0]])


FAST = {"tau_mem_inv": 400.0, "tau_syn_inv": 600.0, "v_th": 0.75}
LAYERS: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "LIF": ("LIF", norse.LIF, whole, FAST),
    "LIF, default rates": ("LIF", norse.LIF, whole, {"v_th": 0.25}),
    "LIF in two calls": ("LIF", norse.LIF, halves, FAST),
    "LIF, rest and reset": (
        "LIF",
        norse.LIF,
        whole,
        FAST | {"v_leak": 0.25, "v_reset": -0.125, "method": "tanh", "alpha": 2.0},
    ),
    "LIF, no synapse left": ("LIF", norse.LIF, whole, FAST | {"tau_syn_inv": 1000.0}),
    "LIFCell": ("LIF", norse.LIFCell, stepwise, FAST | {"method": "heavi_erfc", "alpha": 1.5}),
    "LIFCell, no synapse left": ("LIF", norse.LIFCell, stepwise, FAST | {"tau_syn_inv": 1000.0}),
    "LIFBoxCell": (
        "LIFBox",
        norse.LIFBoxCell,
        stepwise,
        {"tau_mem_inv": 400.0, "v_th": 0.5, "method": "triangle", "alpha": 0.5},
    ),
    "LIFBoxCell, soft": (
        "LIFBox",
        norse.LIFBoxCell,
        stepwise,
        {"tau_mem_inv": 400.0, "reset_method": reset_subtract, "v_th": 0.5},
    ),
    "IAF": ("IAF", norse.IAF, whole, {"v_reset": 0.125}),
    "IAFCell": ("IAF", norse.IAFCell, stepwise, {"v_th": 1.5}),
}
PARAMETERS = {"LIF": LIFParameters, "LIFBox": LIFBoxParameters, "IAF": IAFParameters}


def build(name: str) -> Net:
    kind, make, run, p = LAYERS[name]
    # Own tensors: an IAF turns on the gradient of the reset value that it was given.
    if kind == "IAF":
        p = {"v_reset": 0.0} | p
    return seeded(lambda: Net(lambda: make(p=PARAMETERS[kind](**tensors(p))), run))  # type: ignore[return-value]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_captured_tensors_equal_autograd(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _, _, p = LAYERS[name]
    net = build(name).to(dtype)
    x = 4.0 * torch.randn(TIMESTEPS, SAMPLES, 6, dtype=dtype)
    # The root of pi is rounded to float32 in the layer, but not in what it declares.
    exact = 1e-7 if p.get("method") == "heavi_erfc" else 1e-12
    tolerance = 1e-6 if dtype == torch.float32 else exact
    assert_equal_to_truth(net, x, by_hand(p, kind), tmp_path / "run", monkeypatch, tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_training_is_bit_identical(name: str, tmp_path: Path) -> None:
    plain = train(build(name), None)
    watched = train(build(name), tmp_path / "run")
    assert same_bits(plain, watched)
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert table["near_mismatch"].sum() <= 5  # u within rounding of the threshold


def test_the_comparison_of_trainings_sees_a_single_changed_bit() -> None:
    plain, other = train(build("LIF"), None, steps=2), train(build("LIF"), None, steps=2)
    assert same_bits(plain, other)
    weights = other["weights"][0]
    weights.view(-1)[0] = torch.nextafter(weights.view(-1)[0], torch.tensor(9.0))
    assert not same_bits(plain, other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau_mem_inv": torch.tensor(408.0)},
        {"tau_syn_inv": torch.tensor(570.0)},
        {"v_th": torch.tensor(0.765)},
        {"v_reset": torch.tensor(0.125)},
        {"v_leak": torch.tensor(0.0625)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_declaration_turns_the_self_check_red(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 4.0 * torch.randn(TIMESTEPS, 300, 6)
    sound = self_check(build("LIF"), x, tmp_path / "sound")
    net = build("LIF")
    told = net.low.p._replace(**wrong)
    spec_of = NorseAdapter.live_spec

    def live_spec(self: Any, module: Any, layer: Any) -> Any:
        if module is not net.low:
            return spec_of(self, module, layer)
        kept, module.p = module.p, told
        spec, module.p = spec_of(self, module, layer), kept
        return spec

    monkeypatch.setattr(NorseAdapter, "live_spec", live_spec)
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained by the declared"):
        mismatches, residual = self_check(net, x, tmp_path / "wrong")
    assert sound[0] == 0
    assert sound[1] < 2e-6
    assert mismatches > 5
    assert residual > 100 * sound[1]


def test_a_wrong_surrogate_shows_in_the_residual(tmp_path: Path) -> None:
    def steeper(net: Net) -> None:
        net.low.p = net.low.p._replace(alpha=torch.tensor(1.7))

    x = 4.0 * torch.randn(TIMESTEPS, 50, 6)
    assert self_check(build("LIFCell"), x, tmp_path / "sound")[1] < 2e-6
    mismatches, residual = self_check(build("LIFCell"), x, tmp_path / "run", steeper)
    assert mismatches == 0
    assert residual > 1e-3


def test_parameters_of_now_are_replayed(tmp_path: Path) -> None:
    def another_decay(net: Net) -> None:
        net.low.p = net.low.p._replace(tau_mem_inv=torch.tensor(500.0))

    x = 4.0 * torch.randn(TIMESTEPS, 50, 6)
    mismatches, residual = self_check(build("LIF"), x, tmp_path / "run", another_decay)
    assert mismatches == 0
    assert residual < 2e-6


def test_learned_parameters_are_followed(tmp_path: Path) -> None:
    class Learned(norse.LIF):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rates = torch.full((9,), 400.0), torch.full((9,), 0.5)
            learned = [nn.Parameter(rate) for rate in rates]
            super().__init__(p=LIFParameters(tau_mem_inv=learned[0], v_th=learned[1]))
            self.learned = nn.ParameterList(learned)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.low = nn.Linear(6, 9), Learned()

        def forward(self, x: Tensor) -> Tensor:
            return self.low(self.first(x))[0]

    net = seeded(Small)
    x = 4.0 * torch.randn(TIMESTEPS, 40, 6)
    optimizer = torch.optim.SGD([net.first.weight, net.low.learned[1]], 0.02)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(net(x)).backward()
            optimizer.step()
            probe.step()
    table = spikescope.open_run(tmp_path / "run").table(layer="low")
    thresholds = table.groupby("step")["threshold"].first()
    assert thresholds.iloc[0] == 0.5
    assert len(set(thresholds)) == 4
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6


def test_released_super_spike_is_measured_and_not_believed() -> None:
    layer = norse.LIF(p=LIFParameters(alpha=torch.tensor(50.0)))
    declared, found = ADAPTER.declared(layer), ADAPTER.describe("low", layer).surrogate
    assert (declared.shape, declared.width) == ("fast_sigmoid", 0.02)
    assert found.shape == "fast_sigmoid"
    assert (found.peak, found.width) == pytest.approx((1.0, 1.0), rel=1e-9)


def test_a_declared_surrogate_that_is_true_is_kept_exactly() -> None:
    layer = norse.LIF(p=LIFParameters(method="tanh", alpha=torch.tensor(3.0)))
    assert ADAPTER.describe("low", layer).surrogate == ADAPTER.declared(layer)


def test_a_surrogate_without_gradient_is_none() -> None:
    layer = norse.LIF(p=LIFParameters(method="heaviside"))
    assert ADAPTER.describe("low", layer).surrogate is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: norse.LIFRecurrent(4, 3), "LIFRecurrent has recurrent weights inside the layer"),
        (lambda: norse.LIFRecurrentCell(4, 3), "recurrent weights inside the layer"),
        (lambda: norse.LSNN(), "LSNN runs lsnn_feed_forward_step"),
        (lambda: norse.LIFAdEx(), "LIFAdEx runs lif_adex_feed_forward_step"),
        (lambda: norse.LIFRefracCell(), "LIFRefracCell runs lif_refrac_feed_forward_step"),
        (lambda: norse.LIF(p=LIFParameters(method="adjoint")), "method 'adjoint'"),
        (
            lambda: norse.LIFBoxCell(p=LIFBoxParameters(reset_method=lambda z, v, r, th: v - z)),
            "LIFBoxCell resets by <lambda>",
        ),
        (
            lambda: norse.Izhikevich(spiking_method=norse.functional.izhikevich.tonic_spiking),
            "Izhikevich runs izhikevich_feed_forward_step",
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
    for module in (norse.LI(), norse.LICell(), norse.Lift(nn.Linear(2, 2)), nn.Linear(2, 2)):
        assert not ADAPTER.handles(module)


def test_rates_beyond_the_timestep_are_refused() -> None:
    layer = norse.LIF(p=LIFParameters(tau_mem_inv=torch.tensor(1200.0)))
    with pytest.raises(ValueError, match=r"decay=-0\.2"):
        ADAPTER.describe("low", layer)


class Random(nn.Module):
    """A layer whose first state is the user's own, drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.low = norse.LIF(p=LIFParameters(tau_mem_inv=torch.tensor(400.0)))
        own = norse.LIFFeedForwardState
        self.low.state_fallback = lambda x: own(v=torch.rand(x.shape[1:]), i=torch.rand(9))

    def forward(self, x: Tensor) -> Tensor:
        return self.low(self.first(x))[0]


def test_a_users_own_first_state_is_read_without_drawing_twice(tmp_path: Path) -> None:
    x = 4.0 * torch.randn(TIMESTEPS, 40, 6)
    ends = []
    for watched in (False, True):
        net = seeded(Random)
        if watched:
            assert self_check(net, x, tmp_path / "run")[0] == 0
            assert spikescope.open_run(tmp_path / "run").table()["residual"].max() < 2e-6
        else:
            loss_of(net(x)).backward()
        ends.append((net.first.weight.grad, torch.get_rng_state()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("detached", [False, True])
def test_a_state_cut_by_the_user_ends_the_gradient_and_not_the_sequence(
    detached: bool, tmp_path: Path
) -> None:
    net = nn.Sequential(nn.Linear(6, 9), norse.LIF(p=LIFParameters(**tensors(FAST))))
    x = 4.0 * torch.randn(TIMESTEPS, 40, 6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        first, state = net(x)
        if detached:
            state = type(state)(*(part.detach() for part in state))
        second, _ = net[1](net[0](x), state)
        loss_of(torch.cat([first, second])).backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == list(range(1, 2 * TIMESTEPS + 1))
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6


def test_a_first_state_of_the_caller_begins_a_sequence(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 9), norse.LIF(p=LIFParameters(**tensors(FAST))))
    x = 4.0 * torch.randn(TIMESTEPS, 40, 6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(2):
            own = norse.LIFFeedForwardState(v=torch.full((40, 9), 0.5), i=torch.rand(40, 9))
            loss_of(net[1](net[0](x), own)[0]).backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert table["samples"].tolist() == [80] * TIMESTEPS
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6


def test_recorded_states_of_all_timesteps_pass_through(tmp_path: Path) -> None:
    net = seeded(lambda: norse.SequentialState(nn.Linear(6, 9), norse.LIF(record_states=True)))
    x = 4.0 * torch.randn(TIMESTEPS, SAMPLES, 6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        spikes, states = net(x)
        assert states[1].v.shape == (TIMESTEPS, SAMPLES, 9)
        spikes.sum().backward()
        probe.step()
    assert spikescope.open_run(tmp_path / "run").table(layer="1")["mismatch"].sum() == 0


def test_convolutions_of_a_sequential_model_are_read(tmp_path: Path) -> None:
    net = seeded(
        lambda: norse.SequentialState(
            nn.Conv2d(1, 3, 3), norse.LIFCell(), nn.Flatten(), nn.Linear(27, 4), norse.LICell()
        )
    )
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        state, outs = None, []
        for now in 30.0 * torch.rand(TIMESTEPS, 2, 1, 5, 5):
            out, state = net(now, state)
            outs.append(out)
        torch.stack(outs).sum().backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert set(table["layer"]) == {"1"}
    assert table["t"].tolist() == [1, 2, 3, 4, 5]
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 2e-6
    assert table["spikes"].sum() > 5


def test_a_potential_at_the_threshold_does_not_fire(tmp_path: Path) -> None:
    layer = norse.IAF(p=IAFParameters(v_reset=torch.tensor(0.0)))
    with spikescope.watch(layer, tmp_path / "run", every=1) as probe:
        spikes, _ = layer(torch.tensor([[[1.0, 1.5]]], requires_grad=True))
        spikes.sum().backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert spikes.flatten().tolist() == [0.0, 1.0]
    assert table["mismatch"].sum() + table["near_mismatch"].sum() == 0
