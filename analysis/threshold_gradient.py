"""What a learnable threshold feels under the three published forms of surrogate: AS, RS, TrSG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from .checks import ABOVE_ZERO, LARGEST, is_number, number


@dataclass(frozen=True)
class ThresholdForm:
    """One way to write a spike as a function of potential and threshold.

    A surrogate f stands for the step H with a unit-area derivative f'(x). All functions take the
    potential u, the threshold, f' at x(u, threshold) and the spike s (0 or 1), of any shape; the
    arithmetic serves floats, arrays and tensors.

    Args:
        argument: ``argument(u, threshold)``, the x of H(x) and f'(x).
        height: ``height(threshold)``, what the layer emits for one spike.
        relative: whether the window's width and the peak scale with the threshold.
        output_by_potential: ``(u, threshold, f, s)``, do/du, 1 / potential times height.
        output_by_threshold: the same for the explicit do/dthreshold, u held fixed.
        carry_subtract: the same for dv/du through a soft reset, no unit.
        carry_to_value: the same for dv/du through a hard reset to 0, no unit.
    """

    argument: Callable[[Any, Any], Any]
    height: Callable[[Any], Any]
    relative: bool
    output_by_potential: Callable[[Any, Any, Any, Any], Any]
    output_by_threshold: Callable[[Any, Any, Any, Any], Any]
    carry_subtract: Callable[[Any, Any, Any, Any], Any]
    carry_to_value: Callable[[Any, Any, Any, Any], Any]

    def total_by_threshold(self, u: Any, threshold: Any, f: Any, s: Any, past: Any) -> Any:
        """Return do/dthreshold with the path through u; past = du/dthreshold through the past."""
        explicit = self.output_by_threshold(u, threshold, f, s)
        return explicit + self.output_by_potential(u, threshold, f, s) * past

    def output_by_tau(
        self, u: Any, threshold: Any, f: Any, s: Any, tau: Any, v: Any, current: Any, past: Any
    ) -> Any:
        """Return do/dtau for u = (1 - 1/tau) v + current / tau; past = dv/dtau one step before."""
        by_tau = (1.0 - 1.0 / tau) * past + (v - current) / (tau * tau)
        return self.output_by_potential(u, threshold, f, s) * by_tau

    def fields(self, threshold: Any, relative_width: Any = 1.0) -> dict[str, Any]:
        """Return the rectangular surrogate (peak, width of ds/du) and spike height of this form."""
        width = relative_width * threshold if self.relative else relative_width
        return {"peak": 1.0 / width, "width": width, "spike_height": self.height(threshold)}


FORMS: dict[str, ThresholdForm] = {
    "as": ThresholdForm(
        argument=lambda u, theta: u - theta,
        height=lambda theta: 1.0,
        relative=False,
        output_by_potential=lambda u, theta, f, s: f,
        output_by_threshold=lambda u, theta, f, s: -f,
        carry_subtract=lambda u, theta, f, s: 1.0 - theta * f,
        carry_to_value=lambda u, theta, f, s: 1.0 - s - u * f,
    ),
    "rs": ThresholdForm(
        argument=lambda u, theta: u / theta - 1.0,
        height=lambda theta: 1.0,
        relative=True,
        output_by_potential=lambda u, theta, f, s: f / theta,
        output_by_threshold=lambda u, theta, f, s: -u / (theta * theta) * f,
        carry_subtract=lambda u, theta, f, s: 1.0 - f,
        carry_to_value=lambda u, theta, f, s: 1.0 - s - u / theta * f,
    ),
    "trsg": ThresholdForm(
        argument=lambda u, theta: u / theta - 1.0,
        height=lambda theta: theta,
        relative=True,
        output_by_potential=lambda u, theta, f, s: f,
        output_by_threshold=lambda u, theta, f, s: s - u / theta * f,
        carry_subtract=lambda u, theta, f, s: 1.0 - f,
        carry_to_value=lambda u, theta, f, s: 1.0 - s - u / theta * f,
    ),
}
"""Absolute (AS), relative (RS) and threshold-robust surrogate gradient (TrSG): Kook et al., arXiv
2511.08708, section 4. The gradient flows through the reset; the soft reset subtracts the emitted
value (TrSG) or the threshold times the spike (AS, RS), with the threshold held fixed in u."""


@dataclass(frozen=True)
class Magnitudes:
    """How large the gradients of a form are under one law of u; each of any shape.

    Args:
        coverage: probability that u lies inside the surrogate's window, no unit.
        gain: E[(do/du)^2].
        threshold_gradient: E[explicit do/dthreshold].
    """

    coverage: Any
    gain: Any
    threshold_gradient: Any


def gaussian_magnitudes(
    form: str, threshold: Any, mean: Any, std: Any, relative_width: Any = 1.0
) -> Magnitudes:
    """Return coverage, gain and threshold gradient of a rectangular surrogate in closed form.

    Args:
        form: a name in :data:`FORMS`.
        threshold: potential, above 0.
        mean: mean of the Gaussian pre-reset potential.
        std: its standard deviation, above 0.
        relative_width: the surrogate's gamma: full width in the unit of its argument, above 0.

    Returns:
        The three magnitudes, broadcast.

    Raises:
        ValueError: an unknown form, or a threshold, std or width that is not above 0.

    Example:
        >>> trsg = gaussian_magnitudes("trsg", 0.1, mean=0.0, std=0.5)
        >>> round(float(trsg.coverage), 6), round(float(trsg.gain), 6)
        (0.078084, 0.078084)
        >>> round(float(trsg.threshold_gradient), 6)
        0.342917

    Source:
        Moments of a truncated Gaussian under the gradients of Kook et al., arXiv 2511.08708,
        section 4 (the paper states the failures in words only).
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} is not one of {', '.join(FORMS)}")
    wanted = "a finite number above 0"
    theta = number("threshold", threshold, ABOVE_ZERO, LARGEST, wanted)
    std = number("std", std, ABOVE_ZERO, LARGEST, wanted)
    gamma = number("relative_width", relative_width, ABOVE_ZERO, LARGEST, wanted)
    mean = number("mean", mean, -LARGEST, LARGEST, "finite")
    half = 0.5 * gamma * (theta if FORMS[form].relative else np.ones_like(theta))
    low, high = (theta - half - mean) / std, (theta + half - mean) / std
    coverage = special.ndtr(high) - special.ndtr(low)
    inside = mean * coverage - std * (_density(high) - _density(low))  # E[u; u in the window]
    fires = special.ndtr((mean - theta) / std)
    gain = coverage / gamma**2
    if form == "as":
        return Magnitudes(coverage, gain, -coverage / gamma)
    if form == "rs":
        return Magnitudes(coverage, gain / theta**2, -inside / (gamma * theta**2))
    return Magnitudes(coverage, gain, fires - inside / (gamma * theta))


