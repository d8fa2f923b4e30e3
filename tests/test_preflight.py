"""recommend() on live models: what it says comes true, and the model stays as it was."""

from __future__ import annotations

import copy
import json
import math
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from command_line import command
from torch import Tensor, nn

import spikescope
from spikescope.analysis.recommend import VETOED, Recommendations
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF
from spikescope.probes.models.networks import digits_net
from spikescope.probes.preflight import recommend
from spikescope.probes.preflight_batches import take
from spikescope.probes.preflight_fan_in import fan_in


def images(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Blurred noise: neighbours are alike, as in pictures.
    x = torch.rand(samples, 1, 8, 8, generator=generator)
    x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return 4.0 * (x - 0.5), torch.randint(0, 10, (samples,), generator=generator)


def spikes_in(samples: int, seed: int, steps: int = 10, features: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, samples, features, generator=generator) < 0.2).float()


def dense(threshold: float = 1.0, **neuron: Any) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(40, 60),
        LIF(threshold=threshold, **neuron),
        nn.Linear(60, 50),
        LIF(threshold=threshold, **neuron),
        nn.Linear(50, 4),
    )


def bad_digits(case: str) -> nn.Module:
    torch.manual_seed(0)
    setting: dict[str, Any] = {"threshold": 10.0} if case == "threshold" else {}
    if case == "surrogate":
        setting = {"surrogate": Surrogate("arctan", 1.0, 1.0 / math.pi / 50.0)}
    net = digits_net(timesteps=4, channels=4, **setting)
    if case == "weights":
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "norm.weight" in name:
                    parameter.mul_(0.05)
    return net


