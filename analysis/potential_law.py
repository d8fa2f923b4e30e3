"""The law of a layer's potential at one time: a sum of noise kernels, with the grid behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .input_noise import Floats, GaussianNoise
from .transfer import Chain

# Kernel sums are evaluated in blocks of this many terms (32 MiB each).
BLOCK = 4_000_000


@dataclass(frozen=True)
class PotentialLaw:
    """Law of the pre-reset potential u, and through the reset of the post-reset potential v.

    Args:
        chains: one chain per class of units (one, unless a share of the input is frozen).
        shares: share of the units in each class, ``[classes]``, sum 1.
        sources: the points ``(centres, masses)`` from which each class took its last step.
        grids: the masses on each chain's nodes.
    """

    chains: tuple[Chain, ...]
    shares: Floats
    sources: tuple[tuple[Floats, Floats], ...]
    grids: tuple[Floats, ...]

    @cached_property
    def _centres(self) -> Floats:
        return np.concatenate([centres for centres, _ in self.sources])

    @cached_property
    def _masses(self) -> Floats:
        parts = zip(self.shares, self.sources, strict=True)
        return np.concatenate([share * masses for share, (_, masses) in parts])

    @cached_property
    def _kernels(self) -> tuple[Floats, Floats]:
        """Centres and masses for kernel sums; those of many classes moved to a common grid.

        Each mass goes to four neighbours with Lagrange weights, which interpolates the kernel
        itself by a cubic: at a sixteenth of the noise the error is below 1e-6 of its peak.
        """
        if len(self.chains) == 1:
            return self._centres, self._masses
        low, pitch = self._centres.min(), self._chain.noise.std / 16.0
        place = (self._centres - low) / pitch
        cell = np.floor(place).astype(int)
        x = place - cell
        weights = (
            -x * (x - 1.0) * (x - 2.0) / 6.0,
            (x + 1.0) * (x - 1.0) * (x - 2.0) / 2.0,
            -(x + 1.0) * x * (x - 2.0) / 2.0,
            (x + 1.0) * x * (x - 1.0) / 6.0,
        )
        count = int(cell.max()) + 4
        masses = sum(
            np.bincount(cell + shift, self._masses * weight, minlength=count)
            for shift, weight in enumerate(weights)
        )
        return low + pitch * (np.arange(count) - 1.0), np.asarray(masses)

    @cached_property
    def _nodes(self) -> Floats:
        return np.concatenate([chain.nodes for chain in self.chains])

    @cached_property
    def _grid(self) -> Floats:
        parts = zip(self.shares, self.grids, strict=True)
        return np.concatenate([share * masses for share, masses in parts])

    @property
    def _chain(self) -> Chain:
        return self.chains[0]

    def pdf(self, u: Floats) -> Floats:
        """Return the density of u, any shape, 1 / potential."""
        u = np.asarray(u, dtype=float)
        noise = self._chain.noise
        if isinstance(noise, GaussianNoise):
            return self._sum(noise.pdf, u)
        chain = self._chain
        cell = np.clip(np.searchsorted(chain.edges, u, side="right") - 1, 0, len(chain.nodes) - 1)
        inside = (u >= chain.low) & (u < chain.high)
        return np.where(inside, self.grids[0][cell] / chain.weights[cell], 0.0)

    def cdf(self, u: Floats) -> Floats:
        """Return the probability of at most u, any shape."""
        u = np.asarray(u, dtype=float)
        if self._chain.smooth:
            return self._sum(self._chain.noise.cdf, u)
        below = np.concatenate([[0.0], np.cumsum(self.grids[0])])
        return np.asarray(np.interp(u, self._chain.edges, below))

    def _sum(self, kernel: Callable[[Floats], Floats], u: Floats) -> Floats:
        flat = u.ravel()
        centres, masses = self._kernels
        rows = max(BLOCK // len(centres), 1)
        parts = [
            kernel(flat[i : i + rows, None] - centres) @ masses for i in range(0, len(flat), rows)
        ]
        return np.concatenate([*parts, np.empty(0)]).reshape(u.shape)

    @cached_property
    def mean(self) -> float:
        """Mean of u, potential."""
        return float(self._masses @ self._centres)

    @cached_property
    def std(self) -> float:
        """Standard deviation of u, potential."""
        variance = self._masses @ (self._centres - self.mean) ** 2 + self._chain.noise.std**2
        if not self._chain.smooth and len(self._centres) > 1:
            chain = self._chain
            variance += chain.dynamics.decay**2 * (self._masses @ chain.cell_variance)
        return float(np.sqrt(variance))

    @cached_property
    def rate(self) -> float:
        """Probability of a spike, per unit and timestep."""
        chain = self._chain
        theta = chain.dynamics.threshold
        if chain.smooth:
            return float(self._masses @ chain.noise.cdf(self._centres - theta))
        return float(self._grid[self._nodes >= theta].sum())

    @cached_property
    def mean_post(self) -> float:
        """Mean of v, potential."""
        return float(self._grid @ self._chain.dynamics.after_reset(self._nodes) / self._grid.sum())

    @cached_property
    def std_post(self) -> float:
        """Standard deviation of v, potential."""
        v = self._chain.dynamics.after_reset(self._nodes)
        variance = self._grid @ (v - self.mean_post) ** 2 / self._grid.sum()
        if not self._chain.smooth:
            variance += self._grid @ self._chain.cell_variance
        return float(np.sqrt(variance))

    def coverage(self, low: Floats, high: Floats) -> Floats:
        """Return the probability that u lies in (low, high), any shape."""
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        if not np.all(low < high):
            raise ValueError(f"the interval ({low}, {high}) is empty: low must be below high")
        return np.clip(self.cdf(high) - self.cdf(low), 0.0, 1.0)

    @property
    def atom(self) -> tuple[float, float]:
        """Potential and probability of the point to which a hard reset sends v (else 0 mass)."""
        dynamics = self._chain.dynamics
        hard = dynamics.reset == "to_value"
        return dynamics.value, self.rate if hard else 0.0

    def pdf_post(self, v: Floats) -> Floats:
        """Return the density of v without the atom of a hard reset, any shape, 1 / potential."""
        v = np.asarray(v, dtype=float)
        dynamics = self._chain.dynamics
        if dynamics.reset == "none":
            return self.pdf(v)
        kept = np.where(v < dynamics.threshold, self.pdf(v), 0.0)
        if dynamics.reset == "to_value":
            return kept
        before = v + dynamics.amount
        return kept + np.where(before >= dynamics.threshold, self.pdf(before), 0.0)

    @cached_property
    def points(self) -> Floats:
        """Potentials at which two laws on this grid are compared, increasing."""
        if len(self.chains) == 1:
            return self._chain.nodes
        low = min(chain.low for chain in self.chains)
        high = max(chain.high for chain in self.chains)
        count = (high - low) / (0.2 * self._chain.noise.std)
        return np.linspace(low, high, int(np.clip(count, 200, 2000)))

    @cached_property
    def _at_points(self) -> Floats:
        if len(self.chains) == 1:
            return self.grids[0] / self._chain.weights
        return self.pdf(self.points)

    def grid_distance(self, other: PotentialLaw) -> float:
        """Return the total variation summed on the nodes: fast, to about 1e-3 of its value.

        With several classes of units it is an upper bound (each class against its own).
        """
        return float(0.5 * np.abs(self._grid - other._grid).sum())

    def total_variation(self, other: PotentialLaw) -> float:
        """Return the total-variation distance to another law on the same grid, in [0, 1]."""
        if not self._chain.smooth:
            return self.grid_distance(other)
        gap = self._at_points - other._at_points
        cuts = self._crossings(other, self.points, gap, PotentialLaw.pdf)
        masses = np.diff(self.cdf(cuts) - other.cdf(cuts), prepend=0.0, append=0.0)
        return float(0.5 * np.abs(masses).sum())

    def wasserstein(self, other: PotentialLaw) -> float:
        """Return the Wasserstein-1 distance to another law on the same grid, potential."""
        if not self._chain.smooth:
            below = np.cumsum(self.grids[0] - other.grids[0])
            return float(np.abs(below) @ self._chain.weights)
        points = self.points[:: len(self.points) // 2000 + 1]
        cuts = self._crossings(
            other, points, self.cdf(points) - other.cdf(points), PotentialLaw.cdf
        )
        integral = self._chain.noise.cdf_integral
        ends = np.concatenate([self.points[:1], cuts, self.points[-1:]])
        areas = np.diff(self._sum(integral, ends) - other._sum(integral, ends))
        return float(np.abs(areas).sum())

    def _crossings(
        self,
        other: PotentialLaw,
        points: Floats,
        gap: Floats,
        curve: Callable[[PotentialLaw, Floats], Floats],
    ) -> Floats:
        """Return where two curves cross, given their gap at some points."""
        # Rounding makes the gap change sign in tails that hold no probability.
        large = np.abs(gap) > 1e-12 * np.abs(gap).max()
        sign, points = np.sign(gap[large]), points[large]
        at = np.flatnonzero(sign[1:] != sign[:-1])
        left, right, before = points[at], points[at + 1], sign[at]
        # Half a panel becomes 1e-8 of it; the distance depends on the square of this error.
        for _ in range(26):
            middle = 0.5 * (left + right)
            same = np.sign(curve(self, middle) - curve(other, middle)) == before
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        return 0.5 * (left + right)
