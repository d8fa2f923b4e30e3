"""What healthy runs show of the figures that the rules compare: the numbers beside the bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

import spikescope
from spikescope.analysis.findings import (
    RULES,
    Evidence,
    rules_capture,
    rules_gradient,
    rules_learned,
    rules_membrane,
    rules_precision,
    rules_prediction,
    rules_rate,
    rules_regime,
    rules_training,
)

from .bench import Until
from .healthy import HEALTHY

EXTREMES = Path(__file__).with_name("results") / "calibration.json"

Figures = Callable[[Evidence], Iterator[float]]


@dataclass(frozen=True)
class Extreme:
    """What one bound is compared with.

    Args:
        module: where the constant lies.
        highest: whether the rule fires above the bound.
        figure: the figure in words.
        code: rule whose findings carry the figure, made to fire whatever it is.
        opened: what to set in the module so that it does.
        figures: the figures of a run, where no finding carries them.
    """

    module: ModuleType
    highest: bool
    figure: str
    code: str = ""
    opened: dict[str, Any] = field(default_factory=dict)
    figures: Figures | None = None

    def of(self, evidence: Evidence) -> list[float]:
        """Return the figures of a run."""
        if self.figures is not None:
            return list(self.figures(evidence))
        (rule,) = (rule for rule in RULES if rule.code == self.code)
        with mock.patch.multiple(self.module, **self.opened):
            return [finding.measured for finding in rule.check(evidence)]


def reachable(evidence: Evidence) -> Iterator[float]:
    """Coverage over what the window could have, where G1 asks for it."""
    figure = evidence.pooled("coverage", "coverage_se")
    for place, t in np.argwhere(figure.high < rules_gradient.COVERAGE_WARNING):
        yield float(figure.value[place, t]) / rules_gradient._reachable(evidence, place, t)


def removable(evidence: Evidence) -> Iterator[float]:
    """Share that a start potential removes of a shift that is large enough for a warning."""
    drifts = rules_membrane._drifts(evidence)
    for layer in evidence.layers:
        drift = drifts.get(layer.name)
        if drift is None or drift.difference.w1.max() < rules_membrane.DRIFT_WARNING:
            continue
        yield rules_membrane._removable(evidence, layer, drift)[0]


def felt(evidence: Evidence, behind_norm: bool) -> Iterator[float]:
    """Index of the scale of the spikes, of layers with or without a batch norm behind them."""
    normed = {series.layer for series in evidence.vitals.every("norm_shift")}
    for series in evidence.vitals.every("scale_felt"):
        place = evidence.place.get(series.layer)
        if place is None:
            continue
        follows = evidence.names[place + 1 : place + 2]
        if bool(normed & set(follows)) == behind_norm:
            yield float(series.figure.value)


CALIBRATED = {
    "COVERAGE_WARNING": Extreme(
        rules_gradient, False, "coverage", "G1", {"COVERAGE_WARNING": np.inf}
    ),
    "REACHABLE_WARNING": Extreme(
        rules_gradient, False, "coverage below 15 %, over what could be", figures=reachable
    ),
    "GAIN_WARNING": Extreme(
        rules_gradient, False, "rms of the surrogate", "G4", {"GAIN_WARNING": np.inf}
    ),
    "NARROW_WARNING": Extreme(
        rules_gradient, False, "share that carries the gradient", "S10", {"NARROW_WARNING": np.inf}
    ),
    "TOO_WIDE_WARNING": Extreme(
        rules_gradient, True, "width over rms of u - threshold", "S11", {"TOO_WIDE_WARNING": -1.0}
    ),
    "UPDATE_WARNING": Extreme(
        rules_precision, True, "update over weight", "G12", {"UPDATE_WARNING": 0.0}
    ),
    "EARLY_WARNING": Extreme(
        rules_precision,
        True,
        "norms of the weight moved in the first quarter",
        "G12",
        {
            "UPDATE_WARNING": 0.0,
            "EARLY_WARNING": 0.0,
            "_too_large": rules_precision._overwritten,  # asked only where the former is silent
        },
    ),
    "LAYERS_NOTE": Extreme(
        rules_rate, False, "rate of the quietest layer over the busiest", "R4",
        {"LAYERS_NOTE": np.inf},
    ),
    "PREDICTED_NOTE": Extreme(
        rules_prediction, True, "factor between recorded and predicted rate", "R5",
        {"PREDICTED_NOTE": 0.0, "MOST_PREDICTED": 1000},
    ),
    "MOVING_WARNING": Extreme(
        rules_regime, True, "thresholds between the halves of training", "M2",
        {"MOVING_NOTE": -1.0},
    ),
    "DRIFT_WARNING": Extreme(
        rules_membrane, True, "thresholds between t and T", "M1", {"DRIFT_NOTE": -1.0}
    ),
    "REMOVABLE_WARNING": Extreme(
        rules_membrane, True, "removable share of a shift of half a threshold and more",
        figures=removable,
    ),
    "SHIFT_WARNING": Extreme(
        rules_training, True, "standard deviations between t and all", "T4",
        {"SHIFT_WARNING": -1.0},
    ),
    "RUNNING_WARNING": Extreme(
        rules_training, True, "lag of the running statistics", "T5", {"RUNNING_WARNING": 1e-9}
    ),
    "RESIDUAL_WARNING": Extreme(
        rules_capture, True, "unexplained share of dL/du", "P2", {"RESIDUAL_WARNING": -1.0}
    ),
    "ABSORBED_NOTE": Extreme(
        rules_learned, False, "index of the scale, no batch norm behind",
        figures=lambda evidence: felt(evidence, behind_norm=False),
    ),
    "ABSORBED_NOTE, batch norm behind": Extreme(
        rules_learned, True, "index of the scale, batch norm behind",
        figures=lambda evidence: felt(evidence, behind_norm=True),
    ),
}  # fmt: skip
"""By constant; what follows a comma tells two figures of one constant apart."""


def extremes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the extreme of each figure over the healthy runs kept in a folder.

    As in the benchmark a run counts twice: as it ended, and as it was after half of its records.
    """
    told: dict[str, list[tuple[float, str]]] = {constant: [] for constant in CALIBRATED}
    for name in HEALTHY:
        path = folder / f"healthy {name}".replace("/", "over")
        whole = Evidence(spikescope.open_run(path))
        half = Evidence(Until(path, int(whole.steps[len(whole.steps) // 2])))
        for constant, extreme in CALIBRATED.items():
            pick = max if extreme.highest else min
            figures = [x for part in (whole, half) for x in extreme.of(part) if np.isfinite(x)]
            if figures:
                told[constant].append((pick(figures), name))
    return {
        constant: _row(CALIBRATED[constant], sorted(runs, reverse=CALIBRATED[constant].highest))
        for constant, runs in told.items()
        if runs
    }


def _row(extreme: Extreme, runs: list[tuple[float, str]]) -> dict[str, Any]:
    (value, name), *others = runs
    return {
        "module": extreme.module.__name__.rpartition(".")[2],
        "figure": extreme.figure,
        "side": "highest" if extreme.highest else "lowest",
        "value": float(f"{value:.3g}"),
        "run": name,
        "next": float(f"{others[0][0]:.3g}") if others else None,
        "runs": len(runs),
    }


def write(folder: Path) -> None:
    """Write the extremes and print them."""
    found = extremes(folder)
    for constant, row in found.items():
        of_run = f"{row['run']}; next {row['next']}, of {row['runs']} runs"
        print(f"{constant:34} {row['side']:8} {row['value']:<8g} {of_run}")
    EXTREMES.write_text(json.dumps(found, indent=1) + "\n")
