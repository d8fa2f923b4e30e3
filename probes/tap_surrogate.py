"""A surrogate measured from the gradients before and behind it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..analysis.surrogate_identify import identify

PER_CALL = 1024
"""Elements that one call gives."""

CALLS = 64
"""Calls of one step that give some."""

_TRIES = 5  # recorded steps after which a surrogate counts as unknown
_FEWEST = 16


class Samples:
    """Pairs of u - threshold and the surrogate's derivative there, kept on the device."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._tries = 0

    @property
    def ready(self) -> bool:
        """Whether there is anything to fit."""
        return bool(self._pairs)

    def clear(self) -> None:
        """Forget the samples of a step."""
        self._pairs = []

    def of(self, x: Tensor, threshold: Tensor | float) -> Tensor | None:
        """Return u - threshold at some elements of a call, None where no more are wanted."""
        if self._tries >= _TRIES or len(self._pairs) >= CALLS:
            return None
        return _some(x - threshold)

    def take(self, z: Tensor, before: Tensor, behind: Tensor) -> None:
        """Take the gradients of a call: dL/ds per spike before the surrogate, dL/du behind it."""
        if len(self._pairs) < CALLS:
            self._pairs.append((z, _some(before.expand_as(behind)), _some(behind)))

    def surrogate(self) -> Surrogate | None:
        """Return the surrogate that explains all samples, None if none does; waits for them."""
        self._tries += 1
        z, before, behind = (
            torch.cat(parts).double().cpu().numpy() for parts in zip(*self._pairs, strict=True)
        )
        self._pairs = []
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = behind / before
        clear = np.isfinite(slope) & np.isfinite(z)
        clear &= np.abs(before) > 1e-4 * np.max(np.abs(before), initial=0.0)
        z, first = np.unique(z[clear], return_index=True)
        if len(z) < _FEWEST:
            return None
        return identify(z, slope[clear][first]).surrogate


def _some(values: Tensor) -> Tensor:
    flat = values.detach().flatten()
    return flat[:: max(1, len(flat) // PER_CALL)].clone()
