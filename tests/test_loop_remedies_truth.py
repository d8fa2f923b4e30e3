"""Remedies in the loop against the papers' equations and against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from loop_cases import CASES, attach, batches, build, copied, loss_of, one_layer, optimiser, train
from loop_truth import Truth, train_truth
from torch import nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.analysis.threshold_gradient import gaussian_magnitudes
from spikescope.probes.lif import LIF
from spikescope.probes.remedies import attach_remedy

STEPS = 5
IN_THE_LOOP = [name for name in CASES if name not in ("fluctuation_init", "stability_init")]


def state_of(truth: Truth, name: str) -> dict[str, torch.Tensor]:
    """Return the truth's state under the model's names."""
    named = {"k": "rule.raw_threshold", "w": "rule.raw_tau"}
    state = {}
    for key, value in truth.p.items():
        head, _, tail = key.rpartition(".")
        state[f"{head}.{named.get(tail, tail)}"] = value.detach()
    for layer in ("low", "high"):
        state[f"{layer}.start"] = truth.mu[layer]
        if name.startswith("atgo") and name != "atgo_width":
            state[f"{layer}.rule.running"] = truth.theta_run[layer]
    return state


def worst(name: str, truth: Truth, **settings: Any) -> float:
    """Return the largest difference after training, losses included."""
    net = build(name)
    remedy = attach(name, net, **settings)
    inputs = batches(STEPS)
    losses = train(net, remedy, inputs, optimiser(net))
    wanted = train_truth(truth, inputs, loss_of)
    state, truths = net.state_dict(), state_of(truth, name)
    assert {key for key in state if "running_" not in key and "num_batches" not in key} == set(
        truths
    )
    gaps = [float((state[key] - value).abs().max()) for key, value in truths.items()]
    return max(*gaps, float(np.abs(np.subtract(losses, wanted)).max()))


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_training_is_that_of_the_papers_equations(name: str) -> None:
    assert worst(name, Truth(build(name), name, **CASES[name].settings)) < 1e-10


OTHER = {
    "mp_init": {"form": "paper"},
    "mp_init_all": {"form": "paper"},
    "as_sg": {"threshold": 0.41},
    "rs_sg": {"learn_decay": True, "threshold": 0.41},
    "trsg": {"surrogate": Surrogate("rectangular", peak=0.98, width=1.0)},
    "agl": {"tdbn": False},
    "agl_rms": {"tdbn": False},
    "atgo": {"momentum": 0.11},
    "atgo_paper": {"k0": 1.05},
    "atgo_threshold": {"fc": 1.01},
    "atgo_width": {"k0": 1.05},
    "sparsity": {"final_rate": 0.06},
    "count_bound": {"bound": 1.5},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_wrong_constant_is_seen(name: str) -> None:
    truth = Truth(build(name), name, **CASES[name].settings)
    assert worst(name, truth, **OTHER[name]) > 1e-5


def test_mp_init_by_hand() -> None:
    model, layer = one_layer(decay=0.5, threshold=1.0, reset="subtract")
    remedy = attach_remedy("mp_init", model)
    # Two timesteps, three units: 1.5 fires, v .5, then u .25 + .1 = .35; .5 never fires;
    # .8 then .4 + .8 = 1.2 fires, v .2. Active: .35 and .2.
    current = torch.tensor([[[1.5, 0.5, 0.8]], [[0.1, 0.0, 0.8]]], dtype=torch.float64)
    model(current)
    assert layer.start.item() == 0.0
    remedy.after_step()
    assert layer.start.item() == pytest.approx(0.1 * (0.35 + 0.2) / 2, abs=1e-12)
    # Not yet seen and no unit fires: nothing moves.
    held = layer.start.item()
    remedy.after_step()
    model(torch.zeros_like(current))
    remedy.after_step()
    assert layer.start.item() == held
    # Two passes in one step are one batch; each starts at the mean.
    model(current[:, :, :1])
    model(current[:, :, 1:])
    v = [(1.5 + 0.5 * held - 1.0) * 0.5 + 0.1, ((0.8 + 0.5 * held) * 0.5 + 0.8) - 1.0]
    remedy.after_step()
    assert layer.start.item() == pytest.approx(0.9 * held + 0.1 * np.mean(v), abs=1e-9)


def test_mp_init_over_all_units_by_hand() -> None:
    model, layer = one_layer(decay=0.5, threshold=1.0, reset="to_value")
    remedy = attach_remedy("mp_init_all", model)
    model(torch.tensor([[[1.5, 0.5]]], dtype=torch.float64))
    remedy.after_step()
    assert layer.start.item() == pytest.approx(0.1 * (0.0 + 0.5) / 2, abs=1e-12)


def test_mp_init_as_released_keeps_its_defects() -> None:
    model, layer = one_layer(decay=0.5, threshold=1.0, reset="subtract")
    remedy = attach_remedy("mp_init", model, published=True)
    assert "0.start" not in model.state_dict()
    batch = torch.tensor([[[1.5, 0.5]]], dtype=torch.float64)
    model(batch)
    remedy.after_step()
    assert layer.start.item() == 0.0  # taken up only when the next sequence begins
    model(batch)
    first = 0.1 * 0.5
    assert layer.start.item() == pytest.approx(first, abs=1e-12)
    model.eval()
    model(torch.tensor([[[9.0, 0.5]]], dtype=torch.float64))  # validation
    assert layer.start.item() == pytest.approx(first, abs=1e-12)
    model.train()
    model(torch.zeros_like(batch))
    leaked = 0.9 * first + 0.1 * (9.0 + 0.5 * first - 1.0)
    assert layer.start.item() == pytest.approx(leaked, abs=1e-12)
    model(torch.zeros_like(batch))  # no unit has fired: the mean of none counts as 0
    assert layer.start.item() == pytest.approx(0.9 * leaked, abs=1e-12)
    model(torch.tensor([[[-1.0, 1.0]]], dtype=torch.float64))
    remedy.remove()
    assert layer.start.item() == 0.0
    assert "0.start" in model.state_dict()
    # What is never negative: a unit that fires at v = -1 after the reset.
    model, layer = one_layer(decay=1.0, threshold=1.0, reset="to_value", reset_value=-1.0)
    attach_remedy("mp_init", model, published=True)
    for _ in range(2):
        model(torch.full((1, 1, 1), 2.0, dtype=torch.float64))
    assert layer.start.item() == 0.0


@pytest.mark.parametrize(
    ("form", "by_u", "by_theta"),
    [("as_sg", 1.0, -1.0), ("rs_sg", 2.0, -2.4), ("trsg", 1.0, 1.0 - 1.2)],
)
def test_threshold_forms_by_hand(form: str, by_u: float, by_theta: float) -> None:
    # threshold 1/2, u = .6: s = 1, x = .2 inside the window; f' = 1.
    model, layer = one_layer(decay=0.5, threshold=0.5)
    attach_remedy(form, model)
    u = torch.tensor([[[0.6]]], dtype=torch.float64, requires_grad=True)
    out = model(u)
    assert out.item() == pytest.approx(0.5 if form == "trsg" else 1.0)
    out.backward()
    assert u.grad.item() == pytest.approx(by_u)
    slope = 1.0 - math.exp(-0.5)  # d threshold / d k
    assert layer.rule.raw_threshold.grad.item() == pytest.approx(by_theta * slope)
    assert layer.rule.raw_tau.grad.item() == 0.0  # v[0] = 0: nothing has decayed yet


def test_trsg_as_released_is_rs_sg_with_a_fixed_decay() -> None:
    nets = []
    for name, settings in (("trsg", {"published": True}), ("rs_sg", {"learn_decay": False})):
        net = build("trsg")
        remedy = attach_remedy(name, net, **settings)
        train(net, remedy, batches(3), optimiser(net))
        nets.append(net.state_dict())
    assert set(nets[0]) == set(nets[1])
    assert "low.rule.raw_tau" not in nets[0]
    for name, value in nets[0].items():
        assert torch.equal(value, nets[1][name])
    right = build("trsg")
    train(right, attach("trsg", right), batches(3), optimiser(right))
    assert not torch.equal(right.state_dict()["first.weight"], nets[0]["first.weight"])


@pytest.mark.parametrize("form", ["as", "rs", "trsg"])
@pytest.mark.parametrize("theta", [0.1, 0.5, 1.0, 2.0])
def test_threshold_gradient_over_thresholds(form: str, theta: float) -> None:
    """The mean of do/dthreshold over Gaussian u, against the closed form of truncated moments."""
    model, layer = one_layer(decay=0.5, threshold=theta)
    attach_remedy(f"{form}_sg" if form != "trsg" else form, model)
    count = 200_000
    # A stratified sample: its error is far below 1 / sqrt(count).
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    u = 0.5 * math.sqrt(2.0) * torch.erfinv(2.0 * share - 1.0)
    leaf = u.reshape(1, 1, -1).requires_grad_()
    model(leaf).sum().backward()
    wanted = gaussian_magnitudes(form, theta, mean=0.0, std=0.5)
    slope = 1.0 - math.exp(-theta)
    # Each of at most 3 edges moves at most one sample of size |do/dtheta| <= 1.5 / theta^2.
    tolerance = 3 * 1.5 / theta**2 / count
    mean = layer.rule.raw_threshold.grad.item() / slope / count
    assert mean == pytest.approx(float(wanted.threshold_gradient), abs=tolerance)
    assert abs(mean - float(wanted.threshold_gradient)) < 0.01 * abs(mean)
    gain = leaf.grad.square().mean().item()
    assert gain == pytest.approx(float(wanted.gain), abs=3 / theta**2 / count)


class Stack(nn.Module):
    """LIF, linear, normalisation over the batch (or none), twice; a readout behind another norm."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.linears = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.lifs = nn.ModuleList(LIF(decay=0.5, threshold=0.1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for linear, lif in zip(self.linears[:2], self.lifs, strict=True):
            x = lif(self.normalised(linear(x)))
        return self.normalised(self.linears[2](x))

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        if not self.norm:
            return x
        # Without an epsilon, which is not free of scale.
        return (x - x.mean((0, 1))) / x.std((0, 1), correction=0)


