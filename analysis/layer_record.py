"""One layer as a few batches show it: currents, potentials, spikes, gradients, and figures of them.

Samples are the unit of every error bar: elements of one sample are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .neuron import NeuronSpec, replay
from .surrogate import Surrogate

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error over samples.

    Args:
        value: the figure.
        error: its standard error, same unit; nan where one sample is all there is.
    """

    value: float
    error: float


@dataclass(frozen=True)
class LayerRecord:
    """What one spiking layer did on a few batches.

    Args:
        name: name of the layer.
        spec: its dynamics; fields are numbers or one value per unit, ``[units]``.
        surrogate: derivative of its spike; None if not known.
        current: input current, ``[T, samples, units]``.
        u: pre-reset potential, same shape.
        spikes: 0 or 1, same shape.
        start: potential before t = 1, ``[samples, units]``.
        grad_s: dL/ds from downstream, same shape as u; None where no gradient came.
        mismatch: share of spikes that the dynamics do not explain.
        share: share of the layer's units that were kept.
    """

    name: str
    spec: NeuronSpec
    surrogate: Surrogate | None
    current: Array
    u: Array
    spikes: Array
    start: Array
    grad_s: Array | None = None
    mismatch: float = 0.0
    share: float = 1.0

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.u.shape[1])

    @property
    def z(self) -> Array:
        """Distance from the threshold, u - threshold, ``[T, samples, units]``."""
        return np.asarray(self.u - self.spec.threshold)

    def rerun(self, spec: NeuronSpec, current: Array, start: Any = None) -> LayerRecord:
        """Return the layer under other dynamics, another current or another start.

        Args:
            spec: the dynamics.
            current: input current, ``[T, samples, units]``.
            start: potential before t = 1; that of the record if None.

        Returns:
            The record with its own spikes; without gradients, which would be others.

        Example:
            >>> still = np.zeros((2, 1, 1))
            >>> layer = LayerRecord("lif", NeuronSpec(decay=0.5), None, still, still, still,
            ...                     np.zeros((1, 1)))
            >>> layer.rerun(layer.spec, still + 0.8).spikes.ravel().tolist()
            [0.0, 1.0]
        """
        begin = self.start if start is None else np.broadcast_to(start, self.start.shape)
        u, spikes = replay(spec, current, start=begin.astype(current.dtype))
        return replace(
            self, spec=spec, current=current, u=u, spikes=spikes, start=begin, grad_s=None
        )

    def thinned(self, elements: int) -> LayerRecord:
        """Return the record of evenly spaced samples, so many elements at most, for a search."""
        step = max(1, -(-self.u.size // elements))
        if step == 1 or self.samples < 4:
            return self
        chosen = slice(None, None, min(step, self.samples // 2))
        return replace(
            self,
            current=self.current[:, chosen],
            u=self.u[:, chosen],
            spikes=self.spikes[:, chosen],
            start=self.start[chosen],
            grad_s=None if self.grad_s is None else self.grad_s[:, chosen],
        )


def jackknife(figure: Callable[..., Any], *per_sample: Array) -> Estimate:
    """Return a function of means over samples, with its standard error by leaving one out.

    Args:
        figure: takes the means, scalars or arrays of replicates, and returns the figure.
        per_sample: ``[samples]`` each.

    Returns:
        The figure; its error is nan for a single sample.

    Example:
        >>> jackknife(lambda a, b: a / b, np.array([1.0, 3.0]), np.array([2.0, 2.0]))
        Estimate(value=1.0, error=0.5)

    Source:
        Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.
    """
    count = len(per_sample[0])
    sums = [np.asarray(values, dtype=float).sum() for values in per_sample]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure(*(total / count for total in sums)))
        if count < 2:
            return Estimate(value, float("nan"))
        left = figure(
            *(
                (total - values) / (count - 1)
                for total, values in zip(sums, per_sample, strict=True)
            )
        )
        left = np.broadcast_to(np.asarray(left, dtype=float), (count,))
        spread = float(np.sqrt((count - 1) * np.mean((left - left.mean()) ** 2)))
    return Estimate(value, spread)


def estimate(record: LayerRecord, figure: Callable[..., Any], *values: Array) -> Estimate:
    """Return a function of means, with an error over samples and over the units that were drawn.

    Args:
        record: the layer.
        figure: takes the means and returns the figure.
        values: ``[T, samples, units]`` each.

    Returns:
        The figure; its error holds the spread over samples, and that over units as far as not all
        of them were kept.

    Source:
        Two-way variance without the interaction; finite population correction of Cochran 1977,
        Sampling Techniques.
    """
    found = jackknife(figure, *(_mean(entry, (0, 2)) for entry in values))
    if record.share >= 1.0:
        return found
    units = jackknife(figure, *(_mean(entry, (0, 1)) for entry in values))
    return Estimate(found.value, float(np.hypot(found.error, units.error * _left(record))))


def _left(record: LayerRecord) -> float:
    return float(np.sqrt(1.0 - record.share))


def _mean(values: Array, axes: tuple[int, int]) -> Array:
    return np.asarray(values.mean(axis=axes, dtype=np.float64))


def mean_of(record: LayerRecord, values: Array) -> Estimate:
    """Return the mean of ``[T, samples, units]``.

    Example:
        >>> values = np.array([[[0.0, 2.0], [2.0, 4.0]]])
        >>> mean_of(LayerRecord("lif", NeuronSpec(), None, values, values, values, values), values)
        Estimate(value=2.0, error=1.0)
    """
    return estimate(record, lambda mean: mean, values)


def rate_of(record: LayerRecord) -> Estimate:
    """Return spikes per unit and timestep."""
    return mean_of(record, record.spikes)


def spread_of(record: LayerRecord) -> Estimate:
    """Return the standard deviation of u over timesteps, samples and units, potential."""
    z = record.z.astype(np.float64)
    z -= z.mean()
    return estimate(
        record, lambda mean, square: np.sqrt(np.maximum(square - mean**2, 0.0)), z, np.square(z)
    )


def coverage_of(record: LayerRecord, surrogate: Surrogate) -> Estimate:
    """Return the share of elements that the surrogate reaches with 1 % of its peak or more."""
    return mean_of(record, np.abs(record.z) < surrogate.half_width())


def square_of(record: LayerRecord, surrogate: Surrogate) -> Estimate:
    """Return E[s^2], the mean square of the surrogate derivative, 1 / potential^2."""
    return mean_of(record, np.square(surrogate.derivative(record.z.astype(np.float64))))


def participation_of(record: LayerRecord, surrogate: Surrogate) -> float:
    """Return the share of elements that carry the gradient, E[s^2]^2 / E[s^4]; 0 for none.

    Source:
        Participation ratio, as n_eff = n E[s^2]^2 / E[s^4].
    """
    square = np.square(surrogate.derivative(record.z.astype(np.float64)) / surrogate.peak)
    fourth = float(np.mean(square**2))
    return float(np.mean(square)) ** 2 / fourth if fourth > 0.0 else 0.0
