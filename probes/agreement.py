"""Several processes that keep one budget: they record the same steps, and none waits for another.

What one rank spends on recording all of them wait for, so the budget is kept for the rank that has
spent most. Nothing is reduced over the ranks: a collective would hang where one has died or
switched itself off, and could meet one of the training's. The ranks leave their numbers in the
process group's store instead, and of each step in question the first to come says for all whether
it is recorded: a slower one finds the answer there, and one that never comes is not missed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .budget import Cost

PATIENCE = 10.0
"""Seconds within which the store has to answer; if it does not, the probe switches itself off."""

KEPT = 64
"""Answers that stay in the store: no rank is further behind."""

_TRIES = 8


class Agreement:
    """The budget of one rank among several.

    Args:
        key: what the names of this run begin with in the store.
        cost: what this rank has measured; what others have told is written into it.
        store: returns the store, on a connection of its own.
        tidies: whether this rank removes old answers.

    ``earliest`` is the step before which none will be recorded.

    Example:
        >>> from torch.distributed import HashStore
        >>> from spikescope.probes.budget import Clock
        >>> store = HashStore()
        >>> now = [0.0]
        >>> clock = Clock(lambda: now[0], lambda: now[0])
        >>> costs = [Cost(0.1, clock) for _ in range(2)]
        >>> ranks = [Agreement("run", cost, lambda: store) for cost in costs]
        >>> steps = []
        >>> for step in range(40):
        ...     now[0] += 1.0
        ...     said = [rank.includes(step) for rank in ranks]
        ...     costs[0].add(0.5 * said[0], 0.5 * said[0])  # only one of them is slow
        ...     for cost in costs:
        ...         cost.end_step(recorded=said[0])
        ...     steps += [step] if said == [True, True] else []
        >>> steps
        [0, 11, 16, 22, 27, 33, 38]
    """

    def __init__(
        self, key: str, cost: Cost, store: Callable[[], Any], *, tidies: bool = False
    ) -> None:
        self._key, self._cost, self._tidies = key, cost, tidies
        self._connect = store
        self._store: Any = None
        self.earliest = 0
        self._asked: deque[int] = deque()

    def includes(self, step: int) -> bool:
        """Return whether the ranks record a step of the schedule.

        Raises:
            TimeoutError: the store does not answer.
        """
        if step < self.earliest:
            return False
        found = _within(PATIENCE, lambda: self._ask(step))
        # A step that is not recorded says which one is in question next. Behind one that is, a
        # step is left out: who is slow tells by then what it has cost.
        self.earliest = found if found > step else step + 2
        return found == step

    def tell(self) -> None:
        """Tell the others what this rank has spent; nobody waits for that."""
        spent = self._cost.spent
        asked(lambda: self._most(spent))

    def _ask(self, step: int) -> int:
        self._cost.told = self._most(self._cost.spent)
        mine = step + self._cost.pause()
        said = int(self._set(str(step), "", str(mine)))
        self._asked.append(step)
        if len(self._asked) > KEPT:
            old = self._asked.popleft()
            if self._tidies:
                self._store.delete_key(f"{self._key}/{old}")
        return said

    def _set(self, name: str, expected: str, value: str) -> str:
        """Set a value if it is what was expected, nothing at first; return what it is then."""
        if self._store is None:
            self._store = self._connect()
        now: bytes = self._store.compare_set(f"{self._key}/{name}", expected, value)
        return now.decode()

    def _most(self, spent: float) -> float:
        """Tell what this rank has spent, and return what the one has that has spent most."""
        known = self._set("spent", "", repr(spent))
        for _ in range(_TRIES):
            if float(known) >= spent:
                break
            known = self._set("spent", known, repr(spent))
        return max(float(known), spent)


def asked(ask: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Ask in a thread of its own, since nobody may wait for a store that is gone."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(ask())
        except Exception as error:
            out.append(error)

    thread = threading.Thread(target=run, name="spikescope-budget", daemon=True)
    thread.start()
    return thread, out


def _within(seconds: float, ask: Callable[[], int]) -> int:
    """Return the answer to a question.

    Raises:
        TimeoutError: none came.
    """
    thread, out = asked(ask)
    thread.join(seconds)
    if not out:
        raise TimeoutError(f"the store of the process group has not answered for {seconds:g} s")
    if isinstance(out[0], Exception):
        raise out[0]
    answer: int = out[0]
    return answer
