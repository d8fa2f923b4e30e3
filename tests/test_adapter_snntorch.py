"""Reading snnTorch's layers: equal to plain torch written from the documented equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
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
from spikescope.probes.adapters.adapter_snntorch import SnnTorchAdapter

snn = framework("snntorch")
surrogate = framework("snntorch.surrogate")
utils = framework("snntorch.utils")

ADAPTER = SnnTorchAdapter()

# Settings of a layer; a function of the width is a value per neuron.
NEURONS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("Leaky", {"beta": 0.8}),
    "zero": ("Leaky", {"beta": 0.8, "reset_mechanism": "zero"}),
    "none": ("Leaky", {"beta": 0.5, "reset_mechanism": "none"}),
    "soft, at once": ("Leaky", {"beta": 0.8, "reset_delay": False}),
    "zero, at once": ("Leaky", {"beta": 0.8, "reset_delay": False, "reset_mechanism": "zero"}),
    "beta above 1": ("Leaky", {"beta": 1.3}),
    "beta below 0": ("Leaky", {"beta": -0.2}),
    "beta per neuron": ("Leaky", {"beta": lambda width: torch.linspace(0.2, 0.95, width)}),
    "learned beta": ("Leaky", {"beta": 0.7, "learn_beta": True}),
    "learned per neuron": (
        "Leaky",
        {
            "beta": lambda width: torch.linspace(0.2, 0.95, width),
            "threshold": lambda width: torch.linspace(0.4, 1.5, width),
            "learn_beta": True,
            "learn_threshold": True,
        },
    ),
    "learned threshold, zero": (
        "Leaky",
        {"beta": 0.8, "threshold": 0.6, "learn_threshold": True, "reset_mechanism": "zero"},
    ),
    "graded": ("Leaky", {"beta": 0.8, "graded_spikes_factor": 0.3}),
    "graded, learned, at once": (
        "Leaky",
        {
            "beta": 0.8,
            "graded_spikes_factor": 2.5,
            "learn_graded_spikes_factor": True,
            "reset_delay": False,
        },
    ),
    "Lapicque of beta": ("Lapicque", {"beta": 0.5}),
    "Lapicque of R and C": ("Lapicque", {"R": 2.0, "C": 1.5}),
    "Lapicque, none": ("Lapicque", {"R": 1.0, "C": 1.25, "reset_mechanism": "none"}),
    "Synaptic": ("Synaptic", {"alpha": 0.6, "beta": 0.8}),
    "Synaptic, learned": (
        "Synaptic",
        {
            "alpha": lambda width: torch.linspace(0.1, 0.9, width),
            "beta": 0.8,
            "learn_alpha": True,
        },
    ),
    "Synaptic, at once": ("Synaptic", {"alpha": 0.6, "beta": 0.8, "reset_delay": False}),
    "Synaptic, zero, at once": (
        "Synaptic",
        {"alpha": 0.6, "beta": 0.8, "reset_delay": False, "reset_mechanism": "zero"},
    ),
}

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "atan": lambda z: 1.0 / (1.0 + (math.pi * z) ** 2),
    "fast_sigmoid": lambda z: 1.0 / (1.0 + 25.0 * z.abs()) ** 2,
}


def sized(settings: dict[str, Any], width: int) -> dict[str, Any]:
    return {name: value(width) if callable(value) else value for name, value in settings.items()}


def build(kind: str, width: int, shape: str = "atan", **settings: Any) -> nn.Module:
    layer = getattr(snn, kind)(spike_grad=getattr(surrogate, shape)(), **sized(settings, width))
    assert isinstance(layer, nn.Module)
    return layer


def run(layer: nn.Module, current: Tensor) -> Tensor:
    """Run a layer over a sequence in the way that its settings ask for."""
    state = layer.reset_mem()
    state = state if isinstance(state, tuple) else (state,)
    emitted = []
    for now in current:
        output = layer(now) if layer.init_hidden else layer(now, *state)
        if isinstance(output, tuple):
            output, *state = output
        emitted.append(output)
    return torch.stack(emitted)


def network(kind: str, shape: str = "atan", **settings: Any) -> Net:
    widths = iter((9, 8))
    net = seeded(lambda: Net(lambda: build(kind, next(widths), shape, **settings), run))
    assert isinstance(net, Net)
    return net


def plain(kind: str, shape: str = "atan", **settings: Any) -> Callable[[Tensor, Inside], Tensor]:
    """Return the layer as snnTorch's documentation defines it: reset of the last step, then leak.

    One departure, which is what the framework does: the late reset to zero of a Leaky acts on
    the carried potential alone and leaves the input.
    """
    reset = settings.get("reset_mechanism", "subtract")
    at_once = not settings.get("reset_delay", True)

    def layer(current: Tensor, inside: Inside) -> Tensor:
        own = sized(settings, current.shape[-1])
        threshold = own.get("threshold", 1.0)
        if kind == "Lapicque":
            rc = own["R"] * own["C"] if "R" in own else 1.0 / math.log(1.0 / own["beta"])
            decay, gain = 1.0 - 1.0 / rc, own.get("R", 1.0) / rc
        else:
            decay, gain = torch.as_tensor(own["beta"]).clamp(0.0, 1.0), 1.0
        mem = syn = torch.zeros_like(current[0])
        emitted = []
        for x in current:
            late = (mem > threshold).to(mem.dtype)
            if kind == "Synaptic":
                x = syn = torch.as_tensor(own["alpha"]).clamp(0.0, 1.0) * syn + x
            if reset == "zero":
                mem = (1.0 - late) * mem
            u = decay * mem + gain * x
            if reset == "subtract":
                u = u - late * threshold
            s = PlainFire.apply(u - threshold, SLOPES[shape], True)
            emitted.append(own.get("graded_spikes_factor", 1.0) * inside.keep(u, s))
            mem = u
            if at_once and reset == "subtract":
                mem = u - (s - late) * threshold
            elif at_once and reset == "zero":
                mem = u - (s - late) * u
        return torch.stack(emitted)

    return layer


def inputs(samples: int = SAMPLES) -> Tensor:
    torch.manual_seed(5)
    return 4.0 * torch.randn(TIMESTEPS, samples, 6)


LAYOUTS = {
    "passed on": {},
    "hidden": {"init_hidden": True},
    "hidden, returned": {"init_hidden": True, "output": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NEURONS)
def test_captured_tensors_equal_the_documented_dynamics(
    name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings = NEURONS[name]
    net = network(kind, **settings, **LAYOUTS[layout])
    assert_equal_to_truth(net, inputs(), plain(kind, **settings), tmp_path / "run", monkeypatch)


def test_a_sharper_surrogate_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("Leaky", "fast_sigmoid", beta=0.8)
    layer = plain("Leaky", "fast_sigmoid", beta=0.8)
    # It falls by up to 2 * 25 of itself per unit of u: one unit in the last place of u is 3e-6.
    assert_equal_to_truth(net, inputs(), layer, tmp_path / "run", monkeypatch, 3e-6)


@pytest.mark.parametrize("name", ["soft", "learned per neuron", "Synaptic, learned", "graded"])
def test_training_is_bit_identical(name: str, tmp_path: Path) -> None:
    kind, settings = NEURONS[name]
    plainly = train(network(kind, **settings), None)
    watched = train(network(kind, **settings), tmp_path / "run")
    assert same_bits(plainly, watched)
    table = spikescope.open_run(tmp_path / "run").table(layer="low")
    assert len(table) == 20 * TIMESTEPS
    # What is learned moves; the record follows it.
    assert table["mismatch"].sum() == 0
    assert table["residual"].max() < 1e-5
    if name == "learned per neuron":
        assert table["threshold"].nunique() == 20


@pytest.mark.parametrize(
    "wrong", [{"decay": 0.82}, {"threshold": 1.03}, {"reset": "to_value"}, {"gain": 1.03}], ids=str
)
def test_a_wrong_spec_turns_the_self_check_red(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network("Leaky", beta=0.8), inputs(200)
    mismatch, residual = self_check(net, x, tmp_path / "sound")
    assert mismatch == 0
    assert residual < 2e-6
    right = SnnTorchAdapter.live_spec
    monkeypatch.setattr(
        SnnTorchAdapter, "live_spec", lambda *layer: replace(right(*layer), **wrong)
    )
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained"):
        mismatch, residual = self_check(net, x, tmp_path / "wrong")
    assert mismatch > 10
    assert residual > 1e-3


def test_a_wrong_surrogate_shows_in_the_gradient(tmp_path: Path) -> None:
    def swap(net: nn.Module) -> None:
        net.low.spike_grad = surrogate.atan(2.1)

    assert self_check(network("Leaky", beta=0.8), inputs(), tmp_path / "run", swap)[1] > 1e-3


# --- what the framework does that one would not expect ---


def test_the_probe_adds_no_call_of_the_surrogate_to_the_two_of_each_step(tmp_path: Path) -> None:
    counts = []

    def counted(z: Tensor) -> Tensor:
        counts[-1] += 1
        return atan(z)

    atan = surrogate.atan()
    for watched in (False, True):
        net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), snn.Leaky(0.8, init_hidden=True)))
        net[1].spike_grad = counted
        counts.append(0)
        if watched:
            with spikescope.watch(net, tmp_path / "run", every=1) as probe:
                counts[-1] = 0  # the measurement at the start is not a step
                for now in inputs():
                    out = net(now)
                out.sum().backward()
                probe.step()
        else:
            for now in inputs():
                out = net(now)
    assert counts == [2 * TIMESTEPS] * 2
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert (table["mismatch"] == 0).all()


class Hidden(nn.Module):
    """A net whose second spiking layer is nested, where ``utils.reset`` does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.outer = snn.Leaky(beta=0.8, init_hidden=True)
        self.block = nn.Sequential(nn.Linear(9, 8), snn.Leaky(beta=0.8, init_hidden=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.outer(self.first(x)))


def timesteps(path: Path, layer: str) -> list[int]:
    table = spikescope.open_run(path).table(layer=layer)
    assert (table["mismatch"] == 0).all()
    return table["t"].tolist()


def test_a_reset_between_two_batches_begins_a_sequence(tmp_path: Path) -> None:
    net, x = seeded(Hidden), inputs()
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="'outer'.* its state was reset after 5"),
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        loss = torch.zeros(())
        for _ in range(2):
            net.outer.reset_mem()
            loss = loss + torch.stack([net(now) for now in x]).sum()
        loss.backward()
        probe.step()
    path = tmp_path / "run"
    assert timesteps(path, "outer") == list(range(1, TIMESTEPS + 1))
    # Nobody reset the nested one: it carried its state on, and the record says so.
    assert timesteps(path, "block.1") == list(range(1, 2 * TIMESTEPS + 1))
    assert (spikescope.open_run(path).table(layer="outer")["samples"] == 2 * SAMPLES).all()


