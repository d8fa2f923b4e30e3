"""The law of u timestep by timestep, also under a moving threshold, from the input's spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from .checks import ABOVE_ZERO, LARGEST, number
from .laws import GaussianLaw
from .neuron import NeuronSpec, after_reset, fires, integrate

PANEL = 0.8
"""Longest quadrature panel, in standard deviations of the input; 10 Gauss-Legendre nodes each."""

REACH = 9.0
"""Standard deviations beyond the outermost centre that the quadrature covers."""

NEGLIGIBLE = 1e-19
"""Probability of a node below which it is dropped."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)


@dataclass(frozen=True)
class StepLaw:
    """Law of u at one timestep, a mixture of Gaussians of one width; a law for a surrogate.

    Args:
        centres: means of the parts, potential, ``[parts]``.
        weights: their shares, ``[parts]``.
        spread: their common standard deviation, potential.
        threshold: threshold in force at this timestep, potential.
        error: how far the weights are from 1, the error of the quadrature so far.
    """

    centres: np.ndarray
    weights: np.ndarray
    spread: float
    threshold: float
    error: float

    @property
    def mean(self) -> float:
        """Mean of u, potential."""
        return float(self.weights @ self.centres)

    @property
    def std(self) -> float:
        """Standard deviation of u, potential."""
        return float(np.sqrt(self.spread**2 + self.weights @ (self.centres - self.mean) ** 2))

    @property
    def rate(self) -> float:
        """Probability that u reaches the threshold, spikes per unit and timestep."""
        return float(self.probability(self.threshold, np.inf))

    def probability(self, low: Any, high: Any) -> Any:
        """Return P(low < u < high), no unit, in the broadcast shape of low and high."""
        low, high = np.asarray(low)[..., None], np.asarray(high)[..., None]
        upper = special.ndtr((high - self.centres) / self.spread)
        return ((upper - special.ndtr((low - self.centres) / self.spread)) @ self.weights)[()]

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> Any:
        """Return E[shape((u - centre) / width) ** order], no unit, for one centre and width."""
        part = GaussianLaw(self.centres, self.spread).expect(shape, centre, width, order, tail)
        return (part @ self.weights)[()]


def step_laws(
    spec: NeuronSpec,
    input_mean: float,
    input_std: float,
    timesteps: int,
    fc: float | None = None,
    floor: float = 0.0,
) -> list[StepLaw]:
    """Return the laws of u at t = 1 ... T for Gaussian input that is independent over time.

    Args:
        spec: the layer's dynamics, one number per field.
        input_mean: mean input current.
        input_std: its standard deviation, above 0.
        timesteps: T, at least 1.
        fc: if given, the threshold of each timestep is fc (mean + std) of u, as in DS-ATGO;
            else the spec's.
        floor: smallest adaptive threshold, potential.

    Returns:
        One law per timestep.

    Raises:
        ValueError: an impossible number, or a spec with a synapse, a delayed reset or arrays.

    Example:
        >>> spec = NeuronSpec(decay=0.5, threshold=1.0, reset="to_value")
        >>> first, second = step_laws(spec, input_mean=0.0, input_std=1.0, timesteps=2)
        >>> round(first.rate, 6), round(second.mean, 6), round(second.std**2, 6)
        (0.158655, -0.120985, 1.135206)

    Source:
        Quadrature of the recursion u[t] = decay v[t-1] + gain I[t]; threshold: DS-ATGO, arXiv
        2511.13050, eq. 5.
    """
    _require_simple(spec)
    mean = number("input_mean", input_mean, -LARGEST, LARGEST, "finite")
    std = number("input_std", input_std, ABOVE_ZERO, LARGEST, "a finite number above 0")
    if timesteps < 1:
        raise ValueError(f"timesteps={timesteps!r} is not possible: it must be at least 1")
    spread = float(abs(spec.gain) * std)
    if spread == 0.0:
        raise ValueError(f"gain={spec.gain!r} is not possible: without it no input arrives")
    centres = np.atleast_1d(np.asarray(integrate(spec, spec.start, mean), dtype=float))
    weights, laws = np.ones(1), []
    for _ in range(timesteps):
        law = StepLaw(centres, weights, spread, float(spec.threshold), abs(1.0 - weights.sum()))
        if fc is not None:
            moved = max(fc * (law.mean + law.std), floor)
            law = StepLaw(centres, weights, spread, moved, law.error)
        laws.append(law)
        u, mass = _quadrature(law)
        v = after_reset(spec, u, fires(spec, u, law.threshold), law.threshold)
        centres, weights = np.asarray(integrate(spec, v, mean)), mass
    return laws


