"""The training loop: a network learns a data set, seeded, with or without a probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...data.datasets import Dataset
from ..lif import reset_state
from .counts import require_at_least_one

if TYPE_CHECKING:
    from ..probe import Probe

OnStep = Callable[[int, int, Tensor], None]
OnEpoch = Callable[[int, float], None]


@dataclass
class History:
    """What a training run went through.

    Args:
        losses: mean cross-entropy of the batch, nats, one per optimiser step.
        accuracies: share of the test part that was classified right, one per epoch.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    optimizer: torch.optim.Optimizer | None = None,
    probe: Probe | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train a network with cross-entropy, and test it after each epoch.

    Args:
        model: gives logits ``[N, classes]`` for inputs ``[N, ...]``; trained in place, and moved
            to the device.
        dataset: what to learn, and what to test on.
        epochs: passes through the training part.
        batch_size: samples per optimiser step; the last batch of an epoch may be smaller.
        learning_rate: of Adam; falls to 0 along a cosine. Unused with an optimiser of your own.
        seed: decides the order of the samples, nothing else: seed torch before you build the model.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        optimizer: your own optimiser, with its own rate; Adam if None.
        probe: what ``spikescope.watch(...)`` gave; told each step's loss and the test accuracy.
        on_step: called after each step as ``on_step(step, steps in total, loss)``.
        on_epoch: called after each epoch as ``on_epoch(epoch, test accuracy)``.

    Returns:
        The loss of each step and the test accuracy of each epoch.

    Raises:
        ValueError: a count below 1, an unknown device, or an empty training part.
    """
    require_at_least_one(epochs=epochs, batch_size=batch_size)
    if len(dataset.train_inputs) == 0:
        raise ValueError(f"the training part of {dataset.name!r} is empty: nothing to learn")
    where = find_device(device)
    model.to(where)
    inputs = torch.from_numpy(dataset.train_inputs)
    targets = torch.from_numpy(dataset.train_targets)
    steps = epochs * math.ceil(len(inputs) / batch_size)
    scheduler: torch.optim.lr_scheduler.CosineAnnealingLR | None = None
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    # A generator of its own: the order of the samples is no business of the global random state.
    order = torch.Generator().manual_seed(seed)
    history = History()
    step = 0
    for epoch in range(1, epochs + 1):
        model.train()
        losses: list[Tensor] = []
        for batch in torch.split(torch.randperm(len(inputs), generator=order), batch_size):
            reset_state(model)
            optimizer.zero_grad()
            logits = model(as_input(inputs[batch].to(where), dataset.scale))
            loss = nn.functional.cross_entropy(logits, targets[batch].to(where))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            step += 1
            losses.append(loss.detach())
            if probe is not None:
                probe.step(loss=loss)
            if on_step is not None:
                on_step(step, steps, losses[-1])
        history.losses += torch.stack(losses).tolist()  # once an epoch: it waits for the device
        accuracy = measure_accuracy(model, dataset, batch_size=batch_size, device=device)
        history.accuracies.append(accuracy)
        if probe is not None:
            probe.log(accuracy=accuracy)
        if on_epoch is not None:
            on_epoch(epoch, accuracy)
    return history


def measure_accuracy(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 64, device: str = "cpu"
) -> float:
    """Return the share of the test part that a network classifies right.

    The network is put into evaluation mode for it, and left in the mode that it came in.

    Args:
        model: gives logits ``[N, classes]`` for inputs ``[N, ...]``.
        dataset: its test part is used.
        batch_size: samples at a time; does not change the result.
        device: where the model is: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: the test part is empty, or ``batch_size`` is below 1.
    """
    require_at_least_one(batch_size=batch_size)
    if len(dataset.test_inputs) == 0:
        raise ValueError(f"the test part of {dataset.name!r} is empty: there is no accuracy")
    where = find_device(device)
    inputs = torch.split(torch.from_numpy(dataset.test_inputs), batch_size)
    targets = torch.split(torch.from_numpy(dataset.test_targets), batch_size)
    right = torch.zeros((), dtype=torch.int64, device=where)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for some_inputs, some_targets in zip(inputs, targets, strict=True):
                reset_state(model)
                logits = model(as_input(some_inputs.to(where), dataset.scale))
                right += (logits.argmax(1) == some_targets.to(where)).sum()
    finally:
        model.train(was_training)
    return int(right) / len(dataset.test_targets)


def as_input(inputs: Tensor, scale: float) -> Tensor:
    """Turn a batch as the data set keeps it into what a network takes.

    Args:
        inputs: ``[N, ...]``, floating or uint8.
        scale: what a uint8 input is multiplied by.

    Returns:
        ``[N, ...]``, floating.

    Example:
        >>> as_input(torch.tensor([[255]], dtype=torch.uint8), 1 / 255)
        tensor([[1.]])
    """
    return inputs if inputs.is_floating_point() else inputs.float() * scale


def find_device(name: str) -> torch.device:
    """Return the torch device for ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: another name, or CUDA where there is none.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} is not one of 'auto', 'cpu', 'cuda'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch finds no CUDA device: use 'auto' or 'cpu'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
