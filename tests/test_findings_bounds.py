"""Every rule of the catalogue at its bounds, and how its texts read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from findings_cases import CASES, Case, write

import spikescope
from spikescope.analysis.findings import RULES, Evidence, Finding

BY_CODE = {rule.code: rule for rule in RULES}
EACH = [
    pytest.param(rule.code, case, id=f"{rule.code}-{number}")
    for rule in RULES
    for number, case in enumerate(CASES.get(rule.code, ()), 1)
]


def found(run: spikescope.Run, code: str) -> list[Finding]:
    return list(BY_CODE[code].check(Evidence(run)))


def test_every_rule_has_a_case_at_each_of_its_severities() -> None:
    for rule in RULES:
        told = {bound.severity for bound in rule.bounds}
        if rule.code == "G1":
            told |= {"note"}  # what is no warning by its last bound
        assert told == {case.severity for case in CASES[rule.code]}, rule.code
    assert set(CASES) == set(BY_CODE)


@pytest.mark.parametrize(("code", "case"), EACH)
def test_just_inside_is_silent_and_just_outside_fires(
    code: str, case: Case, tmp_path: Path
) -> None:
    assert found(write(tmp_path / "inside", case.make(case.inside)), code) == []
    outside = found(write(tmp_path / "outside", case.make(case.outside)), code)
    assert outside, f"{code} is silent at {case.outside}"
    assert {finding.severity for finding in outside} >= {case.severity}
    for finding in outside:
        assert finding.code == code
        assert finding.steps[0] <= finding.steps[1]
        read_aloud(finding)


def read_aloud(finding: Finding) -> None:
    """A text is at most three sentences, holds a number, and advice is something to do."""
    assert 1 <= len(sentences(finding.text)) <= 3, finding.text
    assert re.search(r"\d", finding.text), finding.text
    assert finding.text.endswith("."), finding.text
    assert "nan" not in finding.text.split(), finding.text
    assert finding.source
    for advice in finding.advice:
        assert 1 <= len(sentences(advice.text)) <= 2, advice.text
        assert re.search(r"\d|\(|'", advice.text), advice.text
        assert advice.text[0].isupper(), advice.text
        assert advice.text.endswith("."), advice.text
        assert (advice.after is None) or advice.quantity, advice
    helping = {advice.remedy for advice in finding.advice if advice.helps}
    refused = {advice.remedy for advice in finding.advice} - helping
    assert not refused & set(finding.remedies), "a remedy that would not help is named as one"
    again = Finding.from_dict(json.loads(json.dumps(finding.to_dict(), allow_nan=False)))
    assert again.text == finding.text


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])\s+(?=[A-Z'\d])", text) if part]


def test_sentences_are_counted() -> None:
    assert len(sentences("It is 0.5 of 1.0. Now what? Yes, t = 1.")) == 3
    assert len(sentences("It is 0.5; e.g. this.")) == 1


def test_a_gradient_with_a_clear_mean_is_no_walk(tmp_path: Path) -> None:
    noisy = CASES["G10"][0].make(0.05)
    assert found(write(tmp_path / "noisy", noisy), "G10")
    clear = CASES["G10"][0].make(0.05)
    clear.vitals = [
        (layer, name, quantity, value + 1.0 if quantity == "gradient_mean" else value, t)
        for layer, name, quantity, value, t in clear.vitals
    ]
    assert found(write(tmp_path / "clear", clear), "G10") == []


def test_an_unsteady_figure_does_not_fire_where_a_steady_one_does(tmp_path: Path) -> None:
    steady = CASES["M5"][0].make(0.96)
    assert found(write(tmp_path / "steady", steady), "M5")
    unsteady = CASES["M5"][0].make(0.96)
    wave = 0.96 + 0.04 * np.where(np.arange(32) % 2, 1.0, -1.0)
    unsteady.vitals = [(layer, name, q, wave, t) for layer, name, q, _, t in unsteady.vitals]
    assert found(write(tmp_path / "unsteady", unsteady), "M5") == []