def differs(expected: Any, measured: Any) -> float:
    """Return by how many standard errors a prediction is off."""
    error = math.hypot(expected.after_error, measured.before_error)
    return abs(expected.after - measured.before) / error


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is not looked at: findings, and the law that theory gives."""
    monkeypatch.setattr("spikescope.analysis.layer_figures.settled", lambda record: None)
    monkeypatch.setattr("spikescope.probes.preflight_trial.Trial.findings", lambda trial: [])


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("case", ["threshold", "weights", "surrogate"])
def test_badly_set_nets_come_to_the_predicted_values_on_new_data(case: str) -> None:
    net = bad_digits(case)
    advice = recommend(net, *images(64, seed=1))
    assert [entry.verdict for entry in advice] == ["change"] * 6
    mended = copy.deepcopy(net)
    spikescope.apply(mended, advice)
    after = recommend(mended, *images(64, seed=2))
    assert [entry.verdict for entry in after] == ["leave it"] * 6
    for entry in advice:
        measured = after[entry.layer].predicted
        for name in ("rate", "coverage", "E[s^2]", "gain", "std of u"):
            # 30 comparisons per case: 4.5 errors happen to none of them by chance.
            assert differs(entry.predicted[name], measured[name]) < 4.5, (entry.layer, name)
        name = "coverage" if case == "surrogate" else "std of u"
        expected = entry.predicted[name]
        # The values before are far off: agreement is no matter of course.
        assert abs(expected.after - expected.before) > 10 * expected.after_error
        assert entry.predicted["rate"].after > 0.05
    # The gradient no longer changes from layer to layer.
    if case == "surrogate":
        for entry in advice[:-1]:
            assert entry.predicted["gradient ratio"].after == pytest.approx(1.0, abs=0.02)
            assert after[entry.layer].predicted["gradient ratio"].before == pytest.approx(
                1, abs=0.3
            )


@pytest.mark.usefixtures("bare")
def test_a_well_set_net_is_left_alone() -> None:
    torch.manual_seed(0)
    advice = recommend(digits_net(timesteps=4, channels=4), *images(64, seed=1))
    assert [entry.verdict for entry in advice] == ["leave it"] * 6
    assert all(not entry.changes and "Nothing is out of range" in entry.reason for entry in advice)
    assert spikescope.apply(digits_net(timesteps=4, channels=4), advice).changes == ()


@pytest.mark.usefixtures("bare")
def test_deep_dense_layers_are_settled_in_order() -> None:
    # The second layer gets no spikes at all until the first is mended.
    net = dense(threshold=8.0)
    advice = recommend(net, spikes_in(64, seed=1))
    assert [entry.predicted["rate"].before for entry in advice] == [0.0, 0.0]
    mended = copy.deepcopy(net)
    spikescope.apply(mended, advice)
    after = recommend(mended, spikes_in(256, seed=2))
    for entry in advice:
        assert "weight_scale" in entry.changes
        assert entry.parameters["weight"] == (f"{int(entry.layer) - 1}.weight",)
        assert differs(entry.predicted["rate"], after[entry.layer].predicted["rate"]) < 4.5
        assert differs(entry.predicted["xi"], after[entry.layer].predicted["xi"]) < 4.5
        on_copy = entry.predicted["rate, on the copy"]
        assert on_copy.after == pytest.approx(entry.predicted["rate"].after, rel=0.01)


@pytest.mark.usefixtures("bare")
def test_a_start_is_proposed_where_it_helps_and_comes_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(3)
    # The potential settles at .6 +- .4: it begins a whole spread and a half below.
    net = nn.Sequential(nn.Linear(40, 60), LIF(decay=0.9, threshold=1.0, reset="to_value"))
    with torch.no_grad():
        net[0].bias.fill_(0.06)
    # The evidence speaks against it: what follows is the rule without that veto.
    assert "start" not in recommend(net, 0.7 * (spikes_in(64, seed=1) - 0.2))[0].changes
    monkeypatch.delitem(VETOED, "start")
    advice = recommend(net, 0.7 * (spikes_in(64, seed=1) - 0.2))
    assert "start" in advice[0].changes
    shift = advice[0].predicted["shift at t = 1"]
    spikescope.apply(net, advice)
    after = recommend(net, 0.7 * (spikes_in(128, seed=2) - 0.2))
    assert after[0].verdict == "leave it"
    assert after[0].predicted["shift at t = 1"].before == pytest.approx(shift.after, abs=0.05)
    assert shift.after < 0.7 * shift.before
    assert differs(advice[0].predicted["rate"], after[0].predicted["rate"]) < 4.5


@pytest.mark.usefixtures("bare")
def test_no_start_that_would_silence_the_layer() -> None:
    # It fires only because it starts far above where it settles.
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(40, 60), LIF(decay=0.95, detach_reset=True))
    with torch.no_grad():
        net[0].weight.mul_(0.7)
        net[0].bias.fill_(-0.12)
    assert "start" not in recommend(net, spikes_in(64, seed=1, steps=8))[0].changes


@pytest.mark.usefixtures("bare")
def test_a_recurrent_layer_comes_near_the_prediction() -> None:
    from spikescope.probes.models.recurrent import recurrent_net

    torch.manual_seed(0)
    net = recurrent_net(40, classes=3, units=50, threshold=15.0, decay=0.8)
    advice = recommend(net, spikes_in(64, seed=1).transpose(0, 1))
    assert advice[0].parameters["recurrent"] == ("layers.0.recurrent.weight",)
    assert advice[0].predicted["rate"].before < 0.001
    spikescope.apply(net, advice)
    after = recommend(net, spikes_in(128, seed=2).transpose(0, 1))
    expected, measured = advice[0].predicted["rate"], after[0].predicted["rate"]
    assert measured.before == pytest.approx(expected.after, rel=0.1)
    assert after[0].verdict == "leave it"


# The model stays as it was.


class Everything(nn.Module):
    """Dropout, batch norm, a single-step layer that keeps state, randomness of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.norm = nn.BatchNorm1d(20)
        self.drop = nn.Dropout(0.3)
        self.lif = LIF(step_mode="single", threshold=9.0)
        self.last = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        random.random()
        np.random.rand()  # noqa: NPY002
        out = torch.zeros(len(x), 3)
        for _ in range(5):
            out = out + self.last(self.lif(self.drop(self.norm(self.first(x)))))
        return out


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_all_randomness_stay_bit_identical(training: bool) -> None:
    torch.manual_seed(0)
    model = Everything().train(training)
    x, y = torch.randn(32, 12), torch.randint(0, 3, (32,))
    nn.functional.cross_entropy(model(x), y).backward()  # leaves gradients, and a state with graph
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    v, hooks = model.lif.v, {m: len(m._forward_hooks) for m in model.modules()}
    modes = {name: module.training for name, module in model.named_modules()}
    needs = {name: p.requires_grad for name, p in model.named_parameters()}
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y),
        batch_size=16,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
    )
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state, own = np.random.get_state()[1].copy(), loader.generator.get_state()  # noqa: NPY002
    advice = recommend(model, loader)
    assert advice[0].verdict == "change"
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(loader.generator.get_state(), own)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, grads[name]) for name, p in model.named_parameters()
               if p.grad is not None)  # fmt: skip
    assert model.lif.v is v
    assert {m: len(m._forward_hooks) for m in model.modules()} == hooks
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == needs
    # The same again gives the same.
    assert json.dumps(recommend(model, loader).to_dict()) == json.dumps(advice.to_dict())


