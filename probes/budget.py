"""What recording costs, measured while it runs, and how long to wait until it is within a share."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .outside import WINDOW, Outside, median

_LONG = 10.0
"""What takes more than this many usual steps (an evaluation, a break) counts as that many."""

_FAR = 1000
"""Steps after which is asked again where the budget is used up by steps that are not recorded."""

_TOGETHER = 32
"""Steps that are settled together: what is done many times at once is found in the caches ..."""

_DELAY = 0.1
"""... and seconds that they may take."""

_CALL = 2e-6
"""Seconds of a call of ``probe.step`` before its clock is read first and after it is read last."""


def as_budget(budget: Any) -> float | None:
    """Return the share of the training's time that recording may take.

    Raises:
        ValueError: no number above 0 and below 1.

    Example:
        >>> as_budget(0.02)
        0.02
    """
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < 1:
        raise ValueError(
            f"budget={budget!r} is not possible: give a share of the training's time, such as 0.02"
        )
    return float(budget)


class Clock(NamedTuple):
    """Two clocks.

    Args:
        seconds: returns the time, in seconds.
        work: returns the processor time of the calling thread, in seconds: what else the machine
            does hardly changes it, and waiting takes none.
    """

    seconds: Callable[[], float]
    work: Callable[[], float]

    def now(self) -> tuple[float, float]:
        """Return what both say."""
        return self.seconds(), self.work()


HOST = Clock(time.perf_counter, time.thread_time)


class Cost:
    """What recording takes of the time of a training, step by step.

    It is the sum of

    * the time that passes inside the probe's own code, in recorded steps and in others;
    * the processor time of the thread that writes, which may keep the training waiting;
    * what a recorded step takes outside that code (identity views in the graph, memory, caches):
      the processor time by which it and the two steps after it exceed others, the median of the
      last records. Processor time, since a busy machine hardly changes it. While fewer than three
      records could be compared, no more than the time inside is charged. Where every step is
      recorded there is nothing to compare with: a budget leaves steps out for that, and without
      one this part is not known.

    Args:
        budget: share of the training's own time that recording may take; None for any.
        clock: what tells the time.

    ``recorded`` and ``skipped`` count steps that were on the schedule; ``spent`` are seconds, and
    ``elapsed`` all that went by. Of several processes the others wait for the one that spends most:
    ``told`` is what that one has said.

    Example:
        >>> time = [0.0]
        >>> cost = Cost(0.1, Clock(lambda: time[0], lambda: time[0]))
        >>> for step in range(20):
        ...     records = cost.may_record()
        ...     time[0] += 1.5 if records else 1.0
        ...     cost.add(0.5 * records, 0.5 * records)  # all of it in the probe's own code
        ...     cost.end_step(recorded=records)
        >>> cost.recorded, cost.skipped, round(cost.share, 3)
        (3, 17, 0.075)
    """

    def __init__(self, budget: float | None = None, clock: Clock = HOST) -> None:
        self.budget = budget
        self.clock = clock
        self.recorded = self.skipped = 0
        self.spent = self.elapsed = self.told = 0.0
        self._own = self._worked = self._beside = 0.0
        self._last = self.clock.now()
        self._usual: deque[float] = deque(maxlen=WINDOW)
        self._inside: deque[float] = deque(maxlen=WINDOW)
        self._idle: deque[float] = deque(maxlen=WINDOW)
        self._outside = Outside()

    def begin(self) -> None:
        """Begin the first step: what went before is no part of the training."""
        self._last = self.clock.now()
        self._own = self._worked = self._beside = 0.0

    def resume(self) -> None:
        """Let the training go on: what passed since the last step ended was the probe's."""
        now, last = self.clock.now(), self._last
        self._own += now[0] - last[0]
        self._worked += now[1] - last[1]

    def pass_by(self, steps: Sequence[tuple[float, float, float]]) -> None:
        """End several steps that were not recorded.

        Args:
            steps: of each, when the probe's own code began to run at its end, and what the two
                clocks said when it ended.
        """
        for since, seconds, work in steps:
            (before, worked), self._last = self._last, (seconds, work)
            own = seconds - since + _CALL
            outside = work - worked - own - self._worked
            own += self._own
            self._own = self._worked = 0.0
            self._settle(seconds - before, outside, own, 0.0, False)

    def add(self, seconds: float, worked: float) -> None:
        """Add time in the probe's own code during this step.

        Args:
            seconds: that passed.
            worked: of the processor.
        """
        self._own += seconds
        self._worked += worked

    def add_beside(self, seconds: float) -> None:
        """Add the processor time of another thread of ours."""
        self._beside += seconds

    def may_record(self) -> bool:
        """Return whether the coming step, which is on the schedule, may be recorded."""
        records = self.pause() == 0
        self.count(recorded=records)
        return records

    def pause(self) -> int:
        """Return how many steps should go by before one is recorded again; 0 if none need to."""
        if self.budget is None or not (self.recorded or self._inside):
            return 0
        if not self._outside.can_compare:
            return 1  # nothing can be compared before a step went by without recording
        spent, rest = self._together()
        # What the next one will take is there before it is spent.
        due = spent + self._next() + self._pending()
        missing = due / self.budget - rest
        if missing <= 0:
            return 0
        usual = median(self._usual) if self._usual else 0.0
        if usual <= 0 or not self._idle:
            return 1
        # Steps that are not recorded cost something, too.
        gained = usual - median(self._idle) / self.budget
        return min(_FAR, max(1, math.ceil(missing / gained))) if gained > 0 else _FAR

    def count(self, *, recorded: bool) -> None:
        """Count a step of the schedule."""
        self.recorded += recorded
        self.skipped += not recorded

    def _next(self) -> float:
        """Return what the next record is likely to cost."""
        inside = median(self._inside) if self._inside else 0.0
        return inside + self._outside.typical

    def _pending(self) -> float:
        """Return what recorded steps have cost that is not known yet."""
        return self._outside.pending

    def _together(self) -> tuple[float, float]:
        """Return what the rank that spends most has spent, and the rest of the time."""
        spent = max(self.spent, self.told)
        return spent, max(self.elapsed - spent, 0.0)

    def end_step(self, *, recorded: bool, since: float | None = None) -> None:
        """End a step.

        Args:
            recorded: whether it was recorded.
            since: since when the probe's own code has been running, by the first clock.
        """
        now = self.clock.now()
        own, worked = self._own, self._worked
        if since is not None:
            own += now[0] - since + _CALL
            worked += now[0] - since + _CALL
        last, self._last = self._last, now
        self._own = self._worked = 0.0
        beside, self._beside = self._beside, 0.0
        self._settle(now[0] - last[0], now[1] - last[1] - worked, own, beside, recorded)

    def _settle(
        self, seconds: float, outside: float, own: float, beside: float, recorded: bool
    ) -> None:
        """Charge a step.

        Args:
            seconds: that it took.
            outside: its work outside the probe's own code.
            own: time in the probe's own code.
            beside: work of other threads of ours.
            recorded: whether it was recorded.
        """
        self.spent = max(
            0.0, self.spent + own + beside + self._outside.take(outside, own, recorded)
        )
        rest = max(seconds - own, 0.0)
        usual = self._usual
        if usual and rest > _LONG * usual[-1]:
            rest = min(rest, _LONG * median(usual))
        self.elapsed += own + rest
        usual.append(rest)
        (self._inside if recorded else self._idle).append(own)

    def idle(self) -> int:
        """Return how many steps that are not recorded may be told of together."""
        usual = self._usual
        if not usual or self._outside.goes_on:
            return 0
        return min(_TOGETHER, int(_DELAY / max(usual[-1], 1e-9)))

    @property
    def share(self) -> float:
        """What recording took so far, as a share of the training's own time."""
        spent, rest = self._together()
        return spent / rest if rest > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        """Return what a run says of it."""
        return {
            "budget": self.budget,
            "spent": self.share,
            "seconds": max(self.spent, self.told),
            "recorded": self.recorded,
            "skipped": self.skipped,
        }
