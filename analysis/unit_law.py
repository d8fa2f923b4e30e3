"""What one layer settles to, how it gets there, and which start potential shortens the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from .input_noise import Floats, Noise
from .potential_law import PotentialLaw
from .potential_range import Dynamics, support
from .transfer import COARSE, FINE, Chain, Resolution

# Longest way to the stationary law that is followed step by step.
MAX_STEPS = 10_000
# Frozen inputs are laid out over this many standard deviations; beyond lie less than 1e-14.
FROZEN_REACH = 8.0
# Numbers of classes tried until rate and standard deviation no longer change.
CLASSES = (17, 33, 65, 129, 257)
# A rate of active units below this is lost in rounding.
MIN_ACTIVE = 1e-10


@dataclass(frozen=True)
class Removable:
    """What a constant start potential does to the shift at t = 1.

    Args:
        start: potential v[0] now.
        candidate: constant potential proposed instead.
        share: share of the Wasserstein-1 distance at t = 1 that the candidate removes; 1 is all,
            negative is harm; no unit.
        w1_before: Wasserstein-1 distance of u[1] to the stationary law from ``start``; potential.
        w1_after: the same from ``candidate``.
        tv_before: total-variation distance at t = 1 from ``start``.
        tv_after: the same from ``candidate``.
        rate_before: firing rate at t = 1 from ``start``, per unit and timestep.
        rate_after: the same from ``candidate``.
    """

    start: float
    candidate: float
    share: float
    w1_before: float
    w1_after: float
    tv_before: float
    tv_after: float
    rate_before: float
    rate_after: float


class UnitLaw:
    """Stationary law and transients of one layer whose units share one specification.

    Args:
        dynamics: deterministic part of a step; its offset is that of the average unit.
        noise: fast part of the input after the gain.
        frozen_std: standard deviation, between units, of the input frozen over time; potential.
        start: potential v[0] from which transients set out unless another one is given.
        resolution: fineness of the grid.
        classes: number of classes into which units with different frozen input are sorted.

    Example:
        >>> from spikescope.analysis.input_noise import GaussianNoise
        >>> dynamics = Dynamics(0.5, 0.0, 1.0, "to_value", 1.0, 0.0)
        >>> law = UnitLaw(dynamics, GaussianNoise(0.5), frozen_std=0.0, start=0.0)
        >>> print(f"{law.stationary.rate:.9f} {law.steps_to(0.01):g} {law.fixed_point(4):.6f}")
        0.031498731 3 -0.074469
    """

    def __init__(
        self,
        dynamics: Dynamics,
        noise: Noise,
        frozen_std: float,
        start: float,
        resolution: Resolution = FINE,
        classes: int = CLASSES[1],
    ) -> None:
        self.start, self.frozen_std, self.resolution = start, frozen_std, resolution
        # Equal spacing: against a Gaussian weight the trapezoid rule converges exponentially.
        z = np.linspace(-FROZEN_REACH, FROZEN_REACH, classes) if frozen_std > 0 else np.zeros(1)
        weights = np.exp(-0.5 * z * z)
        self.shares: Floats = weights / weights.sum()
        self.chains = tuple(
            Chain(replace(dynamics, offset=dynamics.offset + frozen_std * x), noise, (), resolution)
            for x in z
        )

    @property
    def dynamics(self) -> Dynamics:
        """Deterministic part of a step of the average unit."""
        return self.typical.dynamics

    @property
    def typical(self) -> Chain:
        """Chain of the unit whose frozen input is the mean."""
        return self.chains[len(self.chains) // 2]

    @cached_property
    def stationary(self) -> PotentialLaw:
        """Law to which the potential settles."""
        return self._stationary(self.chains)

    def _stationary(self, chains: tuple[Chain, ...]) -> PotentialLaw:
        sources = tuple((chain.centres, chain.masses) for chain in chains)
        return PotentialLaw(chains, self.shares, sources, tuple(chain.masses for chain in chains))

    def covering(self, *starts: float) -> tuple[Chain, ...]:
        """Return chains whose grids hold the transients from all these start potentials."""
        return tuple(self._covering(chain, starts) for chain in self.chains)

    def _covering(self, chain: Chain, starts: tuple[float, ...]) -> Chain:
        span = support(chain.dynamics, chain.noise, starts, self.resolution.reach)
        if span == (chain.low, chain.high):
            return chain
        return Chain(chain.dynamics, chain.noise, starts, self.resolution)

    def transient(self, start: float, chains: tuple[Chain, ...]) -> Iterator[PotentialLaw]:
        """Yield the law of u at t = 1, 2, ... without end, from v[0] = start."""
        one = np.ones(1)
        centres = [np.array([c.dynamics.decay * start + c.dynamics.offset]) for c in chains]
        masses = tuple(c.image(at)[:, 0] for c, at in zip(chains, centres, strict=True))
        yield PotentialLaw(chains, self.shares, tuple((at, one) for at in centres), masses)
        while True:
            sources = tuple((c.centres, m) for c, m in zip(chains, masses, strict=True))
            masses = tuple(c.matrix @ m for c, m in zip(chains, masses, strict=True))
            yield PotentialLaw(chains, self.shares, sources, masses)

    def path(self, start: float, steps: int) -> tuple[list[PotentialLaw], PotentialLaw]:
        """Return the laws at t = 1 ... steps, and the stationary law on the same grid."""
        chains = self.covering(start)
        laws = [law for law, _ in zip(self.transient(start, chains), range(steps), strict=False)]
        return laws, self._stationary(chains)

    def steps_to(self, distance: float, start: float | None = None) -> float:
        """Return the first t at which the total variation to the stationary law is below distance.

        Args:
            distance: total-variation distance, in (0, 1).
            start: potential v[0]; the specification's if None.

        Returns:
            Number of timesteps, or ``inf`` if it is more than :data:`MAX_STEPS`.
        """
        if not 0.0 < distance < 1.0:
            raise ValueError(f"distance={distance!r} is not in (0, 1), where total variation lies")
        start = self.start if start is None else start
        chains = self.covering(start)
        end = self._stationary(chains)
        single = len(chains) == 1
        for t, law in enumerate(self.transient(start, chains), 1):
            # The sum over nodes is good to a per cent: the exact distance matters only near it.
            rough = law.grid_distance(end)
            if not (single and rough > 1.1 * distance) and law.total_variation(end) < distance:
                return float(t)
            look = single and (t == 64 or t % 1000 == 0)
            if t == MAX_STEPS or (look and self._too_slow(t, rough / distance)):
                break
        return float("inf")

    def _too_slow(self, t: int, excess: float) -> bool:
        """Whether the second eigenvalue alone, from t on, divides by excess too late."""
        modulus = min(abs(self.typical.spectrum.values[0]), 1.0)
        # Early on faster modes still help, hence the factor 2 at first.
        limit = MAX_STEPS * (2.0 if t < 1000 else 1.1) - t
        return modulus > 1e-3 and bool(np.log(excess) > -limit * np.log(modulus))

    def removable(self, start: float | None = None, candidate: float | None = None) -> Removable:
        """Return what a constant start potential removes of the shift at t = 1.

        Args:
            start: potential v[0] now; the specification's if None.
            candidate: constant proposed instead; the stationary E[v] if None.
        """
        start = self.start if start is None else start
        candidate = self.stationary.mean_post if candidate is None else candidate
        chains = self.covering(start, candidate)
        end = self._stationary(chains)
        before, after = (next(self.transient(v, chains)) for v in (start, candidate))
        w1 = before.wasserstein(end), after.wasserstein(end)
        tv = before.total_variation(end), after.total_variation(end)
        # Without any shift there is nothing to remove.
        share = 1.0 - w1[1] / w1[0] if w1[0] > 1e-12 * end.std else 0.0
        return Removable(start, candidate, share, *w1, *tv, before.rate, after.rate)

    def _last_potential(
        self, chains: tuple[Chain, ...], timesteps: int
    ) -> list[tuple[Floats, Floats, Floats]]:
        """Return per class, given u[1] on each node: E[v_T], E[v_T; no spike], P(no spike)."""
        values = []
        for chain in chains:
            quiet: Floats = np.where(chain.nodes < chain.dynamics.threshold, 1.0, 0.0)
            everyone = chain.dynamics.after_reset(chain.nodes)
            silent, unfired = chain.nodes * quiet, quiet
            back = chain.matrix.T
            for _ in range(timesteps - 1):
                everyone, silent, unfired = back @ everyone, back @ silent, back @ unfired
                silent, unfired = silent * quiet, unfired * quiet
            values.append((everyone, silent, unfired))
        return values

    def fixed_point(
        self, timesteps: int, active_only: bool = False, start: float | None = None
    ) -> float | None:
        """Return the start potential c = E[v_T | v_0 = c] at which MP-Init comes to rest.

        Args:
            timesteps: length T of the window.
            active_only: whether only units with a spike in t = 1 ... T enter the mean, as in the
                published method.
            start: potential from which the running mean sets out; the specification's if None.

        Returns:
            The first fixed point on the way of the running mean, potential; None if there is
            none, e.g. if no unit ever fires.
        """
        if timesteps < 1:
            raise ValueError(f"timesteps={timesteps!r} is not possible: a window has at least 1")
        origin = self.start if start is None else start
        law, dynamics = self.stationary, self.dynamics
        wide = 1.5 * law.std_post
        ends = [origin, law.mean_post - wide, law.mean_post + wide]
        if dynamics.reset == "subtract" and np.isfinite(dynamics.threshold):
            ends += [dynamics.threshold - dynamics.amount, dynamics.threshold]
        elif dynamics.reset == "to_value":
            ends += [dynamics.value, min(dynamics.threshold, law.mean_post + wide)]
        low, high = min(ends), max(ends)
        chains = self.covering(low, high)
        values = self._last_potential(chains, timesteps)

        def excess(c: Floats) -> Floats:
            everyone = quiet_v = quiet = np.zeros_like(c)
            for chain, share, parts in zip(chains, self.shares, values, strict=True):
                first = chain.image(chain.dynamics.decay * c + chain.dynamics.offset)
                sums = [share * (part @ first) for part in parts]
                everyone, quiet_v, quiet = everyone + sums[0], quiet_v + sums[1], quiet + sums[2]
            if not active_only:
                return everyone - c
            # Where no unit fires there is no mean over active units.
            active = np.where(quiet < 1.0 - MIN_ACTIVE, 1.0 - quiet, np.nan)
            return np.asarray((everyone - quiet_v) / active - c)

        grid = np.linspace(low, high, 257)
        gap = excess(np.append(grid, origin))
        gap, here = gap[:-1], gap[-1]
        if here == 0.0:
            return origin
        at = np.flatnonzero(np.sign(gap[1:]) * np.sign(gap[:-1]) <= 0)
        if np.isfinite(here):
            onward = grid[at + 1] >= origin if here > 0 else grid[at] <= origin
            at = at[onward]
        if len(at) == 0:
            return None
        # The nearest in the direction in which the running mean moves.
        best = at[np.argmin(np.abs(grid[at] - origin))]
        root = brentq(
            lambda c: float(excess(np.array([c]))[0]),
            grid[best],
            grid[best + 1],
            xtol=1e-13 * max(1.0, abs(high), abs(low)),
        )
        return float(root)

    def active_share(self, timesteps: int, start: float | None = None) -> float:
        """Return the probability of at least one spike in t = 1 ... timesteps."""
        start = self.start if start is None else start
        chains = self.covering(start)
        quiet = 0.0
        for chain, share, parts in zip(
            chains, self.shares, self._last_potential(chains, timesteps), strict=True
        ):
            first = chain.image(np.array([chain.dynamics.decay * start + chain.dynamics.offset]))
            quiet += share * float(parts[2] @ first[:, 0])
        return max(1.0 - quiet, 0.0)


def solve(
    dynamics: Dynamics, noise: Noise, frozen_std: float, start: float
) -> tuple[UnitLaw, UnitLaw]:
    """Return a layer's law and a coarser one whose distance to it is the error estimate."""
    coarse = UnitLaw(dynamics, noise, frozen_std, start, COARSE, CLASSES[0])
    if frozen_std == 0.0:
        return UnitLaw(dynamics, noise, 0.0, start), coarse
    for classes in CLASSES[1:]:
        fine = UnitLaw(dynamics, noise, frozen_std, start, classes=classes)
        here, there = fine.stationary, coarse.stationary
        change = max(abs(here.rate - there.rate), abs(here.std_post / there.std_post - 1.0))
        if change < 1e-8 or classes == CLASSES[-1]:
            break
        coarse = fine
    return fine, coarse
