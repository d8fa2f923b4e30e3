"""The contract of remedies in the loop, one table over all of them."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from loop_cases import (
    CASES,
    Net,
    attach,
    batches,
    build,
    copied,
    differing,
    evaluate,
    loss_of,
    optimiser,
    train,
)

import spikescope
from spikescope.probes.capture import membrane
from spikescope.probes.lif import LIF
from spikescope.probes.remedies import LOOP_REMEDIES, LoopRemedy, attach_remedy

INITS = ("fluctuation_init", "stability_init")


def test_the_table_covers_every_remedy() -> None:
    assert set(CASES) == set(LOOP_REMEDIES)


def watched(net: Net, remedy: LoopRemedy | None, path: Path) -> tuple[pd.DataFrame, list[Any]]:
    """Train three recorded steps; return the record, and the starts after each step."""
    starts = []
    with spikescope.watch(net, path, every=1) as probe:

        def end(step: int, loss: torch.Tensor) -> None:
            probe.step(loss=loss)
            starts.append((net.low.start.item(), net.high.start.item()))

        train(net, remedy, batches(3, double=False), optimiser(net), after=end)
    return spikescope.open_run(path).table(), starts


@functools.cache
def unremedied(norm: bool) -> pd.DataFrame:
    """Return the record of the lower layer of the same training without any remedy."""
    with tempfile.TemporaryDirectory() as folder:
        net = build("agl" if norm else "trsg", double=False)
        return watched(net, None, Path(folder) / "run")[0].query("layer == 'low'")


STEPWISE = ("mp_init", "trsg", "agl", "atgo", "sparsity")


@pytest.mark.parametrize(
    ("name", "mode"), [(name, "multi") for name in CASES] + [(name, "single") for name in STEPWISE]
)
def test_the_probe_follows_what_a_remedy_changes(name: str, mode: str, tmp_path: Path) -> None:
    net = build(name, double=False, step_mode=mode)
    remedy = attach(name, net)
    before = copied(net.state_dict())
    table, starts = watched(net, remedy, tmp_path / "run")
    assert set(CASES[name].state) <= set(differing(before, net.state_dict()))
    assert set(table["t"]) == {1, 2, 3, 4}
    assert set(table["layer"]) == {"low", "high"}
    assert table["mismatch"].sum() == 0
    assert table["near_mismatch"].sum() == 0
    assert (table["residual_count"] > 0).all()
    # dL/du explained by the surrogate in force: what is left is rounding of float32.
    assert (table["residual_square"] <= 1e-10 * table["grad_u_square"]).all()
    assert table["grad_u_square"].max() > 0
    if name.startswith("mp_init"):
        # u[1] = decay start + gain I[1]: the last step began where the step before it had ended.
        shown = table.query(f"step == {table['step'].max()} and t == 1").set_index("layer")
        for layer, start in zip(("low", "high"), starts[-2], strict=True):
            row, spec = shown.loc[layer], getattr(net, layer).spec
            used = (row["u_mean"] - spec.gain * row["input_mean"]) / spec.decay
            assert used == pytest.approx(start, abs=1e-6)
        assert max(abs(start) for start in starts[-2]) > 0.01
    if mode == "multi":
        check_what_moved(name, net, remedy, table.query("layer == 'low'"))


def check_what_moved(name: str, net: Net, remedy: LoopRemedy, table: pd.DataFrame) -> None:
    plain = unremedied(CASES[name].norm)
    moved = {
        field: not np.array_equal(plain[field], table[field])
        for field in ("threshold", "u_mean", "surrogate_mean", "open")
    }
    shown = table.query(f"step == {table['step'].max()}")
    report = remedy.report()[0]
    if name.startswith("mp_init"):
        assert moved["u_mean"]
        assert not moved["threshold"]
    elif name in ("as_sg", "rs_sg", "trsg"):
        assert moved["threshold"]
        assert shown["threshold"].nunique() == 1
        assert shown["threshold"].iloc[0] == pytest.approx(report["threshold"], abs=0.1)
    elif name in ("atgo", "atgo_paper", "atgo_threshold"):
        assert shown["threshold"].nunique() == 4
        assert shown["threshold"].tolist() == pytest.approx(report["thresholds"], rel=1e-6)
    elif name in ("agl", "agl_rms", "agl_true_std", "atgo_width"):
        assert moved["surrogate_mean"]
        assert not moved["threshold"]
        # A rectangle of unit area: mean slope = share inside the window / width.
        widths = shown["open"] / shown["count"] / shown["surrogate_mean"]
        assert widths.tolist() == pytest.approx(report["widths"], rel=1e-5)
    elif name in INITS:
        assert moved["u_mean"]


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_training_is_bit_for_bit_the_same(name: str) -> None:
    inputs = batches(5)
    whole = build(name)
    remedy = attach(name, whole)
    optimizer = optimiser(whole)
    train(whole, remedy, inputs[:2], optimizer)
    file = io.BytesIO()
    torch.save((whole.state_dict(), remedy.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    model_state, remedy_state, optimizer_state = torch.load(file)
    losses = train(whole, remedy, inputs[2:], optimizer)

    resumed = build(name, seed=7)
    second = attach(name, resumed)
    again = optimiser(resumed)
    resumed.load_state_dict(model_state)
    second.load_state_dict(remedy_state)
    again.load_state_dict(optimizer_state)
    assert train(resumed, second, inputs[2:], again) == losses
    assert differing(whole.state_dict(), resumed.state_dict()) == []
    # The control: without the saved state it is another training.
    fresh = build(name, seed=7)
    third = attach(name, fresh)
    assert train(fresh, third, inputs[2:], optimiser(fresh)) != losses


@pytest.mark.parametrize("name", CASES)
def test_evaluation_feeds_nothing(name: str) -> None:
    net = build(name)
    remedy = attach(name, net)
    optimizer = optimiser(net)
    train(net, remedy, batches(2), optimizer)
    before, own = copied(net.state_dict()), remedy.state_dict()
    first = evaluate(net, batches(1, seed=5)[0])
    second = evaluate(net, batches(1, seed=5)[0])
    evaluate(net, 10.0 * batches(1, seed=6)[0])
    assert torch.equal(first, second)
    assert remedy.penalty() is None
    if name != "sparsity":  # which counts steps
        remedy.after_step()
    assert differing(before, net.state_dict()) == []
    assert remedy.state_dict() == own
    # The control: the same batch in train mode does feed.
    net(10.0 * batches(1, seed=6)[0])
    remedy.after_step()
    if name.startswith(("mp_init", "atgo")) and name != "atgo_width":
        assert set(CASES[name].state) <= set(differing(before, net.state_dict()))


@pytest.mark.parametrize("name", CASES)
def test_evaluation_uses_what_training_left(name: str) -> None:
    net = build(name)
    remedy = attach(name, net)
    train(net, remedy, batches(3), optimiser(net))
    saved = copied(net.state_dict())
    other = build(name, seed=9)
    attach(name, other)
    x = batches(1, seed=5)[0]
    assert not torch.equal(evaluate(net, x), evaluate(other, x))
    other.load_state_dict(saved)
    assert torch.equal(evaluate(net, x), evaluate(other, x))


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_the_state_stays_float32(name: str, tmp_path: Path) -> None:
    net = build(name, double=False)
    remedy = attach(name, net)
    before = copied(net.state_dict())

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(x)

    dtypes: list[torch.dtype] = []
    handle = net.low.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        train(
            net,
            remedy,
            batches(2, double=False),
            optimiser(net),
            forward=lambda x: forward(x).float(),
            after=lambda step, loss: probe.step(loss=loss),
        )
    handle.remove()
    assert set(dtypes) == {torch.bfloat16}  # or nothing was tried
    after = net.state_dict()
    assert set(CASES[name].state) <= set(differing(before, after))
    for tensor in after.values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.isfinite(tensor).all()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table["mismatch"].sum() == 0
    assert table["spikes"].sum() > 0


@pytest.mark.parametrize("name", ["as_sg", "trsg", "atgo", "atgo_threshold"])
def test_replay_is_exact_in_half_precision(name: str) -> None:
    """A hundred thousand units in bfloat16, where a threshold rounded twice would be seen."""
    layer = LIF(decay=0.9, threshold=0.7)
    attach_remedy(name, torch.nn.Sequential(layer), **CASES[name].settings)
    generator = torch.Generator().manual_seed(2)
    current = torch.randn(4, 200, 500, generator=generator).bfloat16()
    with torch.no_grad():
        spikes = layer(current)
    spec, _ = layer.rule.in_force(layer)
    emitted = spikes / spec.spike_height
    assert set(emitted.unique().tolist()) == {0.0, 1.0}
    u, implied = membrane(spec, current, emitted, layer.carried(current[0]))
    assert u.dtype == torch.bfloat16
    assert torch.equal(implied, emitted)


@pytest.mark.parametrize("name", CASES)
def test_removed_it_leaves_the_model_as_it_was(name: str) -> None:
    net, untouched = build(name), build(name)
    text, keys = str(net), list(net.state_dict())
    x = batches(1, seed=3)[0]
    remedy = attach(name, net)
    if name in INITS:
        changed = not torch.equal(evaluate(net, x), evaluate(untouched, x))
    else:
        if not CASES[name].norm:  # whose statistics would differ, rightly
            net(x)
        remedy.penalty()
        remedy.after_step()
        changed = str(net) != text or list(net.state_dict()) != keys or name.startswith("mp_init")
        changed = changed or name in ("sparsity", "count_bound")
    assert changed
    remedy.remove()
    remedy.remove()
    assert str(net) == text
    assert list(net.state_dict()) == keys
    assert differing(net.state_dict(), untouched.state_dict()) == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    inputs = batches(2, seed=4)
    assert train(net, None, inputs, optimiser(net)) == train(
        untouched, None, inputs, optimiser(untouched)
    )
    assert differing(net.state_dict(), untouched.state_dict()) == []
    attach(name, net).remove()  # and may come again


@pytest.mark.parametrize("name", CASES)
def test_a_copy_is_a_model_of_its_own(name: str) -> None:
    net = build(name)
    remedy = attach(name, net)
    optimizer = optimiser(net)
    train(net, remedy, batches(1), optimizer)
    twin = copy.deepcopy(net)
    x = batches(1, seed=3)[0]
    assert torch.equal(evaluate(twin, x), evaluate(net, x))
    loaded = pickle.loads(pickle.dumps(net))
    assert torch.equal(evaluate(loaded, x), evaluate(net, x))
    before = copied(net.state_dict())
    twin(7.0 * x)
    loss_of(twin(x)).backward()
    remedy.after_step()
    assert differing(before, net.state_dict()) == []


@pytest.mark.parametrize("name", [name for name in CASES if name not in INITS])
def test_a_second_remedy_for_the_same_field_is_refused(name: str) -> None:
    net = build(name)
    first = attach(name, net)
    before = copied(net.state_dict())
    with pytest.raises(ValueError, match=r"already has remedy .*: call remove"):
        attach(name, net)
    assert differing(before, net.state_dict()) == []
    first.remove()
    attach(name, net)


def test_mp_init_goes_with_a_rule() -> None:
    """The paper trains with both: the start is that of the learned layer."""
    net = build("trsg")
    both = [attach("trsg", net), attach("mp_init", net)]
    optimizer = optimiser(net)
    for x in batches(3):
        optimizer.zero_grad()
        loss_of(net(x)).backward()
        optimizer.step()
        for one in both:
            one.after_step()
    assert net.low.start.item() != 0.0
    for one in both:
        one.remove()
    assert net.low.start.item() == 0.0


@pytest.mark.parametrize("name", ["mp_init", "atgo"])
def test_a_forgotten_after_step_is_told(name: str) -> None:
    net = build(name)
    remedy = attach(name, net)
    x = batches(1)[0]
    net(x)
    with pytest.warns(spikescope.SpikescopeWarning, match="after_step"):
        evaluate(net, x)
    remedy.after_step()
    evaluate(net, x)  # no warning now


@pytest.mark.parametrize("name", ["sparsity", "count_bound"])
def test_a_penalty_that_nobody_adds_is_told(name: str) -> None:
    net = build(name)
    remedy = attach_remedy(name, net, **(CASES[name].settings | (
        {"schedule": "step", "epochs": 1} if name == "sparsity" else {}
    )))  # fmt: skip
    if name == "sparsity":
        remedy.load_state_dict({"step": 1})
    net(batches(1)[0])
    with pytest.warns(spikescope.SpikescopeWarning, match="no effect"):
        remedy.after_step()


def test_attached_in_evaluation_it_feeds_nothing() -> None:
    net = build("atgo").eval()
    remedy = attach("atgo", net)
    before = copied(net.state_dict())
    net(batches(1)[0])
    remedy.after_step()
    assert differing(before, net.state_dict()) == []
    net.train()(batches(1)[0])
    remedy.after_step()
    assert set(CASES["atgo"].state) <= set(differing(before, net.state_dict()))
