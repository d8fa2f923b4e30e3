"""What each framework calls the parts of its spiking layers; one file per framework."""

from __future__ import annotations

from . import adapter_spikescope
from .base import Adapter, SpikingLayer

ADAPTERS: tuple[Adapter, ...] = (adapter_spikescope,)
"""Asked in this order; the first that knows a module reads it."""

__all__ = ["ADAPTERS", "Adapter", "SpikingLayer"]
