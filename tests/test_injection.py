"""An exception of ours, planted in every function that a recorded training calls, one at a time.

Which functions those are is found by tracing, so that a new one is not forgotten.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from planting import Name, Plant, heard
from tap_networks import NEURONS
from test_undisturbing import count_hooks, same_bits
from torch import Tensor, nn
from torch.distributed import HashStore

import spikescope
from spikescope.data import appending, compaction, parts, remote
from spikescope.probes import (
    header,
    live_findings,
    modes,
    outlet,
    ranks,
    session,
    tap_function,
    watched,
)
from spikescope.probes.lif import LIF

STEPS = 2

NOTHING = Plant()

NOT_REACHED = 0.06
"""Share of functions that another thread may reach or not, or that keep what they found."""


class Replayed(nn.Module):
    """Two layers that are read by replay, one of them called timestep by timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.low = nn.Linear(4, 6), nn.BatchNorm1d(6), LIF()
        self.second, self.high = nn.Linear(6, 5), LIF()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.high(self.second(self.low(hidden)))


class Tapped(nn.Module):
    """A layer that is read from the calls of its surrogate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.low = nn.Linear(4, 6), NEURONS["learnable"]()

    def forward(self, x: Tensor) -> Tensor:
        return self.low(self.first(x.transpose(0, 1)))


class Attached(nn.Module):
    """A layer that its own code hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.probe: Any = None

    def forward(self, x: Tensor) -> Tensor:
        u = self.first(x)
        spikes = torch.sigmoid(9.0 * (u - 0.1))
        for t in range(len(u)):
            if self.probe is not None:
                self.probe.attach("layer", u=u[t], spikes=(u[t] > 0.1).float(), threshold=0.1)
        return spikes


