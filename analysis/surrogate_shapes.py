"""The table of unit-height surrogate shapes: value, integrals, reach and decay, a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Shape:
    """One surrogate shape h(x), symmetric about x = 0, where it has its largest value 1.

    All functions take the argument x >= 0 (``value``: any x) of any shape and the tail-fatness q,
    which only ``"q_pseudo_spike"`` looks at; ``order`` is 1 or 2.

    Args:
        value: ``value(x, q, xp)``; xp is the array module (numpy or torch), so that one line serves
            the theory and the live layer. The dtype of x is kept.
        area: ``area(order, q)``, the integral of h**order over all x.
        inner: ``inner(x, order, q)``, the integral of h**order from 0 to x.
        outer: ``outer(x, order, q)``, the integral of h**order from x to infinity, exact to
            rounding however small it is.
        reach: ``reach(level, q)``, the x at which h has fallen to the level in (0, 1).
        tail_exponent: ``tail_exponent(q)``, the limit of -d log h / d log x; inf for faster decay.
        source: where the shape comes from.
    """

    value: Callable[[Any, Any, Any], Any]
    area: Callable[[int, Any], Any]
    inner: Callable[[Any, int, Any], Any]
    outer: Callable[[Any, int, Any], Any]
    reach: Callable[[Any, Any], Any]
    tail_exponent: Callable[[Any], Any]
    source: str


def _sigmoid_value(x: Any, q: Any, xp: Any) -> Any:
    # sech(x/2)**2 written with a decaying exponential: exact in the tails, no overflow.
    e = xp.exp(-xp.abs(x))
    return 4.0 * e / (1.0 + e) ** 2


def _q_value(x: Any, q: Any, xp: Any) -> Any:
    # log1p keeps large q exact, where 1 + 2x/(q-1) would round away.
    return xp.exp(-q * xp.log1p(xp.abs(x) * (2.0 / (q - 1.0))))


def _q_power(x: Any, exponent: Any, q: Any) -> Any:
    return exponent * np.log1p(2.0 * x / (q - 1.0))


def _sigmoid_inner(x: Any, order: int, q: Any) -> Any:
    t = np.tanh(0.5 * x)
    return 2.0 * t if order == 1 else 2.0 * t * (1.0 - t * t / 3.0)


def _sigmoid_outer(x: Any, order: int, q: Any) -> Any:
    e = np.exp(-x)
    rest = 2.0 * e / (1.0 + e)  # 1 - tanh(x/2)
    return 2.0 * rest if order == 1 else 2.0 / 3.0 * rest**2 * (3.0 - rest)


def _arctan_inner(x: Any, order: int, q: Any) -> Any:
    return np.arctan(x) if order == 1 else 0.5 * (np.arctan(x) + x / (1.0 + x * x))


def _arctan_outer(x: Any, order: int, q: Any) -> Any:
    x = np.asarray(x, dtype=float)
    angle = np.arctan2(1.0, x)
    if order == 1:
        return angle
    # Far out the two terms cancel to y**3/3, y = 1/x: take the series there.
    y = 1.0 / np.maximum(x, 10.0)
    series = sum((-1) ** (k + 1) * k / (2 * k + 1) * y ** (2 * k + 1) for k in range(1, 10))
    return np.where(x > 10.0, series, 0.5 * (angle - x / (1.0 + x * x)))


_ROOT_PI = np.sqrt(np.pi)
_ROOT_HALF = np.sqrt(0.5)
_ROOT_HALF_PI = np.sqrt(0.5 * np.pi)


def _never(q: Any) -> Any:
    """Return the tail exponent of a shape that decays faster than any power."""
    return np.full(np.shape(q), np.inf)[()]


SHAPES: dict[str, Shape] = {
    "rectangular": Shape(
        value=lambda x, q, xp: xp.ones_like(x) * (xp.abs(x) < 0.5),
        area=lambda m, q: 1.0,
        inner=lambda x, m, q: np.minimum(x, 0.5),
        outer=lambda x, m, q: np.maximum(0.5 - x, 0.0),
        reach=lambda level, q: 0.5 + 0.0 * level,
        tail_exponent=_never,
        source="Wu et al. 2018, eq. 24",
    ),
    "triangular": Shape(
        value=lambda x, q, xp: xp.clip(1.0 - xp.abs(x), 0.0, None),
        area=lambda m, q: 2.0 / (m + 1),
        inner=lambda x, m, q: (1.0 - (1.0 - np.minimum(x, 1.0)) ** (m + 1)) / (m + 1),
        outer=lambda x, m, q: np.maximum(1.0 - x, 0.0) ** (m + 1) / (m + 1),
        reach=lambda level, q: 1.0 - level,
        tail_exponent=_never,
        source="Bellec et al. 2018",
    ),
    "exponential": Shape(
        value=lambda x, q, xp: xp.exp(-xp.abs(x)),
        area=lambda m, q: 2.0 / m,
        inner=lambda x, m, q: -np.expm1(-m * x) / m,
        outer=lambda x, m, q: np.exp(-m * x) / m,
        reach=lambda level, q: -np.log(level),
        tail_exponent=_never,
        source="Shrestha and Orchard 2018",
    ),
    "gaussian": Shape(
        value=lambda x, q, xp: xp.exp(-0.5 * x * x),
        area=lambda m, q: np.sqrt(2.0 * np.pi / m),
        inner=lambda x, m, q: _ROOT_HALF_PI / np.sqrt(m) * special.erf(x * _ROOT_HALF * np.sqrt(m)),
        outer=lambda x, m, q: (
            _ROOT_HALF_PI / np.sqrt(m) * special.erfc(x * _ROOT_HALF * np.sqrt(m))
        ),
        reach=lambda level, q: np.sqrt(-2.0 * np.log(level)),
        tail_exponent=_never,
        source="Yin et al. 2021",
    ),
    "sigmoid": Shape(
        value=_sigmoid_value,
        area=lambda m, q: 4.0 if m == 1 else 8.0 / 3.0,
        inner=_sigmoid_inner,
        outer=_sigmoid_outer,
        reach=lambda level, q: 2.0 * np.arccosh(level**-0.5),
        tail_exponent=_never,
        source="Zenke and Vogels 2021",
    ),
    "fast_sigmoid": Shape(
        value=lambda x, q, xp: (1.0 + xp.abs(x)) ** -2.0,
        area=lambda m, q: 2.0 / (2 * m - 1),
        inner=lambda x, m, q: -np.expm1(-(2 * m - 1) * np.log1p(x)) / (2 * m - 1),
        outer=lambda x, m, q: (1.0 + x) ** -(2.0 * m - 1.0) / (2 * m - 1),
        reach=lambda level, q: level**-0.5 - 1.0,
        tail_exponent=lambda q: np.full(np.shape(q), 2.0)[()],
        source="Zenke and Ganguli 2018",
    ),
    "arctan": Shape(
        value=lambda x, q, xp: 1.0 / (1.0 + x * x),
        area=lambda m, q: np.pi / m,
        inner=_arctan_inner,
        outer=_arctan_outer,
        reach=lambda level, q: np.sqrt(1.0 / level - 1.0),
        tail_exponent=lambda q: np.full(np.shape(q), 2.0)[()],
        source="Fang et al. 2021",
    ),
    "q_pseudo_spike": Shape(
        value=_q_value,
        area=lambda m, q: (q - 1.0) / (m * q - 1.0),
        inner=lambda x, m, q: (
            -np.expm1(_q_power(x, 1.0 - m * q, q)) * (q - 1.0) / (2.0 * (m * q - 1.0))
        ),
        outer=lambda x, m, q: (
            np.exp(_q_power(x, 1.0 - m * q, q)) * (q - 1.0) / (2.0 * (m * q - 1.0))
        ),
        reach=lambda level, q: 0.5 * (q - 1.0) * np.expm1(-np.log(level) / q),
        tail_exponent=lambda q: np.asarray(q, dtype=float)[()],
        source="Herranz-Celotti and Rouat 2022",
    ),
}


def cell_average(
    shape: Shape, low: Any, high: Any, centre: Any, width: Any, order: int, tail: Any
) -> Any:
    """Return the mean of ``shape((u - centre) / width) ** order`` over u in [low, high].

    Args:
        shape: a row of :data:`SHAPES`.
        low: lower edges, potential, any shape.
        high: upper edges, potential, above ``low``.
        centre: where the shape peaks, potential (the threshold).
        width: potential per unit of the shape's argument.
        order: 1 or 2.
        tail: tail-fatness q.

    Returns:
        The means, no unit, in the shape that the arguments broadcast to. Exact antiderivatives:
        a shape much narrower than the cell is not missed, as a midpoint would miss it.

    Example:
        >>> float(cell_average(SHAPES["triangular"], 0.0, 2.0, 1.0, 1.0, order=1, tail=2.0))
        0.5

    Source:
        Antiderivatives S1, S2 of the families in Herranz-Celotti and Rouat, arXiv 2202.00282.
    """
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    a, b = (low - centre) / width, (high - centre) / width
    # On one side of the centre, take differences of what is left outside: exact in the tails.
    near, far = np.minimum(np.abs(a), np.abs(b)), np.maximum(np.abs(a), np.abs(b))
    one_side = shape.outer(near, order, tail) - shape.outer(far, order, tail)
    both_sides = shape.inner(np.abs(a), order, tail) + shape.inner(np.abs(b), order, tail)
    integral = np.where((a < 0) & (b > 0), both_sides, one_side)
    return (integral * width / (high - low))[()]