# Which parameters.


class Case(nn.Module):
    """A spiking layer behind something, on single timesteps of a batch."""

    def __init__(self, before: nn.Module, features: int = 30, skip: bool = False) -> None:
        super().__init__()
        self.before, self.skip = before, skip
        self.lif = LIF(threshold=20.0, decay=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.lif(torch.stack([y + x if self.skip else y] * 6)).sum(0)


FAN_IN = {
    "dense": (nn.Linear(30, 30), ("before.weight",), ("before.bias",)),
    "norm": (nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30)), ("before.1.weight",),
             ("before.1.bias",)),
    "pool": (nn.Sequential(nn.Unflatten(1, (30, 1)), nn.Conv1d(30, 8, 1, bias=False),
                           nn.AdaptiveAvgPool1d(1), nn.Flatten()), ("before.1.weight",), None),
    "two layers": (nn.Sequential(nn.Linear(30, 9), nn.ReLU(), nn.Linear(9, 30)),
                   ("before.2.weight",), ("before.2.bias",)),
}  # fmt: skip


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("case", FAN_IN)
def test_the_nearest_weights_are_found_and_scaled(case: str) -> None:
    torch.manual_seed(0)
    before, weights, biases = FAN_IN[case]
    model = Case(copy.deepcopy(before))
    x = torch.randn(64, 30)
    (advice,) = recommend(model, x)
    assert advice.parameters["weight"] == weights
    assert advice.parameters.get("bias") == biases
    spikescope.apply(model, [advice])
    assert recommend(model, x)[0].predicted["xi"].before == pytest.approx(
        advice.predicted["xi"].after, rel=1e-3
    )


@pytest.mark.usefixtures("bare")
def test_what_the_weights_do_not_move_is_measured() -> None:
    torch.manual_seed(0)
    skip = Case(nn.Linear(30, 30), skip=True)
    (advice,) = recommend(skip, torch.randn(64, 30))
    spikescope.apply(skip, [advice])
    assert recommend(skip, torch.randn(64, 30))[0].predicted["xi"].before == pytest.approx(
        1, abs=0.1
    )
    # A norm without scale undoes every factor of the weights before it: the threshold moves.
    model = Case(nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30, affine=False)))
    (advice,) = recommend(model, torch.randn(64, 30))
    assert set(advice.changes) >= {"threshold"}
    assert "weight_scale" not in advice.changes
    assert "a norm undoes its scale" in advice.reason


@pytest.mark.usefixtures("bare")
def test_frozen_or_shared_weights_are_not_scaled() -> None:
    torch.manual_seed(0)
    model = Case(nn.Linear(30, 30))
    model.before.requires_grad_(False)
    (advice,) = recommend(model, torch.randn(64, 30))
    assert set(advice.changes) >= {"threshold"}
    assert not {"weight_scale", "bias_shift"} & set(advice.changes)
    assert "before.weight is frozen" in advice.reason
    spikescope.apply(model, [advice])
    assert recommend(model, torch.randn(64, 30))[0].verdict == "leave it"

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.a, self.b = nn.Linear(30, 30), LIF(threshold=20.0), LIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.linear(self.a(self.linear(torch.stack([x] * 4)))))

    advice = recommend(Shared(), torch.randn(64, 30))[0]
    assert "linear.weight feeds layer 'b', too" in advice.reason


