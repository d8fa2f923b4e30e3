"""Attribution against results by hand, against plain autograd and for every framework."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adapter_truth import Net, framework
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

import spikescope
from spikescope.analysis.attribution_plan import METHODS, Plan
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.attribute import attribute
from spikescope.probes.lif import LIF
from spikescope.probes.surrogate_fidelity import surrogate_fidelity
from spikescope.probes.timestep_importance import timestep_importance
from spikescope.probes.timestep_taps import TappedModel

T, N = 4, 5

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def per_step(call: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda layer, x: torch.stack([call(layer, now) for now in x])


def snn_leaky(layer: Any, x: Tensor) -> Tensor:
    mem, out = layer.init_leaky(), []
    for now in x:
        spikes, mem = layer(now, mem)
        out.append(spikes)
    return torch.stack(out)


def norse_cell(layer: Any, x: Tensor) -> Tensor:
    state, out = None, []
    for now in x:
        spikes, state = layer(now, state)
        out.append(spikes)
    return torch.stack(out)


def build(kind: str) -> Net:
    """Return one network whose two layers are of a framework, in one of its layouts; both fire."""
    torch.manual_seed(0)
    net = _network(kind)
    with torch.no_grad():
        net.first.weight.mul_(10.0)
        net.second.weight.mul_(10.0 if kind in ("norse", "sinabs") else 2.0)
    return net


def _network(kind: str) -> Net:
    if kind == "spikescope":
        return Net(LIF, lambda layer, x: layer(x))
    if kind == "spikescope single":
        return Net(lambda: LIF(step_mode="single"), per_step(lambda layer, x: layer(x)))
    if kind == "spikingjelly":
        neuron = framework("spikingjelly.activation_based.neuron")
        return Net(lambda: neuron.LIFNode(step_mode="m"), lambda layer, x: layer(x))
    if kind == "spikingjelly single":
        neuron = framework("spikingjelly.activation_based.neuron")
        return Net(neuron.LIFNode, per_step(lambda layer, x: layer(x)))
    if kind == "snntorch":
        return Net(lambda: framework("snntorch").Leaky(beta=0.8), snn_leaky)
    if kind == "norse":
        return Net(lambda: framework("norse.torch").LIFCell(), norse_cell)
    layers = framework("sinabs.layers")
    return Net(
        lambda: layers.LIF(tau_mem=5.0),
        lambda layer, x: layer(x.transpose(0, 1)).transpose(0, 1),
    )


KINDS = (
    "spikescope",
    "spikescope single",
    "spikingjelly",
    "spikingjelly single",
    "snntorch",
    "norse",
    "sinabs",
)


def summed(model: nn.Module, x: Tensor) -> Tensor:
    """Run a time-first network on a batch-first sequence; the readout is summed unevenly."""
    weights = torch.linspace(0.5, 1.5, x.shape[1])[:, None, None]
    outputs: Tensor = (model(x.transpose(0, 1)) * weights).sum(0)
    return outputs


def sequence() -> Tensor:
    return 3.0 * torch.rand(N, T, 6, generator=torch.Generator().manual_seed(1))


def fresh(model: nn.Module) -> nn.Module:
    """Return the network with its state forgotten, by the frameworks' own means."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name in ("reset", "reset_states"):
            if hasattr(module, name):
                getattr(module, name)()
    return model


