"""The law that theory predicts for a recorded layer, from nothing but its recorded input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .checks import is_number
from .distance import centres, probabilities
from .neuron import after_reset, fires
from .neuron_spec import NeuronSpec
from .stationary import StationaryLaw, stationary_law

MOST_FROZEN = 0.98
"""Share of the input's variance that may be fixed in time; beyond it nothing settles."""


@dataclass(frozen=True)
class RecordedLaw:
    """The stationary law that a recorded layer is predicted to settle to.

    Args:
        law: the law, in potential.
        input_mean: mean of the input at the last timestep; current.
        input_std: its standard deviation; current.
        frozen: share of the input's variance that stays fixed in time, read off t = 1 and t = 2.
    """

    law: StationaryLaw
    input_mean: float
    input_std: float
    frozen: float


def recorded_law(spec: Mapping[str, Any], rows: Any, first: Any, edges: Any) -> RecordedLaw:
    """Predict where the potential of a recorded layer settles.

    Only what comes in is used: mean and variance of the input at the last timestep, and how much
    of the input stays fixed in time, which the spread of u at t = 2 tells. The later laws of u
    are not looked at, so that the prediction can be wrong.

    Args:
        spec: fields of the layer's NeuronSpec, as in a run's header.
        rows: the record of one step, a row per t: columns input_mean (current), input_var
            (current squared) and u_var (potential squared), each ``[T]``.
        first: histogram of u at t = 1, ``[bins]``.
        edges: its edges, potential, ``[bins + 1]``.

    Returns:
        The prediction.

    Raises:
        ValueError: dynamics that are not known or not the same for every unit, an input that was
            not recorded or does not vary, or a layer without a stationary law.

    Example:
        >>> from scipy import stats
        >>> edges = np.linspace(-4.0, 4.0, 801)
        >>> first = np.diff(stats.norm.cdf(edges, 0.0, 0.5))
        >>> rows = {"input_mean": [0.0, 0.0], "input_var": [0.25, 0.25], "u_var": [0.25, 0.3]}
        >>> found = recorded_law({"decay": 0.5, "reset": "none"}, rows, first, edges)
        >>> print(f"{found.frozen:.2f} {found.law.std:.3f}")
        0.00 0.577

    Source:
        Stationary law: Kook et al., arXiv 2511.08708, section 3, by the transfer operator. Frozen
        share: ours, from Var u[2] = decay^2 Var v[1] + gain^2 Var I[2] + 2 decay gain Cov(v[1],
        I[2]) with jointly normal inputs.
    """
    dynamics = plain_spec(spec)
    mean, variance = (np.asarray(rows[name], dtype=float) for name in ("input_mean", "input_var"))
    if not (np.isfinite(mean[-1]) and np.isfinite(variance[-1])):
        raise ValueError("the input of this layer was not recorded: nothing can be predicted")
    if not variance[-1] > 0.0:
        raise ValueError(
            f"the input does not vary (variance {variance[-1]:g}): the potential has no law"
        )
    spread = np.asarray(rows["u_var"], dtype=float)
    share = frozen_input(dynamics, variance, spread, first, edges)
    # Rounded: a prediction for the same digits need not be worked out again.
    numbers = float(f"{mean[-1]:.6g}"), float(f"{np.sqrt(variance[-1]):.6g}"), round(share, 3)
    return RecordedLaw(_solved(dynamics, *numbers), *numbers)


def plain_spec(spec: Mapping[str, Any]) -> NeuronSpec:
    """Return a layer's dynamics if they are plain numbers, the same for every unit.

    Raises:
        ValueError: dynamics that are not known, or that differ between units.

    Example:
        >>> plain_spec({"decay": 0.9}).decay
        0.9
    """
    if not spec:
        raise ValueError("the dynamics of this layer are not known")
    for name, value in spec.items():
        if not (value is None or isinstance(value, str | bool) or is_number(value)):
            raise ValueError(f"{name} differs between the units of this layer")
        if isinstance(value, list | tuple):
            raise ValueError(f"{name} differs between the units of this layer")
    return NeuronSpec.from_dict(dict(spec))


def frozen_input(spec: NeuronSpec, input_var: Any, u_var: Any, first: Any, edges: Any) -> float:
    """Return the share of the input's variance that stays fixed from t = 1 to t = 2.

    Args:
        spec: the layer's dynamics, plain numbers.
        input_var: variance of the input, current squared, ``[T]``.
        u_var: variance of u, potential squared, ``[T]``.
        first: histogram of u at t = 1, ``[bins]``.
        edges: its edges, potential, ``[bins + 1]``.

    Returns:
        The share, from 0 to :data:`MOST_FROZEN`; 0 where a single timestep or a layer without
        memory cannot tell.

    Example:
        >>> edges = np.linspace(-4.0, 4.0, 8001)
        >>> centre = 0.5 * (edges[1:] + edges[:-1])
        >>> first = np.exp(-(centre**2) / (2 * 0.25))
        >>> spec = NeuronSpec(decay=0.5, reset="none")
        >>> round(frozen_input(spec, [0.25, 0.25], [0.25, 0.4375], first, edges), 3)
        0.5

    Source:
        See :func:`recorded_law`.
    """
    currents, spreads = np.asarray(input_var, dtype=float), np.asarray(u_var, dtype=float)
    decay, gain = float(spec.decay), float(spec.gain)
    if len(currents) < 2 or decay == 0.0 or gain == 0.0 or not (currents[:2] > 0).all():
        return 0.0
    share, edges = probabilities(first, edges)
    u = centres(edges)
    v = np.asarray(after_reset(spec, u, fires(spec, u)), dtype=float)
    current = (u - float(share @ u)) / gain
    carried = float(share @ (v - share @ v) ** 2)
    together = float(share @ ((v - share @ v) * current))
    excess = float(spreads[1]) - decay**2 * carried - gain**2 * float(currents[1])
    # Cov(v[1], I[2]) = share * Cov(v[1], I[1]) * std I[2] / std I[1].
    unit = 2.0 * decay * gain * together * float(np.sqrt(currents[1] / currents[0]))
    if not abs(unit) > 1e-12 * float(spreads[1]) or not np.isfinite(excess):
        return 0.0
    return float(np.clip(excess / unit, 0.0, MOST_FROZEN))


@lru_cache(maxsize=256)
def _solved(spec: NeuronSpec, mean: float, std: float, frozen: float) -> StationaryLaw:
    return stationary_law(spec, mean, std, frozen=frozen)
