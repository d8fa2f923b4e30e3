"""G: does gradient arrive, at every layer and every timestep?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .evidence import Evidence, Figure, pool, stretch
from .types import Finding, Severity

COVERAGE_WARNING = 0.15
"""DS-ATGO (arXiv 2511.13050, fig. 11): deep layers of the vanilla network are below 15.13 %."""

COVERAGE_ERROR = 0.05
"""A third of that: 19 of 20 elements pass no gradient on."""

DECAY_WARNING = 0.1
"""Variance ratio of 1e-2, where the stability criterion stops to be fine."""

DECAY_ERROR = 1e-3
"""Variance ratio of 1e-6, where the stability criterion fails."""

G1_SOURCE = "DS-ATGO, arXiv 2511.13050, fig. 11: deep layers of the vanilla network below 15.13 %"
DECAY_SOURCE = (
    "Herranz-Celotti and Rouat, arXiv 2202.00282, condition IV: equal gradient variance; "
    "off by 1e2 warns, by 1e6 fails"
)


def coverage_low(evidence: Evidence) -> Iterator[Finding]:
    """G1: too few elements lie where the surrogate passes gradient on."""
    for layer in evidence.layers:
        figures = {
            t: evidence.figure(layer.name, t, "coverage", "coverage_se")
            for t in evidence.timesteps(layer.name)
        }
        low = {t: figure for t, figure in figures.items() if figure.high < COVERAGE_WARNING}
        if not low:
            continue
        t, worst = min(low.items(), key=lambda entry: entry[1].value)
        severity, bound = _graded(worst.high, COVERAGE_WARNING, COVERAGE_ERROR)
        share, where = _side(evidence, layer.name, t)
        yield Finding(
            code="G1",
            severity=severity,
            layer=layer.name,
            t=t,
            steps=evidence.below_since(layer.name, t, "coverage", bound),
            measured=worst.value,
            error=worst.error,
            bound=bound,
            unit="share of elements",
            text=f"Only {worst.value:.1%} of the elements lie where the surrogate exceeds 1 % of "
            f"its peak at t = {t} ({_timesteps(low, figures)} below {COVERAGE_WARNING:.0%}). "
            f"{share:.0%} of them lie {where} the threshold.",
            source=G1_SOURCE,
            remedies=("surrogate width", "threshold", "start potential"),
        )


def gradient_lost_over_depth(evidence: Evidence) -> Iterator[Finding]:
    """G2: the gradient's norm decays from the last spiking layer towards the first."""
    layers = [layer.name for layer in evidence.layers]
    if len(layers) < 2:
        return
    first, last = layers[0], layers[-1]
    ratios = _log_ratio(_log_norm(evidence.rows(first)), _log_norm(evidence.rows(last)))
    figure = _recent_ratio(evidence, ratios)
    if not figure.high < DECAY_WARNING:
        return
    severity, bound = _graded(figure.high, DECAY_WARNING, DECAY_ERROR)
    per_layer = figure.value ** (1.0 / (len(layers) - 1))
    yield Finding(
        code="G2",
        severity=severity,
        layer=first,
        t=None,
        steps=_below_since(ratios, bound),
        measured=figure.value,
        error=figure.error,
        bound=bound,
        unit="norm of dL/du, first layer over last",
        text=f"The norm of dL/du at {first!r} is {figure.value:.2g} of that at {last!r}: over "
        f"{len(layers)} spiking layers it keeps a factor of {per_layer:.2g} per layer. The early "
        "layers learn slowly or not at all.",
        source=DECAY_SOURCE,
        remedies=("surrogate peak", "surrogate width", "weight scale"),
    )


def gradient_lost_over_time(evidence: Evidence) -> Iterator[Finding]:
    """G3: the gradient decays from the last timestep towards the first."""
    for layer in evidence.layers:
        timesteps = evidence.timesteps(layer.name)
        if len(timesteps) < 2:
            continue
        rows = evidence.rows(layer.name)
        early, late = (_log_norm(rows[rows["t"] == t]) for t in (timesteps[0], timesteps[-1]))
        ratios = _log_ratio(early, late)
        figure = _recent_ratio(evidence, ratios)
        if not figure.high < DECAY_WARNING:
            continue
        severity, bound = _graded(figure.high, DECAY_WARNING, DECAY_ERROR)
        per_step = figure.value ** (1.0 / (len(timesteps) - 1))
        yield Finding(
            code="G3",
            severity=severity,
            layer=layer.name,
            t=timesteps[0],
            steps=_below_since(ratios, bound),
            measured=figure.value,
            error=figure.error,
            bound=bound,
            unit=f"rms of dL/du, t = {timesteps[0]} over t = {timesteps[-1]}",
            text=f"The rms of dL/du at t = {timesteps[0]} is {figure.value:.2g} of that at "
            f"t = {timesteps[-1]}, a factor of {per_step:.2g} per timestep. What the layer did "
            "early in the sequence hardly shapes its weights.",
            source=DECAY_SOURCE,
            remedies=("decay", "surrogate peak", "surrogate width"),
        )


def _graded(high: float, warning: float, error: float) -> tuple[Severity, float]:
    return ("error", error) if high < error else ("warning", warning)


def _timesteps(low: dict[int, Figure], every: dict[int, Figure]) -> str:
    if len(low) == len(every):
        return f"all {len(every)} timesteps"
    return f"{len(low)} of {len(every)} timesteps"


def _side(evidence: Evidence, layer: str, t: int) -> tuple[float, str]:
    """Return on which side of the threshold most elements lie, and their share."""
    rows = evidence.recent(layer)
    rate = float(np.nanmean(rows[rows["t"] == t]["rate"]))
    return (1.0 - rate, "below") if rate < 0.5 else (rate, "above")


def _log_norm(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ln of the norm of dL/du over the rows of each step, and its standard error, by step.

    The timesteps of a record share their samples: their errors add up fully, each with the share
    of the squared norm that its timestep holds.
    """
    square = (rows["grad_u_square"] * rows["grad_u_count"]).groupby(rows["step"])
    total = square.sum(min_count=1)
    weight = rows["grad_u_square"] * rows["grad_u_count"] / rows["step"].map(total)
    error = (weight * rows["grad_u_rms_se"] / rows["grad_u_rms"]).groupby(rows["step"])
    # A gradient that is exactly 0 counts as the smallest number: lost, not unknown.
    smallest = np.finfo(float).tiny
    return pd.DataFrame(
        {
            "value": 0.5 * np.log(total.clip(lower=smallest)),
            "error": error.sum(min_count=1),
            "seen": total > 0,
        }
    )


def _log_ratio(part: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """Return ln(part / whole) with its standard error, where the whole is not 0."""
    known = part.index.intersection(whole.index[whole["seen"]])
    part, whole = part.loc[known], whole.loc[known]
    return pd.DataFrame(
        {
            "value": part["value"] - whole["value"],
            "error": np.hypot(part["error"], whole["error"]),
        }
    ).dropna(subset="value")


def _recent_ratio(evidence: Evidence, ratios: pd.DataFrame) -> Figure:
    """Pool log ratios over the window; the ratio's error follows to first order."""
    recent = ratios[ratios.index >= evidence.window[0]]
    log = pool(recent["value"].to_numpy(), recent["error"].to_numpy())
    ratio = float(np.exp(log.value))
    return Figure(ratio, ratio * log.error)


def _below_since(ratios: pd.DataFrame, bound: float) -> tuple[int, int]:
    return stretch(ratios.index.to_numpy(), (ratios["value"] < np.log(bound)).to_numpy())
