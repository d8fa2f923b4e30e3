"""What a user's own code hands over is recorded as it is, or refused in one clear line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.probes.attach import check
from spikescope.probes.lif import LIF

TIMESTEPS = 4


class StraightThrough(nn.Module):
    """A neuron without any autograd.Function, which no other route can read."""

    def __init__(self, **extra: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 12)
        self.readout = nn.Linear(12, 2)
        self.probe: Any = None
        self.as_z = False
        self.extra = extra
        self.kept: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros(x.shape[1], 12, dtype=x.dtype)
        out = torch.zeros(x.shape[1], 2, dtype=x.dtype)
        self.kept = []
        for t in range(len(x)):
            u = 0.7 * v + self.linear(nn.functional.dropout(x[t], 0.1, self.training))
            soft = torch.sigmoid(4.0 * (u - 0.4))
            s = (u >= 0.4).to(x.dtype) - soft.detach() + soft
            for tensor in (u, s):
                if tensor.requires_grad:
                    tensor.retain_grad()
            self.kept.append((u, s))
            if self.probe is not None:
                given: dict[str, Any] = {"z": u - 0.4} if self.as_z else {"u": u, "threshold": 0.4}
                self.probe.attach("hidden", **(given | {"spikes": s, "t": t + 1} | self.extra))
            v = u - 0.4 * s
            out = out + self.readout(s)
        return out


def data(seed: int = 0) -> Tensor:
    return (
        2.0 * torch.randn(TIMESTEPS, 9, 5, generator=torch.Generator().manual_seed(seed)).double()
    )


def rounded(spikes: Tensor) -> Tensor:
    """Return spikes without the rounding that the straight-through form leaves on them."""
    return spikes.detach().round()


def step(net: StraightThrough, path: Path, steps: int = 1, every: int = 1) -> spikescope.Run | None:
    with spikescope.watch(net, path, every=every) as probe:
        net.probe = probe
        for index in range(steps):
            net.zero_grad()
            (net(data(index)) ** 2).sum().backward()
            probe.step()
    return spikescope.open_run(path) if probe.path else None


@pytest.mark.parametrize("t_given", [True, False], ids=["t given", "t counted"])
def test_the_record_equals_the_tensors(t_given: bool, tmp_path: Path) -> None:
    net = seeded(lambda: StraightThrough(**({} if t_given else {"t": None}))).double()
    run = step(net, tmp_path / "run")
    assert run is not None
    (layer,) = run.layers
    assert (layer.name, layer.route, layer.coordinate) == ("hidden", "attach", "u")
    assert layer.scale == 0.4
    table = run.table()
    assert table["t"].tolist() == [1, 2, 3, 4]
    for row, (u, s) in zip(table.to_dict("records"), net.kept, strict=True):
        assert row["threshold"] == 0.4
        assert row["u_mean"] == pytest.approx(u.mean().item(), rel=1e-12)
        assert row["u_var"] == pytest.approx(u.var(unbiased=False).item(), rel=1e-12)
        assert row["spikes"] == rounded(s).sum().item() > 0
        assert row["mismatch"] == 0
        assert u.grad is not None
        assert s.grad is not None
        assert row["grad_u_square"] == pytest.approx((u.grad**2).mean().item(), rel=1e-12)
        assert row["grad_s_total_square"] == pytest.approx((s.grad**2).mean().item(), rel=1e-6)
        # Negative control: without the paths through time it would be another gradient.
        assert row["grad_u_square"] != pytest.approx((s.grad**2).mean().item(), rel=1e-3)
    # What was not handed over is not made up.
    assert table[["input_mean", "surrogate_mean"]].isna().all(axis=None)
    assert (table[["grad_s_count", "residual_count"]] == 0).all(axis=None)


def test_z_is_recorded_about_zero(tmp_path: Path) -> None:
    net = seeded(StraightThrough).double()
    net.as_z = True
    run = step(net, tmp_path / "run")
    assert run is not None
    assert run.layer("hidden").coordinate == "u - threshold"
    table = run.table()
    assert (table["threshold"] == 0.0).all()
    means = [(u - 0.4).mean().item() for u, _ in net.kept]
    np.testing.assert_allclose(table["u_mean"], means, rtol=1e-12)


def test_spikes_that_the_threshold_does_not_explain_are_counted(tmp_path: Path) -> None:
    net = seeded(lambda: StraightThrough(threshold=0.6)).double()  # the neuron fires at 0.4
    with pytest.warns(spikescope.SpikescopeWarning, match="not explained"):
        run = step(net, tmp_path / "run")
    assert run is not None
    between = sum(int(((u >= 0.4) & (u < 0.6)).sum()) for u, _ in net.kept)
    assert run.table()["mismatch"].sum() == between > 0


def train(path: Path | None) -> tuple[list[float], list[Tensor]]:
    torch.manual_seed(0)
    net = StraightThrough().double()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []

    def once(index: int) -> None:
        optimizer.zero_grad()
        loss = (net(data(index)) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    if path is None:
        for index in range(20):
            once(index)
    else:
        with spikescope.watch(net, path, every=3) as probe:
            net.probe = probe
            for index in range(20):
                once(index)
                probe.step()
    return losses, [*net.state_dict().values(), torch.get_rng_state()]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    (plain, before), (watched, after) = train(None), train(tmp_path / "run")
    assert plain == watched
    assert all(map(torch.equal, before, after))
    run = spikescope.open_run(tmp_path / "run")
    assert sorted(set(run.table()["step"])) == list(range(0, 20, 3))


def test_it_stands_beside_layers_that_are_found(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.lif = nn.Linear(5, 6), LIF()
            self.mine = seeded(StraightThrough)

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(self.linear(x)).sum() + self.mine(x).sum()

    net = Both().double()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        net.mine.probe = probe
        before = spikescope.open_run(tmp_path / "run")
        assert [layer.name for layer in before.layers] == ["lif"]
        net(data()).backward()
        probe.step()
        # A run that is open already learns of it, too.
        assert [layer.name for layer in before.layers] == ["lif", "hidden"]
    assert set(spikescope.open_run(tmp_path / "run").table()["layer"]) == {"lif", "hidden"}


def test_a_layer_list_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    run = step(seeded(StraightThrough).double(), tmp_path / "run")
    assert run is not None
    (tmp_path / "run" / "layers.json").write_text('{"layers": [{"na')
    torn = spikescope.open_run(tmp_path / "run")
    assert torn.layers == ()  # what the header knew
    assert "layers.json" in torn.problems[0]


U = torch.zeros(3, 4)
S = torch.zeros(3, 4)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "neither of u= and z= was given: give u= with threshold="),
    "both": ({"u": U, "z": U, "threshold": 1.0}, "both of u= and z= was given"),
    "no threshold": ({"u": U}, "threshold=None: u= needs one"),
    "threshold with z": ({"z": U, "threshold": 1.0}, "threshold=1.0 is in z already"),
    "shapes": ({"z": U[:2]}, r"z of shape \(2, 4\) and spikes of shape \(3, 4\)"),
    "no tensor": ({"z": 0.5}, "z=0.5 is no tensor"),
    "whole numbers": ({"z": U.long()}, "z is torch.int64: give floating numbers"),
    "threshold shape": ({"u": U, "threshold": torch.ones(3)}, r"float32 of shape \(3,\)"),
    "threshold words": ({"u": U, "threshold": "1"}, "threshold='1'"),
    "threshold infinite": ({"u": U, "threshold": float("inf")}, "threshold=inf is not finite"),
    "t": ({"z": U, "t": 0}, "t=0 is not possible: timesteps are whole numbers from 1"),
    "complex spikes": ({"z": U, "spikes": S.cfloat()}, "spikes are torch.complex64"),
    "several heights": ({"z": U, "spikes": torch.arange(12.0).view(3, 4)}, "take several values"),
    "negative spikes": ({"z": U, "spikes": S - 1.0}, "take several values"),
    "empty": ({"z": U[:0], "spikes": S[:0]}, r"z of shape \(0, 4\) holds nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_training_goes_on(case: str, tmp_path: Path) -> None:
    given, line = BAD[case]
    net = nn.Sequential(nn.Linear(3, 2), LIF())
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        with pytest.warns(spikescope.SpikescopeWarning, match=line) as warned:
            for _ in range(3):
                probe.attach("layer", **({"spikes": S} | given))
        assert len(warned) == 1  # once
        assert "\n" not in str(warned[0].message)
        assert "probe.attach('layer')" in str(warned[0].message)
        net(torch.ones(2, 3, 3)).sum().backward()
        probe.step()
    run = spikescope.open_run(tmp_path / "run")
    assert set(run.table()["layer"]) == {"1"}
    assert run.events()["kind"].tolist() == ["attach"]


def test_what_fits_is_let_pass() -> None:
    """Check what the refusals are told apart from."""
    for spikes in (S, S.bool(), S.long(), S.double()):
        assert check(U, None, spikes, 1, None)[1] == 1.0
        assert check(None, U, spikes, None, 3)[1] == 0.0
    assert isinstance(check(U, None, S, torch.ones(4), None)[1], Tensor)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
def test_spikes_may_be_bools_or_integers(dtype: torch.dtype, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), LIF())
    u = torch.tensor([[0.5, 1.5], [1.0, 0.2]])
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        probe.attach("layer", u=u, spikes=(u >= 1.0).to(dtype), threshold=1.0)
        probe.step()
    row = spikescope.open_run(tmp_path / "run").table(layer="layer").iloc[0]
    assert (row["spikes"], row["mismatch"], row["count"]) == (2, 0, 4)


def test_a_name_that_is_taken_or_a_coordinate_that_changes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), LIF())
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        with pytest.warns(spikescope.SpikescopeWarning, match="recorded by itself"):
            probe.attach("1", z=U, spikes=S)
        probe.attach("mine", z=U, spikes=S)
        with pytest.warns(spikescope.SpikescopeWarning, match="u= was given, and z= earlier"):
            probe.attach("mine", u=U, spikes=S, threshold=1.0)


def test_outside_of_a_step(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), LIF())
    probe = spikescope.watch(net, tmp_path / "run", every=2)
    with pytest.warns(
        spikescope.SpikescopeWarning, match="before 'with spikescope.watch"
    ) as warned:
        for _ in range(2):
            probe.attach("layer", z=U, spikes=S)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with probe:
            net(torch.ones(2, 3, 3))
            probe.step()
            probe.attach("layer", z=U, spikes=S)  # step 1 is not recorded
            probe.step()
            probe.attach("layer", z=U, spikes=S)
            net(torch.ones(2, 3, 3))
            probe.step()
        probe.attach("layer", z=U, spikes=S)  # afterwards the model may still call it
    table = spikescope.open_run(tmp_path / "run").table(layer="layer")
    assert table["step"].tolist() == [2]
