"""The law that a spiking layer's potential settles to, computed instead of simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .input_noise import DistributionNoise, Floats, GaussianNoise, Noise, atoms_of
from .layer_laws import FIGURES, StationaryLaw, Transient, numbers
from .neuron import NeuronSpec, check_stationary
from .potential_range import Dynamics
from .unit_law import Removable, UnitLaw, solve

__all__ = ["FIGURES", "Removable", "StationaryLaw", "Transient", "stationary_law"]

FARTHEST = 1e15
"""Input in potential beyond which, and below whose inverse, double precision runs out of range."""


def stationary_law(
    spec: NeuronSpec,
    input_mean: Any = None,
    input_std: Any = None,
    *,
    input_law: Any = None,
    input_samples: Any = None,
    frozen: Any = 0.0,
) -> StationaryLaw:
    """Return the law to which the membrane potential of a layer settles.

    The input current I is drawn anew at every timestep, from a normal law unless another one is
    given. Every number may be an array: layers are then solved together, equal ones once.

    Args:
        spec: dynamics of the layer; fields that broadcast with the input's mean and std.
        input_mean: mean of I before the gain, any shape.
        input_std: standard deviation of I before the gain, any shape; above 0.
        input_law: law of I instead of mean and std: a scipy.stats distribution, discrete or not
            (a histogram enters as ``scipy.stats.rv_histogram``).
        input_samples: recorded values of I instead of mean and std, ``[n]``.
        frozen: share of the variance of I that differs between units and stays fixed in time, in
            [0, 1), any shape; normal input only.

    Returns:
        The law, with the broadcast shape of the numbers given.

    Raises:
        ValueError: a number that is no possible input, decay 1 where nothing holds the potential,
            or noise too small for a grid of bounded size; the message quotes the value.

    Example:
        >>> law = stationary_law(NeuronSpec(decay=0.5, gain=0.5), input_mean=0.0, input_std=1.0)
        >>> print(f"{law.mean:.6f} {law.std:.6f} {law.rate:.6f} {law.lambda_2.real:.6f}")
        -0.032347 0.562922 0.032347 0.448357
        >>> law.error["rate"] < 1e-9
        True
        >>> many = stationary_law(NeuronSpec(decay=np.array([0.5, 0.9])), 0.0, 0.5)
        >>> many.rate.round(6)
        array([0.032347, 0.045894])

    Source:
        Transfer operator of the pre-reset chain, discretised by the Nystrom method (Atkinson,
        The Numerical Solution of Integral Equations of the Second Kind, 1997, chapter 4); law,
        start potentials and removable shift of Kook et al., arXiv 2511.08708, section 3.
    """
    _check_supported(spec)
    fields = {
        name: numbers(name, getattr(spec, name))
        for name in ("decay", "gain", "threshold", "reset_value", "rest", "start")
    }
    amount = fields["threshold"]
    if spec.reset_amount is not None:
        amount = numbers("reset_amount", spec.reset_amount)
    fields["amount"] = amount
    given = [input_law is not None, input_samples is not None]
    if sum(given) + (input_mean is not None or input_std is not None) != 1:
        raise ValueError(
            "the input is given once: as input_mean and input_std, as input_law, or as "
            "input_samples"
        )
    whole: Any = None
    if any(given):
        whole = _samples(input_samples) if input_law is None else _law(input_law)
        fields["mean"], fields["std"] = (np.asarray(float(x)) for x in (whole.mean(), whole.std()))
        if not whole.std() > 0:
            raise ValueError(_std_message("the standard deviation of the input", whole.std()))
    else:
        if input_mean is None or input_std is None:
            raise ValueError("input_mean and input_std belong together: one of them is missing")
        fields["mean"] = numbers("input_mean", input_mean)
        fields["std"] = numbers("input_std", input_std)
    fields["frozen"] = numbers("frozen", frozen)
    # A layer that never fires is fine as long as it leaks; the rest has one judge.
    checked: dict[str, Any] = {
        name: fields[name] for name in ("decay", "gain", "threshold", "rest")
    }
    checked["threshold"] = np.where(np.isinf(fields["threshold"]), 1e30, fields["threshold"])
    check_stationary(replace(spec, **checked), fields["mean"])
    try:
        arrays = np.broadcast_arrays(*fields.values())
    except ValueError:
        shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in fields.items())
        raise ValueError(
            f"these shapes do not broadcast to one shape of layers: {shapes}"
        ) from None
    shape = arrays[0].shape
    if 0 in shape:
        raise ValueError(f"the shape of layers {shape} is empty: give at least one layer")
    rows = np.stack([array.ravel() for array in arrays], axis=1)
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    pairs = [
        _solve_row(spec, dict(zip(fields, map(float, row), strict=True)), whole) for row in distinct
    ]
    fine = [pairs[i][0] for i in which.ravel()]
    coarse = [pairs[i][1] for i in which.ravel()]
    return StationaryLaw(shape, tuple(fine), StationaryLaw(shape, tuple(coarse), None))


def _solve_row(spec: NeuronSpec, row: dict[str, float], whole: Any) -> tuple[UnitLaw, UnitLaw]:
    """Solve one layer given as plain numbers."""
    decay, gain = row["decay"], row["gain"]
    if not row["std"] > 0:
        raise ValueError(_std_message("input_std", row["std"]))
    if not 0 <= row["frozen"] < 1:
        raise ValueError(
            f"frozen={row['frozen']!r} is not in [0, 1): with a share of 1 nothing varies in time "
            "and each unit is deterministic"
        )
    if row["frozen"] > 0 and (whole is not None or decay == 1):
        reason = "input given by mean and std" if whole is not None else "decay below 1"
        raise ValueError(f"frozen={row['frozen']!r} needs {reason}; set it to 0 here")
    hit = gain * row["mean"]
    _check_dynamics(spec, row)
    amount = row["amount"] / decay if spec.delayed_reset and decay > 0 else row["amount"]
    dynamics = Dynamics(
        decay, hit + (1.0 - decay) * row["rest"], row["threshold"], spec.reset, amount,
        row["reset_value"],
    )  # fmt: skip
    std = abs(gain) * row["std"]
    if abs(hit) > FARTHEST or not 1.0 / FARTHEST <= std <= FARTHEST:
        raise ValueError(
            f"an input of mean {hit:g} and standard deviation {std:g} after the gain is not "
            f"possible: the mean must be at most {FARTHEST:g} in size, the standard deviation "
            f"between {1.0 / FARTHEST:g} and that"
        )
    noise: Noise = GaussianNoise(std * float(np.sqrt(1.0 - row["frozen"])))
    if isinstance(whole, np.ndarray) or hasattr(whole, "pmf"):
        noise = atoms_of(whole, gain)
    elif whole is not None:
        noise = DistributionNoise(whole, gain)
    return solve(dynamics, noise, std * float(np.sqrt(row["frozen"])), row["start"])


def _check_supported(spec: NeuronSpec) -> None:
    """Refuse what has no one-dimensional chain."""
    if np.any(numbers("synapse_decay", spec.synapse_decay) != 0):
        raise ValueError(
            f"synapse_decay={spec.synapse_decay!r}: a synaptic filter makes input of successive "
            "timesteps dependent, and the stationary law of u alone does not exist in closed form; "
            "set it to 0 and pass the mean and std of the filtered current as an approximation "
            "(std / sqrt(1 - synapse_decay**2)), or simulate with neuron.replay"
        )


def _check_dynamics(spec: NeuronSpec, row: dict[str, float]) -> None:
    """Refuse one layer's numbers if they have no stationary law or make no sense."""
    decay, threshold = row["decay"], row["threshold"]
    if spec.reset == "to_value" and row["reset_value"] >= threshold:
        raise ValueError(
            f"reset_value={row['reset_value']!r} is not below threshold={threshold!r}: a reset "
            "must end below the threshold"
        )
    if spec.reset == "subtract" and not row["amount"] > 0:
        raise ValueError(
            f"the reset amount {row['amount']!r} is not possible: a reset subtracts a positive "
            "potential (the threshold unless reset_amount says otherwise)"
        )
    if spec.delayed_reset and spec.reset == "subtract" and decay == 0:
        raise ValueError("delayed_reset=True needs decay > 0: with decay=0.0 nothing is carried")
    if decay == 1 and np.isinf(threshold):
        raise ValueError(
            f"decay={decay!r} with threshold={threshold!r} has no stationary law: take decay < 1"
        )


def _std_message(name: str, value: float) -> str:
    return (
        f"{name}={value!r} is not above 0: without noise the neuron is deterministic and "
        "neuron.replay with a constant current gives its exact path"
    )


def _samples(values: Any) -> Floats:
    array = numbers("input_samples", values).ravel()
    if array.size == 0:
        raise ValueError("input_samples is empty: give at least two different values of the input")
    return array


def _law(law: Any) -> Any:
    missing = [name for name in ("cdf", "ppf", "isf", "mean", "std") if not hasattr(law, name)]
    if missing:
        raise ValueError(
            f"input_law={law!r} lacks {', '.join(missing)}: give a frozen scipy.stats distribution "
            "(a histogram as scipy.stats.rv_histogram)"
        )
    if not np.isfinite([float(law.mean()), float(law.std())]).all():
        raise ValueError(f"input_law={law!r} has no finite mean and std: cut its tails")
    return law