def test_utils_reset_is_seen_where_it_reaches(tmp_path: Path) -> None:
    net, x = nn.Sequential(snn.Leaky(beta=0.8, init_hidden=True)), inputs()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe, torch.no_grad():
        for _ in range(3):
            utils.reset(net)
            for now in x:
                net(now)
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["t"].tolist() == list(range(1, TIMESTEPS + 1))
    assert (table["samples"] == 3 * SAMPLES).all()


@pytest.mark.parametrize("init_hidden", [False, True])
def test_a_detached_state_carries_time_on_but_no_gradient(
    init_hidden: bool, tmp_path: Path
) -> None:
    net, x = seeded(lambda: Net(lambda: snn.Leaky(0.8, init_hidden=init_hidden), run)), inputs()

    def cut(layer: nn.Module, current: Tensor) -> Tensor:
        mem = layer.reset_mem()
        emitted = []
        for t, now in enumerate(current):
            if t == 3:
                mem = layer.mem = layer.mem.detach()
            if init_hidden:
                emitted.append(layer(now))
            else:
                spikes, mem = layer(now, mem)
                emitted.append(spikes)
        return torch.stack(emitted)

    net.run = cut
    mismatch, residual = self_check(net, x, tmp_path / "run")
    assert (mismatch, residual < 2e-6) == (0, True)
    assert timesteps(tmp_path / "run", "low") == list(range(1, TIMESTEPS + 1))


