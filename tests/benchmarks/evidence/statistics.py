"""From results over seeds to a verdict: error bars, significance, and the power of the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

Verdict = Literal["reproduced", "not reproduced", "contradicted", "not run"]

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Claim:
    """One claim, and what the study says about it.

    Args:
        study: letter of the study.
        name: short name, used in the machine-readable conclusions.
        text: the claim in one sentence.
        verdict: ``"reproduced"``: the effect has the claimed sign at the 5 % level (one-sided);
            ``"contradicted"``: it has the other sign at that level; ``"not reproduced"``: neither.
        effect: mean over seeds of what is claimed to be positive.
        error: its standard error over seeds.
        detectable: effect that this test would have found with 80 % power.
        seeds: number of seeds.
        unit: unit of effect, error and detectable.
        remedy: the kind of recommendation that the claim speaks for, if any.
        detail: numbers in words.
    """

    study: str
    name: str
    text: str
    verdict: Verdict
    effect: float = math.nan
    error: float = math.nan
    detectable: float = math.nan
    seeds: int = 0
    unit: str = ""
    remedy: str = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; what is not known is None."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the finite values and its standard error; NaN where there is none.

    Example:
        >>> mean_and_error([1.0, 2.0, 3.0])
        (2.0, 0.5773502691896258)
    """
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    if len(array) < 2:
        return (float(array.mean()) if len(array) else math.nan), math.nan
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array)))


def detectable(error: float, seeds: int) -> float:
    """Return the effect that a one-sided test at 5 % finds with 80 % power.

    Example:
        >>> round(detectable(1.0, 5), 2)
        3.07
    """
    if seeds < 2 or not error > 0:
        return math.nan
    freedom = seeds - 1
    return float(error * (stats.t.isf(LEVEL, freedom) + stats.t.ppf(POWER, freedom)))


def judge(
    study: str, name: str, text: str, effects: Sequence[float], unit: str = "", **more: Any
) -> Claim:
    """Return the verdict on a claim that an effect is positive.

    Args:
        study: letter of the study.
        name: short name.
        text: the claim.
        effects: one value per seed, positive if the claim holds.
        unit: unit of the effects.
        more: further fields of :class:`Claim`.
    """
    known = [float(value) for value in effects if math.isfinite(value)]
    effect, error = mean_and_error(known)
    return Claim(
        study,
        name,
        text,
        _verdict(effect, error, len(known)),
        effect,
        error,
        detectable(error, len(known)),
        len(known),
        unit,
        **more,
    )


def _verdict(effect: float, error: float, seeds: int) -> Verdict:
    if seeds < 2:
        return "not run"
    if error == 0.0:
        signs: dict[int, Verdict] = {1: "reproduced", -1: "contradicted"}
        return signs.get(int(np.sign(effect)), "not reproduced")
    p = float(stats.t.sf(effect / error, seeds - 1))
    if p < LEVEL:
        return "reproduced"
    return "contradicted" if p > 1.0 - LEVEL else "not reproduced"


@dataclass
class Section:
    """What a study puts into the report.

    Args:
        title: heading.
        text: paragraphs of Markdown.
        claims: verdicts.
        plots: file names.
        vetoes: kinds of recommendation that the study contradicts, with the reason.
    """

    title: str
    text: list[str]
    claims: list[Claim] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    vetoes: dict[str, str] = field(default_factory=dict)
