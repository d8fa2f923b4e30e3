"""The training loop: a network learns a data set, seeded, with or without a probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...data.datasets import Dataset
from ..lif import reset_state
from .counts import require_at_least_one
from .evaluation import as_input, find_device, measure_accuracy

if TYPE_CHECKING:
    from ..probe import Probe
    from ..remedies import LoopRemedy

__all__ = ["History", "Trainer", "find_device", "measure_accuracy", "train"]

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
    remedies: Sequence[LoopRemedy] = (),
    amp: bool = False,
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
        remedies: attached to the model; their penalties are added to what is minimised.
        amp: whether the forward pass runs in mixed precision (bfloat16).

    Returns:
        The loss of each step and the test accuracy of each epoch.

    Raises:
        ValueError: a count below 1, an unknown device, or an empty training part.
    """
    trainer = Trainer(
        model,
        dataset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        optimizer=optimizer,
        remedies=remedies,
        amp=amp,
    )
    trainer.run(probe=probe, on_step=on_step, on_epoch=on_epoch)
    return trainer.history


@dataclass
class Position:
    """How far a training is.

    Args:
        epoch: the current epoch, from 1; one more than there are at the end.
        batch: batches of this epoch that are done.
        step: optimiser steps that are done.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0


class Trainer:
    """A training that can stop after any step and go on later as if it had not stopped.

    Args:
        model: as for :func:`train`, like the other arguments.

    Raises:
        ValueError: a count below 1, an unknown device, or an empty training part.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        epochs: int,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        seed: int = 0,
        device: str = "cpu",
        optimizer: torch.optim.Optimizer | None = None,
        remedies: Sequence[LoopRemedy] = (),
        amp: bool = False,
    ) -> None:
        require_at_least_one(epochs=epochs, batch_size=batch_size)
        if len(dataset.train_inputs) == 0:
            raise ValueError(f"the training part of {dataset.name!r} is empty: nothing to learn")
        self.device = find_device(device)
        self.model = model.to(self.device)
        self.dataset = dataset
        self.epochs = epochs
        self.batch_size = batch_size
        self.remedies = tuple(remedies)
        self.amp = amp
        self.history = History()
        self.position = Position()
        self._inputs = torch.from_numpy(dataset.train_inputs).to(self.device)
        self._targets = torch.from_numpy(dataset.train_targets).to(self.device)
        self.steps = epochs * math.ceil(len(self._inputs) / batch_size)
        self._scheduler: torch.optim.lr_scheduler.CosineAnnealingLR | None = None
        if optimizer is None:
            optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
            self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, T_max=self.steps
            )
        self.optimizer = optimizer
        # A generator of its own: the order is no business of the global random state.
        self._order = torch.Generator().manual_seed(seed)
        self._order_of_epoch = self._order.get_state()
        self._losses: list[Tensor] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch > self.epochs

    def run(
        self,
        *,
        probe: Probe | None = None,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train on from where the training is.

        Args:
            probe: told each step's loss and the test accuracy.
            on_step: called after each step as ``on_step(step, steps in total, loss)``.
            on_epoch: called after each epoch as ``on_epoch(epoch, test accuracy)``.
            stop: asked after each step; True ends the training there.
        """
        position = self.position
        while not self.finished:
            self.model.train()
            self._order_of_epoch = self._order.get_state()
            order = torch.randperm(len(self._inputs), generator=self._order)
            for batch in torch.split(order, self.batch_size)[position.batch :]:
                loss = self._step(batch.to(self.device), probe)
                position.batch += 1
                position.step += 1
                if on_step is not None:
                    on_step(position.step, self.steps, loss)
                if stop():
                    return
            self._note_losses()
            accuracy = measure_accuracy(
                self.model,
                self.dataset,
                batch_size=self.batch_size,
                device=self.device.type,
                amp=self.amp,
            )
            self.history.accuracies.append(accuracy)
            if probe is not None:
                probe.log(accuracy=accuracy)
            position.epoch, position.batch = position.epoch + 1, 0
            if on_epoch is not None:
                on_epoch(position.epoch - 1, accuracy)

    def _step(self, batch: Tensor, probe: Probe | None) -> Tensor:
        reset_state(self.model)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits = self.model(as_input(self._inputs[batch], self.dataset.scale))
        loss = nn.functional.cross_entropy(logits.float(), self._targets[batch])
        penalties = [each for remedy in self.remedies if (each := remedy.penalty()) is not None]
        penalty = torch.stack(penalties).sum() if penalties else None
        whole = loss if penalty is None else loss + penalty
        whole.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for remedy in self.remedies:
            remedy.after_step()
        if self._scheduler is not None:
            self._scheduler.step()
        self._losses.append(loss.detach())
        if probe is not None:
            probe.step(loss=loss, **({} if penalty is None else {"penalty": penalty}))
        return self._losses[-1]

    def _note_losses(self) -> None:
        if self._losses:  # once an epoch: it waits for the device
            self.history.losses += torch.stack(self._losses).tolist()
            self._losses = []

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, beside the data."""
        self._note_losses()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "remedies": [remedy.state_dict() for remedy in self.remedies],
            "position": asdict(self.position),
            "history": asdict(self.history),
            "order": self._order_of_epoch if self.position.batch else self._order.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another trainer of the same settings was.

        Raises:
            ValueError: the state does not fit the model or its remedies.
        """
        if len(state["remedies"]) != len(self.remedies):
            raise ValueError(
                f"the checkpoint has {len(state['remedies'])} remedies, the model "
                f"{len(self.remedies)}: resume with the settings of the run"
            )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint is of another model: {' '.join(str(error).split())}"
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None and state["scheduler"] is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        for remedy, kept in zip(self.remedies, state["remedies"], strict=True):
            remedy.load_state_dict(kept)
        self.position = Position(**state["position"])
        self.history = History(**state["history"])
        self._losses = []
        self._order.set_state(state["order"])
