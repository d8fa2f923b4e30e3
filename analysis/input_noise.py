"""The fast part of a layer's input after the gain, centred: what blurs one step of the chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.special import ndtr

Floats = NDArray[np.float64]

# Gaussian tails beyond this many standard deviations hold less than 1e-16.
REACH = 8.3
# Probability beyond which the tail of any other input law is cut.
TAIL = 1e-12


class Noise(Protocol):
    """A law with mean 0: its standard deviation, the reach of its tails, and its distribution."""

    @property
    def std(self) -> float:
        """Standard deviation, potential."""

    @property
    def low(self) -> float:
        """Value below which there is no probability that matters, potential (negative)."""

    @property
    def high(self) -> float:
        """Value above which there is no probability that matters, potential."""

    def cdf(self, x: Floats) -> Floats:
        """Probability of at most x."""

    def cdf_integral(self, x: Floats) -> Floats:
        """Integral of the distribution function from minus infinity to x, potential."""


@dataclass(frozen=True)
class GaussianNoise:
    """Normal law with mean 0.

    Args:
        std: standard deviation, potential.

    Example:
        >>> GaussianNoise(2.0).cdf(np.array([0.0, 2.0])).round(6)
        array([0.5     , 0.841345])
    """

    std: float

    @property
    def low(self) -> float:
        """Lower end of the law, potential."""
        return -REACH * self.std

    @property
    def high(self) -> float:
        """Upper end of the law, potential."""
        return REACH * self.std

    def pdf(self, x: Floats) -> Floats:
        """Density, 1 / potential."""
        # Below 1e-43 of the peak it is 0: denormal numbers would make every product slow.
        z = x / self.std
        z *= z
        density = np.exp(-0.5 * np.minimum(z, 200.0)) / (self.std * np.sqrt(2.0 * np.pi))
        return np.asarray(np.where(z < 200.0, density, 0.0))

    def cdf(self, x: Floats) -> Floats:
        """Probability of at most x."""
        return np.asarray(ndtr(x / self.std))

    def cdf_integral(self, x: Floats) -> Floats:
        """Integral of the distribution function up to x, potential."""
        return x * self.cdf(x) + self.std**2 * self.pdf(x)


@dataclass(frozen=True)
class AtomNoise:
    """Discrete law with mean 0: recorded samples, or the values of a discrete distribution.

    Args:
        atoms: values after the gain, sorted, ``[n]``, potential.
        weights: their probabilities, ``[n]``, sum 1.

    Example:
        >>> AtomNoise(np.array([-1.0, 1.0]), np.full(2, 0.5)).cdf(np.array([-2.0, 0.0, 1.0]))
        array([0. , 0.5, 1. ])
    """

    atoms: Floats
    weights: Floats

    @cached_property
    def std(self) -> float:
        """Standard deviation, potential."""
        return float(np.sqrt(self.weights @ self.atoms**2))

    @property
    def low(self) -> float:
        """Lower end of the law, potential."""
        return float(self.atoms[0])

    @property
    def high(self) -> float:
        """Upper end of the law, potential."""
        return float(self.atoms[-1])

    @cached_property
    def _sums(self) -> tuple[Floats, Floats]:
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        return below, np.concatenate([[0.0], np.cumsum(self.weights * self.atoms)])

    def cdf(self, x: Floats) -> Floats:
        """Probability of at most x."""
        return self._sums[0][np.searchsorted(self.atoms, x, side="right")]

    def cdf_integral(self, x: Floats) -> Floats:
        """Integral of the distribution function up to x, potential."""
        below, first = self._sums
        at = np.searchsorted(self.atoms, x, side="right")
        return np.asarray(x * below[at] - first[at])


def atoms_of(law: Any, gain: float) -> AtomNoise:
    """Return the centred and scaled values of samples, or of a discrete distribution.

    Args:
        law: recorded values ``[n]``, or a scipy.stats distribution with a ``pmf``.
        gain: potential per unit of input; not 0.
    """
    if isinstance(law, np.ndarray):
        values, weights = law, np.full(len(law), 1.0 / len(law))
    else:
        values = np.arange(law.ppf(TAIL), law.isf(TAIL) + 1.0)
        weights = law.pmf(values)
        weights = weights / weights.sum()
    atoms = gain * (values - weights @ values)
    order = np.argsort(atoms)
    return AtomNoise(atoms[order], weights[order])


@dataclass(frozen=True)
class DistributionNoise:
    """Centred and scaled law of the input current, given as a scipy.stats distribution.

    Args:
        law: anything with ``cdf``, ``ppf``, ``mean()`` and ``std()``; a histogram enters as
            ``scipy.stats.rv_histogram``.
        gain: potential per unit of input; not 0.

    Example:
        >>> from scipy import stats
        >>> DistributionNoise(stats.expon(), gain=0.5).cdf(np.array([-0.5, 0.0])).round(6)
        array([0.      , 0.632121])
    """

    law: Any
    gain: float

    @cached_property
    def centre(self) -> float:
        """Mean input after the gain, potential."""
        return self.gain * float(self.law.mean())

    @cached_property
    def std(self) -> float:
        """Standard deviation, potential."""
        return abs(self.gain) * float(self.law.std())

    @cached_property
    def _ends(self) -> tuple[float, float]:
        ends = np.array([self.law.ppf(0.0), self.law.ppf(1.0)], dtype=float)
        cut = np.array([self.law.ppf(TAIL), self.law.isf(TAIL)], dtype=float)
        low, high = sorted(self.gain * np.where(np.isfinite(ends), ends, cut) - self.centre)
        return float(low), float(high)

    @property
    def low(self) -> float:
        """Lower end of the law, potential."""
        return self._ends[0]

    @property
    def high(self) -> float:
        """Upper end of the law, potential."""
        return self._ends[1]

    def cdf(self, x: Floats) -> Floats:
        """Probability of at most x."""
        share = self.law.cdf((x + self.centre) / self.gain)
        return np.asarray(share if self.gain > 0 else 1.0 - share)

    @cached_property
    def _integral(self) -> CubicHermiteSpline:
        x = np.linspace(self.low, self.high, 16385)
        f = self.cdf(x)
        middle = self.cdf(0.5 * (x[1:] + x[:-1]))
        pieces = np.diff(x) * (f[:-1] + 4.0 * middle + f[1:]) / 6.0
        return CubicHermiteSpline(x, np.concatenate([[0.0], np.cumsum(pieces)]), f)

    def cdf_integral(self, x: Floats) -> Floats:
        """Integral of the distribution function up to x, potential."""
        inside = np.clip(x, self.low, self.high)
        return np.asarray(self._integral(inside) + np.maximum(x - self.high, 0.0))
