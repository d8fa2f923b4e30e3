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
from torch import nn

import spikescope
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


BAD = {
    "unknown remedy": ("trgs", {}, "remedy='trgs' is not one of mp_init"),
    "unknown setting": ("trsg", {"shape": 1}, "no setting 'shape': it has form|no setting 'shape'"),
    "missing settings": ("sparsity", {"epochs": 3}, "needs final_rate, steps_per_epoch"),
    "no timesteps": ("atgo", {}, "give timesteps=T"),
    "timesteps 0": ("atgo", {"timesteps": 0}, "timesteps=0 is not possible"),
    "timesteps True": ("atgo", {"timesteps": True}, "timesteps=True is not possible"),
    "momentum": ("atgo", {"timesteps": 2, "momentum": 1.5}, "momentum=1.5 is not possible"),
    "momentum NaN": ("atgo", {"timesteps": 2, "momentum": float("nan")}, "momentum=nan"),
    "k0": ("atgo_width", {"k0": -1.0}, "k0=-1.0 is not possible: it must be above 0"),
    "driver": ("atgo", {"timesteps": 2, "follows": "mean"}, "follows='mean' is not one of"),
    "form": ("mp_init", {"form": "x"}, "form='x' is not one of 'released', 'paper'"),
    "over": ("mp_init", {"over": "x"}, "over='x' is not one of"),
    "threshold": ("trsg", {"threshold": -0.5}, "threshold=-0.5 of layer 'low' cannot be learned"),
    "surrogate": ("trsg", {"surrogate": "arctan"}, "surrogate='arctan' is not possible"),
    "rate": ("sparsity", {"final_rate": 2, "epochs": 1, "steps_per_epoch": 1}, "final_rate=2"),
    "schedule": (
        "sparsity",
        {"final_rate": 0.1, "epochs": 1, "steps_per_epoch": 1, "schedule": "cosine"},
        "schedule='cosine' is not one of",
    ),
    "bound": ("count_bound", {"bound": -2.0}, "bound=-2.0 is not possible"),
    "unknown layer": ("trsg", {"layers": ["mid"]}, "'mid' cannot take remedy.*'low', 'high'"),
    "layers as text": ("trsg", {"layers": "low"}, "layers='low' is not possible"),
    "no norm": ("agl", {}, "layer 'low': none of BatchNorm1d.* stands before it"),
    "xi": ("fluctuation_init", {"rate": 0.2, "xi": -1.0}, "layer 'low': xi=-1.0"),
    "rates": ("fluctuation_init", {"rate": {"low": 0.2}}, "rate for 'low' does not fit"),
    "rate 0": ("fluctuation_init", {"rate": 0.0}, "rate=0.0 is not possible"),
    "mean": ("fluctuation_init", {"rate": 0.01, "mean": 0.39}, "leaves no spread"),
    "target": ("stability_init", {"target_rate": 1.0}, "target_rate=1.0 is not possible"),
    "no recurrent": ("stability_init", {"published": True}, "say which with recurrent="),
    "recurrent": (
        "stability_init", {"recurrent": {"low": "second"}}, "is not recurrent: it must be a square"
    ),
    "weights": ("fluctuation_init", {"rate": 0.1, "weights": {"low": "low"}}, "give a spiking"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_in_one_line(case: str) -> None:
    name, settings, message = BAD[case]
    net = build("trsg")
    before, text = copied(net.state_dict()), str(net)
    with pytest.raises(ValueError, match=message) as caught:
        attach_remedy(name, net, **settings)
    assert "\n" not in str(caught.value)
    assert differing(before, net.state_dict()) == []
    assert str(net) == text
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", CASES)
def test_a_model_without_spiking_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no layer of the model can take remedy '{name}'"):
        attach(name, nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="is not a torch module"):
        attach(name, "model")


def test_what_the_parts_of_a_model_do_not_allow_is_refused() -> None:
    def message(name: str, model: nn.Module, **settings: object) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            attach_remedy(name, model, **settings)
        return str(caught.value)

    dense = nn.Sequential(nn.Linear(2, 2, bias=False), LIF())
    assert "'0' has no bias" in message("stability_init", dense)
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), LIF())
    assert "'1' normalises" in message("fluctuation_init", normed, rate=0.1)
    two = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2), LIF())
    assert "'1', '2' all stand before it; say which with norms=" in message("agl", two)
    plain = nn.Sequential(nn.BatchNorm1d(2, affine=False), LIF())
    assert "has no gamma to read" in message("agl", plain)
    forgetful = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), LIF())
    assert "keeps no running statistics" in message("agl", forgetful)
    negative = nn.Sequential(nn.BatchNorm1d(2), LIF())
    with torch.no_grad():
        negative[0].weight.fill_(-1.0)
    assert "gbar=-1.0 of 1 gives no window" in message("agl", negative)
    assert "decay=0.0 of layer '0' cannot be learned" in message(
        "trsg", nn.Sequential(LIF(decay=0.0))
    )
    assert "decay" not in str(
        attach_remedy("trsg", nn.Sequential(LIF(decay=0.0)), learn_decay=False)
    )
    silent = nn.Sequential(LIF(threshold=float("inf"), reset="none"))
    assert "threshold=inf" in message("trsg", silent)
    assert "threshold=inf" in message("atgo", silent, timesteps=2)
    units = nn.Sequential(LIF())
    units[0].start = torch.zeros(3)
    assert "a start potential per unit, of shape (3,)" in message("mp_init", units)


def test_more_timesteps_than_trained_are_refused() -> None:
    net = build("atgo")
    attach_remedy("atgo", net, timesteps=3)
    with pytest.raises(ValueError, match=r"layer 'low' is at timestep 4.*timesteps=3"):
        net(batches(1)[0])
