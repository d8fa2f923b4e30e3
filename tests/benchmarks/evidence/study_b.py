"""b. Predicted against measured: gain, rate, coverage, removable drift."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import spikescope
from spikescope.analysis.distance import centres
from spikescope.analysis.laws import HistogramLaw
from spikescope.analysis.recorded_law import plain_spec, recorded_law
from spikescope.analysis.surrogate import Surrogate
from spikescope.analysis.whatif import removable_drift

from . import plots
from .recording import Recorded, batches_of, record
from .statistics import Claim, Section, judge
from .study_a import NARROW
from .tasks import TASKS, build, fit, parts

NAME = "b"
TITLE = "Predicted against measured gain, rate, coverage and removable drift"

SEEDS = {"law": range(2), "start": range(2), "recommend": range(5)}
STATES = ("initial", "trained")
RECOMMENDED_FROM = ("initial", "narrow")
"""As the network comes, and with the poor guess of study a: then there is something to change."""

KINDS = ("law", "start", "recommend")
BATCHES, SIZE = 6, 32
TRAINED_SHARE = 0.5
"""Share of the task's steps after which a network counts as trained here."""

QUANTITIES = {"rate": "spikes / element / timestep", "coverage": "share of elements"}


def units(quick: bool) -> list[dict[str, Any]]:
    """Return one unit per kind of prediction, task, seed and state."""
    tasks = list(TASKS)[1:2] if quick else list(TASKS)
    return [
        {"kind": kind, "task": task, "seed": seed, "state": state}
        for kind in KINDS
        for task in tasks
        for seed in (range(2) if quick else SEEDS[kind])
        for state in (RECOMMENDED_FROM if kind == "recommend" else STATES)
        if not TASKS[task].default_weights or (kind, state) == ("recommend", "initial")
    ]


def measure(unit: dict[str, Any]) -> dict[str, Any]:
    """Predict from one recording, then measure."""
    task, seed = TASKS[unit["task"]], unit["seed"]
    settings = {}
    if unit["state"] == "narrow":
        shape, peak, width = NARROW
        settings["surrogate"] = Surrogate(shape, peak=peak, width=width)
    model = build(task, seed, **settings)
    if unit["state"] == "trained":
        fit(task, model, seed, steps=max(1, int(task.steps * TRAINED_SHARE)))
    inputs = parts(task.data, task.data_settings, seed).train[0]
    batches = batches_of(inputs, BATCHES, SIZE, seed)
    points = {"law": _law, "start": _start, "recommend": _recommend}[unit["kind"]](model, batches)
    return {"points": points}


def _law(model: nn.Module, batches: list[Any]) -> list[dict[str, Any]]:
    """Predict each layer's rate, coverage and gain at T from its input alone."""
    recorded = record(model, batches)
    points = []
    for name, layer in recorded.layers.items():
        counts, edges = recorded.histogram(name)
        rows = {
            column: recorded.per_batch(name, column).mean(0)
            for column in ("input_mean", "input_var", "u_var")
        }
        try:
            found = recorded_law(layer.spec, rows, counts[0], edges)
        except ValueError as error:
            points.append({"layer": name, "refused": str(error)})
            continue
        law = found.law
        reach = float(law.mean) + np.linspace(-9.0, 9.0, 4001) * float(law.std)
        shares = np.maximum(np.diff(law.cdf(reach)), 0.0)  # rounding, far out
        histogram = HistogramLaw(reach, shares / shares.sum())
        surrogate = Surrogate(**(layer.surrogate or {}))
        threshold = float(layer.spec["threshold"])
        predicted = {
            "rate": float(law.rate),
            "coverage": float(surrogate.coverage(histogram, threshold)),
            "gain": float(surrogate.moment(histogram, threshold, 2)),
        }
        points += _against(recorded, name, predicted)
    return points


def _against(recorded: Recorded, layer: str, predicted: dict[str, float]) -> list[dict[str, Any]]:
    """Return predicted and measured at the last timestep, with the error over batches."""
    columns = {"rate": "rate", "coverage": "coverage", "gain": "surrogate_square"}
    found = []
    for quantity, value in predicted.items():
        seen = recorded.per_batch(layer, columns[quantity])[:, -1]
        found.append(
            {
                "layer": layer,
                "quantity": quantity,
                "predicted": value,
                "predicted_error": 0.0,
                "measured": float(seen.mean()),
                "measured_error": float(seen.std(ddof=1) / np.sqrt(len(seen))),
            }
        )
    return found


