"""Windows and thresholds that follow the potential, against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loop_cases import one_layer
from torch import nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF
from spikescope.probes.remedies import attach_remedy


def agl_net(gamma: float, threshold: float = 0.5, decay: float = 0.2) -> nn.Sequential:
    rectangle = Surrogate("rectangular", 1.0, 1.0)
    lif = LIF(decay=decay, threshold=threshold, surrogate=rectangle)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Unflatten(0, (2, -1)), lif).double()
    with torch.no_grad():
        net[0].weight.fill_(gamma)
    return net


def test_agl_by_hand() -> None:
    net = agl_net(2.0)
    remedy = attach_remedy("agl", net)
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    net(x)
    row = remedy.report()[0]
    assert row["widths"] == pytest.approx([2.0, 2.0 * math.sqrt(1.04)])
    assert row["widens"] == [True, True]
    # tdBN: the current has the spread gamma alpha threshold.
    current = net[0](x)
    assert current.std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    # The sign rule: it widens where gbar sqrt(1 + decay^2) > 1 at threshold 1/2 and width 1.
    for gamma, wider in ((0.95, [False, False]), (0.99, [False, True]), (1.01, [True, True])):
        small = agl_net(gamma)
        other = attach_remedy("agl", small)
        small(x)
        assert other.report()[0]["widens"] == wider


def test_agl_as_released_blocks_the_gradient_where_gamma_turns_negative() -> None:
    generator = torch.Generator().manual_seed(0)  # some elements must lie in so narrow a window
    x = torch.randn(64, 3, 2, 2, dtype=torch.float64, generator=generator)

    def gradient(name: str, **settings: Any) -> tuple[float, dict[str, Any]]:
        net = agl_net(1.0)
        remedy = attach_remedy(name, net, **settings)
        with torch.no_grad():
            net[0].weight.fill_(-0.5)
        net(x).sum().backward()
        return float(net[0].weight.grad.abs().max()), remedy.report()[0]

    assert gradient("agl", published=True)[0] == 0.0
    held, row = gradient("agl")
    assert held > 0.0
    assert row["widths"] == pytest.approx([0.1, 0.1])
    assert row["clamped"] == 2
    right, row = gradient("agl_rms")
    assert row["widths"] == pytest.approx([0.5, 0.5 * math.sqrt(1.04)])
    assert right > 0.0


@pytest.mark.parametrize(("published", "text"), [(True, "no gradient passes"), (False, "agl_rms")])
def test_agl_says_that_gamma_has_turned_negative(published: bool, text: str) -> None:
    net = agl_net(1.0)
    remedy = attach_remedy("agl", net, published=published)
    remedy.after_step()
    with torch.no_grad():
        net[0].weight.fill_(-0.5)
    remedy.after_step()
    with pytest.warns(UserWarning, match=text):  # one step late, and once
        remedy.after_step()
    remedy.after_step()


def test_agl_reads_the_norm_that_it_is_told() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Unflatten(0, (1, -1)), LIF())
    with torch.no_grad():
        net[1].weight.fill_(2.0)
    remedy = attach_remedy("agl", net, norms={"3": "1"})
    net(torch.randn(5, 2))
    assert remedy.report()[0]["widths"] == pytest.approx([4.0])
    assert type(net[0]) is nn.BatchNorm1d
    with pytest.raises(ValueError, match="give a spiking layer and the name of a BatchNorm1d"):
        attach_remedy("agl_rms", nn.Sequential(nn.BatchNorm1d(2), LIF()), norms={"1": "1"})


def test_atgo_by_hand() -> None:
    model, _ = one_layer(decay=0.5, threshold=1.0, reset="to_value")
    remedy = attach_remedy("atgo", model, timesteps=1)
    u = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=torch.float64)
    # mean 1.5, unbiased spread sqrt(5/3): threshold 2.79, only 3 fires.
    spread = math.sqrt(5.0 / 3.0)
    assert model(u).flatten().tolist() == [0.0, 0.0, 0.0, 1.0]
    row = remedy.report()[0]
    assert row["thresholds"] == pytest.approx([1.5 + spread])
    assert row["widths"] == pytest.approx([1.0 + math.tanh(spread - 1.0)])
    assert row["running"] == [1.0]
    remedy.after_step()
    kept = 0.9 + 0.1 * (1.5 + spread)
    assert remedy.report()[0]["running"] == pytest.approx([kept])
    model.eval()
    assert model(u).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]  # threshold 1.18
    assert remedy.report()[0]["thresholds"] == pytest.approx([kept])


def test_atgo_holds_the_threshold_above_0_and_the_released_code_does_not() -> None:
    u = torch.tensor([[[-3.0, -2.9, -3.1, 0.0]]], dtype=torch.float64)
    rates = []
    for published in (False, True):
        model, _ = one_layer(decay=0.5, threshold=1.0)
        remedy = attach_remedy("atgo", model, timesteps=1, published=published)
        rates.append(model(u).sum().item())
        row = remedy.report()[0]
        mean, std = u.mean().item(), u.std().item()
        assert row["thresholds"] == pytest.approx([mean + std if published else 0.05])
        assert (row["clamped"] > 0) != published
        assert ("0.rule.running" in model.state_dict()) != published
        remedy.after_step()
        kept = 0.9 + 0.1 * (mean + std if published else 0.05)
        assert remedy.report()[0]["running"] == pytest.approx([kept])
    assert rates == [0.0, 1.0]  # the silent unit at u = 0
