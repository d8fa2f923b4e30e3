"""Which surrogate a measured derivative is, and what is wrong with it if it is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize

from .surrogate import SHAPES, Surrogate

FIT_TOLERANCE = 0.02
"""Largest deviation, in shares of the peak, up to which a shape counts as found."""

_ROUNDING = 1e-5  # deviations below this are rounding: the simpler shape wins
_FEWEST = 5  # points above half of the peak that a width needs


@dataclass(frozen=True)
class Identification:
    """What a measured derivative is.

    Args:
        surrogate: the best description; None where none fits.
        centre: middle between the two half-height points, potential (0: at the threshold).
        peak: largest finite sample, 1 / potential.
        fwhm: distance between the two half-height points, potential.
        area: integral over the sampled interval, no unit.
        fit_error: largest deviation of the best shape from the samples, in shares of the peak.
        problems: what is wrong, a line each; empty if nothing is.
    """

    surrogate: Surrogate | None
    centre: float
    peak: float
    fwhm: float
    area: float
    fit_error: float
    problems: tuple[str, ...]

    @property
    def width(self) -> float:
        """Width of the surrogate, potential; NaN where none fits."""
        return np.nan if self.surrogate is None else float(self.surrogate.width)


def identify(x: Any, derivative: Any) -> Identification:
    """Find the surrogate behind samples of its derivative.

    Sample on a fine grid of at least -5 to 5 thresholds, so that overflow far out shows.

    Args:
        x: distances u - threshold from the threshold, potential, ``[n]``, ascending.
        derivative: measured derivative there, 1 / potential, ``[n]``.

    Returns:
        The :class:`Identification`. Samples that are not finite are named as a problem and left out
        of the fit. A derivative that is negative, off-centre or no bump gets no surrogate.

    Raises:
        ValueError: x that is not finite and ascending, or has another length or below 16 points.

    Example:
        >>> x = np.linspace(-5.0, 5.0, 4001)
        >>> found = identify(x, 1.0 / (1.0 + 25.0 * np.abs(x)) ** 2)
        >>> found.surrogate.shape, round(found.width, 6), found.problems
        ('fast_sigmoid', 0.04, ())

    Source:
        Least squares over the shapes of :data:`.surrogate.SHAPES`.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(derivative, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or x.size < 16:
        raise ValueError(
            f"x of shape {x.shape} and derivative of shape {y.shape}: give two equally long lists "
            "of at least 16 numbers"
        )
    if not (np.all(np.isfinite(x)) and np.all(np.diff(x) > 0)):
        raise ValueError(f"x from {x[0]!r} to {x[-1]!r} must be finite and ascend")
    problems = []
    for kind, bad in (("NaN", np.isnan(y)), ("infinite", np.isinf(y))):
        if bad.any():
            where = x[bad]
            problems.append(
                f"{kind} at {where.size} of {x.size} points, from x = {where[0]:.6g} "
                f"to {where[-1]:.6g}"
            )
    good = np.isfinite(y)
    x, y = x[good], y[good]
    if x.size < 16 or not np.any(y):
        if x.size:
            what = f"only {x.size} finite points" if x.size < 16 else "zero: no gradient passes"
            problems.append(what)
        return _refused(problems)
    area = float(np.trapezoid(y, x))
    peak = float(np.max(y))
    if (lowest := float(np.min(y))) < -1e-6 * np.max(np.abs(y)):
        problems.append(
            f"negative, down to {lowest:.6g} at x = {x[np.argmin(y)]:.6g}: the gradient's sign "
            "turns there"
        )
        return _refused(problems, peak=peak, area=area)
    half = _half_height(x, y)
    if half is None:
        problems.append(
            f"no bump: does not fall to half of its peak {peak:.6g} on both sides of it between "
            f"x = {x[0]:.6g} and {x[-1]:.6g}"
        )
        return _refused(problems, peak=peak, area=area)
    left, right, inside = half
    centre, fwhm = 0.5 * (left + right), right - left
    measured = {"centre": centre, "peak": peak, "fwhm": fwhm, "area": area}
    if abs(centre) > 0.05 * fwhm + _spacing(x, left, right):
        problems.append(f"centred at x = {centre:.6g} instead of 0, the threshold")
        return _refused(problems, **measured)
    error, best = _nearest(x.tobytes(), y.tobytes(), fwhm)
    # A smooth shape that fits closely has its width from its tails; a rectangle has none.
    if inside < _FEWEST and (best.shape == "rectangular" or error > 1e-3):
        problems.append(
            f"only {inside} points lie above half of the peak: sample more finely than "
            f"{_spacing(x, left, right):.3g}"
        )
    if error > FIT_TOLERANCE:
        problems.append(
            f"no known shape: the nearest, {best.shape}, is off by {error:.3g} of the peak"
        )
        return _refused(problems, **measured, fit_error=error)
    return Identification(best, fit_error=error, problems=tuple(problems), **measured)


def _refused(problems: list[str], **measured: float) -> Identification:
    unknown = dict.fromkeys(("centre", "peak", "fwhm", "area", "fit_error"), np.nan)
    return Identification(None, problems=tuple(problems), **(unknown | measured))


@lru_cache(maxsize=32)  # the layers of a network mostly share one surrogate
def _nearest(x_bytes: bytes, y_bytes: bytes, fwhm: float) -> tuple[float, Surrogate]:
    """Return the least deviation, in shares of the peak, and the surrogate that has it.

    The first shape that fits to rounding is taken; the one with the extra parameter is tried last.
    """
    x, y = np.frombuffer(x_bytes), np.frombuffer(y_bytes)
    fits = []
    for shape in sorted(SHAPES, key=lambda shape: shape == "q_pseudo_spike"):
        fits.append(_fit(shape, x, y, fwhm))
        if fits[-1][0] <= _ROUNDING:
            return fits[-1]
    return min(fits, key=lambda fit: fit[0])


def _half_height(x: Any, y: Any) -> tuple[float, float, int] | None:
    """Return where y crosses half of its peak, left and right of it, and the points between."""
    level = 0.5 * np.max(y)
    above = np.flatnonzero(y > level)
    first, last = int(above[0]), int(above[-1])
    if first == 0 or last == y.size - 1 or above.size != last - first + 1:
        return None

    def cross(low: int, high: int) -> float:
        return float(x[low] + (level - y[low]) / (y[high] - y[low]) * (x[high] - x[low]))

    return cross(first - 1, first), cross(last + 1, last), int(above.size)


def _spacing(x: Any, left: float, right: float) -> float:
    """Return the widest step of the grid about the two half-height points."""
    start = max(int(np.searchsorted(x, left)) - 1, 0)
    stop = int(np.searchsorted(x, right)) + 1
    return float(np.max(np.diff(x[start : stop + 1])))


def _fit(shape: str, x: Any, y: Any, fwhm: float) -> tuple[float, Surrogate]:
    """Return the largest deviation, in shares of the peak, and the best surrogate of one shape."""
    peak = float(np.max(y))
    tails = (1.2, 2.0, 6.0) if shape == "q_pseudo_spike" else (2.0,)
    fits = [_fit_from(shape, tail, x, y / peak, fwhm) for tail in tails]
    error, (height, width, tail) = min(fits, key=lambda fit: fit[0])
    return error, Surrogate(shape, height * peak, width, tail)


def _fit_from(
    shape: str, tail: float, x: Any, y: Any, fwhm: float
) -> tuple[float, tuple[float, float, float]]:
    width = fwhm / (2.0 * float(SHAPES[shape].reach(0.5, tail)))

    def unpack(p: Any) -> tuple[float, float, float]:
        # Logarithms keep all three possible; the clip keeps the search finite.
        height, width, fatness = np.exp(np.clip(p, -40.0, 40.0))
        return float(height), float(width), 1.0 + float(fatness)

    def deviation(p: Any) -> Any:
        height, width, tail = unpack(p)
        return height * SHAPES[shape].value(x / width, tail, np) - y

    start = np.log([1.0, width, tail - 1.0])
    if shape == "rectangular":
        # Constant pieces have no slope to follow: the half-height points are the answer.
        return float(np.max(np.abs(deviation(start)))), unpack(start)
    free = 3 if shape == "q_pseudo_spike" else 2

    def of_free(p: Any) -> Any:
        return deviation(np.concatenate([p, start[free:]]))

    found = optimize.least_squares(
        of_free, start[:free], xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200
    )
    p = np.concatenate([found.x, start[free:]])
    return float(np.max(np.abs(deviation(p)))), unpack(p)
