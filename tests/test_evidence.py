"""The evidence report: resumes, judges soberly, reports what fails, and recommend obeys it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from benchmarks.evidence import (
    STUDIES,
    command,
    study_b,
    study_c,
    study_d,
    study_e,
    study_f,
    tasks,
)
from benchmarks.evidence.report import CONCLUSIONS, write_report
from benchmarks.evidence.statistics import Claim, Section, detectable, judge, mean_and_error
from benchmarks.evidence.store import Results, unit_key
from benchmarks.evidence.study_a_report import veto

from spikescope.analysis.recommend import VETOED

COMMITTED = Path(command.__file__).parent / "results" / CONCLUSIONS


class Fake(ModuleType):
    """A study whose units are numbers, that can be interrupted."""

    NAME = "z"
    TITLE = "A study of nothing"

    def __init__(self, effects: list[float], break_at: int | None = None) -> None:
        super().__init__("fake_study")
        self.effects = effects
        self.break_at = break_at
        self.measured: list[int] = []

    def units(self, quick: bool) -> list[dict[str, Any]]:
        return [{"seed": seed} for seed in range(len(self.effects))]

    def measure(self, unit: dict[str, Any]) -> dict[str, Any]:
        if unit["seed"] == self.break_at:
            raise KeyboardInterrupt
        self.measured.append(unit["seed"])
        return {"effect": self.effects[unit["seed"]]}

    def report(self, rows: list[dict[str, Any]], out: Path) -> Section:
        claim = judge("z", "rises", "It rises.", [row["result"]["effect"] for row in rows], "m")
        return Section(self.TITLE, ["Text."], [claim])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*args: Any, **kwargs: Any) -> Fake:
        study = Fake(*args, **kwargs)
        monkeypatch.setitem(sys.modules, "fake_study", study)
        return study

    return make


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, fake: Any) -> None:
    broken = fake([1.0, 2.0, 3.0, 4.0], break_at=2)
    with pytest.raises(KeyboardInterrupt):
        command.run_studies([broken], tmp_path, quick=False)
    assert broken.measured == [0, 1]
    resumed = fake([1.0, 2.0, 3.0, 4.0])
    assert command.run_studies([resumed], tmp_path, quick=False) == 2
    assert resumed.measured == [2, 3]
    assert command.run_studies([resumed], tmp_path, quick=False) == 0
    rows = command.results_of(resumed, tmp_path).rows()
    assert [row["result"]["effect"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert all(row["commit"] and "torch" in row["versions"] and row["device"] for row in rows)


@pytest.mark.parametrize("torn", [b'{"settings": {"seed": 3}, "res', b"{", b'{"settings"'])
def test_a_unit_that_was_killed_while_it_was_written_is_computed_again(
    torn: bytes, tmp_path: Path, fake: Any
) -> None:
    study = fake([1.0, 2.0, 3.0, 4.0])
    command.run_studies([study], tmp_path, quick=False)
    file = tmp_path / "results" / "z.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + torn)
    again = fake([1.0, 2.0, 3.0, 4.0])
    assert command.run_studies([again], tmp_path, quick=False) == 1
    assert again.measured == [3]
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["settings"]["seed"] for row in rows] == [0, 1, 2, 3]


def test_units_are_known_by_their_settings_in_any_order(tmp_path: Path) -> None:
    results = Results(tmp_path / "x.jsonl")
    results.add({"a": 1, "b": 2.5}, {"value": 1 / 3, "nested": [[1 / 7]], "bad": float("nan")})
    assert {"b": 2.5, "a": 1} in Results(tmp_path / "x.jsonl")
    assert {"a": 1, "b": 2.0} not in results
    assert unit_key({"a": 1}) != unit_key({"a": 2})
    (row,) = results.rows()
    assert row["result"]["value"] == 0.333333
    assert row["result"]["nested"] == [[0.142857]]
    assert np.isnan(row["result"]["bad"])


def test_side_by_side_every_unit_is_kept_as_soon_as_it_is_done(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads in place of processes, which would each have to load torch first."""
    pools: list[int] = []

    def pool(workers: int, mp_context: Any) -> ThreadPoolExecutor:
        pools.append(workers)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(command, "ProcessPoolExecutor", pool)
    broken = fake([1.0, 2.0, 3.0, 4.0], break_at=3)
    with pytest.raises(KeyboardInterrupt):
        command.run_studies([broken], tmp_path, quick=False, workers=2)
    resumed = fake([1.0, 2.0, 3.0, 4.0])
    left = command.run_studies([resumed], tmp_path, quick=False, workers=2)
    assert left == len(resumed.measured) < 4
    assert 3 in resumed.measured
    rows = command.results_of(resumed, tmp_path).rows(resumed.units(False))
    assert [row["result"]["effect"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert pools == [2, 2]


def test_what_does_not_reproduce_is_said_with_the_power(tmp_path: Path, fake: Any) -> None:
    study = fake([1.0, -1.0, 0.5, -0.6])
    command.run_studies([study], tmp_path, quick=False)
    content = write_report([study], tmp_path, quick=False)
    text = (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    assert "| It rises. | **not reproduced** | -0.025 ± 0.47 m |" in text
    (claim,) = content["claims"]
    assert claim["detectable"] == pytest.approx(detectable(claim["error"], 4))
    assert f"| {claim['detectable']:.2g} | 4 |" in text
    assert json.loads((tmp_path / "results" / CONCLUSIONS).read_text()) == content


def test_a_study_that_was_not_run_or_not_wholly_is_said(tmp_path: Path, fake: Any) -> None:
    study = fake([1.0, 1.1, 0.9])
    content = write_report([study], tmp_path, quick=False)
    assert content["claims"][0]["verdict"] == "not run"
    assert "**Not run.**" in (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    command.results_of(study, tmp_path).add({"seed": 0}, {"effect": 1.0})
    write_report([study], tmp_path, quick=False)
    assert "**Not complete: 1 of 3" in (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")


def test_verdicts_are_wrong_as_rarely_as_promised() -> None:
    random = np.random.default_rng(3)
    trials = 800

    def share(effect: float, verdict: str) -> float:
        found = [judge("z", "", "", random.standard_normal(5) + effect) for _ in range(trials)]
        return sum(claim.verdict == verdict for claim in found) / trials

    margin = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert abs(share(0.0, "reproduced") - 0.05) < margin
    assert abs(share(0.0, "contradicted") - 0.05) < margin
    # What is called detectable is found as often as promised (0.05 for the formula's own error).
    effect = detectable(1 / np.sqrt(5), 5)
    assert abs(share(effect, "reproduced") - 0.8) < 3 * np.sqrt(0.8 * 0.2 / trials) + 0.05
    assert share(effect / 2, "reproduced") < 0.6
    assert judge("z", "", "", [-1.0, -1.1, -0.9]).verdict == "contradicted"
    assert judge("z", "", "", [1.0]).verdict == "not run"
    assert mean_and_error([1.0, 3.0, float("nan")]) == (2.0, 1.0)


TINY = {
    "digits": {"steps": 2, "settings": (("timesteps", 2), ("channels", 2))},
    "sequential-digits": {"steps": 2},
    "randman": {"steps": 2, "data_settings": (("classes", 2), ("samples", 40), ("timesteps", 8))},
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every task so small that a unit takes a moment."""
    for name, changes in TINY.items():
        monkeypatch.setitem(tasks.TASKS, name, replace(tasks.TASKS[name], **changes))
    small = replace(study_c.TASKS["decay 0.5"], **TINY["digits"])
    monkeypatch.setattr(study_c, "TASKS", {"decay 0.5": small})
    for name, task in study_d.TASKS.items():
        monkeypatch.setitem(study_d.TASKS, name, replace(task, steps=2))
    shallow = tuple({**dict(study_e.TASK.settings), "depth": 5, "channels": 2}.items())
    monkeypatch.setattr(study_e, "TASK", replace(study_e.TASK, steps=2, settings=shallow))
    monkeypatch.setattr(study_b, "BATCHES", 4)


def test_every_study_runs_and_the_report_builds(tmp_path: Path, tiny: None) -> None:
    """The short version of every study, with trainings of two steps; numbers mean nothing here."""
    wanted = {
        "a": lambda unit: unit["task"] == "sequential-digits",
        "b": lambda unit: unit["seed"] == 0 and unit["state"] == "initial",
        "c": lambda unit: unit["seed"] == 0,
        "d": lambda unit: unit["seed"] == 0 and unit["threshold"] == 1.0,
        "e": lambda unit: unit["seed"] == 0 and unit["arm"] in ("fixed 0.5", "agl"),
        "f": lambda unit: unit["seed"] == 0 and unit["initial"] == study_f.RATES[-1],
    }
    studies = []
    for name, study in STUDIES.items():
        short = ModuleType(study.__name__)
        short.__dict__.update({key: getattr(study, key) for key in ("NAME", "TITLE", "measure")})
        units = [unit for unit in study.units(True) if wanted[name](unit)]
        short.units = lambda quick, units=units: units  # type: ignore[attr-defined]
        short.report = study.report  # type: ignore[attr-defined]
        studies.append(short)
    command.run_studies(studies, tmp_path, quick=True)
    content = write_report(studies, tmp_path, quick=True)
    text = (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    assert "No conclusion rests on it" in text
    assert "Not run" not in text
    assert "Not complete" not in text
    assert "1 shape x 1 peak x 2 widths = 2 trainings" in text
    # What the short version leaves out is said in words.
    part = text.split("\n## ")[1]
    assert part.startswith("a. ")
    assert "nan" not in part
    assert "| not run |" in part
    plots = sorted(path.name[0] for path in (tmp_path / "plots").iterdir())
    assert plots == list("abcdef")
    assert {claim["study"] for claim in content["claims"]} == set("abcdef")
    by_name = {claim["name"]: claim for claim in content["claims"]}
    # Two claims that are identities hold at any size.
    assert by_name["absorbed"]["verdict"] == "reproduced"
    assert by_name["absorbed"]["effect"] < 1e-5
    assert by_name["sign rule of AGL"]["verdict"] == "reproduced"


def test_the_committed_report_is_what_the_committed_results_give(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED.parent, tmp_path / "results")
    command.main(["--report-only", "--out", str(tmp_path)])
    texts, verdicts = [], []
    for folder in (tmp_path, COMMITTED.parents[1]):
        text = (folder / "EVIDENCE.md").read_text(encoding="utf-8")
        # The last digit of a number may differ from one machine to another.
        texts.append(re.sub(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?", "#", text).splitlines())
        claims = json.loads((folder / "results" / CONCLUSIONS).read_text(encoding="utf-8"))[
            "claims"
        ]
        verdicts.append({claim["name"]: claim["verdict"] for claim in claims})
    assert texts[0] == texts[1]
    assert verdicts[0] == verdicts[1]


def test_recommend_does_not_propose_what_the_evidence_contradicts() -> None:
    content = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert not content["quick"]
    assert set(content["vetoes"]) == set(VETOED)


def test_the_veto_of_a_field_needs_harm_and_no_help() -> None:
    def section(*verdicts: str) -> Section:
        claims = [
            Claim("a", f"only start: {k}", "", verdict, remedy="only start")  # type: ignore[arg-type]
            for k, verdict in enumerate(verdicts)
        ]
        made = Section("", [], claims)
        veto(made)
        return made

    assert set(section("contradicted", "not reproduced").vetoes) == {"start"}
    assert not section("contradicted", "reproduced").vetoes
    assert not section("not reproduced", "not reproduced").vetoes
    assert set(STUDIES) == set("abcdef")
