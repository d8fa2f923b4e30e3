"""The law that a spiking layer's potential settles to, computed instead of simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from .input_noise import DistributionNoise, Floats, GaussianNoise, Noise, SampledNoise
from .neuron import NeuronSpec
from .potential_law import PotentialLaw
from .transfer import Dynamics
from .unit_law import Removable, UnitLaw, solve

# Rounding that two resolutions share, relative to the size of the figure.
ROUNDING = 1e-13
# Figures of the stationary law that carry an error estimate of their own.
FIGURES = ("mean", "std", "rate", "mean_post", "std_post", "lambda_2", "lambda_3")


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
        name: _numbers(name, getattr(spec, name))
        for name in ("decay", "gain", "threshold", "reset_value", "rest", "start")
    }
    amount = fields["threshold"]
    if spec.reset_amount is not None:
        amount = _numbers("reset_amount", spec.reset_amount)
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
        fields["mean"] = _numbers("input_mean", input_mean)
        fields["std"] = _numbers("input_std", input_std)
    fields["frozen"] = _numbers("frozen", frozen)
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
    if gain == 0:
        raise ValueError("gain=0.0 lets no input in: the gain must not be 0")
    if not 0 <= row["frozen"] < 1:
        raise ValueError(
            f"frozen={row['frozen']!r} is not in [0, 1): with a share of 1 nothing varies in time "
            "and each unit is deterministic"
        )
    if row["frozen"] > 0 and (whole is not None or decay == 1):
        reason = "input given by mean and std" if whole is not None else "decay below 1"
        raise ValueError(f"frozen={row['frozen']!r} needs {reason}; set it to 0 here")
    hit = gain * row["mean"]
    _check_dynamics(spec, row, hit)
    amount = row["amount"] / decay if spec.delayed_reset and decay > 0 else row["amount"]
    dynamics = Dynamics(
        decay, hit + (1.0 - decay) * row["rest"], row["threshold"], spec.reset, amount,
        row["reset_value"],
    )  # fmt: skip
    std = abs(gain) * row["std"]
    noise: Noise = GaussianNoise(std * float(np.sqrt(1.0 - row["frozen"])))
    if isinstance(whole, np.ndarray):
        noise = SampledNoise(np.sort(gain * (whole - whole.mean())))
    elif whole is not None:
        noise = DistributionNoise(whole, gain)
    return solve(dynamics, noise, std * float(np.sqrt(row["frozen"])), row["start"])


def _check_supported(spec: NeuronSpec) -> None:
    """Refuse what has no one-dimensional chain."""
    if np.any(_numbers("synapse_decay", spec.synapse_decay) != 0):
        raise ValueError(
            f"synapse_decay={spec.synapse_decay!r}: a synaptic filter makes input of successive "
            "timesteps dependent, and the stationary law of u alone does not exist in closed form; "
            "set it to 0 and pass the mean and std of the filtered current as an approximation "
            "(std / sqrt(1 - synapse_decay**2)), or simulate with neuron.replay"
        )


def _check_dynamics(spec: NeuronSpec, row: dict[str, float], hit: float) -> None:
    """Refuse one layer's numbers if they have no stationary law or make no sense."""
    decay, threshold = row["decay"], row["threshold"]
    if not 0 <= decay <= 1:
        raise ValueError(f"decay={decay!r} is not possible: it must be in [0, 1)")
    if spec.reset != "none" and threshold <= row["rest"]:
        raise ValueError(
            f"threshold={threshold!r} is not above rest={row['rest']!r}: a unit at rest would fire "
            "without input; the threshold must be larger"
        )
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
    if decay < 1:
        return
    held = {"none": False, "to_value": hit > 0, "subtract": 0 < hit < row["amount"]}
    if not held[spec.reset] or not np.isfinite(threshold):
        raise ValueError(
            f"decay={decay!r} has no stationary law with reset={spec.reset!r} and mean input "
            f"{hit:.6g} after the gain: use a decay below 1, or a mean input above 0 for "
            "'to_value', between 0 and the reset amount for 'subtract'"
        )


def _std_message(name: str, value: float) -> str:
    return (
        f"{name}={value!r} is not above 0: without noise the neuron is deterministic and "
        "neuron.replay with a constant current gives its exact path"
    )


