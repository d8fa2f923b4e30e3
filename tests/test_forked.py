"""A process that the training forks off leaves the run alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import spikescope
from spikescope.data.remote import Spool
from spikescope.probes import session
from spikescope.probes.lif import LIF

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # Newer Pythons warn of a fork beside threads; that is what is being tried.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_child(act: Callable[[], object]) -> int:
    """Return what a forked process ends with: 0 if it did what was asked."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def one_step(model: nn.Module, probe: spikescope.Probe) -> None:
    model(torch.ones(3, 2, 4)).sum().backward()
    probe.step(loss=1.0)


def train(path: Path) -> tuple[int, list[str], spikescope.Run]:
    """Fork in the middle of a recorded step; return how the child ended and what it left."""
    model = nn.Sequential(nn.Linear(4, 5), LIF(), nn.Linear(5, 2))

    def leave() -> None:
        one_step(model, probe)
        probe.log(accuracy=0.5)
        probe.__exit__(None, None, None)
        assert not model[1]._forward_hooks

    with spikescope.watch(model, path, every=1) as probe:
        one_step(model, probe)
        loss = model(torch.ones(3, 2, 4)).sum()
        code = in_child(leave)
        left = sorted(file.name for file in path.iterdir() if file.suffix != ".parquet")
        loss.backward()
        probe.step(loss=1.0)
        one_step(model, probe)
    return code, left, spikescope.open_run(path)


def test_a_forked_process_does_not_end_the_run(tmp_path: Path) -> None:
    code, left, run = train(tmp_path / "run")
    assert code == 0
    assert "end.json" not in left
    assert run.state == "finished"
    assert run.table(["count"])["count"].tolist() == [10] * 9
    assert run.scalars().columns.tolist() == ["loss"]


def test_it_would_if_it_were_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "let_go_when_forked", lambda entry: None)
    _, left, _ = train(tmp_path / "run")
    assert "end.json" in left


def test_a_forked_process_does_not_remove_what_is_to_be_sent() -> None:
    held = [Spool("memory://forked/run", fetch=False)]
    space = held[0].path.parent
    assert in_child(held.clear) == 0
    assert space.is_dir()
    held.clear()  # the process that made it does
    assert not space.exists()
