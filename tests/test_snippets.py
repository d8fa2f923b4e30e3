"""Code that recommend() hands out: run, it gives the layer what was proposed."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from spikescope.analysis.recommend import Recommendation
from spikescope.analysis.snippets import snippet
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.adapters import ADAPTERS
from spikescope.probes.lif import LIF
from spikescope.probes.preflight import recommend

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def layer_of(framework: str) -> nn.Module:
    """Return a layer of a framework, or skip the test where the framework is not installed."""
    if framework == "spikescope":
        return LIF()
    if find_spec(framework) is None:
        if os.environ.get("SPIKESCOPE_FRAMEWORKS") == "required":
            pytest.fail(f"{framework} is not installed")
        pytest.skip(f"{framework} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if framework == "snntorch":
            import snntorch

            layer: Any = snntorch.Leaky(beta=0.9, init_hidden=True)
        elif framework == "spikingjelly":
            from spikingjelly.activation_based import neuron

            layer = neuron.LIFNode(step_mode="m")
        elif framework == "norse":
            import norse.torch

            layer = norse.torch.LIF()
        else:
            import sinabs.activation
            import sinabs.layers

            layer = sinabs.layers.LIF(tau_mem=10.0, spike_fn=sinabs.activation.SingleSpike)
    return layer


SURROGATES = {
    "own width": Surrogate("fast_sigmoid", 1.0, 0.3),
    "area 1": Surrogate("arctan", 0.7, 1.0 / 0.7 / torch.pi),
    "no framework's own": Surrogate("triangular", 0.45, 0.8),
    "q": Surrogate("q_pseudo_spike", 0.5, 0.8, 1.7),
    "exponential": Surrogate("exponential", 0.4, 0.6),
}


@pytest.mark.parametrize("framework", ["spikescope", "snntorch", "spikingjelly", "norse", "sinabs"])
@pytest.mark.parametrize("case", SURROGATES)
def test_the_code_gives_the_layer_what_was_proposed(framework: str, case: str) -> None:
    wanted = SURROGATES[case]
    model = nn.ModuleDict({"fc": nn.Linear(3, 4), "lif": layer_of(framework)})
    before = model["fc"].weight.detach().clone(), model["fc"].bias.detach().clone()
    advice = Recommendation(
        "lif",
        "change",
        {
            "weight_scale": (1.0, 2.5),
            "bias_shift": (0.0, -0.25),
            "threshold": (1.0, 1.25),
            "start": (0.0, 0.5),
            "surrogate": (Surrogate(), wanted),
        },
        {"weight": ("fc.weight",), "bias": ("fc.bias",)},
    )
    code = snippet([advice], {"lif": (framework, type(model["lif"]).__name__)})
    exec(compile(code, "snippet", "exec"), {"model": model})
    adapter = next(entry for entry in ADAPTERS if entry.handles(model["lif"]))
    layer = adapter.describe("lif", model["lif"])
    assert layer.surrogate is not None
    assert layer.surrogate.shape in (wanted.shape, "q_pseudo_spike")
    z = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64, requires_grad=True)
    function = adapter.spike_function(model["lif"])
    assert function is not None
    (slope,) = torch.autograd.grad(function(z).sum(), z)
    expected = wanted.derivative(z.detach(), xp=torch)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(slope.double(), 1.1 * expected, rtol=1e-5, atol=1e-6)
    assert float(layer.spec.threshold) == pytest.approx(1.25)
    assert float(layer.spec.start) == pytest.approx(0.5)
    torch.testing.assert_close(model["fc"].weight.detach(), 2.5 * before[0])
    torch.testing.assert_close(model["fc"].bias.detach(), before[1] - 0.25)


class Net(nn.Module):
    """Two layers of a framework on a sequence [T, N, features], as its users write it."""

    def __init__(self, framework: str) -> None:
        super().__init__()
        self.framework = framework
        torch.manual_seed(0)
        self.fc1, self.lif1 = nn.Linear(30, 50), layer_of(framework)
        self.fc2, self.lif2 = nn.Linear(50, 40), layer_of(framework)
        self.out = nn.Linear(40, 3)
        with torch.no_grad():
            self.fc1.weight.mul_(0.02)  # far too weak
            self.fc1.bias.zero_()

    def forward(self, x: Any) -> Any:
        if self.framework == "snntorch":
            self.lif1.reset_mem()
            self.lif2.reset_mem()
            steps = [self.lif2(self.fc2(self.lif1(self.fc1(now)))) for now in x]
            return self.out(torch.stack(steps)).mean(0)
        if self.framework == "norse":
            spikes, _ = self.lif1(self.fc1(x))
            spikes, _ = self.lif2(self.fc2(spikes))
            return self.out(spikes).mean(0)
        if self.framework == "sinabs":  # batch first
            x = x.transpose(0, 1)
            return self.out(self.lif2(self.fc2(self.lif1(self.fc1(x))))).mean(1)
        if self.framework == "spikingjelly":
            self.lif1.reset()
            self.lif2.reset()
        return self.out(self.lif2(self.fc2(self.lif1(self.fc1(x))))).mean(0)


@pytest.mark.parametrize("framework", ["spikescope", "snntorch", "spikingjelly", "norse", "sinabs"])
def test_recommend_to_code_to_a_layer_that_is_left_alone(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikescope.analysis.layer_figures.settled", lambda record: None)
    monkeypatch.setattr("spikescope.probes.preflight_trial.Trial.findings", lambda trial: [])
    model = Net(framework)
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(25, 32, 30, generator=generator) < 0.2).float()
    targets = torch.randint(0, 3, (32,), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        advice = recommend(model, x, targets)
        assert [entry.layer for entry in advice] == ["lif1", "lif2"]
        assert advice["lif1"].parameters["weight"] == ("fc1.weight",)
        assert advice["lif2"].parameters["weight"] == ("fc2.weight",)
        assert "weight_scale" in advice["lif1"].changes
        assert advice["lif1"].predicted["rate"].before < 0.002
        exec(compile(advice.snippet(), "snippet", "exec"), {"model": model})
        after = recommend(model, x, targets)
    for entry in advice:
        assert after[entry.layer].verdict == "leave it", str(after[entry.layer])
        for name in ("rate", "coverage", "std of u"):
            measured = after[entry.layer].predicted[name].before
            assert measured == pytest.approx(entry.predicted[name].after, rel=0.02, abs=1e-3)


def test_native_code_where_the_framework_has_it() -> None:
    def line(framework: str, surrogate: Surrogate) -> str:
        advice = Recommendation("a.b", "change", {"surrogate": (Surrogate(), surrogate)})
        return snippet([advice], {"a.b": (framework, "")}, "net").splitlines()[-1]

    assert line("snntorch", Surrogate("fast_sigmoid", 1.0, 0.04)) == (
        "layer.spike_grad = surrogate.fast_sigmoid(slope=25.0)"
    )
    assert line("spikingjelly", Surrogate("sigmoid", 1.0, 0.25)) == (
        "layer.surrogate_function = surrogate.Sigmoid(alpha=4.0)"
    )
    assert "method='tanh'" in line("norse", Surrogate("sigmoid", 1.0, 0.25))
    assert "surrogate.Gaussian(" in line("sinabs", Surrogate("gaussian", 0.5, 0.3))
    assert "SinabsAdapter().write(" in line("sinabs", Surrogate("arctan", 0.5, 0.3))


def test_nothing_to_change() -> None:
    assert snippet([Recommendation("a", "leave it")], {}) == "# nothing to change"
