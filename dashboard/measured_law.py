"""The law of u in one layer at one step: measured, and where theory says that it settles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..analysis.recorded_law import RecordedLaw, recorded_law
from ..analysis.surrogate import Surrogate
from ..data.densities import Density
from ..data.runs import Layer, Run
from .lazy import LazyRun, last_step, lazy

_IN_UNIT = ("mean", "standard deviation", "5%", "median", "95%")


@dataclass(frozen=True)
class MeasuredLaw:
    """Histograms of u of one layer at one recorded step.

    Args:
        layer: name of the layer.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.
        t: ``[T]`` timesteps.
        edges: ``[bin + 1]`` edges of u, in ``unit``.
        density: ``[T, bin]`` share of elements per ``unit``.
        start: potential before t = 1, in ``unit``; NaN if unknown.
        interval: where the surrogate exceeds 1e-2 of its peak, in ``unit``; None if unknown.
        level: where the threshold lies: at 1, or at 0 if only u - threshold is known.
        unit: ``"thresholds"``, or ``"potential"`` if the threshold's size is not known.
        what: what the axis shows.
        predicted: where theory says that it settles; None where it says nothing.
        unpredicted: why not; empty where it does.
        scale: potential that one unit of the axis stands for.
        origin: potential that lies at 0 of the axis.
    """

    layer: str
    step: int
    mode: str
    t: np.ndarray
    edges: np.ndarray
    density: np.ndarray
    start: float
    interval: tuple[float, float] | None
    level: float
    unit: str
    what: str
    predicted: RecordedLaw | None
    unpredicted: str
    scale: float
    origin: float

    def settled(self) -> np.ndarray | None:
        """Return the predicted density at the middles of the bins, ``[bin]``; None if unknown."""
        if self.predicted is None:
            return None
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        density = self.predicted.law.pdf(self.origin + self.scale * middle)
        return np.asarray(density, dtype=float) * self.scale

    def frame(self) -> pd.DataFrame:
        """Return mean, spread and quantiles per timestep as a table, all in ``unit``."""
        widths = np.diff(self.edges)
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        rows: list[dict[str, float]] = []
        for j, t in enumerate(self.t):
            mass = self.density[j] * widths
            if mass.sum() == 0:
                rows.append({"t": int(t)})
                continue
            mean = float(mass @ middle)
            spread = float(np.sqrt(max(mass @ (middle - mean) ** 2, 0.0)))
            below = np.concatenate([[0.0], np.cumsum(mass)])
            five, half, most = np.interp([0.05, 0.5, 0.95], below, self.edges)
            above = float(mass[middle > self.level].sum())
            rows.append(
                {"t": int(t), "mean": mean, "standard deviation": spread, "5%": five,
                 "median": half, "95%": most, "share above threshold": above}
            )  # fmt: skip
        table = pd.DataFrame(rows).rename(columns={"t": "timestep"})
        table["timestep"] = table["timestep"].astype(str)
        if self.predicted is not None:
            law = self.predicted.law
            settled = pd.DataFrame(
                {
                    "timestep": ["predicted to settle at"],
                    "mean": [(law.mean - self.origin) / self.scale],
                    "standard deviation": [law.std / self.scale],
                    "share above threshold": [law.rate],
                }
            )
            table = pd.concat([table, settled], ignore_index=True)
        named = {name: f"{name} ({self.unit})" for name in _IN_UNIT if name in table}
        return table.rename(columns=named)


def gradient_interval(layer: Layer) -> tuple[float, float] | None:
    """Return where the surrogate of a layer lets gradient through.

    Args:
        layer: a layer of a run.

    Returns:
        ``(low, high)`` on the axis of :class:`MeasuredLaw`; None where the surrogate is unknown or
        not one number for the whole layer.
    """
    if layer.surrogate is None:
        return None
    try:
        low, high = Surrogate(**layer.surrogate).interval(threshold=0.0)
        level = level_of(layer)
        return level + float(low) / layer.scale, level + float(high) / layer.scale
    except (TypeError, ValueError):
        # A surrogate that was sampled or that differs between neurons has no one interval.
        return None


def measured_law(
    run: Run, layer: str, *, step: int | None = None, mode: str = "train"
) -> MeasuredLaw | None:
    """Return the law of u of one layer at one step.

    Args:
        run: a recorded run.
        layer: name of a layer.
        step: a recorded step; the last one if None.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        The law, or None when the layer has no record (of this step, in this mode).

    Raises:
        RunError: an unknown layer.
    """
    entry = run.layer(layer)
    if step is None:
        step = last_step(lazy(run), layer, mode)
        if step is None:
            return None
    record = lazy(run).density(layer, mode=mode, steps=[step])
    if not len(record.steps):
        return None
    counts = record.counts[0].astype(float)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    threshold = entry.spec.get("threshold")
    start = entry.spec.get("start")
    predicted, unpredicted = predict(lazy(run), entry, record, step, mode)
    origin = -record.scale * level_of(entry)
    if isinstance(threshold, int | float):
        origin += float(threshold)
    return MeasuredLaw(
        layer,
        step,
        mode,
        record.t,
        level_of(entry) + record.edges,
        share / np.diff(record.edges),
        1.0 + (start - threshold) / record.scale
        if isinstance(start, int | float) and isinstance(threshold, int | float)
        else float("nan"),
        gradient_interval(entry),
        level=level_of(entry),
        unit="thresholds" if level_of(entry) else "potential",
        what=entry.coordinate,
        predicted=predicted,
        unpredicted=unpredicted,
        scale=record.scale,
        origin=origin,
    )


def predict(
    record: LazyRun, layer: Layer, density: Density, step: int, mode: str
) -> tuple[RecordedLaw | None, str]:
    """Return where theory says that a layer settles at one step, or why it does not say.

    Args:
        record: a recorded run.
        layer: one of its layers.
        density: its histograms at this step.
        step: the recorded step.
        mode: ``"train"`` or ``"eval"``.

    Returns:
        ``(prediction, reason)``; one of them is empty.
    """
    if layer.coordinate != "u":
        return None, "of this layer only u - threshold is known"
    rows = record.rows_at(step, mode)
    rows = rows[rows["layer"] == layer.name]
    threshold = layer.spec.get("threshold")
    if not isinstance(threshold, int | float):
        return None, "its threshold is not one number"
    try:
        edges = threshold + layer.scale * density.edges
        return recorded_law(layer.spec, rows, density.counts[0, 0], edges), ""
    except ValueError as error:
        return None, str(error)


def level_of(layer: Layer) -> float:
    """Return where the threshold lies: a layer of which only u - threshold is known has it at 0."""
    return 1.0 if layer.coordinate == "u" else 0.0
