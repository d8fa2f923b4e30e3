"""An exception of ours, planted at every point: the training does not learn of it."""

from __future__ import annotations

import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from test_undisturbing import build, count_hooks, same_bits, train

import spikescope
from spikescope.data import store as stores
from spikescope.probes import (
    accumulators,
    accumulators_cpu,
    budget,
    capture,
    hooks,
    journal,
    outlet,
    recorder,
    session,
    writer,
)

POINTS: dict[str, tuple[Any, str]] = {
    f"{getattr(where, '__name__', where)}.{name}": (where, name)
    for where, names in (
        (hooks.LayerHooks, ("arm", "finish", "_before_call", "_after_call", "_record")),
        (hooks.LayerHooks, ("_at_output", "_at_input", "_fold", "_map", "_join")),
        (hooks, ("wide", "joint_counts", "unit_spikes")),
        (recorder, ("resets_midway",)),
        (capture, ("potential", "gradients")),
        (capture.LayerGradients, ("part", "at_first")),
        (accumulators, ("forward_pass", "forward_block", "backward_block", "_is_plain")),
        (accumulators_cpu, ("forward_block", "backward_block", "pieces")),
        (recorder.Recorder, ("arm", "finish", "entries")),
        (budget.Cost, ("may_record", "end_step", "facts")),
        (journal.Journal, ("note", "take")),
        (writer.Writer, ("put", "worked", "_take", "_write")),
        (writer, ("_records", "_fine_rows", "_to_host")),
        (stores.RunStore, ("append", "judge")),
        (stores, ("write_part", "write_json", "keep_within")),
        (session, ("header", "known_layers", "find_layers", "cost_on")),
        (outlet, ("RunStore", "Writer")),
    )
    for name in names
}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return train(build(), 2, None)


def probed(path: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    model = build()
    real = spikescope.watch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            spikescope,
            "watch",
            lambda *args, **named: real(*args, **named, collect="full", max_bytes=10**8, **more),
            raising=False,
        )
        return model, train(model, 2, path)


@pytest.mark.parametrize("point", POINTS)
def test_an_error_at_any_point_warns_once_and_the_training_goes_on(
    point: str, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name = POINTS[point]
    called = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        called.append(name)
        raise ZeroDivisionError(f"planted in {name}")

    monkeypatch.setattr(where, name, fail)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model, watched = probed(tmp_path / "run")
    monkeypatch.undo()
    assert called, "the point is never reached"
    assert same_bits(plain, watched)
    ours = [str(entry.message) for entry in warned if "planted" in str(entry.message)]
    assert len(ours) == 1, ours
    assert count_hooks(model) == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("spikescope-writer")]


def test_without_an_error_nothing_is_said(plain: dict[str, Any], tmp_path: Path) -> None:
    _, watched = probed(tmp_path / "run")
    assert same_bits(plain, watched)
    assert len(set(spikescope.open_run(tmp_path / "run").table()["step"])) == 2


def test_a_folder_that_goes_away_switches_the_probe_off(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    append = stores.RunStore.append

    def late(self: Any, *args: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)
        append(self, *args)

    monkeypatch.setattr(stores.RunStore, "append", late)
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped"):
        _, watched = probed(path)
    assert same_bits(plain, watched)


def test_a_folder_that_cannot_be_made_switches_the_probe_off(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped"):
        _, watched = probed(tmp_path / "file" / "run")
    assert same_bits(plain, watched)
