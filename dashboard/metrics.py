"""The metrics that the pages can show: column, unit, colours and how a value is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..analysis.effective import recorded_effective_size
from ..data.schema import COLUMNS


@dataclass(frozen=True)
class Metric:
    """One quantity per layer and timestep.

    Args:
        name: its word in a link.
        title: its name at the start of a title.
        symbol: its name on a switch.
        unit: unit of its values.
        column: column of the record; empty when it is computed from others.
        error: column with its standard error; empty when there is none.
        colours: plotly colour map, this metric's own in every figure.
        log: drawn on a log axis; an exact 0 is then named, not drawn.
        span: fixed colour range; from the whole run if None.
        decimals: digits behind the point.
        percent: written as a percentage.
        absent: why a value is missing although the layer was recorded.
        error_of: standard errors of a record's rows where no column has them.
        over_layers: whether the heatmap of all layers offers it.
    """

    name: str
    title: str
    symbol: str
    unit: str
    column: str = ""
    error: str = ""
    colours: str = "Viridis"
    log: bool = False
    span: tuple[float, float] | None = None
    decimals: int = 3
    percent: bool = False
    absent: str = "no finite value of u"
    error_of: Callable[[pd.DataFrame], np.ndarray] | None = None
    over_layers: bool = True

    def show(self, value: float, error: float = math.nan) -> str:
        """Return a value as text, with its standard error if there is one.

        Args:
            value: the value, in :attr:`unit`.
            error: its standard error, in the same unit.

        Returns:
            The text; "none" for a missing value.

        Example:
            >>> METRICS["coverage"].show(0.4321, 0.01), METRICS["gradient"].show(0.00123)
            ('43.2 % ± 1.0 %', '1.23e-03')
        """
        if not math.isfinite(value):
            return "none"
        digits = self._digits(value or error)
        text = self._number(value, digits)
        return f"{text} ± {self._number(error, digits)}" if math.isfinite(error) else text

    def _digits(self, size: float) -> int:
        """Return the digits behind the point: a rare event must not look like none at all."""
        if not math.isfinite(size) or size == 0:
            return self.decimals
        return min(max(self.decimals, 1 - math.floor(math.log10(abs(size)))), 8)

    def _number(self, value: float, digits: int) -> str:
        if self.percent:
            return f"{100 * value:.1f} %"
        return f"{value:.2e}" if self.log else f"{value:.{digits}f}"


def _gain_error(table: pd.DataFrame) -> np.ndarray:
    """Return the standard error of E[s] from E[s^2] and what the recorded values are worth."""
    mean = table["surrogate_mean"].to_numpy(dtype=float)
    spread = np.sqrt(np.maximum(table["surrogate_square"].to_numpy(dtype=float) - mean**2, 0.0))
    size = effective_sizes(table)
    unknown = np.full(len(table), np.nan)
    return np.asarray(np.divide(spread, np.sqrt(size), out=unknown, where=size > 0))


def effective_sizes(table: pd.DataFrame) -> np.ndarray:
    """Return how many independent values each row of a record is worth; 0 where it is not known.

    Args:
        table: rows of ``Run.table()``.

    Returns:
        ``[rows]`` effective sizes.
    """
    sizes = np.zeros(len(table))
    needed = ["u_var", "u_sample_var", "samples", "count"]
    rows = table[needed].to_numpy(dtype=float)
    known = np.isfinite(rows).all(axis=1) & (rows[:, 3] >= rows[:, 2]) & (rows[:, 2] > 0)
    for also in ("rate", "coverage"):
        names = [f"{also}_sample_mean", f"{also}_sample_var"]
        # A layer without a surrogate has no coverage; the other figures still tell.
        if np.isfinite(table.loc[known, names].to_numpy(dtype=float)).all():
            needed += names
    chosen = table[known]
    sizes[known] = recorded_effective_size({name: chosen[name].to_numpy() for name in needed})
    return sizes


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "coverage",
            "Gradient coverage",
            "coverage",
            COLUMNS["coverage"].unit,
            "coverage",
            "coverage_se",
            colours="Cividis",
            span=(0.0, 1.0),
            percent=True,
        ),
        Metric(
            "rate",
            "Firing rate",
            "firing rate",
            COLUMNS["rate"].unit,
            "rate",
            "rate_se",
            colours="Viridis",
        ),
        Metric(
            "gradient",
            "Gradient |dL/du| (rms)",
            "|dL/du|",
            COLUMNS["grad_u_rms"].unit,
            "grad_u_rms",
            "grad_u_rms_se",
            colours="Inferno",
            log=True,
            absent="no gradient was recorded",
        ),
        Metric(
            "gain",
            "Surrogate gain E[s]",
            "surrogate gain",
            COLUMNS["surrogate_mean"].unit,
            "surrogate_mean",
            colours="Magma",
            absent="no surrogate is known",
            error_of=_gain_error,
            over_layers=False,
        ),
        # No error here: the timesteps share their samples, and that covariance is not recorded.
        Metric(
            "drift",
            "Drift of mean u from the last t",
            "drift",
            "thresholds",
            colours="PuOr",
        ),
    )
}


def metric_values(
    table: pd.DataFrame, metric: Metric, scales: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric for every row of a record, and its standard error.

    Args:
        table: rows of ``Run.table()``, one mode.
        metric: one of :data:`METRICS`.
        scales: potential that one threshold stands for, by layer.

    Returns:
        ``(values, errors)``, each ``[rows]``, in the metric's unit; NaN where there is none.
    """
    if metric.column:
        values = table[metric.column].to_numpy(dtype=float)
    else:
        last = table.groupby(["step", "layer"], sort=False)["u_mean"].transform("last")
        scale = table["layer"].map(scales).to_numpy(dtype=float)
        values = ((table["u_mean"] - last) / scale).to_numpy(dtype=float)
    if metric.error:
        return values, table[metric.error].to_numpy(dtype=float)
    if metric.error_of is not None:
        return values, metric.error_of(table)
    return values, np.full(len(table), np.nan)
