"""The surrogates of the SNN frameworks, in their own parameters and in ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .surrogate import Surrogate


@dataclass(frozen=True)
class FrameworkSurrogate:
    """How one framework parametrises one surrogate.

    Args:
        defaults: the parameters with the framework's defaults. ``threshold`` is that of the layer,
            for a framework that gives the width in thresholds.
        build: from the parameters to the surrogate.
        read: from a surrogate of the right shape and the threshold to the parameters; whether they
            reproduce it is for :func:`to_framework` to check.
        possible: which peaks, widths and tails the parameters reach.
    """

    defaults: Mapping[str, float]
    build: Callable[..., Surrogate]
    read: Callable[[Surrogate, float], dict[str, Any]]
    possible: str


def _one(
    parameter: str,
    default: float,
    shape: str,
    peak: Callable[[Any], Any],
    width: Callable[[Any], Any],
    read: Callable[[Surrogate, float], Any],
    possible: str,
) -> FrameworkSurrogate:
    """Return the row of a surrogate with a single parameter."""
    return FrameworkSurrogate(
        {parameter: default},
        lambda **p: Surrogate(shape, peak(p[parameter]), width(p[parameter])),
        lambda surrogate, threshold: {parameter: read(surrogate, threshold)},
        possible,
    )


_ROOT_2, _ROOT_PI = float(np.sqrt(2.0)), float(np.sqrt(np.pi))


def _fixed(x: Any) -> float:
    return 1.0


def _inverse(x: Any) -> Any:
    return 1.0 / x


def _half(x: Any) -> Any:
    return x / 2.0


def _inverse_width(surrogate: Surrogate, threshold: float) -> Any:
    return 1.0 / surrogate.width


def _peak(surrogate: Surrogate, threshold: float) -> Any:
    return surrogate.peak


def _arctan(default: float) -> FrameworkSurrogate:
    return _one(
        "alpha", default, "arctan", _half, lambda a: 2.0 / (np.pi * a),
        lambda s, threshold: 2.0 * s.peak, "peak * width = 1 / pi (area 1)",
    )  # fmt: skip


def _super(parameter: str, default: float) -> FrameworkSurrogate:
    return _one(
        parameter, default, "fast_sigmoid", _fixed, _inverse, _inverse_width, "peak = 1, any width"
    )


def _sigmoid(parameter: str, default: float) -> FrameworkSurrogate:
    return _one(
        parameter, default, "sigmoid", lambda a: a / 4.0, _inverse, _inverse_width,
        "peak * width = 1 / 4 (area 1)",
    )  # fmt: skip


FRAMEWORK_SURROGATES: dict[tuple[str, str], FrameworkSurrogate] = {
    ("snntorch", "fast_sigmoid"): _super("slope", 25.0),
    ("snntorch", "atan"): _arctan(2.0),
    ("snntorch", "sigmoid"): _sigmoid("slope", 25.0),
    ("spikingjelly", "Sigmoid"): _sigmoid("alpha", 4.0),
    ("spikingjelly", "ATan"): _arctan(2.0),
    ("spikingjelly", "SoftSign"): _one(
        "alpha", 2.0, "fast_sigmoid", _half, _inverse, _inverse_width,
        "peak * width = 1 / 2 (area 1)",
    ),
    ("spikingjelly", "SuperSpike"): _one(
        "alpha", 1.0, "fast_sigmoid", lambda a: a, _fixed, _peak, "any peak, width = 1"
    ),
    ("spikingjelly", "PiecewiseQuadratic"): _one(
        "alpha", 1.0, "triangular", lambda a: a, _inverse, _peak, "peak * width = 1 (area 1)"
    ),
    ("spikingjelly", "PiecewiseExp"): _one(
        "alpha", 1.0, "exponential", _half, _inverse, _inverse_width,
        "peak * width = 1 / 2 (area 1)",
    ),
    ("spikingjelly", "Erf"): _one(
        "alpha", 2.0, "gaussian", lambda a: a / _ROOT_PI, lambda a: 1.0 / (a * _ROOT_2),
        lambda s, threshold: s.peak * _ROOT_PI, "peak * width = 1 / sqrt(2 pi) (area 1)",
    ),
    ("spikingjelly", "Rect"): _one(
        "alpha", 1.0, "rectangular", lambda a: a, _inverse, _peak, "peak * width = 1 (area 1)"
    ),
    ("spikingjelly", "QPseudoSpike"): FrameworkSurrogate(
        {"alpha": 2.0},
        lambda alpha: Surrogate("q_pseudo_spike", 1.0, 1.0, alpha),
        lambda s, threshold: {"alpha": s.tail},
        "peak = 1, width = 1, any tail > 1",
    ),
    # Release 1.1.0 of norse ignores alpha of "super" (width 1 always); before and after it counts.
    ("norse", "super"): _super("alpha", 100.0),
    ("norse", "triangle"): _one(
        "alpha", 0.3, "triangular", lambda a: a, _fixed, _peak, "any peak, width = 1"
    ),
    ("norse", "tanh"): _one(
        "alpha", 1.0, "sigmoid", _fixed, lambda a: 0.5 / a,
        lambda s, threshold: 0.5 / s.width, "peak = 1, any width",
    ),
    ("norse", "heavi_erfc"): _one(
        "alpha", 1.0, "gaussian", lambda a: 2.0 / _ROOT_PI, lambda a: 1.0 / (a * _ROOT_2),
        lambda s, threshold: 1.0 / (s.width * _ROOT_2), "peak = 2 / sqrt(pi), any width",
    ),
    ("sinabs", "SingleExponential"): FrameworkSurrogate(
        {"grad_width": 0.5, "grad_scale": 1.0, "threshold": 1.0},
        lambda grad_width, grad_scale, threshold: Surrogate(
            "exponential", grad_scale / (grad_width * threshold), grad_width * threshold
        ),
        lambda s, threshold: {"grad_width": s.width / threshold, "grad_scale": s.peak * s.width},
        "any peak, any width",
    ),
    ("sinabs", "Gaussian"): FrameworkSurrogate(
        {"sigma": 0.5, "grad_scale": 1.0},
        lambda sigma, grad_scale: Surrogate(
            "gaussian", grad_scale / (sigma * _ROOT_2 * _ROOT_PI), sigma
        ),
        lambda s, threshold: {
            "sigma": s.width, "grad_scale": s.peak * s.width * _ROOT_2 * _ROOT_PI,
        },
        "any peak, any width",
    ),
    ("stork", "SuperSpike"): _super("beta", 20.0),
}  # fmt: skip
"""Each (framework, name): the surrogate that a framework calls so."""


def from_framework(framework: str, name: str, **parameters: Any) -> Surrogate:
    """Return the surrogate that a framework builds from its own parameters.

    Args:
        framework: such as ``"snntorch"``.
        name: the framework's name of the surrogate.
        **parameters: the framework's parameters; its defaults for those not given.

    Returns:
        The surrogate.

    Raises:
        ValueError: an unknown framework, name or parameter, or a value that is not possible.

    Example:
        >>> from_framework("spikingjelly", "Sigmoid", alpha=8.0)
        Surrogate(shape='sigmoid', peak=2.0, width=0.125, tail=2.0)

    Source:
        The frameworks' own derivatives: snnTorch 1.0, SpikingJelly 0.0.0.0.14, Norse, Sinabs 3.1,
        stork.
    """
    row = _row(framework, name)
    if unknown := sorted(set(parameters) - set(row.defaults)):
        raise ValueError(
            f"{framework} {name} has {', '.join(row.defaults)}, but not {unknown[0]!r}"
        )
    for parameter, value in parameters.items():
        if not (np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0)):
            raise ValueError(
                f"{parameter}={value!r} is not possible: it must be finite and above 0"
            )
    return row.build(**(dict(row.defaults) | parameters))


def to_framework(
    surrogate: Surrogate, framework: str, name: str, threshold: float = 1.0
) -> dict[str, Any]:
    """Return the framework's parameters that build a surrogate.

    Args:
        surrogate: the surrogate to express.
        framework: such as ``"snntorch"``.
        name: the framework's name of the surrogate.
        threshold: threshold of the layer, for a framework that gives the width in thresholds.

    Returns:
        The parameters, as :func:`from_framework` takes them (without the threshold).

    Raises:
        ValueError: an unknown framework or name; another shape; or a peak, width and tail that
            these parameters do not reach, with what they reach.

    Example:
        >>> to_framework(Surrogate("fast_sigmoid", 1.0, 0.04), "snntorch", "fast_sigmoid")
        {'slope': 25.0}

    Source:
        The same as for :func:`from_framework`.
    """
    row = _row(framework, name)
    shape = row.build(**row.defaults).shape
    if surrogate.shape != shape:
        raise ValueError(f"{framework} {name} is {shape}, but the surrogate is {surrogate.shape!r}")
    parameters = row.read(surrogate, threshold)
    context = {"threshold": threshold} if "threshold" in row.defaults else {}
    built = row.build(**parameters, **context)
    for field in ("peak", "width", "tail") if shape == "q_pseudo_spike" else ("peak", "width"):
        if not np.allclose(getattr(built, field), getattr(surrogate, field), rtol=1e-9, atol=0.0):
            raise ValueError(
                f"peak={surrogate.peak!r}, width={surrogate.width!r} is not possible in "
                f"{framework} {name}: it has {row.possible}"
            )
    return parameters


def _row(framework: str, name: str) -> FrameworkSurrogate:
    if (framework, name) not in FRAMEWORK_SURROGATES:
        known = ", ".join(f"{f} {n}" for f, n in FRAMEWORK_SURROGATES)
        raise ValueError(f"{framework} {name} is not one of {known}")
    return FRAMEWORK_SURROGATES[framework, name]
