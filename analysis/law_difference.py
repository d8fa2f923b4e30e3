"""What a comparison of two laws says: distances, null band, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .distance import Null

STATIONARY = "stationary"
DRIFTING = "drifting"
NOT_ENOUGH_DATA = "not enough data"

RESOLUTION = 0.1
"""Wasserstein-1 distance (thresholds) that must have been visible before "stationary" is said."""


@dataclass(frozen=True)
class LawDifference:
    """Distances of pairs of laws with their null band; all arrays ``[...]``.

    Args:
        w1: Wasserstein-1 distance, in the unit of the edges.
        tv: total-variation distance, between 0 and 1.
        w1_null: expected w1 of two samples of one law of these effective sizes.
        w1_band: value that w1 exceeds with probability alpha under one law.
        tv_null: the same as w1_null for tv.
        tv_band: the same as w1_band for tv; too wide where units of a sample hang together.
        p_value: probability of at least this w1 under one law.
        alpha: false-alarm rate of one comparison.
        verdict: ``"stationary"``, ``"drifting"`` or ``"not enough data"``, from w1 alone.
    """

    w1: np.ndarray
    tv: np.ndarray
    w1_null: np.ndarray
    w1_band: np.ndarray
    tv_null: np.ndarray
    tv_band: np.ndarray
    p_value: np.ndarray
    alpha: float
    verdict: np.ndarray

    @property
    def overall(self) -> np.ndarray:
        """Return one verdict for each row over the last axis: any drift counts, ``[...]``."""
        drifting = (self.verdict == DRIFTING).any(axis=-1)
        unknown = (self.verdict == NOT_ENOUGH_DATA).any(axis=-1)
        return np.where(drifting, DRIFTING, np.where(unknown, NOT_ENOUGH_DATA, STATIONARY))


def judge(
    w1: np.ndarray,
    tv: np.ndarray,
    w1_null: Null,
    tv_null: Null,
    freedom: Any,
    known: np.ndarray,
    alpha: float,
    resolution: float,
) -> LawDifference:
    """Return the difference with its verdict; freedom and known say how far the null is trusted."""
    band = w1_null.quantile(1.0 - alpha, freedom)
    p_value = w1_null.exceedance(w1, freedom)
    open_ = ~known | ((p_value >= alpha) & (band > resolution))
    verdict = np.where(open_, NOT_ENOUGH_DATA, np.where(p_value < alpha, DRIFTING, STATIONARY))
    return LawDifference(
        w1=w1,
        tv=tv,
        w1_null=np.asarray(w1_null.mean),
        w1_band=band,
        tv_null=np.asarray(tv_null.mean),
        tv_band=tv_null.quantile(1.0 - alpha, freedom),
        p_value=p_value,
        alpha=alpha,
        verdict=verdict,
    )
