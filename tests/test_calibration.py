"""What the catalogue says about healthy runs is what the planted benchmark measured of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from planted.calibration import CALIBRATED, EXTREMES

import spikescope.analysis.findings as findings

FOLDER = Path(findings.__file__).parent
ROWS: dict[str, dict[str, Any]] = json.loads(EXTREMES.read_text())


def tree(module: str) -> ast.Module:
    return ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))


def told(module: str, constant: str) -> tuple[float, str]:
    """Return a constant and the text under it."""
    body = tree(module).body
    for place, node in enumerate(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == constant:
                text = body[place + 1]
                assert isinstance(text, ast.Expr)
                assert isinstance(text.value, ast.Constant)
                return ast.literal_eval(node.value), " ".join(str(text.value.value).split())
    raise AssertionError(f"{constant} is not in {module}")


def numbers(text: str) -> set[float]:
    return {float(word) for word in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)}


def test_every_figure_was_measured() -> None:
    assert set(ROWS) == set(CALIBRATED)
    for name, row in ROWS.items():
        assert row["module"] == CALIBRATED[name].module.__name__.rpartition(".")[2]
        assert row["figure"] == CALIBRATED[name].figure
        assert (row["side"] == "highest") == CALIBRATED[name].highest


@pytest.mark.parametrize("name", ROWS)
def test_a_docstring_quotes_what_was_measured(name: str) -> None:
    row = ROWS[name]
    _, text = told(row["module"], name.partition(",")[0])
    assert row["value"] in numbers(text), text
    if "next" in text:
        assert row["next"] in numbers(text), text


@pytest.mark.parametrize("module", sorted({row["module"] for row in ROWS.values()}))
def test_no_sentence_on_healthy_runs_is_an_estimate(module: str) -> None:
    measured = {row["value"] for row in ROWS.values() if row["module"] == module}
    said = 0
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.search(r"healthy run", " ".join(node.value.split()), re.IGNORECASE):
                assert numbers(node.value) & measured, node.value
                said += 1
    assert said


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"COVERAGE_WARNING", "DRIFT_WARNING"}))
def test_a_bound_lies_beyond_what_healthy_runs_show(name: str) -> None:
    """The two that are left out warn only together with a second bound, which is not."""
    row = ROWS[name]
    bound, _ = told(row["module"], name.partition(",")[0])
    assert row["value"] > bound if row["side"] == "lowest" else row["value"] < bound
