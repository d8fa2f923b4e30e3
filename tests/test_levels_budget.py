"""How much is kept, how often, and what it costs: levels, schedules, the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.data.fine import JOINT_G, JOINT_U, joint_edges
from spikescope.probes import layer_sums, writer
from spikescope.probes.fine import joint_counts
from spikescope.probes.lif import LIF
from spikescope.probes.schedule import WarmUp

BACKWARD = ("grad_u_count", "grad_s_count", "grad_s_total_count", "residual_count")


def net() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 3), LIF()))


def train(model: nn.Module, path: Any, steps: int = 4, **settings: Any) -> Any:
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spikescope.watch(model, path, **{"every": 1} | settings) as probe:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(2.0 * torch.randn(5, 8, 4)).sum(0) - 1.0).square().mean()
            loss.backward()
            optimizer.step()
            probe.step(loss=loss)
    return spikescope.open_run(probe.path) if probe.path else None


# ---- levels


def test_levels_differ_in_what_they_keep_and_not_in_what_they_say(tmp_path: Path) -> None:
    runs = {
        level: train(net(), tmp_path / level, collect=level)
        for level in ("economy", "standard", "full")
    }
    tables = {level: run.table() for level, run in runs.items()}
    assert [run.header["collect"] for run in runs.values()] == list(runs)
    whole = tables["standard"]
    assert tables["full"].equals(whole)
    economy = tables["economy"]
    forward = [name for name in whole if not name.startswith(("grad_", "residual"))]
    forward.remove("density_exponent")
    assert economy[forward].equals(whole[forward])
    for name in BACKWARD:
        assert (economy[name] == 0).all()
        assert (whole[name] > 0).all()
    assert economy["grad_u_rms"].isna().all()
    for level, run in runs.items():
        assert (run.density("1").counts.sum() > 0) == (level != "economy")
        assert (len(run.maps("1").steps) > 0) == (level == "full")
        assert (len(run.joint("1").steps) > 0) == (level == "full")
    assert runs["economy"].problems == []


def test_economy_leaves_the_graph_alone(tmp_path: Path) -> None:
    model = net()
    with spikescope.watch(model, tmp_path / "run", every=1, collect="economy") as probe:
        output = model(torch.randn(5, 8, 4))
        plain = net()(torch.randn(5, 8, 4))
        assert type(output.grad_fn) is type(plain.grad_fn)  # no view of ours
        output.sum().backward()
        probe.step()
    assert spikescope.open_run(tmp_path / "run").events().empty


def test_maps_and_joint_are_those_of_the_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    block = layer_sums.accumulators.backward_block

    def spy(gradients: Any) -> Any:
        seen.append(gradients)
        return block(gradients)

    monkeypatch.setattr(layer_sums.accumulators, "backward_block", spy)
    run = train(net(), tmp_path / "run", steps=1, collect="full")
    for name, gradients in (("3", seen[0]), ("1", seen[1])):
        maps, joint = run.maps(name), run.joint(name)
        fired = gradients.spikes.sum((0, 1)).numpy()
        assert np.array_equal(maps.rate[0] * 40, fired)
        assert np.array_equal(maps.silent[0], fired == 0)
        assert np.array_equal(maps.saturated[0], fired == 40)
        u_edges, g_edges = joint_edges()
        z = gradients.potential.double().flatten(1).numpy() - 1.0
        size = gradients.s_total.double().abs().flatten(1).numpy()
        for t in range(5):
            inside = np.clip(z[t], -1.999, 1.999)
            want, _, _ = np.histogram2d(inside, size[t], [u_edges, g_edges[1:]])
            want[:, 0] -= np.histogram(inside[size[t] == 0], u_edges)[0]
            counts = joint.counts[0, t]
            assert np.array_equal(counts[:, 1:], want)
            assert counts[:, 0].sum() == (size[t] == 0).sum()
            assert counts.sum() == z[t].size
    with pytest.raises(AssertionError):
        assert np.array_equal(run.joint("1").counts[0, 0], run.joint("1").counts[0, 1])


@pytest.mark.parametrize(
    ("gradient", "place"),
    [(0.0, 0), (1e-45, 1), (2.0**-62, 1), (2.0**-61, 2), (0.75, 62), (1.0, 63), (-8.0, 63)],
)
def test_gradients_fall_into_the_power_of_two_below_them(gradient: float, place: int) -> None:
    counts = joint_counts(torch.full((1, 1), 0.99), 1.0, 1.0, torch.tensor([[gradient]]))
    assert counts.view(JOINT_U, JOINT_G).nonzero().tolist() == [[JOINT_U // 2 - 1, place]]
    _, edges = joint_edges()
    if 0 < abs(gradient) < 1 and gradient > 1e-40:
        assert edges[place] <= abs(gradient) < edges[place + 1]


def test_what_is_not_finite_is_in_no_joint_bin() -> None:
    u = torch.tensor([[torch.nan, 1.0, torch.inf, 1.0]])
    gradient = torch.tensor([[1.0, torch.nan, 1.0, 1.0]])
    assert joint_counts(u, 1.0, 1.0, gradient).sum() == 1


# ---- schedules


def test_warm_up_is_dense_and_then_sparse() -> None:
    schedule = WarmUp(10, every=3, then=20)
    assert [step for step in range(61) if schedule(step)] == [0, 3, 6, 9, 20, 40, 60]
    assert str(schedule) == "every 3 steps up to step 10, then every 20"


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 5, "every": 0}, {"steps": 5, "then": -1}]
)
def test_a_warm_up_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not possible: give a whole number >= 1"):
        WarmUp(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"collect": "everything"},
        {"collect": 1},
        {"budget": 0},
        {"budget": 1.5},
        {"budget": True},
        {"max_bytes": 10},
        {"max_bytes": 1e6},
        {"resume": -1},
        {"resume": "yes"},
    ],
)
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}=.* is not possible: give"):
        spikescope.watch(net(), tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


# ---- what a run says of it


def test_a_run_says_what_was_spent_and_skipped(tmp_path: Path) -> None:
    run = train(net(), tmp_path / "run", steps=60, budget=0.001)
    facts = run.end["cost"]
    assert run.header["budget"] == facts["budget"] == 0.001
    assert facts["recorded"] >= 1
    assert facts["skipped"] > 30
    assert facts["recorded"] + facts["skipped"] == 61  # the step that was begun, too
    assert len(set(run.table()["step"])) == facts["recorded"] or facts["recorded"] == 2
    assert run.judgement("cost")["budget"] == 0.001
    assert run.cost == facts
    free = train(net(), tmp_path / "free", steps=10)
    assert (free.end["cost"]["skipped"], free.header["budget"]) == (0, None)
    assert free.end["cost"]["spent"] > 0


def test_a_writer_that_does_not_keep_up_makes_the_record_coarser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = writer.Writer.put
    batches: list[int] = []

    def slow(self: Any, batch: Any) -> bool:
        if batch.blocks:
            batches.append(batch.step)
            if batch.step in (3, 6):
                monkeypatch.setattr(self._queue, "full", lambda: True)
        done = put(self, batch)
        monkeypatch.undo()
        monkeypatch.setattr(writer.Writer, "put", slow)
        return done

    monkeypatch.setattr(writer.Writer, "put", slow)
    with pytest.warns(spikescope.SpikescopeWarning, match="1 of 2 scheduled steps") as warned:
        run = train(net(), tmp_path / "run", steps=16)
    assert len(warned) == 1
    assert batches == [0, 1, 2, 3, 4, 6, 8, 12]
    assert run.end["dropped"] == 2
    assert sorted(set(run.table()["step"])) == [0, 1, 2, 4, 8, 12]
    assert "slow writer" in run.events()["kind"].tolist()


def test_the_scale_of_a_test_is_the_scale_of_the_tensors() -> None:
    one: Tensor = joint_counts(torch.full((1, 1), 0.25), 0.5, 0.5, torch.ones(1, 1))
    other = joint_counts(torch.full((1, 1), 0.5), 1.0, 1.0, torch.ones(1, 1))
    assert torch.equal(one, other)
