"""What a run recorded, as curves over its steps, read off at the steps where two runs can meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.runs import Run
from ..data.schema import COLUMNS, MODES

ERRORS = {name: f"{name}_se" for name in COLUMNS if f"{name}_se" in COLUMNS}
"""Columns that carry a standard error within a run."""

KEY = ("mode", "layer", "t", "quantity")


@dataclass(frozen=True)
class Curves:
    """Quantities of one run along the steps at which they were recorded.

    Args:
        keys: (mode, layer, t, quantity) of each curve; a scalar has mode and layer ``""``, t 0.
        steps: increasing, ``[n]``.
        values: ``[key, n]``, NaN where nothing was recorded.
        errors: standard error within the run, ``[key, n]``; NaN where there is none.
        samples: how many samples are behind the error, ``[key, n]``.
    """

    keys: tuple[tuple[str, str, int, str], ...]
    steps: NDArray[Any]
    values: NDArray[Any]
    errors: NDArray[Any]
    samples: NDArray[Any]

    def at(self, points: NDArray[Any]) -> Curves:
        """Return the curves at other steps, linear between records, NaN outside of them.

        Args:
            points: steps, not necessarily whole, ``[m]``.

        Returns:
            Curves at these points; where a point is a record, the record itself.

        Example:
            >>> row = np.array([[1.0, 3.0]])
            >>> curves = Curves((("", "", 0, "x"),), np.array([0.0, 10.0]), row, row, row)
            >>> curves.at(np.array([0.0, 5.0, 11.0])).values.tolist()
            [[1.0, 2.0, nan]]
        """
        last = len(self.steps) - 1
        right = np.clip(np.searchsorted(self.steps, points), 0, last)
        left = np.where(self.steps[right] == points, right, np.maximum(right - 1, 0))
        gap = self.steps[right] - self.steps[left]
        share = np.divide(points - self.steps[left], gap, out=np.zeros(len(points)), where=gap > 0)
        inside = (points >= self.steps[0]) & (points <= self.steps[last])

        def between(rows: NDArray[Any]) -> NDArray[Any]:
            mixed = (1 - share) * rows[:, left] + share * rows[:, right]
            return np.where(inside, mixed, np.nan)

        errors = np.sqrt(
            ((1 - share) * self.errors[:, left]) ** 2 + (share * self.errors[:, right]) ** 2
        )
        samples = np.minimum(self.samples[:, left], self.samples[:, right])
        return Curves(
            self.keys, points, between(self.values), np.where(inside, errors, np.nan), samples
        )

    def pick(self, keys: Sequence[tuple[str, str, int, str]]) -> Curves:
        """Return the curves of these keys, in this order."""
        place = {key: row for row, key in enumerate(self.keys)}
        rows = [place[key] for key in keys]
        return Curves(
            tuple(keys), self.steps, self.values[rows], self.errors[rows], self.samples[rows]
        )


def record_curves(run: Run, columns: Sequence[str]) -> dict[str, Curves]:
    """Return the curves of the record's columns, apart for train and eval.

    Args:
        run: an opened run.
        columns: names of :data:`COLUMNS` with numbers in them.

    Returns:
        Curves by mode; a mode that was not recorded is missing.
    """
    errors = [ERRORS[name] for name in columns if name in ERRORS]
    table = run.table([*columns, *errors, "samples", "grad_samples"])
    found = {}
    for mode in MODES:
        rows = table[table["mode"] == mode]
        if len(rows):
            found[mode] = _pivot(rows, mode, columns, run)
    return found


def _pivot(rows: pd.DataFrame, mode: str, columns: Sequence[str], run: Run) -> Curves:
    place = {layer.name: index for index, layer in enumerate(run.layers)}
    of_rows = [(str(layer), int(t)) for layer, t in zip(rows["layer"], rows["t"], strict=True)]
    units = sorted(set(of_rows), key=lambda unit: (place[unit[0]], unit[1]))
    number = {unit: index for index, unit in enumerate(units)}
    steps, column = np.unique(rows["step"].to_numpy(dtype=float), return_inverse=True)
    where = np.array([number[unit] for unit in of_rows]), column

    def wide(name: str) -> NDArray[Any]:
        filled = np.full((len(units), len(steps)), np.nan)
        filled[where] = rows[name].to_numpy(dtype=float)
        return filled

    unknown = np.full((len(units), len(steps)), np.nan)
    keys, values, errors, samples = [], [], [], []
    for name in columns:
        keys += [(mode, layer, t, name) for layer, t in units]
        values.append(wide(name))
        errors.append(wide(ERRORS[name]) if name in ERRORS else unknown)
        samples.append(wide("grad_samples" if name.startswith("grad_") else "samples"))
    return Curves(tuple(keys), steps, *(np.concatenate(part) for part in (values, errors, samples)))


def scalar_curves(run: Run) -> dict[str, Curves]:
    """Return one curve for each scalar of a run (loss, accuracy, ...), by name; no error bars."""
    scalars = run.scalars()
    found = {}
    for name in map(str, scalars.columns):
        series = scalars[name].dropna()
        if len(series):
            values = series.to_numpy(dtype=float)[None]
            unknown = np.full_like(values, np.nan)
            steps = series.index.to_numpy(dtype=float)
            found[name] = Curves((("", "", 0, name),), steps, values, unknown, unknown)
    return found


def reach_steps(steps: NDArray[Any], losses: NDArray[Any], levels: NDArray[Any]) -> NDArray[Any]:
    """Return the first step at which the loss was as low as each level.

    Args:
        steps: steps at which a loss is known, ``[n]``.
        losses: loss, ``[n]``.
        levels: losses to reach, ``[m]``.

    Returns:
        Steps ``[m]``; NaN for a level that was never reached.

    Example:
        >>> reach_steps(np.arange(4.0), np.array([2.0, 1.0, 1.5, 0.5]), np.array([1.0, 0.5, 0.1]))
        array([ 1.,  3., nan])
    """
    best = np.minimum.accumulate(losses)
    # searchsorted needs increasing values: the best loss so far falls.
    first = np.searchsorted(-best, -levels, side="left")
    return np.where(first < len(steps), steps[np.minimum(first, len(steps) - 1)], np.nan)
