"""How a further figure of a step is named."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Key(NamedTuple):
    """What a figure speaks of.

    Args:
        layer: spiking layer that it belongs to or leads to; empty after the last one.
        name: name of the parameter or module; empty for the layer itself.
        t: timestep, from 1; 0 for all of them.
        quantity: what it is, a key of :data:`~spikescope.data.vitals.VITALS`.
    """

    layer: str
    name: str
    t: int
    quantity: str


Reading = tuple[list[Key], Tensor]
"""Figures with one tensor of their values, on the device that they come from."""
