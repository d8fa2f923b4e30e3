"""Surrogate derivatives as ``peak * shape((u - threshold) / width)``, one line a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """One unit-height surrogate shape.

    Args:
        value: ``value(x, tail, xp)`` with x = (u - threshold) / width, any shape; xp is the array
            module (numpy or torch), so that one line serves the theory and the live layer.
        source: where the shape comes from.
    """

    value: Callable[[Any, Any, Any], Any]
    source: str


SHAPES: dict[str, Shape] = {
    "rectangular": Shape(lambda x, q, xp: 1.0 * (xp.abs(x) < 0.5), "Wu et al. 2018, eq. 24"),
    "triangular": Shape(lambda x, q, xp: xp.clip(1.0 - xp.abs(x), 0.0, None), "Bellec et al. 2018"),
    "exponential": Shape(lambda x, q, xp: xp.exp(-xp.abs(x)), "Shrestha and Orchard 2018"),
    "gaussian": Shape(lambda x, q, xp: xp.exp(-0.5 * x * x), "Yin et al. 2021"),
    "sigmoid": Shape(lambda x, q, xp: 1.0 - xp.tanh(0.5 * x) ** 2, "Zenke and Vogels 2021"),
    "fast_sigmoid": Shape(lambda x, q, xp: (1.0 + xp.abs(x)) ** -2.0, "Zenke and Ganguli 2018"),
    "arctan": Shape(lambda x, q, xp: 1.0 / (1.0 + x * x), "Fang et al. 2021"),
    "q_pseudo_spike": Shape(
        lambda x, q, xp: (1.0 + 2.0 * xp.abs(x) / (q - 1.0)) ** -q, "Herranz-Celotti and Rouat 2022"
    ),
}


@dataclass(frozen=True)
class Surrogate:
    """The derivative that replaces that of the spike in the backward pass.

    Args:
        shape: a name in :data:`SHAPES`.
        peak: largest value of the derivative (dampening), 1 / potential.
        width: potential over which it falls, the unit of the shape's argument.
        tail: tail-fatness q > 1 of ``"q_pseudo_spike"``; ignored by the other shapes.

    Raises:
        ValueError: an unknown shape, or a peak, width or tail that is not possible.

    Example:
        >>> Surrogate("fast_sigmoid", peak=1.0, width=0.04).derivative(np.array([0.0, 0.04]))
        array([1.  , 0.25])
    """

    shape: str = "fast_sigmoid"
    peak: float = 1.0
    width: float = 1.0
    tail: float = 2.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is not one of {', '.join(SHAPES)}")

    def derivative(self, z: Any, xp: Any = np) -> Any:
        """Return the derivative at z = u - threshold; ``xp`` is numpy, or torch for tensors."""
        return self.peak * SHAPES[self.shape].value(z / self.width, self.tail, xp)
