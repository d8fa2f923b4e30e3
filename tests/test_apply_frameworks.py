"""What apply writes into a layer of each framework is what the layer then computes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_truth import Net, assert_equal_to_truth, loss_of, same_bits
from apply_cases import (
    CASES,
    NEW,
    NEW_START,
    NEW_THRESHOLD,
    Case,
    inputs,
    new_slope,
    norse,
    snntorch,
    spikingjelly,
)
from torch import Tensor, nn

import spikescope
from spikescope.analysis.recommend import Recommendation
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.adapters import ADAPTERS, Adapter
from spikescope.probes.adapters.adapter_sinabs import SinabsAdapter
from spikescope.probes.adapters.adapter_spikescope import SpikescopeAdapter
from spikescope.probes.adapters.writing import put_number, same_surrogate
from spikescope.probes.adapters.written import WrittenSlope, WrittenSpike, WrittenStep
from spikescope.probes.lif import LIF

# Release 0.0.0.0.14 of SpikingJelly compiles its neurons by torch.jit, deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

PROPOSED: dict[str, Any] = {"start": NEW_START, "threshold": NEW_THRESHOLD, "surrogate": NEW}
FIELDS: dict[str, tuple[str, ...]] = {field: (field,) for field in PROPOSED}
FIELDS["all"] = tuple(PROPOSED)


def adapter_of(layer: nn.Module) -> Adapter:
    return next(adapter for adapter in ADAPTERS if adapter.handles(layer))


def value_of(layer: nn.Module, field: str) -> Any:
    described = adapter_of(layer).describe("", layer)
    return described.surrogate if field == "surrogate" else getattr(described.spec, field)


def advice(net: nn.Module, fields: tuple[str, ...]) -> list[Recommendation]:
    return [
        Recommendation(
            name,
            "change",
            {field: (value_of(getattr(net, name), field), PROPOSED[field]) for field in fields},
        )
        for name in ("low", "high")
    ]


def behaviour(net: Net, x: Tensor) -> dict[str, Any]:
    """Return everything that the net computes, in training and evaluation."""
    net.zero_grad()
    output = net(x)
    loss_of(output).backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.eval()
    with torch.no_grad():
        judged = net(x)
    net.train()
    return {"output": output.detach(), "eval": judged, "gradients": gradients}


def expected(net: Net, x: Tensor, case: Case, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the same of the plain net with the proposed values."""
    given: dict[str, Any] = {field: PROPOSED[field] for field in fields}
    if "surrogate" in given:
        given["surrogate"] = new_slope
    net.zero_grad()
    output, _ = net.plain(x, case.plain(**given))
    loss_of(output).backward()
    linear = [n for n, _ in net.named_parameters() if n.split(".")[0] not in ("low", "high")]
    gradients = {name: net.get_parameter(name).grad.clone() for name in linear}
    return {"output": output.detach(), "eval": output.detach(), "gradients": gradients}


