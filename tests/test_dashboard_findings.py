"""What the rules say reaches the pages, when it is there, and holds nobody up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from dashboard_client import client_of, draw, words, write_runs
from synthetic import columns, header, row, write_run

from spikescope.analysis.findings import Finding
from spikescope.dashboard import app as app_module
from spikescope.dashboard import catalogue as catalogue_module
from spikescope.dashboard.catalogue import Catalogue, Snapshot
from spikescope.dashboard.view import View
from spikescope.data.store import RunStore


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("server") / "runs")


def test_findings_are_spelt_out_with_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(
        "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper",
        ("start potential",),
    )  # fmt: skip
    monkeypatch.setattr(Snapshot, "findings", [finding])
    client = client_of(root)
    parts = draw(client, "?run=one")
    said = words(parts["verdict"])
    assert "Not healthy in steps 0 to 100: gradient coverage low in block1.lif. 1 error" in said
    link = View(run="one", page="layer", layer="block1.lif", t=2, step=100).search()
    assert link in words(parts["content"])
    table = words(draw(client, "?run=one&page=findings")["content"])
    for part in ("G1", "block1.lif", "0 to 100", "Too low.", "A paper"):
        assert part in table


def test_slow_rules_do_not_hold_up_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "slow", layers=2, steps=range(2))
    go = threading.Event()
    finding = Finding("G1", "error", "", None, (0, 1), 0.0, 0.0, 0.0, "", "Bad.", "A paper")

    def wait(_: Any) -> list[Finding]:
        go.wait(10)
        return [finding]

    monkeypatch.setattr(catalogue_module, "diagnose", wait)
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    client = client_of(tmp_path)
    first = draw(client, "?run=slow")
    assert "The rules are being checked" in words(first["verdict"])
    assert "Gradient coverage, step 1" in words(first["content"])
    assert "checking …" in words(draw(client, "?page=runs")["content"])
    assert first["tick"]["max_intervals"] == -1  # although the run itself has ended
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    for _ in range(100):
        last = draw(client, "?run=slow", beat=True, drawn=first["drawn"]["data"])
        if last["tick"]["max_intervals"] == 0:
            break
        time.sleep(0.05)
    assert "Not healthy since step 0: gradient coverage low. 1 error" in words(last["verdict"])
    assert "G1" in words(draw(client, "?page=runs")["content"])


def test_findings_that_arrive_while_a_page_is_drawn_are_drawn_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", layers=2, steps=range(2))
    go = threading.Event()
    finding = Finding("G1", "error", "", None, (0, 1), 0.0, 0.0, 0.0, "", "Bad.", "A paper")
    monkeypatch.setattr(catalogue_module, "diagnose", lambda _: [finding] if go.wait(10) else [])
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    draw_verdict = app_module._verdict

    def late(run: Snapshot) -> Any:
        line = draw_verdict(run)
        go.set()
        run._checked.wait(10)
        return line

    monkeypatch.setattr(app_module, "_verdict", late)
    client = client_of(tmp_path)
    first = draw(client, "?run=run")
    assert "The rules are being checked" in words(first["verdict"])
    assert first["tick"]["max_intervals"] == -1
    later = draw(client, "?run=run", beat=True, drawn=first["drawn"]["data"])
    assert "Not healthy since step 0: gradient coverage low. 1 error" in words(later["verdict"])
    assert later["tick"]["max_intervals"] == 0


def test_earlier_findings_stay_while_new_ones_are_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    go = threading.Event()
    go.set()

    def judge(run: Any) -> list[Finding]:
        last = int(run.table()["step"].max())
        go.wait(10)
        return [Finding("G1", "error", "", None, (0, last), 0.0, 0.0, 0.0, "", "Bad.", "A paper")]

    monkeypatch.setattr(catalogue_module, "diagnose", judge)
    monkeypatch.setattr(catalogue_module, "RESTING", 0.0)
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("live").findings[0].steps == (0, 0)
    go.clear()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    store.append("records", columns([row(5, "net", 1)]))
    run = catalogue.run("live")
    assert run.findings[0].steps == (0, 0)
    assert run.checking
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    run._due = time.monotonic() + 10
    assert run.findings[0].steps == (0, 5)
    assert not run.checking


def test_a_recorded_run_is_not_checked_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor belongs to the training: after a check there is a rest, and then another."""
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    checked: list[int] = []

    def judge(run: Any) -> list[Finding]:
        checked.append(int(run.table()["step"].max()))
        time.sleep(0.05)
        return []

    monkeypatch.setattr(catalogue_module, "diagnose", judge)
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("live").check()
    store.append("records", columns([row(5, "net", 1)]))
    assert not catalogue.run("live").check()  # resting: to be asked again
    assert checked == [0]
    until = time.monotonic() + 10
    while not catalogue.run("live").check() and time.monotonic() < until:
        time.sleep(0.05)
    assert checked == [0, 5]
    # A run that has ended is checked at once.
    store.append("records", columns([row(9, "net", 1)]))
    store.end("finished", steps=10)
    assert catalogue.run("live").check()
    assert checked == [0, 5, 9]


def test_failing_rules_leave_the_record_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", layers=2, steps=range(2))

    def fail(_: Any) -> list[Finding]:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(catalogue_module, "diagnose", fail)
    parts = draw(client_of(tmp_path), "?run=run")
    assert "could not be worked out: ZeroDivisionError('boom')" in words(parts["verdict"])
    assert "Gradient coverage, step 1" in words(parts["content"])
