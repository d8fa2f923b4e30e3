"""What an attribution says, and by how much it fails to add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

GAP_BOUND = 0.1
"""Largest completeness gap, as a share of the output's change, that passes for faithful.

Integrated gradients of a smooth network meet it with a few integration points; surrogate gradients
are not the derivative of the network and miss it by any factor.
"""

RESAMPLES = 400
CONFIDENCE = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """How far the attribution of one layer can be trusted.

    Args:
        layer: name of the layer.
        output_change: change of the output between baseline and input, mean over the samples.
        attributed: sum of the attributions, mean over the samples.
        gap: mean distance between the two over the mean size of the change; 0 is complete.
        gap_error: its standard error over the samples.
        agreement: rank correlation with the ablation of each timestep, over timesteps and classes.
        agreement_low: lower end of its 95 % interval over the samples.
        agreement_high: upper end.
        stability: mean rank correlation with the attribution from noise baselines; NaN if none.
    """

    layer: str
    output_change: float
    attributed: float
    gap: float
    gap_error: float
    agreement: float
    agreement_low: float
    agreement_high: float
    stability: float

    @property
    def faithful(self) -> bool:
        """Whether the attributions add up to the output's change within :data:`GAP_BOUND`."""
        return bool(self.gap <= GAP_BOUND)


@dataclass(frozen=True)
class Attribution:
    """Attribution of a model's output to the timesteps of its layers.

    Args:
        method: name of the method.
        classes: classes whose output was attributed.
        scores: per layer ``[class, sample, t]``, summed over the units, in units of the output.
        ablation: per layer ``[class, sample, t]``: how the output falls when the layer is silent
            at t alone; the measured truth beside the scores.
        output_change: per layer ``[class, sample]``: the change that the scores should add up to.
        noise: per layer ``[baseline, class, sample, t]``: scores from noise baselines.
        inputs: attribution of the input ``[class, sample, ...]``; None if it was not asked for.
        settings: how it was computed.
        notes: what a reader should know.
    """

    method: str
    classes: tuple[int, ...]
    scores: Mapping[str, Array]
    ablation: Mapping[str, Array]
    output_change: Mapping[str, Array]
    noise: Mapping[str, Array] = field(default_factory=dict)
    inputs: Array | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in the order of the model."""
        return tuple(self.scores)

    @property
    def faithful(self) -> bool:
        """Whether every layer's attributions add up."""
        gaps = (self._gap(layer)[0] for layer in self.layers)
        return all(gap <= GAP_BOUND for gap in gaps)

    @property
    def badge(self) -> str:
        """Two words for a heading: what is measured by ablation is true, but may not add up."""
        if self.faithful:
            return "adds up"
        return "not additive" if self.method in ("ablation", "occlusion") else "not faithful"

    def table(self) -> pd.DataFrame:
        """Return a row per (layer, class, t).

        Returns:
            Columns ``layer, class, t, score, score_se, ablation, ablation_se`` in units of the
            output; means over the samples with their standard errors (NaN for one sample).
        """
        rows = []
        for layer in self.layers:
            for c, label in enumerate(self.classes):
                score, ablated = self.scores[layer][c], self.ablation[layer][c]
                for t in range(score.shape[-1]):
                    rows.append(
                        {
                            "layer": layer,
                            "class": label,
                            "t": t + 1,
                            "score": float(score[:, t].mean()),
                            "score_se": standard_error(score[:, t]),
                            "ablation": float(ablated[:, t].mean()),
                            "ablation_se": standard_error(ablated[:, t]),
                        }
                    )
        return pd.DataFrame(rows)

    def checks(self) -> tuple[Check, ...]:
        """Return how far each layer's attribution can be trusted."""
        return tuple(self._check(layer) for layer in self.layers)

    def _gap(self, layer: str) -> tuple[float, float]:
        attributed = self.scores[layer].sum(-1)
        return completeness_gap(attributed.ravel(), self.output_change[layer].ravel())

    def _check(self, layer: str) -> Check:
        scores, change = self.scores[layer], self.output_change[layer]
        gap, gap_error = self._gap(layer)
        agreement = rank_agreement(scores, self.ablation[layer])
        noise = self.noise.get(layer)
        stability = float("nan")
        if noise is not None and len(noise):
            mine = scores.mean(1).ravel()
            found = [float(_spearman(mine, other.mean(1).ravel())) for other in noise]
            stability = float(np.mean(found))
        return Check(
            layer,
            float(change.mean()),
            float(scores.sum(-1).mean()),
            gap,
            gap_error,
            *agreement,
            stability,
        )