def threshold_from_raw(raw: Any, xp: Any = np) -> Any:
    """Return the threshold softplus(raw) > 0 of a learnable raw parameter.

    Args:
        raw: unbounded parameter k, any shape.
        xp: numpy, or torch for tensors.

    Returns:
        Threshold, potential.

    Example:
        >>> round(float(threshold_from_raw(0.0)), 6), float(threshold_from_raw(800.0))
        (0.693147, 800.0)

    Source:
        Kook et al., arXiv 2511.08708, section 4: threshold = softplus(k).
    """
    # log(1 + e^k) without overflow.
    return xp.log1p(xp.exp(-xp.abs(raw))) + 0.5 * (raw + xp.abs(raw))


def raw_from_threshold(threshold: Any, xp: Any = np) -> Any:
    """Return the raw parameter ln(e^threshold - 1) of a threshold above 0.

    Args:
        threshold: potential, above 0.
        xp: numpy, or torch for tensors.

    Returns:
        Raw parameter k.

    Raises:
        ValueError: a threshold of 0 or below: softplus never reaches it.

    Example:
        >>> round(float(raw_from_threshold(1.0)), 6)
        0.541325

    Source:
        Kook et al., arXiv 2511.08708: k0 = ln(e^1 - 1).
    """
    if is_number(threshold):
        number("threshold", threshold, ABOVE_ZERO, LARGEST, "a finite number above 0")
    return threshold + xp.log(-xp.expm1(-threshold))


def threshold_slope(threshold: Any, xp: Any = np) -> Any:
    """Return d threshold / d raw = 1 - e^(-threshold), which vanishes with the threshold.

    Args:
        threshold: potential, above 0.
        xp: numpy, or torch for tensors.

    Returns:
        Slope between 0 and 1.

    Example:
        >>> round(float(threshold_slope(1.0)), 6)
        0.632121

    Source:
        Derivative of softplus, written in its value.
    """
    return -xp.expm1(-threshold)


def tau_from_raw(raw: Any, xp: Any = np) -> Any:
    """Return the time constant 1 / sigmoid(raw) = 1 + e^(-raw) of a raw parameter.

    Args:
        raw: unbounded parameter w, any shape.
        xp: numpy, or torch for tensors.

    Returns:
        Time constant in timesteps, above 1; the decay is 1 - 1 / tau.

    Example:
        >>> float(tau_from_raw(0.0))
        2.0

    Source:
        Kook et al., arXiv 2511.08708, section 4: tau = 1 / sigmoid(w).
    """
    return 1.0 + xp.exp(-raw)


def raw_from_tau(tau: Any, xp: Any = np) -> Any:
    """Return the raw parameter -ln(tau - 1) of a time constant above 1.

    Args:
        tau: time constant in timesteps, above 1.
        xp: numpy, or torch for tensors.

    Returns:
        Raw parameter w.

    Raises:
        ValueError: a time constant of 1 or below.

    Example:
        >>> round(float(raw_from_tau(3.0)), 6)
        -0.693147

    Source:
        Kook et al., arXiv 2511.08708: w0 = -ln(tau0 - 1).
    """
    if is_number(tau):
        number("tau", tau, np.nextafter(1.0, 2.0), LARGEST, "a finite number above 1")
    return -xp.log(tau - 1.0)


def _density(z: Any) -> Any:
    return np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
