"""Attach to a model, record on a schedule, leave no trace.

An error of ours never ends the training: every hook is guarded, the first failure warns once and
switches the probe off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .budget import as_budget
from .levels import as_level
from .live_findings import OnFindings
from .modes import unscale_by
from .schedule import Schedule, as_schedule
from .session import Session
from .settings import Settings, as_bytes, as_resume

if TYPE_CHECKING:
    from ..analysis.findings import Finding


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
        budget: share by which recording may slow the training, such as 0.02; steps on the schedule
            are skipped until it is kept, the same ones by several processes. All that is done in
            steps counts (:class:`~spikescope.probes.budget.Cost` says how it is measured), but
            for ``on_findings``. The first record is made before anything has been saved for it;
            where the steps are so short that ``probe.step`` itself, about 15 microseconds on a
            CPU, takes such a share, there is no other. None for no bound.
        max_bytes: bound of the run's size; neighbouring records are merged to stay within it, the
            newest last. None for no bound.
        resume: go on with the run at ``path`` if there is one: a number if the training goes on
            at that step, say :attr:`Probe.steps` of a checkpoint (what the run holds from there on
            is removed, merged records as a whole); True behind the last step that it knows, which
            is the training's own where it ended by itself, and may be another after a kill. If
            another process still writes that run, the next free name is taken and said.

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

    It catches what goes wrong in its session and measures the time that passes there.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        settings: Settings,
        on_findings: OnFindings | None = None,
    ) -> None:
        self._session = Session(model, path, settings, on_findings)
        self._entered = False
        self._inside = False
        self._ended = 0

    def __enter__(self) -> Probe:
        self._entered = True
        try:
            self._guarded(self._session.attach)(self._guarded)
        except BaseException as error:  # an interrupt: no __exit__ will follow
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state = "finished" if error is None else "failed"
        try:
            self._guarded(self._session.detach)(state, None if error is None else repr(error))
        except BaseException as interrupt:  # while the rest was being written
            self._session.break_off("failed", interrupt)
            raise

    @property
    def active(self) -> bool:
        """Whether the probe still records."""
        return self._session.active

    @property
    def path(self) -> str | Path | None:
        """Folder or address of the run; None while or because this process writes none."""
        return self._session.path

    @property
    def recording(self) -> bool:
        """Whether the current step is being recorded."""
        return self._session.recording

    @property
    def steps(self) -> int:
        """Number of steps that have ended, those before a restart, too: for a checkpoint."""
        return self._session.first + self._ended

    @property
    def cost(self) -> dict[str, Any]:
        """What recording has cost so far: share of the training's time, steps, seconds."""
        return self._guarded(self._session.facts)() or {}

    @property
    def memory(self) -> dict[str, dict[str, int]]:
        """Bytes that a recorded step takes on the device, by layer, the most so far.

        ``"statistics"`` is what is kept of it until it has left for the host; ``"potentials"``, of
        a layer that is read by replay, waits for the backward pass; under the name "" stand samples
        of the parameters, from before they are moved. Nothing stays after the step.
        """
        return self._session.memory

    def step(self, loss: Tensor | float | None = None, **scalars: Tensor | float) -> None:
        """End one training step; call it after ``optimizer.step()``.

        Args:
            loss: the step's loss, a number or a tensor with one element; it is not waited for.
            scalars: further numbers of this step, by name.
        """
        session = self._session
        self._ended += 1  # also while nothing is recorded: a checkpoint may ask
        if not session.active:
            return
        # Called in every step, recorded or not: no guard of its own, no clock but the session's.
        self._inside = True
        try:
            session.end_step(scalars if loss is None else {"loss": loss, **scalars})
        except Exception as error:  # ours: the training must go on
            session.fail(error)
        finally:
            self._inside = False

    def log(self, **scalars: Tensor | float) -> None:
        """Note numbers at the current step (a test accuracy, say) without ending it."""
        if self.active:
            self._guarded(self._session.note)(scalars)

    def findings(self) -> list[Finding]:
        """Return what the rules say about the record so far, as far as it is on disk.

        That is all but about the last two seconds. The call takes from a tenth of a second to some
        seconds; :func:`watch` takes a function that is told of findings beside the training.
        """
        return self._session.findings()

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
                self._session.say("", "attach", _NOT_ENTERED)
            return
        self._guarded(self._session.take)(name, spikes, u, z, threshold, t)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return self._timed(function, *args, **kwargs)
            except Exception as error:  # ours: the training must go on
                self._session.fail(error)
                return None

        return call

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inside or torch.compiler.is_compiling():  # a clock cannot be traced
            return function(*args, **kwargs)
        cost = self._session.pace.cost
        start = cost.clock.now()
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            self._inside = False
            end = cost.clock.now()
            cost.add(end[0] - start[0], end[1] - start[1])


_NOT_ENTERED = (
    "probe.attach was called before 'with spikescope.watch(...) as probe': nothing is recorded"
)
