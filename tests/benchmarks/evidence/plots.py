"""The plots of the report: results in, an image out; error bars are standard errors over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")


def _panels(count: int, width: float = 3.4, height: float = 3.0) -> Any:
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _bar(axis: Any, x: Any, values: Any, **style: Any) -> None:
    """Draw mean and standard error over the last axis of ``[x, seed]``."""
    array = np.asarray(values, dtype=float)
    error = array.std(-1, ddof=1) / np.sqrt(array.shape[-1]) if array.shape[-1] > 1 else None
    axis.errorbar(x, array.mean(-1), error, capsize=2, **style)


def against_grid(by_task: dict[str, dict[str, list[Any]]], path: Path) -> None:
    """Draw the grid's accuracies with the chosen, the default and the recommended one."""
    figure, axes = _panels(len(by_task), 2.9)
    random = np.random.default_rng(0)
    for axis, (task, found) in zip(axes, by_task.items(), strict=True):
        spread = random.uniform(-0.25, 0.25, len(found["grid"]))
        axis.plot(spread, found["grid"], ".", color="#bbbbbb", markersize=3)
        names = ("default", "best", "best mean", "oracle", "recommended", "narrow", "mended")
        for place, name in enumerate(names, 1):
            colour = COLOURS[1] if name in ("recommended", "mended") else COLOURS[0]
            _bar(axis, [place], [found[name]], fmt="o", color=colour)
        labels = ["grid", "default", "best of grid", "best mean", "oracle", "recommended"]
        labels += ["narrow guess", "recommended from it"]
        axis.set_xticks(range(8), labels, rotation=45, ha="right", fontsize=7)
        axis.set_title(task, fontsize=9)
    axes[0].set_ylabel("test accuracy")
    _save(figure, path)


