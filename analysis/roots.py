"""All roots of a scalar equation in a bracketed range, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Roots:
    """What an equation fixes: no value, one value or several.

    Args:
        unknown: name of what was solved for.
        values: all roots found, ascending; empty if there is none.
        reason: why there are that many.

    Example:
        >>> Roots("peak", (), "the leak alone exceeds the target").only()
        Traceback (most recent call last):
        ...
        ValueError: peak has 0 solutions: the leak alone exceeds the target
    """

    unknown: str
    values: tuple[float, ...]
    reason: str

    @property
    def count(self) -> int:
        """Number of solutions."""
        return len(self.values)

    def only(self) -> float:
        """Return the solution if there is exactly one.

        Raises:
            ValueError: there is none or more than one; the message gives the reason.
        """
        if self.count != 1:
            found = "" if not self.values else f" {tuple(round(v, 6) for v in self.values)}"
            raise ValueError(f"{self.unknown} has {self.count} solutions{found}: {self.reason}")
        return self.values[0]


def scan_roots(
    equation: Callable[[float], float],
    grid: Sequence[float] | np.ndarray,
    *,
    log: bool = True,
    tolerance: float = 1e-13,
) -> tuple[float, ...]:
    """Find every root that a grid separates, each refined by Brent's method.

    Args:
        equation: function of one number, finite on the grid.
        grid: ascending values; a root is found where the sign changes between two of them.
        log: whether to refine in the logarithm of the unknown (all grid values positive).
        tolerance: of the root, relative if ``log``.

    Returns:
        The roots, ascending; two roots inside one grid cell are not seen.

    Raises:
        ValueError: the equation is not finite somewhere on the grid.

    Example:
        >>> [round(x, 9) for x in scan_roots(lambda x: (x - 1) * (x - 3), [0.5, 2.0, 5.0])]
        [1.0, 3.0]

    Source:
        Brent's method (scipy.optimize.brentq).
    """
    points = np.asarray(grid, dtype=float)
    values = np.array([equation(float(x)) for x in points])
    if not np.isfinite(values).all():
        at = points[~np.isfinite(values)][0]
        raise ValueError(f"the equation is not finite at {at:.6g}; check the law of u behind it")
    roots = [float(x) for x, value in zip(points, values, strict=True) if value == 0.0]
    for i in np.flatnonzero(values[:-1] * values[1:] < 0.0):
        low, high = points[i], points[i + 1]
        if log:
            root = np.exp(
                brentq(
                    lambda x: equation(float(np.exp(x))),
                    np.log(low),
                    np.log(high),
                    xtol=tolerance,
                    rtol=1e-13,
                    maxiter=MAX_ITERATIONS,
                )
            )
        else:
            root = brentq(equation, low, high, xtol=tolerance, rtol=1e-13, maxiter=MAX_ITERATIONS)
        roots.append(float(root))
    return tuple(sorted(roots))
