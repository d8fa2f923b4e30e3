"""The stationary law of one layer as plain numbers with units, for a table or for JSON."""

from __future__ import annotations

import math
from typing import Any

from .layer_laws import ROUNDING
from .stationary import StationaryLaw

UNITS: dict[str, str] = {
    "mean_u": "potential",
    "std_u": "potential",
    "rate": "spikes per unit and timestep",
    "mean_v": "potential",
    "std_v": "potential",
    "coverage": "share of units",
    "lambda_2_real": "1",
    "lambda_2_imag": "1",
    "lambda_2_abs": "1",
    "steps_to_tv_0.1_from_start": "timesteps",
    "steps_to_tv_0.01_from_start": "timesteps",
    "steps_to_tv_0.1_from_best_start": "timesteps",
    "steps_to_tv_0.01_from_best_start": "timesteps",
    "best_start": "potential",
    "mp_init_all_units": "potential",
    "mp_init_active_units": "potential",
    "shift_w1_from_start": "potential",
    "shift_w1_from_best_start": "potential",
    "shift_tv_from_start": "1",
    "shift_tv_from_best_start": "1",
    "removable_share": "share of the shift at t = 1",
}
"""Unit of every figure in the report, in the order of the table."""


def stationary_report(
    law: StationaryLaw, interval: tuple[float, float] | None = None, timesteps: int = 4
) -> dict[str, Any]:
    """Return what a person asks about one layer's stationary law.

    Args:
        law: the law of one layer (shape ``()``).
        interval: potentials (low, high) between which the surrogate's derivative counts; None
            leaves the coverage out.
        timesteps: length T of the window that MP-Init averages over.

    Returns:
        ``{"figures", "errors", "units", "rings", "verdict"}``: figures and their estimated absolute
        errors as plain numbers under the names of :data:`UNITS` (None where a figure does not
        exist or lies beyond what was followed), their units, whether a constant start would ring,
        and one sentence about the regime.

    Raises:
        ValueError: a law of several layers.

    Example:
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.stationary import stationary_law
        >>> report = stationary_report(stationary_law(NeuronSpec(decay=0.9, gain=0.1), 0.5, 2.0))
        >>> {name: round(report["figures"][name], 4) for name in ("rate", "removable_share")}
        {'rate': 0.0233, 'removable_share': 0.4397}
        >>> print(report["verdict"])
        fluctuation-driven: |lambda_2| 0.830 is at most the decay 0.900, the law settles without ringing

    Source:
        Kook et al., arXiv 2511.08708, section 3 (start potential), and the transfer operator's
        second eigenvalue for the rate of approach.
    """  # noqa: E501 - one line of output
    if law.shape != ():
        raise ValueError(f"the report is for one layer: index the input, not shape {law.shape}")
    figures = _figures(law, interval, timesteps)
    if law.coarse is None:
        raise ValueError("this law is itself the coarse one: it has no error estimate")
    coarse = _figures(law.coarse, interval, timesteps)
    errors: dict[str, float | None] = {}
    for name, value in figures.items():
        other = coarse[name]
        errors[name] = None
        if value is not None and other is not None:
            errors[name] = abs(value - other) + ROUNDING * abs(value)
    known = law.error
    renamed = {"mean_u": "mean", "std_u": "std", "rate": "rate", "mean_v": "mean_post",
               "std_v": "std_post"}  # fmt: skip
    errors |= {name: known[figure] for name, figure in renamed.items()}
    for part in ("lambda_2_real", "lambda_2_imag", "lambda_2_abs"):
        errors[part] = _finite(known["lambda_2"])
    return {
        "figures": figures,
        "errors": errors,
        "units": {name: UNITS[name] for name in figures},
        "rings": bool(law.rings),
        "verdict": verdict(law),
    }


def verdict(law: StationaryLaw) -> str:
    """Return one sentence about the regime in which one layer works."""
    second, decay = law.lambda_2, law.units[0].dynamics.decay
    size = f"|lambda_2| {abs(second):.3f}"
    if law.rings:
        return (
            f"nearly periodic: lambda_2 = {second:.3f} turns and {size} exceeds the decay "
            f"{decay:.3f}; a constant start potential would synchronise the units and ring"
        )
    if abs(second) <= decay + 1e-9:
        return (
            f"fluctuation-driven: {size} is at most the decay {decay:.3f}, the law settles "
            "without ringing"
        )
    return f"slowed by the reset: {size} exceeds the decay {decay:.3f}, without ringing"


def _figures(
    law: StationaryLaw, interval: tuple[float, float] | None, timesteps: int
) -> dict[str, float | None]:
    second, shift, best = law.lambda_2, law.removable(), law.best_start
    figures: dict[str, float | None] = {
        "mean_u": law.mean,
        "std_u": law.std,
        "rate": law.rate,
        "mean_v": law.mean_post,
        "std_v": law.std_post,
        "lambda_2_real": second.real,
        "lambda_2_imag": second.imag,
        "lambda_2_abs": abs(second),
        "best_start": best,
        "mp_init_all_units": law.mp_init(timesteps),
        "mp_init_active_units": law.mp_init(timesteps, active_only=True),
        "shift_w1_from_start": shift.w1_before,
        "shift_w1_from_best_start": shift.w1_after,
        "shift_tv_from_start": shift.tv_before,
        "shift_tv_from_best_start": shift.tv_after,
        "removable_share": shift.share,
    }
    for distance in (0.1, 0.01):
        for name, start in (("start", None), ("best_start", best)):
            steps = law.steps_to_tv(distance, start)
            figures[f"steps_to_tv_{distance:g}_from_{name}"] = _finite(steps)
    if interval is not None:
        figures["coverage"] = law.coverage(*interval)
    return {name: figures[name] for name in UNITS if name in figures}


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None
