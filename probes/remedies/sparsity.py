"""Penalties on firing in the loop: the gradual sparsity loss, and a bound on spike counts."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.sparsity import (
    SCHEDULES,
    Schedule,
    sparsity_loss,
    sparsity_weight,
    spike_count_loss,
)
from ..journal import SpikescopeWarning
from ..modes import Hook
from .base import LoopRemedy, find_places, in_range, whole
from .sync import processes, summed


class SpikePenalty(LoopRemedy, ABC):
    """Listens to the spikes of each layer in train mode; a subclass says what they cost.

    What was heard since the last :meth:`penalty` counts; :meth:`after_step` forgets the rest.
    """

    def __init__(self, name: str, model: nn.Module, layers: Collection[str] | None) -> None:
        super().__init__(name, find_places(name, model, layers))
        self._claim([name])
        self._heard: list[tuple[str, Tensor]] = []
        self._asked = False
        self._warned = False
        self._handles = [
            place.module.register_forward_hook(Hook(place.module, self._listener(place.name)))
            for place in self.places
        ]

    @abstractmethod
    def cost(self, heard: list[tuple[str, Tensor]]) -> Tensor | None:
        """Return the penalty for spikes ``[T, N, ...]`` of named layers; None for nothing."""

    def penalty(self) -> Tensor | None:
        """Return the penalty on the passes since the last call; None if there is nothing."""
        heard, self._heard = self._heard, []
        self._asked = True
        return self.cost(heard) if heard else None

    def after_step(self) -> None:
        """Forget what no one asked for."""
        if self._heard and not self._asked and not self._warned:
            self._warned = True
            text = f"remedy {self.name!r} has no effect: add its penalty() to the loss"
            warnings.warn(text, SpikescopeWarning, stacklevel=2)
        self._heard = []

    def remove(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._heard = [], []
        super().remove()

    def _listener(self, name: str) -> Any:
        place = next(place for place in self.places if place.name == name)

        def listen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not (module.training and torch.is_grad_enabled()):
                return
            spikes = place.adapter.time_first(module, place.adapter.spikes(module, output))
            height = place.adapter.live_spec(module, place.layer).spike_height
            self._heard.append((name, spikes / height))

        return listen


class GradualSparsity(SpikePenalty):
    """Pulls each layer's firing rate at each timestep to a final rate, gradually.

    ``sum over layers and timesteps of c (rate - final_rate)^2``, with the weight c rising over the
    training: start with a high rate, end sparse. Steps are counted by :meth:`after_step`.

    Args:
        name: its name in the table.
        model: any model with spiking layers.
        final_rate: wanted rate, spikes per unit and timestep.
        epochs: length of the training.
        steps_per_epoch: optimiser steps in an epoch.
        schedule: of c: ``"linear"``, ``"exponential"``, ``"step"`` or ``"random"``.
        strength: factor of the whole penalty; 1 as published.
        seed: of the random schedule.
        layers: names of layers; None for all.

    Raises:
        ValueError: a setting that is not possible.

    Source:
        Released code of Herranz-Celotti and Rouat, arXiv 2202.00282.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        final_rate: float,
        epochs: int,
        steps_per_epoch: int,
        schedule: Schedule = "linear",
        strength: float = 1.0,
        seed: int = 0,
        layers: Collection[str] | None = None,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(
                f"schedule={schedule!r} is not one of {', '.join(map(repr, SCHEDULES))}"
            )
        self.final_rate = in_range("final_rate", final_rate, -1e-300, 1.0, "in [0, 1]")
        self.epochs = whole("epochs", epochs)
        self.steps_per_epoch = whole("steps_per_epoch", steps_per_epoch)
        self.strength = in_range("strength", strength, 0.0, 1e9, "above 0")
        self.schedule: Schedule = schedule
        self.seed = seed
        self.step = 0
        super().__init__(name, model, layers)

    @property
    def weight(self) -> float:
        """The weight c in force."""
        epoch = min(self.step // self.steps_per_epoch, self.epochs)
        weight = sparsity_weight(epoch, self.epochs, self.schedule)
        if self.schedule == "random":
            # Drawn anew each epoch, and again the same after a resume.
            weight = float(np.random.default_rng([self.seed, epoch]).random() < weight)
        return weight * self.strength

    def cost(self, heard: list[tuple[str, Tensor]]) -> Tensor | None:
        """Return the penalty; None while the weight is 0."""
        weight = self.weight
        if weight == 0.0:
            return None
        rates = [spikes.flatten(1).mean(1, dtype=_wide(spikes)) for _, spikes in heard]
        value: Tensor = sparsity_loss(_over_ranks(torch.cat(rates)), self.final_rate, weight)
        return value

    def after_step(self) -> None:
        """Count the step."""
        self._asked = self._asked or self.weight == 0.0
        super().after_step()
        self.step += 1

    def report(self) -> list[dict[str, Any]]:
        """Return the weight in force, for each layer."""
        return [{"layer": place.name, "weight": self.weight} for place in self.places]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after as many steps."""
        super().load_state_dict(state)
        step = state["step"]
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"step={step!r} is not possible: it must be a whole number, 0 or more")
        self.step = step


class CountBound(SpikePenalty):
    """Penalises spike counts of single units above a bound: ``strength mean(relu(n - bound)^2)``.

    Args:
        name: its name in the table.
        model: any model with spiking layers.
        bound: spikes per unit and sequence that are free.
        strength: weight of the penalty.
        layers: names of layers; None for all.

    Raises:
        ValueError: a setting that is not possible.

    Source:
        Upper bound loss of stork, Rossbroich, Gygax, Zenke 2022.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        bound: float,
        strength: float = 0.01,
        layers: Collection[str] | None = None,
    ) -> None:
        self.bound = in_range("bound", bound, -1e-300, 1e9, "a finite number of at least 0")
        self.strength = in_range("strength", strength, 0.0, 1e9, "above 0")
        super().__init__(name, model, layers)

    def cost(self, heard: list[tuple[str, Tensor]]) -> Tensor:
        """Return the penalty, summed over layers."""
        counts: dict[str, Tensor] = {}
        for name, spikes in heard:
            count = spikes.sum(0, dtype=_wide(spikes))
            # A layer that is called once per timestep adds up.
            counts[name] = counts[name] + count if name in counts else count
        parts = [spike_count_loss(count, self.bound, self.strength) for count in counts.values()]
        total: Tensor = torch.stack(parts).sum()
        return total


def _wide(spikes: Tensor) -> torch.dtype:
    return torch.promote_types(spikes.dtype, torch.float32)


def _over_ranks(rates: Tensor) -> Tensor:
    """Return the mean over ranks, with the gradient of this rank's part.

    The gradients are averaged over ranks afterwards, by DistributedDataParallel: that makes them
    the gradient of the mean.
    """
    if processes() == 1:
        return rates
    return rates + (summed(rates) / processes() - rates.detach())