def output_from(net: Net, x: Tensor, name: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the output when one layer's spikes ``[T, N, M]`` are changed on their way out."""
    net = fresh(net)  # type: ignore[assignment]
    target, run = getattr(net, name), net.run
    net.run = lambda layer, now: change(run(layer, now)) if layer is target else run(layer, now)
    return summed(net, x)


@pytest.mark.parametrize("kind", KINDS)
def test_ablation_is_the_output_without_that_timestep(kind: str) -> None:
    net, x = build(kind).eval(), sequence()
    found = attribute(net, x, 1, "ablation", forward=summed, noise_baselines=0)
    whole = output_from(net, x, "low", lambda s: s)
    assert found.layers == ("low", "high")
    for layer in found.layers:
        for t in range(T):
            gate = torch.ones(T, 1, 1)
            gate[t] = 0.0
            with torch.no_grad():
                without = output_from(net, x, layer, lambda s, gate=gate: s * gate)  # type: ignore[misc]
            expected = (whole - without)[:, 1].detach().numpy()
            np.testing.assert_allclose(found.scores[layer][0, :, t], expected, atol=1e-5)
    assert any(np.abs(found.scores[layer]).max() > 0.01 for layer in found.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_equal_the_integral_by_hand(kind: str) -> None:
    net, x = build(kind).eval(), sequence()
    points = 7
    found = attribute(net, x, 2, forward=summed, steps=points, noise_baselines=0)
    kept: list[Tensor] = []

    def keep(spikes: Tensor) -> Tensor:
        kept.append(spikes.detach())
        return spikes

    for layer in ("low", "high"):
        kept.clear()
        output_from(net, x, layer, keep)
        output_from(net, torch.zeros_like(x), layer, keep)
        end, start = kept
        nodes, weights = np.polynomial.legendre.leggauss(points)
        total = torch.zeros_like(end)
        for node, weight in zip(nodes, weights, strict=True):
            point = (start + 0.5 * (float(node) + 1.0) * (end - start)).requires_grad_()
            output = output_from(net, x, layer, lambda s, p=point: p)[:, 2].sum()  # type: ignore[misc]
            (gradient,) = torch.autograd.grad(output, point)
            total += 0.5 * float(weight) * gradient
        expected = ((end - start) * total).sum(-1).T.numpy()  # [N, T]
        np.testing.assert_allclose(found.scores[layer][0], expected, atol=2e-4)


def test_captum_alone_would_see_the_last_call_only() -> None:
    net, x = build("spikescope single").eval(), sequence()
    found = attribute(net, x, 0, "gradient_x_activation", forward=summed)
    model = fresh(net)
    alone = LayerGradientXActivation(lambda given: summed(model, given), model.high)
    last = alone.attribute(x, target=0).flatten(1).sum(1).detach().numpy()
    np.testing.assert_allclose(found.scores["high"][0, :, -1], last, atol=1e-5)
    assert np.abs(found.scores["high"][0, :, :-1]).max() > 0.01


def test_one_call_per_timestep_and_one_per_sequence_are_the_same() -> None:
    x = sequence()
    one = attribute(build("spikescope").eval(), x, 0, forward=summed, seed=3)
    other = attribute(build("spikescope single").eval(), x, 0, forward=summed, seed=3)
    for layer in one.layers:
        np.testing.assert_allclose(one.scores[layer], other.scores[layer], atol=1e-5)
        np.testing.assert_allclose(one.noise[layer], other.noise[layer], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_network_by_hand(method: str) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double().eval()
    x = torch.randn(6, 5, dtype=torch.float64)
    found = attribute(net, x, None, method, layers=["0"], steps=3, noise_baselines=1)
    hidden, silent = net[0](x), net[0](torch.zeros_like(x))
    counted = (
        hidden
        if method in ("gradient_x_activation", "ablation", "occlusion")
        else (hidden - silent)
    )
    expected = counted @ net[1].weight.T
    # Captum keeps the weights of its integral in single precision.
    np.testing.assert_allclose(found.scores["0"][:, :, 0], expected.T.detach(), atol=1e-7)
    (check,) = found.checks()
    assert check.gap < 1e-6
    assert found.badge == "adds up"


def test_a_smooth_network_adds_up_and_a_spiking_one_does_not() -> None:
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3), nn.Tanh()).double().eval()
    x = torch.randn(8, 6, dtype=torch.float64)
    found = attribute(smooth, x, layers=["0", "1"], steps=24, noise_baselines=0)
    assert max(check.gap for check in found.checks()) < 1e-6
    spiking = attribute(build("spikescope").eval(), sequence(), forward=summed)
    low, high = spiking.checks()
    # Behind the last spiking layer all is linear: there, and only there, the sum is right.
    assert high.gap < 1e-5
    assert low.gap > 0.1
    assert not spiking.faithful
    assert spiking.badge == "not faithful"


class Planted(nn.Module):
    """Reads one timestep of its spikes alone."""

    def __init__(self, t: int) -> None:
        super().__init__()
        self.timesteps, self.t = T, t
        self.lif = LIF(decay=0.0)
        self.readout = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif(x.expand(self.timesteps, *x.shape))
        out: Tensor = self.readout(spikes[min(self.t, len(spikes)) - 1])
        return out


@pytest.mark.parametrize("planted", [1, 3])
def test_a_planted_timestep_is_found(planted: int) -> None:
    torch.manual_seed(0)
    net, x = Planted(planted).eval(), 2.0 * torch.rand(12, 6)
    found = attribute(net, x, None, "ablation").scores["lif"]
    carried = np.abs(found).sum((0, 1)) > 0.0
    assert carried.tolist() == [t == planted for t in range(1, T + 1)]
    targets = net(x).argmax(1)
    importance = timestep_importance(net, x, targets)
    table = importance.table()
    assert (table["fall"].abs() > 0.0).tolist() == carried.tolist()
    assert table["accuracy_without"].tolist()[planted - 1] < 1.0
    assert table["accuracy_without"].drop(index=planted - 1).eq(1.0).all()


class Late(Planted):
    """Reads the last timestep that it was given; spikes come from the third on."""

    def forward(self, x: Tensor) -> Tensor:
        late = (torch.arange(self.timesteps) >= 2).to(x.dtype)[:, None, None]
        out: Tensor = self.readout(self.lif(late * x)[-1])
        return out


def test_accuracy_with_the_first_timesteps() -> None:
    torch.manual_seed(0)
    net, x = Late(T).eval(), 2.0 * torch.rand(40, 6)
    targets = net(x).argmax(1)
    assert len(set(targets.tolist())) > 1
    found = timestep_importance(net, x, targets, internal_batch_size=16)
    right = found.table()["accuracy_with_first"]
    assert right[2:].eq(1.0).all()
    assert right[:2].lt(1.0).all()
    assert found.enough == 3

    # The same through a function of the user's.
    def shorten(model: Any, given: Tensor, t: int) -> Tensor:
        model.timesteps = t
        return model(given)

    net.length, net.timesteps = T, T
    given = timestep_importance(net, x, targets, shorten=shorten)
    np.testing.assert_array_equal(given.right_with_first, found.right_with_first)


def test_a_model_that_cannot_be_run_shorter_says_so() -> None:
    x = sequence()
    found = timestep_importance(
        build("spikescope").eval(), x, torch.zeros(N).long(), forward=summed
    )
    assert "shorten=" in found.reason
    assert found.enough is None
    assert np.isnan(found.right_with_first).all()
    assert np.isfinite(found.falls).all()
    ignoring = timestep_importance(
        build("spikescope").eval(), x, torch.zeros(N).long(), forward=summed,
        shorten=lambda model, given, t: summed(model, given),
    )  # fmt: skip
    assert "asked for 1 timesteps, the model ran 4" in ignoring.reason


def test_scores_count_from_the_baseline_that_is_given() -> None:
    net, x = build("spikescope").eval(), sequence()
    zeros = attribute(net, x, 0, forward=summed)
    given = attribute(net, x, 0, forward=summed, baseline=torch.zeros(T, 6))
    for layer in zeros.scores:
        np.testing.assert_array_equal(zeros.scores[layer], given.scores[layer])
    assert (zeros.settings["baseline"], given.settings["baseline"]) == ("zeros", "given")
    # From the sample itself there is nothing to tell; from zeros there was.
    one = x[:1]
    none = attribute(net, one, 0, forward=summed, baseline=one[0])
    assert all(not scores.any() for scores in none.scores.values())
    assert all(not change.any() for change in none.output_change.values())
    assert any(scores.any() for scores in zeros.scores.values())
    curve = surrogate_fidelity(net, one, shapes=["arctan"], widths=[1.0], forward=summed,
                               baseline=one[0])  # fmt: skip
    assert not curve.change.any()
    assert surrogate_fidelity(
        net, one, shapes=["arctan"], widths=[1.0], forward=summed
    ).change.any()


def test_nothing_about_the_model_changes() -> None:
    net, x = build("spikescope single").eval(), sequence()
    summed(net, x)  # leaves a state inside a graph
    net.first.weight.grad = torch.ones_like(net.first.weight)
    before = copy.deepcopy({k: v.clone() for k, v in net.state_dict().items()})
    v, random = net.low.v, torch.get_rng_state()
    for method in METHODS:
        attribute(net, x, 0, method, forward=summed, steps=3)
    assert net.low.v is v
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], now) for name, now in net.state_dict().items())
    assert torch.equal(net.first.weight.grad, torch.ones_like(net.first.weight))
    assert not net.low._forward_hooks
    assert not net.low._forward_pre_hooks


