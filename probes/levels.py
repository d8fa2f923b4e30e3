"""How much of each recorded step is kept: ``watch(collect=...)``.

========== ======================================================================================
economy    moments of u and of the input, rates, silent and saturated shares, surrogate and
           coverage. No gradient is read, no potential is kept until the backward pass.
standard   that, the histogram of u, and the gradients dL/ds, dL/du with the self-check.
full       that, the joint histogram of (u - threshold) and |dL/ds| of each layer that is read by
           replay, and maps over units of how often each fired.
========== ======================================================================================

A recorded step of a convolutional network of six spiking layers takes 1.2, 1.5 and 2.3 times what
another does (one core, torch on a CPU), of a recurrent layer that is called timestep by timestep
1.6, 2.2 and 2.8 times; ``tests/benchmarks/recorder_overhead.py`` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Level:
    """What is read in a recorded step.

    Args:
        name: as ``collect`` calls it.
        histogram: the density of u.
        gradients: everything of the backward pass.
        fine: joint histograms and maps over units.
    """

    name: str
    histogram: bool = True
    gradients: bool = True
    fine: bool = False


STANDARD = Level("standard")

LEVELS = {
    level.name: level
    for level in (
        Level("economy", histogram=False, gradients=False),
        STANDARD,
        Level("full", fine=True),
    )
}


def as_level(collect: Any) -> Level:
    """Return the level of a name.

    Raises:
        ValueError: there is no such level.

    Example:
        >>> as_level("economy").gradients
        False
    """
    if not isinstance(collect, str) or collect not in LEVELS:
        raise ValueError(
            f"collect={collect!r} is not possible: give {', '.join(map(repr, LEVELS))}"
        )
    return LEVELS[collect]
