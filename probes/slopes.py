"""Surrogate derivatives in place: the shapes of :mod:`..analysis.surrogate` in fewer passes.

Bit for bit what :meth:`.Surrogate.derivative` gives; a shape without a line here takes that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate


def slope(surrogate: Surrogate, z: Tensor, out: Tensor) -> Tensor:
    """Return the surrogate's derivative.

    Args:
        surrogate: its numbers are plain, or tensors of one element.
        z: u - threshold.
        out: where to put it, like z; may be z itself.

    Returns:
        The derivative, in ``out`` or not.

    Example:
        >>> slope(Surrogate("arctan"), torch.tensor([0.0, 1.0]), torch.empty(2)).tolist()
        [1.0, 0.5]
    """
    act = _IN_PLACE.get(surrogate.shape)
    if act is None:
        whole: Tensor = surrogate.derivative(z, xp=torch)
        return whole
    x = z if surrogate.width == 1 and out is z else torch.div(z, surrogate.width, out=out)
    act(x)
    return x if surrogate.peak == 1 else x.mul_(surrogate.peak)


@cache
def _one(dtype: torch.dtype) -> Tensor:
    return torch.ones((), dtype=dtype)


def _arctan(x: Tensor) -> None:
    x.square_().add_(1.0).reciprocal_()  # addcmul would round once, where the definition does twice


def _fast_sigmoid(x: Tensor) -> None:
    x.abs_().add_(1.0).pow_(-2.0)


def _triangular(x: Tensor) -> None:
    torch.sub(_one(x.dtype), x.abs_(), out=x).clamp_(min=0.0)


def _rectangular(x: Tensor) -> None:
    x.abs_().lt_(0.5)


def _exponential(x: Tensor) -> None:
    x.abs_().neg_().exp_()


_IN_PLACE: dict[str, Callable[[Tensor], None]] = {
    "arctan": _arctan,
    "fast_sigmoid": _fast_sigmoid,
    "triangular": _triangular,
    "rectangular": _rectangular,
    "exponential": _exponential,
}