def _numbers(name: str, value: Any) -> Floats:
    """Return a number or array as float64, or say why it is none."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a number or an array of numbers") from None
    # An infinite threshold is a layer that never fires.
    if np.isnan(array).any() or (name != "threshold" and np.isinf(array).any()):
        raise ValueError(f"{name}={value!r} is not possible: it must be finite")
    return array


def _samples(values: Any) -> Floats:
    array = _numbers("input_samples", values).ravel()
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


@dataclass(frozen=True)
class Transient:
    """Laws of the potential at t = 1, 2, ... from one start potential.

    Args:
        t: timesteps, ``[steps]``, from 1.
        mean: mean of u, ``[..., steps]`` with the layers first; potential.
        std: standard deviation of u; potential.
        rate: firing rate, per unit and timestep.
        mean_post: mean of v; potential.
        std_post: standard deviation of v; potential.
        tv: total-variation distance of u to the stationary law, in [0, 1].
        w1: Wasserstein-1 distance of u to the stationary law; potential.
        laws: the laws themselves, a sequence of steps per layer (layers flattened).
    """

    t: Any
    mean: Any
    std: Any
    rate: Any
    mean_post: Any
    std_post: Any
    tv: Any
    w1: Any
    laws: tuple[Sequence[PotentialLaw], ...]


@dataclass(frozen=True)
class StationaryLaw:
    """Stationary law of one layer, or of an array of layers.

    Figures are floats for one layer, arrays of the layers' shape otherwise.

    Args:
        shape: shape of the layers; ``()`` for one.
        units: one solved law per layer, flattened.
        coarse: the same layers at a lower resolution, against which errors are estimated.

    Example:
        >>> law = stationary_law(NeuronSpec(decay=0.5, reset="to_value"), 0.0, 0.5)
        >>> print(f"{law.coverage(0.5, 1.5):.6f} {law.steps_to_tv(0.01):g}")
        0.166621 3
        >>> print(f"{law.best_start:.6f} {law.mp_init(4):.6f}")
        -0.076467 -0.074469
    """

    shape: tuple[int, ...]
    units: tuple[UnitLaw, ...]
    coarse: StationaryLaw | None

    def _each(self, figure: Callable[..., Any], *arguments: Any) -> Any:
        """Apply a figure to every layer; arguments broadcast over the layers."""
        spread = [np.broadcast_to(np.asarray(x, dtype=float), self.shape) for x in arguments]
        rows = zip(*(x.ravel() for x in spread), strict=True) if spread else ((),) * len(self.units)
        parts = [figure(unit, *map(float, row)) for unit, row in zip(self.units, rows, strict=True)]
        if self.shape == ():
            return parts[0]
        values = np.array(parts)
        return values.reshape(self.shape + values.shape[1:])

    def _starts(self, start: Any) -> Any:
        if start is None:
            return self._each(lambda unit: unit.start)
        return _numbers("start", start)

    @property
    def mean(self) -> Any:
        """Mean of the pre-reset potential u; potential."""
        return self._each(lambda unit: unit.stationary.mean)

    @property
    def std(self) -> Any:
        """Standard deviation of u; potential."""
        return self._each(lambda unit: unit.stationary.std)

    @property
    def rate(self) -> Any:
        """Firing rate; spikes per unit and timestep."""
        return self._each(lambda unit: unit.stationary.rate)

    @property
    def mean_post(self) -> Any:
        """Mean of the post-reset potential v; potential."""
        return self._each(lambda unit: unit.stationary.mean_post)

    @property
    def std_post(self) -> Any:
        """Standard deviation of v; potential."""
        return self._each(lambda unit: unit.stationary.std_post)

    @property
    def atom(self) -> Any:
        """``(potential, probability)`` of the point to which a hard reset sends v."""
        return self._each(lambda unit: unit.stationary.atom)

    @property
    def lambda_2(self) -> Any:
        """Second eigenvalue of the transfer operator, complex; of the average unit if frozen."""
        return self._each(lambda unit: complex(unit.typical.spectrum[0]))

    @property
    def lambda_3(self) -> Any:
        """Third eigenvalue by modulus, complex."""
        return self._each(lambda unit: complex(unit.typical.spectrum[1]))

    @property
    def rings(self) -> Any:
        """Whether firing is nearly periodic, so that a constant start would make it ring.

        True if lambda_2 is negative or complex with a modulus above the decay.
        """

        def ringing(unit: UnitLaw) -> bool:
            second = complex(unit.typical.spectrum[0])
            turns = second.real < 0 or abs(second.imag) > 1e-9 * abs(second)
            return turns and abs(second) > unit.dynamics.decay

        return self._each(ringing)

    @property
    def best_start(self) -> Any:
        """Constant start potential with the least mean square distance to v: E[v]; potential."""
        return self.mean_post

    @property
    def error(self) -> dict[str, Any]:
        """Estimated absolute error of each of :data:`FIGURES`, in its unit."""
        return {name: self.error_of(attrgetter(name)) for name in FIGURES}

    def error_of(self, figure: Callable[[StationaryLaw], Any]) -> Any:
        """Return the estimated absolute error of any figure of this law.

        The figure is computed at two resolutions; their difference bounds the error of the finer
        one, since it falls exponentially (cells: in proportion) with the resolution.

        Args:
            figure: a function of a law that returns a number or an array.

        Example:
            >>> law = stationary_law(NeuronSpec(decay=0.5), 0.0, 0.5)
            >>> law.error_of(lambda x: x.coverage(0.5, 1.5)) < 1e-9
            True
        """
        if self.coarse is None:
            raise ValueError("this law is itself the coarse one: it has no error estimate")
        here, there = np.asarray(figure(self)), np.asarray(figure(self.coarse))
        error = np.abs(here - there) + ROUNDING * np.abs(here)
        return float(error) if error.shape == () else error

    def pdf(self, u: Any) -> Any:
        """Return the density of u at the potentials u, ``[..., *u.shape]``; 1 / potential."""
        return self._each(lambda unit: unit.stationary.pdf(_numbers("u", u)))

    def pdf_post(self, v: Any) -> Any:
        """Return the density of v without the atom of a hard reset, ``[..., *v.shape]``."""
        return self._each(lambda unit: unit.stationary.pdf_post(_numbers("v", v)))

    def cdf(self, u: Any) -> Any:
        """Return the probability of at most u, ``[..., *u.shape]``."""
        return self._each(lambda unit: unit.stationary.cdf(_numbers("u", u)))

    def grid(self, points: int = 401) -> Floats:
        """Return evenly spaced potentials that hold all layers' u but 1e-6, ``[points]``."""
        ends = []
        for unit in self.units:
            law = unit.stationary
            below = law.cdf(law.points)
            first = max(int(np.searchsorted(below, 5e-7)) - 1, 0)
            last = min(int(np.searchsorted(below, 1.0 - 5e-7)), len(below) - 1)
            ends += [law.points[first], law.points[last]]
        return np.linspace(min(ends), max(ends), points)

    def coverage(self, low: Any, high: Any) -> Any:
        """Return the probability that u lies between low and high (scalars or one per layer)."""

        def inside(unit: UnitLaw, below: float, above: float) -> float:
            return float(unit.stationary.coverage(np.asarray(below), np.asarray(above)))

        return self._each(inside, low, high)

    def steps_to_tv(self, distance: float, start: Any = None) -> Any:
        """Return the first t at which u is within this total variation of the stationary law.

        Args:
            distance: total-variation distance, in (0, 1).
            start: potential v[0], a number or one per layer; the specification's if None.

        Returns:
            Timesteps; ``inf`` beyond 20000.
        """
        return self._each(lambda unit, v: unit.steps_to(distance, v), self._starts(start))

    def transient(self, steps: int, start: Any = None) -> Transient:
        """Return the laws at t = 1 ... steps.

        Args:
            steps: number of timesteps, at least 1.
            start: potential v[0], a number or one per layer; the specification's if None.

        Example:
            >>> law = stationary_law(NeuronSpec(decay=0.9), 0.0, 0.5)
            >>> law.transient(2).tv.round(4), law.transient(2, start=law.best_start).rate.round(4)
            (array([0.3039, 0.2054]), array([0.0024, 0.0196]))
        """
        if steps < 1:
            raise ValueError(f"steps={steps!r} is not possible: a transient has at least 1 step")
        paths: list[Sequence[PotentialLaw]] = []

        def figures(unit: UnitLaw, v: float) -> Floats:
            laws, end = unit.path(v, steps)
            paths.append(laws)
            return np.array(
                [
                    [x.mean, x.std, x.rate, x.mean_post, x.std_post, x.total_variation(end),
                     x.wasserstein(end)]
                    for x in laws
                ]
            )  # fmt: skip

        table = np.moveaxis(self._each(figures, self._starts(start)), -1, 0)
        names = ("mean", "std", "rate", "mean_post", "std_post", "tv", "w1")
        columns = dict(zip(names, table, strict=True))
        return Transient(t=np.arange(1, steps + 1), laws=tuple(paths), **columns)

    def removable(self, start: Any = None, candidate: Any = None) -> Any:
        """Return what a constant start potential removes of the shift at t = 1.

        Args:
            start: potential v[0] now, a number or one per layer; the specification's if None.
            candidate: constant proposed instead; the stationary E[v] if None.

        Returns:
            A :class:`Removable` for one layer, an object array of them otherwise.

        Example:
            >>> spec = NeuronSpec(decay=0.9, gain=0.1)
            >>> shift = stationary_law(spec, 0.5, 2.0).removable()
            >>> print(f"{shift.w1_before:.3f} {shift.w1_after:.3f} {shift.share:.2f}")
            0.261 0.146 0.44
        """
        proposed = self.best_start if candidate is None else _numbers("candidate", candidate)

        def share(unit: UnitLaw, now: float, then: float) -> Removable:
            return unit.removable(now, then)

        return self._each(share, self._starts(start), proposed)

    def mp_init(self, timesteps: int, active_only: bool = False, start: Any = None) -> Any:
        """Return the start potential at which MP-Init comes to rest: c = E[v_T | v_0 = c].

        Args:
            timesteps: length T of the window.
            active_only: whether only units with a spike in t = 1 ... T are averaged, as published.
            start: potential from which the running mean sets out; the specification's if None.

        Returns:
            Potential; None where no fixed point exists, e.g. where no unit ever fires.
        """

        def rest(unit: UnitLaw, v: float) -> float | None:
            return unit.fixed_point(timesteps, active_only, v)

        return self._each(rest, self._starts(start))

    def active_share(self, timesteps: int, start: Any = None) -> Any:
        """Return the share of units with at least one spike in t = 1 ... timesteps."""
        return self._each(lambda unit, v: unit.active_share(timesteps, v), self._starts(start))
