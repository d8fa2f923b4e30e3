"""How a potential moves without noise, and the interval that it does not leave with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .input_noise import REACH, Floats, GaussianNoise, Noise

# The Airy function squared is below 1e-11 beyond this argument.
AIRY_REACH = 8.0


@dataclass(frozen=True)
class Dynamics:
    """The deterministic part of one step: ``u' = decay R(u) + offset + noise``.

    Args:
        decay: share of v that survives a step.
        offset: mean input after the gain, plus (1 - decay) rest; potential.
        threshold: potential at which R acts.
        reset: ``"subtract"``, ``"to_value"`` or ``"none"``.
        amount: potential subtracted.
        value: potential after a hard reset.

    Example:
        >>> Dynamics(0.5, 0.1, 1.0, "subtract", 1.0, 0.0).centre(np.array([0.8, 1.2])).round(6)
        array([0.5, 0.2])
    """

    decay: float
    offset: float
    threshold: float
    reset: str
    amount: float
    value: float

    def after_reset(self, u: Floats) -> Floats:
        """Return v = R(u)."""
        if self.reset == "none":
            return u
        reset = u - self.amount if self.reset == "subtract" else self.value
        return np.where(u >= self.threshold, reset, u)

    def centre(self, u: Floats) -> Floats:
        """Return the mean of the next u."""
        return self.decay * self.after_reset(u) + self.offset


def support(
    dynamics: Dynamics, noise: Noise, starts: tuple[float, ...] = (), reach: float = REACH
) -> tuple[float, float]:
    """Return the interval that the pre-reset potential does not leave.

    Below the lowest point where a reset can put it the potential is an AR(1) process drawn back
    with a drift delta, so a depth x has the weight exp(-(q x^2 + p x)) with q = (1 - decay^2) /
    (2 std^2) and p = delta (1 + decay) / std^2; likewise above. At decay 1 this is Lundberg's
    exponent 2 delta / std^2.

    Args:
        dynamics: the deterministic part.
        noise: the random part.
        starts: potentials v[0] whose transients must fit in, too.
        reach: standard deviations at which normal tails are cut.

    Returns:
        ``(low, high)``, potential.
    """
    a, b, theta, std = dynamics.decay, dynamics.offset, dynamics.threshold, noise.std
    energy = 0.5 * reach**2
    normal = isinstance(noise, GaussianNoise)

    def tail(delta: float) -> float:
        q, p = (1.0 - a * a) / (2.0 * std**2), max(delta, 0.0) * (1.0 + a) / std**2
        depth = float(2.0 * energy / (p + np.sqrt(p * p + 4.0 * q * energy)))
        if a == 1.0 or delta <= 0.0:
            return depth
        # The slower modes reach deeper: they fall as the Airy function of this scale.
        airy = float(np.cbrt(std**4 / (2.0 * delta * (1.0 - a))))
        return max(depth, min(AIRY_REACH * reach / REACH * airy, tail(0.0)))

    # A law that is not normal has heavier tails than its variance says.
    below, above = (0.0, 0.0) if normal else (-noise.low, noise.high)
    free = b / (1.0 - a) if a < 1.0 else np.inf
    spread = tail(0.0) if a < 1.0 else np.inf
    first = [a * start + b for start in starts]
    resets = dynamics.reset != "none" and (
        max([free + spread + above] + [at + noise.high for at in first]) >= theta
    )
    if not resets:
        low, high = free - spread - below, free + spread + above
        floor, ceiling = free, free
    elif dynamics.reset == "subtract":
        entry = theta - dynamics.amount
        bottom = min(entry, a * entry + b, free)
        full = (b - a * dynamics.amount) / (1.0 - a) if a < 1.0 else -np.inf
        top = max(theta, a * theta + b, full)
        drop = (1.0 - a) * top + a * dynamics.amount - b
        low = bottom - max(tail(b - (1.0 - a) * bottom), -noise.low) - below
        high = top + max(tail(drop), noise.high) + above
        low, high = max(low, full - spread - below), min(high, free + spread + above)
        if low > theta:
            high = min(high, full + spread + above)
        floor, ceiling = bottom, top
    else:
        always = a * dynamics.value + b
        if always + noise.low > theta:
            low, high = always + noise.low, always + noise.high
            floor = ceiling = always
        else:
            bottom = min(dynamics.value, always, free)
            low = bottom - max(tail(b - (1.0 - a) * bottom), -noise.low) - below
            high = min(max(a * theta + b, always) + noise.high, free + spread + above)
            floor, ceiling = bottom, max(theta, always)
    if not normal:
        low, high = _bounded(dynamics, noise, (low, high), (floor, ceiling))
    for at in first:
        if at + noise.low < low:
            low = at - max(tail(b - (1.0 - a) * at), -noise.low)
        if at + noise.high > high:
            high = at + max(spread if np.isfinite(spread) else 0.0, noise.high)
    return float(low), float(high)


def tail_exponent(dynamics: Dynamics, noise: Noise, u: Floats) -> Floats:
    """Return minus the logarithm of the stationary density's fall in its tails, 0 between them.

    With its square root as weight the chain is nearly symmetric in the tails. Without it, slow
    modes of a strong drift are lost in rounding: their eigenvalues are ill-conditioned.

    Args:
        dynamics: the deterministic part.
        noise: the random part.
        u: potentials, any shape.
    """
    a, b, std = dynamics.decay, dynamics.offset, noise.std
    free = b / (1.0 - a) if a < 1.0 else np.inf
    bottom, top = free, free
    if dynamics.reset == "subtract":
        entry = dynamics.threshold - dynamics.amount
        full = (b - a * dynamics.amount) / (1.0 - a) if a < 1.0 else -np.inf
        bottom = min(entry, a * entry + b, free)
        top = max(dynamics.threshold, a * dynamics.threshold + b, full)
    elif dynamics.reset == "to_value":
        bottom, top = min(dynamics.value, a * dynamics.value + b, free), np.inf
    drop = dynamics.amount * a if dynamics.reset == "subtract" else 0.0
    total = np.zeros_like(u)
    for anchor, side, carried in ((bottom, -1.0, 0.0), (top, 1.0, drop)):
        if np.isfinite(anchor):
            depth = np.maximum(side * (u - anchor), 0.0)
            drift = max(side * ((1.0 - a) * anchor + carried - b), 0.0)
            back = depth * ((1.0 - a * a) / 2.0 * depth + drift * (1.0 + a)) / std**2
            # A single step over the anchor falls as the noise does, if that is the slower fall.
            total += np.minimum(back, 0.5 * (depth / std) ** 2)
    return total


def _bounded(
    dynamics: Dynamics,
    noise: Noise,
    span: tuple[float, float],
    anchors: tuple[float, float],
) -> tuple[float, float]:
    """Tighten a span to what a bounded noise can reach, e.g. [0, 2] for fair bits at decay 1/2."""
    a, b = dynamics.decay, dynamics.offset

    def limit(extreme: float) -> float:
        # A drift of rounding size is no drift.
        drift = 0.0 if abs(b + extreme) < 1e-12 * noise.std else b + extreme
        return drift / (1.0 - a) if a < 1.0 else (np.sign(drift) * np.inf if drift else 0.0)

    lowest, highest = limit(noise.low), limit(noise.high)
    if a == 1.0 and lowest == 0.0:
        lowest = np.inf
    low = max(span[0], min(anchors[0], lowest))
    high = min(span[1], max(anchors[1], highest)) if dynamics.reset == "none" else span[1]
    return low, high
