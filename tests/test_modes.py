"""Every way of running a training is recorded as plain torch has it, and is not disturbed."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modes_network import LAYERS, TIMESTEPS, Inside, Net, assert_recorded, loss_of
from reference_network import seeded
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spikescope
from spikescope.probes import hooks, modes, tap, vitals_norms
from spikescope.probes import recorder as recorder_module
from spikescope.probes.adapters import SpikescopeAdapter
from spikescope.probes.lif import LIF, reset_state

Forward = Callable[[Net, Tensor], Tensor]
BATCHES = (5, 3, 6)


def plain(net: Net, x: Tensor) -> Tensor:
    return net(x)


def checkpointed(net: Net, x: Tensor) -> Tensor:
    return checkpoint(net, x, use_reentrant=False)


def checkpointed_reentrant(net: Net, x: Tensor) -> Tensor:
    return checkpoint(net, x.requires_grad_(), use_reentrant=True)


def checkpointed_in_parts(net: Net, x: Tensor) -> Tensor:
    x = checkpoint(lambda x: net.low(net.first(net.dropout(x))), x, use_reentrant=False)
    return checkpoint(lambda x: net.readout(net.high(net.second(x))), x, use_reentrant=True)


def checkpoint_of_a_checkpoint(net: Net, x: Tensor) -> Tensor:
    def inner(x: Tensor) -> Tensor:
        return net.readout(net.high(net.second(x)))

    def outer(x: Tensor) -> Tensor:
        x = net.low(net.first(net.dropout(x)))
        return checkpoint(inner, x.requires_grad_(), use_reentrant=True)

    return checkpoint(outer, x.requires_grad_(), use_reentrant=True)


def autocast(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(x)


FORWARDS: dict[str, Forward] = {
    "plain": plain,
    "checkpoint": checkpointed,
    "checkpoint, reentrant": checkpointed_reentrant,
    "checkpoint, both kinds": checkpointed_in_parts,
    "checkpoint of a checkpoint": checkpoint_of_a_checkpoint,
    "bf16": autocast,
}


def inputs(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(TIMESTEPS, samples, 6, generator=generator)


def truth(net: Net, xs: list[Tensor], forward: Forward, factor: float = 1.0) -> list[Inside]:
    """Run the batches in plain torch; leave no gradient, and random numbers as they were."""
    state = torch.get_rng_state()
    parts = []
    for x in xs:
        inside = Inside()
        with torch.autocast("cpu", torch.bfloat16, enabled=forward is autocast):
            output = inside.run(net, x)
        (factor * loss_of(output)).backward()
        parts.append(inside)
    net.zero_grad()
    torch.set_rng_state(state)
    return parts


def train(
    net: Net,
    path: Path | None,
    forward: Forward = plain,
    steps: int = 20,
    batches: tuple[int, ...] = (5,),
    every: Any = 1,
    scaler: torch.amp.GradScaler | None = None,
    model: Any = None,
) -> dict[str, Any]:
    """Train and return everything that recording could have disturbed."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []

    def one_step(step: int) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for part, samples in enumerate(batches):
            loss = loss_of(
                forward(net if model is None else model, inputs(samples, 10 * step + part))
            )
            (loss if scaler is None else scaler.scale(loss)).backward()
            total = total + loss.detach()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        losses.append(total.item())
        return total

    if path is None:
        for step in range(steps):
            one_step(step)
    else:
        watched = net if model is None else model
        with spikescope.watch(watched, path, every=every, scaler=scaler) as probe:
            for step in range(steps):
                probe.step(loss=one_step(step))
        assert not probe._session.outlet.is_open  # it was not switched off by an error
        assert spikescope.open_run(path).state == "finished"
    return {
        "losses": torch.tensor(losses),
        "random": torch.get_rng_state(),
        **{name: value.clone() for name, value in net.state_dict().items()},
        **{f"{name}.grad": value.grad.clone() for name, value in net.named_parameters()},
    }


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("way", "step_mode", "batches"),
    [
        ("plain", "single", BATCHES),
        ("checkpoint", "single", (5,)),
        ("checkpoint, reentrant", "single", (5,)),
        ("checkpoint, both kinds", "multi", (5,)),
        ("checkpoint of a checkpoint", "multi", BATCHES),
        ("bf16", "multi", BATCHES),
    ],
)
def test_training_is_bit_identical(
    way: str, step_mode: str, batches: tuple[int, ...], tmp_path: Path
) -> None:
    forward = FORWARDS[way]
    without = train(seeded(lambda: Net(step_mode)), None, forward, batches=batches)
    watched = seeded(lambda: Net(step_mode))
    assert_same_bits(without, train(watched, tmp_path / "run", forward, batches=batches, every=3))
    run = spikescope.open_run(tmp_path / "run")
    assert run.events().empty
    assert sorted(set(run.table()["step"])) == list(range(0, 20, 3))


