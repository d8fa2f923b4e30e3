"""Compare recorded runs: differences with error bars, aligned by step or at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.runs import Run, open_run
from ..data.schema import COLUMNS, KEYS, MODES
from .compare_curves import KEY, Curves, reach_steps, record_curves, scalar_curves
from .compare_statistics import adjusted, between_runs, parting, two_sided, within_runs

__all__ = ["COMPARED", "compare", "parting"]

OneRun: TypeAlias = Run | str | Path
Side: TypeAlias = OneRun | Sequence[OneRun]

COMPARED = ("u_mean", "u_std", "rate", "coverage", "silent_share", "grad_u_rms")
"""Columns that are compared if none are named."""

SHOWN = ("a", "b", "difference", "error", "p", "q", "significant")


def compare(
    run_a: Side,
    run_b: Side,
    *,
    by: Literal["step", "loss"] = "step",
    columns: Sequence[str] = COMPARED,
    mode: str | None = None,
    level: float = 0.05,
) -> pd.DataFrame:
    """Compare two runs, or two groups of runs that differ in their seeds.

    The error of a difference comes from what was given. Two groups of runs: the spread between the
    runs, seed by seed if both groups have the same seeds. One run on each side: the standard
    errors over the samples of a recorded batch, where a column has one; it says whether the two
    *networks* differ there, and two seeds of one recipe do. To compare recipes, give groups.

    Args:
        run_a: a run or its folder, or a list of them.
        run_b: the same; differences are b - a.
        by: ``"step"`` compares equal optimiser steps; ``"loss"`` compares the first steps at which
            the training loss was as low, linear between records.
        columns: names of :data:`~spikescope.data.schema.COLUMNS`.
        mode: only ``"train"`` or ``"eval"``; both if None.
        level: bound on the false discovery rate, strictly between 0 and 1.

    Returns:
        A row per (step or loss, mode, layer, t, quantity); scalars such as the loss have mode and
        layer ``""`` and t 0. ``a``, ``b`` (means over runs), ``difference``, its standard
        ``error``, ``p`` (two-sided, Student), ``q`` (p adjusted after Benjamini and Hochberg for
        all rows of the table), ``significant`` (q at most ``level``). By loss, ``step_a`` and
        ``step_b`` say when it was reached. ``attrs["notes"]`` lists what does not match and how
        the errors were taken. :func:`parting` says where the two sides part first.

    Raises:
        ValueError: no run on a side, one run twice on a side, an unknown column, mode or ``by``,
            a level outside of (0, 1), nothing in common to compare.

    Example:
        >>> compare("no/such/run", "runs/b")
        Traceback (most recent call last):
        ...
        spikescope.data.run_header.RunError: 'no/such/run' does not exist: name a folder with a run

    Source:
        Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57, 289-300; Welch 1947, Biometrika 34.
    """
    _check(by, columns, mode, level)
    groups = _open(run_a, "run_a"), _open(run_b, "run_b")
    paired = _pair(groups)
    notes = [*_settings(*groups), _errors_note(groups, paired)]
    levels = _levels(groups) if by == "loss" else None
    curves = [[_curves(run, columns, mode, by) for run in group] for group in groups]
    sources = dict.fromkeys(name for run in curves[0] for name in run)
    tables = []
    for name in sources:
        if all(name in run for group in curves for run in group):
            found = [[run[name] for run in group] for group in curves]
            tables.append(_meet(found, groups, levels, paired, notes))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    torn = _torn(groups)
    if not len(table):
        raise ValueError(
            f"{_names(groups[0])} and {_names(groups[1])} have no {by} with a layer or scalar in "
            f"common: nothing can be compared{''.join(f'; {text}' for text in torn)}"
        )
    notes += torn
    table["q"] = adjusted(table["p"].to_numpy())
    table["significant"] = (table["q"] <= level).to_numpy(dtype=bool)
    front = [name for name in (by, "step_a", "step_b") if name in table]
    table = table[[*front, *KEY, *SHOWN]]
    table.attrs["notes"] = list(dict.fromkeys(notes))
    return table


def _check(by: str, columns: Sequence[str], mode: str | None, level: float) -> None:
    if by not in ("step", "loss"):
        raise ValueError(f"by={by!r} is not one of 'step', 'loss'")
    numbers = [name for name in COLUMNS if name not in KEYS and name != "density"]
    for name in [columns] if isinstance(columns, str) else columns:
        if name not in numbers:
            raise ValueError(f"column {name!r} cannot be compared; there are {', '.join(numbers)}")
    if isinstance(columns, str):
        raise ValueError(f"columns={columns!r} is one name: give a list, [{columns!r}]")
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level!r} is not possible: it must be between 0 and 1")


def _open(side: Side, name: str) -> list[Run]:
    several = [side] if isinstance(side, Run | str | Path) else side
    runs = [run if isinstance(run, Run) else open_run(run) for run in several]
    if not runs:
        raise ValueError(f"{name} is an empty list: give at least one run")
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise ValueError(f"{name} holds {str(run.path)!r} twice: each run counts once")
        seen.add(run.path.resolve())
    return runs


def _torn(groups: tuple[list[Run], list[Run]]) -> list[str]:
    """Say of each run how much of what was asked for could not be read."""
    bad = [(run, run.problems) for group in groups for run in group]
    return [
        f"{str(run.path)!r} lacks what it holds in {len(problems)} "
        f"{'parts' if len(problems) > 1 else 'part'} that cannot be read ({problems[0]})"
        for run, problems in bad
        if problems
    ]


def _pair(groups: tuple[list[Run], list[Run]]) -> bool:
    """Say whether both groups have the same seeds, once each; then sort both by seed."""
    seeds = [[run.seed for run in group] for group in groups]
    alike = set(seeds[0]) == set(seeds[1]) and None not in seeds[0]
    once = all(len(set(some)) == len(some) for some in seeds)
    if not (alike and once and len(seeds[0]) > 1):
        return False
    for group in groups:
        group.sort(key=lambda run: run.seed or 0)
    return True


def _errors_note(groups: tuple[list[Run], list[Run]], paired: bool) -> str:
    n_a, n_b = map(len, groups)
    if n_a == n_b == 1:
        return (
            "one run on each side: errors are over the samples of a batch, so that a difference is "
            "one of these two networks, not of their recipes"
        )
    if paired:
        return f"errors are over {n_a} seeds, the same on both sides: paired"
    if min(n_a, n_b) == 1:
        return f"one side is a single run: the spread of the other's {max(n_a, n_b)} runs is both's"
    return f"errors are over {n_a} and {n_b} runs, whose seeds are not the same ones: not paired"


def _names(group: list[Run]) -> str:
    return ", ".join(repr(run.name) for run in group)


def _settings(group_a: list[Run], group_b: list[Run]) -> list[str]:
    """Say which layers, lengths and settings do not match, a sentence each."""
    notes = []
    sides = [{layer.name: layer for layer in group[0].covered} for group in (group_a, group_b)]
    for group in (group_a, group_b):
        for run in group[1:]:
            if [layer.name for layer in run.covered] != [layer.name for layer in group[0].covered]:
                notes.append(f"{run.name!r} has other layers than {group[0].name!r} on its side")
    for mine, other, name in ((*sides, "a"), (*sides[::-1], "b")):
        only = [layer for layer in mine if layer not in other]
        if only:
            notes.append(f"only in {name}, not compared: {', '.join(only)}")
    for name, layer in sides[0].items():
        if name not in sides[1]:
            continue
        other_layer = sides[1][name]
        changed = [
            f"{field} {layer.spec.get(field)} in a, {other_layer.spec.get(field)} in b"
            for field in dict.fromkeys([*layer.spec, *other_layer.spec])
            if layer.spec.get(field) != other_layer.spec.get(field)
        ]
        if layer.surrogate != other_layer.surrogate:
            changed.append(
                f"surrogate {_shown(layer.surrogate)} in a, {_shown(other_layer.surrogate)} in b"
            )
        if layer.coordinate != other_layer.coordinate:
            changed.append(f"u is {layer.coordinate} in a, {other_layer.coordinate} in b")
        if changed:
            notes.append(f"{name} is set up differently: {'; '.join(changed)}")
    return notes


def _shown(surrogate: dict[str, Any] | None) -> str:
    if surrogate is None:
        return "none"
    numbers = [f"{key}={surrogate[key]:.4g}" for key in ("peak", "width") if key in surrogate]
    return f"{surrogate.get('shape')}({', '.join(numbers)})"


def _curves(run: Run, columns: Sequence[str], mode: str | None, by: str) -> dict[str, Curves]:
    found = record_curves(run, columns)
    scalars = {name: curves for name, curves in scalar_curves(run).items() if name != by}
    chosen = {name: found[name] for name in found if mode in (None, name)}
    return chosen | {f"scalar {name}": curves for name, curves in scalars.items()}


def _levels(groups: tuple[list[Run], list[Run]]) -> NDArray[Any]:
    """Return the losses to compare at: those of the run with the fewest records, if in common."""
    best = []
    for run in [run for group in groups for run in group]:
        scalars = run.scalars()
        losses = scalars.get("loss", pd.Series(dtype=float)).dropna()
        if not len(losses):
            raise ValueError(f"{str(run.path)!r} has no loss: compare it by='step'")
        recorded = run.table(["rate"])["step"].unique()
        lowest = losses.cummin()
        best.append(lowest.reindex(recorded, method="ffill").dropna().to_numpy(dtype=float))
        if not len(best[-1]):
            raise ValueError(
                f"{str(run.path)!r} has no record with a loss: compare it by='step'"
                + "".join(f"; {text}" for text in _torn(([run], [])))
            )
    high, low = min(map(np.max, best)), max(map(np.min, best))
    fewest = min(best, key=len)
    levels = np.unique(fewest[(fewest <= high) & (fewest >= low)])[::-1]
    if not len(levels):
        raise ValueError(
            f"no loss was reached by all runs of {_names(groups[0])} and {_names(groups[1])}: "
            "compare them by='step'"
        )
    return levels


def _meet(
    found: list[list[Curves]],
    groups: tuple[list[Run], list[Run]],
    levels: NDArray[Any] | None,
    paired: bool,
    notes: list[str],
) -> pd.DataFrame:
    """Compare one mode, or one scalar, of all runs where they meet."""
    everything = [curves for group in found for curves in group]
    common = set.intersection(*(set(curves.keys) for curves in everything))
    keys = [key for key in everything[0].keys if key in common]
    notes += _lengths([curves.keys for curves in everything], keys)
    if not keys:
        return pd.DataFrame()
    front: dict[str, NDArray[Any]]
    if levels is None:
        points = _steps(everything, notes)
        front = {"step": points.astype(np.int64)}
        sides = [[curves.pick(keys).at(points) for curves in group] for group in found]
    else:
        reached = [[_reached(run, levels) for run in group] for group in groups]
        front = {"loss": levels}
        front |= {f"step_{x}": np.mean(reached[i], axis=0) for i, x in enumerate("ab")}
        sides = [
            [curves.pick(keys).at(steps) for curves, steps in zip(*pair, strict=True)]
            for pair in zip(found, reached, strict=True)
        ]
    return _rows(keys, front, sides, paired)


def _lengths(everyone: list[Any], keys: list[tuple[str, str, int, str]]) -> list[str]:
    """Say for which layers the runs do not have the same timesteps."""
    notes = []
    for mode, layer in dict.fromkeys(key[:2] for key in keys):
        lengths = {len({key[2] for key in one if key[:2] == (mode, layer)}) for one in everyone}
        if len(lengths) > 1:
            notes.append(
                f"{layer} ({mode}) has {' or '.join(map(str, sorted(lengths)))} timesteps: only "
                f"the first {min(lengths)} are compared"
            )
    return notes


def _reached(run: Run, levels: NDArray[Any]) -> NDArray[Any]:
    losses = run.scalars()["loss"].dropna()
    return reach_steps(losses.index.to_numpy(dtype=float), losses.to_numpy(dtype=float), levels)


def _steps(everything: list[Curves], notes: list[str]) -> NDArray[Any]:
    """Return the steps that all runs recorded; else the steps of one of them, in common range."""
    common: NDArray[Any] = everything[0].steps
    for curves in everything[1:]:
        common = np.intersect1d(common, curves.steps)
    if len(common):
        return common
    first, last = (max(c.steps[0] for c in everything), min(c.steps[-1] for c in everything))
    fewest: NDArray[Any] = min((curves.steps for curves in everything), key=len)
    notes.append("no step was recorded on both sides: values are linear between records")
    inside: NDArray[Any] = fewest[(fewest >= first) & (fewest <= last)]
    return inside


def _rows(
    keys: list[tuple[str, str, int, str]],
    front: dict[str, NDArray[Any]],
    sides: list[list[Curves]],
    paired: bool,
) -> pd.DataFrame:
    """Return the table of one set of curves at common points, with p but not yet adjusted."""
    a, b = (np.stack([curves.values for curves in side]) for side in sides)
    mean_a, mean_b = a.mean(0), b.mean(0)
    difference = mean_b - mean_a
    with np.errstate(invalid="ignore", divide="ignore"):
        if len(a) == len(b) == 1:
            (one,), (other,) = sides
            error, freedom = within_runs((one.errors, other.errors), (one.samples, other.samples))
        else:
            error, freedom = between_runs(a, b, paired=paired)
        p = two_sided(difference, error, freedom)
    columns: dict[str, Any] = {
        "a": mean_a, "b": mean_b, "difference": difference, "error": error, "p": p,
    }  # fmt: skip
    points = len(next(iter(front.values())))
    table = pd.DataFrame({name: np.tile(values, len(keys)) for name, values in front.items()})
    for place, name in enumerate(KEY):
        table[name] = [key[place] for key in keys for _ in range(points)]
    for name, values in columns.items():
        table[name] = values.ravel()
    return table[table["difference"].notna()]
