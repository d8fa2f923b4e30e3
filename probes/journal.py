"""What is kept of a training beside the statistics: its scalars, and what happened on the way."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import cycle

from torch import Tensor

from .batch import Batch

MOST_SCALARS = 4000
"""Scalars that may wait while the writer has no room; beyond it every other one of a name goes."""


class SpikescopeWarning(UserWarning):
    """Something that the user should know; the training goes on."""


class Journal:
    """Scalars and events that are not with the writer yet; each event is told once."""

    def __init__(self) -> None:
        self.scalars: list[tuple[int, str, Tensor | float]] = []
        self.events: list[tuple[int, str, str, str]] = []
        self._said: set[tuple[str, str]] = set()

    def note(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Keep numbers of a step; a tensor stays on its device, nobody waits for it."""
        for name, value in scalars.items():
            if type(value) is Tensor and value.is_cpu and value.numel() == 1:
                # Nobody has to wait for it.
                self.scalars.append((step, name, float(value.item())))
            elif isinstance(value, Tensor) and value.numel() == 1:
                # A clone: the caller may change a loss in place before it is written.
                self.scalars.append((step, name, value.detach().clone()))
            elif isinstance(value, int | float):
                self.scalars.append((step, name, float(value)))
            else:
                kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                text = f"{name}={kind} is not one number: not recorded"
                self.say(step, "", f"scalar {name}", text)

    def say(self, step: int, layer: str, kind: str, text: str, *, event: bool = True) -> None:
        """Warn the user once per layer and kind, and keep the event for the run.

        Args:
            step: the step at which it happened.
            layer: name of the layer; empty for the model.
            kind: what it is about.
            text: one line.
            event: whether the run should hold it; not if the writer has it already.
        """
        if (layer, kind) in self._said:
            return
        self._said.add((layer, kind))
        if event:
            self.events.append((step, layer, kind, text))
        warnings.warn(text, SpikescopeWarning, stacklevel=6)

    def add(self, step: int, layer: str, kind: str, text: str) -> None:
        """Keep an event for the run that may come again, without a warning."""
        self.events.append((step, layer, kind, text))

    def give_back(self, batch: Batch) -> None:
        """Take back what a writer had no room for; scalars become fewer before they become many."""
        self.scalars = batch.scalars + self.scalars
        self.events = batch.events + self.events
        if len(self.scalars) > MOST_SCALARS:
            turns: dict[str, Iterator[bool]] = defaultdict(lambda: cycle((True, False)))
            self.scalars = [entry for entry in self.scalars if next(turns[entry[1]])]

    def take(self, batch: Batch) -> Batch:
        """Hand everything that is kept over to a batch."""
        batch.scalars, self.scalars = self.scalars, []
        batch.events, self.events = self.events, []
        return batch