def test_a_state_passed_in_is_where_the_replay_begins(tmp_path: Path) -> None:
    net = nn.Sequential(snn.Leaky(beta=0.8))
    start = torch.linspace(-2.0, 3.0, 50)[None]  # some of it above the threshold already
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        with torch.no_grad():
            _, mem = net[0](torch.zeros(1, 50), start)
        probe.step()
    row = spikescope.open_run(tmp_path / "run").table(mode="train").iloc[0]
    expected = 0.8 * start - (start > 1.0).float()
    assert row["mismatch"] == 0
    assert row["u_mean"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert row["u_max"] == pytest.approx(float(expected.max()), abs=1e-6)
    assert torch.equal(mem, expected)


def test_without_delay_a_potential_far_above_the_threshold_is_followed(tmp_path: Path) -> None:
    """What one reset leaves above the threshold is reset once more in the next timestep."""
    layer = snn.Leaky(beta=0.8, reset_delay=False, init_hidden=True)
    net = nn.Sequential(layer)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe, torch.no_grad():
        for current in (5.0, 0.0, 0.0, 0.0):
            net(torch.full((1, 1), current))
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    # 5 -> v 4; u 0.8*4 - 1 = 2.2, spike, already reset: v 2.2; u 0.8*2.2 - 1 = 0.76, no spike,
    # but the second reset is taken back: v 1.76; u 0.8*1.76 - 1 = 0.408
    assert table["u_mean"].tolist() == pytest.approx([5.0, 2.2, 0.76, 0.408], abs=1e-6)
    assert table["mismatch"].sum() == 0


def test_lapicque_leaks_by_r_and_c_and_not_by_beta() -> None:
    spec = ADAPTER.describe("", snn.Lapicque(beta=0.5)).spec
    assert spec.decay == pytest.approx(1.0 - math.log(2.0), abs=1e-6)  # 0.307, not 0.5
    assert spec.gain == pytest.approx(math.log(2.0), abs=1e-6)


@pytest.mark.parametrize(("at", "fires"), [(torch.ge, True), (torch.gt, False)])
def test_whether_the_threshold_fires_is_measured(at: Any, fires: bool, tmp_path: Path) -> None:
    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return at(z, 0.0).to(z.dtype)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (z,) = ctx.saved_tensors
            return grads[0] / (1.0 + z.abs()) ** 2

    net = nn.Sequential(snn.Leaky(beta=0.5, spike_grad=Fire.apply, init_hidden=True))
    described = ADAPTER.describe("", net[0])
    assert described.spec.fires_at_threshold is fires
    assert described.surrogate.shape == "fast_sigmoid"  # measured: nothing declares it
    assert described.surrogate.width == pytest.approx(1.0, rel=1e-6)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe, torch.no_grad():
        for current in (1.0, 0.5, 1.0):  # exactly at the threshold, three times
            net(torch.full((2, 4), current))
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert (table["mismatch"] + table["near_mismatch"]).sum() == 0
    assert table["spikes"].iloc[0] == (8 if fires else 0)


@pytest.mark.skipif(not hasattr(snn, "StateLeaky"), reason="new in snnTorch 1.0")
def test_state_leaky_is_a_leak_over_the_whole_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layer(current: Tensor, inside: Inside) -> Tensor:
        decay = math.exp(-(1.0 - 0.6))  # exp(-1 / tau) with tau = 1 / (1 - beta)
        u = torch.zeros_like(current[0])
        emitted = []
        for x in current:
            u = decay * u + x
            s = PlainFire.apply(u - 1.0, SLOPES["atan"], True)
            emitted.append(0.5**2 * inside.keep(u, s))  # the factor is applied twice
        return torch.stack(emitted)

    widths = iter((9, 8))
    net = seeded(
        lambda: Net(
            lambda: snn.StateLeaky(0.6, channels=next(widths), graded_spikes_factor=0.5),
            lambda module, current: module(current)[0],
        )
    )
    # The framework adds up a convolution in another order: a few more units in the last place.
    assert_equal_to_truth(net, inputs(), layer, tmp_path / "run", monkeypatch, 2e-6)
    cut = snn.StateLeaky(0.6, channels=3, kernel_truncation_steps=2)
    with pytest.raises(ValueError, match="kernel_truncation_steps=2"):
        ADAPTER.describe("", cut)


@pytest.mark.parametrize("read", ["loss reads the potential", "spikes too"])
@pytest.mark.parametrize("layout", ["passed on", "hidden, returned"])
@pytest.mark.parametrize(
    "name", ["soft", "zero", "none", "soft, at once", "zero, at once", "Synaptic"]
)
def test_a_loss_on_the_potential_is_no_error_of_the_surrogate(
    name: str, layout: str, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many put their loss on the returned ``mem``: a way into u that is not through the spikes."""
    kind, settings = NEURONS[name]
    layer = build(kind, 9, **settings, **LAYOUTS[layout])
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), layer))
    weight = 0.0 if read == "loss reads the potential" else 1.0
    state = layer.reset_mem()
    state = state if isinstance(state, tuple) else (state,)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss = torch.zeros(())
        for t, now in enumerate(inputs()):
            current = net[0](now)
            spikes, *state = layer(current) if layer.init_hidden else layer(current, *state)
            loss = (
                loss
                + (t + 1.0) * ((state[-1] - 0.3) ** 2).sum()
                + weight * (spikes * now[0, 0]).sum()
            )
        loss.backward()
        probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert (table["grad_u_rms"] > 0).all()
    assert table["residual"].max() < 2e-6


def test_without_the_potentials_own_gradient_the_residual_would_be_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnnTorchAdapter, "potential", lambda *_: None)
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), snn.Leaky(beta=0.8)))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        _, mem = net[1](net[0](inputs()[0]))
        mem.square().sum().backward()
        probe.step()
    assert spikescope.open_run(tmp_path / "run").table()["residual"].min() > 0.1


def test_the_probe_changes_no_bit_of_a_training_on_the_potential(tmp_path: Path) -> None:
    results = []
    for watched in (False, True):
        net = seeded(lambda: nn.Sequential(nn.Linear(6, 9), snn.Leaky(0.8, learn_beta=True)))
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)
        with spikescope.watch(
            net, tmp_path / str(watched), every=lambda step, on=watched: on
        ) as probe:
            for _ in range(20):
                optimizer.zero_grad()
                mem, potentials = net[1].reset_mem(), []
                for now in inputs():
                    spikes, mem = net[1](net[0](now), mem)
                    potentials.append(mem + 0.1 * spikes)
                loss_of(torch.stack(potentials)).backward()
                optimizer.step()
                probe.step()
        results.append([value.clone() for value in net.state_dict().values()])
        results[-1] += [parameter.grad for parameter in net.parameters()]
    assert same_bits(*results)


# --- surrogates ---


@pytest.mark.parametrize(
    ("make", "shape", "peak", "width"),
    [
        (lambda: surrogate.atan(), "arctan", 1.0, 1.0 / math.pi),
        (lambda: surrogate.atan(alpha=5.0), "arctan", 2.5, 2.0 / (5.0 * math.pi)),
        (lambda: surrogate.fast_sigmoid(slope=10), "fast_sigmoid", 1.0, 0.1),
        (lambda: surrogate.sigmoid(slope=5), "sigmoid", 1.25, 0.2),
    ],
)
def test_surrogates_are_read_exactly(make: Any, shape: str, peak: float, width: float) -> None:
    layer = snn.Leaky(beta=0.5, spike_grad=make())
    for found in (ADAPTER.declared(layer), ADAPTER.describe("", layer).surrogate):
        assert (found.shape, found.peak, found.width) == (
            shape,
            pytest.approx(peak, rel=1e-9),
            pytest.approx(width, rel=1e-9),
        )


def test_a_surrogate_without_a_known_shape_stays_unknown() -> None:
    described = ADAPTER.describe("", snn.Leaky(beta=0.5, spike_grad=surrogate.triangular()))
    assert described.surrogate is None  # its gradient is -1 above the threshold


def test_without_a_surrogate_only_the_forward_pass_is_recorded(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 9), snn.Leaky(0.8, surrogate_disable=True, init_hidden=True))
    assert ADAPTER.describe("", net[1]).surrogate is None
    with spikescope.watch(net, tmp_path / "run", every=1) as probe, torch.no_grad():
        for now in inputs():
            net(now)
        probe.step()
    assert spikescope.open_run(tmp_path / "run").table()["mismatch"].sum() == 0


def test_measuring_a_random_surrogate_leaves_the_random_state() -> None:
    layer = snn.Leaky(beta=0.5, spike_grad=surrogate.SSO())
    before = torch.get_rng_state()
    ADAPTER.describe("", layer)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)  # the comparison can fail
    assert not torch.equal(before, torch.get_rng_state())


# --- what replay cannot follow ---


class Doubled(snn.Leaky):
    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        return super().forward(2.0 * input_, mem)


class Preset(snn.Leaky):
    """Only sets the defaults: nothing of its dynamics changes."""

    def __init__(self) -> None:
        super().__init__(beta=0.8)


def late_setter() -> nn.Module:
    layer = snn.Leaky(beta=0.8)
    layer.reset_mechanism = "zero"
    return layer


def inhibited() -> nn.Module:
    with pytest.warns(UserWarning, match="Inhibition"):
        return snn.Leaky(beta=0.8, inhibition=True)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "RLeaky": (lambda: snn.RLeaky(beta=0.5, all_to_all=False), "weights of its own"),
    "RSynaptic": (
        lambda: snn.RSynaptic(alpha=0.5, beta=0.5, all_to_all=False),
        "weights of its own",
    ),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.5), "two filtered currents"),
    "SLSTM": (lambda: snn.SLSTM(3, 4), "LSTM"),
    "SConv2dLSTM": (lambda: snn.SConv2dLSTM(1, 2, 3), "LSTM"),
    "LeakyParallel": (lambda: snn.LeakyParallel(3, 4, beta=0.5), "below 0"),
    "zero in Lapicque": (
        lambda: snn.Lapicque(beta=0.5, reset_mechanism="zero"),
        "drops the input",
    ),
    "zero in Synaptic": (
        lambda: snn.Synaptic(alpha=0.5, beta=0.5, reset_mechanism="zero"),
        "drops the input",
    ),
    "inhibition": (inhibited, "inhibition=True"),
    "state_quant": (lambda: snn.Leaky(beta=0.5, state_quant=torch.round), "state_quant"),
    "height 0": (lambda: snn.Leaky(beta=0.5, graded_spikes_factor=0.0), "graded_spikes_factor"),
    "leaky spikes": (lambda: snn.Leaky(beta=0.5, spike_grad=lambda z: z), "not the spike"),
    "reset set later": (late_setter, "after the layer was built"),
    "overridden": (lambda: Doubled(beta=0.5), "Doubled defines its own forward"),
    "time step too long": (lambda: snn.Lapicque(R=0.5, C=0.5), "between 0 and 1"),
}
if hasattr(snn, "DeltaLeaky"):
    REFUSED["DeltaLeaky"] = (lambda: snn.DeltaLeaky(beta=0.5), "change of the potential")


@pytest.mark.parametrize("name", REFUSED)
def test_what_replay_cannot_follow_is_listed_with_its_reason(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    net = nn.Sequential(snn.Leaky(beta=0.5), make())
    assert ADAPTER.handles(net[1])
    with pytest.raises(ValueError, match=reason):
        ADAPTER.describe("1", net[1])
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        assert probe.active
    first, second, *_ = spikescope.open_run(tmp_path / "run").header["layers"]
    assert first["framework"] == "snntorch"
    assert (second["name"], second["covered"]) == ("1", False)


def test_a_subclass_that_changes_nothing_is_read() -> None:
    assert ADAPTER.describe("", Preset()).spec.decay == pytest.approx(0.8)
    assert not ADAPTER.handles(nn.Linear(2, 2))
