"""From a probe to its run: the folder is opened once, written by a thread, and closed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..data.store import RunBusy, RunStore
from . import ranks
from .batch import Batch
from .lint import judge_surrogates
from .live_findings import LiveFindings, OnFindings
from .modes import rank
from .settings import Settings
from .writer import Store, Writer

if TYPE_CHECKING:
    from ..analysis.findings import Finding

FINDINGS_RECORDS = 8
"""Recorded steps from which the findings are kept with a run at its end."""


class Outlet:
    """What one probe writes.

    Args:
        wanted: folder or address of the run.
        settings: what the probe was asked to do.
        on_findings: told of findings while the training goes on.

    ``path`` is where rank 0 writes; None while or because nothing is written, and on other ranks.
    ``meeting`` is what the names of this run begin with in the store of several processes.
    ``news`` holds something if the writer has worked since it was last cleared.
    """

    def __init__(
        self, wanted: str | Path, settings: Settings, on_findings: OnFindings | None
    ) -> None:
        self.path: str | Path | None = None
        self._wanted, self._settings = wanted, settings
        self._on_findings = on_findings
        self.meeting = ""
        self.news: deque[None] = deque(maxlen=1)
        self._writer: Writer | None = None
        self._store: Store | None = None
        self._live: LiveFindings | None = None
        self._share: ranks.RankStore | None = None
        self._told = False
        self._records = 0

    def meet(self) -> None:
        """Agree with the other ranks on where the folder's name is left."""
        if ranks.joined():
            self.meeting = ranks.meeting(str(self._wanted))

    @property
    def is_open(self) -> bool:
        """Whether there is a run to write to."""
        return self._writer is not None

    def open(self, content: dict[str, Any], model: nn.Module, step: int) -> tuple[str, str] | None:
        """Make the run's folder, with what is known by now.

        Args:
            content: the header.
            model: the model without its wrappers.
            step: the step with which the training goes on.

        Returns:
            What the user should hear of it, its kind and a sentence.

        Raises:
            OSError: the folder cannot be made.
        """
        this, several = rank()
        most, resume = self._settings.max_bytes, self._settings.resume
        share = None if most is None else most // several
        if this != 0:
            self._share = ranks.RankStore(self.meeting, this, share, step)
            self._writer = Writer(self._share, self.news)
            return None
        taken = ""
        try:
            store = RunStore(self._wanted, content, resume=resume, max_bytes=share)
        except RunBusy as busy:
            # Whoever holds it may be dead, on a host that cannot be asked: better a run beside it
            # than none.
            taken = str(busy)
            store = RunStore(self._wanted, content, max_bytes=share)
        if self.meeting:
            ranks.tell(self.meeting, store.address)
            self._told = True
        self.path = store.path if store.address == str(store.path) else store.address
        self._writer = Writer(store, self.news)
        judge_surrogates(store, model)
        if self._on_findings is not None:
            # The local side of a remote run lacks what the other ranks write.
            where = self.path if self.meeting else store.path
            self._live = LiveFindings(where, self._on_findings)
        if taken:
            return "busy", f"{taken}; this run is written to {store.address!r}"
        if resume is True and store.broken_off:
            return "resumed", _BROKEN_OFF.format(path=store.address, step=store.first)
        resumed = resume is not False and "resumed" in store.header
        if store.address == str(self._wanted) or resumed:
            return None
        return "name", (
            f"{str(self._wanted)!r} exists and is kept: this run is written to {store.address!r}"
        )

    def stay_shut(self) -> None:
        """Let the other ranks know that nothing is written, where they may wait to hear."""
        if self.meeting and not self._told and rank()[0] == 0:
            self._told = True
            ranks.tell_there_is_none(self.meeting)

    def know(self, layers: list[dict[str, Any]]) -> None:
        """Say which layers there are."""
        if self._writer is not None:
            self._writer.store.know(layers)

    def put(self, batch: Batch) -> bool:
        """Hand a batch to the writer; False if it did not keep up."""
        if self._writer is None:
            return True  # nothing has been found to record yet
        taken = self._writer.put(batch)
        self._records += taken and bool(batch.blocks)
        return taken

    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Yield what the writer noticed since this was last asked: layer, kind, sentence."""
        while self._writer is not None and not self._writer.notices.empty():
            _, layer, kind, text = self._writer.notices.get()
            yield layer, kind, text

    def check(self) -> None:
        """Raise what made the writer stop, if anything did."""
        if self._writer is not None and self._writer.error is not None:
            raise self._writer.error

    @property
    def waiting(self) -> int:
        """Steps that wait for the writer."""
        return 0 if self._writer is None else self._writer.waiting

    def worked(self) -> float:
        """Return the seconds that the writer has worked since this was last asked."""
        return 0.0 if self._writer is None else self._writer.worked()

    def close(self, batch: Batch) -> None:
        """Write what is left; afterwards nothing more is taken."""
        if self._writer is not None:
            if self._share is not None:
                self._share.hurry()
            self._writer.close(last=batch)

    def end(self, state: str, **facts: Any) -> bool:
        """Say how the run ended; return whether its findings are to be kept."""
        if self._writer is None:
            return False
        self._store = self._writer.store
        self._store.end(state, dropped=self._writer.dropped, **facts)
        self._writer = None
        return self._live is not None or self._records >= FINDINGS_RECORDS

    def conclude(self, found: list[Finding]) -> BaseException | None:
        """Keep the findings with the run and tell the last ones; return an error of the user's."""
        assert self._store is not None
        self._store.judge("findings", {"findings": [entry.to_dict() for entry in found]})
        if self._live is None:
            return None
        self._live.tell(found)
        return self._live.error

    def stop_telling(self, timeout: float = 30.0) -> None:
        """End the thread that looks for findings."""
        if self._live is not None:
            self._live.close(timeout)

    def abandon(self) -> None:
        """Forget the run without a word: another process writes it."""
        self._writer = self._store = self._live = self._share = None
        self.meeting = ""

    def break_off(self, state: str, **facts: Any) -> None:
        """End in the middle: what waits is written if it can be, and soon."""
        self.stop_telling(timeout=5.0)
        self.stay_shut()
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        if self._share is not None:
            self._share.hurry()
        writer.close(timeout=5.0)
        try:
            writer.store.end(state, **facts)
        except OSError:
            return  # the disk refuses: the run stays without an end and reads as broken off


_BROKEN_OFF = (
    "{path!r} was broken off and goes on at step {step}, the first that it does not know: if the "
    "training goes on from a checkpoint of another step, give resume=<that step>"
)
