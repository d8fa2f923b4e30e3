"""Growth of gradients along one recorded trajectory, without forming Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

Array = npt.NDArray[np.float64]
BackMap = Callable[[Array], Array]


@dataclass(frozen=True)
class Lyapunov:
    """Exponent of the gradient along a trajectory.

    Args:
        exponent: mean change of ln |delta| per backward timestep; exp(2 exponent) compares with
            chi^2.
        standard_error: from the spread over samples, or over tenths of the time for one sample.
    """

    exponent: float
    standard_error: float


def back_map(weights: Any) -> BackMap:
    """Return delta -> W^T delta for a matrix [receiving, sending], or the function itself.

    Args:
        weights: recurrent weights ``[receiving, sending]``, or a function of delta ``[units]``.

    Returns:
        A function of delta ``[units]``.

    Raises:
        ValueError: weights that are not a square matrix.

    Example:
        >>> back_map([[0.0, 1.0], [2.0, 0.0]])(np.array([1.0, 10.0])).tolist()
        [20.0, 1.0]
    """
    if callable(weights):
        return weights  # type: ignore[no-any-return]
    matrix = np.asarray(weights, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"weights of shape {matrix.shape} are not a square recurrent matrix")
    return lambda delta: np.asarray(delta @ matrix)


def lyapunov_exponent(
    factor: Any, derivative: Any, weights: Any, *, skip: int | None = None, seed: int = 0
) -> Lyapunov:
    """Run power iteration back along a recorded trajectory.

    Args:
        factor: A[t], the derivative of u[t+1] by u[t] through leak and reset, [T, ..., units].
        derivative: s[t], the surrogate derivative, times the gain; same shape.
        weights: recurrent matrix [receiving, sending], or a function delta -> W^T delta that acts
            on the last axis.
        skip: backward steps before the mean is taken; T // 4 if None.
        seed: of the random start.

    Returns:
        The exponent with its standard error.

    Raises:
        ValueError: shapes that do not fit, fewer than 8 steps, or a gradient that dies out.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> flat = np.ones((200, 50))
        >>> weights = np.diag(np.full(49, 0.5), -1)
        >>> round(lyapunov_exponent(0.9 * flat, 0.0 * flat, weights).exponent, 4)
        -0.1054

    Source:
        Benettin's method on the gradient recursion.
    """
    a, s = np.asarray(factor, dtype=float), np.asarray(derivative, dtype=float)
    if a.shape != s.shape or a.ndim < 2:
        raise ValueError(f"factor {a.shape} and derivative {s.shape} must agree: [T, ..., units]")
    steps = a.shape[0]
    start = steps // 4 if skip is None else int(skip)
    if steps < 8 or not 0 <= start < steps - 1:
        raise ValueError(f"{steps} timesteps with {start} skipped are too few: give at least 8")
    apply = back_map(weights)
    delta = np.random.default_rng(seed).normal(size=a.shape[1:])
    logs = np.empty((steps, *a.shape[1:-1]))
    for i, t in enumerate(range(steps - 1, -1, -1)):
        delta = delta / np.linalg.norm(delta, axis=-1, keepdims=True)
        delta = a[t] * delta + s[t] * apply(delta)
        size = np.linalg.norm(delta, axis=-1)
        if not (np.isfinite(size).all() and (size > 0.0).all()):
            raise ValueError(
                f"the gradient dies out or overflows {i + 1} steps before the end: no exponent"
            )
        logs[i] = np.log(size)
    kept = logs[start:].reshape(steps - start, -1)
    if kept.shape[1] > 1:
        groups = kept.mean(axis=0)
    else:
        groups = np.array([part.mean() for part in np.array_split(kept[:, 0], min(10, len(kept)))])
    error = float(groups.std(ddof=1) / np.sqrt(groups.size)) if groups.size > 1 else float("inf")
    return Lyapunov(float(kept.mean()), error)


def mean_spectral_radius(factor: Any, derivative: Any, weights: Any) -> float:
    """Return the largest |eigenvalue| of the time-averaged Jacobian of one layer.

    Usually a little below the growth chi, but no bound for it.

    Args:
        factor: A[t], [T, ..., units].
        derivative: s[t] times the gain, same shape.
        weights: recurrent matrix [receiving, sending], or a function delta -> W^T delta.

    Returns:
        Spectral radius of diag(mean A) + diag(mean s) W^T, means per unit over time and samples.

    Raises:
        ValueError: shapes that do not fit, or eigenvalues that do not converge.

    Example:
        >>> flat = np.ones((10, 3))
        >>> round(mean_spectral_radius(0.5 * flat, 0.2 * flat, np.ones((3, 3))), 6)
        1.1

    Source:
        Herranz-Celotti and Rouat, arXiv 2308.12075 (radius of the stepwise Jacobian).
    """
    a, s = np.asarray(factor, dtype=float), np.asarray(derivative, dtype=float)
    if a.shape != s.shape or a.ndim < 2:
        raise ValueError(f"factor {a.shape} and derivative {s.shape} must agree: [T, ..., units]")
    units = a.shape[-1]
    mean_a = a.reshape(-1, units).mean(axis=0)
    mean_s = s.reshape(-1, units).mean(axis=0)
    apply = back_map(weights)

    def product(delta: Array) -> Array:
        delta = delta.ravel()
        return np.asarray(mean_a * delta + mean_s * apply(delta))

    if units <= 32:
        matrix = np.stack([product(row) for row in np.eye(units)], axis=1)
        return float(np.abs(np.linalg.eigvals(matrix)).max())
    operator = LinearOperator((units, units), matvec=product, dtype=float)
    start = np.random.default_rng(0).normal(size=units)
    try:
        values = eigs(
            operator, k=4, which="LM", v0=start, return_eigenvectors=False, maxiter=3000, tol=1e-6
        )
    except ArpackError as error:
        raise ValueError(
            f"the eigenvalues of the mean Jacobian did not converge: {error}"
        ) from None
    return float(np.abs(values).max())