@pytest.mark.parametrize("way", FORWARDS)
def test_recorded_figures_equal_plain_torch(way: str, tmp_path: Path) -> None:
    net = seeded(Net)
    xs = [inputs(samples, part) for part, samples in enumerate(BATCHES)]
    torch.manual_seed(1)
    parts = truth(net, xs, FORWARDS[way])
    train(net, tmp_path / "run", FORWARDS[way], steps=1, batches=BATCHES)
    # One unit in the last place of bf16 is 2^-8; squares and three products of it add up.
    rtol = 8 * 2.0**-8 if way == "bf16" else 2e-5
    for name in LAYERS:
        table = spikescope.open_run(tmp_path / "run").table(layer=name)
        assert_recorded(table, parts, name, rtol)
        assert table["residual"].max() < (3 * 2.0**-8 if way == "bf16" else 2e-6)
        with pytest.raises(AssertionError, match="grad_s_square"):
            assert_recorded(
                table.assign(grad_s_square=1.1 * table["grad_s_square"]), parts, name, rtol
            )


def test_eval_no_grad_and_inference_mode_are_recorded_apart(tmp_path: Path) -> None:
    net = seeded(Net)
    torch.manual_seed(1)
    trained = truth(net, [inputs(5)], plain)
    net.eval()
    evaluated = truth(net, [inputs(3, 1), inputs(6, 2)], plain)
    with spikescope.watch(net.train(), tmp_path / "run", every=1) as probe:
        loss_of(net(inputs(5))).backward()
        net.eval()
        with torch.no_grad():
            net(inputs(3, 1))
        with torch.inference_mode():
            net(inputs(6, 2))
        probe.step()
    for name in LAYERS:
        table = spikescope.open_run(tmp_path / "run").table(layer=name)
        rows = {mode: table[table["mode"] == mode] for mode in ("train", "eval")}
        assert_recorded(rows["train"], trained, name, 2e-5)
        assert (rows["eval"]["grad_u_count"] == 0).all()
        seen = {key: torch.cat([part.figures(name)[key] for part in evaluated], 1) for key in "us"}
        assert rows["eval"]["spikes"].tolist() == seen["s"].sum((1, 2)).tolist()
        np.testing.assert_allclose(rows["eval"]["u_mean"], seen["u"].mean((1, 2)), rtol=1e-5)


def scaled(factor: float = 1024.0) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=factor, growth_interval=2)


def test_gradients_are_recorded_without_the_factor_of_the_scaler(tmp_path: Path) -> None:
    net = seeded(Net)
    torch.manual_seed(1)
    parts = truth(net, [inputs(5)], plain)
    scaler = scaled()
    train(net, tmp_path / "run", steps=4, scaler=scaler)
    assert scaler.get_scale() == 4096.0  # it has grown twice on the way
    run = spikescope.open_run(tmp_path / "run")
    # Powers of two scale without rounding: the training is that without a scaler.
    train(seeded(Net), tmp_path / "unscaled", steps=4)
    other = spikescope.open_run(tmp_path / "unscaled")
    for name in LAYERS:
        assert_recorded(run.table(layer=name).query("step == 0"), parts, name, 2e-5)
        for column in ("grad_u_square", "grad_s_square", "grad_s_total_square", "residual_square"):
            np.testing.assert_allclose(
                run.table(layer=name)[column], other.table(layer=name)[column], rtol=1e-6
            )


