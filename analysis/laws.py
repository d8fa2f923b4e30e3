"""Laws of the membrane potential, and what powers of a surrogate's shape average to under them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from .surrogate_shapes import SHAPES, cell_average

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_CHUNK = 512  # laws integrated at once: bounds the memory of the quadrature


@dataclass(frozen=True)
class UniformLaw:
    """Potential uniform between two values.

    Args:
        low: smallest potential, a number or an array over layers.
        high: largest potential, above ``low``.

    Raises:
        ValueError: a value that is not finite, or low >= high.

    Example:
        >>> float(UniformLaw(-4.0, 4.0).probability(0.5, 1.5))
        0.125
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        low, high = _finite("low", self.low), _finite("high", self.high)
        if not np.all(low < high):
            raise ValueError(f"low={self.low!r}, high={self.high!r}: low must be below high")

    def probability(self, low: Any, high: Any) -> Any:
        """Return P(low < u < high), no unit."""
        inside = np.minimum(self.high, high) - np.maximum(self.low, low)
        return (np.maximum(inside, 0.0) / (np.asarray(self.high) - self.low))[()]

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> Any:
        """Return E[shape((u - centre) / width) ** order], no unit."""
        return cell_average(SHAPES[shape], self.low, self.high, centre, width, order, tail)


@dataclass(frozen=True)
class HistogramLaw:
    """Potential counted in bins; the mass of a bin is spread evenly over it.

    Args:
        edges: ascending bin edges, potential, ``[..., bins + 1]``.
        counts: counts or weights per bin, ``[..., bins]``; need not sum to 1.

    Raises:
        ValueError: edges that do not ascend, shapes that do not fit, negative or no counts.

    Example:
        >>> float(HistogramLaw([0.0, 1.0, 2.0], [3, 1]).probability(0.5, 1.5))
        0.5
    """

    edges: Any
    counts: Any

    def __post_init__(self) -> None:
        edges, counts = _finite("edges", self.edges), _finite("counts", self.counts)
        if edges.ndim == 0 or counts.ndim == 0 or edges.shape[-1] != counts.shape[-1] + 1:
            raise ValueError(
                f"edges of shape {edges.shape} do not fit counts of shape {counts.shape}: "
                "the last axis of edges must be one longer"
            )
        if not np.all(np.diff(edges) > 0):
            raise ValueError(f"edges={self.edges!r} must ascend")
        if np.any(counts < 0):
            raise ValueError(f"counts={self.counts!r} must not be negative")
        if counts.shape[-1] == 0 or np.any(counts.sum(axis=-1) <= 0):
            raise ValueError(f"counts={self.counts!r} are empty: at least one must be above 0")

    @property
    def _masses(self) -> Any:
        counts = np.asarray(self.counts, dtype=float)
        return counts / counts.sum(axis=-1, keepdims=True)

    def probability(self, low: Any, high: Any) -> Any:
        """Return P(low < u < high), no unit, over the leading axes."""
        edges = np.asarray(self.edges, dtype=float)
        start, stop = edges[..., :-1], edges[..., 1:]
        low, high = np.asarray(low)[..., None], np.asarray(high)[..., None]
        inside = np.maximum(np.minimum(stop, high) - np.maximum(start, low), 0.0)
        return (self._masses * inside / (stop - start)).sum(axis=-1)[()]

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> Any:
        """Return E[shape((u - centre) / width) ** order], no unit, over the leading axes."""
        edges = np.asarray(self.edges, dtype=float)
        centre, width, tail = (np.asarray(x, dtype=float)[..., None] for x in (centre, width, tail))
        means = cell_average(
            SHAPES[shape], edges[..., :-1], edges[..., 1:], centre, width, order, tail
        )
        return (self._masses * means).sum(axis=-1)[()]


@dataclass(frozen=True)
class GaussianLaw:
    """Normally distributed potential.

    Args:
        mean: potential, a number or an array over layers.
        std: standard deviation, potential, above 0.

    Raises:
        ValueError: a value that is not finite, or std <= 0.

    Example:
        >>> round(float(GaussianLaw(0.0, 0.5).probability(0.5, 1.5)), 6)
        0.157305
    """

    mean: Any
    std: Any

    def __post_init__(self) -> None:
        _finite("mean", self.mean)
        if not np.all(_finite("std", self.std) > 0):
            raise ValueError(f"std={self.std!r} is not possible: it must be above 0")

    def probability(self, low: Any, high: Any) -> Any:
        """Return P(low < u < high), no unit."""
        mean, std = np.asarray(self.mean, dtype=float), np.asarray(self.std, dtype=float)
        return _normal_mass((low - mean) / std, (high - mean) / std)[()]

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> Any:
        """Return E[shape((u - centre) / width) ** order], no unit.

        Closed forms where they exist and do not cancel, else Gauss-Legendre quadrature on panels
        that follow both scales, that of the law and that of the shape.

        Source:
            Voigt profile for arctan: Olver et al., NIST DLMF 7.19; others direct.
        """
        mean, std, centre, width, tail = np.broadcast_arrays(
            *(np.asarray(x, dtype=float) for x in (self.mean, self.std, centre, width, tail))
        )
        # In units of the width: x = (u - centre) / width is normal with mean m and deviation d.
        m = np.abs((mean - centre) / width).ravel()
        d, q = (std / width).ravel(), tail.ravel()
        exact, fits = _CLOSED.get(shape, _no_closed_form)(m, d, order)
        out = np.where(fits, exact, 0.0)
        rest = np.flatnonzero(~fits)
        for start in range(0, rest.size, _CHUNK):
            part = rest[start : start + _CHUNK]
            out[part] = _quadrature(shape, m[part], d[part], order, q[part])
        return out.reshape(mean.shape)[()]