def predicted_against_measured(points: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw one panel per quantity, with error bars where there are any."""
    columns = (len(points) + 1) // 2
    figure, grid = plt.subplots(
        2, columns, figsize=(2.6 * columns, 4.8), squeeze=False, layout="constrained"
    )
    for axis in grid.ravel()[len(points) :]:
        axis.set_axis_off()
    for axis, (name, some) in zip(grid.ravel(), points.items(), strict=False):
        x = np.array([point["predicted"] for point in some])
        y = np.array([point["measured"] for point in some])
        x_error = [point.get("predicted_error", 0.0) for point in some]
        y_error = [point.get("measured_error", 0.0) for point in some]
        axis.errorbar(
            x, y, y_error, x_error, fmt=".", color=COLOURS[0], ecolor="#aaccee", markersize=4
        )
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axis.plot(ends, ends, color="#333333", linewidth=0.8)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("predicted", fontsize=8)
        axis.tick_params(labelsize=7)
    for row in grid:
        row[0].set_ylabel("measured")
    _save(figure, path)


def drift_and_rate(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw drift and rate against t, mean over layers, for each setting and arm."""
    tasks = list(dict.fromkeys(row["settings"]["task"] for row in rows))
    figure, axes = _panels(2 * len(tasks))
    for place, task in enumerate(tasks):
        arms = dict.fromkeys(r["settings"]["arm"] for r in rows if r["settings"]["task"] == task)
        for colour, arm in zip(COLOURS, arms, strict=False):
            mine = [
                row["result"]
                for row in rows
                if row["settings"]["task"] == task and row["settings"]["arm"] == arm
            ]
            for offset, quantity in enumerate(("drift", "rate")):
                values = np.array([np.mean(result[quantity], axis=0) for result in mine]).T
                axis = axes[2 * place + offset]
                _bar(axis, range(1, len(values) + 1), values, color=colour, label=arm, marker=".")
                axis.set_title(f"{task}", fontsize=9)
                axis.set_xlabel("timestep t")
                axis.set_ylabel("W1 to t = T [thresholds]" if offset == 0 else "firing rate")
    axes[0].legend(fontsize=7)
    _save(figure, path)


def over_thresholds(
    by: dict[tuple[str, float, str], dict[int, dict[str, Any]]], path: Path
) -> None:
    """Draw weight gradient, threshold gradient and accuracy over V for each form."""
    consumers = list(dict.fromkeys(key[0] for key in by))
    figure, axes = _panels(3 * len(consumers), 2.7)
    pick = {
        "norm of dL/dW, first layer": lambda result: result["first_weight"],
        "norm of dL/dV": lambda result: float(np.linalg.norm(result["by_threshold"])),
        "test accuracy": lambda result: result["test"],
    }
    for place, one in enumerate(consumers):
        for offset, (name, value) in enumerate(pick.items()):
            axis = axes[3 * place + offset]
            for colour, form in zip(COLOURS, ("as", "rs", "trsg"), strict=False):
                thresholds = sorted({key[1] for key in by if key[0] == one and key[2] == form})
                cells = [
                    [value(result) for result in by[one, threshold, form].values()]
                    for threshold in thresholds
                ]
                fewest = min(map(len, cells), default=0)
                if fewest:
                    style = {"fmt": "o-" if form != "rs" else "s--", "markersize": 4}
                    _bar(axis, thresholds, [c[:fewest] for c in cells], color=colour,
                         label=form.upper(), **style)  # fmt: skip
            if offset < 2:
                axis.set_yscale("log")
            axis.set_xscale("log")
            axis.set_xlabel("threshold V")
            axis.set_title(f"{name}\n{one}", fontsize=8)
    axes[0].legend(fontsize=7)
    _save(figure, path)


def coverage_and_rate(by: dict[tuple[float, str], dict[int, dict[str, Any]]], path: Path) -> None:
    """Draw coverage and rate per layer for each weight decay and arm."""
    decays = list(dict.fromkeys(key[0] for key in by))
    figure, axes = _panels(2 * len(decays), 3.2)
    for place, decay in enumerate(decays):
        arms = [key[1] for key in by if key[0] == decay]
        for colour, arm in zip(COLOURS, arms, strict=False):
            for offset, quantity in enumerate(("coverage", "rate")):
                values = np.array([r[quantity].mean(1) for r in by[decay, arm].values()]).T
                axis = axes[2 * place + offset]
                _bar(axis, range(1, len(values) + 1), values, color=colour, label=arm, marker=".")
                axis.set_title(f"weight decay {decay:g}", fontsize=9)
                axis.set_xlabel("layer")
                axis.set_ylabel(quantity)
    axes[1].axhline(0.1587, color="#333333", linewidth=0.6, linestyle=":")
    axes[0].legend(fontsize=6)
    _save(figure, path)


def rates_and_accuracy(
    by: dict[tuple[str, float, bool], dict[int, dict[str, Any]]], path: Path
) -> None:
    """Draw accuracy and final rate over the initial rate, with and without the loss."""
    tasks = list(dict.fromkeys(key[0] for key in by))
    figure, axes = _panels(2 * len(tasks), 2.9)
    for place, task in enumerate(tasks):
        for colour, loss in zip(COLOURS, (False, True), strict=False):
            rates = sorted({key[1] for key in by if key[0] == task and key[2] == loss})
            for offset, quantity in enumerate(("test", "final")):
                cells = [[r[quantity] for r in by[task, rate, loss].values()] for rate in rates]
                fewest = min(map(len, cells), default=0)
                if fewest:
                    axis = axes[2 * place + offset]
                    label = "gradual loss" if loss else "none"
                    _bar(axis, rates, [c[:fewest] for c in cells], color=colour, label=label,
                         marker="o", markersize=4)  # fmt: skip
                    axis.set_title(task, fontsize=9)
                    axis.set_xlabel("initial rate")
                    axis.set_ylabel("test accuracy" if offset == 0 else "final rate")
    axes[0].legend(fontsize=7)
    _save(figure, path)
