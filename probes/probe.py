"""Attach to a model, record on a schedule, leave no trace.

An error of ours never ends the training: every hook is guarded, the first failure warns once and
switches the probe off.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.store import RunBusy, RunStore, next_step
from . import ranks
from .budget import Cost, as_budget, cost_on
from .header import find_layers, header, known_layers
from .journal import Journal
from .levels import as_level
from .lint import judge_surrogates
from .live_findings import LiveFindings, OnFindings, findings_of
from .modes import is_compiled, plain_modules, rank, refusal, unscale_by, unwrapped
from .recompute import in_backward
from .recorder import Recorder
from .schedule import Schedule, as_schedule
from .settings import Settings, as_bytes, as_resume
from .versions import installed, untested
from .writer import Batch, Store, Writer

if TYPE_CHECKING:
    from ..analysis.findings import Finding

FINDINGS_RECORDS = 8
"""Recorded steps from which the findings are kept with a run at its end."""

SCALAR_LIMIT = 500
"""Unwritten scalars are handed to the writer at the latest after this many."""

_watched: weakref.WeakKeyDictionary[nn.Module, str | Path] = weakref.WeakKeyDictionary()
"""The run that watches a model, and each of its spiking layers."""


def watch(
    model: nn.Module,
    path: str | Path,
    every: int | Schedule = 50,
    scaler: torch.amp.GradScaler | None = None,
    time_axis: Mapping[str, int | None] | None = None,
    on_findings: OnFindings | None = None,
    *,
    collect: str = "standard",
    budget: float | None = None,
    max_bytes: int | None = None,
    resume: bool | int = False,
) -> Probe:
    """Record a model's spiking layers while it trains.

    Compiled code runs eagerly in recorded steps. Of several processes each that watches records
    its own share of the batch, and a reader merges the shares: they need the same schedule.

    Args:
        model: the model, compiled and distributed or not; its spiking layers are found by
            themselves.
        path: folder of the run, or an address such as ``s3://bucket/run``; if it exists, the next
            free name is taken and said.
        every: distance between recorded steps, or a function from step to bool such as
            :class:`~spikescope.probes.schedule.LogSpaced`.
        scaler: what scales the loss in mixed precision; gradients are recorded without its factor.
        time_axis: for layers that compute a whole sequence at once in a way of their own, by name:
            the axis of what their surrogate is given that counts timesteps.
        on_findings: called with a list of findings when there are new ones, in a thread of its
            own that takes 5 % of a core at most; what it raises is said once and goes no further.
        collect: how much is kept of a recorded step: ``"economy"``, ``"standard"`` or ``"full"``;
            see :mod:`~spikescope.probes.levels`.
        budget: share of the training's time that recording may take, such as 0.02; steps on the
            schedule are skipped until it is kept. None for no bound.
        max_bytes: bound of the run's size; neighbouring records are merged to stay within it, the
            newest last. None for no bound.
        resume: go on with the run at ``path`` if there is one: True behind the last step that it
            knows, a number if the training goes on at that step; what the run holds from there on
            is removed.

    Returns:
        A :class:`Probe`, to be used in a ``with`` statement.

    Raises:
        ValueError: ``every`` is no schedule, ``scaler`` no GradScaler, or ``collect``, ``budget``,
            ``max_bytes`` or ``resume`` nothing that they can be.

    Example:
        >>> import tempfile, torch
        >>> from spikescope.probes.lif import LIF
        >>> model = nn.Sequential(nn.Linear(4, 3), LIF(), nn.Linear(3, 2))
        >>> with watch(model, Path(tempfile.mkdtemp()) / "run", every=1) as probe:
        ...     loss = model(torch.ones(6, 8, 4)).sum()
        ...     loss.backward()
        ...     probe.step(loss=loss)
        >>> from spikescope import open_run
        >>> open_run(probe.path).table(["count"])[["layer", "t", "count"]].values.tolist()[-1]
        ['1', 6, 24]
    """
    settings = Settings(
        schedule=as_schedule(every),
        unscale=unscale_by(scaler),
        time_axis=dict(time_axis or {}),
        level=as_level(collect),
        budget=as_budget(budget),
        max_bytes=as_bytes(max_bytes),
        resume=as_resume(resume),
    )
    return Probe(model, path, settings, on_findings)


class Probe:
    """The recorder of one model; see :func:`watch`.

    ``path`` is the run folder (None while or because nothing is written), ``active`` says whether
    the probe still records.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        settings: Settings,
        on_findings: OnFindings | None = None,
    ) -> None:
        self.path: str | Path | None = None
        self.active = False
        self._model = model
        self._wanted = path
        self._set = settings
        self._step = 0
        self._recorder: Recorder | None = None
        self._known: list[dict[str, Any]] = []
        self._entered = False
        self._writer: Writer | None = None
        self._journal = Journal()
        self._on_findings = on_findings
        self._live: LiveFindings | None = None
        self._records = 0
        self._cost = Cost(settings.budget)
        self._stretch, self._due = 1, 0
        self._inside = False
        self._meeting = ""

    def __enter__(self) -> Probe:
        self._entered = True
        self._guarded(self._attach)()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state = "finished" if error is None else "failed"
        self._guarded(self._detach)(state, None if error is None else repr(error))

    @property
    def recording(self) -> bool:
        """Whether the current step is being recorded."""
        return self._recorder is not None and self._recorder.armed

    @property
    def cost(self) -> dict[str, Any]:
        """What recording has cost so far: share of the training's time, steps, seconds."""
        return self._cost.facts()

    def step(self, loss: Tensor | float | None = None, **scalars: Tensor | float) -> None:
        """End one training step; call it after ``optimizer.step()``.

        Args:
            loss: the step's loss, a number or a tensor with one element; it is not waited for.
            scalars: further numbers of this step, by name.
        """
        if not self.active:
            return
        named = scalars if loss is None else {"loss": loss, **scalars}
        self._guarded(self._end_step)(named)

    def log(self, **scalars: Tensor | float) -> None:
        """Note numbers at the current step (a test accuracy, say) without ending it."""
        if self.active:
            self._guarded(self._note)(scalars)

    def findings(self) -> list[Finding]:
        """Return what the rules say about the record so far, as far as it is on disk.

        That is all but about the last two seconds. The call takes from a tenth of a second to some
        seconds; :func:`watch` takes a function that is told of findings beside the training.
        """
        try:
            return [] if self.path is None else findings_of(self.path)
        except Exception as error:  # ours: the training must go on
            self._say("", "findings", f"findings could not be worked out: {_describe(error)}")
            return []

    def attach(
        self,
        name: str,
        *,
        spikes: Tensor,
        u: Tensor | None = None,
        z: Tensor | None = None,
        threshold: Tensor | float | None = None,
        t: int | None = None,
    ) -> None:
        """Hand over one timestep of a layer that is not read by itself.

        Call it inside the model's forward pass. In steps that are not recorded it does nothing.

        Args:
            name: name of the layer in the record.
            spikes: what the layer emits, 0 where it is silent, ``[N, ...]``.
            u: pre-reset potential, ``[N, ...]``; needs ``threshold``.
            z: u - threshold in place of u, ``[N, ...]``.
            threshold: threshold in force, a number or a tensor that broadcasts over u.
            t: timestep, from 1; counted by itself if None, from 1 after each backward pass.

        Example:
            >>> import tempfile
            >>> class Net(nn.Module):
            ...     def forward(self, x):
            ...         spikes = (x >= 1.0).float()
            ...         probe.attach("layer", u=x, spikes=spikes, threshold=1.0)
            ...         return spikes
            >>> net = Net()
            >>> with watch(net, Path(tempfile.mkdtemp()) / "run", every=1) as probe:
            ...     output = net(torch.tensor([[0.5, 1.5]]))
            ...     probe.step()
            >>> from spikescope import open_run
            >>> open_run(probe.path).table(["u_mean", "rate"]).values.tolist()
            [[0, 'train', 'layer', 1, 1.0, 0.5]]
        """
        if not self.recording:
            if not self._entered:
                self._say("", "attach", _NOT_ENTERED)
            return
        self._guarded(self._take)(name, spikes, u, z, threshold, t)

    def _take(self, name: str, spikes: Any, u: Any, z: Any, threshold: Any, t: Any) -> None:
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
            self._say(str(name), "attach", f"probe.attach({name!r}): {error}; not recorded")

    def _attach(self) -> None:
        this, _ = rank()
        if this != 0 and not ranks.joined():
            return  # it cannot learn where rank 0 writes; the header says who recorded
        if ranks.joined():
            self._meeting = ranks.meeting(str(self._wanted))
        reason = refusal(self._model)
        if reason is not None:
            self._say("", "refused", reason)
            return
        found, refused = find_layers(self._model)
        model = unwrapped(self._model)
        watched = {f"its layer {layer.name!r}": layer.module for layer, _ in found}
        for what, module in {f"the model {type(model).__name__}": model, **watched}.items():
            if module in _watched:
                self._say(
                    "",
                    "double",
                    f"{what} is being watched already, by the run {str(_watched[module])!r}: this "
                    "second probe stays off",
                )
                return
        for adapter in dict.fromkeys(adapter for _, adapter in found):
            doubt = untested(adapter, installed(adapter.framework))
            if doubt is not None:
                self._say("", f"version of {adapter.framework}", doubt)
        self._recorder = Recorder(
            self._model,
            found,
            refused,
            self._guarded,
            ranks.averaged(self._model, self._set.unscale),
            self._set.time_axis,
            self._set.level,
            self._vitals_failed,
        )
        names = {name for name, _ in plain_modules(self._model)}
        for name in self._set.time_axis.keys() - names:
            self._say("", f"time_axis {name}", f"time_axis names {name!r}: no module has that name")
        self._meter()
        self.active = True
        for module in (model, *watched.values()):
            _watched[module] = self._wanted
        if self._set.resume is not False:
            self._step = next_step(self._wanted, self._set.resume)
        if found:
            self._open(found)
        # Otherwise the first recorded step tells whether there is anything to write.
        if self.active:
            self._prepare()

    def _meter(self) -> None:
        """Begin to measure what recording costs."""
        first = next(self._model.parameters(), None)
        device = None if first is None else first.device
        budget = self._set.budget
        if budget is not None and ranks.joined():
            text = "budget= is not kept with several processes: ranks must record the same steps"
            self._say("", "budget", text)
            budget = None
        self._cost = cost_on(device, budget, compiled=is_compiled(self._model))

    def _open(self, found: list[Any]) -> None:
        """Make the run's folder, with what is known by now."""
        assert self._recorder is not None
        schedule, settings = self._set.schedule, self._set.facts()
        content = header(self._model, found, self._recorder.refused, schedule) | settings
        self._known = content["layers"]
        this, several = rank()
        share = None if self._set.max_bytes is None else self._set.max_bytes // several
        if this != 0:
            self._writer = Writer(ranks.RankStore(self._meeting, this, share, self._step))
            return
        try:
            store = RunStore(self._wanted, content, resume=self._set.resume, max_bytes=share)
        except RunBusy as error:
            self.active = False
            self._release()
            self._say("", "busy", f"{error}; the probe stays off", event=False)
            return
        if self._meeting:
            ranks.tell(self._meeting, str(store.path))
        self.path = store.path if store.address == str(store.path) else store.address
        self._writer = Writer(store)
        judge_surrogates(store, unwrapped(self._model))
        if self._on_findings is not None:
            self._live = LiveFindings(store.path, self._on_findings)
        for module in self._modules():
            _watched[module] = self.path
        resumed = self._set.resume is not False and "resumed" in store.header
        if store.address != str(self._wanted) and not resumed:
            self._say(
                "",
                "name",
                f"{str(self._wanted)!r} exists and is kept: this run is written to "
                f"{store.address!r}",
                event=False,
            )

    def _modules(self) -> list[nn.Module]:
        found = [] if self._recorder is None else self._recorder.found
        return [unwrapped(self._model), *(layer.module for layer, _ in found)]

    def _prepare(self) -> None:
        """Arm the hooks if the coming step is on the schedule, and may cost something."""
        assert self._recorder is not None
        if not self._set.schedule(self._step):
            return
        self._due += 1
        if (self._due - 1) % self._stretch == 0 and self._cost.may_record():
            self._recorder.arm()

    def _end_step(self, scalars: dict[str, Tensor | float]) -> None:
        self._note(scalars)
        recorded = self.recording
        if recorded:
            self._flush()
        elif len(self._journal.scalars) >= SCALAR_LIMIT:
            self._hand_over(Batch(self._step))
        self._hear()
        if self._writer is not None:
            self._cost.add(self._writer.worked())
        self._cost.end_step(recorded=recorded)
        self._step += 1
        if self.active:
            self._prepare()

    def _note(self, scalars: dict[str, Tensor | float]) -> None:
        self._journal.note(self._step, scalars)

    def _flush(self) -> None:
        """Hand the finished step's statistics to the writer and disarm."""
        assert self._recorder is not None
        batch = Batch(self._step, cost=self._cost.facts())
        self._recorder.finish(batch, self._say)
        self._know()
        self._recorder.disarm()
        if self._writer is None:
            return
        if not batch.blocks:
            self._say(
                "", "nothing", f"step {self._step}: no spiking layer was called, nothing recorded"
            )
        if not self._hand_over(batch):
            self._stretch *= 2
            self._say("", "slow writer", _SLOW)

    def _know(self) -> None:
        """Write which layers there are, where a recorded step has told more about it."""
        assert self._recorder is not None
        heard = self._recorder.entries()
        layers = known_layers(self._model, self._known, self._recorder.refused, heard)
        if self._writer is None:
            if not any(layer.get("covered", True) for layer in layers):
                self._stay_off(layers)
                return
            self._open([])
            if self._writer is None:
                return
        for layer in layers:
            if not layer.get("covered", True) and layer not in self._known:
                event = (self._step, layer["name"], "not_covered", layer["reason"])
                self._journal.events.append(event)
        if layers != self._known:
            self._known = layers
            self._writer.store.know(layers)

    def _stay_off(self, layers: list[dict[str, Any]]) -> None:
        reasons = "".join(f"; {layer['name']!r}: {layer['reason']}" for layer in layers)
        self.active = False
        self._release()
        self._say(
            "",
            "no_layers",
            f"no spiking layer was found in {type(self._model).__name__}{reasons}: the probe stays "
            "off",
        )

    def _hand_over(self, batch: Batch) -> bool:
        if self._writer is None:
            return True  # nothing has been found to record yet
        self._records += bool(batch.blocks)
        return self._writer.put(self._journal.take(batch))

    def _hear(self) -> None:
        """Pass on what the writer noticed."""
        if self._writer is None:
            return
        self._repeat(self._writer)
        if self._writer.error is not None:
            raise self._writer.error

    def _repeat(self, writer: Writer) -> None:
        while not writer.notices.empty():
            _, layer, kind, text = writer.notices.get()
            self._say(layer, kind, text, event=False)

    def _say(self, layer: str, kind: str, text: str, *, event: bool = True) -> None:
        self._journal.say(self._step, layer, kind, text, event=event)

    def _disarm(self) -> None:
        if self._recorder is not None:
            self._recorder.disarm()

    def _vitals_failed(self, error: Exception) -> None:
        text = f"parameters and batch norms are not recorded: {_describe(error)}"
        self._say("", "no_vitals", text)

    def _release(self) -> None:
        """Let the model be watched by another probe."""
        for module in self._modules():
            if _watched.get(module) in (self.path, self._wanted):
                _watched.pop(module, None)

    def _detach(self, state: str, error: str | None) -> None:
        """Remove every hook, write what is left, say how the run ended."""
        if self.recording:
            # The step was not ended by step(): what it saw is incomplete and not recorded.
            self._disarm()
        self.active = False
        self._release()
        if self._writer is None:
            return
        writer = self._writer
        writer.put(self._journal.take(Batch(self._step)))
        writer.close()
        self._repeat(writer)
        if writer.error is not None:
            raise writer.error
        self._writer = None
        facts = {"steps": self._step, "dropped": writer.dropped, "cost": self._cost.facts()}
        writer.store.end(state, **facts, **({"error": error} if error else {}))
        self._conclude(writer.store)

    def _conclude(self, store: Store) -> None:
        """Keep the findings with the run, and tell the last ones."""
        live, self._live = self._live, None
        if live is not None:
            live.close()
        elif self._records < FINDINGS_RECORDS:
            return
        found = self.findings()
        store.judge("findings", {"findings": [finding.to_dict() for finding in found]})
        if live is not None:
            live.tell(found)
            if live.error is not None:
                text = f"on_findings is not called any more: {_describe(live.error)}"
                self._say("", "on_findings", text, event=False)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return self._timed(function, *args, **kwargs)
            except Exception as error:  # ours: the training must go on
                self._fail(error)
                return None

        return call

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inside or torch.compiler.is_compiling():  # a clock cannot be traced
            return function(*args, **kwargs)
        start = time.perf_counter()
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            self._inside = False
            self._cost.add(time.perf_counter() - start)

    def _fail(self, error: Exception) -> None:
        """Switch off after an error of ours: no hook stays, nothing more is written."""
        self._disarm()
        self.active = False
        self._release()
        where = f" at step {self._step}" if self._step else ""
        text = f"recording stopped{where}, the training goes on: {_describe(error)}"
        self._say("", "failed", text, event=False)
        if self._live is not None:
            self._live.close(timeout=5.0)
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close(timeout=5.0)
            try:
                writer.store.end("probe failed", steps=self._step, error=_describe(error))
            except OSError:
                return  # the disk refuses: the run stays without an end and reads as broken off


_SLOW = (
    "the disk is slower than the recording: a step was dropped, and every second scheduled step is "
    "left out from now on"
)
_NOT_ENTERED = (
    "probe.attach was called before 'with spikescope.watch(...) as probe': nothing is recorded"
)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
