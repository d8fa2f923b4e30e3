"""What is measured of a recorded layer, by name, and whether depth keeps the gradient's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from .depth import WARN_LOG
from .findings.evidence import CONFIDENCE_Z
from .gradient_statistics import GradientStatistics, recorded_statistics
from .growth import Growth, growth_rate, peak_for_growth
from .layer_gradient import inner_gradient, slope_gain
from .layer_record import (
    Estimate,
    LayerRecord,
    coverage_of,
    jackknife,
    mean_of,
    rate_of,
    spread_of,
    square_of,
)
from .recommend_forward import xi_of
from .recommend_start import settled, solve_start
from .surrogate import Surrogate

GROWTH_SOURCE = "growth of the gradient with reused recurrent weights = 1, as analysis/growth"
GROWTH_ELEMENTS = 2**18

UNITS = {
    "rate": "spikes per unit and timestep",
    "settled rate": "spikes per unit and timestep",
    "xi": "",
    "mean of u": "potential",
    "std of u": "potential",
    "shift at t = 1": "potential",
    "coverage": "share of elements",
    "E[s^2]": "1 / potential^2",
    "gain": "1 / potential^2",
    "gradient ratio": "",
    "growth": "",
}
"""What is predicted, and in which unit.

xi: distance of the mean from the threshold in standard deviations, without reset. settled rate:
that of the stationary law of the layer's current. E[s^2]: mean square of the surrogate derivative
under the law of u. gain: the same as the gradient meets it, E[(s g)^2] / E[g^2]. gradient ratio:
mean square of dL/du over that of the next layer. growth: of the gradient's size per timestep
through recurrent weights.
"""

UNEVEN = float(np.log(2.0))
"""Change of the gradient's mean square from one layer to the next that counts as its share."""


def unbalanced(records: Sequence[LayerRecord], will_change: Sequence[bool]) -> list[bool]:
    """Return for each layer whether its peak must give, so that depth keeps the gradient's size.

    The mean square of dL/du may change by a factor of 100 from the last layer to the first; if it
    changes by more, each layer whose own share is more than a factor of 2 is to be mended.

    Args:
        records: the layers with their gradients, input first.
        will_change: layers whose surrogate is set anyway, and then balanced.

    Source:
        :func:`.depth.time_verdict` for the factor of 100.
    """
    logs: list[Estimate | None] = []
    for record, above in pairwise(records):
        logs.append(_log_ratio(record, above))
    counted = [
        entry for entry, known in zip(logs, will_change, strict=False) if entry and not known
    ]
    total = sum(entry.value for entry in counted)
    error = float(np.sqrt(sum(np.nan_to_num(entry.error) ** 2 for entry in counted)))
    if abs(total) - CONFIDENCE_Z * error < WARN_LOG:
        return [False] * len(records)
    return [entry is not None and abs(entry.value) > UNEVEN for entry in logs] + [False]


def _log_ratio(record: LayerRecord, above: LayerRecord) -> Estimate | None:
    """Return ln of the gradient's mean square here over that in the next layer."""
    ratio = gradient_ratio(record, above)
    if ratio is None or not ratio.value > 0.0:
        return None
    return Estimate(float(np.log(ratio.value)), ratio.error / ratio.value)


def gradient_ratio(record: LayerRecord, above: LayerRecord | None) -> Estimate | None:
    """Return the mean square of dL/du over that of the next layer; None if not known."""
    if above is None or None in (record.surrogate, above.surrogate):
        return None
    if record.grad_s is None or above.grad_s is None or record.samples != above.samples:
        return None
    assert record.surrogate is not None
    assert above.surrogate is not None
    own = np.square(inner_gradient(record, record.surrogate).u)
    theirs = np.square(inner_gradient(above, above.surrogate).u)
    if not theirs.sum() > 0.0:
        return None

    def ratio(below: Any, top: Any) -> Any:
        return below / top

    # Units of two layers do not pair up: each layer's own drawing counts for itself.
    found = jackknife(ratio, own.mean(axis=(0, 2)), theirs.mean(axis=(0, 2)))
    drawn = [
        np.sqrt(1.0 - part.share) * jackknife(lambda mean: mean, squares.mean(axis=(0, 1))).error
        / squares.mean()
        for part, squares in ((record, own), (above, theirs))
        if part.share < 1.0
    ]  # fmt: skip
    error = np.sqrt(found.error**2 + found.value**2 * sum(part**2 for part in drawn))
    return Estimate(found.value, float(error))


def wanted_gain(now: LayerRecord, above: LayerRecord | None) -> float | None:
    """Return the gain at which dL/du is as large as in the next layer; None if unknown."""
    if above is None or above.surrogate is None or above.grad_s is None or now.grad_s is None:
        return None
    arriving = float(np.mean(np.square(now.grad_s, dtype=np.float64)))
    theirs = float(np.mean(np.square(inner_gradient(above, above.surrogate).u)))
    return theirs / arriving if arriving > 0.0 and theirs > 0.0 else None


def figures(
    record: LayerRecord, above: LayerRecord | None, power: float = 0.0
) -> dict[str, Estimate]:
    """Return what is measured of a layer, by the names of :data:`UNITS`."""
    found = {
        "rate": rate_of(record),
        "xi": xi_of(record),
        "mean of u": mean_of(record, record.u),
        "std of u": spread_of(record),
    }
    if (law := settled(record)) is not None:
        found["settled rate"] = Estimate(law.rate, float("nan"))
    if (start := solve_start(record)) is not None:
        found["shift at t = 1"] = Estimate(start.before, float("nan"))
    return found | backward_figures(record, above, power)


def backward_figures(
    record: LayerRecord, above: LayerRecord | None, power: float = 0.0
) -> dict[str, Estimate]:
    """Return those of the figures that depend on the surrogate."""
    if record.surrogate is None:
        return {}
    found = {
        "coverage": coverage_of(record, record.surrogate),
        "E[s^2]": square_of(record, record.surrogate),
    }
    if (growth := growth_of(record, power)) is not None:
        found["growth"] = Estimate(growth.chi, float("nan"))
    if record.grad_s is not None and np.any(record.grad_s):
        found["gain"] = slope_gain(record, record.surrogate)
        if (ratio := gradient_ratio(record, above)) is not None:
            found["gradient ratio"] = ratio
    return found


def growth_of(record: LayerRecord, power: float) -> Growth | None:
    """Return the growth of the gradient per timestep through recurrent weights.

    Args:
        record: the layer.
        power: n E[w^2] of its recurrent weights, times the gain squared.

    Returns:
        The growth; None for a layer without recurrent weights, one too short to tell, or one whose
        units differ in their dynamics.
    """
    stats = _statistics(record)
    return None if stats is None or not power > 0.0 else growth_rate(stats, power)


def peak_for_time(record: LayerRecord, surrogate: Surrogate, power: float) -> tuple[float, ...]:
    """Return the peaks at which a recurrent layer keeps its gradient's size over time."""
    stats = _statistics(replace(record, surrogate=surrogate))
    if stats is None:
        return ()
    return peak_for_growth(stats, power, peak=float(surrogate.peak)).values


def _statistics(record: LayerRecord) -> GradientStatistics | None:
    few = record.thinned(GROWTH_ELEMENTS)
    if few.surrogate is None or any(np.ndim(x) for x in (few.spec.decay, few.spec.threshold)):
        return None
    try:
        return recorded_statistics(few.spec, few.u, few.surrogate, spikes=few.spikes)
    except ValueError:  # too short, or no element where gradient passes
        return None
