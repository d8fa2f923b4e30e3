"""Reading SpikingJelly's layers: equal to plain torch written from the documented equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from spikescope.probes.adapters.adapter_spikingjelly import SpikingJellyAdapter

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


def test_the_default_surrogate_shared_by_all_layers_keeps_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = seeded(lambda: Net(lambda: neuron.LIFNode(tau=2.0, v_reset=None, step_mode="m"), run))
    # Both layers hold the same object: what is told apart must not hang on it.
    assert net.low.surrogate_function is net.high.surrogate_function
    layer = plain("LIFNode", "Sigmoid", tau=2.0)
    assert_equal_to_truth(net, inputs(), layer, tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("name", ["IF soft", "LIF to -0.25", "PLIF soft"])
def test_training_is_bit_identical(name: str, step_mode: str, tmp_path: Path) -> None:
    kind, settings = NEURONS[name]
    plainly = train(network(kind, step_mode, **settings), None)
    watched = train(network(kind, step_mode, **settings), tmp_path / "run")
    assert same_bits(plainly, watched)
    table = spikescope.open_run(tmp_path / "run").table(layer="low")
    assert len(table) == 20 * TIMESTEPS
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 1e-5  # also while the leak of PLIF is learned


def test_a_learned_leak_is_read_anew_and_without_a_look_at_its_value() -> None:
    layer = build("ParametricLIFNode", init_tau=2.0, v_reset=None)
    described = ADAPTER.describe("", layer)
    assert described.spec.decay == pytest.approx(0.5)
    with torch.no_grad():
        layer.w.fill_(2.0)
    live = ADAPTER.live_spec(layer, described)
    assert isinstance(live.decay, Tensor)
    assert not live.decay.requires_grad
    assert float(live.decay) == pytest.approx(1.0 / (1.0 + math.exp(2.0)), rel=1e-6)
    assert float(live.gain) == pytest.approx(1.0 / (1.0 + math.exp(-2.0)), rel=1e-6)


def test_settings_that_the_user_changes_are_followed(tmp_path: Path) -> None:
    def change(net: nn.Module) -> None:
        net.low.tau, net.low.v_threshold = 1.25, 1.5

    net = network("LIFNode", tau=2.0, v_reset=None)
    mismatch, residual = self_check(net, inputs(samples=200), tmp_path / "run", change)
    assert (mismatch, residual < 2e-6) == (0, True)
    assert (spikescope.open_run(tmp_path / "run").table(layer="low")["threshold"] == 1.5).all()


def test_a_threshold_that_the_user_learns_is_followed(tmp_path: Path) -> None:
    layer = build("IFNode", "s", v_reset=None)
    layer.v_threshold = nn.Parameter(torch.linspace(0.5, 2.0, 9))
    described = ADAPTER.describe("", layer)
    np.testing.assert_allclose(described.spec.threshold, np.linspace(0.5, 2.0, 9), rtol=1e-6)
    assert isinstance(ADAPTER.live_spec(layer, described).threshold, Tensor)


@pytest.mark.parametrize(
    "wrong", [{"decay": 0.52}, {"threshold": 1.03}, {"reset": "to_value"}, {"gain": 0.515}], ids=str
)
def test_a_wrong_spec_turns_the_self_check_red(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network("LIFNode", tau=2.0, v_reset=None), inputs(samples=200)
    mismatch, residual = self_check(net, x, tmp_path / "sound")
    assert mismatch == 0
    assert residual < 2e-6
    right = SpikingJellyAdapter.live_spec
    monkeypatch.setattr(
        SpikingJellyAdapter, "live_spec", lambda *layer: replace(right(*layer), **wrong)
    )
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained"):
        mismatch, residual = self_check(net, x, tmp_path / "wrong")
    assert mismatch > 10
    assert residual > 1e-3


def test_a_wrong_surrogate_shows_in_the_gradient(tmp_path: Path) -> None:
    def swap(net: nn.Module) -> None:
        net.low.surrogate_function = surrogate.ATan(2.1)

    net = network("LIFNode", tau=2.0, v_reset=None)
    assert self_check(net, inputs(), tmp_path / "run", swap)[1] > 1e-3


# --- the state ---


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_evaluation_goes_another_way_in_the_framework_and_is_read_all_the_same(
    step_mode: str, tmp_path: Path
) -> None:
    net, x = network("LIFNode", step_mode, tau=1.5, v_reset=-0.25), inputs()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss_of(net(x)).backward()
        net.eval()
        with torch.no_grad():
            net(x[:, :3])
        net.train()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table(layer="low")
    train_rows, eval_rows = (table[table["mode"] == mode] for mode in ("train", "eval"))
    assert table["mismatch"].sum() == 0
    assert train_rows["samples"].tolist() == [SAMPLES] * TIMESTEPS
    assert eval_rows["samples"].tolist() == [3] * TIMESTEPS
    assert eval_rows["spikes"].sum() > 0


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_reset_net_begins_a_sequence_and_its_lack_carries_on(
    step_mode: str, tmp_path: Path
) -> None:
    x = inputs()
    for name, reset, expected in (
        ("reset", True, list(range(1, TIMESTEPS + 1))),
        ("carried", False, list(range(1, 2 * TIMESTEPS + 1))),
    ):
        layer = build("LIFNode", step_mode, tau=1.5, v_reset=None)
        net = seeded(lambda layer=layer: nn.Sequential(nn.Linear(6, 9), layer))
        with spikescope.watch(net, tmp_path / name, every=1) as probe:
            outputs = []
            for _ in range(2):
                if reset:
                    functional.reset_net(net)
                outputs += [net(x)] if step_mode == "m" else [net(now) for now in x]
            loss_of(torch.cat([out.reshape(-1, SAMPLES, 9) for out in outputs])).backward()
            probe.step()
        table = spikescope.open_run(tmp_path / name).table()
        assert table["t"].tolist() == expected
        assert (table["samples"] == (2 * SAMPLES if reset else SAMPLES)).all()
        assert table["mismatch"].sum() == 0
        assert table["residual"].max() < 2e-6


def test_a_detached_state_carries_time_on_but_no_gradient(tmp_path: Path) -> None:
    layer = build("LIFNode", "s", tau=1.5, v_reset=None)
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), layer))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        outputs = []
        for t, now in enumerate(inputs()):
            if t == 3:
                functional.detach_net(net)
            outputs.append(net(now))
        loss_of(torch.stack(outputs)).backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert table["residual"].max() < 2e-6


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_start_potential_that_the_user_writes_is_where_the_replay_begins(
    step_mode: str, tmp_path: Path
) -> None:
    layer = build("IFNode", step_mode, v_reset=None)
    start = torch.linspace(-1.0, 2.0, 12).expand(SAMPLES, 12)
    with spikescope.watch(nn.Sequential(layer), tmp_path / "run", every=1) as probe:
        for _ in range(2):
            layer.v = start.clone()
            zero = torch.zeros(1, SAMPLES, 12)
            with torch.no_grad():
                layer(zero if step_mode == "m" else zero[0])
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == [1]
    assert table["samples"].tolist() == [2 * SAMPLES]
    assert table["u_mean"].iloc[0] == pytest.approx(float(start.mean()), abs=1e-6)
    assert table["u_max"].iloc[0] == pytest.approx(2.0)


@pytest.mark.skipif(
    not hasattr(neuron.BaseNode, "materialize_states"), reason="a feature of release 2"
)
def test_a_state_of_another_shape_is_thrown_away_as_the_framework_does(tmp_path: Path) -> None:
    layer = build("IFNode", "m", v_reset=-0.25)
    layer.v = torch.full((12,), 5.0)  # one value per channel: discarded without a word
    with spikescope.watch(nn.Sequential(layer), tmp_path / "run", every=1) as probe:
        with torch.no_grad():
            layer(torch.zeros(1, SAMPLES, 12))
            layer(torch.zeros(1, SAMPLES - 2, 12))
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == [1]
    assert table["u_mean"].tolist() == [-0.25]
    assert table["mismatch"].sum() == 0


# --- surrogates ---


@pytest.mark.parametrize(
    ("name", "settings", "shape", "peak", "width"),
    [
        ("Sigmoid", {}, "sigmoid", 1.0, 0.25),
        ("Sigmoid", {"alpha": 10.0}, "sigmoid", 2.5, 0.1),
        ("ATan", {}, "arctan", 1.0, 1.0 / math.pi),
        ("SoftSign", {}, "fast_sigmoid", 1.0, 0.5),
        ("SuperSpike", {}, "fast_sigmoid", 1.0, 1.0),
        ("PiecewiseQuadratic", {}, "triangular", 1.0, 1.0),
        ("PiecewiseExp", {}, "exponential", 0.5, 1.0),
        ("Erf", {}, "gaussian", 2.0 / math.sqrt(math.pi), 0.5 / math.sqrt(2.0)),
        ("Rect", {}, "rectangular", 1.0, 1.0),
        ("QPseudoSpike", {}, "q_pseudo_spike", 1.0, 1.0),
    ],
)
def test_surrogates_are_read_exactly(
    name: str, settings: dict[str, float], shape: str, peak: float, width: float
) -> None:
    if not hasattr(surrogate, name):
        pytest.skip(f"this release has no {name}")
    function = getattr(surrogate, name)(**settings)
    layer = neuron.LIFNode(surrogate_function=function)
    declared, found = ADAPTER.declared(layer), ADAPTER.describe("", layer).surrogate
    assert declared is not None
    assert found is not None
    for one in (declared, found):
        assert (one.shape, one.peak) == (shape, pytest.approx(peak, rel=1e-6))
        assert one.width == pytest.approx(width, rel=1e-6)


class Own(nn.Module):
    """A surrogate of the user's own."""

    def forward(self, z: Tensor) -> Tensor:
        return PlainFire.apply(z, lambda z: 1.0 / (1.0 + 3.0 * z.abs()) ** 2, False)


