"""Every way of running a training is recorded as plain torch has it, and is not disturbed."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spikescope
import torch
from modes_network import LAYERS, TIMESTEPS, Inside, Net, assert_recorded, loss_of
from reference_network import seeded
from spikescope.probes import hooks, modes
from spikescope.probes.adapters import SpikescopeAdapter
from spikescope.probes.lif import LIF, reset_state
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def inputs(samples: int, seed: int = 7) -> Tensor:
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
        assert probe._writer is None  # it was not switched off by an error
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
