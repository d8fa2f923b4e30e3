"""One step of a spiking neuron's potential under random input, as a matrix on a grid.

The chain is that of the pre-reset potential: its kernel p(y | m) = noise(y - centre(m)) is smooth
in y and jumps in m only at the threshold, so that panels of Gauss-Legendre nodes broken at the
threshold give an error that falls exponentially (Nystrom method). An input law without a smooth
density uses cells instead (Ulam's method), with every cell's image integrated exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigs, splu

from .input_noise import REACH, Floats, GaussianNoise, Noise

# The largest grid: a sparse factorisation of this size takes seconds and a few hundred MiB.
MAX_NODES = 40_000
# Above this size most of the matrix is zero, and the sparse form is faster.
DENSE_NODES = 700
# Beyond this size eigenvalues that ARPACK cannot separate are not sought in a dense matrix.
MAX_DENSE_EIG = 2_500


@dataclass(frozen=True)
class Resolution:
    """How finely a chain is discretised.

    Args:
        points: Gauss-Legendre nodes per panel.
        width: width of a panel in standard deviations of the noise.
        cells: number of cells, for an input law without a smooth density.
        reach: standard deviations at which the potential's normal tails are cut.
    """

    points: int = 16
    width: float = 2.6
    cells: int = 1000
    reach: float = REACH


FINE = Resolution()
COARSE = Resolution(points=12, cells=500, reach=7.3)


@dataclass(frozen=True)
class Dynamics:
    """The deterministic part of one step: ``u' = decay R(u) + offset + noise``.

    Args:
        decay: share of v that survives a step.
        offset: mean input after the gain, plus (1 - decay) rest; potential.
        threshold: potential at which R acts.
        reset: ``"subtract"``, ``"to_value"`` or ``"none"``.
        amount: potential subtracted.
        value: potential after a hard reset.

    Example:
        >>> Dynamics(0.5, 0.1, 1.0, "subtract", 1.0, 0.0).centre(np.array([0.8, 1.2])).round(6)
        array([0.5, 0.2])
    """

    decay: float
    offset: float
    threshold: float
    reset: str
    amount: float
    value: float

    def after_reset(self, u: Floats) -> Floats:
        """Return v = R(u)."""
        if self.reset == "none":
            return u
        reset = u - self.amount if self.reset == "subtract" else self.value
        return np.where(u >= self.threshold, reset, u)

    def centre(self, u: Floats) -> Floats:
        """Return the mean of the next u."""
        return self.decay * self.after_reset(u) + self.offset


def support(
    dynamics: Dynamics, noise: Noise, starts: tuple[float, ...], reach: float = REACH
) -> tuple[float, float]:
    """Return the interval that the pre-reset potential does not leave.

    Below the lowest point where a reset can put it the potential is an AR(1) process drawn back
    with a drift delta, so a depth x has the weight exp(-(q x^2 + p x)) with q = (1 - decay^2) /
    (2 std^2) and p = delta (1 + decay) / std^2; likewise above. At decay 1 this is Lundberg's
    exponent 2 delta / std^2.

    Args:
        dynamics: the deterministic part.
        noise: the random part.
        starts: potentials v[0] whose transients must fit in, too.
        reach: standard deviations at which normal tails are cut.

    Returns:
        ``(low, high)``, potential.
    """
    a, b, theta, std = dynamics.decay, dynamics.offset, dynamics.threshold, noise.std
    energy = 0.5 * reach**2
    normal = isinstance(noise, GaussianNoise)

    def tail(delta: float) -> float:
        q, p = (1.0 - a * a) / (2.0 * std**2), max(delta, 0.0) * (1.0 + a) / std**2
        return float(2.0 * energy / (p + np.sqrt(p * p + 4.0 * q * energy)))

    # A law that is not normal has heavier tails than its variance says.
    below, above = (0.0, 0.0) if normal else (-noise.low, noise.high)
    free = b / (1.0 - a) if a < 1.0 else np.inf
    spread = tail(0.0) if a < 1.0 else np.inf
    first = [a * start + b for start in starts]
    resets = dynamics.reset != "none" and (
        max(free + spread + above, max(first) + noise.high) >= theta
    )
    if not resets:
        low, high = free - spread - below, free + spread + above
        floor, ceiling = free, free
    elif dynamics.reset == "subtract":
        entry = theta - dynamics.amount
        bottom = min(entry, a * entry + b, free)
        full = (b - a * dynamics.amount) / (1.0 - a) if a < 1.0 else -np.inf
        top = max(theta, a * theta + b, full)
        drop = (1.0 - a) * top + a * dynamics.amount - b
        low = bottom - max(tail(b - (1.0 - a) * bottom), -noise.low) - below
        high = top + max(tail(drop), noise.high) + above
        low, high = max(low, full - spread - below), min(high, free + spread + above)
        if low > theta:
            high = min(high, full + spread + above)
        floor, ceiling = bottom, top
    else:
        always = a * dynamics.value + b
        if always + noise.low > theta:
            low, high = always + noise.low, always + noise.high
            floor = ceiling = always
        else:
            bottom = min(dynamics.value, always, free)
            low = bottom - max(tail(b - (1.0 - a) * bottom), -noise.low) - below
            high = min(max(a * theta + b, always) + noise.high, free + spread + above)
            floor, ceiling = bottom, max(theta, always)
    if not normal:
        low, high = _bounded(dynamics, noise, (low, high), (floor, ceiling))
    if min(first) + noise.low < low:
        low = min(first) - max(tail(b - (1.0 - a) * min(first)), -noise.low)
    if max(first) + noise.high > high:
        high = max(first) + max(spread if np.isfinite(spread) else 0.0, noise.high)
    return float(low), float(high)


def _bounded(
    dynamics: Dynamics,
    noise: Noise,
    span: tuple[float, float],
    anchors: tuple[float, float],
) -> tuple[float, float]:
    """Tighten a span to what a bounded noise can reach, e.g. [0, 2] for fair bits at decay 1/2."""
    a, b = dynamics.decay, dynamics.offset

    def limit(extreme: float) -> float:
        # A drift of rounding size is no drift.
        drift = 0.0 if abs(b + extreme) < 1e-12 * noise.std else b + extreme
        return drift / (1.0 - a) if a < 1.0 else (np.sign(drift) * np.inf if drift else 0.0)

    lowest, highest = limit(noise.low), limit(noise.high)
    if a == 1.0 and lowest == 0.0:
        lowest = np.inf
    low = max(span[0], min(anchors[0], lowest))
    high = min(span[1], max(anchors[1], highest)) if dynamics.reset == "none" else span[1]
    return low, high


class Chain:
    """The pre-reset chain of one unit on a grid, with the masses that it settles to.

    Args:
        dynamics: the deterministic part of a step.
        noise: the random part.
        starts: potentials v[0] that the grid must cover, at least one.
        resolution: fineness of the grid.

    Raises:
        ValueError: the noise is too small against the interval for a grid of bounded size.

    Example:
        >>> dynamics = Dynamics(0.5, 0.0, 1.0, "subtract", 1.0, 0.0)
        >>> chain = Chain(dynamics, GaussianNoise(0.5), starts=(0.0,))
        >>> print(f"{chain.masses @ chain.nodes:.9f}")
        -0.032347133
    """

    def __init__(
        self,
        dynamics: Dynamics,
        noise: Noise,
        starts: tuple[float, ...],
        resolution: Resolution = FINE,
    ) -> None:
        self.dynamics, self.noise, self.resolution = dynamics, noise, resolution
        self.starts = starts
        self.low, self.high = support(dynamics, noise, starts, resolution.reach)
        theta = dynamics.threshold
        breaks = (
            [self.low, theta, self.high] if self.low < theta < self.high else [self.low, self.high]
        )
        if self.smooth:
            width, points = resolution.width * noise.std, resolution.points
        else:
            width, points = (self.high - self.low) / resolution.cells, 1
        panels = (self.high - self.low) / width
        if not panels * points <= MAX_NODES:
            smallest = noise.std * panels * points / MAX_NODES
            raise ValueError(
                f"the input's standard deviation after the gain, {noise.std:.6g}, is too small for "
                f"potentials that range from {self.low:.6g} to {self.high:.6g}: the grid is "
                f"limited to {MAX_NODES} nodes, enough down to about {smallest:.2g} here; below it "
                "the neuron is deterministic and neuron.replay with a constant current is exact"
            )
        edges = [
            np.linspace(left, right, max(int(np.ceil((right - left) / width - 1e-9)), 1) + 1)
            for left, right in pairwise(breaks)
        ]
        self.edges: Floats = np.unique(np.concatenate(edges))
        x, w = leggauss(points)
        half = 0.5 * np.diff(self.edges)[:, None]
        self.nodes: Floats = (0.5 * (self.edges[1:] + self.edges[:-1])[:, None] + half * x).ravel()
        self.weights: Floats = (half * w).ravel()
        self.centres: Floats = dynamics.centre(self.nodes)

    def image(self, centres: Floats) -> Floats:
        """Return the masses on the grid after one step from each centre, ``[nodes, centres]``."""
        if isinstance(self.noise, GaussianNoise):
            return self.weights[:, None] * self.noise.pdf(self.nodes[:, None] - centres)
        below = self.noise.cdf(self.edges[:, None] - centres)
        # What leaves the grid stays in the outermost cells, so no probability is lost.
        below[0], below[-1] = 0.0, 1.0
        return np.asarray(np.diff(below, axis=0))

    @property
    def smooth(self) -> bool:
        """Whether the noise has a smooth density: nodes if so, cells if not."""
        return isinstance(self.noise, GaussianNoise)

    @cached_property
    def matrix(self) -> Any:
        """The step as a matrix on masses, ``[to, from]``; sparse for large grids."""
        if not isinstance(self.noise, GaussianNoise):
            return self._cell_matrix()
        if len(self.nodes) <= DENSE_NODES:
            return self.image(self.centres)
        reach = 9.0 * self.noise.std
        first = np.searchsorted(self.nodes, self.centres - reach)
        count = np.searchsorted(self.nodes, self.centres + reach) - first
        ends = np.concatenate([[0], np.cumsum(count)])
        rows = np.arange(ends[-1]) - np.repeat(ends[:-1] - first, count)
        shift = self.nodes[rows] - np.repeat(self.centres, count)
        values = self.weights[rows] * self.noise.pdf(shift)
        n = len(self.nodes)
        return sparse.csc_matrix((values, rows, ends), shape=(n, n))

    def _cell_matrix(self) -> Floats:
        """Average the image of a uniform law over every cell: exact, through the integral."""
        a, noise = self.dynamics.decay, self.noise
        flat = self._flat
        matrix = self.image(self.centres)
        if flat.all():
            return matrix
        half = 0.5 * a * self.weights[~flat]
        centres = self.centres[~flat]
        targets = self.edges[1:-1, None]
        mean = noise.cdf_integral(targets - (centres - half))
        mean -= noise.cdf_integral(targets - (centres + half))
        below = np.zeros((len(self.edges), len(centres)))
        below[1:-1], below[-1] = mean / (2.0 * half), 1.0
        matrix[:, ~flat] = np.diff(below, axis=0)
        return matrix

    @property
    def _flat(self) -> NDArrayBool:
        """Cells whose whole image starts from one point."""
        fired = self.nodes >= self.dynamics.threshold
        hard = fired & (self.dynamics.reset == "to_value")
        return np.asarray(hard | (self.dynamics.decay == 0.0))

    @cached_property
    def cell_variance(self) -> Floats:
        """Variance of v inside each cell, 0 for nodes; potential squared."""
        if self.smooth:
            return np.zeros(len(self.nodes))
        fired = self.nodes >= self.dynamics.threshold
        hard = fired & (self.dynamics.reset == "to_value")
        return np.where(hard, 0.0, self.weights**2 / 12.0)

    @cached_property
    def masses(self) -> Floats:
        """Stationary probability on the nodes, ``[nodes]``, sum 1."""
        n = len(self.nodes)
        # Inverse iteration just above the eigenvalue 1: each pass gains nine digits over the gap.
        shift = 1.0 + 1e-9
        if sparse.issparse(self.matrix):
            solve = splu(sparse.identity(n, format="csc") * shift - self.matrix).solve
        else:
            system = -self.matrix
            system[np.diag_indices(n)] += shift
            factors = linalg.lu_factor(system, overwrite_a=True, check_finite=False)

            def solve(x: Floats) -> Floats:
                return np.asarray(linalg.lu_solve(factors, x, check_finite=False))

        masses = np.full(n, 1.0 / n)
        for _ in range(4):
            masses = solve(masses)
            masses /= masses.sum()
        masses = np.maximum(masses, 0.0)
        return np.asarray(masses / masses.sum())

    @cached_property
    def spectrum(self) -> NDArrayComplex:
        """Eigenvalues 2, 3 and 4 by modulus, the one above the real axis first in a pair.

        Raises:
            ValueError: ARPACK did not separate them and the grid is too large for a dense solver.
        """
        if self.dynamics.decay == 0.0:
            # Whatever happened, the next u is the input alone, unless a delayed reset is carried.
            return np.zeros(3, dtype=complex)
        n = len(self.nodes)
        start = np.random.default_rng(0).standard_normal(n)
        try:
            values = eigs(
                self.matrix,
                k=4,
                ncv=min(n - 1, 32),
                v0=start,
                tol=1e-11,
                maxiter=300,
                return_eigenvectors=False,
            )
        except ArpackNoConvergence as failure:
            if n > MAX_DENSE_EIG:
                raise ValueError(
                    f"the spectrum of a grid of {n} nodes did not converge: the noise "
                    f"({self.noise.std:.6g}) is so small that many eigenvalues have modulus 1; "
                    "mean, std and rate are available all the same"
                ) from failure
            dense = self.matrix.toarray() if sparse.issparse(self.matrix) else self.matrix
            values = linalg.eigvals(dense, check_finite=False)
        # The eigenvalue 1 is known exactly; without it the order is by modulus.
        values = np.delete(values, np.argmin(np.abs(values - 1.0)))
        order = np.lexsort((-values.imag, -np.round(np.abs(values), 10)))
        return np.asarray(values[order][:3], dtype=complex)


NDArrayBool = np.ndarray[Any, np.dtype[np.bool_]]
NDArrayComplex = np.ndarray[Any, np.dtype[np.complex128]]
