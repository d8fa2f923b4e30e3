"""What recording costs where the training runs on a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from .budget import HOST, Clock, Cost
from .outside import WINDOW


class DeviceCost(Cost):
    """That of a training on a device, whose time is known later: it is never waited for.

    Recorded steps are compared with others by the time of the device's stream, gaps where the host
    was late included; of that and the time in the probe's own code on the host the larger counts.

    Args:
        budget: share of the training's own time that recording may take; None for any.
        mark: returns a point in time of the device.
        between: returns the seconds between two of them, None while they are not known.
        clock: tells the host's time.
    """

    def __init__(
        self,
        budget: float | None,
        mark: Callable[[], Any],
        between: Callable[[Any, Any], float | None],
        clock: Clock = HOST,
    ) -> None:
        super().__init__(budget, clock)
        self._mark, self._between = mark, between
        self._since = mark()
        # If the device is further behind, the oldest are forgotten.
        self._open: deque[tuple[Any, Any, float, bool]] = deque(maxlen=4 * WINDOW)

    def begin(self) -> None:
        """Begin the first step."""
        super().begin()
        self._since = self._mark()

    def idle(self) -> int:
        """Return 0: each step is marked on the device."""
        return 0

    def _pending(self) -> float:
        """Return what recorded steps have cost that is not known yet."""
        told = super()._pending()
        return told + self._next() * sum(recorded for *_, recorded in self._open)

    def _settle(
        self, seconds: float, outside: float, own: float, beside: float, recorded: bool
    ) -> None:
        now = self._mark()
        self._open.append((self._since, now, own + beside, recorded))
        self._since = now
        while self._open:
            start, end, ours, was = self._open[0]
            took = self._between(start, end)
            if took is None:
                return
            self._open.popleft()
            super()._settle(took, took - ours, ours, 0.0, was)


def cost_on(device: torch.device | None, budget: float | None) -> Cost:
    """Return the meter for a training on a device.

    Args:
        device: where the model lies; None for the CPU.
        budget: share of the training's time that recording may take.
    """
    if device is None or device.type != "cuda":
        return Cost(budget)

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))  # of that device, current or not
        return event

    def between(start: Any, end: Any) -> float | None:
        return start.elapsed_time(end) / 1e3 if end.query() else None

    return DeviceCost(budget, mark, between)
