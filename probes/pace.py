"""Which steps are recorded: those of the schedule, fewer where the disk or the budget asks."""

from __future__ import annotations

from .agreement import Agreement
from .budget import Cost
from .schedule import Schedule


class Pace:
    """The steps of one probe.

    Args:
        schedule: the steps that the user wants.
        cost: what recording costs, and whether it may go on.
        agreement: says that for several processes, where they have a budget to keep.

    Example:
        >>> pace = Pace(lambda step: step % 2 == 0, Cost())
        >>> pace.coarser()
        >>> [step for step in range(12) if pace.records(step)]
        [0, 4, 8]
    """

    def __init__(self, schedule: Schedule, cost: Cost, agreement: Agreement | None = None) -> None:
        self.cost = cost
        self._schedule, self._agreement = schedule, agreement
        self._stretch, self._due = 1, 0

    def records(self, step: int) -> bool:
        """Return whether the coming step is recorded; to be asked once for each."""
        if not self._schedule(step):
            return False
        if self._agreement is not None:
            within = self._agreement.includes(step)
            self.cost.count(recorded=within)
            return within and self._is_due()
        return self._is_due() and self.cost.may_record()

    def _is_due(self) -> bool:
        self._due += 1
        return (self._due - 1) % self._stretch == 0

    def coarser(self) -> None:
        """Leave out every second of the scheduled steps from now on."""
        self._stretch *= 2

    def end_step(self, *, recorded: bool) -> None:
        """End a step."""
        self.cost.end_step(recorded=recorded)
        if recorded and self._agreement is not None:
            self._agreement.tell()
