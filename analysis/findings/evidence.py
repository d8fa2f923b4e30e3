"""What the rules look at: the latest records of a run, pooled, with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ...data.densities import Density
from ...data.runs import Layer, Run

CONFIDENCE_Z = 2.326
"""A rule fires when the one-sided 99 % interval of its figure clears the bound."""

WINDOW_SHARE = 0.25
"""A verdict speaks of the last quarter of the records: what holds now, not what once was."""


@dataclass(frozen=True)
class Figure:
    """A pooled figure with its standard error.

    Args:
        value: mean over the records of the window.
        error: standard error of that mean; NaN if one record of one sample is all there is.
    """

    value: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the one-sided 99 % interval."""
        return self.value - CONFIDENCE_Z * self.error

    @property
    def high(self) -> float:
        """Upper end of the one-sided 99 % interval."""
        return self.value + CONFIDENCE_Z * self.error


def pool(values: np.ndarray, errors: np.ndarray) -> Figure:
    """Return the mean of a figure over records, with the larger of its two standard errors.

    Args:
        values: ``[R]`` the figure in each record; NaN where it was not recorded.
        errors: ``[R]`` standard error inside each record; NaN where unknown.

    Returns:
        The mean; its error follows from the errors inside the records, or from the spread between
        them where that is larger.

    Example:
        >>> pool(np.array([1.0, 3.0]), np.array([0.1, 0.1])).error
        1.0
    """
    seen = np.isfinite(values)
    values, errors = values[seen], errors[seen]
    count = len(values)
    if count == 0:
        return Figure(np.nan, np.nan)
    inside = np.sqrt(np.mean(errors**2) / count) if np.isfinite(errors).all() else np.nan
    between = values.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    known = [error for error in (inside, between) if np.isfinite(error)]
    return Figure(float(values.mean()), float(max(known, default=np.nan)))


HISTORY_RECORDS = 20
"""Densities read to say since when, and again for the window: bounded however long the training."""


class Evidence:
    """The training records of a run, seen by the rules.

    Args:
        run: the run; read once.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def table(self) -> pd.DataFrame:
        """The training record, a row per (step, layer, t)."""
        return self.run.table(mode="train")

    @cached_property
    def layers(self) -> list[Layer]:
        """Recorded layers that appear in the record, input first."""
        present = set(self.table["layer"])
        return [layer for layer in self.run.covered if layer.name in present]

    @cached_property
    def steps(self) -> np.ndarray:
        """``[R]`` recorded steps."""
        return np.unique(self.table["step"].to_numpy())

    @cached_property
    def window(self) -> np.ndarray:
        """Recorded steps that a verdict speaks of."""
        return self.steps[-max(1, round(WINDOW_SHARE * len(self.steps))) :]

    @cached_property
    def densities(self) -> dict[str, Density]:
        """Histograms of u by layer, over the window and evenly spaced steps before it."""
        history = _spread(self.steps, HISTORY_RECORDS)
        return self.run.densities(steps=np.union1d(history, _spread(self.window, HISTORY_RECORDS)))

    @cached_property
    def _by_layer(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.table.groupby("layer", sort=False)}

    def rows(self, layer: str) -> pd.DataFrame:
        """Return the records of one layer."""
        return self._by_layer[layer]

    def recent(self, layer: str) -> pd.DataFrame:
        """Return the records of one layer inside the window."""
        rows = self.rows(layer)
        chosen: pd.DataFrame = rows[rows["step"] >= self.window[0]]
        return chosen

    def timesteps(self, layer: str) -> list[int]:
        """Return the timesteps that the window holds, from 1."""
        return sorted(int(t) for t in self.recent(layer)["t"].unique())

    def figure(self, layer: str, t: int, column: str, error: str) -> Figure:
        """Return a column of one layer and timestep, pooled over the window."""
        rows = self.recent(layer)
        rows = rows[rows["t"] == t]
        return pool(rows[column].to_numpy(dtype=float), rows[error].to_numpy(dtype=float))

    def below_since(self, layer: str, t: int, column: str, bound: float) -> tuple[int, int]:
        """Return the unbroken stretch up to now in which a column lies below a bound."""
        rows = self.rows(layer)
        rows = rows[rows["t"] == t]
        return stretch(rows["step"].to_numpy(), rows[column].to_numpy(dtype=float) < bound)


def _spread(steps: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the steps, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return np.asarray(steps[places])


def stretch(steps: np.ndarray, holds: np.ndarray) -> tuple[int, int]:
    """Return first and last step of the unbroken stretch at the end; the last step if none.

    Args:
        steps: ``[R]`` recorded steps, rising.
        holds: ``[R]`` whether it holds there.

    Example:
        >>> stretch(np.array([0, 10, 20, 30]), np.array([True, False, True, True]))
        (20, 30)
    """
    broken = np.flatnonzero(~holds)
    first = int(broken[-1]) + 1 if len(broken) else 0
    return int(steps[min(first, len(steps) - 1)]), int(steps[-1])
