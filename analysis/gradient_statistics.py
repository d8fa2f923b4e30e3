"""Moments of the surrogate derivative and of the leak-and-reset factor along the backward pass.

The gradient at u obeys ``delta[t] = A[t] delta[t+1] + s[t] (W^T delta[t+1])``, with s the surrogate
derivative and A the derivative of u[t+1] with respect to u[t] through leak and reset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .neuron_spec import NeuronSpec
from .surrogate import Surrogate

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GradientStatistics:
    """What the growth of the gradient in time and depth depends on.

    A is linear in the surrogate's peak, ``A = A0 + g A1`` with g = 1 at the surrogate that was
    measured, so its moments are kept as coefficients of powers of g.

    Args:
        rate: spikes per timestep and unit.
        first: E[s], per potential.
        second: E[s^2], per potential squared.
        fourth: E[s^4].
        correlation: Q(k) = E[s[t] s[t+k]], shape [lags + 1], k = 0, 1, ...
        plateau: Q at infinite lag, the mean over units of (mean over time of s)^2.
        factor_mean: coefficients of E[A], (E[A0], E[A1]).
        factor_second: coefficients of E[A^2], (E[A0^2], 2 E[A0 A1], E[A1^2]).
        factor_weighted: coefficients of E[A s]/E[s].
        carried: E[s[t] A[t] ... A[t+k-1] s[t+k]], shape [lags + 1]; None if not known.
        decline: E[A[t]^2 ... A[t+k-1]^2 s[t+k]^2] / E[s^2], shape [lags + 1]; None if not known.
    """

    rate: float
    first: float
    second: float
    fourth: float
    correlation: Array
    plateau: float
    factor_mean: tuple[float, float]
    factor_second: tuple[float, float, float]
    factor_weighted: tuple[float, float]
    carried: Array | None = None
    decline: Array | None = None

    @property
    def mean_factor(self) -> float:
        """E[A]."""
        return sum(self.factor_mean)

    @property
    def mean_square_factor(self) -> float:
        """E[A^2]."""
        return sum(self.factor_second)

    @property
    def weighted_factor(self) -> float:
        """E[A s] / E[s]."""
        return sum(self.factor_weighted)

    def with_peak(self, ratio: float) -> GradientStatistics:
        """Return the statistics for the same surrogate with its peak multiplied by ``ratio``.

        Exact, because the forward pass does not depend on the surrogate. Only carried and decline
        are dropped if A itself depends on the peak.
        """
        keep = self.factor_mean[1] == 0.0 and self.factor_second[2] == 0.0
        m0, m1 = self.factor_mean
        q0, q1, q2 = self.factor_second
        w0, w1 = self.factor_weighted
        return replace(
            self,
            first=self.first * ratio,
            second=self.second * ratio**2,
            fourth=self.fourth * ratio**4,
            correlation=self.correlation * ratio**2,
            plateau=self.plateau * ratio**2,
            factor_mean=(m0, m1 * ratio),
            factor_second=(q0, q1 * ratio, q2 * ratio**2),
            factor_weighted=(w0, w1 * ratio),
            carried=self.carried * ratio**2 if keep and self.carried is not None else None,
            decline=self.decline if keep else None,
        )


def factor_parts(spec: NeuronSpec, u: Any, spikes: Any, derivative: Any) -> tuple[Any, Any]:
    """Split A = A0 + A1 into the leak part and the part through the reset's own gradient.

    Args:
        spec: the layer's dynamics; ``reset_gradient`` says whether A1 counts.
        u: pre-reset potential, any shape.
        spikes: 0 or 1, same shape.
        derivative: surrogate derivative at u, same shape.

    Returns:
        ``(A0, A1)``, same shape, no unit.

    Example:
        >>> factor_parts(NeuronSpec(decay=0.9, reset="to_value", reset_gradient=False),
        ...              np.array([0.5, 1.2]), np.array([0.0, 1.0]), np.array([0.3, 0.4]))
        (array([0.9, 0. ]), array([0., 0.]))

    Source:
        Differentiated from the update rule; Herranz-Celotti and Rouat 2022 for the reset variants.
    """
    u, spikes, derivative = (np.asarray(part, dtype=float) for part in (u, spikes, derivative))
    decay = float(spec.decay)
    leak = decay * (1.0 - spikes) if spec.reset == "to_value" else np.full_like(spikes, decay)
    if not spec.reset_gradient or spec.reset == "none":
        return leak, np.zeros_like(leak)
    if spec.reset == "to_value":
        return leak, -decay * (u - float(spec.reset_value)) * derivative
    return leak, -reset_kick(spec) * derivative


def reset_kick(spec: NeuronSpec) -> float:
    """Return what one spike takes from the next timestep's u under a soft reset.

    The amount itself if the reset lands after the leak (``delayed_reset``), else decay times it.

    Args:
        spec: scalar dynamics with a soft reset.

    Returns:
        The amount, potential.

    Raises:
        ValueError: a reset that subtracts nothing.

    Example:
        >>> reset_kick(NeuronSpec(decay=0.9)), reset_kick(NeuronSpec(decay=0.9, delayed_reset=True))
        (0.9, 1.0)
    """
    if spec.reset != "subtract":
        raise ValueError(f"reset={spec.reset!r} subtracts no amount; only 'subtract' does")
    amount = float(spec.threshold if spec.reset_amount is None else spec.reset_amount)
    return amount if spec.delayed_reset else float(spec.decay) * amount


def recorded_statistics(
    spec: NeuronSpec, u: Any, surrogate: Surrogate, *, spikes: Any = None, lags: int = 49
) -> GradientStatistics:
    """Measure the statistics on a recorded potential; no backward pass is needed.

    Args:
        spec: the layer's dynamics (scalars).
        u: pre-reset potential, [T, ..., units], T >= 8.
        surrogate: the surrogate to judge; any number of them can be judged on one recording.
        spikes: recorded spikes of the same shape; threshold crossings of u if None.
        lags: largest lag of the autocorrelation; at most T // 2 is used.

    Returns:
        The statistics, pooled over time, samples and units. The plateau is the product of the
        means over the first and the last 2/5 of the time, which has no bias from a finite T.

    Raises:
        ValueError: u is too short, not finite, or of another shape than the spikes.

    Example:
        >>> u = np.random.default_rng(0).normal(0.0, 0.5, (400, 50))
        >>> stats = recorded_statistics(NeuronSpec(decay=0.5, reset_gradient=False), u,
        ...                             Surrogate("rectangular", peak=1.0, width=1.0))
        >>> round(stats.first, 3), stats.mean_square_factor
        (0.159, 0.25)

    Source:
        Definitions of Q(k) and E[A] by the gradient recursion (module docstring).
    """
    u = np.asarray(u, dtype=float)
    if u.ndim < 2 or u.shape[0] < 8:
        raise ValueError(f"u of shape {u.shape} is too short: give [T, ..., units] with T >= 8")
    if not np.isfinite(u).all():
        raise ValueError("u is not finite everywhere: recorded NaN or infinity cannot be judged")
    theta = float(spec.threshold)
    if spikes is None:
        spikes = (u >= theta) if spec.fires_at_threshold else (u > theta)
    x = np.asarray(spikes, dtype=float)
    if x.shape != u.shape:
        raise ValueError(f"spikes of shape {x.shape} do not match u of shape {u.shape}")
    s = np.asarray(surrogate.derivative(u - theta), dtype=float)
    steps = u.shape[0]
    used = min(int(lags), steps // 2)
    correlation = np.array([np.mean(s[: steps - k] * s[k:]) for k in range(used + 1)])
    factor = sum(factor_parts(spec, u, x, s))
    carried, decline = np.empty(used + 1), np.empty(used + 1)
    product, square = np.ones_like(s), np.ones_like(s)
    for k in range(used + 1):
        carried[k] = np.mean(s[: steps - k] * product[: steps - k] * s[k:])
        decline[k] = np.mean(square[: steps - k] * s[k:] ** 2)
        if k < used:
            product[: steps - k] *= factor[k:]
            square[: steps - k] *= factor[k:] ** 2
    part = max(1, (2 * steps) // 5)
    plateau = float(np.mean(s[:part].mean(axis=0) * s[-part:].mean(axis=0)))
    leak, through = factor_parts(spec, u, x, s)
    first = float(s.mean())
    if first <= 0.0:
        raise ValueError(
            f"the surrogate (width {surrogate.width:g}) is zero on all of u: no gradient passes"
        )
    return GradientStatistics(
        rate=float(x.mean()),
        first=first,
        second=float(correlation[0]),
        fourth=float(np.mean(s**4)),
        correlation=correlation,
        plateau=max(plateau, 0.0),
        factor_mean=(float(leak.mean()), float(through.mean())),
        factor_second=(
            float(np.mean(leak**2)),
            float(2 * np.mean(leak * through)),
            float(np.mean(through**2)),
        ),
        factor_weighted=(float(np.mean(leak * s)) / first, float(np.mean(through * s)) / first),
        carried=carried,
        decline=decline / decline[0],
    )


def effective_units(stats: GradientStatistics, units: int) -> float:
    """Return how many units carry the gradient, ``n E[s^2]^2 / E[s^4]``.

    A small number (below about 30) means that a handful of units carries it, and that the typical
    growth lies below the mean-square prediction by about 1/n_eff per step in ln chi^2.

    Args:
        stats: statistics of the layer.
        units: number of units n of the layer.

    Returns:
        n_eff, in units.

    Raises:
        ValueError: a layer without units.

    Example:
        >>> u = np.random.default_rng(0).normal(0.0, 0.5, (400, 50))
        >>> stats = recorded_statistics(NeuronSpec(), u, Surrogate("rectangular", 1.0, 1.0))
        >>> round(effective_units(stats, 300), 1)
        47.7

    Source:
        Participation ratio; measured effect on recurrent LIF simulations.
    """
    if units < 1:
        raise ValueError(f"units={units!r} is not a layer: give at least 1")
    return units * stats.second**2 / stats.fourth
