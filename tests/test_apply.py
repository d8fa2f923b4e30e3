"""apply on a live model: parameters, everything or nothing, undo, and what it refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import spikescope
from spikescope.analysis.recommend import Recommendation
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import DEFAULT_SURROGATE, LIF

NEW = Surrogate("triangular", peak=0.5, width=0.6)


class Net(nn.Module):
    """A convolution and a dense layer before spiking ones, and one that feeds back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.lif1 = LIF()
        self.dense = nn.Linear(12, 5)
        self.back = nn.Linear(5, 5, bias=False)
        self.lif2 = LIF(step_mode="single")

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``[T, N, 2, 6]`` into spikes ``[T, N, 5]``."""
        current = torch.stack([self.conv(now) for now in x])
        spikes = self.lif1(3.0 * current)
        self.lif2.reset()
        out = [torch.zeros(x.shape[1], 5)]
        for now in spikes:
            out.append(self.lif2(3.0 * self.dense(now.flatten(1)) + self.back(out[-1])))
        return torch.stack(out[1:])


def network() -> Net:
    torch.manual_seed(0)
    return Net()


def inputs() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 8, 2, 6)


FIRST = Recommendation(
    "lif1",
    "change",
    {
        "surrogate": (DEFAULT_SURROGATE, NEW),
        "start": (0.0, 0.25),
        "threshold": (1.0, 0.75),
        "weight_scale": (1.0, 1.7),
        "bias_shift": (0.0, 0.125),
    },
    {"weight": ("conv.weight",), "bias": ("conv.bias",)},
    {"conv.weight": (3, 2, 3), "conv.bias": (3,)},
)
SECOND = Recommendation(
    "lif2",
    "change",
    {"weight_scale": (1.0, 0.6), "recurrent_scale": (1.0, 0.3)},
    {"weight": ("dense.weight",), "recurrent": ("back.weight",)},
    {"dense.weight": (5, 12), "back.weight": (5, 5)},
)


def kept(model: nn.Module) -> dict[str, Any]:
    """Return every value, object and hook of a model that apply could touch."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, dict):
                found |= {f"{name}|{key}|{k}": v for k, v in value.items()}
            else:
                found[f"{name}|{key}"] = value
    return found | {f"bits of {k}": v.clone() for k, v in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Any]) -> None:
    after = kept(model)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if key.startswith("bits of"):
            assert torch.equal(after[key], value), key
        else:
            assert after[key] is value or after[key] == value, key


def test_parameters_are_scaled_and_shifted_in_place_and_undone() -> None:
    net, x = network(), inputs()
    plain = {name: p.detach().clone() for name, p in net.named_parameters()}
    identities = {name: id(p) for name, p in net.named_parameters()}
    before, output = kept(net), net(x)
    before = kept(net)
    applied = spikescope.apply(net, [FIRST, SECOND])
    wanted = {
        "conv.weight": 1.7 * plain["conv.weight"],
        "conv.bias": plain["conv.bias"] + 0.125,
        "dense.weight": 0.6 * plain["dense.weight"],
        "dense.bias": plain["dense.bias"],
        "back.weight": 0.3 * plain["back.weight"],
    }
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
        assert id(parameter) == identities[name]
    assert (net.lif1.threshold, net.lif1.surrogate, net.lif1.start.item()) == (0.75, NEW, 0.25)
    assert not torch.equal(net(x), output)
    assert [tuple(row)[:3] for row in applied.changes] == [
        ("lif1", "threshold", ""),
        ("lif1", "start", ""),
        ("lif1", "surrogate", ""),
        ("lif1", "weight_scale", "conv.weight"),
        ("lif1", "bias_shift", "conv.bias"),
        ("lif2", "weight_scale", "dense.weight"),
        ("lif2", "recurrent_scale", "back.weight"),
    ]
    assert (applied.changes[3].before, applied.changes[3].after) == (1.0, 1.7)
    assert "lif2: recurrent_scale of back.weight 1 -> 0.3" in str(applied)
    applied.undo()
    net.lif2.v = before["lif2|v"]
    assert_same(net, before)
    assert torch.equal(net(x), output)
    applied.undo()  # idle
    assert torch.equal(net(x), output)