def second_step(
    input_mean: Any, input_std: Any, threshold: Any, decay: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of u at t = 2 in closed form: hard reset to 0, start at 0, gain 1.

    Args:
        input_mean: mean of the Gaussian input, potential, any shape.
        input_std: its standard deviation, potential, above 0.
        threshold: potential.
        decay: of the membrane, in [0, 1].

    Returns:
        ``(mean, variance)``, potential and its square.

    Raises:
        ValueError: a standard deviation of 0 or below, or a decay outside [0, 1].

    Example:
        >>> mean, variance = second_step(0.0, 1.0, threshold=1.0, decay=0.5)
        >>> round(float(mean), 6), round(float(variance), 6)
        (-0.120985, 1.135206)

    Source:
        Moments of a Gaussian truncated at the threshold; ours.
    """
    std = np.asarray(number("input_std", input_std, ABOVE_ZERO, LARGEST, "a number above 0"))
    decay = np.asarray(number("decay", decay, 0.0, 1.0, "between 0 and 1"))
    mean = np.asarray(number("input_mean", input_mean, -LARGEST, LARGEST, "finite"))
    edge = (threshold - mean) / std
    below, density = special.ndtr(edge), np.exp(-0.5 * edge**2) / np.sqrt(2.0 * np.pi)
    first = mean * below - std * density
    square = (mean**2 + std**2) * below - std * density * (mean + threshold)
    return mean + decay * first, std**2 + decay**2 * (square - first**2)


def _quadrature(law: StepLaw) -> tuple[np.ndarray, np.ndarray]:
    """Return values of u and their probability, with no panel across the threshold."""
    margin = REACH * law.spread
    low, high = law.centres.min() - margin, law.centres.max() + margin
    cut = float(np.clip(law.threshold, low, high))
    nodes, lengths = [], []
    for start, stop in ((low, cut), (cut, high)):
        breaks = np.linspace(start, stop, int(np.ceil((stop - start) / (PANEL * law.spread))) + 1)
        half = 0.5 * np.diff(breaks)
        nodes.append((0.5 * (breaks[1:] + breaks[:-1])[:, None] + half[:, None] * _NODES).ravel())
        lengths.append((half[:, None] * _WEIGHTS).ravel())
    u, length = np.concatenate(nodes), np.concatenate(lengths)
    z = (u[:, None] - law.centres) / law.spread
    density = np.exp(-0.5 * z * z) @ law.weights / (law.spread * np.sqrt(2.0 * np.pi))
    mass = length * density
    keep = mass > NEGLIGIBLE  # or the outermost centres would wander off, step by step
    return u[keep], mass[keep]


def _require_simple(spec: NeuronSpec) -> None:
    for name in ("decay", "gain", "threshold", "reset_value", "rest", "start"):
        if np.ndim(getattr(spec, name)) != 0:
            raise ValueError(f"{name}={getattr(spec, name)!r} must be one number here")
    if np.any(np.asarray(spec.synapse_decay) != 0) or spec.delayed_reset:
        raise ValueError(
            f"synapse_decay={spec.synapse_decay!r}, delayed_reset={spec.delayed_reset}: the "
            "recursion holds for a layer without a synapse and with an immediate reset"
        )
