"""The further figures of a run, by layer and name, as series over its records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from .figures import Figure, pool, stretch


@dataclass(frozen=True)
class Series:
    """One figure over the records.

    Args:
        layer: spiking layer that it belongs to or leads to; empty after the last one.
        name: name of the parameter or module; empty for the layer itself.
        t: timestep, from 1; 0 for all.
        steps: ``[R]`` recorded steps.
        values: ``[R]``.
        start: first step of the window.
    """

    layer: str
    name: str
    t: int
    steps: np.ndarray
    values: np.ndarray
    start: int

    @property
    def recent(self) -> np.ndarray:
        """Values inside the window."""
        return self.values[self.steps >= self.start]

    @cached_property
    def figure(self) -> Figure:
        """The mean over the window, with the error from its spread."""
        return pool(self.recent, np.full(len(self.recent), np.nan))

    def since(self, holds: np.ndarray) -> tuple[int, int]:
        """Return the unbroken stretch up to now in which something holds, ``[R]``."""
        return stretch(self.steps, holds)


class Vitals:
    """The table "vitals" of a run.

    Args:
        table: the table as it was read.
        steps: recorded steps that the rules look at.
        window: those that a verdict speaks of.
    """

    def __init__(self, table: pd.DataFrame, steps: np.ndarray, window: np.ndarray) -> None:
        self._start = int(window[0]) if len(window) else 0
        table = table[table["step"] >= (steps[0] if len(steps) else 0)]
        self._groups: dict[str, pd.DataFrame] = {
            str(quantity): rows for quantity, rows in table.groupby("quantity", sort=False)
        }
        self._cache: dict[str, list[Series]] = {}

    def every(self, quantity: str) -> list[Series]:
        """Return a quantity of all layers, parameters and modules, in the order of the network."""
        if quantity not in self._cache:
            rows = self._groups.get(quantity)
            self._cache[quantity] = [] if rows is None else self._split(rows)
        return self._cache[quantity]

    def one(self, quantity: str, layer: str = "", name: str | None = None) -> Series | None:
        """Return a quantity of one layer, or of one name; None if it was not recorded."""
        for series in self.every(quantity):
            if series.name == name if name is not None else series.layer == layer:
                return series
        return None

    def _split(self, rows: pd.DataFrame) -> list[Series]:
        found = []
        keys = ["layer", "name", "t"]
        for found_at, part in rows.groupby(keys, sort=False):
            layer, name, t = (str(entry) for entry in found_at)
            part = part.drop_duplicates("step", keep="last").sort_values("step")
            steps, values = part["step"].to_numpy(), part["value"].to_numpy(dtype=float)
            found.append(Series(layer, name, int(t), steps, values, self._start))
        return found