def test_a_surrogate_that_is_not_finite_is_said() -> None:
    net, x = build("spikescope").eval(), sequence()
    sound = attribute(net, x, 0, forward=summed)
    assert sound.notes == ()

    class Broken(Surrogate):
        def derivative(self, z: Any, xp: Any = np) -> Any:
            return super().derivative(z, xp=xp) * math.nan

    net.high.surrogate = Broken("arctan", 1.0, 0.3)
    found = attribute(net, x, 0, forward=summed)
    low, high = found.checks()
    assert math.isnan(low.gap)
    assert not low.faithful
    assert high.faithful
    assert [note for note in found.notes if note.startswith("low:")]


@pytest.mark.parametrize("method", METHODS)
def test_no_forward_pass_holds_more_samples_than_asked_for(method: str) -> None:
    net, x = build("spikescope").eval(), sequence()
    seen: list[int] = []

    def counted(model: nn.Module, given: Tensor) -> Tensor:
        seen.append(len(given))
        return summed(model, given)

    small = attribute(
        net, x, 0, method, forward=counted, internal_batch_size=2, noise_baselines=0, steps=5
    )
    assert max(seen) == 2
    whole = attribute(net, x, 0, method, forward=counted, noise_baselines=0, steps=5)
    assert max(seen) >= N
    for layer in whole.layers:
        np.testing.assert_allclose(small.scores[layer], whole.scores[layer], atol=1e-4)


