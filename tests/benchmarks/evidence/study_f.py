"""f. A high initial rate with the gradual sparsity loss, against none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikescope.probes.lif import LIF, reset_state
from spikescope.probes.remedies import attach_remedy

from . import plots
from .statistics import Section, judge, mean_and_error
from .tasks import TASKS, build, fit, parts

NAME = "f"
TITLE = "High initial rate with gradual sparsity loss"

SEEDS = range(5)
RATES = (0.05, 0.5)
FINAL_RATE = 0.05
TASK_NAMES = ("sequential-digits", "randman")
BISECTIONS = 25


def units(quick: bool) -> list[dict[str, Any]]:
    """Return a training per task, initial rate, loss and seed."""
    seeds = range(2) if quick else SEEDS
    names = TASK_NAMES[1:] if quick else TASK_NAMES

    return [
        {"task": name, "seed": seed, "initial": rate, "sparsity": loss}
        for name in names
        for seed in seeds
        for rate in RATES
        for loss in (False, True)
    ]


def measure(unit: dict[str, Any]) -> dict[str, Any]:
    """Set the initial rate by one common bias, then train with or without the penalty."""
    task, seed = TASKS[unit["task"]], unit["seed"]
    model = build(task, seed)
    inputs = parts(task.data, task.data_settings, seed).train[0][:128]
    started = set_rate(model, inputs, unit["initial"])
    remedy = None
    if unit["sparsity"]:
        remedy = attach_remedy(
            "sparsity", model, final_rate=FINAL_RATE, epochs=task.steps, steps_per_epoch=1
        )
    result = fit(
        task,
        model,
        seed,
        penalty=(lambda step: remedy.penalty()) if remedy else None,
        after_step=remedy.after_step if remedy else None,
    )
    if remedy:
        remedy.remove()
    final = firing_rate(model, parts(task.data, task.data_settings, seed).validation[0])
    return {**result, "started": started, "final": final}


def firing_rate(model: nn.Module, inputs: Tensor) -> float:
    """Return the mean rate of all spiking layers, spikes per element and timestep."""
    rates: list[float] = []
    handles = [
        module.register_forward_hook(lambda module, args, out: rates.append(float(out.mean())))
        for module in model.modules()
        if isinstance(module, LIF)
    ]
    model.eval()
    with torch.no_grad():
        reset_state(model)
        model(inputs)
    model.train()
    for handle in handles:
        handle.remove()
    return float(np.mean(rates))


def set_rate(model: nn.Module, inputs: Tensor, rate: float) -> float:
    """Shift the bias of each spiking layer's input by one number until it fires at a rate.

    Args:
        model: a recurrent net with one spiking layer and a bias.
        inputs: a batch.
        rate: wanted, spikes per element and timestep.

    Returns:
        The rate that was reached.
    """
    (bias,) = (
        parameter for name, parameter in model.named_parameters() if name.endswith("input.bias")
    )
    original = bias.detach().clone()
    low, high = -5.0, 5.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        with torch.no_grad():
            bias.copy_(original + middle)
        if firing_rate(model, inputs) < rate:
            low = middle
        else:
            high = middle
    return firing_rate(model, inputs)


def report(rows: list[dict[str, Any]], out: Path) -> Section:
    """Compare accuracy and final rate with and without the loss, for each initial rate."""
    section = Section(
        TITLE,
        [
            "Recurrent network of 64 units. The initial rate is set by one number added to all "
            "biases. *Sparsity*: sum over timesteps of c (rate - 0.05)^2 added to the loss, c "
            "rising linearly from 1/5 to 3/5 of the training, strength 1 as published.",
        ],
    )
    table = [
        "| task | initial rate | sparsity loss | final rate | test accuracy |",
        "|---|---|---|---|---|",
    ]
    by: dict[tuple[str, float, bool], dict[int, dict[str, Any]]] = {}
    for row in rows:
        settings = row["settings"]
        key = settings["task"], settings["initial"], settings["sparsity"]
        by.setdefault(key, {})[settings["seed"]] = row["result"]
    for (task, rate, loss), seeds in by.items():
        each = list(seeds.values())
        final, error = mean_and_error([result["final"] for result in each])
        test, test_error = mean_and_error([result["test"] for result in each])
        table.append(
            f"| {task} | {rate} | {'gradual' if loss else 'none'} | {final:.3f} ± {error:.3f} | "
            f"{100 * test:.1f} ± {100 * test_error:.1f} % |"
        )
    section.text.append("\n".join(table))
    for task in dict.fromkeys(key[0] for key in by):
        rates = sorted({key[1] for key in by if key[0] == task})
        section.claims += _claims(task, rates[0], rates[-1], by)
    plots.rates_and_accuracy(by, out / "f_sparsity.png")
    section.plots.append("f_sparsity.png")
    return section


def _claims(
    task: str, low: float, high: float, by: dict[tuple[str, float, bool], dict[int, Any]]
) -> list[Any]:
    def difference(one: tuple[float, bool], other: tuple[float, bool], what: str) -> list[float]:
        a, b = by.get((task, *one), {}), by.get((task, *other), {})
        return [a[seed][what] - b[seed][what] for seed in sorted(set(a) & set(b))]

    return [
        judge(
            "f",
            f"high start, sparse end: {task}",
            f"Starting at rate {high} with the gradual loss trains to a higher accuracy than "
            f"starting at {low} without it ({task}).",
            difference((high, True), (low, False), "test"),
            "accuracy",
            remedy="sparsity",
        ),
        judge(
            "f",
            f"loss at a high start: {task}",
            f"At an initial rate of {high} the gradual loss raises the accuracy ({task}).",
            difference((high, True), (high, False), "test"),
            "accuracy",
            remedy="sparsity",
        ),
        judge(
            "f",
            f"sparser: {task}",
            f"At an initial rate of {high} the gradual loss lowers the final rate ({task}).",
            [-value for value in difference((high, True), (high, False), "final")],
            "spikes / element / timestep",
            remedy="sparsity",
        ),
    ]
