"""What recorded steps take outside the probe's own code, told by comparing them with others."""

from __future__ import annotations

import math
from collections import deque

WINDOW = 9
"""Steps of each kind whose median is taken."""

_AFTER = 2
"""Steps behind a recorded one that are slower, too: what they need has left the caches."""

_SURE = 3
"""Records from which the median of what they took outside the probe's own code is relied on."""


class Outside:
    """What recorded steps take outside the probe's own code: the work that others do not do.

    ``typical`` is what the next record is likely to take of it, ``pending`` what the last one has
    taken that is not charged yet.
    """

    def __init__(self) -> None:
        self.typical = self.pending = 0.0
        self._plain: deque[float] = deque(maxlen=WINDOW)
        self._extras: deque[float] = deque(maxlen=WINDOW)
        self._own = self._extra = 0.0
        self._left = 0  # steps after the last record that still belong to it
        self._since = 0  # records since a step was compared with
        self._blind: list[tuple[float, float]] = []  # records before anything could be compared
        self._charged: list[float] = []  # while it is not sure

    @property
    def goes_on(self) -> bool:
        """Whether the coming step belongs to the last record."""
        return self._left > 0

    @property
    def can_compare(self) -> bool:
        """Whether it is known what a step takes that is not recorded, and not from long ago."""
        return bool(self._plain) and self._since < WINDOW

    def take(self, work: float, own: float, recorded: bool) -> float:
        """Take the work of a step outside our code; return what is to be charged by now."""
        if recorded:
            return self._begin(work, own)
        if self._left:
            self._left -= 1
            if not self._plain:
                return 0.0
            self._extra += work - median(self._plain)
            return 0.0 if self._left else self._conclude()
        self._plain.append(work)
        self._since = 0
        if not self._blind:
            return 0.0
        # The first steps of a training also build what later ones use: no more than was seen.
        self._charged = [min(own, max(0.0, was - work)) for was, own in self._blind]
        self._blind = []
        self.typical = self._charged[-1]
        return sum(self._charged)

    def _begin(self, work: float, own: float) -> float:
        charge = self._conclude() if self._left and self._plain else 0.0
        self._left = _AFTER
        self._since += 1
        if self._plain:
            self._own = own
            self._extra = work - median(self._plain)
            self.pending = self.typical
        else:
            self._blind.append((work, own))
        return charge

    def _conclude(self) -> float:
        """Charge the last record, once it is known what it and the steps after it have taken."""
        self._left, self.pending = 0, 0.0
        self._extras.append(self._extra)
        sure = len(self._extras) >= _SURE
        most = math.inf if sure else self._own
        self.typical = min(most, max(0.0, median(self._extras)))
        # What was charged for those before was a guess, too.
        records = 1 + len(self._charged)
        charge = self.typical * records - sum(self._charged)
        self._charged = [] if sure else [self.typical] * records
        return charge


def median(values: deque[float]) -> float:
    """Return the median of some numbers, the larger of two."""
    return sorted(values)[len(values) // 2]