def _start(model: nn.Module, batches: list[Any]) -> list[dict[str, Any]]:
    """Predict what a start potential removes of the shift at t = 1; then set it and look."""
    before = record(model, batches)
    predicted = {}
    for name, layer in before.layers.items():
        counts, edges = before.histogram(name)
        found = removable_drift(plain_spec(layer.spec), counts[0], counts[-1], edges)
        predicted[name] = {key: float(value) for key, value in found._asdict().items()}
    points = []
    for name, layer in before.layers.items():
        # Against one and the same reference, as predicted: the law that u had at T.
        counts, edges = before.histogram(name)
        for scope in ("this layer", "all layers"):
            changed = copy.deepcopy(model)
            for other, module in changed.named_modules():
                if other in predicted and (scope == "all layers" or other == name):
                    module.start.fill_(predicted[other]["start"])
            after = record(changed, batches)
            new, new_edges = after.histogram(name)
            w1 = _w1_first(new[0], new_edges, counts[-1], edges)
            points.append(
                {
                    "layer": name,
                    "quantity": f"removed share, {scope}",
                    "predicted": predicted[name]["share"],
                    "measured": 1.0 - w1 / predicted[name]["w1_before"],
                    "shift": predicted[name]["w1_before"] / float(layer.spec["threshold"]),
                    "rate predicted": predicted[name]["rate_after"],
                    "rate measured": float(after.per_batch(name, "rate")[:, 0].mean()),
                }
            )
    return points


def _w1_first(first: Any, edges: Any, reference: Any, reference_edges: Any) -> float:
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(centres(edges), centres(reference_edges), first, reference))


def _recommend(model: nn.Module, batches: list[Any]) -> list[dict[str, Any]]:
    """Compare what ``recommend`` promises with what is there once ``apply`` has done it."""
    found = spikescope.recommend(model, batches[:3])
    spikescope.apply(model, found)
    # Other batches than those that it has seen.
    recorded = record(model, batches[3:])
    points = []
    for each in found:
        if each.verdict != "change" or each.layer not in recorded.layers:
            continue
        for quantity, promise in each.predicted.items():
            column = PROMISED.get(quantity)
            if column is None or not np.isfinite(promise.after):
                continue
            seen = recorded.per_batch(each.layer, column).mean(1)
            if column == "u_std":  # over timesteps, too, as it is promised
                means = recorded.per_batch(each.layer, "u_mean")
                squares = recorded.per_batch(each.layer, "u_var") + means**2
                seen = np.sqrt(squares.mean(1) - means.mean(1) ** 2)
            points.append(
                {
                    "layer": each.layer,
                    "quantity": quantity,
                    "predicted": float(promise.after),
                    "predicted_error": float(np.nan_to_num(promise.after_error)),
                    "measured": float(seen.mean()),
                    "measured_error": float(seen.std(ddof=1) / np.sqrt(len(seen))),
                    "before": float(promise.before),
                }
            )
    return points


PROMISED = {
    "rate": "rate",
    "coverage": "coverage",
    "mean of u": "u_mean",
    "std of u": "u_std",
    "E[s^2]": "surrogate_square",
}
"""Quantities that ``recommend`` predicts, and the record's column that measures each."""

