"""Which optimiser steps are recorded: a schedule is a function from step to bool."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

Schedule = Callable[[int], bool]


@dataclass(frozen=True)
class Every:
    """Record steps 0, n, 2n, ...

    Args:
        n: distance between recorded steps, >= 1.

    Raises:
        ValueError: n < 1 or not whole.

    Example:
        >>> [step for step in range(10) if Every(4)(step)]
        [0, 4, 8]
    """

    n: int

    def __post_init__(self) -> None:
        n: Any = self.n
        if isinstance(n, bool) or not isinstance(n, Integral) or not n >= 1:  # type: ignore[operator]
            raise ValueError(f"every={self.n!r} is not possible: give a whole number >= 1")

    def __call__(self, step: int) -> bool:
        """Return whether the step is recorded."""
        return step % self.n == 0

    def __str__(self) -> str:
        return f"every {self.n} steps"


@dataclass(frozen=True)
class LogSpaced:
    """Record densely at the start, where collapse happens, then ever more sparsely.

    Args:
        per_decade: recorded steps per factor of 10, >= 1.

    Raises:
        ValueError: per_decade < 1.

    Example:
        >>> [step for step in range(1001) if LogSpaced(3)(step)]
        [0, 1, 2, 5, 10, 22, 46, 100, 215, 464, 1000]
    """

    per_decade: int = 20

    def __post_init__(self) -> None:
        if not self.per_decade >= 1:
            raise ValueError(f"per_decade={self.per_decade!r} is not possible: give at least 1")

    def __call__(self, step: int) -> bool:
        """Return whether the step is recorded."""
        if step < 1:
            return step == 0
        # Two neighbours: rounding of the logarithm must not lose the exact powers of 10.
        place = round(self.per_decade * math.log10(step))
        return any(self._step(k) == step for k in (place - 1, place, place + 1, place + 2))

    def _step(self, k: int) -> int:
        return math.floor(math.pow(10.0, k / self.per_decade) * (1.0 + 1e-12) + 0.5)

    def __str__(self) -> str:
        return f"{self.per_decade} steps per decade"


@dataclass(frozen=True)
class WarmUp:
    """Record densely while a training finds its way, then sparsely.

    Args:
        steps: number of steps of the dense beginning, >= 1.
        every: distance between recorded steps there, >= 1.
        then: distance between recorded steps afterwards, >= 1.

    Raises:
        ValueError: a number < 1 or not whole.

    Example:
        >>> [step for step in range(40) if WarmUp(6, every=2, then=10)(step)]
        [0, 2, 4, 10, 20, 30]
    """

    steps: int
    every: int = 1
    then: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "every", "then"):
            n: Any = getattr(self, name)
            if isinstance(n, bool) or not isinstance(n, Integral) or not n >= 1:  # type: ignore[operator]
                raise ValueError(f"{name}={n!r} is not possible: give a whole number >= 1")

    def __call__(self, step: int) -> bool:
        """Return whether the step is recorded."""
        return step % (self.every if step < self.steps else self.then) == 0

    def __str__(self) -> str:
        return f"every {self.every} steps up to step {self.steps}, then every {self.then}"


def as_schedule(every: Any) -> Schedule:
    """Return the schedule that ``watch(every=...)`` means: a number, or any function of the step.

    Args:
        every: distance between recorded steps, or a function from step to bool.

    Returns:
        A function from step to bool.

    Raises:
        ValueError: neither of the two.

    Example:
        >>> as_schedule(50)(100), as_schedule(lambda step: step < 3)(100)
        (True, False)
    """
    if isinstance(every, Integral):  # numpy's integers, too
        return Every(every)  # type: ignore[arg-type]
    if callable(every):
        schedule: Schedule = every
        return schedule
    raise ValueError(
        f"every={every!r} is not possible: give a whole number >= 1 or a function from step to bool"
    )