def test_a_scaler_that_is_not_given_shows_in_the_gradients(tmp_path: Path) -> None:
    net, scaler = seeded(Net), scaled()
    torch.manual_seed(1)
    parts = truth(net, [inputs(5)], plain, factor=1024.0)
    torch.manual_seed(1)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        scaler.scale(loss_of(net(inputs(5)))).backward()
        probe.step()
    assert_recorded(spikescope.open_run(tmp_path / "run").table(layer="low"), parts, "low", 2e-5)


def test_scaled_training_is_bit_identical(tmp_path: Path) -> None:
    one = train(seeded(Net), None, autocast, scaler=scaled(), batches=BATCHES)
    two = train(seeded(Net), tmp_path / "run", autocast, scaler=scaled(), batches=BATCHES)
    assert_same_bits(one, two)


def test_a_step_that_the_scaler_skips_is_counted_as_not_finite(tmp_path: Path) -> None:
    net = seeded(Net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(spikescope.SpikescopeWarning, match="dL/du is NaN or infinite"):
        train(net, tmp_path / "run", steps=1, scaler=scaled(2.0**127))
    assert_same_bits(before, net.state_dict())
    table = spikescope.open_run(tmp_path / "run").table(layer="high")
    assert table["grad_u_nonfinite"].sum() > 0
    assert (table["grad_u_count"] + table["grad_u_nonfinite"] == 5 * 8).all()


def test_a_scaler_that_scales_nothing_changes_nothing(tmp_path: Path) -> None:
    off = torch.amp.GradScaler("cpu", enabled=False)
    gradient = torch.tensor([3.0])
    for scaler in (None, off, scaled()):  # the last has not seen a loss yet
        assert modes.unscale_by(scaler)(gradient).item() == 3.0


def test_unscaling_does_not_wait_for_the_device() -> None:
    scaler = scaled()
    scaler._scale = torch.tensor(1024.0, device="meta")  # whose number nobody can ask for
    with pytest.raises((RuntimeError, NotImplementedError)):
        scaler.get_scale()
    assert modes.unscale_by(scaler)(torch.ones(3, device="meta")).shape == (3,)


def test_a_scaler_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scaler=1024.0 is not possible: give"):
        spikescope.watch(seeded(Net), tmp_path / "run", scaler=1024.0)  # type: ignore[arg-type]


# The compiler looks at .grad of inner tensors, and makes an instance of each autograd function.
noisy_compiler = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.*should not be instantiated:DeprecationWarning",
)


class Compiler:
    """A backend that counts what it compiles, and how often the result runs."""

    def __init__(self) -> None:
        self.compiled = self.calls = 0

    def __call__(self, graph: Any, example: Any) -> Callable[..., Any]:
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return run


def compiled_training(
    parts: tuple[str, ...], path: Path | None, steps: int = 8
) -> tuple[list[Any], Any, Any]:
    """Train, recording steps 0, 3 and 6; return (compiled, calls) after each step."""
    torch._dynamo.reset()
    compiler, counts = Compiler(), []
    net: Any = seeded(Net)
    model: Any = net
    for part in parts:
        setattr(net, part, torch.compile(getattr(net, part), backend=compiler))
    if not parts:
        model = torch.compile(net, backend=compiler)

    def forward(model: Net, x: Tensor) -> Tensor:
        counts.append((compiler.compiled, compiler.calls))
        return model(x)

    state = train(net, path, forward, steps=steps, every=3, model=model)
    return [*counts[1:], (compiler.compiled, compiler.calls)], state, compiler


