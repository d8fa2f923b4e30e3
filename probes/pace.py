"""Which steps are recorded: those of the schedule, fewer where the disk or the budget asks."""

from __future__ import annotations

from typing import Any

from .agreement import Agreement
from .budget import Cost
from .schedule import Schedule
from .thinning import Thinning


class Pace:
    """The steps of one probe.

    Args:
        schedule: the steps that the user wants.
        cost: what recording costs, and whether it may go on.
        agreement: says that for several processes, where they have a budget to keep.

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

    def records(self, step: int) -> bool:
        """Return whether the coming step is recorded; to be asked once for each."""
        if not self._schedule(step):
            return False
        if self._agreement is not None:
            within = self._agreement.includes(step)
            self.cost.count(recorded=within)
            return within and self.thinning.includes()
        return self.thinning.includes() and self.cost.may_record()

    def facts(self) -> dict[str, Any]:
        """Return what a run says of it: costs, and which scheduled steps are missing and why."""
        thinning = self.thinning
        return {
            **self.cost.facts(),
            "dropped": thinning.dropped,
            "left_out": thinning.left_out,
        }

    def end_step(self, *, recorded: bool) -> None:
        """End a step."""
        self.cost.end_step(recorded=recorded)
        if recorded and self._agreement is not None:
            self._agreement.tell()
