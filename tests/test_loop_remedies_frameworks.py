"""Remedies in the loop on the layers of other frameworks: those that they can take."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_truth import Inside, Net
from apply_cases import CASES, Case, inputs
from torch import Tensor

import spikescope
from spikescope.analysis.neuron import after_reset
from spikescope.probes.adapters import ADAPTERS
from spikescope.probes.lif import LIF
from spikescope.probes.remedies import LOOP_REMEDIES, attach_remedy
from spikescope.probes.remedies.start import start_of

# Release 0.0.0.0.14 of SpikingJelly compiles its neurons by torch.jit, deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

FOREIGN = {name: case for name, case in CASES.items() if case.framework != "spikescope"}
IN_FLOAT32 = 5e-6  # some layers emit or multiply in float32


def plain(case: Case, net: Net, x: Tensor, starts: dict[str, float]) -> dict[str, Inside]:
    """Run the net in plain torch, each layer from its own start."""
    begin: Iterator[float] = iter(starts.values())
    return net.plain(x, lambda current, inside: case.plain(start=next(begin))(current, inside))[1]


def final_means(net: Net, inside: dict[str, Inside]) -> dict[str, float]:
    """Return the mean of v[T] over the units that fired."""
    means = {}
    for name, one in inside.items():
        layer = getattr(net, name)
        spec = next(a for a in ADAPTERS if a.handles(layer)).describe(name, layer).spec
        v = after_reset(spec, one.u[-1].detach(), one.s[-1].detach())
        fired = torch.stack(one.s).detach().sum(0) > 0
        assert 0 < fired.sum() < fired.numel()
        means[name] = float(v[fired].mean())
    return means


@pytest.mark.parametrize("name", FOREIGN)
def test_mp_init_moves_the_start_of_a_foreign_layer(name: str, tmp_path: Path) -> None:
    case = FOREIGN[name]
    net = case.network().train()
    with torch.no_grad():
        net.second.weight.mul_(3.0)  # so that the upper layer fires with any gain
    untouched = copy.deepcopy(net)
    with torch.no_grad():
        usual = net(inputs())
    keys = set(net.state_dict())
    remedy = attach_remedy("mp_init", net)
    starts = {"low": case.start, "high": case.start}
    for step in range(3):
        x = inputs() * (1.0 - 0.2 * step)
        inside = plain(case, net, x, starts)
        means = final_means(net, inside)
        if step < 2:
            net(x)
        else:  # the recorded step begins where the remedy says
            with spikescope.watch(net, tmp_path / "run", every=1) as probe:
                net(x).square().sum().backward()
                probe.step()
        remedy.after_step()
        starts = {key: 0.9 * starts[key] + 0.1 * means[key] for key in starts}
        for key, start in starts.items():
            found = start_of(getattr(net, key)).item()
            assert found == pytest.approx(start, abs=IN_FLOAT32)
            assert abs(found - case.start) > 1e-3
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    first = table.query("t == 1 and layer == 'low'")["u_mean"].item()
    assert first == pytest.approx(inside["low"].u[0].mean().item(), abs=IN_FLOAT32)

    saved = net.state_dict()
    assert set(saved) - keys == {"low.spikescope_start", "high.spikescope_start"}
    again = case.network()
    attach_remedy("mp_init", again)
    again.eval()(inputs())  # Sinabs saves its states: a saved one fits only once there is one
    again.load_state_dict(saved)
    with torch.no_grad():
        assert torch.equal(again(inputs()), net.eval()(inputs()))
    before = {key: start_of(getattr(net, key)).clone() for key in starts}
    remedy.after_step()  # evaluation has fed nothing
    assert all(torch.equal(start_of(getattr(net, key)), before[key]) for key in starts)
    remedy.remove()
    assert set(net.state_dict()) == keys
    with torch.no_grad():
        assert torch.equal(net.train()(inputs()), usual)
        assert torch.equal(untouched(inputs()), usual)


@pytest.mark.parametrize("name", FOREIGN)
def test_penalties_hear_foreign_layers(name: str) -> None:
    case = FOREIGN[name]
    net = case.network().train()
    inside = plain(case, net, inputs(), {"low": case.start, "high": case.start})
    spikes = [torch.stack(one.s).detach() for one in inside.values()]
    wanted = sum(float(((s.mean((1, 2)) - 0.1) ** 2).sum()) for s in spikes)
    remedy = attach_remedy(
        "sparsity", net, final_rate=0.1, epochs=1, steps_per_epoch=1, schedule="step"
    )
    remedy.load_state_dict({"step": 1})
    net(inputs())
    penalty = remedy.penalty()
    assert penalty.item() == pytest.approx(wanted, rel=1e-5)
    penalty.backward()
    assert net.first.weight.grad.abs().max() > 0
    remedy.remove()
    counts = attach_remedy("count_bound", net, bound=1.0, strength=1.0)
    net(inputs())
    wanted = sum(float(((s.sum(0) - 1.0).clamp(min=0) ** 2).mean()) for s in spikes)
    assert counts.penalty().item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_a_foreign_layer_cannot_take_is_said_before_anything_changes(name: str) -> None:
    net = FOREIGN[name].network()
    text = str(net)
    for remedy, entry in LOOP_REMEDIES.items():
        if entry.foreign:
            continue
        settings = {"timesteps": 5} if remedy.startswith("atgo") else {}
        with pytest.raises(ValueError, match=r"it needs spikescope's own LIF layer .low is a"):
            attach_remedy(remedy, net, **settings)
    with pytest.raises(ValueError, match="published=True is what the authors' own layer does"):
        attach_remedy("mp_init", net, published=True)
    assert str(net) == text
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    "name", ["SpikingJelly LIF, multi", "snnTorch Leaky, single", "Sinabs LIF hard, single"]
)
def test_initialisations_write_the_weights_before_foreign_layers(name: str) -> None:
    case = FOREIGN[name]
    net = case.network()
    remedy = attach_remedy("fluctuation_init", net, rate=0.2)
    decay, gain = case.dynamics.get("decay", 0.5), case.dynamics.get("gain", 1.0)
    for row, linear in zip(remedy.report(), (net.first, net.second), strict=True):
        kernel = gain**2 / (1.0 - decay**2)
        std = (1.0 / (linear.in_features * 0.2 * 0.8 * kernel)) ** 0.5
        assert row["weight_std"] == pytest.approx(std, rel=1e-6)
        count = linear.weight.numel()
        assert linear.weight.std().item() == pytest.approx(std, rel=4 / (2 * count) ** 0.5)


def test_mixed_models_say_which_layers_are_not_ours() -> None:
    net = FOREIGN["snnTorch Leaky, single"].network()
    net.low = LIF()
    remedy = attach_remedy("trsg", net)
    assert [row["layer"] for row in remedy.report()] == ["low"]
    with pytest.raises(ValueError, match=r"'high' cannot take remedy 'agl_true_std'.*'low'"):
        attach_remedy("agl_true_std", net, layers=["high"])
