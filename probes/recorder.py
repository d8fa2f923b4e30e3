"""Everything that listens to one model: armed for a step, then asked what the step was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from .adapters import Adapter, SpikingLayer
from .attach import Attached
from .batch import Batch, Fine
from .hooks import Guard, LayerHooks, resets_midway
from .levels import Level
from .modes import Unscale, eager, plain_modules
from .stream import Stream
from .tap import Tap
from .vitals import Vitals

Say = Callable[[str, str, str], None]
"""Told about a layer: its name, what it is about, a sentence."""


class Recorder:
    """The listeners of one model.

    Args:
        model: the model as the user built it.
        found: its spiking layers that are read by replay, with their adapters.
        refused: header entries of those that no adapter can read.
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        time_axis: see :func:`.probe.watch`.
        level: what is read of a step.
        vitals_failed: called with the error if the further figures cannot be read.

    ``memory`` holds, by layer, the bytes that its statistics take on its device, and those of the
    potentials that wait for the backward pass; under "" those of the sampled parameters. None of it
    is left after the step.
    """

    def __init__(
        self,
        model: nn.Module,
        found: list[tuple[SpikingLayer, Adapter]],
        refused: list[dict[str, Any]],
        guard: Guard,
        unscale: Unscale,
        time_axis: Mapping[str, int | None],
        level: Level,
        vitals_failed: Callable[[Exception], None],
    ) -> None:
        self.armed = False
        self.memory: dict[str, dict[str, int]] = {}
        self.found, self.refused = found, refused
        self.hooks = [LayerHooks(layer, adapter, guard, unscale, level) for layer, adapter in found]
        names = {module: name for name, module in plain_modules(model)}
        self.attached = Attached(guard, unscale, level)
        self._eager = contextlib.ExitStack()
        self._tap = Tap(
            names,
            {layer.module for layer, _ in found},
            {module for module, name in names.items() if name in {r["name"] for r in refused}},
            guard,
            unscale,
            time_axis,
            level,
        )
        self._vitals = Vitals(
            model,
            list(zip(self.hooks, (adapter for _, adapter in found), strict=True)),
            guard,
            unscale,
            vitals_failed,
        )

    def arm(self) -> None:
        """Listen to the coming step."""
        self.armed = True
        self._eager.enter_context(eager())
        for hooks in self.hooks:
            hooks.arm()
        self._tap.arm()
        self._vitals.arm()

    def disarm(self) -> None:
        """Leave nothing behind in the model, and forget the step."""
        self.armed = False
        with contextlib.ExitStack() as every:  # each is done, also where another one fails
            every.callback(self._eager.close)
            parts: list[Any] = [*self.hooks, self._tap, self._vitals, self.attached]
            for part in parts:
                every.callback(part.disarm)

    def finish(self, batch: Batch, say: Say) -> None:
        """End a step: put what was heard into a batch."""
        for hooks in self.hooks:
            hooks.finish()
        resets_midway(self.hooks)
        records: list[tuple[str, LayerHooks | Stream]] = [
            (hooks.layer.name, hooks) for hooks in self.hooks
        ]
        heard = [*self._tap.finish(), *self.attached.finish()]
        records += [(stream.name, stream) for stream in heard]
        reached = any(record.reached for _, record in records)
        for name, record in records:
            if reached and record.waits_for_gradient:
                record.notes["no_gradient"] = "the loss does not reach it: no gradient arrived"
            for kind, text in record.notes.items():
                say(name, kind, f"layer {name!r}, step {batch.step}: {text}")
            for key, block in record.forward.items():
                mode, t, _ = key
                batch.blocks.append((mode, name, t, block | record.backward.get(key, {})))
            fine = list(_fine(name, record))
            batch.fine += fine
            self._weigh(name, record, fine)
        self.memory[""] = {"parameters": self._vitals.held}
        batch.vitals = self._vitals.finish()

    def _weigh(self, name: str, record: LayerHooks | Stream, fine: list[Fine]) -> None:
        """Note the bytes that a layer's record has on its device, the most of any step."""
        blocks = [*record.forward.values(), *record.backward.values()]
        kept = [value for block in blocks for value in block.values()]
        now = {"statistics": sum(value.nbytes for value in (*kept, *(f.counts for f in fine)))}
        if isinstance(record, LayerHooks):
            now["potentials"] = record.held
        before = self.memory.get(name, {})
        self.memory[name] = {what: max(size, before.get(what, 0)) for what, size in now.items()}

    def entries(self) -> list[dict[str, Any]]:
        """Return what the run says of the layers that were heard, and of those that cannot be."""
        entries = {entry["name"]: entry for entry in self.attached.entries()}
        entries |= {entry["name"]: entry for entry in self._tap.entries()}
        return list(entries.values())


def _fine(name: str, record: LayerHooks | Stream) -> Iterator[Fine]:
    for (mode, t, _), counts in record.joints.items():
        yield Fine("joints", mode, name, t, counts)
    for mode, (fired, chances) in record.maps.items():
        yield Fine("maps", mode, name, 0, fired, tuple(fired.shape), chances)
