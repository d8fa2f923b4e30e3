"""The gradient inside a recorded layer under any surrogate, from what came down from above.

At a given forward pass dL/ds from downstream does not depend on the layer's own surrogate, so one
recording tells dL/du for every shape, peak and width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .layer_record import Array, Estimate, LayerRecord, estimate
from .neuron import NeuronSpec
from .surrogate import Surrogate


class InnerGradient(NamedTuple):
    """Gradients inside one layer, each ``[T, samples, units]``.

    Args:
        u: dL/du.
        s: dL/ds in total, the path through the reset included.
        slope: the surrogate derivative, 1 / potential.
    """

    u: Array
    s: Array
    slope: Array


def inner_gradient(record: LayerRecord, surrogate: Surrogate) -> InnerGradient:
    """Return the gradient at u under a surrogate, by the layer's own recursion in time.

    ``dL/du[t] = kept[t] decay dL/du[t+1] + s'(u[t]) (dL/ds[t] + (dv/ds)[t] decay dL/du[t+1])``,
    where kept is 1, or 1 - s for a hard reset.

    Args:
        record: a record with gradients.
        surrogate: the derivative of the spike that is considered.

    Returns:
        The gradients; exact for a layer whose spikes do not come back to itself.

    Raises:
        ValueError: a record without gradients.

    Example:
        >>> one = np.ones((2, 1, 1))
        >>> spec = NeuronSpec(decay=0.5, reset_gradient=False)
        >>> layer = LayerRecord("lif", spec, None, one, one, one, one[0], grad_s=one)
        >>> inner_gradient(layer, Surrogate("rectangular", 2.0)).u.ravel().tolist()
        [3.0, 2.0]

    Source:
        Differentiated from the update rule; for a soft reset that is hidden from the gradient it
        is equation (5) of Neftci, Mostafa and Zenke 2019 with the leak alone.
    """
    if record.grad_s is None:
        raise ValueError(f"layer {record.name!r} has no gradient: give targets or a loss")
    spec = record.spec
    slope = np.asarray(surrogate.derivative(record.z.astype(np.float64)))
    kept = 1.0 - record.spikes if spec.reset == "to_value" else np.ones_like(record.spikes)
    through = _reset_slope(spec, record.u)
    above = record.grad_s.astype(np.float64)
    delta, total = np.empty_like(slope), np.empty_like(slope)
    carried = np.zeros_like(slope[0])
    for t in range(len(slope) - 1, -1, -1):
        total[t] = above[t] + (0.0 if through is None else through[t] * carried)
        delta[t] = kept[t] * carried + slope[t] * total[t]
        carried = spec.decay * delta[t]
    return InnerGradient(delta, total, slope)


def _reset_slope(spec: NeuronSpec, u: Array) -> Any:
    """Return dv/ds at fixed u, ``[T, ...]``; None where the reset carries no gradient."""
    if not spec.reset_gradient or spec.reset == "none":
        return None
    if spec.reset == "to_value":
        return spec.reset_value - u
    amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
    if spec.delayed_reset:
        amount = amount / spec.decay
    return np.broadcast_to(-np.asarray(amount, dtype=float), u.shape)


def pass_gain(record: LayerRecord, surrogate: Surrogate) -> Estimate:
    """Return how a layer changes the gradient's size: mean square of dL/du over that of dL/ds.

    Args:
        record: a record with gradients.
        surrogate: the derivative of the spike that is considered.

    Returns:
        The ratio over all timesteps, 1 / potential^2; nan where no gradient arrives.
    """
    inner = inner_gradient(record, surrogate)
    assert record.grad_s is not None
    above = np.square(record.grad_s.astype(np.float64))
    return estimate(record, lambda below, above: below / above, np.square(inner.u), above)


def slope_gain(record: LayerRecord, surrogate: Surrogate) -> Estimate:
    """Return the gain of the surrogate as the gradient meets it: E[(s' g)^2] / E[g^2].

    It is E[s'^2] where gradient and potential are independent; here they need not be.

    Args:
        record: a record with gradients.
        surrogate: the derivative of the spike that is considered.

    Returns:
        The gain, 1 / potential^2.
    """
    inner = inner_gradient(record, surrogate)
    return estimate(
        record,
        lambda below, above: below / above,
        np.square(inner.slope * inner.s),
        np.square(inner.s),
    )


def time_factor(record: LayerRecord, surrogate: Surrogate) -> tuple[float, float, float]:
    """Return E[A^2] of leak and reset as a polynomial of the surrogate's peak.

    Args:
        record: a record.
        surrogate: its shape and width count, its peak does not.

    Returns:
        ``(c0, c1, c2)``: E[A^2] = c0 + c1 peak + c2 peak^2, no unit, A = du[t+1]/du[t].

    Source:
        E[A^2] of Condition IV, Herranz-Celotti and Rouat, arXiv 2202.00282, from the update rule.
    """
    spec = record.spec
    kept = 1.0 - record.spikes if spec.reset == "to_value" else np.ones_like(record.spikes)
    leak = spec.decay * kept
    through = _reset_slope(spec, record.u)
    if through is None:
        return float(np.mean(np.square(leak))), 0.0, 0.0
    unit = np.asarray(surrogate.derivative(record.z)) / surrogate.peak
    reset = spec.decay * through * unit
    return (
        float(np.mean(np.square(leak))),
        float(2.0 * np.mean(leak * reset)),
        float(np.mean(np.square(reset))),
    )