def _finite(name: str, value: Any) -> Any:
    known = np.asarray(value, dtype=float)
    if not np.all(np.isfinite(known)):
        raise ValueError(f"{name}={value!r} is not possible: it must be finite")
    return known


def _density(z: Any) -> Any:
    return np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)


def _panel(f: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Integrate f over [low, high], elementwise, by one Gauss-Legendre panel of 16 nodes."""
    half, middle = 0.5 * (high - low), 0.5 * (high + low)
    return (f(middle[..., None] + half[..., None] * _NODES) * _WEIGHTS).sum(axis=-1) * half


def _normal_mass(low: Any, high: Any) -> Any:
    """Return the standard normal mass of [low, high]: exact far out, and for narrow intervals."""
    low, high = np.broadcast_arrays(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
    flip = low > 0  # the upper tail is the lower one, mirrored: no 1 - 1
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    wide = special.ndtr(b) - special.ndtr(a)
    near = np.maximum(a, -40.0)  # an infinite end is never narrow; its panel must stay finite
    narrow = _panel(_density, near, np.minimum(b, near + 1.0))
    return np.where(b - a < 1.0, narrow, wide)


def _no_closed_form(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    return 0.0, np.zeros(m.shape, dtype=bool)


def _rectangular(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    return _normal_mass((-0.5 - m) / d, (0.5 - m) / d), np.ones(m.shape, dtype=bool)


def _gaussian(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    spread = 1.0 + order * d * d
    return np.exp(-0.5 * order * m * m / spread) / np.sqrt(spread), np.ones(m.shape, dtype=bool)


def _exponential(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    def half(mean: Any) -> Any:
        """E[exp(-order x); x > 0]: the scaled erfc where its argument is positive."""
        arg = (order * d - mean / d) * np.sqrt(0.5)
        scaled = np.exp(-0.5 * (mean / d) ** 2) * special.erfcx(np.maximum(arg, 0.0))
        plain = np.exp(np.minimum(order * (0.5 * order * d * d - mean), 0.0)) * special.erfc(arg)
        return 0.5 * np.where(arg > 0, scaled, plain)

    return half(m) + half(-m), np.ones(m.shape, dtype=bool)


def _triangular(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    """Truncated-normal moments; they cancel where the law is wide or its mean far outside."""

    def half(mean: Any) -> Any:
        """E[(1 - x)**order; 0 < x < 1] for x normal with this mean."""
        a, b = -mean / d, (1.0 - mean) / d
        mass, c = _normal_mass(a, b), 1.0 - mean
        first = c * mass + d * (_density(b) - _density(a))
        if order == 1:
            return first
        second = (d * d) * (mass - (b * _density(b) - a * _density(a)))
        return c * c * mass + 2.0 * c * d * (_density(b) - _density(a)) + second

    return half(m) + half(-m), (d < 0.5) & (m < 1.0 + 3.0 * d)


def _arctan(m: Any, d: Any, order: int) -> tuple[Any, Any]:
    zeta = (m + 1j) / (d * np.sqrt(2.0))
    w = special.wofz(zeta)
    first = np.sqrt(0.5 * np.pi) / d * w.real
    if order == 1:
        return first, np.ones(m.shape, dtype=bool)
    slope = -2.0 * zeta * w + 2j / np.sqrt(np.pi)
    # The slope cancels for large arguments: leave those to the quadrature.
    return 0.5 * first - (0.25 * np.sqrt(np.pi) / d**2) * (1j * slope).real, np.abs(zeta) < 5.0


_CLOSED: dict[str, Callable[[Any, Any, int], tuple[Any, Any]]] = {
    "rectangular": _rectangular,
    "triangular": _triangular,
    "exponential": _exponential,
    "gaussian": _gaussian,
    "arctan": _arctan,
}


def _quadrature(shape: str, m: Any, d: Any, order: int, q: Any) -> Any:
    """Return E[shape(x) ** order] for x normal (m, d), 1-d arrays, to about 1e-13."""
    scale = 0.5 * (q - 1.0) if shape == "q_pseudo_spike" else np.ones_like(q)
    # Panels of two deviations about the mean, out to where the density underflows; and panels that
    # double from the kink at x = 0 outwards, since the shape varies on the scale of |x| + scale.
    law = m[:, None] + d[:, None] * np.arange(-38.0, 38.1, 2.0)
    doublings = int(np.clip(np.ceil(np.log2(np.max((m + 38.0 * d) / scale))), 6, 80))
    steps = scale[:, None] * 2.0 ** np.arange(-1.0, doublings)
    centre = np.zeros((m.size, 1))
    cuts = np.concatenate([law, steps, -steps, centre], axis=1)
    cuts = np.sort(np.clip(cuts, law[:, :1], law[:, -1:]), axis=1)

    def integrand(x: Any) -> Any:
        z = (x - m[:, None, None]) / d[:, None, None]
        return _density(z) * SHAPES[shape].value(x, q[:, None, None], np) ** order

    return _panel(integrand, cuts[:, :-1], cuts[:, 1:]).sum(axis=1) / d
