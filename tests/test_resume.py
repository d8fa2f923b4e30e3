"""A training that was killed goes on from a checkpoint, and its run holds every step once."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import spikescope
from spikescope.data.parts import part_paths
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore
from spikescope.probes import writer
from spikescope.probes.lif import LIF

STEPS, KILLED, CHECKPOINT = 14, 11, 8
"""Steps in all; the one at whose end the process is killed; the last that a checkpoint holds."""


def train(path: Path, checkpoint: Path, killed: int = -1, **settings: Any) -> None:
    """Train from a checkpoint if there is one; write one every fourth step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        first = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    with spikescope.watch(model, path, every=1, **settings) as probe:
        for step in range(first, STEPS):
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            output = model(2.0 * torch.randn(3, 8, 4, generator=generator))
            loss = (output.sum(0) - 1.0).square().mean()
            loss.backward()
            optimizer.step()
            probe.step(loss=loss)
            if (step + 1) % 4 == 0 and step < CHECKPOINT:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"step": probe.steps}, checkpoint)
            if step == killed:
                deadline = time.monotonic() + 20.0
                while writer.PART_ROWS == 1 and time.monotonic() < deadline:
                    if len(part_paths(path, "records")) > killed:
                        break
                os.kill(os.getpid(), signal.SIGKILL)


def kill(path: Path, checkpoint: Path, flushed: bool) -> None:
    """Train in a process that is killed, with everything on disk or with nothing."""
    child = os.fork()
    if child == 0:
        try:
            writer.PART_ROWS, writer.PART_SECONDS = (1, 0.0) if flushed else (10**9, 1e9)
            train(path, checkpoint, killed=KILLED)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert torch.load(checkpoint)["step"] == CHECKPOINT


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder / "run", folder / "checkpoint.pt")
    return open_run(folder / "run")


def assert_is(run: Any, whole: Any, first: int = 0) -> None:
    """Compare what a run holds, bit by bit, with one that was never interrupted."""
    table = whole.table()
    kept = table[table["step"] >= first].reset_index(drop=True)
    assert run.table().equals(kept)
    assert run.scalars()["loss"].to_dict() == whole.scalars()["loss"].loc[first:].to_dict()
    vitals = whole.vitals()
    rows = vitals[vitals["step"] >= first].reset_index(drop=True)
    assert run.vitals().equals(rows)
    density, want = run.density("1"), whole.density("1")
    assert (density.counts == want.counts[want.steps >= first]).all()


def test_a_checkpoint_older_than_the_last_record(undisturbed: Any, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint.pt"
    kill(path, checkpoint, flushed=True)
    assert open_run(path).table()["step"].max() == KILLED
    assert open_run(path).state == "broken off"
    train(path, checkpoint, resume=CHECKPOINT)
    run = open_run(path)
    assert_is(run, undisturbed)
    assert run.header["resumed"] == [CHECKPOINT]
    assert (run.state, run.end["steps"], run.problems) == ("finished", STEPS, [])


def test_a_checkpoint_younger_than_the_last_record(undisturbed: Any, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint.pt"
    kill(path, checkpoint, flushed=False)
    assert open_run(path).table().empty  # the kill took what had not been flushed
    train(path, checkpoint, resume=CHECKPOINT)
    assert_is(open_run(path), undisturbed, first=CHECKPOINT)


def test_without_the_step_a_killed_run_says_at_which_it_goes_on(
    undisturbed: Any, tmp_path: Path
) -> None:
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint.pt"
    kill(path, checkpoint, flushed=True)
    with pytest.warns(spikescope.SpikescopeWarning, match=f"goes on at step {KILLED + 1}") as said:
        train(path, checkpoint, resume=True)
    assert [str(entry.message).count("give resume=") for entry in said] == [1]
    # The control: counted on, the steps behind the checkpoint are there twice.
    with pytest.raises(AssertionError):
        assert_is(open_run(path), undisturbed)


def test_the_steps_of_a_training_are_counted_whether_recorded_or_not(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with pytest.warns(spikescope.SpikescopeWarning, match="no spiking layer"):
        probe = spikescope.watch(model, tmp_path / "run", every=1, resume=8)
        with probe:
            model(torch.zeros(1, 4))
            probe.step()
            probe.step()
    assert not probe.active
    assert probe.steps == 10


def test_a_run_that_ended_by_itself_goes_on_without_a_word(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint.pt"
    train(path, checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(path, checkpoint, resume=True)
    assert open_run(path).header["resumed"] == [STEPS]


def test_a_torn_part_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint.pt"
    kill(path, checkpoint, flushed=True)
    torn = part_paths(path, "records")[-1]
    os.truncate(torn, torn.stat().st_size // 2)
    before = torn.read_bytes()
    train(path, checkpoint, resume=CHECKPOINT)
    run = open_run(path)
    assert sorted(set(run.table()["step"])) == list(range(STEPS))
    assert [torn.name in problem for problem in run.problems] == [True]
    assert torn.read_bytes() == before  # evidence stays
    assert part_paths(path, "records")[-1] != torn


def test_a_run_is_taken_over_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunStore(path, {}).end("failed")
    for number in range(5):
        child = os.fork()
        if child == 0:
            try:
                store = RunStore(path, {}, resume=True)
                columns = {"step": [number], "name": ["loss"], "value": [1.0]}
                store.append("scalars", columns)
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), number
    assert open_run(path).scalars().index.tolist() == list(range(5))
    assert open_run(path).header["resumed"] == list(range(5))
