"""Which steps are recorded: those of the schedule, fewer where the disk or the budget asks."""

from __future__ import annotations

from typing import Any

from .agreement import Agreement
from .budget import Cost
from .schedule import Every, LogSpaced, Schedule, WarmUp
from .thinning import Thinning

_LOOK = 100
"""Steps after which the budget is looked at again: by then it may have grown faster."""


class Pace:
    """The steps of one probe.

    Args:
        schedule: the steps that the user wants.
        cost: what recording costs, and whether it may go on.
        agreement: says that for several processes, where they have a budget to keep.

    ``left`` is the number of coming steps of which it is known by now that they are not recorded.

    Example:
        >>> pace = Pace(lambda step: step % 2 == 0, Cost())
        >>> pace.thinning.lost()
        >>> [step for step in range(12) if pace.records(step)]
        [0, 4, 8]
    """

    def __init__(self, schedule: Schedule, cost: Cost, agreement: Agreement | None = None) -> None:
        self.cost = cost
        self._schedule, self._agreement = schedule, agreement
        self.thinning = Thinning()
        self.seconds, self._work = cost.clock
        self.left = 0
        self._not_before = self._asked = 0
        self._passed: list[tuple[float, float, float]] = []

    def records(self, step: int) -> bool:
        """Return whether the coming step is recorded; to be asked for each but those passed by."""
        self._asked = step
        if self.left:  # it has been told not to be
            self.left -= 1
            self._skip(step, 1)
            return False
        records = self._records(step)
        self.left = 0 if records else self._idle(step + 1)
        return records

    def pass_by(self, since: float) -> None:
        """End a step that was not recorded, and begin another such: there are ``left``.

        Every step pays for this: what it costs is worked up later, with that of others.

        Args:
            since: since when the probe's own code has been running.
        """
        self.left -= 1
        self._passed.append((since, self.seconds(), self._work()))

    def settle(self) -> None:
        """Work up the steps that were passed by."""
        passed, self._passed = self._passed, []
        if passed:
            self.cost.pass_by(passed)
            self._skip(self._asked + 1, len(passed))
            self._asked += len(passed)

    def _records(self, step: int) -> bool:
        if not self._schedule(step):
            return False
        if step < self._not_before:
            self.cost.skipped += 1
            return False
        if self._agreement is not None:
            within = self._agreement.includes(step)
            self._not_before = self._agreement.earliest
            self.cost.count(recorded=within)
            return within and self.thinning.includes()
        if not self.thinning.includes():
            return False
        pause = self.cost.pause()
        self._not_before = step + min(pause, _LOOK)
        self.cost.count(recorded=pause == 0)
        return pause == 0

    def _idle(self, step: int) -> int:
        """Return how many steps from one on are surely not recorded, and need not be asked for."""
        most = self.cost.idle()
        if most == 0:
            return 0
        if self._not_before > step:
            return min(most, self._not_before - step)
        if not isinstance(self._schedule, Every | LogSpaced | WarmUp):
            return 0  # it may depend on more than the step, and is asked when its step comes
        return next((k for k in range(most) if self._schedule(step + k)), most)

    def _skip(self, first: int, count: int) -> None:
        """Count steps of the schedule that were not asked for."""
        if first < self._not_before:
            self.cost.skipped += sum(map(self._schedule, range(first, first + count)))

    def facts(self) -> dict[str, Any]:
        """Return what a run says of it: costs, and which scheduled steps are missing and why."""
        thinning = self.thinning
        return {
            **self.cost.facts(),
            "dropped": thinning.dropped,
            "left_out": thinning.left_out,
        }

    def end_step(self, *, recorded: bool, since: float | None = None) -> None:
        """End a step; see :meth:`.budget.Cost.end_step`."""
        self.cost.end_step(recorded=recorded, since=since)
        if recorded and self._agreement is not None:
            self._agreement.tell()
