"""Stationary law of u for units under one constant drive and Gaussian noise over time.

The pre-reset potential has a smooth density, so Gauss-Legendre panels broken at the threshold give
it to rounding; sharp surrogates get a finer grid of their own, on which the same density is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .gradient_statistics import reset_kick
from .neuron_spec import NeuronSpec
from .surrogate import Surrogate

Array = npt.NDArray[np.float64]

TAIL = 6.5  # standard deviations of u kept on each side: 1e-10 of the mass is left out
POINTS = 8  # Gauss points of a panel
PANEL = 3.0  # length of a panel in standard deviations of the noise: errors near 1e-9
MAX_NODES = 3000  # of the grid of one drive; its kernel then takes 72 MB


@dataclass(frozen=True)
class DriveLaw:
    """Stationary law of the units that share one constant drive.

    Args:
        spec: the layer's dynamics.
        drive: constant part of u[t+1], potential.
        noise: standard deviation of the part that is fresh at each timestep, potential.
        u: Gauss points of the pre-reset potential, shape [nodes]; none lies on the threshold.
        length: quadrature weight of each, potential, shape [nodes].
        mass: probability of each, shape [nodes], sums to 1.
    """

    spec: NeuronSpec
    drive: float
    noise: float
    u: Array
    length: Array
    mass: Array

    @property
    def rate(self) -> float:
        """Spikes per timestep."""
        return float(self.mass[self.u > float(self.spec.threshold)].sum())

    def following(self, start: Array) -> Array:
        """Return the mean of u[t+1] given u[t] = start."""
        return _after_reset(self.spec, start) + self.drive

    def transition(self, start: Array, end: Array) -> Array:
        """Return the transition density from u[t] = start to u[t+1] = end, shape [start, end]."""
        return _gauss(end[None, :] - self.following(start)[:, None], self.noise)

    def density(self, u: Array) -> Array:
        """Return the density at any points, shape [points]; exact between the Gauss points too."""
        return np.asarray(self.mass @ self.transition(self.u, u))

    def fine_grid(self, surrogate: Surrogate, centre: float) -> tuple[Array, Array, Array]:
        """Return points, quadrature weights and masses that resolve a surrogate."""
        # Panels double in length away from the centre, from below the surrogate's own scale;
        # half a width (rectangular) and one width (triangular) are among the ends.
        finest = -2.0
        if surrogate.shape == "q_pseudo_spike":
            finest += min(0.0, float(np.floor(np.log2(surrogate.tail - 1.0))))
        steps = float(surrogate.width) * 2.0 ** np.arange(finest, 41.0)
        theta = float(self.spec.threshold)
        breaks = np.concatenate([centre - steps, [centre, theta], centre + steps])
        low, high = _range(self.spec, self.drive, self.noise)
        points, length = _panels(low, high, breaks, PANEL * self.noise)
        mass = self.density(points) * length
        return points, length, mass / mass.sum()

    def chains(
        self, points: Array, length: Array, start: Array, between: Array, end: Array, lags: int
    ) -> Array:
        """Return E[start(u[t]) between(u[t+1]) ... between(u[t+k-1]) end(u[t+k])], k = 1 to lags.

        Args:
            points: fine grid, shape [points].
            length: its quadrature weights.
            start: functions on the fine grid times their mass, shape [functions, points].
            between: the same without mass.
            end: the same without mass.
            lags: largest k.

        Returns:
            Shape [functions, lags].
        """
        kernel = self.transition(points, points) * length
        result = np.empty((start.shape[0], lags))
        current = start
        for k in range(lags):
            current = current @ kernel
            result[:, k] = (current * end).sum(axis=1)
            current = current * between
        return result


def drive_law(spec: NeuronSpec, drive: float, noise: float) -> DriveLaw:
    """Solve the stationary law f = f P for one drive.

    Args:
        spec: scalar dynamics, decay in [0, 1).
        drive: constant part of u[t+1], potential.
        noise: standard deviation of what is fresh at each timestep, potential, above 0.

    Returns:
        The law on Gauss panels broken at the threshold.

    Raises:
        ValueError: a noise so small that the grid would need more than ``MAX_NODES`` points.

    Example:
        >>> law = drive_law(NeuronSpec(decay=0.0, reset="none"), drive=0.0, noise=1.0)
        >>> round(law.rate, 8)
        0.15865525

    Source:
        Nystrom discretisation of the transfer operator.
    """
    low, high = _range(spec, drive, noise)
    u, length = _panels(low, high, np.array([float(spec.threshold)]), PANEL * noise)
    kernel = _gauss(u[None, :] - (_after_reset(spec, u) + drive)[:, None], noise) * length
    kernel /= kernel.sum(axis=1, keepdims=True)
    # One balance equation is redundant; the normalisation takes its place.
    system = kernel.T - np.eye(u.size)
    system[-1] = 1.0
    target = np.zeros(u.size)
    target[-1] = 1.0
    mass = np.maximum(np.linalg.solve(system, target), 0.0)
    return DriveLaw(spec, drive, noise, u, length, mass / mass.sum())


def _after_reset(spec: NeuronSpec, u: Array) -> Array:
    """Return the part of u[t+1] that u[t] determines."""
    decay, fired = float(spec.decay), u > float(spec.threshold)
    if spec.reset == "to_value":
        return decay * np.where(fired, float(spec.reset_value), u)
    if spec.reset == "subtract":
        return decay * u - reset_kick(spec) * fired
    return decay * u


def _range(spec: NeuronSpec, drive: float, noise: float) -> tuple[float, float]:
    """Return bounds of u that leave out a negligible mass."""
    decay, theta = float(spec.decay), float(spec.threshold)
    spread = TAIL * noise / np.sqrt(1.0 - decay**2)
    free = drive / (1.0 - decay)
    if spec.reset == "none" or free + spread < theta:
        return free - spread, free + spread
    if spec.reset == "to_value":
        again = decay * float(spec.reset_value) + drive
        return min(free, again) - spread, max(decay * theta + drive, again) + TAIL * noise
    kick = reset_kick(spec)
    always = (drive - kick) / (1.0 - decay)
    if always - spread > theta:
        return always - spread, always + spread
    low = min(free, decay * theta - kick + drive)
    return low - spread, max(decay * theta + drive, always, low) + spread


def _panels(low: float, high: float, breaks: Array, longest: float) -> tuple[Array, Array]:
    """Return Gauss-Legendre points and weights on panels that end at every break."""
    inside = breaks[(breaks > low) & (breaks < high)]
    edges = np.unique(np.concatenate([[low], inside, [high]]))
    counts = np.maximum(1, np.ceil(np.diff(edges) / longest)).astype(int)
    if POINTS * counts.sum() > MAX_NODES:
        raise ValueError(
            f"the noise of u per timestep ({longest / PANEL:.3g}) is too small against its range "
            f"({high - low:.3g}): a grid of more than {MAX_NODES} points would be needed"
        )
    parts = [np.linspace(a, b, n + 1) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    fine = np.unique(np.concatenate(parts))
    x, w = np.polynomial.legendre.leggauss(POINTS)
    half = np.diff(fine)[:, None] / 2.0
    centre = (fine[1:] + fine[:-1])[:, None] / 2.0
    return (centre + half * x).ravel(), (half * w).ravel()


def _gauss(gap: Array, noise: float) -> Array:
    return np.asarray(np.exp(-0.5 * (gap / noise) ** 2) / (noise * np.sqrt(2.0 * np.pi)))