def test_a_surrogate_of_the_users_own_is_measured() -> None:
    layer = neuron.LIFNode(surrogate_function=Own())
    assert ADAPTER.declared(layer) is None
    found = ADAPTER.describe("", layer).surrogate
    assert (found.shape, found.width) == ("fast_sigmoid", pytest.approx(1.0 / 3.0, rel=1e-6))


def test_a_surrogate_that_declares_something_false_is_measured() -> None:
    function = surrogate.ATan(alpha=3.0)
    function.forward = surrogate.ATan(alpha=2.0).forward
    layer = neuron.LIFNode(surrogate_function=function)
    assert ADAPTER.declared(layer).peak == 1.5
    assert ADAPTER.describe("", layer).surrogate.peak == pytest.approx(1.0, rel=1e-6)


# --- what replay cannot follow ---


class Doubled(neuron.LIFNode):
    def single_step_forward(self, x: Tensor) -> Tensor:
        return super().single_step_forward(2.0 * x)


class Preset(neuron.LIFNode):
    """Only sets the defaults: nothing of its dynamics changes."""

    def __init__(self) -> None:
        super().__init__(tau=4.0)


def smooth() -> nn.Module:
    layer = neuron.LIFNode(surrogate_function=surrogate.ATan())
    layer.surrogate_function.set_spiking_mode(False)
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "QIFNode": (lambda: neuron.QIFNode(), "square of itself"),
    "EIFNode": (lambda: neuron.EIFNode(), "exponentially"),
    "IzhikevichNode": (lambda: neuron.IzhikevichNode(), "adaptation current"),
    "KLIFNode": (lambda: neuron.KLIFNode(), "rectifier"),
    "GatedLIFNode": (lambda: neuron.GatedLIFNode(T=4), "learned gates"),
    "LIAFNode": (lambda: neuron.LIAFNode(torch.relu, True), "not its spikes"),
    "PSN": (lambda: neuron.PSN(T=4), "mix of all timesteps"),
    "MaskedPSN": (lambda: neuron.MaskedPSN(k=2, T=4), "mix of earlier"),
    "SlidingPSN": (lambda: neuron.SlidingPSN(k=2), "mix of earlier"),
    "ILIFNode": (lambda: neuron.ILIFNode(), "several spikes"),
    "TernaryIFNode": (lambda: neuron.TernaryIFNode(), "both signs"),
    "ComplementaryLIFNode": (lambda: neuron.ComplementaryLIFNode(), "second memory"),
    "RAFNode": (lambda: neuron.RAFNode(), "none of IFNode"),
    "smooth": (smooth, "not the spike"),
    "overridden": (lambda: Doubled(), "Doubled defines its own single_step_forward"),
}
OWN = {"smooth", "overridden"}
REFUSED = {name: row for name, row in REFUSED.items() if name in OWN or hasattr(neuron, name)}


@pytest.mark.parametrize("name", REFUSED)
def test_what_replay_cannot_follow_is_listed_with_its_reason(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    try:
        refused = make()
    except AttributeError as error:
        pytest.skip(f"this release cannot build it: {error}")
    net = nn.Sequential(neuron.LIFNode(), refused)
    assert ADAPTER.handles(net[1])
    with pytest.raises(ValueError, match=reason):
        ADAPTER.describe("1", net[1])
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        assert probe.active
    first, second, *_ = spikescope.open_run(tmp_path / "run").header["layers"]
    assert first["framework"] == "spikingjelly"
    assert (second["name"], second["covered"]) == ("1", False)


def test_a_subclass_that_changes_nothing_is_read() -> None:
    assert ADAPTER.describe("", Preset()).spec.decay == pytest.approx(0.75)
    assert not ADAPTER.handles(nn.Linear(2, 2))
    if hasattr(neuron, "NonSpikingLIFNode"):
        assert not ADAPTER.handles(neuron.NonSpikingLIFNode())  # it never fires
