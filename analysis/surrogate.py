"""Surrogate derivatives as ``peak * shape((u - threshold) / width)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..data.schema import COVERAGE_EPSILON
from .checks import ABOVE_ZERO, LARGEST, number
from .surrogate_shapes import SHAPES, Shape, cell_average

__all__ = ["COVERAGE_EPSILON", "SHAPES", "Law", "Shape", "Surrogate"]


class Law(Protocol):
    """A law of the membrane potential that a surrogate can be averaged over."""

    def probability(self, low: Any, high: Any) -> Any:
        """Return P(low < u < high)."""

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> Any:
        """Return E[shape((u - centre) / width) ** order]."""


@dataclass(frozen=True)
class Surrogate:
    """The derivative that replaces that of the spike in the backward pass.

    peak, width and tail may be arrays that broadcast over layers (or, for live layers, tensors).

    Args:
        shape: a name in :data:`SHAPES`.
        peak: largest value of the derivative (dampening), 1 / potential.
        width: potential over which it falls, the unit of the shape's argument.
        tail: tail-fatness q > 1 of ``"q_pseudo_spike"``; ignored by the other shapes.

    Raises:
        ValueError: an unknown shape, or a peak, width or tail that is not possible.

    Example:
        >>> Surrogate("fast_sigmoid", peak=1.0, width=0.04).derivative(np.array([0.0, 0.04]))
        array([1.  , 0.25])

    Source:
        Families and parametrisation: Herranz-Celotti and Rouat, arXiv 2202.00282.
    """

    shape: str = "fast_sigmoid"
    peak: Any = 1.0
    width: Any = 1.0
    tail: Any = 2.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is not one of {', '.join(SHAPES)}")
        for name in ("peak", "width"):
            wanted = "a finite number above 0"
            value = number(name, getattr(self, name), ABOVE_ZERO, LARGEST, wanted)
            object.__setattr__(self, name, value)
        if self.shape == "q_pseudo_spike":
            wanted = "finite and above 1, or it has no area (for a large one take 'exponential')"
            tail = number("tail", self.tail, np.nextafter(1.0, 2.0), LARGEST, wanted)
            object.__setattr__(self, "tail", tail)

    @classmethod
    def from_dampening(
        cls, shape: str, dampening: Any, sharpness: Any, tail: Any = 2.0
    ) -> Surrogate:
        """Return the surrogate with dampening gamma, sharpness beta and tail-fatness q.

        Args:
            shape: a name in :data:`SHAPES`.
            dampening: gamma, the peak, 1 / potential.
            sharpness: beta = peak / area, 1 / potential; a unit-area surrogate has gamma = beta.
            tail: q.

        Returns:
            The surrogate ``gamma * h(beta * (u - threshold))`` with h(0) = 1 and unit area of h.

        Raises:
            ValueError: a parameter that is not possible.

        Example:
            >>> Surrogate.from_dampening("fast_sigmoid", dampening=1.0, sharpness=12.5)
            Surrogate(shape='fast_sigmoid', peak=1.0, width=0.04, tail=2.0)

        Source:
            Herranz-Celotti and Rouat, arXiv 2202.00282.
        """
        wanted = "a finite number above 0"
        sharpness = number("sharpness", sharpness, ABOVE_ZERO, LARGEST, wanted)
        unit = cls(shape, dampening, 1.0, tail)
        return cls(shape, dampening, 1.0 / (sharpness * unit._shape.area(1, unit.tail)), tail)

    @property
    def _shape(self) -> Shape:
        return SHAPES[self.shape]

    @property
    def area(self) -> Any:
        """Integral of the derivative over the potential, no unit (1: the spike's own jump)."""
        return self.peak * self.width * self._shape.area(1, self.tail)

    @property
    def square_area(self) -> Any:
        """Integral of the squared derivative over the potential, 1 / potential."""
        return self.peak**2 * self.width * self._shape.area(2, self.tail)

    @property
    def dampening(self) -> Any:
        """Dampening gamma, the peak, 1 / potential."""
        return self.peak

    @property
    def sharpness(self) -> Any:
        """Sharpness beta = peak / area, 1 / potential."""
        return 1.0 / (self.width * self._shape.area(1, self.tail))

    @property
    def tail_exponent(self) -> Any:
        """Power with which the derivative decays far out; inf where it decays faster."""
        return self._shape.tail_exponent(self.tail)

    @property
    def fwhm(self) -> Any:
        """Full width at half maximum, potential."""
        return 2.0 * self.half_width(0.5)

    def derivative(self, z: Any, xp: Any = np) -> Any:
        """Return the derivative at z = u - threshold; ``xp`` is numpy, or torch for tensors."""
        return self.peak * self._shape.value(z / self.width, self.tail, xp)

    def half_width(self, epsilon: Any = COVERAGE_EPSILON) -> Any:
        """Return the distance from the threshold at which the derivative is epsilon * peak.

        Args:
            epsilon: share of the peak, in (0, 1), no unit.

        Returns:
            Distance, potential.

        Raises:
            ValueError: epsilon outside (0, 1).

        Example:
            >>> float(Surrogate("fast_sigmoid", width=0.04).half_width(0.01))
            0.36
        """
        share = np.asarray(epsilon, dtype=float)
        if not np.all((share > 0) & (share < 1)):
            raise ValueError(f"epsilon={epsilon!r} is not possible: it must be between 0 and 1")
        return self.width * self._shape.reach(share[()], self.tail)

    def interval(self, threshold: Any = 1.0, epsilon: Any = COVERAGE_EPSILON) -> tuple[Any, Any]:
        """Return the gradient-available interval, where the derivative is >= epsilon * peak.

        Args:
            threshold: where the derivative peaks, potential.
            epsilon: share of the peak, in (0, 1), no unit.

        Returns:
            ``(low, high)``, potential. (The rectangle is 0 on its very edge.)

        Raises:
            ValueError: epsilon outside (0, 1), or a threshold that is not finite.

        Example:
            >>> low, high = Surrogate("rectangular", width=0.5).interval(threshold=1.0)
            >>> float(low), float(high)
            (0.75, 1.25)
        """
        threshold = _finite_threshold(threshold)
        reach = self.half_width(epsilon)
        return threshold - reach, threshold + reach

    def coverage(self, law: Law, threshold: Any = 1.0, epsilon: Any = COVERAGE_EPSILON) -> Any:
        """Return the share of elements whose derivative exceeds epsilon * peak.

        Args:
            law: law of the pre-reset potential, such as those of :mod:`.laws`.
            threshold: where the derivative peaks, potential.
            epsilon: share of the peak, in (0, 1), no unit.

        Returns:
            Probability, no unit, in the shape that law and surrogate broadcast to.

        Raises:
            ValueError: epsilon outside (0, 1).

        Example:
            >>> from spikescope.analysis.laws import GaussianLaw
            >>> law = GaussianLaw(mean=0.0, std=0.5)
            >>> round(float(Surrogate("rectangular").coverage(law)), 6)
            0.157305

        Source:
            Rectangular case: coverage of the window in Kook et al., arXiv 2511.08708.
        """
        return law.probability(*self.interval(threshold, epsilon))

    def moment(self, law: Law, threshold: Any = 1.0, order: int = 1) -> Any:
        """Return E[derivative ** order] when the pre-reset potential follows a law.

        Args:
            law: law of the pre-reset potential, such as those of :mod:`.laws`.
            threshold: where the derivative peaks, potential.
            order: 1 or 2.

        Returns:
            The moment, 1 / potential ** order, in the shape that law and surrogate broadcast to.

        Raises:
            ValueError: an order other than 1 or 2.

        Example:
            >>> from spikescope.analysis.laws import GaussianLaw
            >>> law = GaussianLaw(mean=0.0, std=1.0)
            >>> round(float(Surrogate("rectangular", width=2.0).moment(law, order=2)), 8)
            0.47724987

        Source:
            Moments E[s], E[s^2] of Conditions III and IV, Herranz-Celotti and Rouat 2202.00282.
        """
        _require_order(order)
        threshold = _finite_threshold(threshold)
        return self.peak**order * law.expect(self.shape, threshold, self.width, order, self.tail)

    def cell_averages(self, edges: Any, threshold: Any = 1.0, order: int = 1) -> Any:
        """Return the mean of derivative ** order inside each cell of a grid of potentials.

        Args:
            edges: ascending cell edges, potential, ``[..., cells + 1]``.
            threshold: where the derivative peaks, potential, a number.
            order: 1 or 2.

        Returns:
            Exact means, 1 / potential ** order, ``[..., cells]``.

        Raises:
            ValueError: an order other than 1 or 2, or edges that do not ascend.

        Example:
            >>> Surrogate("rectangular", width=0.5).cell_averages(np.array([0.0, 1.0, 2.0]))
            array([0.25, 0.25])
        """
        _require_order(order)
        edges = np.asarray(edges, dtype=float)
        if edges.shape[-1] < 2 or not np.all(np.diff(edges) > 0):
            raise ValueError(f"edges={edges!r} are not possible: at least two, ascending")
        threshold = _finite_threshold(threshold)
        low, high = edges[..., :-1], edges[..., 1:]
        mean = cell_average(self._shape, low, high, threshold, self.width, order, self.tail)
        return self.peak**order * mean


def _finite_threshold(threshold: Any) -> Any:
    return number("threshold", threshold, -LARGEST, LARGEST, "a finite number")


def _require_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order={order!r} is not possible: it must be 1 or 2")
