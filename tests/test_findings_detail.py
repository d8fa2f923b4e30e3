"""One finding spelt out in the dashboard: what would help, by how much, and what would not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from plotly.utils import PlotlyJSONEncoder

from spikescope.analysis.findings import Advice, Finding
from spikescope.dashboard.pages.findings import detail
from spikescope.dashboard.view import View

WIDTH = Advice(
    "surrogate width", True, "Width 0.9 takes coverage from 2.2% to 99%.", "coverage", 0.0224,
    0.99, "exact at the current weights",
)  # fmt: skip
THRESHOLD = Advice("threshold", False, "A threshold of 1.21 hardly would.", "rate", 0.2, 0.17)
DECAY = Advice("decay", True, "A longer memory keeps more.", "factor per timestep", 0.31)
LINT = Advice("lint", True, "Run spikescope lint.")
FINDING = Finding(
    "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper",
    ("surrogate width", "start potential"), (WIDTH, THRESHOLD),
)  # fmt: skip


def lines(finding: Finding) -> list[str]:
    """Return the texts of the detail in the order of the page."""

    def texts(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        if isinstance(part, list):
            return [text for entry in part for text in texts(entry)]
        return texts(part["props"].get("children") or []) if isinstance(part, dict) else []

    drawn = detail(finding, View(run="one", page="findings"))
    return texts(json.loads(json.dumps(drawn, cls=PlotlyJSONEncoder)))


def test_what_helps_comes_with_its_prediction_before_what_does_not() -> None:
    said = lines(FINDING)
    helps, not_helps = said.index("What would help"), said.index("What would not help")
    assert helps < said.index(WIDTH.text) < not_helps < said.index(THRESHOLD.text)
    assert "coverage: 0.0224 now → 0.99 predicted; exact at the current weights" in said
    assert "rate: 0.2 now → 0.17 predicted" in said
    # A remedy that is only named is not lost, one that was spelt out is not repeated.
    assert "Would help, too: start potential" in said


def test_what_is_not_predicted_is_not_shown_as_a_number() -> None:
    said = lines(replace(FINDING, remedies=("decay", "lint"), advice=(DECAY, LINT)))
    assert "factor per timestep: 0.31 now" in said
    assert said[said.index(LINT.text) + 1].startswith("Source")
    assert "What would not help" not in said
    assert not any(text.startswith("Would help") for text in said)


def test_without_advice_the_names_stay() -> None:
    said = lines(replace(FINDING, advice=()))
    assert "Would help: surrogate width, start potential" in said
    assert "What would help" not in said