@noisy_compiler
@pytest.mark.parametrize("parts", [(), ("low", "second")], ids=["whole", "parts"])
def test_recorded_steps_run_eagerly_and_nothing_is_compiled_again(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    without, state, _ = compiled_training(parts, None)
    counts, watched, _ = compiled_training(parts, tmp_path / "run")
    graphs, per_step = without[0]
    assert graphs > 0
    assert without[-1] == (graphs, 8 * per_step)
    assert counts[0] == (0, 0)  # recorded before anything was compiled
    assert counts[-1] == (graphs, 5 * per_step)
    assert [after[1] - before[1] for before, after in itertools.pairwise(counts)] == [
        0 if step in (3, 6) else per_step for step in range(1, 8)
    ]
    assert_same_bits(state, watched)
    run = spikescope.open_run(tmp_path / "run")
    assert [layer["name"] for layer in run.header["layers"]] == list(LAYERS)
    assert run.header["model"] == "Net"
    assert sorted(set(run.table()["step"])) == [0, 3, 6]
    assert run.table()["mismatch"].sum() == 0


@noisy_compiler
def test_hooks_under_compilation_would_have_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "eager", contextlib.nullcontext)
    without, *_ = compiled_training(("low",), None, steps=2)
    counts, *_ = compiled_training(("low",), tmp_path / "run", steps=2)
    assert counts[-1][0] > counts[0][0] > 0
    assert counts[-1][0] > without[-1][0]


@pytest.mark.parametrize("end", ["default", "fail_on_recompile"])
def test_a_stance_of_the_user_is_kept(end: str, tmp_path: Path) -> None:
    net = seeded(Net)
    stances = []

    def stance() -> str:
        return torch._dynamo.eval_frame._stance.stance

    with spikescope.watch(net, tmp_path / "run", every=2) as probe:
        net(inputs(2))
        stances.append(stance())
        if end != "default":
            torch.compiler.set_stance(end)
        probe.step()
        stances.append(stance())
        probe.step()
        stances.append(stance())
    try:
        assert stances == ["force_eager", end, "force_eager"]
        assert stance() == end
    finally:
        torch.compiler.set_stance("default")


def copies(net: Net) -> dict[str, Any]:
    return {
        "deepcopy": copy.deepcopy(net),
        "pickle": pickle.loads(pickle.dumps(net)),
        "copy": copy.copy(net),
        "copy of a layer": nn.Sequential(nn.Linear(6, 9), copy.copy(net.low)),
    }


def test_a_copy_of_a_watched_model_is_free(tmp_path: Path) -> None:
    net = seeded(Net)
    torch.manual_seed(1)
    parts = truth(net, [inputs(5)], plain)
    torch.manual_seed(1)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss_of(net(inputs(5))).backward()
        made = copies(net)
        for name in ("deepcopy", "pickle", "copy of a layer"):
            made[name](inputs(9)).sum().backward()
        saved = pickle.dumps(net)
        probe.step()
        assert probe.active
        assert probe.recording
    for place in (b"probes.hooks", b"probes.modes", b"probes.probe", b"writer"):
        assert place not in saved
    for name in LAYERS:
        table = spikescope.open_run(tmp_path / "run").table(layer=name)
        assert_recorded(table, parts, name, 2e-5)
    with spikescope.watch(made["deepcopy"], tmp_path / "copy", every=1) as probe:
        loss_of(made["deepcopy"](inputs(4))).backward()
        probe.step()
    assert len(spikescope.open_run(tmp_path / "copy").table()) == 2 * TIMESTEPS


def test_a_copy_computes_and_learns_as_the_original(tmp_path: Path) -> None:
    net = seeded(Net).eval()
    with spikescope.watch(net, tmp_path / "run", every=1):
        made = copies(net)
        for name in ("deepcopy", "pickle"):
            assert torch.equal(made[name](inputs(5)), net(inputs(5)))


def windows(net: Net, x: Tensor, advance: Callable[[Tensor], Tensor], detach: Any) -> Tensor:
    """Go through two windows of a sequence, the state detached between them."""
    half = TIMESTEPS // 2
    first = advance(x[:half])
    detach()
    return torch.cat([first, advance(x[half:])])


def single_step_windows(net: Net, x: Tensor) -> Tensor:
    def detach() -> None:
        for layer in (net.low, net.high):
            layer.v = layer.v.detach()

    reset_state(net)
    return windows(net, x, lambda x: torch.stack([net.advance(now) for now in x]), detach)


