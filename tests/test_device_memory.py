"""What a recorded step takes on the device is stated, true, constant, and gone after it."""

from __future__ import annotations

import gc
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spikescope
from spikescope.probes import writer
from spikescope.probes.lif import LIF

T, N = 5, 6


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 40), LIF(), nn.Linear(40, 30), LIF())


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Keep what earlier tests have left out of sight: it may go at any time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def storages() -> dict[int, int]:
    """Return the bytes of all storages that tensors hold, by address."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old names that are asked what they are
        alive = [entry for entry in gc.get_objects() if isinstance(entry, Tensor)]
    found = (entry.untyped_storage() for entry in alive)
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def drain(probe: Any) -> None:
    """Wait until the writer has written what it was given."""
    thread = probe._session.outlet._writer
    deadline = time.monotonic() + 20
    while thread.waiting or thread._waiting.due():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)


def in_file(run: Path) -> dict[str, dict[str, int]]:
    """Return what a run says of the memory of each layer."""
    layers = json.loads((run / "layers.json").read_text())["layers"]
    return {layer["name"]: layer["memory"] for layer in layers}


@pytest.mark.parametrize("collect", ["economy", "standard", "full"])
def test_the_stated_bytes_are_those_that_are_alive(
    collect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 1)  # nothing waits to become part of a file
    model = net()
    inputs = torch.randn(T, N, 7)
    kept: list[Any] = []
    for layer in model:
        layer.register_forward_hook(lambda m, x, y: kept.append((x[0], y)))

    def between(probe: Any) -> int:
        """Return the bytes that are alive between the passes of a step."""
        kept.clear()
        loss = model(inputs).square().sum()
        alive = sum(storages().values())
        loss.backward()
        model.zero_grad(set_to_none=True)
        probe.step()
        drain(probe)
        return alive

    with spikescope.watch(model, tmp_path / "run", lambda k: k >= 2, collect=collect) as probe:
        plain = [between(probe) for _ in range(2)][-1]
        extra, stated = [], []
        for _ in range(4):
            extra.append(between(probe) - plain)
            stated.append(probe.memory)
    first = stated[0]
    assert first.keys() == {"1", "3", ""}
    assert stated == 4 * [first]  # constant over steps
    for name, width in {"1": 40, "3": 30}.items():
        waits = 0 if collect == "economy" else T * N * width * 4
        assert first[name]["potentials"] == waits
        # 8 bytes for each stored number of each timestep, and the histogram where there is one.
        bins = 0 if collect == "economy" else 256 * 8
        assert first[name]["statistics"] >= T * (20 * 8 + bins)
    # All parameters are smaller than the sample of one.
    assert first[""]["parameters"] == sum(p.nbytes for p in model.parameters())
    sums = {what: sum(e.get(what, 0) for e in first.values()) for what in ("potentials",)}
    sums |= {"statistics": sum(entry.get("statistics", 0) for entry in first.values())}
    waits = sums["potentials"] + first[""]["parameters"]
    # The first recorded step: nothing is with the writer yet. Of the statistics those of the
    # forward pass are there, and beside them some states of a timestep.
    states = 4 * N * (40 + 30) * 4
    assert waits < extra[0] <= waits + sums["statistics"] + states
    if collect == "standard":
        assert extra[0] > waits + 2 * T * 256 * 8
    # Later ones: on a CPU the writer holds the statistics of the step before, too.
    for size in extra[1:]:
        assert extra[0] <= size <= extra[0] + sums["statistics"] + 512
    assert in_file(tmp_path / "run") == {name: first[name] for name in ("1", "3")}


def test_nothing_is_left_after_a_recorded_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 1)
    model = net()
    inputs = torch.randn(T, N, 7)
    alive = []
    with spikescope.watch(model, tmp_path / "run", lambda k: k > 0, collect="full") as probe:
        for _ in range(10):
            model(inputs).square().sum().backward()
            model.zero_grad(set_to_none=True)
            probe.step()
            drain(probe)
            alive.append(sum(storages().values()))
        stated = [sum(sizes.values()) for sizes in probe.memory.values()]
    # All but the batch that the writer's thread has in its hands, and the samples of the
    # parameters, which the coming step needs.
    assert sum(stated) > 300_000
    assert max(alive) - alive[0] <= sum(stated) + 512
    assert len(set(alive[2:])) == 1


def test_a_smaller_last_batch_does_not_lower_what_is_stated(tmp_path: Path) -> None:
    model = net()
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        for samples in (N, 2, N):
            model(torch.randn(T, samples, 7)).sum().backward()
            probe.step()
            assert probe.memory["1"]["potentials"] == T * N * 40 * 4
        model(torch.randn(T, 2 * N, 7)).sum().backward()
        probe.step()
        assert probe.memory["1"]["potentials"] == T * 2 * N * 40 * 4
    assert in_file(tmp_path / "run")["1"]["potentials"] == T * 2 * N * 40 * 4


def test_a_graph_that_outlives_its_step_keeps_nothing_of_ours(tmp_path: Path) -> None:
    model = net()
    samples = 200
    inputs = torch.randn(T, samples, 7)
    kept, alive = [], []
    with spikescope.watch(model, tmp_path / "run", lambda k: k in (1, 3)) as probe:
        for _ in range(4):
            loss = model(inputs).square().sum()
            loss.backward()
            model.zero_grad(set_to_none=True)
            probe.step(loss=loss)
            kept.append(loss)  # with its graph, as a list of losses keeps it
            drain(probe)
            alive.append(sum(storages().values()))
    stated = sum(sizes["potentials"] for sizes in in_file(tmp_path / "run").values())
    one = T * samples * 30 * 4  # the least of what a layer's hooks had in their hands
    assert stated > one
    assert max(alive) - alive[0] < one
