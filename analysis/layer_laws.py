"""The stationary laws of an array of layers, with their errors, transients and start potentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from .input_noise import Floats
from .potential_law import PotentialLaw
from .unit_law import Removable, UnitLaw

# Rounding that two resolutions share, relative to the size of the figure.
ROUNDING = 1e-13
# Figures of the stationary law that carry an error estimate of their own.
FIGURES = ("mean", "std", "rate", "mean_post", "std_post", "lambda_2", "lambda_3")


def numbers(name: str, value: Any) -> Floats:
    """Return a number or array as float64, or say why it is none."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a number or an array of numbers") from None
    # An infinite threshold is a layer that never fires.
    if np.isnan(array).any() or (name != "threshold" and np.isinf(array).any()):
        raise ValueError(f"{name}={value!r} is not possible: it must be finite")
    return array


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
        >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.stationary import stationary_law
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
        return numbers("start", start)

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
        return self._each(lambda unit: complex(unit.typical.spectrum.values[0]))

    @property
    def lambda_3(self) -> Any:
        """Third eigenvalue by modulus, complex."""
        return self._each(lambda unit: complex(unit.typical.spectrum.values[1]))

    @property
    def rings(self) -> Any:
        """Whether firing is nearly periodic, so that a constant start would make it ring.

        True if lambda_2 is negative or complex with a modulus above the decay.
        """

        def ringing(unit: UnitLaw) -> bool:
            second = complex(unit.typical.spectrum.values[0])
            turns = second.real < 0 or abs(second.imag) > 1e-9 * abs(second)
            return turns and abs(second) > unit.dynamics.decay

        return self._each(ringing)

    @property
    def best_start(self) -> Any:
        """Constant start potential with the least mean square distance to v: E[v]; potential."""
        return self.mean_post

    @property
    def error(self) -> dict[str, Any]:
        """Estimated absolute error of each of :data:`FIGURES`, in its unit.

        That of an eigenvalue is ``inf`` if the iteration for the spectrum did not converge.
        """
        errors = {name: self.error_of(attrgetter(name)) for name in FIGURES}
        converged = self._each(lambda unit: unit.typical.spectrum.converged)
        for name in ("lambda_2", "lambda_3"):
            known = np.where(converged, errors[name], np.inf)
            errors[name] = float(known) if known.shape == () else known
        return errors

    def error_of(self, figure: Callable[[StationaryLaw], Any]) -> Any:
        """Return the estimated absolute error of any figure of this law.

        The figure is computed at two resolutions; their difference bounds the error of the finer
        one, since it falls exponentially (cells: in proportion) with the resolution.

        Args:
            figure: a function of a law that returns a number or an array.

        Example:
            >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.stationary import stationary_law
        >>> law = stationary_law(NeuronSpec(decay=0.5), 0.0, 0.5)
            >>> law.error_of(lambda x: x.coverage(0.5, 1.5)) < 1e-9
            True
        """
        if self.coarse is None:
            raise ValueError("this law is itself the coarse one: it has no error estimate")
        here, there = np.asarray(figure(self)), np.asarray(figure(self.coarse))
        if here.dtype == object or there.dtype == object:
            raise ValueError("the figure is not a number for every layer: it has no error estimate")
        # Cells converge in proportion: the difference to half as many is the whole error left.
        slack = 1.0 if all(unit.typical.smooth for unit in self.units) else 2.0
        error = slack * np.abs(here - there) + ROUNDING * np.abs(here)
        return float(error) if error.shape == () else error

    def pdf(self, u: Any) -> Any:
        """Return the density of u at the potentials u, ``[..., *u.shape]``; 1 / potential."""
        return self._each(lambda unit: unit.stationary.pdf(numbers("u", u)))

    def pdf_post(self, v: Any) -> Any:
        """Return the density of v without the atom of a hard reset, ``[..., *v.shape]``."""
        return self._each(lambda unit: unit.stationary.pdf_post(numbers("v", v)))

    def cdf(self, u: Any) -> Any:
        """Return the probability of at most u, ``[..., *u.shape]``."""
        return self._each(lambda unit: unit.stationary.cdf(numbers("u", u)))

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
            Timesteps; ``inf`` beyond 10000.
        """
        return self._each(lambda unit, v: unit.steps_to(distance, v), self._starts(start))

    def transient(self, steps: int, start: Any = None) -> Transient:
        """Return the laws at t = 1 ... steps.

        Args:
            steps: number of timesteps, at least 1.
            start: potential v[0], a number or one per layer; the specification's if None.

        Example:
            >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.stationary import stationary_law
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
            >>> from spikescope.analysis.neuron import NeuronSpec
        >>> from spikescope.analysis.stationary import stationary_law
        >>> spec = NeuronSpec(decay=0.9, gain=0.1)
            >>> shift = stationary_law(spec, 0.5, 2.0).removable()
            >>> print(f"{shift.w1_before:.3f} {shift.w1_after:.3f} {shift.share:.2f}")
            0.261 0.146 0.44
        """
        proposed = self.best_start if candidate is None else numbers("candidate", candidate)

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
