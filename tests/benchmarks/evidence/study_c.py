"""c. MP-Init: firing rate and drift of u per timestep, with and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spikescope.probes.remedies import attach_remedy

from . import plots
from .recording import batches_of, drift, record
from .statistics import Section, judge, mean_and_error
from .tasks import Task, build, fit, parts

NAME = "c"
TITLE = "MP-Init: firing rate and drift of u per timestep"

SEEDS = range(5)
ARMS = ("none", "mp_init", "mp_init_all")

TASKS = {
    "decay 0.5": Task(
        "digits-net", "digits", 100, 2e-3, 64,
        settings=(("timesteps", 4), ("channels", 8), ("decay", 0.5)),
    ),
    "decay 0.8": Task(
        "digits-net", "digits", 100, 2e-3, 64,
        settings=(("timesteps", 4), ("channels", 8), ("decay", 0.8)),
    ),
}  # fmt: skip
"""The paper's setting (decay 0.5, T = 4), and one with a longer memory, where the shift lasts."""


def units(quick: bool) -> list[dict[str, Any]]:
    """Return a training per setting, arm and seed."""
    tasks = list(TASKS)[:1] if quick else list(TASKS)
    seeds = range(2) if quick else SEEDS
    arms = ARMS[:2] if quick else ARMS
    return [{"task": t, "seed": s, "arm": a} for t in tasks for s in seeds for a in arms]


def measure(unit: dict[str, Any]) -> dict[str, Any]:
    """Train, then record the validation part in evaluation mode."""
    task, seed = TASKS[unit["task"]], unit["seed"]
    model = build(task, seed)
    remedy = attach_remedy(unit["arm"], model) if unit["arm"] != "none" else None
    result = fit(task, model, seed, after_step=remedy.after_step if remedy else None)
    inputs = parts(task.data, task.data_settings, seed).validation[0]
    recorded = record(model, batches_of(inputs, 4, 64, seed), "eval")
    return {
        **result,
        "rate": recorded.mean("rate").tolist(),
        "drift": drift(recorded).tolist(),
        "start": [row["start"] for row in remedy.report()] if remedy else [],
    }


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Compare drift and rate at t = 1 with and without, seed by seed."""
    section = Section(
        TITLE,
        [
            "Six spiking layers with batch norm, T = 4, trained on the digits with and without "
            "MP-Init (start potential = running mean of v[T] over active units; *all*: over all "
            "units). Drift at t: Wasserstein-1 distance of the law of u at t to that at T, in "
            "thresholds, mean over layers; measured on the validation part in evaluation mode.",
        ],
    )
    table = [
        "| setting | arm | W1 at t = 1 | W1 at t = 2 | rate at t = 1 | rate at T | start | test "
        "accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(row["settings"]["task"] for row in rows):
        arms: dict[str, dict[int, dict[str, Any]]] = {}
        for row in rows:
            if row["settings"]["task"] == task:
                result = row["result"]
                arms.setdefault(row["settings"]["arm"], {})[row["settings"]["seed"]] = {
                    **result,
                    "drift": np.array(result["drift"]),
                    "rate": np.array(result["rate"]),
                }
        for arm, seeds in arms.items():
            each = list(seeds.values())
            table.append(
                f"| {task} | {arm} | "
                + " | ".join(
                    _shown(values)
                    for values in (
                        [result["drift"][:, 0].mean() for result in each],
                        [result["drift"][:, 1].mean() for result in each],
                        [result["rate"][:, 0].mean() for result in each],
                        [result["rate"][:, -1].mean() for result in each],
                        [float(np.mean(result["start"] or [0.0])) for result in each],
                        [result["test"] for result in each],
                    )
                )
                + " |"
            )
        for arm in ARMS[1:]:
            section.claims += _claims(task, arm, arms)
    section.text.append("\n".join(table))
    if any(c.verdict == "contradicted" and "mp_init_all" in c.name for c in section.claims):
        section.text.append(
            "*All* is not the published form. Where it widens the drift: silent units sit far "
            "below the others and pull the mean down, the start with it, and all units then fire "
            "less at t = 1. A start that matches the mean of u need not bring the laws nearer."
        )
    plots.drift_and_rate(rows, out / "c_mp_init.png")
    section.plots.append("c_mp_init.png")
    return section


def _claims(task: str, arm: str, arms: dict[str, dict[int, dict[str, Any]]]) -> list[Any]:
    plain, with_it = arms.get("none", {}), arms.get(arm, {})
    seeds = sorted(set(plain) & set(with_it))

    def gap(result: dict[str, Any]) -> float:
        return float(np.abs(result["rate"][:, 0] - result["rate"][:, -1]).mean())

    pairs = [(plain[seed], with_it[seed]) for seed in seeds]
    return [
        judge(
            "c",
            f"less drift: {arm}, {task}",
            f"{arm} reduces the drift (W1) at t = 1 ({task}).",
            [a["drift"][:, 0].mean() - b["drift"][:, 0].mean() for a, b in pairs],
            "thresholds",
            remedy="start",
        ),
        judge(
            "c",
            f"flat rate: {arm}, {task}",
            f"{arm} brings the firing rate at t = 1 nearer to that at T ({task}).",
            [gap(a) - gap(b) for a, b in pairs],
            "spikes / element / timestep",
            remedy="start",
        ),
        judge(
            "c",
            f"accuracy: {arm}, {task}",
            f"{arm} improves the test accuracy ({task}).",
            [b["test"] - a["test"] for a, b in pairs],
            "accuracy",
            remedy="start",
        ),
    ]


def _shown(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3f} ± {error:.3f}"