def train(
    build: Callable[[], nn.Module], path: Any, plant: Plant = NOTHING, **settings: Any
) -> tuple[nn.Module, Any]:
    """Train two steps, one of them recorded; return the model and all that could be disturbed."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses: list[float] = []

    def one_step(step: int) -> Tensor:
        optimizer.zero_grad()
        x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(step))
        x = x.to(next(model.parameters()).dtype)
        loss = model(nn.functional.dropout(x, 0.1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        return loss

    if path is None:
        for step in range(STEPS):
            one_step(step)
    else:
        probe = spikescope.watch(model, path, **{"every": lambda step: step == 0} | settings)
        with plant.planted(), probe:
            if isinstance(model, Attached):
                model.probe = probe
            for step in range(STEPS):
                loss = one_step(step)
                probe.log(accuracy=0.5)
                probe.step(loss=loss)
            if isinstance(model, Attached):
                model.probe = None
    gradients = [parameter.grad for parameter in model.parameters()]
    return model, [losses, model.state_dict(), gradients, torch.get_rng_state()]


EVERYTHING = {"collect": "full", "max_bytes": 10**8, "budget": 0.9}
SCENARIOS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "replay": (Replayed, EVERYTHING),
    "header": (lambda: nn.Sequential(nn.Linear(4, 6), LIF()), {"collect": "economy"}),
    "tap": (Tapped, {"collect": "full"}),
    "double": (lambda: Replayed().double(), {}),
    "scaled": (Replayed, {"scaler": torch.amp.GradScaler("cpu", init_scale=1.0)}),
    "bounded": (Replayed, {"collect": "full", "max_bytes": 10**8, "every": 1}),
    "slow disk": (Replayed, {"collect": "economy"}),
    "attach": (Attached, {}),
    "findings": (Replayed, {"on_findings": lambda found: None, "collect": "economy"}),
    "remote": (Replayed, {"resume": True, "collect": "economy"}),
    "rank 0": (Replayed, {"budget": 0.9, "collect": "economy"}),
    "rank 1": (Replayed, {"budget": 0.9, "collect": "economy"}),
}


class Fixture:
    """A training of one kind, again and again."""

    def __init__(self, scenario: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.scenario, self.folder, self.patch = scenario, folder, patch
        self.build, self.settings = SCENARIOS[scenario]
        self.numbers = itertools.count()
        self.plain = train(self.build, None)[1]
        # What takes long and is no part of what is looked at here.
        patch.setattr(parts.os, "fsync", lambda handle: None)
        if scenario != "header":
            patch.setattr(header, "_git", lambda: None)
            patch.setattr(header, "versions", lambda adapters: {})
            patch.setattr(session, "installed", lambda name: None)
            patch.setattr(outlet, "judge_surrogates", lambda store, model: None)
        patch.setattr(live_findings, "LEAST_PAUSE", 0.0)
        patch.setattr(outlet, "FINDINGS_RECORDS", 1 if scenario == "findings" else 99)
        patch.setattr(remote, "REFRESH_SECONDS", 0.0)
        patch.setattr(ranks, "LAST_PATIENCE", 0.2)
        if scenario == "bounded":
            patch.setattr(compaction, "size_of", lambda folder: 10**9)
            for module in (compaction, appending):
                patch.setattr(module, "TOGETHER", 1)
        if scenario == "slow disk":
            patch.setattr(outlet.Outlet, "put", lambda outlet, batch: False)
        if scenario.startswith("rank"):
            patch.setattr(ranks, "_averages", lambda module: True)
            patch.setattr(ranks, "joined", lambda: True)
            for module in (modes, outlet, header):
                patch.setattr(module, "rank", lambda: (int(scenario[-1]), 2))
            patch.setattr(torch.distributed, "get_rank", lambda: int(scenario[-1]))
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def path(self) -> Any:
        number = next(self.numbers)
        if self.scenario != "remote":
            meeting = HashStore()
            self.patch.setattr(ranks, "_store", lambda: meeting)
            if self.scenario == "rank 1":
                path = self.folder / f"run{number}"
                path.mkdir()
                meeting.set(f"spikescope/{path}/1", str(path))
                return path
            return self.folder / f"run{number}"
        address = f"memory://planted/run{number}"
        train(self.build, address)
        return address

    def run(self, plant: Plant) -> tuple[nn.Module, Any, list[str]]:
        path = self.path()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model, trained = train(self.build, path, plant, **self.settings)
        return model, trained, heard(warned)


def left_behind(model: nn.Module) -> list[str]:
    """Return what a probe that is off has left in the model, in torch, or running."""
    until = time.monotonic() + 5.0  # one that has told something last ends once that has arrived
    while alive := [t.name for t in threading.enumerate() if t.name.startswith("spikescope")]:
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    found = alive + ["hooks"] * bool(count_hooks(model))
    found += ["Functions"] * bool(tap_function._patched or tap_function._listeners)
    return found + ["claim"] * (watched.taken({"it": model}) is not None)


@pytest.fixture
def fixture(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fixture]:
    yield Fixture(request.param, tmp_path, monkeypatch)
    files = fsspec.filesystem("memory")
    if files.exists("/planted"):
        files.rm("/planted", recursive=True)


QUIET = {
    ("probes/adapters/adapter_spikescope.py", "SpikescopeAdapter.describe"),
    ("probes/adapters/adapter_spikescope.py", "SpikescopeAdapter.declared"),
    ("probes/adapters/adapter_spikescope.py", "SpikescopeAdapter.spike_function"),
    ("probes/adapters/adapter_spikescope.py", "SpikescopeAdapter.spike_function.<locals>.<lambda>"),
    ("probes/adapters/measure.py", "derivative"),
    ("probes/adapters/measure.py", "grid"),
    *(
        ("probes/lint.py", name)
        for name in (
            "lint",
            "_layers",
            "_measured",
            "_judged",
            "_deviation",
            "_shared",
            "_modules_of",
            "_Case.height",
        )
    ),
}
"""What an adapter or the lint cannot read is no failure of the recording: the run says it."""

FINALIZERS = {("data/remote.py", "_remove")}
"""What runs when an object goes: Python itself says an error there, and goes on."""

COVERED: set[Name] = set()
"""Functions in which an error has been planted in an earlier scenario."""


@pytest.mark.parametrize("fixture", SCENARIOS, indirect=True)
def test_an_error_in_any_function_warns_once_and_the_training_goes_on(fixture: Fixture) -> None:
    for _ in range(2):  # what is done once in a process is done by then
        noted = Plant()
        model, trained, said = fixture.run(noted)
    assert same_bits(trained, fixture.plain)
    assert (said, left_behind(model)) == ([], [])
    functions = {name: code for name, code in noted.found().items() if name not in COVERED}
    wrong: dict[Name, Any] = {}
    unreached = []
    for name, code in functions.items():
        plant = Plant(code)
        try:
            with fixture.patch.context() as patch:
                if name in FINALIZERS:
                    patch.setattr(sys, "unraisablehook", lambda said: None)
                model, trained, said = fixture.run(plant)
        except ZeroDivisionError as error:
            wrong[name] = error
            continue
        if not plant.raised:
            unreached.append(name)
            continue
        found = left_behind(model)
        if not same_bits(trained, fixture.plain):
            found.append("another training")
        if len(said) != (name not in QUIET | FINALIZERS):
            found.append(f"{len(said)} warnings")
        if found:
            wrong[name] = found
    COVERED.update(functions)
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert len(unreached) <= max(2, NOT_REACHED * len(functions)), unreached


@pytest.mark.parametrize("fixture", ["replay"], indirect=True)
def test_an_interrupt_in_any_function_ends_the_training_and_leaves_a_readable_run(
    fixture: Fixture,
) -> None:
    noted = Plant(threads=False)
    fixture.run(noted)
    functions = noted.found()
    assert len(functions) > 150
    wrong: dict[Name, Any] = {}
    readable = 0
    for name, code in list(functions.items())[::6]:
        plant = Plant(code, error=KeyboardInterrupt, threads=False)
        model = fixture.build()
        path = fixture.path()
        try:
            with pytest.raises(KeyboardInterrupt):
                train(lambda model=model: model, path, plant, **fixture.settings)
        except pytest.fail.Exception:
            wrong[name] = "it was swallowed" if plant.raised else "not reached"
            continue
        found = left_behind(model)
        if (path / "run.json").exists():
            run = spikescope.open_run(path)
            run.table()
            found += run.problems
            readable += 1
        if found:
            wrong[name] = found
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert readable > 10