def test_as_a_context_manager_it_undoes_itself_also_after_an_error() -> None:
    net = network()
    before = kept(net)
    with pytest.raises(RuntimeError, match="stop"), spikescope.apply(net, [FIRST]) as applied:
        assert len(applied.changes) == 5
        raise RuntimeError("stop")
    assert_same(net, before)


def test_an_optimiser_keeps_its_parameters_and_moments() -> None:
    net, x = network(), inputs()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    net(x).sum().backward()
    optimizer.step()
    moments = [s["exp_avg"].clone() for s in optimizer.state.values()]
    spikescope.apply(net, [FIRST, SECOND])
    assert all(
        torch.equal(s["exp_avg"], m) for s, m in zip(optimizer.state.values(), moments, strict=True)
    )
    before = net.conv.weight.detach().clone()
    optimizer.zero_grad()
    net(x).sum().backward()
    optimizer.step()
    assert not torch.equal(net.conv.weight, before)


def test_verdicts_that_change_nothing_change_nothing() -> None:
    net = network()
    before = kept(net)
    idle = [Recommendation("lif1", "leave it"), Recommendation("lif2", "cannot tell")]
    applied = spikescope.apply(net, idle)
    assert applied.changes == ()
    assert str(applied) == "nothing was changed"
    assert_same(net, before)
    applied.undo()
    assert spikescope.apply(net, []).changes == ()


# --- everything or nothing ---


def bad(**changes: tuple[Any, Any]) -> Recommendation:
    return replace(SECOND, changes=changes)


def frozen(net: Net) -> None:
    net.dense.weight.requires_grad_(False)


def tied(net: Net) -> None:
    net.other = nn.Linear(12, 5)
    net.other.weight = net.dense.weight


def reused(net: Net) -> None:
    net.other = net.dense


def normed(net: Net) -> None:
    parametrizations.weight_norm(net.dense)


def pruned(net: Net) -> None:
    prune.random_unstructured(net.dense, "weight", 0.5)


def lazy(net: Net) -> None:
    net.dense = nn.LazyLinear(5)


def no_layer(net: Net) -> None:
    net.lif1, net.lif2 = nn.Identity(), nn.Identity()


def one_layer(net: Net) -> None:
    net.lif2 = nn.Identity()


