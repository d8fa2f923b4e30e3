"""Self-consistent stationary law of u in a recurrent layer, without simulation.

A unit sees a drive that is constant in time but differs between units (quenched: the share of the
recurrent and of the input current that the units' rates fix), plus noise that is fresh at every
timestep. Rate and mean square rate of the layer set both parts, and the law sets the rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from .drive_law import DriveLaw, drive_law
from .gradient_statistics import GradientStatistics, factor_parts
from .neuron_spec import NeuronSpec
from .surrogate import Surrogate

Array = npt.NDArray[np.float64]

QUENCHED_TAIL = 5.5  # standard deviations of the quenched drive kept: 4e-8 is left out
MAX_DRIVES = 401
TOLERANCE = 1e-9  # disagreement of the rates with themselves, spikes per timestep
MOST_ITERATIONS = 300
NEARBY = 1e-3  # disagreement of the rates below which Newton's method takes over


@dataclass(frozen=True)
class RecurrentLaw:
    """Self-consistent stationary law of the pre-reset potential u.

    Args:
        spec: the layer's dynamics.
        rate: spikes per timestep, averaged over units.
        rate_square: mean over units of the squared rate.
        mean: mean of u.
        std: standard deviation of u over time and units.
        quenched_std: standard deviation over units of the mean of u.
        noise_std: standard deviation of what is fresh at each timestep, potential.
        drives: the law of u given each quenched drive.
        weights: share of the units that each stands for, shape [drives].
        iterations: evaluations until rate and rate_square agreed with themselves.
        residual: what was left of their disagreement, spikes per timestep.
    """

    spec: NeuronSpec
    rate: float
    rate_square: float
    mean: float
    std: float
    quenched_std: float
    noise_std: float
    drives: tuple[DriveLaw, ...]
    weights: Array
    iterations: int
    residual: float

    def density(self, u: Any) -> Array:
        """Return the density of u, 1 / potential, at any points (same shape)."""
        points = np.asarray(u, dtype=float)
        total = np.zeros(points.size)
        for weight, law in zip(self.weights, self.drives, strict=True):
            total += weight * law.density(points.ravel())
        return total.reshape(points.shape)

    def probability(self, low: Any, high: Any) -> float:
        """Return P(low < u < high)."""
        noise, total = self.noise_std, 0.0
        for weight, law in zip(self.weights, self.drives, strict=True):
            moved = law.following(law.u)
            inside = special.ndtr((high - moved) / noise) - special.ndtr((low - moved) / noise)
            total += float(weight * (law.mass @ inside))
        return total

    def expect(self, shape: str, centre: Any, width: Any, order: int, tail: Any) -> float:
        """Return E[shape((u - centre) / width) ** order]; makes this a law for ``Surrogate``."""
        surrogate = Surrogate(shape, 1.0, float(width), tail)
        total = 0.0
        for weight, law in zip(self.weights, self.drives, strict=True):
            points, _, mass = law.fine_grid(surrogate, float(centre))
            total += weight * float(mass @ surrogate.derivative(points - centre) ** order)
        return total

    def statistics(self, surrogate: Surrogate, lags: int = 49) -> GradientStatistics:
        """Return what the growth of the gradient depends on, as the law predicts it.

        Args:
            surrogate: the surrogate to judge.
            lags: largest lag of the autocorrelation of s.
        """
        if lags < 1:
            raise ValueError(f"lags={lags!r} is not possible: it must be at least 1")
        sums = dict.fromkeys(("s", "s2", "s4", "A0", "A1", "A00", "A01", "A11", "A0s", "A1s"), 0.0)
        chains = np.zeros((3, lags))
        plateau = 0.0
        theta = float(self.spec.threshold)
        for weight, law in zip(self.weights, self.drives, strict=True):
            points, length, mass = law.fine_grid(surrogate, theta)
            s = np.asarray(surrogate.derivative(points - theta), dtype=float)
            leak, through = factor_parts(self.spec, points, (points > theta) * 1.0, s)
            w = weight * mass
            for name, value in (
                ("s", s), ("s2", s**2), ("s4", s**4), ("A0", leak), ("A1", through),
                ("A00", leak**2), ("A01", 2 * leak * through), ("A11", through**2),
                ("A0s", leak * s), ("A1s", through * s),
            ):  # fmt: skip
                sums[name] += float(w @ value)
            plateau += weight * float(mass @ s) ** 2
            factor = leak + through
            chains += weight * law.chains(
                points,
                length,
                mass * np.stack([s, s * factor, factor**2]),
                np.stack([np.ones_like(s), factor, factor**2]),
                np.stack([s, s, s**2]),
                lags,
            )
        first = sums["s"]
        if first <= 0.0:
            raise ValueError(
                f"the surrogate (width {surrogate.width:g}) is zero under this law of u "
                f"(mean {self.mean:.4g}, std {self.std:.4g}): no gradient passes"
            )
        return GradientStatistics(
            rate=self.rate,
            first=first,
            second=sums["s2"],
            fourth=sums["s4"],
            correlation=np.append(sums["s2"], chains[0]),
            plateau=plateau,
            factor_mean=(sums["A0"], sums["A1"]),
            factor_second=(sums["A00"], sums["A01"], sums["A11"]),
            factor_weighted=(sums["A0s"] / first, sums["A1s"] / first),
            carried=np.append(sums["s2"], chains[1]),
            decline=np.append(1.0, chains[2] / sums["s2"]),
        )


def recurrent_law(
    spec: NeuronSpec,
    input_mean: float = 0.0,
    input_std: float = 1.0,
    *,
    recurrent_variance: float = 0.0,
    recurrent_mean: float = 0.0,
    quenched_std: float = 0.0,
    start_rate: float = 0.0,
) -> RecurrentLaw:
    """Solve the stationary law of u in a recurrent layer of many units.

    All currents are multiplied by the spec's gain. A feed-forward layer has recurrent_variance 0;
    its law then is a mixture over the quenched part of the input.

    Args:
        spec: scalar dynamics without synaptic filter, decay in [0, 1).
        input_mean: mean input current, a bias included.
        input_std: standard deviation over time of the input current.
        recurrent_variance: n Var[w] of the recurrent weights.
        recurrent_mean: n E[w] of the recurrent weights.
        quenched_std: standard deviation over units of the units' mean input currents.
        start_rate: rate from which the iteration starts; matters only where two laws exist.

    Returns:
        The law; its ``iterations`` and ``residual`` report the convergence.

    Raises:
        ValueError: bad numbers, no noise over time, or no convergence.

    Example:
        >>> spec = NeuronSpec(decay=0.9, threshold=1.0, reset="subtract", delayed_reset=True)
        >>> law = recurrent_law(spec, 0.0, 0.5, recurrent_variance=1.0)
        >>> round(law.rate, 4), round(law.std, 3)
        (0.0532, 1.051)

    Source:
        Mean-field closure with quenched disorder; the recurrent spikes count as white noise, which
        is the approximation. Measured against simulation: rate within .02, E[s^2] within 2 % (13 %
        with strong recurrence and decay above .85).
    """
    _check(spec, input_std, recurrent_variance, quenched_std, start_rate)

    count = 1

    def evaluate(state: Array) -> tuple[RecurrentLaw, Array]:
        nonlocal count
        rate, rate_square = float(state[0]), float(state[1])
        noise = gain * np.sqrt(input_std**2 + recurrent_variance * max(rate - rate_square, 0.0))
        quenched = gain * np.sqrt(quenched_std**2 + recurrent_variance * max(rate_square, 0.0))
        mean = float(spec.gain) * (input_mean + recurrent_mean * rate)
        mean += (1.0 - float(spec.decay)) * float(spec.rest)
        # The number of points only grows, so that the iteration sees a smooth function.
        count = max(count, _quenched_count(float(quenched), float(noise), float(spec.decay)))
        law = _mixture(spec, mean, float(noise), float(quenched), count)
        return law, np.array([law.rate, law.rate_square]) - state

    gain = abs(float(spec.gain))
    alone = recurrent_variance == 0.0 and recurrent_mean == 0.0
    state = np.array([start_rate, start_rate**2])
    if input_std == 0.0 and state[0] == state[1]:
        state = np.array([0.5, 0.25])
    residual, polish = np.inf, True
    for iteration in range(1, MOST_ITERATIONS + 1):
        law, gap = evaluate(state)
        residual = 0.0 if alone else float(np.abs(gap).max())
        if residual < TOLERANCE:
            return replace(law, iterations=iteration, residual=residual)
        if polish and residual < NEARBY:
            # Close to the fixed point that the iteration leads to, Newton's method gets there fast.
            polish = False
            found = optimize.root(lambda x: evaluate(x)[1], state, options={"maxfev": 30}).x
            if np.abs(found - state).max() < 50 * NEARBY:
                state = found
                continue
        # Damping by half keeps a strongly inhibitory layer from oscillating.
        state = state + 0.5 * gap
    raise ValueError(
        f"the rates did not settle in {MOST_ITERATIONS} iterations (still off by {residual:.2g}): "
        f"recurrent_variance={recurrent_variance:g}, recurrent_mean={recurrent_mean:g} may make "
        "the layer oscillate; lower them"
    )


def _quenched_count(quenched: float, noise: float, decay: float) -> int:
    """Return how many points the law of the quenched drive needs.

    The rate rises from 0 to 1 over a change of the drive of (1 - decay) standard deviations of u;
    the points must resolve that, which a fixed Gauss-Hermite rule does not.
    """
    if noise <= 0.0:
        raise ValueError(
            "there is no noise over time (input_std and recurrent_variance or the rate are 0): "
            "a law of u needs some"
        )
    if quenched == 0.0:
        return 1
    scale = (1.0 - decay) * noise / np.sqrt(1.0 - decay**2) / quenched
    count = np.ceil(2 * QUENCHED_TAIL / min(0.6, 1.25 * scale))
    if count > MAX_DRIVES:
        raise ValueError(
            f"the quenched drive (std {quenched:.3g}) is too wide against the noise over time "
            f"(std {noise:.3g}) at decay {decay:g}: more than {MAX_DRIVES} laws would be needed"
        )
    return int(count) | 1


def _mixture(
    spec: NeuronSpec, mean: float, noise: float, quenched: float, count: int
) -> RecurrentLaw:
    """Solve the law of u for a normal law of the drive, on equidistant points."""
    nodes = np.linspace(-QUENCHED_TAIL, QUENCHED_TAIL, count) if count > 1 else np.zeros(1)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    laws = tuple(drive_law(spec, float(mean + quenched * node), noise) for node in nodes)
    rates = np.array([law.rate for law in laws])
    means = np.array([law.mass @ law.u for law in laws])
    squares = np.array([law.mass @ law.u**2 for law in laws])
    centre = float(weights @ means)
    return RecurrentLaw(
        spec=spec,
        rate=float(weights @ rates),
        rate_square=float(weights @ rates**2),
        mean=centre,
        std=float(np.sqrt(max(weights @ squares - centre**2, 0.0))),
        quenched_std=float(np.sqrt(max(weights @ means**2 - centre**2, 0.0))),
        noise_std=noise,
        drives=laws,
        weights=weights,
        iterations=1,
        residual=0.0,
    )


def _check(
    spec: NeuronSpec, input_std: float, variance: float, quenched: float, start_rate: float
) -> None:
    for name in ("decay", "gain", "threshold", "rest", "reset_value"):
        if np.ndim(getattr(spec, name)) != 0:
            raise ValueError(
                f"{name} must be one number here: solve layers with arrays unit by unit"
            )
    if not 0.0 <= float(spec.decay) < 1.0:
        raise ValueError(f"decay={spec.decay!r} has no stationary law here: it must be in [0, 1)")
    if float(spec.synapse_decay) != 0.0:
        raise ValueError(
            f"synapse_decay={spec.synapse_decay!r} is not covered: u alone is then not a chain"
        )
    for name, value in (
        ("input_std", input_std), ("recurrent_variance", variance), ("quenched_std", quenched)
    ):  # fmt: skip
        if not (np.isfinite(value) and value >= 0.0):
            raise ValueError(f"{name}={value!r} is not possible: it must be a number >= 0")
    if not 0.0 <= start_rate <= 1.0:
        raise ValueError(f"start_rate={start_rate!r} is not a rate: it must be in [0, 1]")
