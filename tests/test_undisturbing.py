"""Observing changes nothing: not a bit of the training, not a hook afterwards, no exception."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_network import seeded
from torch import nn

import spikescope
from spikescope.probes import accumulators_cpu, layer_sums, outlet, session
from spikescope.probes.lif import LIF
from spikescope.probes.models.networks import digits_net


def build() -> nn.Module:
    return seeded(lambda: digits_net(timesteps=3, channels=4))


def train(
    model: nn.Module, steps: int, path: Path | None, every: Any = 1, dropout: bool = True
) -> dict[str, Any]:
    """Train and return everything that recording could have disturbed."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, targets = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    losses = []

    def one_step() -> torch.Tensor:
        optimizer.zero_grad()
        inputs = nn.functional.dropout(images, 0.2) if dropout else images
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        return loss

    if path is None:
        for _ in range(steps):
            one_step()
    else:
        with spikescope.watch(model, path, every=every) as probe:
            for _ in range(steps):
                probe.step(loss=one_step())
    return {
        "losses": losses,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [parameter.grad.clone() for parameter in model.parameters()],
        "moments": [state["exp_avg_sq"] for state in optimizer.state.values()],
        "random": torch.get_rng_state(),
    }


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return bool(one == other)


def count_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("every", [1, 3, lambda step: step in (2, 5)], ids=["1", "3", "callable"])
def test_training_is_bit_identical(every: Any, tmp_path: Path) -> None:
    plain = train(build(), 20, None)
    watched = train(build(), 20, tmp_path / "run", every)
    assert same_bits(plain, watched)
    assert len(spikescope.open_run(tmp_path / "run").table()) > 0


def test_the_comparison_sees_a_single_changed_bit(tmp_path: Path) -> None:
    plain, other = train(build(), 3, None), train(build(), 3, None)
    weights = other["weights"]["block1.conv.weight"]
    weights.view(-1)[0] = torch.nextafter(weights.view(-1)[0], torch.tensor(9.0))
    assert not same_bits(plain, other)
    assert not same_bits(plain, train(build(), 3, None, dropout=False))


def test_no_hook_stays(tmp_path: Path) -> None:
    model = build()
    with spikescope.watch(model, tmp_path / "run", every=2) as probe:
        assert count_hooks(model) >= 2 * 6  # step 0 is on the schedule
        model(torch.rand(2, 1, 8, 8)).sum().backward()
        probe.step()
        assert count_hooks(model) == 0  # step 1 is not
        probe.step()
        assert count_hooks(model) >= 2 * 6
    assert count_hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_exception_of_the_user_passes_and_leaves_no_hook(
    error: BaseException, tmp_path: Path
) -> None:
    model = build()
    with (
        pytest.raises(type(error)),
        spikescope.watch(model, tmp_path / "run", every=1) as probe,
    ):
        model(torch.rand(2, 1, 8, 8)).sum().backward()
        probe.step(loss=1.0)
        raise error
    assert count_hooks(model) == 0
    run = spikescope.open_run(tmp_path / "run")
    assert run.state == "broken off"
    assert type(error).__name__ in run.end["error"]
    assert len(run.table()) == 6 * 6 / 2
    assert run.scalars()["loss"].tolist() == [1.0]


FAULTS: dict[str, tuple[Any, str]] = {
    "replay": (accumulators_cpu.Update, "charge"),
    "forward statistics": (layer_sums.accumulators, "forward_pass"),
    "gradient identities": (layer_sums.capture, "gradients"),
    "backward statistics": (layer_sums.accumulators, "backward_block"),
    "header": (session, "header"),
    "layer search": (session, "find_layers"),
    "store": (outlet, "RunStore"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_of_ours_never_ends_the_training(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(build(), 5, None)
    model = build()
    where, name = FAULTS[fault]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError(f"planted in {name}")

    monkeypatch.setattr(where, name, fail)
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped") as warned:
        watched = train(model, 5, tmp_path / "run")
    assert same_bits(plain, watched)
    assert len(warned) == 1  # once, not at every step
    assert f"planted in {name}" in str(warned[0].message)
    assert count_hooks(model) == 0


def test_a_failing_disk_switches_the_probe_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(build(), 5, None)
    model = build()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outlet.RunStore, "append", full)
    with pytest.warns(spikescope.SpikescopeWarning, match="No space left on device"):
        watched = train(model, 5, tmp_path / "run")
    assert same_bits(plain, watched)
    assert count_hooks(model) == 0
    assert spikescope.open_run(tmp_path / "run").state == "broken off"


def test_nothing_keeps_the_model_alive(tmp_path: Path) -> None:
    model = build()
    train(model, 2, tmp_path / "run")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert not [thread for thread in threading.enumerate() if "spikescope" in thread.name]


@pytest.mark.parametrize("ends", ["finished", "failed", "an error of ours"])
def test_no_cycle_keeps_the_model_alive(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("planted")

    def observed(model: nn.Module) -> Any:
        settings = {"collect": "full", "on_findings": lambda found: None}
        with spikescope.watch(model, tmp_path / "run", every=1, **settings) as probe:
            for _ in range(2):
                model(torch.rand(2, 1, 8, 8)).sum().backward()
                probe.step()
            if ends == "an error of ours":
                monkeypatch.setattr(session, "known_layers", fail)
                model(torch.rand(2, 1, 8, 8)).sum().backward()
                probe.step()
            elif ends == "failed":
                raise KeyboardInterrupt
        return probe

    gc.collect()
    gc.disable()  # by reference counting alone
    try:
        model, probe = build(), None
        if ends == "failed":
            with pytest.raises(KeyboardInterrupt):
                observed(model)
        elif ends == "finished":
            probe = observed(model)
        else:
            with pytest.warns(spikescope.SpikescopeWarning, match="planted"):
                probe = observed(model)
        gone = weakref.ref(model)
        del model
        assert gone() is None
        assert probe is None or not probe.active  # it is still there, and holds no model
    finally:
        gc.enable()


def test_the_graph_of_a_step_is_not_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), LIF())
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        output = model(torch.ones(2, 5, 3))
        loss = output.sum()
        loss.backward()
        probe.step(loss=loss)
        gone = weakref.ref(output)
        del output, loss
        assert gone() is None  # by reference counting alone: no cycle of ours
