"""Weights, bias or threshold of a recorded layer, solved for the statistics of its potential.

The yardstick is xi, the distance from the mean of the potential to the threshold in standard
deviations, for the potential that the same currents would drive without reset. It is linear in the
currents, so that the solution is closed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .findings.evidence import CONFIDENCE_Z
from .layer_record import Array, Estimate, LayerRecord, estimate, rate_of
from .neuron import NeuronSpec, replay

XI_TARGET = 1.0
"""Threshold one standard deviation above the mean: the fluctuation-driven regime."""

XI_QUIET = 3.0
"""Above it units hardly ever fire: the end of the range that the source recommends."""

RATE_BUSY = 0.6
"""Above it spikes are the rule: more than the half at which a spike says most, with a margin."""

SOURCE = (
    "Rossbroich, Gygax, Zenke 2022: fluctuation-driven initialisation, xi = 1; "
    "prediction by replaying the layer on its recorded currents"
)


@dataclass(frozen=True)
class Currents:
    """A layer's input current, split by what its weights do to it: I = scale weighted + rest.

    Args:
        weighted: the part that grows with the weights, ``[T, samples, units]``.
        rest: the part that does not: bias, identity paths.
    """

    weighted: Array
    rest: Array

    def at(self, scale: float, shift: float = 0.0) -> Array:
        """Return the current with weights times ``scale`` and ``shift`` added to the bias."""
        return np.asarray(scale * self.weighted + (self.rest + shift))


@dataclass(frozen=True)
class ForwardSolution:
    """What brings the potential of a layer to the wanted distance from the threshold.

    Args:
        scale: factor of the weights.
        shift: what is added to each entry of the bias, current.
        threshold: proposed threshold, potential; None to leave it.
    """

    scale: float = 1.0
    shift: float = 0.0
    threshold: float | None = None


def free_distance(spec: NeuronSpec, current: Array, start: Array) -> Array:
    """Return u - threshold as the currents drive it without any reset, ``[T, samples, units]``.

    Example:
        >>> free_distance(NeuronSpec(decay=0.5), np.ones((2, 1, 1)), np.zeros((1, 1))).ravel()
        array([0. , 0.5])
    """
    u, _ = replay(replace(spec, reset="none"), current, start=start.astype(current.dtype))
    return np.asarray(u - spec.threshold)


def xi_of(record: LayerRecord) -> Estimate:
    """Return xi, (threshold - mean) / standard deviation of the potential without reset, no unit.

    Args:
        record: the record of a layer.

    Returns:
        xi with its error over samples; inf for a potential that never moves below the threshold.

    Source:
        Rossbroich, Gygax, Zenke 2022, Neuromorphic Computing and Engineering 2: xi of the
        fluctuation-driven regime.
    """
    z = free_distance(record.spec, record.current, record.start).astype(np.float64)
    return estimate(
        record,
        lambda mean, square: -mean / np.sqrt(np.maximum(square - mean**2, 0.0)),
        z,
        np.square(z),
    )


def solve_scale(
    spec: NeuronSpec, currents: Currents, start: Array, xi: float = XI_TARGET, shift: float = 0.0
) -> float | None:
    """Return the factor of the weights at which xi is met: a quadratic in the factor.

    Args:
        spec: the layer's dynamics.
        currents: its recorded current in two parts.
        start: potential before t = 1, ``[samples, units]``.
        xi: wanted distance of the mean from the threshold, standard deviations.
        shift: added to the bias beside, current.

    Returns:
        The positive solution nearest to 1; None if there is none.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (4, 500, 20))
        >>> parts = Currents(noise, np.zeros_like(noise))
        >>> round(solve_scale(NeuronSpec(decay=0.0), parts, np.zeros((500, 20))), 1)
        10.0

    Source:
        Rossbroich, Gygax, Zenke 2022, with the recorded law in place of Poisson inputs.
    """
    still = replace(spec, threshold=0.0, rest=0.0, reset="none", reset_amount=None)
    grows = free_distance(still, currents.weighted, np.zeros_like(start)).astype(np.float64)
    stays = free_distance(spec, currents.rest + shift, start).astype(np.float64)
    mean, gap = float(grows.mean()), -float(stays.mean())
    own, mixed = float(grows.var()), float(np.mean((grows - mean) * (stays + gap)))
    a = mean**2 - xi**2 * own
    b = -2.0 * (gap * mean + xi**2 * mixed)
    c = gap**2 - xi**2 * float(stays.var())
    roots: Array = np.roots([a, b, c])  # leading zeros are left out
    # Squaring brings in solutions on the other side of the threshold, which are none.
    good = [
        float(root.real)
        for root in roots.astype(complex)
        if abs(root.imag) <= 1e-9 * abs(root) and root.real > 0.0
        and (gap - root.real * mean) * np.sign(xi) >= 0.0
    ]  # fmt: skip
    return min(good, key=lambda root: abs(np.log(root)), default=None)


def solve_forward(
    record: LayerRecord,
    currents: Currents | None,
    *,
    has_bias: bool,
    xi: float = XI_TARGET,
) -> ForwardSolution | None:
    """Return the least change that brings a layer's potential to the wanted xi.

    Weights first. Where the mean of the current alone would do the work (its spread would stay
    below a third of the way to the threshold) the bias centres it, too. Without weights that can
    be changed, the threshold moves to mean + xi standard deviations.

    Args:
        record: the layer.
        currents: its current split by what the weights do; None if they cannot be changed.
        has_bias: whether every unit has a bias that can be changed.
        xi: wanted distance, standard deviations.

    Returns:
        The solution; None where nothing in reach leads there.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (1, 500, 20))
        >>> layer = LayerRecord("lif", NeuronSpec(), None, noise, noise, 0 * noise, 0 * noise[0])
        >>> found = solve_forward(layer, Currents(noise, 0 * noise), has_bias=False)
        >>> round(found.scale, 1), found.shift, found.threshold
        (10.0, 0.0, None)

    Source:
        Rossbroich, Gygax, Zenke 2022 (weights, bias); threshold: mean + standard deviation, as
        DS-ATGO, arXiv 2511.13050.
    """
    spec = record.spec
    if currents is not None:
        way = float(np.mean(np.asarray(spec.threshold) - spec.rest))
        scale = solve_scale(spec, currents, record.start, xi)
        if scale is not None:
            free = free_distance(spec, currents.at(scale), record.start)
            if float(free.std()) >= way / XI_QUIET or not has_bias:
                return ForwardSolution(scale=scale)
        if has_bias and (both := _centred(spec, currents, record.start, xi)) is not None:
            return both
        if scale is not None:
            return ForwardSolution(scale=scale)
    free = free_distance(spec, record.current, record.start).astype(np.float64)
    spread = float(free.std())
    if np.size(spec.threshold) > 1 or not spread > 0.0:
        return None
    threshold = float(spec.threshold) + float(free.mean()) + xi * spread
    if not threshold > float(np.max(spec.rest)):
        return None
    return ForwardSolution(threshold=threshold)


def _centred(
    spec: NeuronSpec, currents: Currents, start: Array, xi: float
) -> ForwardSolution | None:
    """Return weights and bias that give xi around a mean at rest."""
    still = replace(spec, threshold=0.0, rest=0.0, reset="none", reset_amount=None)
    unit = np.ones((len(currents.weighted), 1, 1))
    response = float(free_distance(still, unit, np.zeros((1, 1))).mean())
    if not response > 0.0:
        return None
    # A shift that keeps the mean at rest turns each part into one whose mean is at rest.
    grows = float(free_distance(still, currents.weighted, np.zeros_like(start)).mean())
    stays = free_distance(spec, currents.rest, start) + np.asarray(spec.threshold) - spec.rest
    base = float(np.mean(stays))
    centred = Currents(currents.weighted - grows / response, currents.rest - base / response)
    scale = solve_scale(spec, centred, start, xi)
    if scale is None:
        return None
    return ForwardSolution(scale=scale, shift=-(scale * grows + base) / response)


def apply_forward(
    record: LayerRecord, currents: Currents | None, solution: ForwardSolution
) -> LayerRecord:
    """Return the layer as the solution would make it, replayed on its recorded currents.

    Args:
        record: the layer as it is.
        currents: its current in two parts; needed where weights or bias change.
        solution: what changes.

    Returns:
        The record; exact as long as the layers before stay as recorded.
    """
    spec = record.spec
    if solution.threshold is not None:
        spec = replace(spec, threshold=solution.threshold)
    current = record.current
    if currents is not None:
        current = currents.at(solution.scale, solution.shift)
    return record.rerun(spec, current)


def drive_fault(record: LayerRecord) -> str:
    """Return a sentence on what is wrong with how a layer is driven; empty if nothing is."""
    xi, rate = xi_of(record), rate_of(record)
    if rate.value - CONFIDENCE_Z * np.nan_to_num(rate.error) > RATE_BUSY:
        return f"{100 * rate.value:.0f} % of all elements fire, so that a spike says little."
    if not np.isfinite(xi.value):
        return "" if rate.value > 0.0 else "Its potential does not move, it never fires."
    if xi.value - CONFIDENCE_Z * np.nan_to_num(xi.error) > XI_QUIET:
        return (
            f"The threshold lies {xi.value:.3g} standard deviations above the mean of the "
            f"potential, the rate is {rate.value:.2g}."
        )
    return ""


def is_closer(now: LayerRecord, after: LayerRecord) -> bool:
    """Return whether a layer that is still out of range is less so than before."""
    before = float(np.nan_to_num(xi_of(now).value, nan=np.inf))
    return abs(xi_of(after).value - XI_TARGET) < abs(before - XI_TARGET)
