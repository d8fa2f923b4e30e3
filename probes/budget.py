"""What recording costs, measured while it runs, and a schedule that keeps it within a share."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

_WINDOW = 9
"""Steps of each kind whose median duration is taken."""


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


class Cost:
    """What recording takes of the time of a training, step by step.

    On a CPU it is the time inside the probe's own code. On a CUDA device, and where compiled code
    runs eagerly in recorded steps, it is how much longer recorded steps take than their
    neighbours: the device is asked for what it has finished, and never waited for.

    Args:
        budget: share of the training's own time that recording may take; None for any.
        compare: whether recorded steps are compared with others.
        mark: returns a point in time.
        between: returns the seconds between two of them, None while they are not known.

    ``recorded`` and ``skipped`` count steps that were on the schedule; ``spent`` and ``trained``
    are seconds. Of several processes the others wait for the one that spends most: ``told`` is what
    that one has said.

    Example:
        >>> now = iter([0.0, 1.0, 2.0])
        >>> cost = Cost(0.1, mark=lambda: next(now), between=lambda a, b: b - a)
        >>> cost.may_record(), cost.add(0.5), cost.end_step(recorded=True), cost.may_record()
        (True, None, None, False)
        >>> cost.skipped, cost.share
        (1, 1.0)
    """

    def __init__(
        self,
        budget: float | None = None,
        *,
        compare: bool = False,
        mark: Callable[[], Any] = time.perf_counter,
        between: Callable[[Any, Any], float | None] = lambda a, b: b - a,
    ) -> None:
        self.budget = budget
        self.compare = compare
        self.recorded = self.skipped = 0
        self.spent = self.trained = self.told = 0.0
        self._mark, self._between = mark, between
        self._own = 0.0
        self._last = mark()
        self._open: deque[tuple[Any, Any, bool, float]] = deque(maxlen=4 * _WINDOW)
        self._plain: deque[float] = deque(maxlen=_WINDOW)
        self._with: deque[float] = deque(maxlen=_WINDOW)
        self._usual: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        """Add time that was spent in the probe's own code during this step."""
        self._own += seconds

    def may_record(self) -> bool:
        """Return whether the coming step, which is on the schedule, may be recorded."""
        records = self.pause() == 0
        self.count(recorded=records)
        return records

    def pause(self) -> int:
        """Return how many steps should go by before one is recorded again; 0 if none need to."""
        if self.budget is None:
            return 0
        if self.compare and self.recorded > 0 and not self._plain:
            return 1  # nothing can be compared before a step went by without recording
        spent, trained = self._together()
        if spent <= self.budget * trained:
            return 0
        usual = _median(self._usual) if self._usual else 0.0
        missing = spent / self.budget - trained
        return max(1, math.ceil(missing / usual)) if usual > 0 else 1

    def count(self, *, recorded: bool) -> None:
        """Count a step of the schedule."""
        self.recorded += recorded
        self.skipped += not recorded

    def _together(self) -> tuple[float, float]:
        """Return what the rank that spends most has spent, and the rest of the time."""
        spent = max(self.spent, self.told)
        return spent, self.spent + self.trained - spent

    def end_step(self, *, recorded: bool) -> None:
        """End a step, and settle those whose duration is known by now."""
        now = self._mark()
        self._open.append((self._last, now, recorded, self._own))
        self._last, self._own = now, 0.0
        while self._open:
            start, end, was, own = self._open[0]
            seconds = self._between(start, end)
            if seconds is None:
                return
            self._open.popleft()
            self._settle(seconds, was, own)

    def _settle(self, seconds: float, recorded: bool, own: float) -> None:
        cost = own
        if self.compare:
            (self._with if recorded else self._plain).append(seconds)
            if recorded and self._plain:
                cost = max(own, _median(self._with) - _median(self._plain))
        cost = min(cost, seconds)
        self.spent += cost
        self.trained += seconds - cost
        self._usual.append(seconds - cost)

    @property
    def share(self) -> float:
        """What recording took so far, as a share of the training's own time."""
        spent, trained = self._together()
        return spent / trained if trained > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        """Return what a run says of it."""
        return {
            "budget": self.budget,
            "spent": self.share,
            "seconds": max(self.spent, self.told),
            "recorded": self.recorded,
            "skipped": self.skipped,
        }


def _median(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2]


def cost_on(device: torch.device | None, budget: float | None, *, compiled: bool) -> Cost:
    """Return the meter for a training on a device.

    Args:
        device: where the model lies; None for the CPU.
        budget: share of the training's time that recording may take.
        compiled: whether some of it is compiled, and runs eagerly while recorded.
    """
    if device is None or device.type != "cuda":
        return Cost(budget, compare=compiled)

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))  # of that device, current or not
        return event

    def between(start: Any, end: Any) -> float | None:
        return start.elapsed_time(end) / 1e3 if end.query() else None

    return Cost(budget, compare=True, mark=mark, between=between)
