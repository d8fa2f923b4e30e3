"""A surrogate written into a layer: any of our shapes, where a framework's own family ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.surrogate import Surrogate
from ...analysis.surrogate_frameworks import FRAMEWORK_SURROGATES, to_framework
from .firing import fires_at_threshold


class _Spike(torch.autograd.Function):
    """Step forward, surrogate derivative backward, both at z = u - threshold."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, surrogate: Surrogate, at_threshold: bool, dtype: torch.dtype | None
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate = surrogate
        return (z >= 0 if at_threshold else z > 0).to(z.dtype if dtype is None else dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        slope = ctx.surrogate.derivative(z, xp=torch)
        return (gradients[0] * slope).to(z.dtype), None, None, None


class WrittenSpike(nn.Module):
    """A spike with a given surrogate, as a module without parameters.

    Args:
        surrogate: derivative in the backward pass.
        at_threshold: whether z = 0 fires.
        dtype: of the spikes; that of z if None.

    Example:
        >>> spike = WrittenSpike(Surrogate("triangular", peak=0.5), at_threshold=False)
        >>> z = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
        >>> s = spike(z)
        >>> s.sum().backward()
        >>> s.tolist(), z.grad.tolist()
        ([0.0, 0.0, 1.0], [0.25, 0.5, 0.25])
    """

    def __init__(
        self, surrogate: Surrogate, at_threshold: bool, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.surrogate = surrogate
        self.at_threshold = at_threshold
        self.dtype = dtype

    @classmethod
    def in_place_of(
        cls,
        function: Callable[[Tensor], Tensor],
        surrogate: Surrogate,
        scale: float,
        device: torch.device,
    ) -> WrittenSpike:
        """Return a spike that differs from another one in its derivative alone.

        Args:
            function: the other one, a function of u - threshold.
            surrogate: the derivative.
            scale: size of the threshold, potential.
            device: where the function can compute.
        """
        with torch.no_grad():
            spikes = function(torch.zeros(1, dtype=torch.float64, device=device))
        # Some frameworks emit float32 whatever comes in.
        dtype = None if spikes.dtype == torch.float64 else spikes.dtype
        return cls(surrogate, fires_at_threshold(function, scale, device), dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Return 1 above the threshold, else 0, for z = u - threshold."""
        spikes: Tensor = _Spike.apply(  # type: ignore[no-untyped-call]
            z, self.surrogate, self.at_threshold, self.dtype
        )
        return spikes

    def extra_repr(self) -> str:
        """Show the surrogate in ``print(model)``."""
        return f"{self.surrogate}, at_threshold={self.at_threshold}"


@dataclass(frozen=True)
class WrittenSlope:
    """The derivative alone, as a function of potential and threshold (Sinabs)."""

    surrogate: Surrogate

    def __call__(self, u: Tensor, threshold: Any) -> Tensor:
        """Return the derivative at u."""
        slope: Tensor = self.surrogate.derivative(u - threshold, xp=torch)
        return slope


class WrittenStep:
    """A framework's step function that calls another spike (Norse).

    Norse knows the spike by a name that its step hands to the global ``threshold``: this is the
    same step with another one under that name, for one layer alone.

    Args:
        step: the framework's function.
        spike: what ``threshold(z, method, alpha)`` is to return in it.
    """

    def __init__(self, step: FunctionType, spike: WrittenSpike) -> None:
        self.step, self.spike = step, spike
        self.__name__ = step.__name__
        names = {**step.__globals__, "threshold": lambda z, method, alpha: spike(z)}
        self._run = FunctionType(step.__code__, names, step.__name__, step.__defaults__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step."""
        return self._run(*args, **kwargs)

    def __reduce__(self) -> Any:
        # The step is saved by its name, which a function with names of its own does not have.
        return WrittenStep, (self.step, self.spike)


def natives(
    framework: str,
    surrogate: Surrogate,
    build: Callable[[str, dict[str, Any]], Any],
    threshold: float = 1.0,
) -> Iterator[Any]:
    """Yield the framework's own ways to say a surrogate, those that exist in this release.

    Args:
        framework: such as ``"snntorch"``.
        surrogate: what is to be said.
        build: from the framework's name of it and the parameters to what the layer takes.
        threshold: of the layer, for a framework that gives the width in thresholds.

    Example:
        >>> list(natives("norse", Surrogate("sigmoid", 1.0, 0.25), lambda name, p: (name, p)))
        [('tanh', {'alpha': 2.0})]
    """
    for family, name in FRAMEWORK_SURROGATES:
        if family == framework:
            try:
                parameters = to_framework(surrogate, framework, name, threshold)
                yield build(name, parameters)
            except (ValueError, AttributeError):
                continue