CLOSE = {"rate": 0.02, "coverage": 0.05, "gain": 0.15, "removed share": 0.1}
"""Tolerances that were set before: absolute, but relative for the gain."""


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Say how far predictions are off, and how many lie within their error bars."""
    section = Section(
        TITLE,
        [
            "*Law*: rate, coverage and gain E[h^2] of each layer at the last timestep, predicted "
            "from its dynamics and its recorded input alone (stationary law), against what was "
            "recorded; at the start and half-way through training. *Start*: share of the drift "
            "(W1 at t = 1) that a start potential is predicted to remove, against what is removed "
            "once it is set, in this layer alone or in all at once. *Recommend*: what `recommend` "
            "predicts after its changes, against other batches of the changed network. A unit of "
            "the tests is a network at one moment: the start or half-way, of one seed.",
        ],
    )
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    pooled: dict[str, list[dict[str, Any]]] = {}
    refused = 0
    for row in rows:
        for point in row["result"]["points"]:
            if "refused" in point:
                refused += 1
                continue
            settings = row["settings"]
            name = f"{settings['kind']}: {point['quantity']}"
            pooled.setdefault(name, []).append(point)
            if settings["kind"] != "recommend":
                # Theory assumes an input that does not change in time: images, not sequences.
                name += f" ({settings['task']})"
            unit = ", ".join(str(settings[key]) for key in ("task", "seed", "state"))
            groups.setdefault(name, {}).setdefault(unit, []).append(point)
    table = [
        "| prediction | points | median deviation | 90 % of deviations below | within tolerance | "
        "within 1 / 2 error bars | correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, units_of in groups.items():
        points = [point for some in units_of.values() for point in some]
        quantity = name.split(": ")[1].split(" (")[0]
        tolerance = next((v for key, v in CLOSE.items() if quantity.startswith(key)), None)
        off = np.array([_off(point, quantity) for point in points])
        close = "-" if tolerance is None else f"{100 * float(np.mean(off <= tolerance)):.0f} %"
        table.append(
            f"| {name} | {len(points)} | {np.median(off):.3g} | {np.quantile(off, 0.9):.3g} | "
            f"{close}{'' if tolerance is None else f' (of {tolerance:g})'} | {_barred(points)} | "
            f"{_correlation(points)} |"
        )
        if tolerance is not None:
            text = (
                f"{name}: the deviation of the median layer is below {tolerance:g}"
                f"{' relative' if quantity == 'gain' else ''}; effect: what is left of it."
            )
            left = [
                tolerance - float(np.median([_off(point, quantity) for point in some]))
                for some in units_of.values()
            ]
            unit = "relative" if quantity == "gain" else QUANTITIES.get(quantity, "share")
            section.claims.append(judge("b", name, text, left, unit))
        if name.startswith("recommend"):
            section.claims.append(_calibrated(name, points))
    section.text.append("\n".join(table))
    section.text.append(
        "Gain: relative deviations, all others absolute. Error bars: prediction and measurement "
        "together; the stationary law states no error of its own, so that only the noise of the "
        "batches is behind its bars, and it is not expected to lie within them."
        + (f" {refused} layers were refused a law." if refused else "")
    )
    plots.predicted_against_measured(pooled, out / "b_predicted.png")
    section.plots.append("b_predicted.png")
    return section


def _off(point: dict[str, Any], quantity: str) -> float:
    off = abs(point["predicted"] - point["measured"])
    return off / max(abs(point["measured"]), 1e-12) if quantity == "gain" else off


def _bars(points: list[dict[str, Any]]) -> np.ndarray:
    """Return deviations in standard errors."""
    deviation = np.array([abs(point["predicted"] - point["measured"]) for point in points])
    error = np.array(
        [np.hypot(point["predicted_error"], point["measured_error"]) for point in points]
    )
    return np.divide(deviation, error, out=np.full(len(points), np.inf), where=error > 0)


def _barred(points: list[dict[str, Any]]) -> str:
    if "measured_error" not in points[0]:
        return "-"
    ratio = _bars(points)
    return f"{100 * float(np.mean(ratio <= 1)):.0f} % / {100 * float(np.mean(ratio <= 2)):.0f} %"


def _correlation(points: list[dict[str, Any]]) -> str:
    x = np.array([point["predicted"] for point in points])
    y = np.array([point["measured"] for point in points])
    if len(points) < 3 or not (x.std() > 0 and y.std() > 0):
        return "-"
    return f"{float(np.corrcoef(x, y)[0, 1]):.3f}"


CALIBRATED = 0.9
"""Least share within two error bars; 0.954 would be exact."""


FEWEST = 10
"""Predictions that it takes to say anything on their error bars."""


def _calibrated(name: str, points: list[dict[str, Any]]) -> Claim:
    share = float(np.mean(_bars(points) <= 2))
    enough = len(points) >= FEWEST
    return Claim(
        "b",
        f"calibrated, {name}",
        f"{name}: at least {100 * CALIBRATED:.0f} % of the predictions lie within two error bars.",
        ("reproduced" if share >= CALIBRATED else "contradicted") if enough else "not run",
        share,
        float(np.sqrt(share * (1 - share) / len(points))),
        seeds=len(points),
        unit="share of predictions",
    )
