"""One training under observation, from the first look at the model to the end of its run.

What is done here may fail: the probe that asks for it catches that, and switches it off.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..data.store import next_step
from . import ranks
from .batch import Batch
from .budget import Cost
from .budget_device import cost_on
from .forked import let_go_when_forked
from .header import find_layers, header, known_layers
from .hooks import Guard
from .journal import Journal
from .live_findings import OnFindings, findings_of
from .modes import plain_modules, rank, refusal, unwrapped
from .outlet import Outlet
from .pace import Pace
from .recompute import in_backward
from .recorder import Recorder
from .settings import Settings
from .versions import installed, untested
from .watched import claim, release, taken

if TYPE_CHECKING:
    from ..analysis.findings import Finding

SCALAR_LIMIT = 500
"""Unwritten scalars are handed to the writer at the latest after this many."""


class Session:
    """What a probe does with one model.

    Args:
        model: the model as the user built it.
        path: wanted folder or address of the run.
        settings: what the probe was asked to do.
        on_findings: told of findings while the training goes on.

    ``active`` says whether it still records, ``pace`` which steps, ``outlet`` where to; ``first``
    is the step that the training begins with.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        settings: Settings,
        on_findings: OnFindings | None,
    ) -> None:
        self.active = False
        self.outlet = Outlet(path, settings, on_findings)
        self.pace = Pace(settings.schedule, Cost(settings.budget))
        self._model, self._wanted, self._set = model, path, settings
        self.first = self._step = 0 if settings.resume is True else int(settings.resume)
        self._recorder: Recorder | None = None
        self._known: list[dict[str, Any]] = []
        self._journal = Journal()
        let_go_when_forked(self)

    @property
    def recording(self) -> bool:
        """Whether the current step is being recorded."""
        return self._recorder is not None and self._recorder.armed

    @property
    def memory(self) -> dict[str, dict[str, int]]:
        """What the record of each layer takes on its device."""
        return {} if self._recorder is None else dict(self._recorder.memory)

    @property
    def path(self) -> str | Path | None:
        """Where the run is written."""
        return self.outlet.path

    def attach(self, guard: Guard) -> None:
        """Look at the model, open the run, and listen to the first step if it is recorded.

        Args:
            guard: wraps each hook so that an error of ours never reaches the training.
        """
        this, _ = rank()
        if this != 0 and not ranks.joined():
            return  # it cannot learn where rank 0 writes; the header says who recorded
        self.outlet.meet()
        reason = refusal(self._model)
        if reason is not None:
            self.outlet.stay_shut()
            self.say("", "refused", reason)
            return
        found, refused = find_layers(self._model)
        model = unwrapped(self._model)
        modules = {f"the model {type(model).__name__}": model}
        modules |= {f"its layer {layer.name!r}": layer.module for layer, _ in found}
        reason = taken(modules)
        if reason is not None:
            self.outlet.stay_shut()
            self.say("", "double", reason)
            return
        for adapter in dict.fromkeys(adapter for _, adapter in found):
            doubt = untested(adapter, installed(adapter.framework))
            if doubt is not None:
                self.say("", f"version of {adapter.framework}", doubt)
        self._recorder = Recorder(
            self._model,
            found,
            refused,
            guard,
            ranks.averaged(self._model, self._set.unscale),
            self._set.time_axis,
            self._set.level,
            self._vitals_failed,
        )
        names = {name for name, _ in plain_modules(self._model)}
        for name in self._set.time_axis.keys() - names:
            self.say("", f"time_axis {name}", f"time_axis names {name!r}: no module has that name")
        self._meter()
        self.active = True
        claim(modules.values(), self._wanted)
        if self._set.resume is not False:
            self.first = self._step = next_step(self._wanted, self._set.resume)
        if found:
            self._open(found)
        # Otherwise the first recorded step tells whether there is anything to write.
        if self.active:
            self._prepare()
            self.pace.cost.begin()

    def _meter(self) -> None:
        """Begin to measure what recording costs."""
        first = next(self._model.parameters(), None)
        device = None if first is None else first.device
        cost = cost_on(device, self._set.budget)
        agreement = None
        if cost.budget is not None and ranks.joined():
            agreement = ranks.agreement(self.outlet.meeting, cost)
        self.pace = Pace(self._set.schedule, cost, agreement)

    def _open(self, found: list[Any]) -> None:
        """Make the run's folder, with what is known by now."""
        assert self._recorder is not None
        schedule, settings = self._set.schedule, self._set.facts()
        content = header(self._model, found, self._recorder.refused, schedule) | settings
        self._known = content["layers"]
        notice = self.outlet.open(content, unwrapped(self._model), self._step)
        if self.path is not None:
            claim(self._modules(), self.path)
        if notice is not None:
            self.say("", *notice, event=False)

    def _modules(self) -> list[nn.Module]:
        found = [] if self._recorder is None else self._recorder.found
        return [unwrapped(self._model), *(layer.module for layer, _ in found)]

    def _prepare(self) -> None:
        """Arm the hooks if the coming step is on the schedule, and may cost something."""
        if self.pace.records(self._step):
            assert self._recorder is not None
            self._recorder.arm()

    def end_step(self, scalars: dict[str, Tensor | float]) -> None:
        """End one step of the training, and begin the next one."""
        pace = self.pace
        since = pace.seconds()
        if scalars:
            self._journal.note(self._step, scalars)
        if pace.left and not self.outlet.news:
            pace.pass_by(since)
            self._step += 1
            return
        pace.settle()
        recorded = self.recording
        if recorded:
            self._flush()
        elif len(self._journal.scalars) >= SCALAR_LIMIT:
            self._hand_over(Batch(self._step))
        if self.outlet.news:
            self._hear()
        if not self.active:
            return
        pace.end_step(recorded=recorded, since=since)
        self._step += 1
        self._prepare()
        pace.cost.resume()

    def facts(self) -> dict[str, Any]:
        """Return what recording has cost so far, and which steps were skipped for it."""
        self.pace.settle()
        return self.pace.facts()

    def note(self, scalars: dict[str, Tensor | float]) -> None:
        """Note numbers at the current step."""
        self._journal.note(self._step, scalars)

    def take(self, name: str, spikes: Any, u: Any, z: Any, threshold: Any, t: Any) -> None:
        """Take one timestep of a layer that is not read by itself."""
        if in_backward():
            return  # a repetition by activation checkpointing
        mode = "train" if self._model.training else "eval"
        try:
            if not isinstance(name, str) or not name:
                raise ValueError(f"name={name!r} is not possible: give the layer a name")
            assert self._recorder is not None
            if name in (layer.name for layer, _ in self._recorder.found):
                raise ValueError("a layer of that name is recorded by itself: give another name")
            self._recorder.attached.take(name, mode, u, z, spikes, threshold, t)
        except ValueError as error:
            self.say(str(name), "attach", f"probe.attach({name!r}): {error}; not recorded")

    def _flush(self) -> None:
        """Hand the finished step's statistics to the writer and disarm."""
        assert self._recorder is not None
        batch = Batch(self._step, cost=self.pace.facts())
        self._recorder.finish(batch, self.say)
        self._know()
        self._recorder.disarm()
        if not self.outlet.is_open:
            return
        if not batch.blocks:
            self.say(
                "", "nothing", f"step {self._step}: no spiking layer was called, nothing recorded"
            )
        self._thin(taken=self._hand_over(batch))

    def _thin(self, *, taken: bool) -> None:
        """Record fewer steps if the writer had no room for one, more again if it keeps up."""
        thinning = self.pace.thinning
        if not taken:
            thinning.lost()
            text = _SLOW.format(step=self._step, stretch=thinning.stretch)
            self._journal.add(self._step, "", "slow writer", text)
            self.say("", "slow writer", text, event=False)
        elif thinning.kept(self.outlet.waiting):
            text = _KEEPS_UP.format(stretch=thinning.stretch)
            self._journal.add(self._step, "", "slow writer", text)

    def _know(self) -> None:
        """Write which layers there are, where a recorded step has told more about it."""
        assert self._recorder is not None
        heard = self._recorder.entries()
        layers = known_layers(
            self._model, self._known, self._recorder.refused, heard, self._recorder.memory
        )
        if not self.outlet.is_open:
            if not any(layer.get("covered", True) for layer in layers):
                self._stay_off(layers)
                return
            self._open([])
        for layer in layers:
            if not layer.get("covered", True) and layer not in self._known:
                event = (self._step, layer["name"], "not_covered", layer["reason"])
                self._journal.events.append(event)
        if layers != self._known:
            self._known = layers
            self.outlet.know(layers)

    def _stay_off(self, layers: list[dict[str, Any]]) -> None:
        reasons = "".join(f"; {layer['name']!r}: {layer['reason']}" for layer in layers)
        self.active = False
        self._release()
        self.outlet.stay_shut()
        self.say(
            "",
            "no_layers",
            f"no spiking layer was found in {type(self._model).__name__}{reasons}: the probe stays "
            "off",
        )

    def _hand_over(self, batch: Batch) -> bool:
        # Without a run nothing has been found to record yet, and what there is waits.
        if not self.outlet.is_open or self.outlet.put(self._journal.take(batch)):
            return True
        self._journal.give_back(batch)
        return False

    def _hear(self) -> None:
        """Pass on what the writer noticed, and what it has worked."""
        self.outlet.news.clear()  # before it is looked: what comes meanwhile is news again
        self.pace.cost.add_beside(self.outlet.worked())
        self._repeat()
        self.outlet.check()

    def _repeat(self) -> None:
        for notice in self.outlet.notices():
            self.say(*notice, event=False)

    def detach(self, state: str, error: str | None) -> None:
        """Remove every hook, write what is left, say how the run ended."""
        # A step that was not ended by step() is incomplete and not recorded.
        self._disarm()
        self.active = False
        self._release()
        self._forget()
        if not self.outlet.is_open:
            self.outlet.stay_shut()
            return
        self.outlet.close(self._journal.take(Batch(self._step)))
        self._hear()
        facts = {
            "steps": self._step,
            "cost": self.facts(),
            **({"error": error} if error else {}),
        }
        if self.outlet.end(state, **facts):
            self._conclude()

    def _conclude(self) -> None:
        """Keep the findings with the run, and tell the last ones."""
        self.outlet.stop_telling()
        error = self.outlet.conclude(self.findings())
        if error is not None:
            text = f"on_findings is not called any more: {describe(error)}"
            self.say("", "on_findings", text, event=False)

    def findings(self) -> list[Finding]:
        """Return what the rules say about the record so far, as far as it is on disk."""
        try:
            return [] if self.path is None else findings_of(self.path)
        except Exception as error:  # ours: the training must go on
            self.say("", "findings", f"findings could not be worked out: {describe(error)}")
            return []

    def fail(self, error: Exception) -> None:
        """Switch off after an error of ours, and say so once."""
        where = f" at step {self._step}" if self._step else ""
        self.break_off("probe failed", error)
        text = f"recording stopped{where}, the training goes on: {describe(error)}"
        self.say("", "failed", text, event=False)

    def break_off(self, state: str, error: BaseException) -> None:
        """Leave everything as it was before: no hook stays, nothing more is written."""
        self.active = False
        # Each of these may fail for the same reason: the others are done all the same.
        for last in (
            self._disarm,
            self._release,
            lambda: self.outlet.break_off(state, steps=self._step, error=describe(error)),
        ):
            with contextlib.suppress(Exception):
                last()
        self._forget()

    def abandon(self) -> None:
        """In a forked process: leave the run to the one that it comes from."""
        self.active = False
        self.outlet.abandon()
        with contextlib.suppress(Exception):
            self._disarm()
        self._forget()

    def say(self, layer: str, kind: str, text: str, *, event: bool = True) -> None:
        """Tell the user something once; see :meth:`.journal.Journal.say`."""
        self._journal.say(self._step, layer, kind, text, event=event)

    def _disarm(self) -> None:
        if self._recorder is not None:
            self._recorder.disarm()

    def _forget(self) -> None:
        """Let go of the model: who keeps the probe does not keep it alive."""
        self._recorder, self._model = None, nn.Module()

    def _vitals_failed(self, error: Exception) -> None:
        text = f"parameters and batch norms are not recorded: {describe(error)}"
        self.say("", "no_vitals", text)

    def _release(self) -> None:
        """Let the model be watched by another probe."""
        release(self._modules(), (self.path, self._wanted))


_SLOW = (
    "the disk is slower than the recording: step {step} was dropped, and 1 of {stretch} scheduled "
    "steps is recorded until the writer keeps up"
)
_KEEPS_UP = "the writer keeps up: 1 of {stretch} scheduled steps is recorded from now on"


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
