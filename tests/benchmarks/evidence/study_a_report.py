"""The report of study a: against the best of the grid, and kind of change by kind of change."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import plots
from .statistics import Claim, Section, Verdict, judge, mean_and_error
from .study_a import FROM_NARROW, NARROW, PARTS, SEEDS, START_SEEDS, START_TASK, TITLE


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Compare the recommended configuration with the best of the grid, chosen by validation."""
    rows = _filled(rows)
    section = Section(
        TITLE,
        [
            f"Each grid has {_grid_in_words(rows)} for each seed; a seed "
            "decides split, weights and order of samples, and is the same for all "
            "configurations. *Default*: the network as it is built, arctan with peak 1 and width "
            "1/pi. *Best of grid*: the configuration with the highest validation "
            "accuracy of its seed; its test accuracy is reported, which no choice has seen. *Best "
            "mean*: one configuration for all seeds, by mean validation accuracy. *Oracle*: the "
            "highest test accuracy, which nobody could have chosen: an upper bound. *From a narrow "
            "guess*: the same, but the network came with a rectangle of peak 1 and width 0.1. "
            "The recommended configuration sees 4 training batches once and is trained once. "
            "Errors are standard errors over seeds. *Default weights*: weights as torch draws "
            "them, and on the digits no norm and a fast sigmoid of slope 25: there is no grid, "
            "since no surrogate makes a silent network fire. *Only ...*: only that kind of change "
            "is applied; where nothing was to be changed, the result is the default's, and it is "
            "not trained again.",
        ],
    )
    by_task: dict[str, dict[str, list[Any]]] = {}
    changes = [
        "| task | default | recommended | only surrogate | only weights | only start | what was "
        "changed (first seed) |",
        "|---|---|---|---|---|---|---|",
    ]
    table = [
        "| task | recommended | best of grid | best mean | oracle | default | narrow guess | "
        "recommended from it | recommended - best | steps: grid / recommended |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(row["settings"]["task"] for row in rows):
        everything = [row for row in rows if row["settings"]["task"] == task]
        mine = [row for row in everything if row["settings"]["seed"] in SEEDS]
        found = _summary(mine)
        if found is None:
            section.text.append(f"Task {task}: not complete, not reported.")
            continue
        changes.append(_changes(task, mine))
        section.claims += _gains(task, found) + _parts_claims(task, everything)
        if "difference" not in found:
            continue
        by_task[task] = found
        table.append(
            f"| {task} | "
            + " | ".join(
                _percent(found[name])
                for name in (
                    *("recommended", "best", "best mean", "oracle", "default"),
                    *("narrow", "mended", "difference"),
                )
            )
            + f" | {np.mean(found['steps']):.0f}x |"
        )
        section.claims += _claims(task, found)
    veto(section)
    section.text.append("\n".join(changes))
    section.text += _starts(rows)
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
    mine = [of(seed, "recommended")[0]["result"] for seed in whole]
    default = [of(seed, "default")[0]["result"]["test"] for seed in whole]
    found: dict[str, list[Any]] = {
        "recommended": [each["test"] for each in mine],
        "default": default,
        "gain": [each["test"] - other for each, other in zip(mine, default, strict=True)],
    }
    if not size:
        return found
    grids = [
        {
            tuple(row["settings"][name] for name in ("shape", "peak", "width")): row["result"]
            for row in of(seed, "grid")
        }
        for seed in whole
    ]
    means = {
        name: float(np.mean([grid[name]["validation"] for grid in grids])) for name in grids[0]
    }
    mean_best = max(means, key=lambda name: means[name])
    chosen = [max(grid, key=lambda name, grid=grid: grid[name]["validation"]) for grid in grids]
    best = [grid[name]["test"] for grid, name in zip(grids, chosen, strict=True)]
    best_mean = [grid[mean_best]["test"] for grid in grids]
    steps = [sum(each["steps"] for each in grid.values()) for grid in grids]
    looked = [each["looked_seconds"] / (each["seconds"] / each["steps"]) for each in mine]
    return found | {
        "best": best,
        "best mean": best_mean,
        "best mean is": [mean_best],
        "oracle": [max(each["test"] for each in grid.values()) for grid in grids],
        "median": [float(np.median([each["test"] for each in grid.values()])) for grid in grids],
        "narrow": [grid.get(NARROW, {}).get("test", math.nan) for grid in grids],
        "mended": [
            next((each["result"]["test"] for each in of(seed, FROM_NARROW)), math.nan)
            for seed in whole
        ],
        "difference": [each["test"] - other for each, other in zip(mine, best, strict=True)],
        "to mean": [each["test"] - other for each, other in zip(mine, best_mean, strict=True)],
        # Looking is counted in steps of this training, by the time of computing.
        "ratio": [
            total / (each["steps"] + extra)
            for total, each, extra in zip(steps, mine, looked, strict=True)
        ],
        "steps": [total / each["steps"] for total, each in zip(steps, mine, strict=True)],
        "looked": looked,
        "grid": [each["test"] for grid in grids for each in grid.values()],
    }


def _grid_in_words(rows: list[dict[str, Any]]) -> str:
    grid = [row["settings"] for row in rows if row["settings"]["arm"] == "grid"]
    axes = {name: {settings[name] for settings in grid} for name in ("shape", "peak", "width")}
    sizes = [f"{len(values)} {name}{'s' * (len(values) != 1)}" for name, values in axes.items()]
    return f"{' x '.join(sizes)} = {math.prod(map(len, axes.values()))} trainings"


def _starts(rows: list[dict[str, Any]]) -> list[str]:
    """Say how often a start potential was proposed, with the seeds that were added for it."""
    mine = [
        row["result"]["changed"] > 0
        for row in rows
        if row["settings"]["task"] == START_TASK and row["settings"]["arm"] == "only start"
    ]
    if not mine:
        return []
    return [
        f"A start potential was proposed for {sum(mine)} of {len(mine)} seeds of {START_TASK} "
        f"({len(START_SEEDS)} seeds beyond the grid's were added for it, in two steps for want of "
        "power, which makes a false verdict somewhat likelier); the claim rests on those seeds."
    ]


def _changes(task: str, rows: list[dict[str, Any]]) -> str:
    """Return a line with the accuracy of every kind of change by itself."""
    cells = []
    said = "nothing"
    for arm in ("default", *PARTS):
        mine = sorted(
            (row for row in rows if row["settings"]["arm"] == arm),
            key=lambda row: int(row["settings"]["seed"]),
        )
        idle = arm != "default" and mine and not any(row["result"]["changed"] for row in mine)
        cells.append("not proposed" if idle else _percent([row["result"]["test"] for row in mine]))
        if arm == "recommended" and mine:
            said = "; ".join(mine[0]["result"]["said"])
    return f"| {task} | {' | '.join(cells)} | {said} |"


def _claims(task: str, found: dict[str, list[Any]]) -> list[Claim]:
    looked = float(np.mean(found["looked"]))
    steps = _at_least_20(
        f"twenty times fewer steps: {task}",
        f"On {task}, it takes at least 20 times fewer training steps than the grid.",
        found["steps"],
    )
    computed = _at_least_20(
        f"twenty times less computing: {task}",
        f"On {task}, it takes at least 20 times less computing than the grid, looking included.",
        found["ratio"],
        f"looking computes as long as {looked:.0f} training steps of this small network",
    )
    mended = judge(
        "a",
        f"mends a narrow guess: {task}",
        f"On {task}, what is recommended for a network with a narrow surrogate is better than it.",
        [b - a for a, b in zip(found["narrow"], found["mended"], strict=True)],
        "accuracy",
        remedy="recommended configuration",
    )
    return [
        _within(task, "the recommended configuration", found, "recommended"),
        _within(task, "what is recommended from a narrow guess", found, "mended"),
        mended,
        steps,
        computed,
    ]


def _within(task: str, what: str, found: dict[str, list[Any]], name: str) -> Claim:
    """Judge whether an arm is within one standard error of the best of the grid, both ways."""
    pairs = {
        best: [a - b for a, b in zip(found[name], found[best], strict=True)]
        for best in ("best", "best mean")
    }
    judged = judge("a", "", "", pairs["best"])
    means = {best: mean_and_error(values) for best, values in pairs.items()}
    within = all(difference >= -error for difference, error in means.values())
    verdict: Verdict = "reproduced" if within else "not reproduced"
    if judged.verdict == "contradicted" and not within:
        verdict = "contradicted"
    (first, error), (second, second_error) = means.values()
    detail = (
        f"minus the best of the grid: {100 * first:+.1f} ± {100 * error:.1f} points; minus the "
        f"best mean, {found['best mean is'][0]}: {100 * second:+.1f} ± "
        f"{100 * second_error:.1f}; median of the grid {100 * np.mean(found['median']):.1f} %"
    )
    return replace(
        judged,
        name=f"within one standard error, {what}: {task}",
        text=f"On {task}, {what} is within one standard error of the best of the grid.",
        verdict="not run" if judged.seeds < 2 else verdict,
        unit="accuracy",
        detail="" if judged.seeds < 2 else detail,
    )


def _at_least_20(name: str, text: str, ratios: list[float], detail: str = "") -> Claim:
    judged = judge("a", name, f"{text} Effect: the ratio minus 20.", [r - 20 for r in ratios])
    return replace(judged, unit="times", detail=detail)


def _gains(task: str, found: dict[str, list[Any]]) -> list[Claim]:
    """Judge the recommended configuration against the network as it came."""
    better = judge(
        "a",
        f"better than the default: {task}",
        f"On {task}, the recommended configuration is better than the network as it came.",
        found["gain"],
        "accuracy",
        remedy="recommended configuration",
        detail="" if any(found["gain"]) else "nothing was to be changed",
    )
    return [better]


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


def veto(section: Section) -> None:
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
    if math.isnan(mean):
        return "not run"
    return f"{100 * mean:.1f} ± {100 * error:.1f} %"
