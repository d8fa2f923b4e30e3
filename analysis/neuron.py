"""One record of a spiking layer's dynamics, and the one update rule that everything replays.

The arithmetic uses only ``+ - * >=``, so the same lines serve floats, numpy arrays and torch
tensors; this file imports neither a framework nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Reset = Literal["subtract", "to_value", "none"]
RESETS: tuple[Reset, ...] = ("subtract", "to_value", "none")


@dataclass(frozen=True)
class NeuronSpec:
    """Dynamics of one spiking layer: ``u[t] = decay v[t-1] + gain I[t] + (1 - decay) rest``.

    ``u`` is the membrane potential before the reset (compared with the threshold), ``v`` the one
    after it. Every field may be a number or an array that broadcasts over the layer's units.

    Args:
        decay: share of v that survives one timestep, in [0, 1]; no unit.
        gain: potential per unit of input current; 1 or 1 - decay in most frameworks.
        threshold: potential at which a unit fires.
        reset: ``"subtract"`` (soft), ``"to_value"`` (hard) or ``"none"``.
        reset_value: potential after a hard reset.
        rest: potential to which v relaxes without input.
        start: potential v[0] before t = 1.
        fires_at_threshold: whether u = threshold fires (``>=``) or not (``>``).
        spike_height: value that the layer emits for one spike.
        synapse_decay: decay of a filter i[t] = synapse_decay i[t-1] + I[t] in front of u; 0 for none.
        delayed_reset: whether a soft reset lands one timestep late, after the leak (snnTorch).
        reset_amount: potential that a soft reset subtracts; the threshold if None.
        reset_gradient: whether the gradient flows through the reset.

    Raises:
        ValueError: a value that no neuron can have; the message quotes it.

    Example:
        >>> spec = NeuronSpec(decay=0.5, threshold=1.0, reset="subtract")
        >>> step(spec, v=0.8, current=0.7)
        (1.1, 1.0, 0.10000000000000009)
    """

    decay: Any = 0.5
    gain: Any = 1.0
    threshold: Any = 1.0
    reset: Reset = "subtract"
    reset_value: Any = 0.0
    rest: Any = 0.0
    start: Any = 0.0
    fires_at_threshold: bool = True
    spike_height: Any = 1.0
    synapse_decay: Any = 0.0
    delayed_reset: bool = False
    reset_amount: Any = None
    reset_gradient: bool = True

    def __post_init__(self) -> None:
        if self.reset not in RESETS:
            raise ValueError(f"reset={self.reset!r} is not one of {', '.join(map(repr, RESETS))}")
        _require_in("decay", self.decay, 0.0, 1.0)
        _require_in("synapse_decay", self.synapse_decay, 0.0, 1.0)
        for name in ("gain", "threshold", "reset_value", "rest", "start", "spike_height"):
            _require_in(name, getattr(self, name), -np.inf, np.inf)
        if self.delayed_reset and self.reset == "subtract" and np.any(_known(self.decay) == 0):
            raise ValueError(
                "delayed_reset=True needs decay > 0: the late reset is kept as v = u - amount/decay"
            )


def check_stationary(spec: NeuronSpec) -> None:
    """Refuse dynamics that settle to no law, or that the theory does not describe.

    A live layer may legally have a threshold at or below its rest; the theory of a layer that fires
    because of its input does not hold there, so it is refused here and not in :class:`NeuronSpec`.

    Args:
        spec: the layer's dynamics.

    Raises:
        ValueError: a threshold at or below rest, reset value or 0 reset amount, a decay of 1 with
            no hard reset, a gain of 0; the message quotes the value and says what is possible.

    Example:
        >>> check_stationary(NeuronSpec(decay=1.0, reset="none"))
        Traceback (most recent call last):
        ...
        ValueError: decay=1.0 with reset='none' has no stationary law: take decay < 1 or reset='to_value'

    Source:
        Drift condition for decay < 1 behind Theorem 1 of Kook et al., arXiv 2511.08708.
    """
    _require(
        _known(spec.threshold) > _known(spec.rest),
        f"threshold={spec.threshold!r} must be above rest={spec.rest!r}",
    )
    if spec.reset == "to_value":
        _require(
            _known(spec.threshold) > _known(spec.reset_value),
            f"threshold={spec.threshold!r} must be above reset_value={spec.reset_value!r}",
        )
    if spec.reset == "subtract" and spec.reset_amount is not None:
        _require(
            _known(spec.reset_amount) > 0, f"reset_amount={spec.reset_amount!r} must be above 0"
        )
    _require(_known(spec.gain) != 0, f"gain={spec.gain!r} shuts the input out: take another value")
    if spec.reset != "to_value":
        _require(
            _known(spec.decay) < 1,
            f"decay={spec.decay!r} with reset={spec.reset!r} has no stationary law: "
            "take decay < 1 or reset='to_value'",
        )
    _require(
        _known(spec.synapse_decay) < 1,
        f"synapse_decay={spec.synapse_decay!r} has no stationary law: take synapse_decay < 1",
    )


def _require(holds: Any, message: str) -> None:
    if not np.all(holds):
        raise ValueError(message)


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
    theta = spec.threshold if threshold is None else threshold
    u = integrate(spec, v, current)
    s = (u >= theta) if spec.fires_at_threshold else (u > theta)
    s = s * 1.0
    return u, s, after_reset(spec, u, s, theta)


def integrate(spec: NeuronSpec, v: Any, current: Any) -> Any:
    """Return the pre-reset potential u from the carried potential v and the input current."""
    u = spec.decay * v + spec.gain * current
    if np.any(_known(spec.rest) != 0):
        u = u + (1.0 - spec.decay) * spec.rest
    return u


def after_reset(spec: NeuronSpec, u: Any, s: Any, threshold: Any = None) -> Any:
    """Return the potential after the reset, for spikes s (0 or 1) that may be observed ones."""
    if spec.reset == "none":
        return u
    if spec.reset == "to_value":
        # (1 - s) and s are exactly 0 or 1: no rounding is added.
        return u * (1.0 - s) + spec.reset_value * s
    theta = spec.threshold if threshold is None else threshold
    amount = theta if spec.reset_amount is None else spec.reset_amount
    return u - (amount / spec.decay if spec.delayed_reset else amount) * s


def replay(
    spec: NeuronSpec, current: Any, spikes: Any = None, start: Any = None, threshold: Any = None
) -> tuple[Any, Any]:
    """Recompute the pre-reset potential of a layer from what went in and what came out.

    Args:
        spec: the layer's dynamics.
        current: input current I, ``[T, ...]``.
        spikes: observed spikes (0 or 1), ``[T, ...]``; the layer's own rule if None.
        start: potential v[0]; the spec's if None.
        threshold: thresholds per timestep, ``[T]``; the spec's if None.

    Returns:
        ``(u, s)``, both ``[T, ...]`` as lists of timesteps stacked by the caller's array type:
        the pre-reset potential, and the spikes that u and the threshold imply.

    Example:
        >>> u, s = replay(NeuronSpec(decay=0.5), np.array([0.6, 0.8, 0.0]))
        >>> u.tolist(), s.tolist()
        ([0.6, 1.1, 0.050000000000000044], [0.0, 1.0, 0.0])
    """
    v = spec.start if start is None else start
    filtered: Any = 0.0
    us, ss = [], []
    for t in range(len(current)):
        filtered = (
            current[t]
            if _is_zero(spec.synapse_decay)
            else (spec.synapse_decay * filtered + current[t])
        )
        theta = None if threshold is None else threshold[t]
        u, s, v = step(spec, v, filtered, theta)
        if spikes is not None:
            v = after_reset(spec, u, spikes[t], theta)
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


def _known(value: Any) -> Any:
    """Return numbers and numpy arrays as they are, and a harmless value for live tensors.

    A learned tensor is checked where it lives: looking at it here would stop the device.
    """
    return np.asarray(value) if isinstance(value, float | int | np.ndarray | np.generic) else np.nan


def _is_zero(value: Any) -> bool:
    return bool(np.all(_known(value) == 0))


def _require_in(name: str, value: Any, low: float, high: float) -> None:
    known = _known(value)
    if np.isnan(known).all() and not isinstance(value, float | int | np.ndarray | np.generic):
        return
    if np.isnan(known).any() or np.any(known < low) or np.any(known > high):
        wanted = "a finite number" if np.isinf(low) else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value!r} is not possible: it must be {wanted}")
