"""The record of one spiking layer's dynamics, from every notation of the leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from scipy import special

from .checks import ABOVE_ZERO, LARGEST, is_number, number, require

Reset = Literal["subtract", "to_value", "none"]
RESETS: tuple[Reset, ...] = ("subtract", "to_value", "none")


@dataclass(frozen=True)
class NeuronSpec:
    """Dynamics of one spiking layer: ``u[t] = decay v[t-1] + gain I[t] + (1 - decay) rest``.

    ``u`` is the membrane potential before the reset (compared with the threshold), ``v`` the one
    after it. Every field may be a number, an array that broadcasts over the layer's units, or a
    tensor. Tensors are not checked, since looking at them would stop the device.

    Args:
        decay: share of v that survives one timestep, in [0, 1]; no unit.
        gain: potential per unit of input current; 1 or 1 - decay in most frameworks.
        threshold: potential at which a unit fires; inf, for a layer that never fires, is allowed
            unless the soft reset would subtract it.
        reset: ``"subtract"`` (soft), ``"to_value"`` (hard) or ``"none"``.
        reset_value: potential after a hard reset.
        rest: potential to which v relaxes without input.
        start: potential v[0] before t = 1.
        fires_at_threshold: whether u = threshold fires (``>=``) or not (``>``).
        spike_height: value that the layer emits for one spike.
        synapse_decay: decay in [0, 1] of a filter i[t] = synapse_decay i[t-1] + I[t] that drives u
            in place of I; 0 for none.
        delayed_reset: whether a soft reset lands one timestep late, after the leak (snnTorch). A
            late hard reset to 0 equals an ordinary one, so the hard reset ignores this.
        reset_amount: potential that a soft reset subtracts; the threshold if None.
        reset_gradient: whether the gradient flows through the reset.

    Raises:
        ValueError: a value that no neuron can have; the message quotes it.

    Example:
        >>> spec = NeuronSpec(decay=0.5, threshold=1.0, reset="subtract")
        >>> spec.decay, spec.gain, spec.start
        (0.5, 1.0, 0.0)
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
        for name in ("fires_at_threshold", "delayed_reset", "reset_gradient"):
            if not isinstance(flag := getattr(self, name), bool):
                raise ValueError(f"{name}={flag!r} is not possible: it must be True or False")
        if self.reset not in RESETS:
            raise ValueError(f"reset={self.reset!r} is not one of {', '.join(map(repr, RESETS))}")
        for name in ("decay", "synapse_decay"):
            self._settle(name, 0.0, 1.0, "between 0 and 1")
        subtracted = self.reset == "subtract" and self.reset_amount is None
        self._settle("threshold", -LARGEST, LARGEST if subtracted else np.inf, "a finite number")
        for name in ("gain", "reset_value", "rest", "start", "spike_height"):
            self._settle(name, -LARGEST, LARGEST, "a finite number")
        if self.reset_amount is not None:
            self._settle("reset_amount", -LARGEST, LARGEST, "a finite number, or None")
        if self.delayed_reset and self.reset == "subtract" and is_number(self.decay):
            require(
                np.asarray(self.decay) > 0,
                f"decay={self.decay!r} with delayed_reset=True is not possible: take decay > 0, "
                "since the late reset is carried as v = u - amount / decay",
            )

    def _settle(self, name: str, low: float, high: float, wanted: str) -> None:
        """Check one field, and keep it as a plain number, an array or the tensor that it is."""
        object.__setattr__(self, name, number(name, getattr(self, name), low, high, wanted))

    @classmethod
    def from_tau(cls, tau: Any, *, decay_input: bool = True, **others: Any) -> NeuronSpec:
        """Return the neuron u = v + (I - (v - rest)) / tau, or with the input outside the leak.

        Args:
            tau: time constant in timesteps, >= 1.
            decay_input: True for gain 1/tau; False for u = v - (v - rest) / tau + I, gain 1.
            **others: further fields of :class:`NeuronSpec`. A SpikingJelly layer with a number as
                ``v_reset`` has ``reset="to_value"`` and that number as rest and reset value.

        Returns:
            The spec with decay 1 - 1/tau.

        Raises:
            ValueError: tau < 1 or not a number.

        Example:
            >>> spec = NeuronSpec.from_tau(1.25, decay_input=False)
            >>> round(spec.decay, 12), spec.gain
            (0.2, 1.0)

        Source:
            SpikingJelly ``LIFNode``; the "decay" and "mul" conventions of Kook et al. 2511.08708.
        """
        tau = number("tau", tau, 1.0, np.inf, "at least 1 timestep")
        return cls(decay=1.0 - 1.0 / tau, gain=1.0 / tau if decay_input else 1.0, **others)

    @classmethod
    def from_time_constant(
        cls,
        tau: Any,
        dt: Any = 1.0,
        *,
        normalise_input: bool = False,
        tau_synapse: Any = None,
        **others: Any,
    ) -> NeuronSpec:
        """Return the neuron that decays by exp(-dt / tau) in each timestep.

        Args:
            tau: membrane time constant, above 0, in the unit of dt.
            dt: length of a timestep, above 0.
            normalise_input: True for gain 1 - decay, False for gain 1.
            tau_synapse: time constant of a synaptic filter; None for none.
            **others: further fields of :class:`NeuronSpec`.

        Returns:
            The spec with decay exp(-dt / tau).

        Raises:
            ValueError: a time that is not above 0.

        Example:
            >>> spec = NeuronSpec.from_time_constant(10.0, normalise_input=True)
            >>> round(spec.decay, 6), round(spec.gain, 6)
            (0.904837, 0.095163)

        Source:
            Sinabs ``LIF`` (``norm_input``), stork, Rockpool ``LIFTorch``.
        """
        tau = number("tau", tau, ABOVE_ZERO, np.inf, "above 0")
        dt = number("dt", dt, ABOVE_ZERO, LARGEST, "finite and above 0")
        decay = _exp(-dt / tau)
        if tau_synapse is not None:
            synapse = number("tau_synapse", tau_synapse, ABOVE_ZERO, np.inf, "above 0")
            others["synapse_decay"] = _exp(-dt / synapse)
        return cls(decay=decay, gain=1.0 - decay if normalise_input else 1.0, **others)

    @classmethod
    def from_rates(
        cls,
        membrane_rate: Any,
        dt: Any,
        *,
        synapse_rate: Any = None,
        resistance: Any = 1.0,
        **others: Any,
    ) -> NeuronSpec:
        """Return the Euler step u = v + dt * membrane_rate * (rest - v + resistance * i).

        Args:
            membrane_rate: inverse time constant 1/tau, with dt * membrane_rate in [0, 1].
            dt: length of a timestep, in the inverse unit.
            synapse_rate: inverse time constant of the filter i, None for i = I.
            resistance: potential per unit of i at rest.
            **others: further fields; Norse fires above the threshold only
                (``fires_at_threshold=False``) and has ``reset="to_value"``.

        Returns:
            The spec with decay 1 - dt * membrane_rate and gain resistance * dt * membrane_rate.

        Raises:
            ValueError: dt times a rate outside [0, 1].

        Example:
            >>> spec = NeuronSpec.from_rates(100.0, dt=1e-3, synapse_rate=200.0)
            >>> spec.decay, spec.gain, spec.synapse_decay
            (0.9, 0.1, 0.8)

        Source:
            Norse ``LIFParameters`` (tau_mem_inv, tau_syn_inv); snnTorch ``Lapicque`` (1/(RC)).
        """
        dt = number("dt", dt, ABOVE_ZERO, LARGEST, "finite and above 0")

        def share(name: str, rate: Any) -> Any:
            rate = number(name, rate, 0.0, LARGEST, "finite and at least 0")
            return number(f"dt * {name}", dt * rate, 0.0, 1.0, "between 0 and 1: take a smaller dt")

        lost = share("membrane_rate", membrane_rate)
        if synapse_rate is not None:
            others["synapse_decay"] = 1.0 - share("synapse_rate", synapse_rate)
        return cls(decay=1.0 - lost, gain=resistance * lost, **others)

    @classmethod
    def from_beta(cls, beta: Any, *, late: bool = True, **others: Any) -> NeuronSpec:
        """Return the neuron u[t] = beta u[t-1] + I[t] - threshold s[t-1].

        Args:
            beta: decay; what lies outside [0, 1] is clipped, as the framework does.
            late: whether the reset lands one timestep late and carries no gradient (the default of
                the framework), or within the timestep and with gradient.
            **others: further fields of :class:`NeuronSpec`.

        Returns:
            The spec with decay beta, gain 1 and firing strictly above the threshold.

        Raises:
            ValueError: beta that is not a number, or 0 with a late soft reset.

        Example:
            >>> spec = NeuronSpec.from_beta(0.5)
            >>> spec.delayed_reset, spec.fires_at_threshold, spec.reset_gradient
            (True, False, False)

        Source:
            snnTorch ``Leaky`` with ``reset_delay``.
        """
        beta = number("beta", beta, -LARGEST, LARGEST, "a finite number")
        defaults: dict[str, Any] = {
            "fires_at_threshold": False,
            "delayed_reset": late,
            "reset_gradient": not late,
        }
        decay = beta.clip(0.0, 1.0) if hasattr(beta, "clip") else min(max(beta, 0.0), 1.0)
        return cls(decay=decay, **(defaults | others))

    @classmethod
    def from_plif(cls, w: Any, *, decay_input: bool = True, **others: Any) -> NeuronSpec:
        """Return the parametric neuron with 1/tau = sigmoid(w), so decay = 1 - sigmoid(w).

        Some code of later papers has decay = sigmoid(w) instead: give -w for it.

        Args:
            w: the learned parameter, any number.
            decay_input: True for gain 1/tau, False for gain 1.
            **others: further fields of :class:`NeuronSpec`.

        Returns:
            The spec with decay 1 - sigmoid(w).

        Raises:
            ValueError: w that is not a number.

        Example:
            >>> NeuronSpec.from_plif(0.0).decay
            0.5

        Source:
            Fang et al. 2021 (ICCV), SpikingJelly ``ParametricLIFNode``.
        """
        w = number("w", w, -LARGEST, LARGEST, "a finite number")
        # sigmoid(-w), not 1 - sigmoid(w): exact when the leak is small.
        leak, decay = _sigmoid(w), _sigmoid(-w)
        return cls(decay=decay, gain=leak if decay_input else 1.0, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON: arrays as lists, inf as ``"inf"``.

        Example:
            >>> NeuronSpec(threshold=np.array([1.0, 2.0])).to_dict()["threshold"]
            [1.0, 2.0]
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NeuronSpec:
        """Return the spec that :meth:`to_dict` wrote.

        Raises:
            ValueError: an unknown field, or a value that no neuron can have.

        Example:
            >>> NeuronSpec.from_dict(NeuronSpec(decay=0.9).to_dict()).decay
            0.9
        """
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"fields {unknown} are not of a neuron: it has {', '.join(names)}")
        plain: dict[str, Any] = dict(values)
        if plain.get("threshold") == "inf":
            plain["threshold"] = np.inf
        return cls(**plain)