ORIGINAL = "dense.parametrizations.weight.original1"
REFUSED: dict[str, tuple[Callable[[Net], None] | None, Any, str]] = {
    "frozen": (frozen, [SECOND], "weight_scale of layer 'lif2': 'dense.weight' is frozen"),
    "tied": (tied, [SECOND], "'dense.weight' is one tensor under 2 names, 'dense.weight' and 'oth"),
    "reused": (reused, [SECOND], "'dense.weight' is one tensor under 2 names"),
    "weight norm": (
        normed,
        [replace(SECOND, parameters={"weight": (ORIGINAL,), "recurrent": ("back.weight",)},
                 shapes={})],
        "is only an ingredient of a parametrised weight",
    ),
    "weight norm, by the weight's name": (normed, [SECOND], "'dense.weight'.* is no parameter of"),
    "pruned": (
        pruned,
        [replace(SECOND, parameters={"weight": ("dense.weight_orig",),
                                     "recurrent": ("back.weight",)}, shapes={})],
        "an ingredient of a weight that RandomUnstructured computes",
    ),
    "lazy": (lazy, [SECOND], r"'dense.weight' has shape None, but \(5, 12\)"),
    "lazy, no shape recorded": (
        lazy, [replace(SECOND, shapes={})], "'dense.weight' has no shape yet: run one batch"),
    "no layer": (no_layer, [FIRST], "no layer of this Net can be written: it has no spiking layer"),
    "this layer": (
        one_layer,
        [Recommendation("lif2", "change", {"start": (0.0, 0.1)})],
        "start of layer 'lif2' cannot be written: Identity is no spiking layer",
    ),
    "unknown layer": (
        None, [replace(FIRST, layer="lif7")], "layer 'lif7' is not in this Net: .* another model"),
    "unknown parameter": (
        None,
        [replace(SECOND, parameters={"weight": ("fc.weight",)}, shapes={"fc.weight": (5, 12)})],
        "'fc.weight', which the recommendation for layer 'lif2' names, is no parameter of this",
    ),
    "other shape": (
        None,
        [replace(SECOND, shapes={"dense.weight": (5, 13)})],
        r"'dense.weight' has shape \(5, 12\), but \(5, 13\) in the recommendation for layer 'lif2'",
    ),
    "other threshold": (
        None,
        [bad(threshold=(0.9, 0.5))],
        "threshold of layer 'lif2' is 1, but the recommendation was made at 0.9",
    ),
    "other surrogate": (
        None,
        [bad(surrogate=(Surrogate("gaussian"), NEW))],
        r"surrogate of layer 'lif2' is arctan \(peak 1, width 0.318\), but the recommendation was",
    ),
    "there already": (
        None,
        [bad(surrogate=(Surrogate("gaussian"), DEFAULT_SURROGATE))],
        "already applied: surrogate of layer 'lif2' is arctan",
    ),
    "NaN factor": (
        None, [bad(weight_scale=(1.0, math.nan))],
        "weight_scale of layer 'lif2' is proposed as nan: it must be a finite number"),
    "infinite shift": (
        None, [replace(FIRST, changes={"bias_shift": (0.0, math.inf)})],
        "bias_shift of layer 'lif1' is proposed as inf: it must be a finite number"),
    "factor 0": (
        None, [bad(recurrent_scale=(1.0, 0.0))], "is proposed as 0.0: it must be above 0"),
    "factor of what": (
        None, [bad(weight_scale=(2.0, 1.5))], "weight_scale of layer 'lif2' was 2.0 before: it co"),
    "NaN start": (
        None, [bad(start=(0.0, [0.1, math.nan]))], "start of .*lif2' is proposed as .*finite"),
    "start of words": (None, [bad(start=(0.0, "much"))], "proposed as 'much': it must be finite"),
    "two thresholds": (None, [bad(threshold=(1.0, [1.0, 2.0]))], "it must be a finite number"),
    "no surrogate": (None, [bad(surrogate=(DEFAULT_SURROGATE, "atan"))], "must be a Surrogate"),
    "no parameter": (
        None, [replace(SECOND, parameters={"weight": ("dense.weight",)})],
        "recurrent_scale of layer 'lif2' is to change, but the recommendation names no parameter"),
    "twice": (
        None, [FIRST, replace(SECOND, parameters={**SECOND.parameters, "weight": ("conv.weight",)},
                              shapes={})],
        "'conv.weight' would be changed twice, by weight_scale of layer 'lif1' and by weight_sca"),
    "two of a layer": (None, [FIRST, FIRST], "two recommendations are for layer 'lif1'"),
    "something else": (None, [FIRST, "wider"], r"recommendations\[1\] is 'wider', not a Recomm"),
    "no list": (None, FIRST, "recommendations=Recommendation is not possible: give a list"),
    "nothing": (None, None, "recommendations=NoneType is not possible: give a list"),
    "overflow": (
        None, [FIRST, bad(weight_scale=(1.0, 1e39))],
        "layer 'lif2': weight_scale 1e\\+39 makes entries of 'dense.weight' infinite in torch.float"
        "32; the model is as it was"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_is_one_clear_line_and_changes_nothing(name: str) -> None:
    spoil, advice, match = REFUSED[name]
    net = network()
    if spoil is not None:
        spoil(net)
    if name.startswith("lazy"):
        before: dict[str, Any] = {}
    else:
        before = kept(net)
    with pytest.raises(ValueError, match=match) as error:
        spikescope.apply(net, advice)
    assert "\n" not in str(error.value)
    if before:
        assert_same(net, before)


def test_no_model_is_said() -> None:
    with pytest.raises(ValueError, match=r"model=None is not possible: give a torch.nn.Module"):
        spikescope.apply(None, [FIRST])  # type: ignore[arg-type]


def test_a_failure_halfway_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from spikescope.probes.adapters.adapter_spikescope import SpikescopeAdapter

    honest = SpikescopeAdapter._put

    def fails(self: Any, layer: Any, field: str, value: Any) -> Any:
        if layer.module is net.lif2:
            raise OSError("no space left")
        return honest(self, layer, field, value)

    net = network()
    before = kept(net)
    monkeypatch.setattr(SpikescopeAdapter, "_put", fails)
    with pytest.raises(OSError, match="no space left"):
        spikescope.apply(net, [FIRST, bad(start=(0.0, 0.1))])
    assert_same(net, before)
    monkeypatch.undo()
    assert len(spikescope.apply(net, [FIRST, bad(start=(0.0, 0.1))]).changes) == 6


# --- applying twice ---


def test_applying_twice_is_refused_until_undone() -> None:
    net = network()
    for advice in (FIRST, SECOND):  # the second has no value of now that could tell
        applied = spikescope.apply(net, [advice])
        before = kept(net)
        with pytest.raises(ValueError, match="already applied"):
            spikescope.apply(net, [advice])
        with pytest.raises(ValueError, match="already applied"):
            spikescope.apply(copy.deepcopy(net), [advice])
        assert_same(net, before)
        applied.undo()
        spikescope.apply(net, [advice]).undo()


def test_a_saved_start_shows_that_it_was_applied() -> None:
    net, again = network(), network()
    spikescope.apply(net, [FIRST])
    again.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match=r"already applied: start of layer 'lif1' is 0.25"):
        spikescope.apply(again, [replace(FIRST, changes={"start": (0.0, 0.25)})])


def test_applications_are_undone_in_order() -> None:
    net = network()
    before = kept(net)
    first = spikescope.apply(net, [SECOND])
    second = spikescope.apply(net, [bad(weight_scale=(1.0, 2.0))])
    with pytest.raises(ValueError, match="Linear was changed by a later apply: undo that one"):
        first.undo()
    second.undo()
    first.undo()
    assert_same(net, before)


# --- models in wrappers ---


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")
def test_a_compiled_model_computes_the_new_values() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), snn.Leaky(0.5, init_hidden=True))
    advice = Recommendation(
        "1",
        "change",
        {"start": (0.0, 0.5), "weight_scale": (1.0, 2.0)},
        {"weight": ("0.weight",)},
    )
    x = torch.randn(3, 8, 4)

    def run(model: nn.Module) -> Tensor:
        net[1].reset_mem()
        with torch.no_grad():
            return torch.stack([model(now) for now in x])

    compiled = torch.compile(net, backend="eager")
    plain = run(net)
    assert torch.equal(run(compiled), plain)
    applied = spikescope.apply(compiled, [advice])
    wanted = run(net)
    assert not torch.equal(wanted, plain)
    assert torch.equal(run(compiled), wanted)
    applied.undo()
    assert torch.equal(run(compiled), plain)


