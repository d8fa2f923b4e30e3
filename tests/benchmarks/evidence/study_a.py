"""a. The recommended configuration against a grid over shape, peak and width."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import spikescope
from spikescope.analysis.recommend import Recommendation, in_words
from spikescope.analysis.surrogate import Surrogate

from .statistics import Section
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

START_TASK, START_SEEDS = "randman", range(5, 45)
"""More seeds for the start potential, which is proposed too rarely to be judged on five. They were
added in two steps, 12 and then 28, since the first could not have seen less than 8 points."""

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
    more = [
        {"task": START_TASK, "seed": seed, "arm": arm}
        for seed in START_SEEDS
        for arm in ("default", "only start")
    ]
    return ([] if quick else more) + [
        {"task": task, "seed": seed, **arm}
        for task in tasks
        for seed in seeds
        for arm in arms
        if not (TASKS[task].default_weights and arm["arm"] in ("grid", FROM_NARROW))
    ]


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
    from .study_a_report import report as written

    return written(rows, out)
