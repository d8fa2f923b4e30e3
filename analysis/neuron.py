"""The one update rule of a spiking layer, which layers, replay and theory share.

The arithmetic uses only ``+ - * >=``, so the same lines serve floats, numpy arrays and torch
tensors; this file imports neither a framework nor torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import is_number
from .neuron_spec import RESETS, NeuronSpec, Reset, check_stationary

__all__ = [
    "RESETS",
    "NeuronSpec",
    "Reset",
    "after_reset",
    "check_stationary",
    "fires",
    "integrate",
    "replay",
    "step",
]


def integrate(spec: NeuronSpec, v: Any, current: Any) -> Any:
    """Return the pre-reset potential u from the carried potential v and the input current.

    Args:
        spec: the layer's dynamics.
        v: potential after the last reset, any shape.
        current: input of this timestep, already filtered if there is a synapse, same shape.

    Returns:
        ``decay v + gain current + (1 - decay) rest``, potential, in the shape of the current.

    Example:
        >>> integrate(NeuronSpec(decay=0.5, rest=0.5), v=0.5, current=1.0)
        1.5
    """
    u = spec.decay * v + spec.gain * current
    if not _is_zero(spec.rest):
        u = u + (1.0 - spec.decay) * spec.rest
    return u


def fires(spec: NeuronSpec, u: Any, threshold: Any = None) -> Any:
    """Return the spikes of the pre-reset potential u.

    Args:
        spec: the layer's dynamics.
        u: potential before the reset, any shape.
        threshold: threshold in force at this timestep; the spec's if None.

    Returns:
        0 or 1 in the shape and dtype of u.

    Example:
        >>> fires(NeuronSpec(fires_at_threshold=False), np.array([0.5, 1.0, 1.5]))
        array([0., 0., 1.])
    """
    theta = spec.threshold if threshold is None else threshold
    return _in_dtype_of(u, u >= theta if spec.fires_at_threshold else u > theta)


def after_reset(spec: NeuronSpec, u: Any, s: Any, threshold: Any = None) -> Any:
    """Return the potential after the reset, for spikes that may be observed ones.

    Args:
        spec: the layer's dynamics.
        u: potential before the reset, any shape.
        s: spikes, 0 or 1, same shape.
        threshold: threshold in force at this timestep, which a soft reset subtracts; the spec's
            if None.

    Returns:
        The carried potential v, in the shape of u. A late soft reset is carried ahead of the leak,
        as ``u - amount s / decay``, so that the next u comes out right.

    Example:
        >>> after_reset(NeuronSpec(reset="to_value", reset_value=0.25), np.array([0.5, 1.5]),
        ...             np.array([0.0, 1.0]))
        array([0.5 , 0.25])
    """
    if spec.reset == "none":
        return u
    if spec.reset == "to_value":
        # (1 - s) and s are exactly 0 or 1: no rounding is added.
        return u * (1.0 - s) + spec.reset_value * s
    theta = spec.threshold if threshold is None else threshold
    amount = theta if spec.reset_amount is None else spec.reset_amount
    return u - (amount / spec.decay if spec.delayed_reset else amount) * s


def step(spec: NeuronSpec, v: Any, current: Any, threshold: Any = None) -> tuple[Any, Any, Any]:
    """Advance a layer by one timestep.

    Args:
        spec: the layer's dynamics.
        v: potential after the last reset, any shape.
        current: input of this timestep (already filtered, if there is a synapse), same shape.
        threshold: threshold in force at this timestep; the spec's if None.

    Returns:
        ``(u, s, v)``: potential before the reset, spikes (0 or 1), potential after the reset.

    Example:
        >>> step(NeuronSpec(decay=0.5, reset="to_value"), v=0.0, current=np.array([0.4, 2.0]))
        (array([0.4, 2. ]), array([0., 1.]), array([0.4, 0. ]))
    """
    u = integrate(spec, v, current)
    s = fires(spec, u, threshold)
    return u, s, after_reset(spec, u, s, threshold)


def replay(
    spec: NeuronSpec,
    current: Any,
    spikes: Any = None,
    start: Any = None,
    threshold: Any = None,
    filtered: Any = 0.0,
) -> tuple[Any, Any]:
    """Recompute the pre-reset potential of a layer from what went in and what came out.

    Fed with the observed spikes, errors cannot grow; and wherever the returned spikes differ from
    the observed ones, spec or start do not describe the layer.

    Args:
        spec: the layer's dynamics.
        current: input current I, ``[T, ...]``.
        spikes: observed spikes (0 or 1), ``[T, ...]``; the layer's own rule if None.
        start: potential v[0]; the spec's if None.
        threshold: thresholds per timestep, ``[T]`` or ``[T, ...]``; the spec's if None.
        filtered: current that the synaptic filter holds before the first timestep.

    Returns:
        ``(u, s)``, both ``[T, ...]`` in the array type of the current: the pre-reset potential,
        and the spikes that u and the threshold imply.

    Raises:
        ValueError: no timestep, or spikes or thresholds of another length than the current.

    Example:
        >>> u, s = replay(NeuronSpec(decay=0.5), np.array([0.6, 0.8, 0.0]))
        >>> u.tolist(), s.tolist()
        ([0.6, 1.1, 0.050000000000000044], [0.0, 1.0, 0.0])
    """
    if len(current) == 0:
        raise ValueError("current has no timestep: replay needs at least one")
    for name, other in (("spikes", spikes), ("threshold", threshold)):
        if other is not None and len(other) != len(current):
            raise ValueError(
                f"{name} has {len(other)} timesteps, but current has {len(current)}: "
                "give one per timestep"
            )
    v = _in_precision_of(current[0], spec.start if start is None else start)
    us, ss = [], []
    for t in range(len(current)):
        filtered = (
            current[t]
            if _is_zero(spec.synapse_decay)
            else spec.synapse_decay * filtered + current[t]
        )
        theta = None if threshold is None else threshold[t]
        u = integrate(spec, v, filtered)
        s = fires(spec, u, theta)
        v = after_reset(spec, u, s if spikes is None else _in_dtype_of(u, spikes[t]), theta)
        us.append(u)
        ss.append(s)
    return _stack(us), _stack(ss)


def _stack(parts: list[Any]) -> Any:
    """Stack along a new first axis in whatever array type the parts have."""
    first = parts[0]
    if isinstance(first, float | int | np.ndarray | np.generic):
        return np.stack([np.asarray(part) for part in parts])
    # A torch tensor: build the result through its own methods, without importing torch.
    out = first.new_empty((len(parts), *first.shape))
    for t, part in enumerate(parts):
        out[t] = part
    return out


def _in_precision_of(current: Any, start: Any) -> Any:
    """Return a start potential of numbers as a layer holds it, in the precision of its input."""
    if not is_number(start):
        return start
    if isinstance(current, np.ndarray | np.generic):
        return np.asarray(start, dtype=np.result_type(current.dtype, np.float16))
    if hasattr(current, "new_tensor") and current.is_floating_point():
        return current.new_tensor(start)
    return start


def _in_dtype_of(like: Any, mask: Any) -> Any:
    """Return a mask as 0 and 1 in the dtype of a potential, so that the reset does not widen it."""
    dtype = getattr(like, "dtype", float)
    if isinstance(mask, np.ndarray | np.generic):
        return mask.astype(dtype)
    return mask.to(dtype) if hasattr(mask, "to") else float(mask)


def _is_zero(value: Any) -> bool:
    # A live tensor is not looked at: that would stop the device.
    return is_number(value) and bool(np.all(np.asarray(value) == 0))
