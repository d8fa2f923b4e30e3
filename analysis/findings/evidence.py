"""What the rules look at: the latest records of a run, pooled, with their standard errors."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from ...data.densities import Density
from ...data.runs import Layer, Run
from .figures import CONFIDENCE_Z, Figure, pool, pool_over, stretch
from .vitals import Vitals

__all__ = ["CONFIDENCE_Z", "Evidence", "Figure", "pool", "stretch"]

WINDOW_SHARE = 0.25
"""A verdict speaks of the last quarter of the records: what holds now, not what once was."""

HISTORY_RECORDS = 20
"""Densities read to say since when, and again for the window: bounded however long the training."""


class Evidence:
    """The records of a run's training, seen by the rules.

    Args:
        run: the run; read once.
        since: only steps from this one on; all if None.

    Columns of the record are arrays ``[layer, record, t]``, NaN where nothing was recorded.
    """

    def __init__(self, run: Run, since: int | None = None) -> None:
        self.run = run
        self._since = since
        self._cubes: dict[str, np.ndarray] = {}
        self._pooled: dict[str, Figure] = {}

    @cached_property
    def table(self) -> pd.DataFrame:
        """The training record, a row per (step, layer, t)."""
        everything = self.run.table(since=self._since)
        train = everything[everything["mode"] == "train"]
        if not train.empty:
            return train
        # A model that is left in evaluation mode is trained all the same: its gradients tell.
        learns = (everything["grad_u_count"] > 0) | (everything["grad_s_count"] > 0)
        chosen: pd.DataFrame = everything if learns.any() else train
        return chosen

    @cached_property
    def in_eval(self) -> bool:
        """Whether gradients were recorded in evaluation mode alone."""
        return not self.table.empty and bool((self.table["mode"] == "eval").all())

    @cached_property
    def layers(self) -> list[Layer]:
        """Recorded layers that appear in the record, input first."""
        present = set(self.table["layer"].unique())
        return [layer for layer in self.run.covered if layer.name in present]

    @cached_property
    def names(self) -> list[str]:
        """Names of the layers, input first."""
        return [layer.name for layer in self.layers]

    @cached_property
    def place(self) -> dict[str, int]:
        """Place of each layer on the first axis of a cube."""
        return {name: place for place, name in enumerate(self.names)}

    def known(self, layer: str) -> str:
        """Return the name of a layer, empty if it is not among the recorded ones."""
        return layer if layer in self.place else ""

    @cached_property
    def steps(self) -> np.ndarray:
        """``[R]`` recorded steps."""
        return np.unique(self.table["step"].to_numpy())

    @cached_property
    def window(self) -> np.ndarray:
        """Recorded steps that a verdict speaks of."""
        return self.steps[-max(1, round(WINDOW_SHARE * len(self.steps))) :]

    @cached_property
    def recent(self) -> slice:
        """The window on the axis of the records."""
        return slice(len(self.steps) - len(self.window), len(self.steps))

    @property
    def span(self) -> tuple[int, int]:
        """First and last step of the window."""
        return int(self.window[0]), int(self.window[-1])

    @cached_property
    def densities(self) -> dict[str, Density]:
        """Histograms of u by layer, over the window and evenly spaced steps before it."""
        history = spread(self.steps, HISTORY_RECORDS)
        chosen = np.union1d(history, spread(self.window, HISTORY_RECORDS))
        return self.run.densities(mode="eval" if self.in_eval else "train", steps=chosen)

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """Loss and whatever else the training told, a row per step."""
        scalars = self.run.scalars()
        return scalars if self._since is None else scalars[scalars.index >= self._since]

    @cached_property
    def loss_told(self) -> np.ndarray:
        """Steps for which a loss was told, NaN or not."""
        return self.run.told("loss") if self._since is None else self._later(self.run.told("loss"))

    def _later(self, steps: np.ndarray) -> np.ndarray:
        return np.asarray(steps[steps >= self._since])

    @cached_property
    def events(self) -> pd.DataFrame:
        """What happened on the way."""
        return self.run.events()

    @cached_property
    def vitals(self) -> Vitals:
        """Parameters and their updates, learned values, batch norms."""
        return Vitals(self.run.vitals(), self.steps, self.window)

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        layers = pd.Categorical(self.table["layer"], categories=self.names).codes
        records = np.searchsorted(self.steps, self.table["step"].to_numpy())
        return np.asarray(layers), records, self.table["t"].to_numpy() - 1

    def cube(self, column: str) -> np.ndarray:
        """Return a column of the record, ``[layer, record, t]``."""
        if column not in self._cubes:
            layer, record, t = self._cells
            shape = len(self.names), len(self.steps), int(t.max(initial=0)) + 1
            cube = np.full(shape, np.nan)
            cube[layer, record, t] = self.table[column].to_numpy(dtype=float)
            self._cubes[column] = cube
        return self._cubes[column]

    def now(self, column: str) -> np.ndarray:
        """Return a column inside the window, ``[layer, record, t]``."""
        window: np.ndarray = self.cube(column)[:, self.recent]
        return window

    @cached_property
    def seen(self) -> np.ndarray:
        """``[layer, t]`` whether the window holds it."""
        return np.asarray(~np.isnan(self.now("elements")).all(axis=1))

    def timesteps(self, layer: str) -> list[int]:
        """Return the timesteps that the window holds, from 1."""
        return [int(t) + 1 for t in np.flatnonzero(self.seen[self.place[layer]])]

    def pooled(self, column: str, error: str = "") -> Figure:
        """Return a column pooled over the window, ``[layer, t]``; error names that of a record."""
        if column not in self._pooled:
            values = self.now(column)
            errors = self.now(error) if error else np.full(values.shape, np.nan)
            self._pooled[column] = pool_over(values, errors, axis=1)
        return self._pooled[column]

    def since(self, layer: int, t: int, column: str, bound: float) -> tuple[int, int]:
        """Return the unbroken stretch up to now in which a column lies below a bound."""
        values = self.cube(column)[layer, :, t]
        there = ~np.isnan(self.cube("elements")[layer, :, t])
        return stretch(self.steps[there], values[there] < bound)


def spread(steps: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the steps, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return np.asarray(steps[places])
