"""How many independent values a mean is worth when samples, units and steps hang together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

WINDOW_FACTOR = 5.0
"""Autocorrelations are summed up to this many autocorrelation times (Sokal 1997, section 3)."""


class Estimate(NamedTuple):
    """A value with its standard error, each ``[...]``."""

    value: Any
    error: Any


def effective_size(variance: Any, sample_variance: Any, samples: Any, count: Any) -> np.ndarray:
    """Return how many independent values have a mean as precise as the recorded one.

    Units of one sample share its image, so ``count`` values are worth fewer. The precision of the
    mean is seen in the spread between samples: n_eff = variance (samples - 1) / sample_variance.

    Args:
        variance: variance of all values, ``[...]``.
        sample_variance: population variance over samples of the sample's mean, ``[...]``.
        samples: number of independent samples, ``[...]``.
        count: number of values, ``[...]``; the result never exceeds it.

    Returns:
        Effective size, ``[...]``; 0 where fewer than two samples tell nothing about the spread.

    Raises:
        ValueError: a negative or non-finite variance, or a count below the number of samples.

    Example:
        >>> float(effective_size(1.0, 0.1, samples=65, count=6500))
        640.0

    Source:
        Kish 1965, section 5.4 (design effect of cluster samples).
    """
    for name, value in (("variance", variance), ("sample_variance", sample_variance)):
        known = np.asarray(value, dtype=float)
        if not np.isfinite(known).all() or (known < 0).any():
            raise ValueError(f"{name}={_first_bad(known)} is not possible: it must be finite, >= 0")
    variance, spread = np.asarray(variance, dtype=float), np.asarray(sample_variance, dtype=float)
    samples, count = np.asarray(samples, dtype=float), np.asarray(count, dtype=float)
    if (samples < 0).any() or (count < samples).any():
        raise ValueError(
            f"count={count.tolist()} is below samples={samples.tolist()}: each sample has a value"
        )
    shape = np.broadcast_shapes(variance.shape, spread.shape, samples.shape, count.shape)
    size = np.broadcast_to(count, shape).copy()
    # No spread between the samples: the values are all that limits.
    np.divide(
        variance * (samples - 1.0), spread, out=size, where=np.broadcast_to(spread > 0, shape)
    )
    return np.where(samples < 2, 0.0, np.minimum(size, count))


def recorded_effective_size(record: Mapping[str, Any]) -> np.ndarray:
    """Return the effective size of rows of a run: the least that mean, rate and coverage tell.

    Samples may differ in the mean of u, in the rate, or in the share inside the surrogate's
    window; the law of u is only as precise as the least precise of the three.

    Args:
        record: columns of the record by name (``u_var``, ``u_sample_var``, ``samples``, ``count``;
            if there, ``rate_sample_mean`` and ``coverage_sample_mean`` with ``..._var``), each
            ``[...]``.

    Returns:
        Effective size, ``[...]``.

    Raises:
        ValueError: a variance that is not possible (see :func:`effective_size`).

    Example:
        >>> row = {"u_var": 1.0, "u_sample_var": 0.1, "samples": 65, "count": 6500}
        >>> row |= {"rate_sample_mean": 0.2, "rate_sample_var": 0.04}
        >>> float(round(recorded_effective_size(row), 6))
        256.0
    """
    samples, count = np.asarray(record["samples"]), np.asarray(record["count"])
    size = effective_size(record["u_var"], record["u_sample_var"], samples, count)
    for name in ("rate", "coverage"):
        if f"{name}_sample_var" in record:
            share = np.asarray(record[f"{name}_sample_mean"], dtype=float)
            spread = record[f"{name}_sample_var"]
            size = np.minimum(size, effective_size(share * (1.0 - share), spread, samples, count))
    return size


def autocorrelation_time(series: Any) -> np.ndarray:
    """Return the integrated autocorrelation time, 1 + 2 * sum of the autocorrelations.

    n successive values of a series have a mean as precise as n / time independent ones. The sum
    stops after five times its own value, or at a quarter of the series; the bias from
    subtracting the series' own mean is taken off.

    Args:
        series: ``[..., n]`` values at equal distances, n >= 8.

    Returns:
        Time in steps, ``[...]``, at least 1; 1 for a constant series.

    Raises:
        ValueError: fewer than 8 values, or a value that is not finite.

    Example:
        >>> float(autocorrelation_time([1.0, -1.0] * 8))
        1.0

    Source:
        Sokal 1997, "Monte Carlo Methods in Statistical Mechanics", eq. 2.19 and section 3.
    """
    series = np.asarray(series, dtype=float)
    if series.ndim == 0 or series.shape[-1] < 8:
        raise ValueError(f"series of shape {series.shape} is too short: 8 values are needed")
    if not np.isfinite(series).all():
        raise ValueError(f"series holds {_first_bad(series)}: all values must be finite")
    return integrated_time(autocovariance(series), series.shape[-1])


def autocovariance(series: np.ndarray) -> np.ndarray:
    """Return the autocovariance of series at lags 0, 1, ...

    Args:
        series: ``[..., n]`` values.

    Returns:
        ``[..., n // 4 + 1]``, each a sum of products over n.

    Example:
        >>> autocovariance(np.array([1.0, -1.0] * 4)).round(3).tolist()
        [1.0, -0.875, 0.75]
    """
    length = series.shape[-1]
    centred = series - series.mean(axis=-1, keepdims=True)
    centred = centred * (np.ptp(series, axis=-1, keepdims=True) > 0)  # or rounding would correlate
    # Padded to twice the length, so that the products do not wrap around.
    power = np.abs(np.fft.rfft(centred, 2 * length)) ** 2
    products = np.fft.irfft(power, 2 * length)[..., : length // 4 + 1]
    return np.asarray(products / length)


def integrated_time(covariance: np.ndarray, length: int) -> np.ndarray:
    """Return the integrated time of an autocovariance.

    Args:
        covariance: ``[..., lags]`` from lag 0 on.
        length: values of the series behind it.

    Returns:
        ``[...]``, in steps of the series; 1 for independent values, and at least 1.

    Example:
        >>> float(integrated_time(np.array([1.0, 0.0, 0.0, 0.0]), 10**6).round(2))
        1.0

    Source:
        Sokal 1997, automatic windowing.
    """
    start = covariance[..., :1]
    correlation = np.divide(covariance, start, out=np.zeros_like(covariance), where=start > 0)
    lags = np.arange(1, covariance.shape[-1])
    total = np.cumsum(correlation[..., 1:], axis=-1)
    # Subtracting the own mean lowers each correlation by about time / length.
    times = (1.0 + 2.0 * total) / np.maximum(1.0 - 2.0 * (lags - total) / length, 0.25)
    enough = lags >= WINDOW_FACTOR * times
    stop = np.where(enough.any(axis=-1), enough.argmax(axis=-1), len(lags) - 1)
    chosen = np.take_along_axis(times, stop[..., None], axis=-1)[..., 0]
    return np.where(start[..., 0] > 0, np.maximum(chosen, 1.0), 1.0)


def frozen_share(inputs: Any) -> Estimate:
    """Return the share of a variance over units that is frozen over time: ICC(1).

    ICC(1) = (MSB - MSW) / (MSB + (T - 1) MSW), with MSB the mean square between the units and
    MSW the one within them over time. 0: the input is new at every timestep; 1: it repeats.

    Args:
        inputs: ``[T, ...]``, T >= 2 timesteps of at least 2 (sample, unit) pairs.

    Returns:
        The share (it can fall below 0 by chance) and its standard error.

    Raises:
        ValueError: too few timesteps or units, a value that is not finite, or no variance at all.

    Example:
        >>> share = frozen_share([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 2.0, 2.0]])
        >>> round(float(share.value), 4), round(float(share.error), 4)
        (0.7391, 0.2619)

    Source:
        Shrout and Fleiss 1979, ICC(1, 1); error: Donald and Donner 1987, section 2 (large sample).
    """
    values = np.asarray(inputs, dtype=float)
    if values.ndim < 2 or values.shape[0] < 2 or values[0].size < 2:
        raise ValueError(
            f"inputs of shape {values.shape} have no intraclass correlation: [T, units] with at "
            "least 2 of each is needed"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"inputs hold {_first_bad(values)}: all values must be finite")
    values = values.reshape(values.shape[0], -1)
    steps, units = values.shape
    means = values.mean(axis=0)
    between = steps * means.var(ddof=1)
    within = ((values - means) ** 2).sum() / (units * (steps - 1))
    if between + (steps - 1) * within <= 0:
        raise ValueError(f"inputs are all {values[0, 0]:g}: without variance nothing is frozen")
    share = (between - within) / (between + (steps - 1) * within)
    error = (1 - share) * (1 + (steps - 1) * share)
    return Estimate(share, error * np.sqrt(2.0 / (steps * (steps - 1) * (units - 1))))


def _first_bad(values: np.ndarray) -> Any:
    return values[~np.isfinite(values) | (values < 0)].flat[0]