@pytest.fixture
def alone(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_distributed_model_is_changed_under_its_own_names() -> None:
    net, x = network(), inputs()
    model = nn.parallel.DistributedDataParallel(net)
    before = kept(net)
    applied = spikescope.apply(model, [FIRST, SECOND])
    twin = network()
    spikescope.apply(twin, [FIRST, SECOND])
    assert torch.equal(model(x), twin(x))
    model(x).sum().backward()
    assert net.conv.weight.grad is not None
    applied.undo()
    net.lif2.v = before["lif2|v"]
    assert all(torch.equal(p, network().get_parameter(n)) for n, p in net.named_parameters())


def test_restore_names_what_it_cannot_place() -> None:
    net = network()
    saved = {"dense.spikescope_start": torch.tensor(0.5)}
    with pytest.raises(
        ValueError, match=r"'dense.spikescope_start' is a start potential, but 'den"
    ):
        spikescope.restore(net, saved)
    assert spikescope.restore(net, dict(network().state_dict())) == ["lif1", "lif2"]


def test_a_start_per_unit_of_our_own_layer_loads_into_a_new_one() -> None:
    net, again = network(), network()
    per_unit = torch.linspace(0.0, 0.4, 5)
    spikescope.apply(net, [bad(start=(0.0, per_unit.numpy()))])
    saved = net.state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for lif2.start"):
        again.load_state_dict(saved)
    spikescope.restore(again, saved)
    again.load_state_dict(saved)
    assert torch.equal(again.lif2.start, per_unit)
