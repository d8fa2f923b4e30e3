"""What each framework calls the parts of its spiking layers; one file per framework."""

from __future__ import annotations

from .adapter_norse import NorseAdapter
from .adapter_sinabs import SinabsAdapter
from .adapter_snntorch import SnnTorchAdapter
from .adapter_spikescope import SpikescopeAdapter
from .adapter_spikingjelly import SpikingJellyAdapter
from .base import WRITABLE, Adapter, Call, SpikingLayer, State

ADAPTERS: tuple[Adapter, ...] = (
    SpikescopeAdapter(),
    NorseAdapter(),
    SinabsAdapter(),
    SpikingJellyAdapter(),
    SnnTorchAdapter(),
)
"""Asked in this order; the first that knows a module reads it."""

__all__ = ["ADAPTERS", "WRITABLE", "Adapter", "Call", "SpikingLayer", "State"]
