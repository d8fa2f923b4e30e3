"""Timesteps that come one by one are summed up together, and say what each by itself says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.data.schema import COLUMNS, STORED
from spikescope.probes import figures, layer_sums, stretch
from spikescope.probes.lif import LIF, reset_state
from spikescope.probes.slopes import slope

NEURONS: dict[str, dict[str, Any]] = {
    "soft": {"reset": "subtract"},
    "hard": {"reset": "to_value", "reset_value": -0.2, "rest": 0.1},
    "gain": {"decay": 0.9, "gain": 0.3, "threshold": 0.4, "detach_reset": True},
    "none": {"reset": "none"},
}
T, N = 7, 6


class Net(nn.Module):
    """Two layers, each called once per timestep."""

    def __init__(self, **neuron: Any) -> None:
        super().__init__()
        self.first, self.low = nn.Linear(5, 9), LIF(step_mode="single", **neuron)
        self.second, self.high = nn.Linear(9, 8), LIF(step_mode="single", **neuron)
        with torch.no_grad():
            self.second.weight.mul_(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.second(self.low(self.first(x))))


def whole(net: Net, x: Tensor) -> None:
    reset_state(net)
    torch.stack([net(now) for now in x]).square().sum().backward()


def truncated(net: Net, x: Tensor) -> None:
    """Two backward passes in a sequence; the state goes on without its gradient."""
    reset_state(net)
    for part in x.split(4):
        torch.stack([net(now) for now in part]).sum().backward()
        for layer in (net.low, net.high):
            assert layer.v is not None
            layer.v = layer.v.detach()


def early_loss(net: Net, x: Tensor) -> None:
    """The last timesteps get no gradient."""
    reset_state(net)
    torch.stack([net(now) for now in x][:3]).sum().backward()


def one_in_two(net: Net, x: Tensor) -> None:
    """Only some timesteps are read, and without a reset nothing else reaches the others."""
    reset_state(net)
    total = torch.zeros(())
    for t, now in enumerate(x):
        for layer in (net.low, net.high):
            layer.v = None if layer.v is None else layer.v.detach()
        spikes = net(now)
        if t % 2:
            total = total + spikes.sum()
    total.backward()


def with_evaluation(net: Net, x: Tensor) -> None:
    """Two sequences of different lengths, and one in evaluation."""
    whole(net, x)
    net.eval()
    with torch.no_grad():
        reset_state(net)
        for now in x[:3]:
            net(now)
    net.train()
    whole(net, x[:5])


def untouched(net: Net, x: Tensor, *, touch: bool = False) -> None:
    """A pass without gradients."""
    with torch.no_grad():
        reset_state(net)
        for now in x:
            current = net.first(now)
            spikes = net.low(current)
            net.high(net.second(spikes))
            if touch:
                current.zero_()
                spikes.fill_(0.5)


def changed_in_place(net: Net, x: Tensor) -> None:
    """What a layer was given and what it gave is written over after the call."""
    untouched(net, x, touch=True)


PASSES = (whole, truncated, early_loss, one_in_two, with_evaluation, changed_in_place)


def table(
    path: Path, act: Callable[[Net, Tensor], None], collect: str, **neuron: Any
) -> tuple[pd.DataFrame, spikescope.Run]:
    net = seeded(lambda: Net(**neuron))
    x = 3.0 * torch.randn(T, N, 5)
    with spikescope.watch(net, path, every=1, collect=collect) as probe:
        act(net, x)
        probe.step()
    run = spikescope.open_run(path)
    return run.table([name for name in STORED if COLUMNS[name].dtype != "counts"]), run


def differences(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    assert len(one) == len(other) > 0
    found = []
    for name in one:
        a, b = one[name].to_numpy(), other[name].to_numpy()
        if a.dtype.kind == "f":
            # Rounding of float32, on the scale of what a variance is taken about.
            if not np.allclose(a, b, rtol=2e-6, atol=1e-12 if "grad" in name else 1e-6):
                both_missing = np.isnan(a) & np.isnan(b)
                if not np.allclose(a[~both_missing], b[~both_missing], rtol=2e-6, atol=1e-6):
                    found.append(name)
        elif a.tolist() != b.tolist():
            found.append(name)
    return found


@pytest.mark.filterwarnings("ignore:.*the number of timesteps changed")
@pytest.mark.parametrize(
    ("kind", "act", "room"),
    [
        *((kind, act, 3) for kind in ("soft", "hard") for act in PASSES),
        *((kind, whole, 256) for kind in NEURONS),
    ],
)
def test_together_they_say_what_each_by_itself_says(
    kind: str, act: Any, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretch, "MOST", room)
    together, run = table(tmp_path / "together", act, "full", **NEURONS[kind])
    monkeypatch.setattr(stretch.Gathered, "suits", staticmethod(lambda *_: False))
    act = untouched if act is changed_in_place else act
    apart, alone = table(tmp_path / "apart", act, "full", **NEURONS[kind])
    assert differences(together, apart) == []
    assert together["mismatch"].sum() == 0
    for name in ("low", "high"):
        assert np.array_equal(run.density(name).counts, alone.density(name).counts)
        assert np.array_equal(run.maps(name).rate, alone.maps(name).rate)
        assert np.array_equal(run.joint(name).counts, alone.joint(name).counts)
    vitals = [r.vitals().sort_values(["layer", "name", "t", "quantity"]) for r in (run, alone)]
    np.testing.assert_allclose(vitals[0]["value"], vitals[1]["value"], rtol=1e-4, atol=1e-6)


def test_the_comparison_sees_a_state_that_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = stretch.Gathered.add

    def stale(self: Any, current: Tensor, spikes: Tensor, start: Tensor) -> int:
        place = add(self, current, spikes, start)
        self.start[place] = 0.0
        return place

    apart, _ = table(tmp_path / "apart", whole, "standard")
    monkeypatch.setattr(stretch.Gathered, "add", stale)
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained by the declared"):
        wrong, _ = table(tmp_path / "wrong", whole, "standard")
    assert {"mismatch", "u_mean", "density_exponent"} & set(differences(wrong, apart))


def test_one_summary_for_many_timesteps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = layer_sums.accumulators.forward_pass

    def spy(spec: Any, current: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(len(current))
        return forward(spec, current, *rest, **more)

    monkeypatch.setattr(layer_sums.accumulators, "forward_pass", spy)
    table(tmp_path / "run", whole, "standard")
    assert seen == [T, T]


def test_the_surrogate_is_checked_on_some_samples_of_a_large_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_sums, "CHECKED", 20)  # two samples of 9 units
    some, _ = table(tmp_path / "some", whole, "standard")
    assert some.loc[some["layer"] == "low", "residual_count"].tolist() == [18] * T
    assert (some["residual_square"] <= 1e-12 * some["grad_u_square"]).all()
    wrong = {"surrogate": Surrogate("arctan", peak=1.0, width=0.3)}
    monkeypatch.setattr(LIF, "reset", lambda self: setattr(self, "v", None))

    def lying(net: Net, x: Tensor) -> None:
        net.low.surrogate = Surrogate("arctan", peak=1.0, width=0.33)
        whole(net, x)

    lied, _ = table(tmp_path / "lied", lying, "standard", **wrong)
    low = lied[lied["layer"] == "low"]
    assert (low["residual_square"] > 1e-6 * low["grad_u_square"]).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slope_in_place_is_that_of_the_definition_bit_for_bit(
    shape: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(4000, generator=generator, dtype=dtype)
    z = torch.cat([z, 1e-3 * z, 1e6 * z, torch.tensor([0.0, 0.15, -0.3, 1e15], dtype=dtype)])
    for peak, width in ((1.0, 0.3), (0.7, 1.0)):
        surrogate = Surrogate(shape, peak=peak, width=width, tail=1.5)
        want = surrogate.derivative(z, xp=torch)
        assert torch.equal(slope(surrogate, z, torch.empty_like(z)), want)
        own = z.clone()
        assert torch.equal(slope(surrogate, own, own), want)
    assert not torch.equal(slope(surrogate, 1.1 * z, torch.empty_like(z)), want)


def test_products_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PIECE", 7)
    one, other = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0))
    whole_product = (one * other).double()
    both = figures.products(one, other).tolist()
    want = torch.stack([whole_product.sum(), whole_product.abs().sum()]).tolist()
    assert both == pytest.approx(want, rel=1e-5)
    assert both[0] != pytest.approx(both[1])
