"""Recurrent and stacked LIF simulations in plain numpy, the oracle of the stability tests.

Set-up of the reference tables ``reference/stability_*.csv`` (float64): u[t] = R(u[t-1]) + W x[t-1]
+ b + N(0, sigma^2), soft reset after the leak, zero diagonal, W normal with variance g^2 / n,
n = 300 units, 8 samples, 130 timesteps of which the last 80 carry gradient, loss sum_i c_i u[T, i].
They check the conditions of Herranz-Celotti and Rouat (arXiv 2202.00282).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spikescope.analysis.gradient_statistics import factor_parts
from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.surrogate import Surrogate

Array = npt.NDArray[np.float64]
REFERENCE = Path(__file__).parent / "reference"
FAMILIES = {
    "dsigmoid": "sigmoid",
    "dfastsigmoid": "fast_sigmoid",
    "atan": "arctan",
    "qpseudospike": "q_pseudo_spike",
}


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of one reference table."""
    with (REFERENCE / f"stability_{name}.csv").open() as file:
        return list(csv.DictReader(file))


def spec_of(row: dict[str, str]) -> NeuronSpec:
    """Return the neuron of a row: soft reset after the leak, or hard reset to 0."""
    soft = row["reset"] == "soft"
    return NeuronSpec(
        decay=float(row["alpha"]),
        threshold=float(row["thr"]),
        reset="subtract" if soft else "to_value",
        delayed_reset=soft,
        reset_gradient=row["reset"].endswith("diff"),
    )


def surrogate_of(row: dict[str, str], peak: float | None = None) -> Surrogate:
    """Return the surrogate of a row, from (gamma, beta, q)."""
    return Surrogate.from_dampening(
        FAMILIES.get(row["family"], row["family"]),
        float(row["gamma"]) if peak is None else peak,
        float(row["beta"]),
        float(row.get("q") or 2.0),
    )


def simulate(
    spec: NeuronSpec,
    weights: Array,
    offset: float,
    noise: float,
    steps: int,
    rng: Any,
    samples: int,
) -> tuple[Array, Array]:
    """Return u and spikes, [T, samples, units]."""
    units = weights.shape[0]
    decay, theta = float(spec.decay), float(spec.threshold)
    u = np.zeros((steps, samples, units))
    x = np.zeros_like(u)
    carried = np.zeros((samples, units))
    spikes = np.zeros((samples, units))
    for t in range(steps):
        u[t] = carried + spikes @ weights.T + offset + noise * rng.normal(size=carried.shape)
        x[t] = spikes = (u[t] > theta) * 1.0
        if spec.reset == "to_value":
            carried = decay * u[t] * (1.0 - spikes)
        elif spec.reset == "subtract":
            carried = decay * u[t] - theta * spikes
        else:
            carried = decay * u[t]
    return u, x


def random_weights(units: int, variance: float, rng: Any, mean: float = 0.0) -> Array:
    """Return recurrent weights with n Var[w] = variance, n E[w] = mean and zero diagonal."""
    weights = rng.normal(mean / units, np.sqrt(variance / units), (units, units))
    np.fill_diagonal(weights, 0.0)
    return weights


def backward(factor: Array, derivative: Array, weights: Array, last: Array) -> Array:
    """Return the gradient at u for a loss on the last timestep, [T, samples, units]."""
    delta = np.empty_like(factor)
    delta[-1] = last
    for t in range(len(factor) - 2, -1, -1):
        delta[t] = factor[t] * delta[t + 1] + derivative[t] * (delta[t + 1] @ weights)
    return delta


def measured_ratios(
    spec: NeuronSpec, surrogate: Surrogate, weights: Array, u: Array, x: Array, rng: Any
) -> tuple[float, float]:
    """Return the variance ratio of the first step, and the long-run one 30 to 74 steps back."""
    s = np.asarray(surrogate.derivative(u - float(spec.threshold)))
    factor = sum(factor_parts(spec, u, x, s))
    # One step from a fresh random gradient, at every timestep: many more draws than the last one.
    fresh = rng.normal(size=u.shape)
    first = np.mean((factor * fresh + s * (fresh @ weights)) ** 2) / np.mean(fresh**2)
    delta = backward(factor, s, weights, rng.normal(size=u.shape[1:]))
    power = np.mean(delta**2, axis=(1, 2))[::-1]
    slope = np.polyfit(np.arange(30, 75), np.log(power[30:75]), 1)[0]
    return float(first), float(np.exp(slope))


def simulate_stack(
    spec: NeuronSpec, surrogate: Surrogate, layers: int, steps: int, rng: Any
) -> tuple[list[Array], list[Array], list[Array]]:
    """Run a feed-forward stack of 300 units a layer, W ~ N(0, 4/n), input Bernoulli(.3).

    Returns u, spikes and total gradient at u per layer, [T, samples, units] each; the loss puts a
    random gradient on u of the top layer at every timestep.
    """
    units, samples = 300, 8
    weights = [rng.normal(0.0, np.sqrt(4.0 / units), (units, units)) for _ in range(layers)]
    inputs = (rng.random((steps, samples, units)) < 0.3) * 1.0
    decay, theta = float(spec.decay), float(spec.threshold)
    us, xs = [], []
    for w in weights:
        current = inputs @ w.T
        u = np.zeros_like(current)
        carried = np.zeros_like(current[0])
        for t in range(steps):
            u[t] = carried + current[t]
            x = (u[t] > theta) * 1.0
            soft = decay * u[t] - theta * x
            carried = soft if spec.reset == "subtract" else decay * u[t] * (1.0 - x)
        inputs = (u > theta) * 1.0
        us.append(u)
        xs.append(inputs)
    arriving = rng.normal(size=us[-1].shape)
    deltas: list[Array] = []
    for layer in range(layers - 1, -1, -1):
        s = np.asarray(surrogate.derivative(us[layer] - theta))
        factor = sum(factor_parts(spec, us[layer], xs[layer], s))
        if layer < layers - 1:
            arriving = s * (deltas[0] @ weights[layer + 1])
        delta = np.array(arriving)
        for t in range(steps - 2, -1, -1):
            delta[t] += factor[t] * delta[t + 1]
        deltas.insert(0, delta)
    return us, xs, deltas
