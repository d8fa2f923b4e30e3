"""The tasks of the studies: small networks and data sets that train in seconds on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.data.datasets import Dataset, load, stratified_split
from spikescope.probes.lif import reset_state
from spikescope.probes.models.catalogue import build_network

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Task:
    """A network, its data and its training.

    Args:
        network: name of a configuration of the package.
        data: name of a data set.
        steps: optimiser steps.
        learning_rate: of the optimiser; falls to 0 along a cosine.
        batch: samples per step.
        data_settings: arguments of the data set.
        settings: arguments of the network.
        default_weights: draw the weights anew as torch's own layers do, as most people start.
        Such a task has no grid: where a network is silent, no surrogate makes it fire.
    """

    network: str
    data: str
    steps: int
    learning_rate: float
    batch: int
    data_settings: tuple[tuple[str, Any], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    default_weights: bool = False


_RANDMAN = (("classes", 10), ("units", 10), ("timesteps", 12), ("samples", 200), ("alpha", 2.0))

TASKS = {
    "digits": Task(
        "digits-net", "digits", 100, 2e-3, 64, settings=(("timesteps", 4), ("channels", 8))
    ),
    "sequential-digits": Task(
        "recurrent-small", "sequential-digits", 250, 5e-3, 64, settings=(("decay", 0.8),)
    ),
    "randman": Task("recurrent-small", "randman", 150, 5e-3, 64, _RANDMAN, (("decay", 0.9),)),
    "randman, default weights": Task(
        "recurrent-small", "randman", 150, 5e-3, 64, _RANDMAN, (("decay", 0.9),), True
    ),
    "digits, default weights": Task(
        "vgg-small",
        "digits",
        100,
        2e-3,
        64,
        settings=(
            ("depth", 5),
            ("channels", 8),
            ("timesteps", 4),
            ("norm", "none"),
            ("surrogate", Surrogate("fast_sigmoid", peak=1.0, width=0.04)),
        ),
        default_weights=True,
    ),
}
"""Fixed before any grid was looked at."""


@dataclass(frozen=True)
class Parts:
    """Tensors to learn from, to choose by, and to report."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


@lru_cache(maxsize=4)
def parts(data: str, data_settings: tuple[tuple[str, Any], ...], seed: int) -> Parts:
    """Return the three parts of a data set; the test part is never used to choose."""
    dataset: Dataset = load(data, seed, **dict(data_settings))
    learn, choose = stratified_split(dataset.train_targets, VALIDATION_SHARE, seed)

    def tensors(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(targets)

    return Parts(
        tensors(dataset.train_inputs[learn], dataset.train_targets[learn]),
        tensors(dataset.train_inputs[choose], dataset.train_targets[choose]),
        tensors(dataset.test_inputs, dataset.test_targets),
        dataset.classes,
    )


def build(task: Task, seed: int, **settings: Any) -> nn.Module:
    """Return the task's network, seeded."""
    found = parts(task.data, task.data_settings, seed)
    shape = tuple(found.train[0].shape[1:])
    torch.manual_seed(seed)
    given = {**dict(task.settings), **settings}
    model = build_network(task.network, shape, found.classes, **given)
    if task.default_weights:
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
    return model


def fit(
    task: Task,
    model: nn.Module,
    seed: int,
    *,
    steps: int | None = None,
    weight_decay: float = 0.0,
    optimizer: Literal["adam", "sgd"] = "adam",
    penalty: Callable[[int], Tensor | None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Train in place; return loss, accuracies, seconds of computing, whether it stayed finite.

    Args:
        task: learning rate, batch and steps.
        model: the network.
        seed: order of the samples.
        steps: in place of the task's.
        weight_decay: of the optimiser (decoupled from the gradient for Adam).
        optimizer: Adam, or SGD with momentum 0.9; both at the task's rate.
        penalty: called with the step after the forward pass; added to the loss.
        after_step: called after each optimiser step.
    """
    total = steps or task.steps
    inputs, targets = parts(task.data, task.data_settings, seed).train
    rate = task.learning_rate
    chosen: torch.optim.Optimizer
    if optimizer == "sgd":
        chosen = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=weight_decay)
    else:
        chosen = torch.optim.AdamW(model.parameters(), rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, T_max=total)
    order = torch.Generator().manual_seed(seed)
    model.train()
    began = time.process_time()
    losses = []
    for step in range(total):
        batch = torch.randint(len(inputs), (task.batch,), generator=order)
        reset_state(model)
        chosen.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        losses.append(float(loss.detach()))
        added = penalty(step) if penalty is not None else None
        if added is not None:
            loss = loss + added
        loss.backward()  # type: ignore[no-untyped-call]
        chosen.step()
        scheduler.step()
        if after_step is not None:
            after_step()
    seconds = time.process_time() - began
    found = parts(task.data, task.data_settings, seed)
    last = losses[-max(1, total // 10) :]
    return {
        "loss": float(np.mean(last)),
        "validation": accuracy(model, *found.validation),
        "test": accuracy(model, *found.test),
        "seconds": seconds,
        "steps": float(total),
        "finite": float(np.isfinite(losses).all()),
    }


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples that a network classifies right, in evaluation mode."""
    was_training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for some, answers in zip(inputs.split(512), targets.split(512), strict=True):
            reset_state(model)
            right += int((model(some).argmax(1) == answers).sum())
    model.train(was_training)
    return right / len(targets)
