"""The disk fails in the middle of a training: full, read-only, gone. The training does not notice.

Nothing here depends on permissions, which do not bind an administrator.
"""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import stat
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_undisturbing import count_hooks, same_bits
from torch import nn

import spikescope
from spikescope.data import parts
from spikescope.data.parts import part_paths
from spikescope.data.runs import open_run
from spikescope.probes import writer
from spikescope.probes.lif import LIF

STEPS, FAILS = 8, 4
"""Steps, and the first that finds the disk as it should not be."""

Disaster = Callable[[Path], None]


def train(path: Path | None, disaster: Disaster | None = None) -> tuple[nn.Module, Any]:
    """Train; before the step that fails everything is on disk, and then the disaster comes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), LIF(), nn.Dropout(0.1), nn.Linear(6, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []

    def one_step(step: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(3, 5, 4)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        return loss

    if path is None:
        for step in range(STEPS):
            one_step(step)
    else:
        with spikescope.watch(model, path, every=1) as probe:
            for step in range(STEPS):
                if step == FAILS and disaster is not None:
                    wait_for(path)
                    disaster(path)
                probe.step(loss=one_step(step))
            assert disaster is None or settled(probe)
    return model, [losses, model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]


def settled(probe: Any) -> bool:
    """Return whether the writer has had the time to find out; it learns at a step of its own."""
    deadline = time.monotonic() + 20.0
    while probe.active and time.monotonic() < deadline:
        time.sleep(0.01)
        probe.step()
    return not probe.active


def wait_for(path: Path) -> None:
    """Wait until what was recorded is on disk."""
    deadline = time.monotonic() + 20.0
    while len(part_paths(path, "vitals")) < FAILS:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each step as it comes."""
    monkeypatch.setattr(writer, "PART_ROWS", 1)


@pytest.fixture(scope="module")
def plain() -> Any:
    return train(None)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(path)
    return open_run(path).table()


def said(warned: list[warnings.WarningMessage]) -> list[str]:
    """Return what the probe said, but for the empty steps of those who wait."""
    all_said = [str(w.message) for w in warned if w.category is spikescope.SpikescopeWarning]
    return [text for text in all_said if "no spiking layer was called" not in text]


def assert_readable(path: Path, whole: Any) -> None:
    """Compare what is left with the same steps of a run without a disaster."""
    run = open_run(path)
    table = run.table()
    last = table["step"].max()
    assert last >= FAILS - 1
    assert table.equals(whole[whole["step"] <= last])
    assert run.scalars()["loss"].index.tolist()[:FAILS] == list(range(FAILS))
    assert run.problems == []
    moved_away = path.name == "aside"
    assert moved_away or not list(path.glob(".*"))  # nothing half written


def refuse(code: int, fail: str, monkeypatch: pytest.MonkeyPatch) -> Disaster:
    """Return a disaster after which the system refuses to open, or to flush, files of a run."""

    def disaster(path: Path) -> None:
        real_open, real_sync = Path.open, os.fsync

        def opened(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
            if fail == "open" and "w" in mode and self.is_relative_to(path):
                raise OSError(code, os.strerror(code), str(self))
            return real_open(self, mode, *args, **more)

        def synced(handle: int) -> None:
            if fail == "fsync":
                os.ftruncate(handle, 40)  # some of it arrived
                raise OSError(code, os.strerror(code))
            real_sync(handle)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(parts.os, "fsync", synced)

    return disaster


REFUSALS = {
    "read-only": (errno.EROFS, "open", "Read-only file system"),
    "full": (errno.ENOSPC, "fsync", "No space left on device"),
    "quota": (errno.EDQUOT, "open", "quota exceeded"),
    "broken": (errno.EIO, "fsync", "Input/output error"),
    "stale": (errno.ESTALE, "open", "Stale file handle"),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_disk_that_refuses(
    kind: str, plain: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, fail, text = REFUSALS[kind]
    path = tmp_path / "run"
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model, trained = train(path, refuse(code, fail, patch))
    assert same_bits(trained, plain)
    (warning,) = said(warned)
    assert warning.startswith("recording stopped at step")
    assert text in warning
    assert count_hooks(model) == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("spikescope")]
    assert_readable(path, whole)
    assert not (path / "end.json").exists()


@pytest.mark.usefixtures("at_once")
def test_a_disk_that_has_room_again_says_how_the_run_ended(
    plain: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    failures = []

    def disaster(_: Path) -> None:
        real = os.fsync

        def once(handle: int) -> None:
            if not failures and stat.S_ISREG(os.fstat(handle).st_mode):
                failures.append(handle)
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(parts.os, "fsync", once)

    with pytest.warns(spikescope.SpikescopeWarning, match="No space left") as warned:
        _, trained = train(path, disaster)
    assert same_bits(trained, plain)
    assert len(warned) == 1
    assert_readable(path, whole)
    assert open_run(path).end["state"] == "probe failed"
    assert "No space left" in open_run(path).end["error"]


def deleted(path: Path) -> None:
    while path.exists():  # a file that is being written may come and go meanwhile
        shutil.rmtree(path, ignore_errors=True)


def replaced(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.write_text("somebody else's")


def moved(path: Path) -> None:
    path.rename(path.with_name("aside"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("disaster", [deleted, replaced, moved])
def test_a_folder_that_goes(disaster: Disaster, plain: Any, whole: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model, trained = train(path, disaster)
    assert same_bits(trained, plain)
    assert len(said(warned)) == 1
    assert "recording stopped" in said(warned)[0]
    assert count_hooks(model) == 0
    if disaster is replaced:
        assert path.read_text() == "somebody else's"
    else:
        assert not path.exists()  # and is not made again
    if disaster is not deleted:
        assert_readable(tmp_path / "aside", whole)


@pytest.mark.usefixtures("at_once")
def test_files_that_may_not_grow(plain: Any, whole: Any, tmp_path: Path) -> None:
    # The system itself refuses, to every user: in a process of its own, since the limit stays.
    path = tmp_path / "run"
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                limit = (300, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
                _, trained = train(path, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            os.write(tell, pickle.dumps((same_bits(trained, plain), said(warned))))
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as heard:
        same, warning = pickle.loads(heard.read())
    os.waitpid(child, 0)
    assert same
    assert len(warning) == 1
    assert "File too large" in warning[0]
    assert_readable(path, whole)
    assert open_run(path).state == "broken off"


@pytest.mark.parametrize("where", ["a file in the way", "a file above", "a name too long"])
def test_a_folder_that_cannot_be_made(where: str, plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    path = {
        "a file in the way": file / "run",
        "a file above": file / "deep" / "run",
        "a name too long": tmp_path / ("n" * 300),
    }[where]
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped") as warned:
        model, trained = train(path)
    assert same_bits(trained, plain)
    assert len(warned) == 1
    assert count_hooks(model) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("at_once")
def test_without_a_disaster_everything_is_there(plain: Any, whole: Any, tmp_path: Path) -> None:
    _, trained = train(tmp_path / "run")
    assert same_bits(trained, plain)
    assert_readable(tmp_path / "run", whole)
    assert open_run(tmp_path / "run").table().equals(whole)
