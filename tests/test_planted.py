"""A fast part of the planted benchmark; ``python -m planted`` in this folder runs all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted.__main__ import RESULTS, first_seen, hit, judge, markdown
from planted.bench import Net, Task, Training, run
from planted.calibration import CALIBRATED
from planted.faults import FAULTS
from planted.healthy import HEALTHY
from torch import nn

import spikescope
from spikescope.analysis.findings import RULES, Evidence
from spikescope.analysis.surrogate import Surrogate
from spikescope.probes import outlet
from spikescope.probes.lif import LIF

FAST = (
    "threshold x 10",
    "surrogate width / 50",
    "dead layer",
    "detached path",
    "batch norm in eval",
    "wrong declared decay",
    "weights not in the optimiser",
)
"""Faults of our own layers that show within a few steps."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def shortened(build: Callable[[], Training]) -> Training:
    training = build()
    training.steps = 32
    return training


@pytest.mark.parametrize("name", FAST)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    path = run(shortened(fault.build), tmp_path / "run")
    assert hit(judge(path), fault)


@pytest.mark.parametrize("name", ["batch norm, seed 0", "T = 2"])
def test_a_healthy_run_raises_no_alarm(name: str, tmp_path: Path) -> None:
    path = run(shortened(HEALTHY[name]), tmp_path / "run")
    alarms = [finding.text for finding in judge(path) if finding.severity != "note"]
    assert alarms == []
    evidence = Evidence(spikescope.open_run(path))
    figures = {constant: extreme.of(evidence) for constant, extreme in CALIBRATED.items()}
    updates, norms = (
        {one.name: one.recent for one in evidence.vitals.every(quantity)}
        for quantity in ("update_norm", "value_norm")
    )
    weights = [name for name in updates if name.endswith(("linear.weight", "readout.weight"))]
    moved = max(np.mean(updates[name] / norms[name]) for name in weights)
    assert figures["UPDATE_WARNING"] == [pytest.approx(moved)]
    silent = {constant for constant, values in figures.items() if not values}
    # Nothing to be seen there: too short a training, no law of the rate, covered, hardly shifted.
    assert silent <= {
        "MOVING_WARNING", "PREDICTED_NOTE", "REACHABLE_WARNING", "REMOVABLE_WARNING",
        "RUNNING_WARNING",
    }  # fmt: skip


def test_a_fault_that_begins_later_is_found_later(tmp_path: Path) -> None:
    def before(training: Training, step: int) -> None:
        if step == 20:
            training.model.blocks[1].lif.threshold = 1e3

    torch.manual_seed(0)
    path = run(Training(Net(), Task(2), steps=48, before=before), tmp_path / "run")
    fault = FAULTS["threshold x 1000"]
    found = [finding for finding in judge(path) if finding.layer == "blocks.1.lif"]
    found = [finding for finding in found if finding.code == "R1"]
    assert {finding.steps[0] for finding in found} == {20}
    assert first_seen(path, type(fault)(fault.build, ("R1", "P1"), "blocks.1.lif", 20)) in (0, 4, 8)
    assert first_seen(path, type(fault)(fault.build, ("R1", "P1"), "blocks.0.lif", 0)) is None


RULES_BY_CODE = {rule.code: rule for rule in RULES}

TUTORIAL = {0.1: 0.02, 0.5: 0.10, 2.0: 0.22, 4.0: 0.31, 8.0: 0.37}
"""ATan's alpha to what a layer keeps of the gradient, from the norms that SpikingJelly's tutorial
on monitors prints for ten layers of eight integrate-and-fire units, T = 4, random input."""


def _kept(alpha: float, folder: Path) -> tuple[float, spikescope.Run]:
    surrogate = Surrogate("arctan", alpha / 2.0, 2.0 / (torch.pi * alpha))
    blocks = [
        (nn.Linear(8, 8), LIF(decay=1.0, reset="to_value", surrogate=surrogate)) for _ in range(10)
    ]
    model = nn.Sequential(*(module for block in blocks for module in block))
    with spikescope.watch(model, folder, every=1) as probe:
        for _ in range(2):
            model.zero_grad()
            model(torch.rand(4, 16, 8)).sum().backward()
            probe.step()
    opened = spikescope.open_run(folder)
    rms = opened.table(["grad_u_rms"]).groupby("layer", sort=False)["grad_u_rms"].mean()
    return float((rms.iloc[0] / rms.iloc[-1]) ** (1 / 9)), opened


def test_the_decay_per_layer_follows_alpha_as_in_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lint would fit each of 100 surrogates by its shape; nothing here asks for it.
    monkeypatch.setattr(outlet, "judge_surrogates", lambda store, model: None)
    measured = {}
    for alpha, told in TUTORIAL.items():
        logs = []
        for seed in range(2):
            torch.manual_seed(seed)
            kept, run = _kept(alpha, tmp_path / f"{alpha} {seed}")
            logs.append(math.log(kept))
        # The network of the tutorial loses its gradient at every alpha.
        (lost,) = RULES_BY_CODE["G2"].check(Evidence(run))
        assert lost.severity == "error" or alpha > 0.5
        measured[alpha] = math.exp(sum(logs) / len(logs))
        # Weights and inputs are drawn: one network differs from another by up to a factor of 2.
        assert 0.5 < measured[alpha] / told < 2.0, measured
    values = list(measured.values())
    assert values[0] < 0.5 * values[1] < values[2], measured
    assert max(values) < 1.25 * values[-1], measured


def test_the_kept_result_meets_what_is_claimed() -> None:
    rows = json.loads((RESULTS / "planted.json").read_text())
    faults = [row for row in rows if row["kind"] == "fault"]
    healthy = [row for row in rows if row["kind"] == "healthy"]
    assert {row["name"] for row in faults} == set(FAULTS)
    assert {row["name"] for row in healthy} == set(HEALTHY)
    assert len(faults) >= 25
    assert len(healthy) >= 20
    assert sum(row["found"] for row in faults) / len(faults) >= 0.95
    assert sum(len(row["alarms"]) for row in healthy) / len(healthy) <= 0.1
    assert (RESULTS / "planted.md").read_text() == markdown(rows)