def form_gradients(form: str, norm: bool) -> torch.Tensor:
    net = Stack(norm).double()
    attach_remedy(form, net)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 64, 12, generator=generator, dtype=torch.float64)
    target = torch.randn(4, 64, 12, generator=generator, dtype=torch.float64)
    ((net(x) - target) ** 2).mean().backward()
    return torch.cat(
        [value.grad.flatten() for name, value in net.named_parameters() if "bias" not in name]
    )


def test_where_batch_norm_absorbs_the_height_trsg_is_rs_sg() -> None:
    trsg, rs = form_gradients("trsg", norm=True), form_gradients("rs_sg", norm=True)
    # Weights, thresholds and decays alike, up to rounding in float64.
    assert float((trsg - rs).norm() / rs.norm()) < 1e-12
    # The control: without the norms they differ by factors.
    trsg, rs = form_gradients("trsg", norm=False), form_gradients("rs_sg", norm=False)
    assert float((trsg - rs).norm() / rs.norm()) > 0.3


def test_folding_the_height_into_the_next_weights_changes_no_output() -> None:
    net = build("trsg")
    remedy = attach("trsg", net)
    x = batches(1)[0]
    net.eval()
    with torch.no_grad():
        before_folding = net(x)
        remedy.fold({"low": net.second, "high": [net.readout]})
        assert torch.allclose(net(x), before_folding, atol=1e-12)
        seen = net.low(net.first(x))
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    weights = copied(net.state_dict())["second.weight"]
    with pytest.raises(ValueError, match="once"):
        remedy.fold({"low": net.second, "high": net.readout})
    remedy.remove()
    assert not torch.equal(net.second.weight, weights)
    remedy = attach("trsg", net)
    with pytest.raises(ValueError, match="give those of 'low', 'high'"):
        remedy.fold({"low": net.second})
    with pytest.raises(ValueError, match="a ReLU has no weight"):
        remedy.fold({"low": net.second, "high": nn.ReLU()})


