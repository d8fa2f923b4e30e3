"""One training from its settings to its run folder: with probes, remedies and checkpoints."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ...data.datasets import Dataset, load
from ..apply import apply
from ..preflight import recommend
from ..probe import Probe, watch
from ..remedies import LOOP_REMEDIES, LoopRemedy, attach_remedy
from .bar import SHOW_LOSS_EVERY, threads, training_bar
from .catalogue import build_network, timesteps_of
from .checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from .evaluation import as_input, find_device
from .place import require_folder
from .settings import TrainSettings, settings_from
from .training import Trainer

CHECKPOINT = "checkpoint.pt"

RECOMMEND_FROM = 2
"""Batches of the training part that recommendations are made from."""


@dataclass(frozen=True)
class Outcome:
    """What a training left behind.

    Args:
        path: the run's folder; the checkpoint is in it.
        network: name of the network.
        data: name of the data set.
        seed: of the run.
        steps: optimiser steps done, all sittings together.
        accuracies: share of the test part that was classified right, one per finished epoch.
        test_samples: size of the test part.
        seconds: duration of this sitting, without loading the data.
        finished: whether all epochs are done; False after an interrupt.
    """

    path: Path
    network: str
    data: str
    seed: int
    steps: int
    accuracies: list[float]
    test_samples: int
    seconds: float
    finished: bool

    @property
    def accuracy(self) -> float | None:
        """Test accuracy after the last finished epoch."""
        return self.accuracies[-1] if self.accuracies else None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "path": str(self.path), "accuracy": self.accuracy}


def run_training(settings: TrainSettings, console: Console | None = None) -> Outcome:
    """Train from the beginning.

    The first Ctrl-C (or SIGTERM) ends the training after the step that it is in, with a checkpoint;
    the outcome says that it is not finished. A second one has its usual effect at once.

    Args:
        settings: what to train, on what, how.
        console: where the progress bar goes; standard error if None.

    Returns:
        Where the run is and what came of it.

    Raises:
        ValueError: settings that do not fit each other; before anything is written.
        FileNotFoundError: a file of the data set is missing.
        ImportError: what the data set comes with is not installed.
    """
    return _train(settings, None, None, console)


def resume_training(
    run: str | Path, device: str | None = None, console: Console | None = None
) -> Outcome:
    """Go on with a training that was interrupted, from its last checkpoint.

    On the CPU the weights end bit for bit as if there had been no interruption. The recording goes
    on in the same run; what it held behind the checkpoint is recorded anew.

    Args:
        run: folder of the run, or its checkpoint.
        device: where to go on; as before if None.
        console: where the progress bar goes; standard error if None.

    Returns:
        Where the run is and what came of it.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is broken, or the training is finished.
    """
    path = Path(run)
    path = path / CHECKPOINT if path.is_dir() else path
    content = load_checkpoint(path)
    kept = {**content["settings"], **({} if device is None else {"device": device})}
    return _train(settings_from(kept), content, path.parent, console)


def _train(
    settings: TrainSettings,
    checkpoint: dict[str, Any] | None,
    folder: Path | None,
    console: Console | None,
) -> Outcome:
    where = find_device(settings.device)
    dataset = load(
        settings.data, settings.seed, settings.data_dir or None, **settings.data_settings
    )
    with threads(settings.threads):
        started = time.monotonic()
        model, remedies = _prepare(settings, dataset, where)
        trainer = Trainer(
            model,
            dataset,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            device=settings.device,
            remedies=remedies,
            amp=settings.amp,
        )
        if checkpoint is not None:
            trainer.load_state_dict(checkpoint["training"])
            if trainer.finished:
                raise ValueError(
                    f"the training in {str(folder)!r} is finished ({trainer.epochs} epochs): "
                    "there is nothing to resume"
                )
            restore_random_state(checkpoint["random"])
        if folder is None:
            require_folder(Path(settings.out))
        wanted = Path(settings.out) / settings.name if folder is None else folder
        resume = False if folder is None else trainer.position.step
        with watch(model, wanted, every=settings.record_every, resume=resume) as probe:
            if probe.path is None:
                raise ValueError(f"nothing could be written to {str(wanted)!r}: say where with out")
            path = Path(probe.path)
            _run(trainer, probe, settings, path / CHECKPOINT, console)
    return Outcome(
        path,
        settings.network,
        settings.data,
        settings.seed,
        trainer.position.step,
        trainer.history.accuracies,
        len(dataset.test_targets),
        time.monotonic() - started,
        trainer.finished,
    )


def _prepare(
    settings: TrainSettings, dataset: Dataset, where: torch.device
) -> tuple[nn.Module, list[LoopRemedy]]:
    """Build the network as it is at the beginning of the training."""
    torch.manual_seed(settings.seed)
    model = build_network(
        settings.network,
        dataset.train_inputs.shape[1:],
        dataset.classes,
        **settings.network_arguments,
    ).to(where)
    if settings.recommend:
        apply(model, recommend(model, _batches(settings, dataset, where)))
    shape = dataset.train_inputs.shape
    facts = {
        "epochs": settings.epochs,
        "steps_per_epoch": math.ceil(shape[0] / settings.batch_size),
        "timesteps": timesteps_of(model, shape[1:]),
    }
    remedies = []
    for name, given in settings.remedies.items():
        # What a remedy asks for and the training knows need not be said twice.
        known = {key: facts[key] for key in facts if key in LOOP_REMEDIES[name].settings}
        remedies.append(attach_remedy(name, model, **{**known, **given}))
    return model, remedies


def _batches(
    settings: TrainSettings, dataset: Dataset, where: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the few batches that recommendations are made from, drawn at random."""
    order = torch.randperm(
        len(dataset.train_inputs), generator=torch.Generator().manual_seed(settings.seed)
    )
    return [
        (
            as_input(torch.from_numpy(dataset.train_inputs)[rows].to(where), dataset.scale),
            torch.from_numpy(dataset.train_targets)[rows].to(where),
        )
        for rows in torch.split(order, settings.batch_size)[:RECOMMEND_FROM]
    ]


def _run(
    trainer: Trainer, probe: Probe, settings: TrainSettings, path: Path, console: Console | None
) -> None:
    """Train to the end or to an interrupt, with a bar and checkpoints."""

    def save() -> None:
        kept = {"settings": asdict(settings), "training": trainer.state_dict()}
        save_checkpoint(path, {**kept, "random": random_state()})

    with _interrupts() as interrupted, training_bar(console or Console(stderr=True)) as bar:
        task = bar.add_task(
            settings.name,
            completed=trainer.position.step,
            total=trainer.steps,
            loss="-",
            accuracy="-",
        )

        def on_step(step: int, steps: int, loss: Tensor) -> None:
            bar.update(task, completed=step)
            if step % SHOW_LOSS_EVERY == 0:  # to read the loss is to wait for the device
                bar.update(task, loss=f"{loss.item():.3f}")

        def on_epoch(epoch: int, accuracy: float) -> None:
            bar.update(task, accuracy=f"{accuracy:.1%}")

        def stop() -> bool:
            if interrupted.is_set():
                return True
            if trainer.position.step % settings.checkpoint_every == 0:
                save()
            return False

        trainer.run(probe=probe, on_step=on_step, on_epoch=on_epoch, stop=stop)
        save()


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop: in midst of a step is no place for it.

    A second one ends the program at once; the last checkpoint is still whole.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may say what a signal does
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in before:
        signal.signal(each, on_signal)
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
