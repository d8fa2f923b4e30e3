"""Our own reference LIF layer."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..lif import LIF
from .base import SpikingLayer

framework = "spikescope"


def handles(module: nn.Module) -> bool:
    """Return whether the module is a LIF layer of ours."""
    return isinstance(module, LIF)


def describe(name: str, module: nn.Module) -> SpikingLayer:
    """Return the layer's own record of its dynamics."""
    layer = cast(LIF, module)
    return SpikingLayer(name, layer, layer.spec, layer.surrogate)


def time_first(module: nn.Module, tensor: Tensor) -> Tensor:
    """Return the sequence as it is, and a single timestep with a time axis in front."""
    return tensor if cast(LIF, module).step_mode == "multi" else tensor.unsqueeze(0)


def fresh(module: nn.Module) -> bool:
    """Return whether the layer starts from its start potential."""
    layer = cast(LIF, module)
    return layer.step_mode == "multi" or layer.v is None


def start(module: nn.Module, current: Tensor) -> Tensor:
    """Return the potential that the layer itself will begin with."""
    return cast(LIF, module).carried(current[0]).detach()