def assert_close(got: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> None:
    for what in ("output", "eval"):
        error = (got[what] - wanted[what]).abs().max() / wanted[what].abs().max()
        assert error <= tolerance, (what, error)
    for name, gradient in wanted["gradients"].items():
        error = (got["gradients"][name] - gradient).abs().max() / gradient.abs().max()
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    ("what", "dtype"),
    [*((what, torch.float64) for what in FIELDS), ("all", torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_what_was_written_and_undo_is_exact(
    name: str, what: str, dtype: torch.dtype
) -> None:
    case, fields, x = CASES[name], FIELDS[what], inputs(dtype)
    net, untouched = case.network(dtype), case.network(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    before = behaviour(net, x)
    assert_close(before, expected(net, x, case, ()), tolerance)

    applied = spikescope.apply(net, advice(net, fields))
    for layer in (net.low, net.high):
        for field in fields:
            found = value_of(layer, field)
            assert found == PROPOSED[field] if field != "surrogate" else same_surrogate(found, NEW)
    after = behaviour(net, x)
    wanted = expected(net, x, case, fields)
    assert_close(after, wanted, tolerance)
    assert_close(behaviour(net, x), wanted, tolerance)  # the second sequence begins the same
    changed = max(
        (after["gradients"][entry] - before["gradients"][entry]).abs().max()
        for entry in wanted["gradients"]
    )
    assert changed > 1e-3  # otherwise nothing would have been shown

    applied.undo()
    behaviour(untouched, x)
    behaviour(untouched, x)
    assert same_bits(behaviour(net, x), before)
    assert same_bits(dict(net.state_dict()), dict(untouched.state_dict()))
    assert same_bits(behaviour(untouched, x), before)


@pytest.mark.parametrize("name", CASES)
def test_the_probe_reads_what_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, x = CASES[name], inputs(torch.float32)
    net = case.network(torch.float32)
    spikescope.apply(net, advice(net, FIELDS["all"]))
    plain = case.plain(NEW_START, NEW_THRESHOLD, new_slope)
    # The slope is 0.8 per unit of potential: rounding of u shows in the gradient by as much.
    assert_equal_to_truth(net, x, plain, tmp_path / "run", monkeypatch, tolerance=2e-6)
    for entry in spikescope.open_run(tmp_path / "run").header["layers"]:
        assert entry["spec"]["start"] == NEW_START
        assert entry["spec"]["threshold"] == NEW_THRESHOLD
        assert same_surrogate(Surrogate(**entry["surrogate"]), NEW)


@pytest.mark.parametrize("name", CASES)
def test_a_start_is_saved_loaded_and_copied(name: str) -> None:
    case, x = CASES[name], inputs()
    net, fresh = case.network(), case.network()
    spikescope.apply(net, advice(net, ("start",)))
    for layer in (net.low, net.high):
        if case.framework == "sinabs":
            layer.reset_states()  # its state is saved, too, and fits no fresh layer
            layer.v_mem, layer.i_syn = torch.zeros(0), getattr(layer, "i_syn", None)
    wanted = behaviour(net, x)
    saved = {k: v for k, v in net.state_dict().items() if not k.endswith(("v_mem", "i_syn"))}
    key = "low.start" if case.framework == "spikescope" else "low.spikescope_start"
    assert saved[key].item() == NEW_START
    if case.framework != "spikescope":
        with pytest.raises(RuntimeError, match=r"Unexpected key.*spikescope_start"):
            fresh.load_state_dict(saved)
    assert spikescope.restore(fresh, saved) == ["low", "high"]
    missing = fresh.load_state_dict(saved, strict=False)
    assert not missing.unexpected_keys
    assert all(entry.endswith(("v_mem", "i_syn")) for entry in missing.missing_keys)
    assert same_bits(behaviour(fresh, x), wanted)
    forget(net)
    twin = copy.deepcopy(net)
    assert same_bits(behaviour(twin, x), wanted)
    assert twin.state_dict()[key].item() == NEW_START
    with torch.no_grad():
        twin.state_dict()[key].fill_(-1.0)
    assert not same_bits(behaviour(twin, x)["output"], wanted["output"])
    assert same_bits(behaviour(net, x), wanted)  # the copy has a start of its own


def forget(net: nn.Module) -> None:
    """Let every layer drop its state, with the graph that torch cannot copy."""
    for layer in (net.low, net.high):
        for name in ("reset", "reset_mem", "reset_states"):
            if callable(method := getattr(layer, name, None)):
                method()


# --- what a framework has of its own, and what it has not ---

OWN: dict[str, tuple[str, Surrogate, Callable[[nn.Module], bool]]] = {
    "SpikingJelly": (
        "SpikingJelly LIF, multi",
        Surrogate("triangular", 2.0, 0.5),
        lambda layer: type(layer.surrogate_function).__name__ == "PiecewiseQuadratic",
    ),
    "snnTorch": (
        "snnTorch Leaky, single",
        Surrogate("fast_sigmoid", 1.0, 0.1),
        lambda layer: layer.spike_grad.__qualname__.startswith("fast_sigmoid"),
    ),
    "Norse": (
        "Norse LIF, multi",
        Surrogate("triangular", 0.3, 1.0),
        lambda layer: layer.p.method == "triangle",
    ),
    "Sinabs": (
        "Sinabs LIF, multi",
        Surrogate("gaussian", 0.7, 0.4),
        lambda layer: type(layer.surrogate_grad_fn).__name__ == "Gaussian",
    ),
}
FOREIGN: dict[str, tuple[str, Surrogate, Callable[[nn.Module], bool]]] = {
    # Its own sigmoid is NaN far below the threshold, in single precision.
    "snnTorch": (
        "snnTorch Leaky, single",
        Surrogate("sigmoid", 6.25, 0.04),
        lambda layer: isinstance(layer.spike_grad, WrittenSpike),
    ),
    # Its own "super" leaves alpha out.
    "Norse": (
        "Norse LIF, multi",
        Surrogate("fast_sigmoid", 1.0, 0.1),
        lambda layer: isinstance(layer.activation, WrittenStep),
    ),
    "SpikingJelly": (
        "SpikingJelly LIF, multi",
        Surrogate("q_pseudo_spike", 0.5, 0.4, 3.0),
        lambda layer: isinstance(layer.surrogate_function, WrittenSpike),
    ),
    "Sinabs": (
        "Sinabs LIF, multi",
        Surrogate("rectangular", 1.0, 1.0),
        lambda layer: isinstance(layer.surrogate_grad_fn, WrittenSlope),
    ),
}


@pytest.mark.parametrize("table", [OWN, FOREIGN], ids=["own", "foreign"])
@pytest.mark.parametrize("name", OWN)
def test_a_surrogate_is_the_frameworks_own_where_that_is_sound(
    name: str, table: dict[str, Any]
) -> None:
    case, proposed, is_so = table[name]
    net = CASES[case].network()
    now = value_of(net.low, "surrogate")
    before = adapter_of(net.low).spike_function(net.low)
    assert before is not None
    at_threshold = before(torch.zeros(1))
    spikescope.apply(net, [Recommendation("low", "change", {"surrogate": (now, proposed)})])
    assert is_so(net.low)
    z = torch.tensor([-0.9, -0.3, -0.02, 0.0, 0.05, 0.4], dtype=torch.float64, requires_grad=True)
    function = adapter_of(net.low).spike_function(net.low)
    assert function is not None
    assert torch.equal(function(torch.zeros(1)), at_threshold)
    (slope,) = torch.autograd.grad(function(z).sum(), z)
    wanted = torch.as_tensor(proposed.derivative(z.detach().numpy()))
    assert torch.allclose(slope, wanted, rtol=1e-7, atol=0.0)


def test_layers_that_share_a_surrogate_are_changed_one_by_one() -> None:
    net = CASES["SpikingJelly LIF, multi"].network()
    assert net.low.surrogate_function is net.high.surrogate_function
    shared, before = net.high.surrogate_function, value_of(net.high, "surrogate")
    applied = spikescope.apply(net, [Recommendation("low", "change", {"surrogate": (before, NEW)})])
    assert same_surrogate(value_of(net.low, "surrogate"), NEW)
    assert same_surrogate(value_of(net.high, "surrogate"), before)
    assert net.high.surrogate_function is shared
    applied.undo()
    assert net.low.surrogate_function is shared


def test_a_threshold_that_layers_share_is_changed_for_one_of_them() -> None:
    # Norse and Sinabs have one default tensor for all layers; snnTorch keeps what it is given.
    one = torch.tensor(1.0)
    pairs = [
        [snntorch.Leaky(0.5, threshold=one, learn_threshold=learn) for _ in range(2)]
        for learn in (False, True)
    ]
    pairs += [[norse.LIFCell(), norse.LIFCell()]]
    pairs += [[CASES["Sinabs LIF, multi"].build() for _ in range(2)]]
    for first, second in pairs:
        undo = adapter_of(first).write(first, "threshold", 0.75)
        assert value_of(first, "threshold") == 0.75
        assert value_of(second, "threshold") == 1.0
        undo()
        assert value_of(first, "threshold") == 1.0
    assert one.item() == 1.0


def test_a_width_in_thresholds_stays_when_the_threshold_changes() -> None:
    net = CASES["Sinabs LIF, multi"].network()
    before = value_of(net.low, "surrogate")
    spikescope.apply(net, [Recommendation("low", "change", {"threshold": (1.0, 0.5)})])
    assert net.low.surrogate_grad_fn.grad_width == 1.0  # twice as many thresholds
    assert same_surrogate(value_of(net.low, "surrogate"), before)
    assert net.high.surrogate_grad_fn.grad_width == 0.5


def test_a_learned_threshold_stays_the_parameter_that_the_optimiser_has() -> None:
    case, x = CASES["snnTorch Leaky hidden, learned, single"], inputs()
    net = case.network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    known = net.low.threshold
    spikescope.apply(net, advice(net, ("threshold",)))
    assert net.low.threshold is known
    loss_of(net(x)).backward()
    optimizer.step()
    assert 0.0 < abs(net.low.threshold.item() - NEW_THRESHOLD) < 0.5


@pytest.mark.parametrize(
    ("build", "field", "value", "match"),
    [
        (
            lambda: snntorch.Leaky(0.5), "start", 1.25,
            "a state of 1.25, above the threshold 1.0, is reset by snnTorch before",
        ),
        (
            lambda: snntorch.LeakyParallel(4, 4), "surrogate", NEW,
            "surrogate of LeakyParallel cannot be written: replay cannot follow",
        ),
        (lambda: with_fallback(), "start", 0.5, "begins with a state_fallback of the user's own"),
        (lambda: with_reset_value(), "start", 0.5, "set_reset_value gave it a tensor"),
        (lambda: frozen(), "threshold", 0.5, "it is a frozen parameter"),
        (lambda: LIF(), "decay", 0.5, "'decay' is not one of start, threshold, surrogate"),
    ],
)  # fmt: skip
def test_what_a_layer_cannot_take_is_said(
    build: Callable[[], nn.Module], field: str, value: Any, match: str
) -> None:
    layer = build()
    before = dict(vars(layer))
    with pytest.raises(ValueError, match=match) as error:
        adapter_of(layer).write(layer, field, value)
    assert "\n" not in str(error.value)
    assert adapter_of(layer).can_write(layer, field, value) is not None
    assert vars(layer) == before


def with_fallback() -> nn.Module:
    layer = norse.LIFCell()
    layer.state_fallback = lambda x: norse.LIFCell.initial_state(layer, x)
    return layer


def with_reset_value() -> nn.Module:
    layer = spikingjelly.IFNode()
    layer.set_reset_value("v", torch.zeros(3))
    return layer


def frozen() -> nn.Module:
    layer = snntorch.Leaky(0.5, learn_threshold=True)
    layer.threshold.requires_grad_(False)
    return layer


def test_a_layer_without_a_state_takes_no_start() -> None:
    if not hasattr(snntorch, "StateLeaky"):
        pytest.skip("this release has no StateLeaky")
    layer = snntorch.StateLeaky(beta=0.5, channels=4)
    adapter = adapter_of(layer)
    assert "has no state to begin with" in str(adapter.can_write(layer, "start"))
    assert adapter.can_write(layer, "threshold") is None
    undo = adapter.write(layer, "threshold", 0.25)
    x = torch.full((1, 2, 4), 0.5)
    assert layer(x)[0].sum() == 8
    undo()
    assert layer(x)[0].sum() == 0


class Liar(SpikescopeAdapter):
    """Writes something else than it was asked for."""

    def _put(self, layer: Any, field: str, value: Any) -> Any:
        wrong = Surrogate("triangular", 0.5, 0.61) if field == "surrogate" else value + 1e-4
        return super()._put(layer, field, wrong)


@pytest.mark.parametrize("field", PROPOSED)
def test_an_adapter_that_lies_is_caught(field: str) -> None:
    layer = LIF()
    before = layer.state_dict()["start"].clone(), layer.surrogate, layer.threshold
    with pytest.raises(ValueError, match=f"{field} of LIF was written as .*: taken back"):
        Liar().write(layer, field, PROPOSED[field])
    assert (layer.start, layer.surrogate, layer.threshold) == before
    SpikescopeAdapter().write(layer, field, PROPOSED[field])  # and the honest one is not


class Careless(SinabsAdapter):
    """Changes a threshold and forgets that the surrogate's width was given in thresholds."""

    def _put(self, layer: Any, field: str, value: Any) -> Any:
        return put_number(layer.module, "spike_threshold", value)


def test_a_surrogate_that_changed_along_is_caught() -> None:
    layer = CASES["Sinabs LIF, multi"].build()
    with pytest.raises(ValueError, match="has 'another surrogate than before': taken back"):
        Careless().write(layer, "threshold", 0.5)
    assert value_of(layer, "threshold") == 1.0


# --- where a sequence begins ---


def test_hooks_of_others_see_the_state_that_the_layer_begins_with() -> None:
    layer, seen = spikingjelly.IFNode(), []
    layer.register_forward_pre_hook(lambda module, args: seen.append(module.v))
    adapter_of(layer).write(layer, "start", 0.5)
    layer(torch.zeros(2, 3))
    assert torch.equal(seen[0], torch.full((2, 3), 0.5))


def test_a_copy_of_a_reset_layer_begins_at_the_start() -> None:
    layer = CASES["Sinabs LIF, multi"].build()
    adapter_of(layer).write(layer, "start", 0.5)
    layer(torch.ones(2, 1, 3))
    layer.reset_states()
    twin = copy.deepcopy(layer)
    twin(torch.zeros(2, 1, 3))
    decay = layer.alpha_mem_calculated.detach()
    assert torch.allclose(twin.v_mem, 0.5 * decay.expand(2, 3))


def test_a_random_state_that_the_user_asked_for_is_kept() -> None:
    layer = CASES["Sinabs LIF, multi"].build()
    adapter_of(layer).write(layer, "start", 0.5)
    layer(torch.zeros(2, 1, 3))
    torch.manual_seed(0)
    layer.reset_states(randomize=True)
    drawn = layer.v_mem.clone()
    layer.i_syn.zero_()
    layer(torch.zeros(2, 1, 3))
    decay = layer.alpha_mem_calculated.detach()
    assert torch.allclose(layer.v_mem, drawn * decay)


def test_a_state_of_the_users_own_is_left_alone() -> None:
    x = torch.full((2, 3), 0.1)
    leaky, cell = snntorch.Leaky(0.5), norse.LIFCell()
    for layer in (leaky, cell):
        adapter_of(layer).write(layer, "start", 0.5)
    _, mem = leaky(x, torch.full((2, 3), 0.2))
    assert torch.allclose(mem, torch.full((2, 3), 0.5 * 0.2 + 0.1))
    _, mem = leaky(x, mem.detach().clone())  # a copy of what it left
    assert torch.allclose(mem, torch.full((2, 3), 0.5 * 0.2 + 0.1))
    _, mem = leaky(x, torch.zeros(2, 3))
    assert torch.allclose(mem, torch.full((2, 3), 0.5 * 0.5 + 0.1))
    state = cell.initial_state(x)._replace(v=torch.full((2, 3), 0.2))
    assert torch.allclose(cell(x, state)[1].v, torch.full((2, 3), 0.9 * 0.2 + 0.1 * 0.1))
    assert torch.allclose(cell(x)[1].v, torch.full((2, 3), 0.9 * 0.5 + 0.1 * 0.1))


def test_another_batch_size_begins_at_the_start_and_a_carried_zero_does_not() -> None:
    layer = CASES["Sinabs LIF hard, single"].build()
    adapter_of(layer).write(layer, "start", 0.5)
    decay = float(layer.alpha_mem_calculated.detach())
    for samples in (3, 2):
        layer.reset_states()
        layer(torch.full((samples, 1, 1), 0.1))
        assert torch.allclose(layer.v_mem, torch.full((samples, 1), 0.5 * decay + 0.1))
    layer(torch.full((2, 1, 1), 5.0))  # all fire, all are reset to 0
    assert not layer.v_mem.any()
    layer(torch.full((2, 1, 1), 0.1))
    assert torch.allclose(layer.v_mem, torch.full((2, 1), 0.1))
    # The same for a layer of snnTorch whose state is all zero because it was reset.
    leaky = snntorch.Leaky(0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True)
    adapter_of(leaky).write(leaky, "start", 0.5)
    leaky(torch.full((2, 1), 5.0))
    assert not leaky.mem.any()
    leaky(torch.full((2, 1), 0.1))
    assert torch.allclose(leaky.mem, torch.full((2, 1), 0.1))


def test_a_start_per_unit_broadcasts_and_one_that_does_not_is_named() -> None:
    for name in ("SpikingJelly LIF, multi", "Norse LIF, multi", "ours, multi"):
        layer = CASES[name].build()
        adapter_of(layer).write(layer, "start", torch.tensor([0.0, 0.5, -0.5]))
        CASES[name].run(layer, torch.zeros(3, 2, 3))
        if name != "ours, multi":
            with pytest.raises(ValueError, match=r"start potential of shape \(3,\) does not fit"):
                CASES[name].run(layer, torch.zeros(3, 2, 4))


@pytest.mark.parametrize(
    "name", [n for n in CASES if "snnTorch" in n or "Jelly" in n or "ours" in n]
)
def test_a_changed_model_can_be_pickled(name: str) -> None:
    case, x = CASES[name], inputs()
    layer = case.build().double()
    for field, value in PROPOSED.items():
        adapter_of(layer).write(layer, field, value)
    wanted = case.run(layer, x)
    forget(nn.ModuleDict({"low": layer, "high": layer}))
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(case.run(again, x), wanted)
