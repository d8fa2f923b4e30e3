"""The demonstration: a real spiking network learns real data while a probe records it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ..data.datasets import load
from .models.bar import SHOW_LOSS_EVERY, threads, training_bar
from .models.counts import require_at_least_one
from .models.networks import digits_net
from .models.training import find_device, train
from .probe import watch

# Enough records to see training unfold, few enough that recording stays a small part of the time.
RECORD_EVERY = 5


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration left behind.

    Args:
        path: the run's folder, under the name that it really got; None if nothing could be written.
        accuracy: share of the test part that was classified right after the last epoch.
        test_samples: size of the test part.
    """

    path: Path | None
    accuracy: float
    test_samples: int


def run_demo(
    out: str | Path,
    data: str = "digits",
    device: str = "auto",
    seed: int = 0,
    epochs: int = 12,
    console: Console | None = None,
) -> DemoResult:
    """Train a spiking network with a probe attached, and show how far it is.

    Args:
        out: folder for the run; a run that exists there is kept, and the new one named otherwise.
        data: name of the data set.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        seed: decides the split of the data, the weights and the order of the samples.
        epochs: passes through the training part.
        console: where the progress bar goes; the standard output if None.

    Returns:
        The run's folder and the test accuracy.

    Raises:
        ValueError: an unknown data set or device, or a count below 1; before anything is written.
        ImportError: what the data set comes with is not installed.
    """
    require_at_least_one(epochs=epochs)
    where = find_device(device)
    dataset = load(data, seed)
    torch.manual_seed(seed)
    model = digits_net(classes=dataset.classes).to(where)
    with (
        threads(1),
        watch(model, out, every=RECORD_EVERY) as probe,
        training_bar(console) as bar,
    ):
        task = bar.add_task("training", total=None, loss="-", accuracy="-")

        def on_step(step: int, steps: int, loss: Tensor) -> None:
            bar.update(task, completed=step, total=steps)
            if step % SHOW_LOSS_EVERY == 0:  # to read the loss is to wait for the device
                bar.update(task, loss=f"{loss.item():.3f}")

        def on_epoch(epoch: int, accuracy: float) -> None:
            bar.update(task, accuracy=f"{accuracy:.1%}")

        history = train(
            model,
            dataset,
            epochs=epochs,
            seed=seed,
            device=device,
            probe=probe,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return DemoResult(probe.path, history.accuracies[-1], len(dataset.test_targets))
