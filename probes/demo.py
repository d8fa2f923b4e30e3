"""The demonstration: a network as people set it up, what is wrong with it, and the same mended."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from ..analysis.recommend import Recommendations
from ..analysis.surrogate import Surrogate
from ..data.datasets import load
from .apply import apply
from .models.bar import SHOW_LOSS_EVERY, threads, training_bar
from .models.counts import require_at_least_one
from .models.evaluation import as_input
from .models.place import require_folder
from .models.training import find_device, train
from .models.vgg import VGG, vgg
from .preflight import recommend
from .probe import watch

# Enough records to see training unfold, few enough that recording stays a small part of the time.
RECORD_EVERY = 5

BATCH = 128
"""Training samples that the recommendation looks at."""

AS_SET_UP, RECOMMENDED = "as-set-up", "recommended"
"""Names of the two runs."""


def as_people_set_it_up(image: tuple[int, int, int], classes: int) -> VGG:
    """Build the network of the demonstration with the defaults that it would get anywhere.

    Six spiking convolutions in a row over six timesteps, no norm, the weights that PyTorch draws
    by itself, and the fast sigmoid of slope 25 that snnTorch's tutorials start from. Those weights
    are made for rectified units: the deeper a layer, the fewer of its neurons ever fire.

    Args:
        image: channels, height and width of an image.
        classes: number of classes.

    Example:
        >>> as_people_set_it_up((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    model = vgg(
        image, classes, depth=7, channels=12, timesteps=6, norm="none",
        surrogate=Surrogate("fast_sigmoid", peak=1.0, width=1.0 / 25.0),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


@dataclass(frozen=True)
class Trained:
    """One training of the demonstration.

    Args:
        path: the run's folder; None if nothing could be written.
        accuracy: share of the test part that was classified right after the last epoch.
    """

    path: Path | None
    accuracy: float


class Demo:
    """Two trainings of one network from the same weights, and what happened between them.

    Args:
        out: folder for both runs; if there is something already, the next free name with a number.
        data: name of the data set.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        seed: decides the split of the data, the weights and the order of the samples.
        epochs: passes through the training part.
        console: where the progress bars go; the standard output if None.

    Raises:
        ValueError: an unknown data set or device, a count below 1, or a folder that cannot be made;
            before any training.
        ImportError: what the data set comes with is not installed.
    """

    def __init__(
        self,
        out: str | Path,
        data: str = "digits",
        device: str = "auto",
        seed: int = 0,
        epochs: int = 8,
        console: Console | None = None,
    ) -> None:
        require_at_least_one(epochs=epochs)
        self._device = find_device(device)
        self._data = load(data, seed)
        self._seed, self._epochs, self._console = seed, epochs, console
        torch.manual_seed(seed)
        shape = self._data.train_inputs.shape[1:]
        if len(shape) != 3:
            raise ValueError(f"data={data!r} holds no images: the demonstration needs some")
        channels, height, width = shape
        model = as_people_set_it_up((channels, height, width), self._data.classes)
        self._model = model.to(self._device)
        self._start = copy.deepcopy(self._model)
        require_folder(Path(out).parent)
        self.folder = _free(Path(out))

    @property
    def test_samples(self) -> int:
        """Size of the test part."""
        return len(self._data.test_targets)

    def train_as_set_up(self) -> Trained:
        """Train the network as it is."""
        return self._train(self._model, AS_SET_UP)

    def recommend(self) -> Recommendations:
        """Say what to change in the network before training, from one batch of training data."""
        inputs = torch.as_tensor(self._data.train_inputs[:BATCH], device=self._device)
        targets = torch.as_tensor(self._data.train_targets[:BATCH], device=self._device)
        with threads(1):
            return recommend(self._start, as_input(inputs, self._data.scale), targets)

    def train_recommended(self, recommendations: Recommendations) -> Trained:
        """Train the same network from the same weights with the recommendation applied."""
        model = copy.deepcopy(self._start)
        apply(model, recommendations)
        return self._train(model, RECOMMENDED)

    def _train(self, model: nn.Module, name: str) -> Trained:
        with (
            threads(1),
            watch(model, self.folder / name, every=RECORD_EVERY) as probe,
            training_bar(self._console) as bar,
        ):
            task = bar.add_task(f"training {name}", total=None, loss="-", accuracy="-")

            def on_step(step: int, steps: int, loss: Tensor) -> None:
                bar.update(task, completed=step, total=steps)
                if step % SHOW_LOSS_EVERY == 0:  # to read the loss is to wait for the device
                    bar.update(task, loss=f"{loss.item():.3f}")

            def on_epoch(epoch: int, accuracy: float) -> None:
                bar.update(task, accuracy=f"{accuracy:.1%}")

            history = train(
                model,
                self._data,
                epochs=self._epochs,
                seed=self._seed,
                device=str(self._device),
                probe=probe,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        path = None if probe.path is None else Path(probe.path)
        return Trained(path, history.accuracies[-1])


def _free(wanted: Path) -> Path:
    """Return a folder that does not exist: as wanted, or with the next number."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path