def test_progress_counts_every_piece_of_work() -> None:
    from spikescope.analysis.attribution import attribute_timesteps

    x = sequence()
    tapped = TappedModel(build("spikescope").eval(), x, summed)
    for plan in (
        Plan(steps=2, internal_batch_size=2),
        Plan("gradient_x_activation"),
        Plan("ablation"),
    ):
        done: list[int] = []
        attribute_timesteps(tapped, x, (0, 2), plan, None, lambda: done.append(1))  # noqa: B023
        assert len(done) == plan.work(len(x), len(tapped.taps), 2) > 0


def test_saliency_of_the_input() -> None:
    net = nn.Sequential(nn.Linear(5, 3, bias=False)).eval()
    x = torch.randn(4, 5)
    for method in ("integrated_gradients", "ablation"):
        found = attribute(net, x, 1, method, layers=["0"], saliency=True)
        assert found.inputs is not None
        expected = (x * net[0].weight[1]).detach().numpy()
        np.testing.assert_allclose(found.inputs[0], expected, atol=1e-5)


BAD: tuple[tuple[str, Callable[[Net, Tensor], Any], str], ...] = (
    ("class", lambda n, x: attribute(n, x, 7, forward=summed), r"target=7 is not a class"),
    ("no class", lambda n, x: attribute(n, x, [], forward=summed), r"target=\[\] names no class"),
    ("method", lambda n, x: attribute(n, x, 0, "magic", forward=summed), r"method='magic' is not"),
    ("train", lambda n, x: attribute(n.train(), x, 0, forward=summed), r"call model.eval\(\)"),
    ("layer", lambda n, x: attribute(n, x, 0, forward=summed, layers=["top"]), r"'top' is not in"),
    ("steps", lambda n, x: attribute(n, x, 0, forward=summed, steps=0), r"steps=0"),
    ("batch", lambda n, x: attribute(n, x[0, 0, 0], 0, forward=summed), r"give floating numbers"),
    ("nan", lambda n, x: attribute(n, x * math.nan, 0, forward=summed), r"not finite"),
    (
        "baseline",
        lambda n, x: attribute(n, x, 0, forward=summed, baseline=x[:2]),
        r"baseline is \(2, 4, 6\): give a tensor that broadcasts over samples of shape \(4, 6\)",
    ),
    (
        "no baseline",
        lambda n, x: attribute(n, x, 0, forward=summed, baseline=0.5),
        r"baseline is float: give a tensor",
    ),
    (
        "targets of a curve",
        lambda n, x: surrogate_fidelity(n, x, torch.zeros(2).long(), forward=summed),
        r"targets are \(2,\) for 5 samples: give one class each",
    ),
    ("output", lambda n, x: attribute(n, x, 0, forward=lambda m, y: m(y)[0, 0]), r"give forward="),
    ("plain", lambda n, x: attribute(nn.Linear(6, 2).eval(), x[:, 0]), r"no spiking layer"),
    (
        "targets",
        lambda n, x: timestep_importance(n, x, torch.zeros(2), forward=summed),
        r"give one class each",
    ),
    (
        "label",
        lambda n, x: timestep_importance(n, x, torch.full((N,), 9), forward=summed),
        r"whole numbers from 0 to 2",
    ),
)


@pytest.mark.parametrize(("name", "call", "line"), BAD, ids=[name for name, *_ in BAD])
def test_bad_input_is_one_line(name: str, call: Callable[[Net, Tensor], Any], line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        call(build("spikescope").eval(), sequence())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_layer_off_the_way_is_named() -> None:
    net = build("spikescope")
    net.unused = LIF()
    with pytest.raises(ValueError, match="'unused' did not run"):
        attribute(net.eval(), sequence(), 0, forward=summed)


def test_a_batch_that_does_not_fit_is_one_line() -> None:
    def greedy(model: nn.Module, given: Tensor) -> Tensor:
        if len(given) > N:
            raise torch.OutOfMemoryError("out of memory")
        return summed(model, given)

    with pytest.raises(ValueError, match=r"give fewer samples, or a smaller internal_batch_size"):
        attribute(build("spikescope").eval(), sequence(), 0, forward=greedy)


def test_it_is_public() -> None:
    assert spikescope.attribute is attribute


def test_a_noise_baseline_has_the_law_of_each_element_and_no_sample() -> None:
    from spikescope.analysis.attribution import _noise

    inputs = torch.arange(60.0).view(6, 2, 5)
    drawn = _noise(inputs, torch.Generator().manual_seed(0))
    assert drawn.shape == inputs.shape
    for sample in drawn:
        sources = (sample.flatten() // 10).unique()  # the tens say from which sample it comes
        assert len(sources) > 1
    assert torch.equal(drawn % 10, inputs % 10)  # the units say which element it is