def test_fan_in_of_a_residual_sum_and_of_integers() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.lif = nn.Linear(5, 5), nn.Linear(5, 5, bias=False), LIF()
            self.words, self.other = nn.Embedding(7, 5), LIF()

        def forward(self, x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return self.other(self.words(x))
            return self.lif(self.a(x) + self.b(x))

    found = fan_in(Residual(), (torch.rand(3, 4, 5), None))["lif"]
    assert (sorted(found.weight), found.bias) == (["a.weight", "b.weight"], ["a.bias"])
    words = fan_in(Residual(), (torch.zeros(3, 4, dtype=torch.long), None))
    assert words["other"].weight == ["words.weight"]
    assert words["lif"].unknown == "it was not called"


# Bad input: one line, the model as it was.


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def broken(name: str) -> nn.Module:
    net = dense()
    with torch.no_grad():
        dict(net.named_parameters())[name][0] = math.nan
    return net


BAD: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no module": ("net", torch.rand(5, 9, 40), {}, "model is str, not a torch.nn.Module"),
    "no spiking layer": (Plain(), torch.rand(5, 9, 40), {}, "no spiking layer that can be read"),
    "NaN weight": (broken("2.weight"), torch.rand(5, 9, 40), {}, "parameter '2.weight' holds 60"),
    "NaN bias": (broken("0.bias"), torch.rand(5, 9, 40), {}, "parameter '0.bias' holds 1"),
    "wrong shape": (dense(), torch.rand(5, 9, 39), {}, r"fails in module '0' \(Linear\)"),
    "empty input": (
        nn.Sequential(nn.Linear(40, 9, bias=False), LIF()), torch.zeros(5, 9, 40), {},
        "makes no neuron fire: the current into layer '1' is 0 everywhere",
    ),
    "no batch": (dense(), [], {}, "inputs hold no batch"),
    "text": (dense(), "digits", {}, "inputs are str"),
    "NaN input": (dense(), torch.full((5, 9, 40), math.nan), {}, "batch 1 holds NaN"),
    "targets of another size": (
        dense(), torch.rand(5, 9, 40), {"targets": torch.zeros(4, dtype=torch.long)},
        "does not fit 4 targets",
    ),
    "targets beyond the classes": (
        dense(), torch.rand(5, 9, 40), {"targets": torch.full((9,), 7)}, "targets go up to 7",
    ),
    "float targets": (
        dense(), torch.rand(5, 9, 40), {"targets": torch.rand(9)}, "targets are no class numbers",
    ),
    "loss not finite": (
        dense(), torch.rand(5, 9, 40), {"loss": lambda out, y: out.sum() * math.inf},
        "the loss is not finite",
    ),
    "loss no number": (
        dense(), torch.rand(5, 9, 40), {"loss": lambda out, y: out}, "it must be one number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    model, inputs, more, text = BAD[case]
    state = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    with pytest.raises(ValueError, match=text) as caught:
        recommend(model, inputs, **more)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        now = model.state_dict()
        assert all(torch.equal(now[k].nan_to_num(7), v.nan_to_num(7)) for k, v in state.items())


@pytest.mark.usefixtures("bare")
def test_a_model_in_which_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from spikescope.probes.adapters import adapter_spikescope

    def barred(*_: Any) -> str:
        return "it is cast in stone"

    monkeypatch.setattr(adapter_spikescope.SpikescopeAdapter, "can_write", barred)
    net = dense(threshold=9.0).requires_grad_(False)
    with pytest.raises(ValueError, match="no spiking layer can be changed: '1': it is cast in"):
        recommend(net, spikes_in(64, seed=1))
    # One thing that can be changed is enough to say what cannot.
    net[0].requires_grad_(True)
    advice = recommend(net, spikes_in(64, seed=1))
    assert advice[0].verdict == "change"
    assert "cannot" in advice[1].reason


def test_too_little_data_cannot_tell() -> None:
    few = recommend(dense(threshold=8.0), spikes_in(4, seed=1))
    assert [entry.verdict for entry in few] == ["cannot tell"] * 2
    assert "4 samples are too few" in few[0].reason
    assert not few[0].changes
    short = nn.Sequential(nn.Linear(40, 5), LIF(threshold=8.0))
    (advice,) = recommend(short, spikes_in(16, seed=1, steps=2))
    assert "160 elements" in advice.reason


@pytest.mark.usefixtures("bare")
def test_an_unreached_layer_and_a_lying_one_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.used, self.unused = nn.Linear(40, 60), LIF(), LIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.linear(x))

    advice = recommend(Half(), spikes_in(64, seed=1))
    assert advice["unused"].verdict == "cannot tell"
    assert "did not reach" in advice["unused"].reason

    class Liar(LIF):
        def forward(self, current: Tensor) -> Tensor:
            return 1.0 - super().forward(current)

    lying = recommend(nn.Sequential(nn.Linear(40, 60), Liar()), spikes_in(64, seed=1))
    assert lying[0].verdict == "cannot tell"
    assert "do not follow from its declared dynamics" in lying[0].reason


# Inputs and losses.


def test_batches_of_every_kind() -> None:
    x, y = torch.rand(6, 3), torch.zeros(6, dtype=torch.long)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=1)
    assert [len(take(batches)) for batches in (x, [x, x], (x, y), [(x, y)] * 3, loader)] == [
        1, 2, 1, 3, 4,
    ]  # fmt: skip
    assert take([x, x], [y, y])[1][1] is y
    with pytest.raises(ValueError, match="2 batches and targets for 1"):
        take([x, x], y)