def check_stationary(spec: NeuronSpec, input_mean: Any = None) -> None:
    """Refuse dynamics that settle to no law, or that the theory does not describe.

    A live layer may legally have its threshold at or below rest; the theory of a layer that fires
    because of its input does not hold there, so this refuses it and :class:`NeuronSpec` does not.

    Args:
        spec: the layer's dynamics.
        input_mean: mean input current, needed to judge decay = 1; None leaves that open.

    Raises:
        ValueError: threshold not finite or not above rest, gain 0, a decay of 1 without a reset or
            with a mean input that the reset cannot balance, a synapse_decay of 1.

    Example:
        >>> check_stationary(NeuronSpec(decay=1.0, reset="none"))
        Traceback (most recent call last):
        ...
        ValueError: decay=1.0 without a reset has no stationary law: take decay < 1

    Source:
        Drift condition behind Theorem 1 of Kook et al., arXiv 2511.08708; for decay = 1 the mean
        drift must lead back to the threshold from both sides.
    """
    decay, theta, gain, rest = (
        np.asarray(value, dtype=float)
        for value in (spec.decay, spec.threshold, spec.gain, spec.rest)
    )
    require(
        np.isfinite(theta) & (theta > rest),
        f"threshold={spec.threshold!r} is not possible here: it must be finite and above "
        f"rest={spec.rest!r}",
    )
    require(gain != 0, f"gain={spec.gain!r} shuts the input out: take another value")
    require(
        np.asarray(spec.synapse_decay) < 1,
        f"synapse_decay={spec.synapse_decay!r} has no stationary law: take synapse_decay < 1",
    )
    leaky = decay < 1
    if spec.reset == "none":
        require(
            leaky, f"decay={spec.decay!r} without a reset has no stationary law: take decay < 1"
        )
    elif input_mean is not None:
        drift = gain * np.asarray(input_mean, dtype=float)
        amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
        top = np.asarray(amount, dtype=float) if spec.reset == "subtract" else np.inf
        wanted = f"between 0 and {amount!r}" if spec.reset == "subtract" else "above 0"
        require(
            leaky | ((drift > 0) & (drift < top)),
            f"decay={spec.decay!r} has no stationary law at input_mean="
            f"{np.asarray(input_mean).tolist()!r}: take decay < 1, or gain * input_mean {wanted}",
        )


def _exp(x: Any) -> Any:
    return x.exp() if hasattr(x, "exp") else np.exp(x)


def _sigmoid(x: Any) -> Any:
    return x.sigmoid() if hasattr(x, "sigmoid") else special.expit(x)


def _plain(value: Any) -> Any:
    """Return one field as JSON can hold it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and np.isinf(value):
        return "inf"
    return value