def test_truncated_backpropagation_cuts_where_the_state_was_detached(tmp_path: Path) -> None:
    net = seeded(lambda: Net("single"))
    net.dropout.p = 0.0  # its numbers would be drawn in another order
    inside = Inside()
    loss_of(windows(net, inputs(5), lambda x: inside.run(net, x), inside.detach)).backward()
    whole = truth(net, [inputs(5)], plain)
    net.zero_grad()
    train(net, tmp_path / "run", single_step_windows, steps=1)
    run = spikescope.open_run(tmp_path / "run")
    assert run.events().empty
    for name in LAYERS:
        assert_recorded(run.table(layer=name), [inside], name, 2e-5)
        assert run.table(layer=name)["residual"].max() < 2e-6
        with pytest.raises(AssertionError, match="grad_u_square"):
            assert_recorded(run.table(layer=name), whole, name, 2e-5)


def test_without_the_cut_the_self_check_would_be_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SpikescopeAdapter.state
    monkeypatch.setattr(
        SpikescopeAdapter, "state", lambda *args: state(*args)._replace(joined=True)
    )
    train(seeded(lambda: Net("single")), tmp_path / "run", single_step_windows, steps=1)
    residual = spikescope.open_run(tmp_path / "run").table(layer="low")["residual"]
    assert residual[TIMESTEPS // 2 - 1] > 1e-2
    assert residual.drop(TIMESTEPS // 2 - 1).max() < 2e-6


def test_a_recording_that_begins_in_the_middle_of_a_sequence(tmp_path: Path) -> None:
    net = seeded(lambda: Net("single")).eval()
    x = inputs(5)
    inside = Inside()
    with torch.no_grad():
        inside.run(net, x[:2])
        inside.tensors = Inside().tensors
        inside.run(net, x[2:])
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="from before the recording") as warned,
        spikescope.watch(net, tmp_path / "run", every=lambda step: step == 1) as probe,
    ):
        for window in (x[:2], x[2:]):
            with torch.no_grad():
                for now in window:
                    net.advance(now)
            probe.step()
    assert len(warned) == 2  # once for each layer
    table = spikescope.open_run(tmp_path / "run").table(layer="low")
    assert table["t"].tolist() == [1, 2]
    assert table["mismatch"].sum() == 0
    true = inside.figures("low")
    np.testing.assert_allclose(table["u_mean"], true["u"].mean((1, 2)), rtol=1e-6)
    assert table["spikes"].tolist() == true["s"].sum((1, 2)).tolist()


