"""One step of a spiking neuron's potential under random input, as a matrix on a grid.

The chain is that of the pre-reset potential: its kernel p(y | m) = noise(y - centre(m)) is smooth
in y and jumps in m only at the threshold, so that panels of Gauss-Legendre nodes broken at the
threshold give an error that falls exponentially (Nystrom method). An input law without a smooth
density uses cells instead (Ulam's method), with every cell's image integrated exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, splu

from .input_noise import REACH, Floats, GaussianNoise, Noise
from .potential_range import Dynamics, support, tail_exponent

# The largest grid: a sparse factorisation of this size takes seconds and a few hundred MiB.
MAX_NODES = 40_000
# Above this size most of the matrix is zero, and the sparse form is faster.
DENSE_NODES = 700
# Restarts of the eigenvalue iteration; at the default size one costs about 30 products.
MAX_RESTARTS = 60
# Eigenvalues sought when several have nearly the same modulus, as in periodic firing.
MAX_EIGENVALUES = 48
# Just above the eigenvalue 1, where the shifted matrix is still regular.
SHIFT = 1.0 + 1e-9


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


class Chain:
    """The pre-reset chain of one unit on a grid, with the masses that it settles to.

    Args:
        dynamics: the deterministic part of a step.
        noise: the random part.
        starts: potentials v[0] whose transients the grid must cover, besides the stationary law.
        resolution: fineness of the grid.

    Raises:
        ValueError: the noise is too small against the interval for a grid of bounded size.

    Example:
        >>> dynamics = Dynamics(0.5, 0.0, 1.0, "subtract", 1.0, 0.0)
        >>> chain = Chain(dynamics, GaussianNoise(0.5))
        >>> print(f"{chain.masses @ chain.nodes:.9f}")
        -0.032347133
    """

    def __init__(
        self,
        dynamics: Dynamics,
        noise: Noise,
        starts: tuple[float, ...] = (),
        resolution: Resolution = FINE,
    ) -> None:
        self.dynamics, self.noise, self.resolution = dynamics, noise, resolution
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
        masses = np.full(len(self.nodes), 1.0 / len(self.nodes))
        solve = _shifted_solver(self.matrix)
        # Inverse iteration: each pass gains nine digits over the gap to the next eigenvalue.
        for _ in range(4):
            masses = solve(masses)
            masses /= masses.sum()
        masses = np.maximum(masses, 0.0)
        return np.asarray(masses / masses.sum())

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues 2 and 3 by modulus, of several with one modulus the nearest to 1 first."""
        a, std = self.dynamics.decay, self.noise.std
        if a == 0.0:
            # Nothing is carried over: u is the input alone.
            return Spectrum((0j, 0j), True)
        matrix = self._balanced()
        values, converged = _largest(matrix, 4)
        if not converged or abs(values[0]) > 0.9:
            # Eigenvalues crowd near modulus 1: look near 1 itself, and at a whole turn of them.
            turn = 1.0 / max(float(self.masses[self.nodes >= self.dynamics.threshold].sum()), 1e-9)
            near = _nearest(matrix, 4)
            if not converged or abs(values[0].imag) > 1e-9 or abs(near[0].imag) > 1e-9:
                more, converged = _largest(matrix, int(min(2 * np.ceil(turn) + 4, MAX_EIGENVALUES)))
                values = np.concatenate([values, more])
            values = np.concatenate([values, near])
        if a == 1.0 and self.smooth:
            # At decay 1 the way back from far away gives a continuous spectrum up to this edge.
            drift = self.dynamics.offset
            if self.dynamics.reset == "subtract":
                drift = min(drift, self.dynamics.amount - drift)
            edge = np.exp(-0.5 * (drift / std) ** 2)
            values = np.concatenate([values[np.abs(values) > edge * (1.0 + 1e-9)], [edge] * 2])
        values = _ordered(values)
        return Spectrum((complex(values[0]), complex(values[1])), converged)

    def _balanced(self) -> Any:
        """The matrix with weights that make it nearly symmetric in the tails: same eigenvalues."""
        if not self.smooth:
            return self.matrix
        exponent = 0.5 * tail_exponent(self.dynamics, self.noise, self.nodes)
        if sparse.issparse(self.matrix):
            entries = self.matrix.tocoo()
            shift = exponent[entries.row] - exponent[entries.col]
            balanced = sparse.csc_matrix(
                (entries.data * np.exp(shift), (entries.row, entries.col)), shape=entries.shape
            )
            return balanced
        # Far from the diagonal the matrix is 0 and the weight alone would overflow.
        return self.matrix * np.exp(np.minimum(exponent[:, None] - exponent, 300.0))


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues 2 and 3 of a chain, and whether the iteration for them converged."""

    values: tuple[complex, complex]
    converged: bool


def _largest(matrix: Any, count: int) -> tuple[NDArrayComplex, bool]:
    """Return eigenvalues of the largest modulus, and whether all of them converged."""
    n = matrix.shape[0]
    count = min(count, n - 3)
    options = {"k": count, "ncv": min(n - 1, 2 * count + 24), "v0": _start_vector(n)}
    try:
        values = eigs(
            matrix,
            tol=1e-11,
            maxiter=MAX_RESTARTS,
            return_eigenvectors=False,
            **options,
        )
    except ArpackNoConvergence as failure:
        return _ordered(failure.eigenvalues), False
    return _ordered(values), True


def _nearest(matrix: Any, count: int) -> NDArrayComplex:
    """Return the eigenvalues nearest to 1, through the factorised matrix."""
    n = matrix.shape[0]
    inverse = LinearOperator((n, n), matvec=_shifted_solver(matrix), dtype=float)
    try:
        values = eigs(
            inverse,
            k=count,
            ncv=min(n - 1, 32),
            v0=_start_vector(n),
            tol=1e-11,
            maxiter=MAX_RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as failure:
        values = failure.eigenvalues
    return _ordered(SHIFT - 1.0 / values)


def _shifted_solver(matrix: Any) -> Callable[[Floats], Floats]:
    """Return a solver for the identity, just above the eigenvalue 1, minus the matrix."""
    n = matrix.shape[0]
    if sparse.issparse(matrix):
        solver: Callable[[Floats], Floats] = splu(
            sparse.identity(n, format="csc") * SHIFT - matrix
        ).solve
        return solver
    system = -matrix
    system[np.diag_indices(n)] += SHIFT
    factors = linalg.lu_factor(system, overwrite_a=True, check_finite=False)
    return lambda x: np.asarray(linalg.lu_solve(factors, x, check_finite=False))


def _start_vector(n: int) -> Floats:
    """Return a fixed vector without symmetry, so that a result does not change between runs."""
    return np.random.default_rng(0).standard_normal(n)


def _ordered(values: NDArrayComplex) -> NDArrayComplex:
    """Drop the eigenvalue 1 and repetitions, and sort by modulus; at least two values."""
    kept: list[complex] = []
    for value in np.asarray(values, dtype=complex):
        # A real matrix has pairs; of one member the other follows.
        for member in (value, value.conjugate()) if abs(value.imag) > 1e-9 else (value,):
            if abs(member - 1.0) > 1e-8 and all(abs(member - other) > 1e-8 for other in kept):
                kept.append(complex(member))
    kept += [0j] * (2 - len(kept))
    array = np.array(kept)
    return array[np.lexsort((-array.imag, -array.real, -np.round(np.abs(array), 8)))]


NDArrayBool = np.ndarray[Any, np.dtype[np.bool_]]
NDArrayComplex = np.ndarray[Any, np.dtype[np.complex128]]
