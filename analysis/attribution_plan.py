"""How an output is attributed: method, points of the integral, memory; no torch needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

GRADIENT_METHODS = ("integrated_gradients", "conductance", "gradient_x_activation")
PERTURBATION_METHODS = ("ablation", "occlusion")
METHODS = (*GRADIENT_METHODS, *PERTURBATION_METHODS)


@dataclass(frozen=True)
class Plan:
    """How to attribute.

    Args:
        method: one of :data:`METHODS`.
        steps: points of an integral.
        noise_baselines: how often to attribute again, from a noise baseline.
        internal_batch_size: samples that one forward pass may hold.
        saliency: whether to attribute to the input as well.
        seed: of the noise.

    Raises:
        ValueError: a method that is not there, or a number that is not possible.
    """

    method: str = "integrated_gradients"
    steps: int = 32
    noise_baselines: int = 2
    internal_batch_size: int = 256
    saliency: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is not one of {', '.join(METHODS)}")
        for name, least in (("steps", 1), ("noise_baselines", 0), ("internal_batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")
        if self.method == "conductance" and self.internal_batch_size < 2:
            raise ValueError("internal_batch_size=1 is too small for a conductance: give 2")

    @property
    def repeats(self) -> int:
        """Noise baselines that the method can use."""
        return 0 if self.method == "gradient_x_activation" else self.noise_baselines

    @property
    def chunk(self) -> int:
        """Samples that are attributed together; a conductance needs two points of each at once."""
        return max(1, self.internal_batch_size // (2 if self.method == "conductance" else 1))

    def work(self, samples: int, layers: int, classes: int) -> int:
        """Return how many units of work, which a progress bar counts, an attribution has.

        Example:
            >>> Plan(noise_baselines=2, internal_batch_size=64).work(100, layers=3, classes=1)
            24
        """
        return math.ceil(samples / self.chunk) * layers * classes * (2 + self.repeats)