def test_a_second_backward_pass_is_said(tmp_path: Path) -> None:
    net = seeded(Net)
    torch.manual_seed(1)
    parts = truth(net, [inputs(5)], plain)
    torch.manual_seed(1)
    with (
        pytest.warns(spikescope.SpikescopeWarning, match="a second backward pass went through"),
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        loss = loss_of(net(inputs(5)))
        loss.backward(retain_graph=True)
        loss.backward()
        probe.step()
    assert_recorded(spikescope.open_run(tmp_path / "run").table(layer="low"), parts, "low", 2e-5)


def test_the_graph_of_a_checkpointed_step_is_not_kept(tmp_path: Path) -> None:
    net = seeded(Net)
    gc.collect()
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        output = checkpointed_reentrant(net, inputs(5))
        loss_of(output).backward()
        probe.step()
        gone = weakref.ref(output)
        del output
        assert gone() is None


def one_step(model: nn.Module, path: Path, x: Tensor) -> spikescope.Run:
    with spikescope.watch(model, path, every=1) as probe:
        output = model(x)
        if output.requires_grad:
            output.sum().backward()
        probe.step()
    return spikescope.open_run(path)


def said(warned: Any) -> list[str]:
    texts = [str(entry.message) for entry in warned]
    assert not any("\n" in text for text in texts)
    return texts


def test_a_layer_that_is_reset_in_the_middle_of_a_sequence(tmp_path: Path) -> None:
    net = seeded(lambda: Net("single"))
    with (
        pytest.warns(spikescope.SpikescopeWarning) as warned,
        spikescope.watch(net, tmp_path / "run", every=1) as probe,
    ):
        for t, now in enumerate(inputs(5)):
            if t == 3:
                net.low.reset()
            net.advance(now)
        probe.step()
    (text,) = said(warned)
    assert text == (
        "layer 'low', step 0: its state was reset after 3 timesteps of the step, where layer "
        "'high' went on: t counts from 1 again"
    )
    run = spikescope.open_run(tmp_path / "run")
    assert run.table(layer="low").set_index("t")["samples"].to_dict() == {1: 10, 2: 5, 3: 5}
    assert run.table(layer="high")["t"].tolist() == [1, 2, 3, 4]


def test_layers_that_are_reset_together_are_in_order(tmp_path: Path) -> None:
    net = seeded(lambda: Net("single"))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for _ in range(2):  # each forward pass begins with a reset
            loss_of(net(inputs(5))).backward()
        probe.step()
    assert spikescope.open_run(tmp_path / "run").events().empty


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_spikes_that_are_no_floating_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    class Whole(LIF):
        def forward(self, current: Tensor) -> Tensor:
            return super().forward(current).to(dtype)

    net = seeded(Net)
    net.high.__class__ = Whole
    net.readout = nn.Identity()
    net.eval()
    expected = net(inputs(5))
    assert expected.sum() > 0
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        run = one_step(net, tmp_path / "run", inputs(5))
    assert said(warned) == [
        f"layer 'high', step 0: its output is {dtype}, through which no gradient flows; it is "
        "recorded as floating numbers"
    ]
    high = run.table(layer="high")
    assert high["spikes"].tolist() == expected.sum((1, 2)).tolist()
    assert high["mismatch"].sum() == 0
    assert net(inputs(5)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_inputs_that_are_no_floating_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    class FromWhole(LIF):
        def forward(self, current: Tensor) -> Tensor:
            return super().forward(0.6 * current)

    class Careless(LIF):
        def forward(self, current: Tensor) -> Tensor:
            return super().forward(current.float())

    net = nn.Sequential(Careless(), nn.Linear(3, 2), LIF())
    x = (inputs(5)[..., :3] > 0).to(dtype)
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        run = one_step(net, tmp_path / "run", x)
    texts = said(warned)
    assert texts[0].startswith(f"layer '0', step 0: its input is {dtype}, through which no")
    table = run.table(layer="0")
    assert table["mismatch"].sum() == 0
    assert table["spikes"].sum() > 0
    assert table["input_mean"].tolist() == pytest.approx(x.float().mean((1, 2)).tolist())


def test_an_input_that_the_layer_itself_refuses_is_the_users_error(tmp_path: Path) -> None:
    with (
        spikescope.watch(nn.Sequential(LIF()), tmp_path / "run", every=1),
        pytest.raises(ValueError, match=r"input of a LIF layer is torch\.int64"),
    ):
        probe_net = nn.Sequential(LIF())
        probe_net(torch.ones(4, 2, 3, dtype=torch.int64))


def test_spikes_of_more_than_their_height_show_as_mismatches(tmp_path: Path) -> None:
    class Double(LIF):
        def forward(self, current: Tensor) -> Tensor:
            return 2.0 * super().forward(current)

    net = seeded(Net)
    net.low.__class__ = Double
    with pytest.warns(spikescope.SpikescopeWarning, match="'low', step 0: .* spikes are not expl"):
        run = one_step(net, tmp_path / "run", inputs(5))
    low = run.table(layer="low")
    assert (low["mismatch"] >= low["spikes"] / 2).all()
    assert run.table(layer="high")["mismatch"].sum() == 0


def test_watch_inside_watch(tmp_path: Path) -> None:
    net = seeded(Net)
    part = nn.Sequential(net.second, net.high)
    for outer, inner in ((net, part), (part, net)):
        path = tmp_path / type(outer).__name__
        with spikescope.watch(outer, path, every=1) as first:
            with (
                pytest.warns(spikescope.SpikescopeWarning) as warned,
                spikescope.watch(inner, tmp_path / "never", every=1) as second,
            ):
                second.step()
            (text,) = said(warned)
            assert "is being watched already, by the run" in text
            assert text.startswith("its layer 'high'" if inner is net else "its layer '1'")
            assert first.active
            loss_of(net(inputs(5))).backward()
            first.step()
        assert spikescope.open_run(path).state == "finished"
    assert not (tmp_path / "never").exists()


def test_two_models_side_by_side(tmp_path: Path) -> None:
    one, two = seeded(Net), seeded(Net)
    with (
        spikescope.watch(one, tmp_path / "one", every=1) as first,
        spikescope.watch(two, tmp_path / "two", every=1) as second,
    ):
        for net, probe, samples in ((one, first, 5), (two, second, 3)):
            loss_of(net(inputs(samples))).backward()
            probe.step()
    for name, samples in (("one", 5), ("two", 3)):
        assert set(spikescope.open_run(tmp_path / name).table()["samples"]) == {samples}


def test_a_wrapper_of_a_watched_model_is_the_same_model(tmp_path: Path) -> None:
    net = seeded(Net)
    with (
        spikescope.watch(net, tmp_path / "run", every=1),
        pytest.warns(spikescope.SpikescopeWarning, match="the model Net is being watched already"),
        spikescope.watch(torch.compile(net, backend="eager"), tmp_path / "two") as second,
    ):
        assert not second.active


def test_a_model_on_the_meta_device(tmp_path: Path) -> None:
    net = Net().to("meta")
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        run = spikescope.watch(net, tmp_path / "run", every=1)
        with run:
            net(torch.ones(4, 5, 6, device="meta"))
            run.step()
    (text,) = said(warned)
    assert text == (
        "'first.weight' is on the meta device and holds no numbers: call "
        "model.to_empty(device=...) and initialise it first; the probe stays off"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_without_shapes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.LazyLinear(3), LIF())
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        probe = spikescope.watch(net, tmp_path / "run", every=1)
        with probe:
            pass
    (text,) = said(warned)
    assert text.startswith("'0.weight' has no shape yet: run one batch through the model first")
    net(torch.ones(4, 2, 5))
    assert len(one_step(net, tmp_path / "run", torch.ones(4, 2, 5)).table()) == 4


def test_data_parallel_is_refused(tmp_path: Path) -> None:
    net = nn.DataParallel(seeded(Net))
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        probe = spikescope.watch(net, tmp_path / "run", every=1)
        with probe:
            loss_of(net(inputs(5))).backward()
            probe.step()
    (text,) = said(warned)
    assert text.startswith("the model runs in DataParallel")
    assert not probe.active
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_probes_that_end_in_any_order_leave_the_compiler_as_it_was(
    first_leaves_first: bool,
) -> None:
    import torch._dynamo  # only then is there a stance

    def stance() -> str:
        return str(torch._dynamo.eval_frame._stance.stance)

    before = stance()
    assert before != "force_eager"
    one, other = modes.eager(), modes.eager()
    one.__enter__()
    other.__enter__()
    assert stance() == "force_eager"
    leaving = (one, other) if first_leaves_first else (other, one)
    leaving[0].__exit__(None, None, None)
    assert stance() == "force_eager"  # the other one still records
    leaving[1].__exit__(None, None, None)
    assert stance() == before


def test_calls_that_a_graph_captures_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is captured runs later and without us: its tensors hold nothing yet.
    capturing = [True]
    for module in (hooks, tap, vitals_norms):
        monkeypatch.setattr(module, "is_captured", lambda tensor: capturing[0])
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), Steps(), nn.Linear(3, 2))
    with (
        pytest.warns(spikescope.SpikescopeWarning, match=r"CUDA graph|no spiking layer") as told,
        spikescope.watch(model, tmp_path / "run", every=1) as probe,
    ):
        for _ in range(2):
            model(torch.ones(5, 4)).sum().backward()
            probe.step()
            capturing[0] = False
        assert probe.active
    assert any("CUDA graph" in str(entry.message) for entry in told)
    run = spikescope.open_run(tmp_path / "run")
    assert set(run.table()["step"]) == {1}
    assert set(run.vitals().query("name == '1'")["step"]) == {1}


class Steps(nn.Module):
    """Shows a layer a sequence of one timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unsqueeze(0)).squeeze(0)
