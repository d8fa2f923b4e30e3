"""Several processes record one run: each writes its own share, a reader merges them.

Nothing is exchanged while the training runs, so that no rank can wait for another: the only thing
that is passed is the name of the run's folder, once, from the writer's thread. What a rank has
flushed stays when another one dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.appending import Appender
from ..data.reading import OF_ONE_RANK, RANKS
from ..data.remote import Spool, is_remote
from .agreement import Agreement, asked
from .budget import Cost
from .modes import Unscale

PATIENCE = 600.0
"""Seconds that a rank waits for rank 0 to say where the run is written."""

LAST_PATIENCE = 5.0
"""That, once the training is over."""

_POLL = 0.1
_counts: dict[str, int] = {}


def joined() -> bool:
    """Return whether this process has joined a group of several."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def meeting(path: str) -> str:
    """Return the name under which rank 0 leaves the folder of the n-th run at a path."""
    _counts[path] = _counts.get(path, 0) + 1
    return f"spikescope/{path}/{_counts[path]}"


def tell(key: str, folder: str) -> None:
    """Leave the folder of a run for the other ranks; an empty one if there is none."""
    _store().set(key, folder)


def tell_there_is_none(key: str) -> None:
    """Let the other ranks know that there will be no folder; nobody waits for that."""
    asked(lambda: tell(key, ""))


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def agreement(key: str, cost: Cost) -> Agreement:
    """Return what lets the ranks of a run keep a budget together."""
    first = torch.distributed.get_rank() == 0
    return Agreement(f"{key}/budget", cost, lambda: _store().clone(), tidies=first)


def averaged(model: nn.Module, unscale: Unscale) -> Unscale:
    """Return how to read gradients of the loss that the ranks share.

    DistributedDataParallel and FSDP average the gradients over the ranks: the loss that they
    descend is the mean of the ranks' losses, and what one rank sees of its gradient is 1 / ranks
    of the gradient of its own.
    """
    if not joined() or not any(_averages(entry) for entry in model.modules()):
        return unscale
    ranks = torch.distributed.get_world_size()

    def shared(gradient: Tensor) -> Tensor:
        return unscale(gradient) / ranks

    return shared


def _averages(module: nn.Module) -> bool:
    # fully_shard makes a class FSDP... of a module's own; its forerunner is a wrapper.
    kind = type(module).__name__
    sharded = kind.startswith("FSDP") or kind == "FullyShardedDataParallel"
    return sharded or isinstance(module, nn.parallel.DistributedDataParallel)


class RankStore:
    """Where a process that is not rank 0 writes its share; see :class:`..data.store.RunStore`.

    Args:
        key: where rank 0 leaves the folder of the run.
        rank: rank of this process.
        max_bytes: bound of what it writes.
        first: the step with which the training goes on, if the run is resumed.
    """

    def __init__(self, key: str, rank: int, max_bytes: int | None, first: int) -> None:
        self.address = ""
        self.path = Path()
        self.merges = 0
        self.full = False
        self.first = first
        self._key, self._rank, self._most = key, rank, max_bytes
        self._appender: Appender | None = None
        self._spool: Spool | None = None
        self._until = time.monotonic() + PATIENCE

    def hurry(self) -> None:
        """Do not wait long for rank 0 any more: the training is over."""
        self._until = min(self._until, time.monotonic() + LAST_PATIENCE)

    def append(self, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
        """Write the next part of a table; called by the writer's thread, which may wait."""
        if table in (*OF_ONE_RANK, "events"):
            return
        if self._appender is None:
            self._appender = self._find()
        self._appender.append(table, columns)
        self.merges, self.full = self._appender.merges, self._appender.full
        if self._spool is not None:
            self._spool.push()

    def _find(self) -> Appender:
        """Learn where to write.

        Raises:
            RuntimeError: rank 0 writes nothing.
        """
        folder = self._ask()
        if not folder:
            asked_for = self._key.removeprefix("spikescope/").rpartition("/")[0]
            raise RuntimeError(
                f"rank 0 has named no folder for {asked_for!r}: all ranks must give watch() one "
                "path (no time of day in it), and rank 0 must watch, too"
            )
        self.address = folder
        name = f"{self._rank:04d}"
        if is_remote(folder):
            # Rank 0 has put there by now what it keeps of a run that is resumed.
            self._spool = Spool(f"{folder}/{RANKS}/{name}", fetch=True)
            self.path = self._spool.path
        else:
            self.path = Path(folder) / RANKS / name
        self.path.mkdir(parents=True, exist_ok=True)
        return Appender(self.path, self._most)

    def _ask(self, sleep: Callable[[float], None] = time.sleep) -> str:
        """Return what rank 0 left, empty if it did not come.

        The store is asked, not waited at: who waits there keeps the training's own questions out.
        """
        store = _store()
        while time.monotonic() < self._until:
            if store.check([self._key]):
                store.wait([self._key], timedelta(seconds=10))
                return str(store.get(self._key).decode())
            sleep(_POLL)
        return ""

    def know(self, layers: Iterable[Mapping[str, Any]]) -> None:
        """Leave it to rank 0."""

    def judge(self, name: str, content: Mapping[str, Any]) -> None:
        """Leave it to rank 0."""

    def end(self, state: str, **facts: Any) -> None:
        """Leave it to rank 0."""