def test_sparsity_by_hand() -> None:
    model, _ = one_layer(decay=0.0, threshold=1.0)
    remedy = attach_remedy(
        "sparsity", model, final_rate=0.1, epochs=10, steps_per_epoch=2, schedule="linear"
    )
    current = torch.tensor([[[2.0, 0.0]], [[2.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    weights = []
    for _ in range(20):
        model(current)
        penalty = remedy.penalty()
        # Rates 1/2 and 1: (.4^2 + .9^2) c.
        weights.append(0.0 if penalty is None else penalty.item() / 0.97)
        remedy.after_step()
    # c rises from 0 at epoch 2 to 1 at epoch 6; an epoch is two steps.
    wanted = [min(max((step // 2 - 2) / 4, 0.0), 1.0) for step in range(20)]
    assert weights == pytest.approx(wanted)
    assert remedy.penalty() is None  # nothing heard since


def test_the_random_schedule_is_the_same_after_a_resume() -> None:
    def weights(start: int) -> list[float]:
        model, _ = one_layer()
        settings = {"final_rate": 0.1, "epochs": 40, "steps_per_epoch": 1, "schedule": "random"}
        remedy = attach_remedy("sparsity", model, seed=3, **settings)
        remedy.load_state_dict({"step": start})
        found = []
        for _ in range(start, 40):
            found.append(remedy.weight)
            remedy.after_step()
        return found

    whole = weights(0)
    assert set(whole) == {0.0, 1.0}
    assert weights(5) == whole[5:]
    with pytest.raises(ValueError, match="step=-1 is not possible"):
        weights(-1)


def test_count_bound_by_hand() -> None:
    model, _ = one_layer(decay=0.0)
    remedy = attach_remedy("count_bound", model, bound=1.0, strength=0.5)
    current = torch.tensor([[[2.0, 0.0]], [[2.0, 2.0]], [[2.0, 0.0]]], dtype=torch.float64)
    model(current.requires_grad_())
    assert remedy.penalty().item() == pytest.approx(0.5 * (2.0**2 + 0.0) / 2)
