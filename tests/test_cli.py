"""The command: a table for a person, JSON for a program, one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import synthetic
from command_line import command

import spikescope
from spikescope import cli


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return synthetic.write_run(tmp_path / "runs" / "sick", layers=8)


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return synthetic.write_run(tmp_path / "runs" / "healthy", layers=2)


def test_diagnose_for_a_person(run: Path, monkeypatch: Any, capsys: Any) -> None:
    assert command("diagnose", run, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "gradient lost over depth" in shown
    assert "block0.lif" in shown
    assert "2202.00282" in shown


def test_diagnose_for_a_program(run: Path, monkeypatch: Any, capsys: Any) -> None:
    assert command("diagnose", run, "--json", monkeypatch=monkeypatch) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["state"] == "finished"
    assert content["findings"][0]["code"] == "G2"


def test_the_version_is_told(monkeypatch: Any, capsys: Any) -> None:
    assert command("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"spikescope {spikescope.__version__}\n"


@pytest.mark.parametrize(("fail_on", "status"), [("warning", 1), ("error", 0)])
def test_fail_on(fail_on: str, status: int, run: Path, monkeypatch: Any) -> None:
    words = ("diagnose", run, "--fail-on", fail_on)
    assert command(*words, monkeypatch=monkeypatch) == status


def test_fail_on_is_silent_on_a_healthy_run(healthy: Path, monkeypatch: Any, capsys: Any) -> None:
    words = ("diagnose", healthy, "--fail-on", "warning")
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert "No finding" in capsys.readouterr().out


def test_runs(run: Path, healthy: Path, monkeypatch: Any, capsys: Any) -> None:
    (run.parent / "damaged").mkdir()
    (run.parent / "damaged" / "run.json").write_text("{")
    assert command("runs", run.parent, "--json", monkeypatch=monkeypatch) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["sick"]["layers"] == 8
    assert rows["healthy"]["state"] == "finished"
    assert "damaged" in rows["damaged"]["state"]


def test_stationary(monkeypatch: Any, capsys: Any) -> None:
    words = "stationary --decay 0.9 --gain 0.1 --input-mean 0.5 --input-std 2".split()
    assert command(*words, "--json", monkeypatch=monkeypatch) == 0
    report = json.loads(capsys.readouterr().out)
    # Kook et al., arXiv 2511.08708: tau = 10, soft reset; transfer operator with Monte Carlo check.
    assert report["figures"]["rate"] == pytest.approx(0.023332, abs=1e-6)
    assert report["figures"]["removable_share"] == pytest.approx(0.44, abs=0.005)
    assert command(*words, "--surrogate", "rectangular", monkeypatch=monkeypatch) == 0
    assert "coverage" in capsys.readouterr().out


def test_recommend(monkeypatch: Any, capsys: Any) -> None:
    words = "recommend --fan-in 300 --input-rate 0.05 --decay 0.9 --recurrent".split()
    assert command(*words, "--json", monkeypatch=monkeypatch) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["rate"]["value"] == pytest.approx(0.1, abs=1e-3)
    assert rows["growth per timestep"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert all(row["source"] for row in rows.values())
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert "Mind:" in capsys.readouterr().out


def test_a_port_in_use_is_one_line(run: Path, monkeypatch: Any, capsys: Any) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("dashboard", run, "--port", port)
        assert command(*words, monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(port) in line


def test_an_error_of_ours_is_not_hidden(run: Path, monkeypatch: Any) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("spikescope.data.runs.open_run", broken)
    monkeypatch.setattr(sys, "argv", ["spikescope", "diagnose", str(run)])
    with pytest.raises(KeyError, match="a bug"):
        cli.main()


def test_python_m_spikescope_is_the_command(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spikescope", "diagnose", str(run), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=run,  # not the checkout, whose folders must not be imported by accident
    )
    assert json.loads(done.stdout)["run"] == "sick"


def test_a_warning_is_a_sentence(monkeypatch: Any) -> None:
    command("runs", "nothere", monkeypatch=monkeypatch)
    shown = warnings.formatwarning("'a' exists\nand is kept", UserWarning, "probe.py", 12)
    assert shown == "spikescope: 'a' exists and is kept\n"


MODELS = """
import torch
from torch import nn
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF

class Broken(Surrogate):
    def derivative(self, z, xp=torch):
        return -super().derivative(z, xp)

def sound():
    return nn.Sequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 4), LIF())

def broken():
    return nn.Sequential(nn.Linear(3, 4), LIF(surrogate=Broken("arctan")))
"""


def test_lint(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "models_to_lint.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    words = ("lint", "models_to_lint:sound", "--fail-on", "warning")
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert "No finding" in capsys.readouterr().out
    words = ("lint", "models_to_lint:broken", "--fail-on", "error")
    assert command(*words, monkeypatch=monkeypatch) == 1
    assert "surrogate negative" in capsys.readouterr().out
    assert command("lint", "models_to_lint:broken", "--json", monkeypatch=monkeypatch) == 0
    assert "S3" in {finding["code"] for finding in json.loads(capsys.readouterr().out)}
    assert command("lint", "models_to_lint:absent", monkeypatch=monkeypatch) == 2
    assert "has no 'absent'" in capsys.readouterr().err
