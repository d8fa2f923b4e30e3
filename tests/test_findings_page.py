"""The page of the catalogue is that of the rules; findings as a command, stored, and live."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from findings_cases import NAMES, Made, write
from torch import nn
from typer.testing import CliRunner

import spikescope
from spikescope.analysis.findings import RULES, Finding
from spikescope.analysis.findings.examples import EXAMPLES
from spikescope.analysis.findings.lint_rows import LINT
from spikescope.analysis.findings.page import PAGE, page
from spikescope.analysis.findings.report import (
    FINDING_KEYS,
    FOLDER_KEYS,
    REPORT_KEYS,
    aggregate,
    report,
)
from spikescope.cli import app
from spikescope.data.vitals import VITALS
from spikescope.probes import live_findings
from spikescope.probes.lif import LIF
from spikescope.probes.lint import SEVERITY, TITLES

runner = CliRunner()


def low_coverage(entry: dict[str, Any], k: int) -> None:
    if k == 1 and entry["step"] >= 100:
        entry |= {"covered": 64, "coverage_sample_mean": 0.01, "coverage_sample_var": 1e-9}


def make(folder: Path, change: Any = low_coverage, **spec: Any) -> spikescope.Run:
    def header(content: dict[str, Any]) -> None:
        for layer in content["layers"]:
            layer["spec"] = {**layer["spec"], **spec}

    return write(folder, Made(change=change, header=header))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m spikescope.analysis.findings"


def test_the_page_names_every_rule_with_bounds_source_remedy_and_example() -> None:
    text = page()
    for rule in RULES:
        assert f"### {rule.code}: {rule.title}" in text
        assert rule.bounds, rule.code
        assert all(bound.why and bound.unit for bound in rule.bounds), rule.code
        assert rule.source in text
        assert rule.remedy in text
        assert EXAMPLES[rule.code] in text
        assert re.search(r"\d", EXAMPLES[rule.code])
    assert set(EXAMPLES) == {rule.code for rule in RULES}
    assert len({rule.code for rule in RULES}) == len(RULES)


def test_the_lints_rows_are_those_of_the_lint() -> None:
    assert {code: row[0] for code, row in LINT.items()} == TITLES
    assert {code: row[2] for code, row in LINT.items()} == SEVERITY


def test_json_has_exactly_the_documented_keys(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    content = report(run, spikescope.diagnose(run))
    assert set(content) == set(REPORT_KEYS)
    assert content["format"] == 1
    (finding,) = [f for f in content["findings"] if f["code"] == "G1"]
    assert set(finding) == set(FINDING_KEYS)
    assert set(finding["advice"][0]) == {
        "remedy", "helps", "text", "quantity", "before", "after", "validity"
    }  # fmt: skip
    out = runner.invoke(app, ["diagnose", str(run.path), "--json"])
    assert json.loads(out.stdout) == json.loads(json.dumps(content))


def test_diagnose_of_one_layer_and_of_late_steps(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    assert [f.code for f in spikescope.diagnose(run, layer=NAMES[1])] == ["G1"]
    assert spikescope.diagnose(run, layer=NAMES[0]) == []
    (late,) = spikescope.diagnose(run, since=200)
    assert late.steps == (200, 310)
    with pytest.raises(ValueError, match="layer 'x' is not in run"):
        spikescope.diagnose(run, layer="x")
    with pytest.raises(ValueError, match="since=-1"):
        spikescope.diagnose(run, since=-1)
    shown = runner.invoke(app, ["diagnose", str(run.path), "--layer", NAMES[0], "--json"])
    assert json.loads(shown.stdout)["findings"] == []
    shown = runner.invoke(app, ["diagnose", str(run.path), "--since", "200", "--json"])
    assert json.loads(shown.stdout)["findings"][0]["steps"] == [200, 310]
    assert runner.invoke(app, ["diagnose", str(run.path), "--fail-on", "error"]).exit_code == 1


def test_a_folder_is_aggregated(tmp_path: Path) -> None:
    for k in range(4):
        run = make(tmp_path / "bad" / str(k), decay=0.9, rest=0.0)
        run.path.rename(tmp_path / f"bad {k}")
        run = make(tmp_path / "good" / str(k), change=None)
        run.path.rename(tmp_path / f"good {k}")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    out = runner.invoke(app, ["diagnose", str(tmp_path), "--json"])
    content = json.loads(out.stdout)
    assert set(content) == set(FOLDER_KEYS)
    assert len(content["runs"]) == 8
    assert [entry["run"] for entry in content["unreadable"]] == ["torn"]
    row = next(row for row in content["aggregate"] if row["code"] == "G1")
    assert (row["runs"], row["of"], row["severity"]) == (4, 8, "error")
    assert row["layers"] == {NAMES[1]: 4}
    first = row["settings"][0]
    assert (first["setting"], first["value"], first["with"], first["of"]) == ("decay", "0.9", 4, 4)
    assert first["p_value"] == pytest.approx(1 / 70)  # 1 of 8-choose-4 arrangements
    table = runner.invoke(app, ["diagnose", str(tmp_path)])
    assert "4 of 8" in table.stdout
    assert aggregate([]) == []


def training(path: Path, **settings: Any) -> tuple[spikescope.Probe, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), LIF(threshold=50.0), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spikescope.watch(model, path, every=1, **settings) as probe:
        for _ in range(10):
            loss = model(torch.rand(3, 5, 4)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            probe.step(loss=loss)
    return probe, model.state_dict()


def test_findings_are_kept_with_the_run_and_told(tmp_path: Path) -> None:
    told: list[Finding] = []
    probe, _ = training(tmp_path / "run", on_findings=told.extend)
    now = probe.findings()
    assert "R1" in {finding.code for finding in now}
    assert told == now
    assert probe.path is not None
    kept = spikescope.open_run(probe.path).judgement("findings")["findings"]
    assert [Finding.from_dict(entry) for entry in kept] == now
    assert spikescope.open_run(probe.path).judgement("lint") == {"findings": []}


def test_a_callback_that_fails_changes_nothing(tmp_path: Path) -> None:
    def fail(found: list[Finding]) -> None:
        raise RuntimeError("mine")

    _, plain = training(tmp_path / "plain")
    with pytest.warns(
        spikescope.SpikescopeWarning, match="not called any more: RuntimeError: mine"
    ):
        probe, watched = training(tmp_path / "run", on_findings=fail)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert probe.path is not None
    assert spikescope.open_run(probe.path).state == "finished"


def test_new_findings_are_told_once(tmp_path: Path) -> None:
    told: list[list[Finding]] = []
    live = live_findings.LiveFindings(tmp_path / "nothing", told.append, pause=60.0)
    live.close()
    one = spikescope.diagnose(make(tmp_path / "a"))
    live.tell(one)
    live.tell(one)
    live.tell([])
    assert told == [one]


def test_every_recorded_quantity_has_a_meaning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # The axis of the samples is taken for channels: any norm will do here.
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(5), LIF(), nn.Linear(8, 2))
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        model(torch.rand(6, 5, 4)).sum().backward()
        probe.step()
    assert probe.path is not None
    vitals = spikescope.open_run(probe.path).vitals()
    assert set(vitals["quantity"]) <= set(VITALS)
    layer = vitals[vitals["quantity"] == "dead_units"]["layer"].tolist()
    assert layer == ["2"]
    feeds = vitals[vitals["quantity"] == "value_norm"].set_index("name")["layer"].to_dict()
    assert feeds["0.weight"] == "2"
    assert feeds["3.weight"] == ""