def standard_error(values: Array) -> float:
    """Return the standard error of a mean over independent samples; NaN for one sample."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def completeness_gap(attributed: Array, change: Array) -> tuple[float, float]:
    """Return how far sums of attributions miss the output's change.

    Args:
        attributed: sum of the attributions of each sample, ``[sample]``, in units of the output.
        change: output at the input less output at the baseline, ``[sample]``, same unit.

    Returns:
        Mean distance over mean size of the change, and its standard error over the samples
        (delta method; NaN for one sample). 0 and 0 where nothing changed and nothing was said;
        infinity where something was said of no change.

    Example:
        >>> completeness_gap(np.array([1.5, 2.0]), np.array([1.0, 2.0]))[0]
        0.16666666666666666

    Source:
        Sundararajan, Taly and Yan 2017 (ICML), completeness axiom.
    """
    if not (np.isfinite(attributed).all() and np.isfinite(change).all()):
        return float("nan"), float("nan")
    distance, size = np.abs(attributed - change), np.abs(change)
    if size.mean() == 0.0:
        return (0.0, 0.0) if distance.mean() == 0.0 else (float("inf"), float("nan"))
    gap = float(distance.mean() / size.mean())
    return gap, standard_error((distance - gap * size) / size.mean())


def rank_agreement(scores: Array, truth: Array) -> tuple[float, float, float]:
    """Return the rank correlation of two maps over (class, t), and its interval over samples.

    Args:
        scores: ``[class, sample, t]``.
        truth: ``[class, sample, t]``, same unit.

    Returns:
        Spearman's correlation of the means over samples, lower and upper end of its 95 %
        percentile bootstrap interval; NaN where a map is constant or holds fewer than 3 cells.

    Example:
        >>> maps = np.arange(12.0).reshape(1, 3, 4)
        >>> rank_agreement(maps, 2.0 * maps)
        (1.0, 1.0, 1.0)

    Source:
        Efron and Tibshirani 1993, chapter 13, percentile interval.
    """
    if scores.shape[0] * scores.shape[2] < 3:
        return float("nan"), float("nan"), float("nan")
    whole = float(_spearman(scores.mean(1).ravel(), truth.mean(1).ravel()))
    samples = scores.shape[1]
    if samples < 2:
        return whole, float("nan"), float("nan")
    drawn = np.random.default_rng(0).multinomial(samples, [1.0 / samples] * samples, RESAMPLES)
    one, other = (
        np.einsum("rs,cst->rct", drawn / samples, maps).reshape(RESAMPLES, -1)
        for maps in (scores, truth)
    )
    values = _spearman(one, other)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return whole, float("nan"), float("nan")
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return whole, float(low), float(high)


def _spearman(a: Array, b: Array) -> Any:
    """Return the rank correlation along the last axis; NaN for a constant or unknown row."""
    ranks = [stats.rankdata(values, axis=-1) for values in (a, b)]
    x, y = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    size = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    known = np.isfinite(a).all(-1) & np.isfinite(b).all(-1) & (size > 0.0) & (a.shape[-1] > 2)
    return np.where(known, (x * y).sum(-1) / np.where(size > 0.0, size, 1.0), np.nan)
