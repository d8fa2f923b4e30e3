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
        colours: plotly colour map, this metric's own in every heatmap.
        ink: colour of its lines on light and on dark paper, out of the same map.
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
    ink: tuple[str, str] = ("#0b62a8", "#6cb6ff")
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
            ('43.2% ± 1.0%', '1.23e-3')
        """
        if not math.isfinite(value):
            return "none"
        if value == 0 and not error > 0:
            return "0%" if self.percent else "0"
        if self.log:
            return _scientific(value, error)
        if self.percent:
            known = f" ± {_percent(error)}" if error > 0 else ""
            return f"{_percent(value)}{known}"
        digits = self._digits(value, error)
        known = f" ± {error:.{digits}f}" if error > 0 else ""
        return f"{value:.{digits}f}{known}"

    def line(self, theme: str) -> str:
        """Return the colour of this metric's lines in a theme."""
        return self.ink[1 if theme == "dark" else 0]

    def _digits(self, value: float, error: float) -> int:
        """Return the digits behind the point: neither a rare event nor an error looks like none."""
        needed = 1 - math.floor(math.log10(abs(value) or error))
        if error > 0:
            needed = -math.floor(math.log10(error))
        return min(max(self.decimals, needed), 8)


def _percent(value: float) -> str:
    """Return a share as a percentage: a small one must not look like none, nor all but all."""
    for low, words in ((0.0, "<0.1%"), (0.9995, ">99.9%")):
        if low < value < low + 0.0005:
            return words
    return f"{value:.1%}"


def _scientific(value: float, error: float) -> str:
    """Return a number and its error as multiples of one power of ten."""
    power = math.floor(math.log10(abs(value) or error))
    known = f" ± {error / 10.0**power:.2f}e{power}" if error > 0 else ""
    return f"{value / 10.0**power:.2f}e{power}{known}"


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
            ink=("#7a6200", "#e2c443"),
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
            ink=("#1b7a5e", "#3fc98f"),
        ),
        Metric(
            "gradient",
            "Gradient |dL/du|",
            "|dL/du|",
            f"rms, {COLUMNS['grad_u_rms'].unit}",
            "grad_u_rms",
            "grad_u_rms_se",
            colours="Inferno",
            ink=("#b8400b", "#f9923b"),
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
            ink=("#a02a74", "#f4849f"),
            absent="no surrogate is known",
            error_of=_gain_error,
            over_layers=False,
        ),
        # No error here: the timesteps share their samples, and that covariance is not recorded.
        Metric(
            "drift",
            "Drift of mean u",
            "drift",
            "thresholds from the last t",
            colours="PuOr",
            ink=("#5a3a97", "#b9a6ea"),
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