@pytest.mark.usefixtures("bare")
def test_loss_and_forward_of_the_user() -> None:
    net = dense()

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.transpose(0, 1)).mean(0)

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return ((output - targets) ** 2).mean()

    x = spikes_in(64, seed=1).transpose(0, 1)
    advice = recommend(net, x, torch.rand(64, 4), loss=loss, forward=forward)
    plain = recommend(net, x, forward=forward)
    assert isinstance(advice, Recommendations)
    for name in ("rate", "std of u", "E[s^2]"):
        # The loss plays no part in what the layers did.
        assert advice[0].predicted[name].before == plain[0].predicted[name].before
    assert advice[0].predicted["gain"].before > 0.0
    assert plain[0].predicted["gain"] != advice[0].predicted["gain"]


def test_findings_stand_with_the_recommendation() -> None:
    net = dense(surrogate=Surrogate("triangular", 1.0, 0.01))
    advice = recommend(net, spikes_in(64, seed=1))
    codes = {getattr(because, "code", "") for because in advice[0].because}
    assert "G1" in codes  # coverage low
    json.dumps(advice.to_dict(), allow_nan=False)


# The command.

BUILDER = """
import torch
from torch import nn
from spikescope.probes.lif import LIF
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60), LIF(threshold=8.0), nn.Linear(60, 4))
def with_batch():
    return build(), torch.rand(6, 64, 40)
def batch():
    return torch.rand(6, 64, 40)
"""


def test_the_command(monkeypatch: Any, capsys: Any, tmp_path: Any) -> None:
    (tmp_path / "preflight_case.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert command("recommend", "preflight_case:with_batch", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "model.get_parameter('0.weight').mul_(" in shown
    assert "standard deviations" in shown.replace("\n", " ")
    words = ("recommend", "preflight_case:build", "--batch", "preflight_case:batch", "--json")
    assert command(*words, monkeypatch=monkeypatch) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["recommendations"][0]["verdict"] == "change"
    assert "mul_" in content["snippet"]
    assert set(content["ranking"]) == {"1"}
    for bad, text in (
        (("preflight_case:build",), "returned a model alone"),
        (("preflight_case:build", "--data", "digits", "--batch", "x:y"), "give one"),
        ((), "give MODULE:CALLABLE, or --fan-in"),
    ):
        assert command("recommend", *bad, monkeypatch=monkeypatch) == 2
        assert text in capsys.readouterr().err
