"""Sums over the surrogate derivative of a potential on a CPU, in as few passes as its shape allows.

Counts are bit for bit those of :meth:`..analysis.surrogate.Surrogate.derivative`; sums may be
rounded in another way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..data.schema import COVERAGE_EPSILON
from .slopes import slope

Found = tuple[list[float], list[float], list[float], Tensor]
"""By timestep: sum, sum of squares, how many are above 0; by sample: how many are covered."""


def squares(values: Tensor) -> list[float]:
    """Return the sums of squares of each row of ``[k, n]``."""
    return [torch.dot(row, row).item() for row in values.unbind(0)]


class Slope:
    """The derivative of a layer's spike, summed up piece by piece.

    Args:
        surrogate: its numbers are plain, or tensors of one element.
        dtype: of the potential.
    """

    def __init__(self, surrogate: Surrogate, dtype: torch.dtype) -> None:
        self._surrogate = surrogate
        self._level = torch.tensor(COVERAGE_EPSILON * float(surrogate.peak), dtype=dtype)
        self._open_to, self._closed_from = 0.0, float("inf")
        self._one = torch.ones((), dtype=dtype)
        self._steep, self._edge = 0.0, None
        plain = isinstance(surrogate.peak, int | float) and isinstance(surrogate.width, int | float)
        if surrogate.shape == "arctan" and plain:
            self._steep = 1.0 / surrogate.width**2
            edge = _known_edge(surrogate, dtype)
            self._edge = None if edge is None else torch.tensor(edge, dtype=dtype)

    def sums(self, z: Tensor, reach: float, space: Tensor) -> Found:
        """Sum up a piece.

        Args:
            z: u - threshold, ``[k, n, M]``; written over.
            reach: largest magnitude in it.
            space: like z; written over.
        """
        if self._edge is not None and self._all_open(reach, z):
            return self._quick(z, self._edge, space)
        height = slope(self._surrogate, z, space)
        row, free = height.view(len(z), -1), z.view(len(z), -1)
        totals, squared = row.sum(1).tolist(), squares(row)
        if self._all_open(reach, z):
            above = [float(row.shape[1])] * len(row)
        else:
            above = torch.ne(row, 0.0, out=free).sum(1).tolist()
        return totals, squared, above, torch.gt(height, self._level, out=z).sum(-1)

    def _quick(self, z: Tensor, edge: Tensor, space: Tensor) -> Found:
        torch.addcmul(self._one, z, z, value=self._steep, out=space)
        covered = torch.le(space, edge, out=z).sum(-1)
        row = torch.reciprocal(space, out=z).view(len(z), -1)
        peak = float(self._surrogate.peak)
        totals = [peak * total for total in row.sum(1).tolist()]
        squared = [peak * peak * square for square in squares(row)]
        return totals, squared, [float(row.shape[1])] * len(row), covered

    def _all_open(self, reach: float, like: Tensor) -> bool:
        """Return whether the surrogate is above 0 up to a distance: no shape grows with it."""
        if reach >= self._closed_from:
            return False
        if reach > self._open_to:
            if not self._surrogate.derivative(like.new_tensor([reach]), xp=torch) > 0:
                self._closed_from = reach
                return False
            self._open_to = reach
        return True


_edges: dict[tuple[Surrogate, torch.dtype], float | None] = {}
_MOST_EDGES = 64


def _known_edge(surrogate: Surrogate, dtype: torch.dtype) -> float | None:
    # By hand: a compiler that looks on warns of the caches of functools.
    key = surrogate, dtype
    if key not in _edges:
        if len(_edges) >= _MOST_EDGES:
            _edges.clear()
        _edges[key] = _edge(surrogate, dtype)
    return _edges[key]


def _edge(surrogate: Surrogate, dtype: torch.dtype) -> float | None:
    """Return up to which 1 + (z / width)^2, as it is rounded here, z counts as covered.

    Both that and the derivative are monotone in the magnitude of z, however each step rounds. So
    there is one last z that is covered; what it gives must lie below what the next one gives.

    Returns:
        The limit; None where the two are rounded to the same.
    """
    level = COVERAGE_EPSILON * float(surrogate.peak)

    def at(z: float) -> Tensor:
        return torch.full((67,), z, dtype=dtype)  # both by whole vectors and one by one

    def covered(z: float) -> bool:
        return bool((surrogate.derivative(at(z), xp=torch) > level).all())

    low, high = 0.0, float(surrogate.width) * 1e3
    if not covered(low) or covered(high):
        return None
    while True:
        middle = at((low + high) / 2)[0].item()
        if middle in (low, high):
            break
        low, high = (middle, high) if covered(middle) else (low, middle)
    one, steep = torch.ones((), dtype=dtype), 1.0 / surrogate.width**2
    last, beyond = (torch.addcmul(one, at(z), at(z), value=steep) for z in (low, high))
    limit: Any = last.max().item()
    return float(limit) if limit < beyond.min().item() else None
