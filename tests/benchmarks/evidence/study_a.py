"""a. The recommended configuration against a grid over shape, peak and width."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import spikescope
from spikescope.analysis.recommend import Recommendation, in_words
from spikescope.analysis.surrogate import Surrogate

from . import plots
from .statistics import Claim, Section, detectable, judge, mean_and_error
from .tasks import TASKS, Task, build, fit, parts

NAME = "a"
TITLE = "Recommended configuration against a grid over shape, peak and width"

SHAPES = ("rectangular", "fast_sigmoid", "arctan")
PEAKS = (0.3, 1.0, 3.0)
WIDTHS = (0.1, 0.3, 1.0, 3.0)

NARROW = ("rectangular", 1.0, 0.1)
"""A poor guess from the grid: is it mended?"""

FROM_NARROW = "recommended from a narrow guess"

PARTS = {
    "recommended": None,
    "only surrogate": ("surrogate",),
    "only weights": ("weight_scale", "bias_shift", "recurrent_scale", "threshold"),
    "only start": ("start",),
}
"""Fields of the recommendation that an arm takes; all of them if None."""

SEEDS = range(5)
BATCHES = 4
"""Batches that ``recommend`` may look at."""


def units(quick: bool) -> list[dict[str, Any]]:
    """Return the grid, the default and the recommended configuration for each task and seed."""
    grid = list(itertools.product(SHAPES, PEAKS, WIDTHS))
    if quick:
        grid = list(itertools.product(SHAPES[1:2], PEAKS[1:2], WIDTHS[::2]))
    arms: list[dict[str, Any]] = [
        {"arm": "grid", "shape": shape, "peak": peak, "width": width} for shape, peak, width in grid
    ]
    arms.append({"arm": "default"})
    arms += [{"arm": name} for name in (list(PARTS)[:1] if quick else [*PARTS, FROM_NARROW])]
    seeds = range(2) if quick else SEEDS
    tasks = list(TASKS)[1:3] if quick else TASKS
    return [{"task": task, "seed": seed, **arm} for task in tasks for seed in seeds for arm in arms]


def measure(unit: dict[str, Any]) -> dict[str, Any]:
    """Train one configuration on one seed."""
    task = TASKS[unit["task"]]
    seed = unit["seed"]
    if unit["arm"] == "default":
        return fit(task, build(task, seed), seed)
    if unit["arm"] == "grid":
        surrogate = Surrogate(unit["shape"], peak=unit["peak"], width=unit["width"])
        return fit(task, build(task, seed, surrogate=surrogate), seed)
    narrow = unit["arm"] == FROM_NARROW
    found, seconds = _recommended(unit["task"], seed, narrow)
    chosen = [_only(each, None if narrow else PARTS[unit["arm"]]) for each in found]
    changed = sum(len(each.changes) for each in chosen)
    looked = {"changed": changed, "looked_seconds": seconds}
    if not changed and not narrow:
        return looked  # the same as the default, bit for bit: not trained again
    said = [
        f"{each.layer}: "
        + "; ".join(
            f"{key} {in_words(now)} -> {in_words(then)}"
            for key, (now, then) in each.changes.items()
        )
        for each in chosen
        if each.changes
    ]
    model = _start(task, seed, narrow)
    if changed:
        spikescope.apply(model, chosen)
    return {**fit(task, model, seed), **looked, "said": said}


def _start(task: Task, seed: int, narrow: bool) -> nn.Module:
    """Return the network before anything is recommended."""
    shape, peak, width = NARROW
    settings = {"surrogate": Surrogate(shape, peak=peak, width=width)} if narrow else {}
    return build(task, seed, **settings)


@lru_cache(maxsize=2)
def _recommended(name: str, seed: int, narrow: bool) -> tuple[list[Recommendation], float]:
    """Return what is recommended from a few training batches, and the seconds of computing."""
    task = TASKS[name]
    model = _start(task, seed, narrow)
    inputs, targets = parts(task.data, task.data_settings, seed).train
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    chosen = order[: BATCHES * task.batch].split(task.batch)
    began = time.process_time()
    found = spikescope.recommend(
        model, [inputs[some] for some in chosen], [targets[some] for some in chosen]
    )
    return list(found), time.process_time() - began


def _only(recommendation: Recommendation, fields: tuple[str, ...] | None) -> Recommendation:
    """Return a recommendation with some of its changes; "leave it" if none are left."""
    if fields is None or recommendation.verdict != "change":
        return recommendation
    kept = {name: change for name, change in recommendation.changes.items() if name in fields}
    return replace(recommendation, changes=kept, verdict="change" if kept else "leave it")


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Compare the recommended configuration with the best of the grid, chosen by validation."""
    rows = _filled(rows)
    section = Section(
        TITLE,
        [
            "Each grid has 3 shapes x 3 peaks x 4 widths = 36 trainings for each seed; a seed "
            "decides split, weights and order of samples, and is the same for all "
            "configurations. *Default*: the network as it is built, arctan with peak 1 and width "
            "1/pi. *Best of grid*: the configuration with the highest validation "
            "accuracy of its seed; its test accuracy is reported, which no choice has seen. *Best "
            "mean*: one configuration for all seeds, by mean validation accuracy. *Oracle*: the "
            "highest test accuracy, which nobody could have chosen: an upper bound. *From a narrow "
            "guess*: the same, but the network came with a rectangle of peak 1 and width 0.1. The "
            "recommended configuration sees 4 training batches once and is trained once. Errors "
            "are standard errors over seeds.",
        ],
    )
    by_task: dict[str, dict[str, list[Any]]] = {}
    table = [
        "| task | recommended | best of grid | best mean | oracle | default | narrow guess | "
        "recommended from it | recommended - best | steps: grid / recommended |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(row["settings"]["task"] for row in rows):
        mine = [row for row in rows if row["settings"]["task"] == task]
        found = _summary(mine)
        if found is None:
            section.text.append(f"Task {task}: not complete, not reported.")
            continue
        by_task[task] = found
        best = judge("a", "", "", found["difference"])
        ratio = float(np.mean(found["ratio"]))
        table.append(
            f"| {task} | "
            + " | ".join(
                _percent(found[name])
                for name in (
                    *("recommended", "best", "best mean", "oracle", "default"),
                    *("narrow", "mended", "difference"),
                )
            )
            + f" | {ratio:.0f}x |"
        )
        section.claims += _claims(task, found, best, ratio) + _parts_claims(task, mine)
    _veto(section)
    if by_task:
        section.text.append("\n".join(table))
        plots.against_grid(by_task, out / "a_grid.png")
        section.plots.append("a_grid.png")
    return section


def _filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each arm in which nothing was changed the result of the default of its seed."""
    default = {
        (row["settings"]["task"], row["settings"]["seed"]): row["result"]
        for row in rows
        if row["settings"]["arm"] == "default"
    }
    found = []
    for row in rows:
        result = row["result"]
        if result.get("changed") == 0:
            result = {**default.get((row["settings"]["task"], row["settings"]["seed"]), {}),
                      **result, "said": ["nothing"]}  # fmt: skip
        if "test" in result:
            found.append({**row, "result": result})
    return found


def _summary(rows: list[dict[str, Any]]) -> dict[str, list[Any]] | None:
    """Return values over seeds; None if there is no complete seed pair to compare."""

    def of(seed: int, arm: str) -> list[dict[str, Any]]:
        return [
            row for row in rows
            if row["settings"]["seed"] == seed and row["settings"]["arm"] == arm
        ]  # fmt: skip

    seeds = sorted({row["settings"]["seed"] for row in rows})
    if not seeds:
        return None
    size = max(len(of(seed, "grid")) for seed in seeds)
    whole = [
        seed
        for seed in seeds
        if len(of(seed, "grid")) == size and of(seed, "recommended") and of(seed, "default")
    ]
    if len(whole) < 2:
        return None

    def configuration(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row["settings"][name] for name in ("shape", "peak", "width"))

    results = {
        seed: {configuration(row): row["result"] for row in of(seed, "grid")} for seed in whole
    }
    mean_best = max(
        results[whole[0]],
        key=lambda name: float(np.mean([results[seed][name]["validation"] for seed in whole])),
    )
    found: dict[str, list[Any]] = {"best mean is": [mean_best], "grid": [], "said": []}
    for seed in whole:
        grid = results[seed]
        (mine,) = of(seed, "recommended")
        chosen = max(grid, key=lambda name: grid[name]["validation"])
        values = {
            "recommended": mine["result"]["test"],
            "best": grid[chosen]["test"],
            "best is": chosen,
            "best mean": grid[mean_best]["test"],
            "oracle": max(each["test"] for each in grid.values()),
            "median": float(np.median([each["test"] for each in grid.values()])),
            "default": of(seed, "default")[0]["result"]["test"],
            "narrow": grid[NARROW]["test"] if NARROW in grid else math.nan,
            "mended": next((each["result"]["test"] for each in of(seed, FROM_NARROW)), math.nan),
            "difference": mine["result"]["test"] - grid[chosen]["test"],
            "to mean": mine["result"]["test"] - grid[mean_best]["test"],
            "gain": mine["result"]["test"] - of(seed, "default")[0]["result"]["test"],
            "ratio": sum(each["steps"] for each in grid.values())
            / (mine["result"]["steps"] + _looked(mine["result"])),
            "steps": sum(each["steps"] for each in grid.values()) / mine["result"]["steps"],
            "looked": _looked(mine["result"]),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        found["grid"] += [each["test"] for each in grid.values()]
        found["said"].append(mine["result"]["said"])
    return found


def _claims(task: str, found: dict[str, list[Any]], best: Claim, ratio: float) -> list[Claim]:
    difference, error = mean_and_error(found["difference"])
    to_mean, error_mean = mean_and_error(found["to mean"])
    seeds = len(found["difference"])
    within = difference >= -error and to_mean >= -error_mean
    detail = (
        f"recommended minus best of grid: {100 * difference:+.1f} ± {100 * error:.1f} points; "
        f"minus the best mean {found['best mean is'][0]}: {100 * to_mean:+.1f} ± "
        f"{100 * error_mean:.1f}; median of the grid {100 * float(np.mean(found['median'])):.1f} %"
    )
    goal = Claim(
        "a",
        f"within one standard error: {task}",
        f"On {task}, the recommended configuration is within one standard error of the best of "
        "the grid.",
        "reproduced" if within else ("contradicted" if best.verdict == "contradicted" else
                                     "not reproduced"),
        difference,
        error,
        detectable(error, seeds),
        seeds,
        "accuracy",
        "",
        detail,
    )  # fmt: skip
    steps = Claim(
        "a",
        f"twenty times fewer steps: {task}",
        f"On {task}, it takes at least 20 times fewer training steps, looking included.",
        "reproduced" if min(found["ratio"]) >= 20 else "contradicted",
        ratio,
        mean_and_error(found["ratio"])[1],
        math.nan,
        seeds,
        "times",
        "",
        f"{float(np.mean(found['steps'])):.0f} times fewer without it; looking computed as long as "
        f"{float(np.mean(found['looked'])):.0f} training steps, whatever the training's length",
    )
    mended = judge(
        "a",
        f"mends a narrow guess: {task}",
        f"On {task}, what is recommended for a network with a narrow surrogate is better than it.",
        [b - a for a, b in zip(found["narrow"], found["mended"], strict=True)],
        "accuracy",
        remedy="recommended configuration",
    )
    better = judge(
        "a",
        f"better than the default: {task}",
        f"On {task}, the recommended configuration is better than the default surrogate.",
        found["gain"],
        "accuracy",
        remedy="recommended configuration",
    )
    return [goal, steps, better, mended]


def _looked(result: dict[str, Any]) -> float:
    """Return what looking costs in steps of this training, by the time of computing."""
    return float(result["looked_seconds"] / (result["seconds"] / result["steps"]))


def _parts_claims(task: str, rows: list[dict[str, Any]]) -> list[Claim]:
    """Judge each kind of change by itself against the default, where it was proposed at all."""
    by: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["settings"]["arm"], {})[row["settings"]["seed"]] = row["result"]
    claims = []
    for arm in list(PARTS)[1:]:
        seeds = [
            seed
            for seed, result in by.get(arm, {}).items()
            if result["changed"] and seed in by.get("default", {})
        ]
        if len(seeds) > 1:
            claims.append(
                judge(
                    "a",
                    f"{arm}: {task}",
                    f"On {task}, what is recommended for {_NAMES[arm]} alone is better than the "
                    "default.",
                    [by[arm][seed]["test"] - by["default"][seed]["test"] for seed in seeds],
                    "accuracy",
                    remedy=arm,
                )
            )
    return claims


_NAMES = {
    "only surrogate": "the surrogate",
    "only weights": "weights, bias and threshold",
    "only start": "the start potential",
}


def _veto(section: Section) -> None:
    """Veto a kind of change that made training worse on some task and better on none."""
    for arm in list(PARTS)[1:]:
        verdicts = [claim for claim in section.claims if claim.remedy == arm]
        worse = [claim for claim in verdicts if claim.verdict == "contradicted"]
        better = [claim for claim in verdicts if claim.verdict == "reproduced"]
        if worse and not better:
            reason = f"worse than the default ({worse[0].name}), better on no task"
            section.vetoes |= {field: reason for field in PARTS[arm] or ()}


def _percent(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{100 * mean:.1f} ± {100 * error:.1f} %"
