"""Results of attribution studies, made of chosen and of random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikescope.analysis.attribution_result import Attribution
from spikescope.analysis.fidelity import FidelityCurve
from spikescope.analysis.timestep_result import TimestepImportance

LAYERS = ("net.0", "net.1")


def attribution(**changes: Any) -> Attribution:
    random = np.random.default_rng(0)
    maps = {name: random.normal(size=(2, 6, 3)) for name in LAYERS}
    content: dict[str, Any] = {
        "method": "integrated_gradients",
        "classes": (0, 4),
        "scores": maps,
        "ablation": {name: values + 0.1 for name, values in maps.items()},
        "output_change": {name: 3.0 * values.sum(-1) for name, values in maps.items()},
        "inputs": random.normal(size=(2, 5, 3, 1, 4, 4)),
    }
    return Attribution(**{**content, **changes})


def importance(reason: str = "") -> TimestepImportance:
    falls = np.array([[0.1, 0.5, 0.2], [0.2, 0.7, 0.1]])
    return TimestepImportance(falls, (falls < 0.4) * 1.0, np.tri(2, 3, 1), reason)


def curve() -> FidelityCurve:
    return FidelityCurve(
        ("arctan", "arctan", "gaussian"),
        np.array([0.3, 0.5, 0.5]),
        np.ones(3),
        np.array([[1.0, 2.0], [3.0, 1.0], [1.5, 2.0]]),
        np.array([1.0, 2.0]),
        0,
    )
