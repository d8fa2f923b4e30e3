"""What a remedy in the loop is: attached to a model, told of every step, removed without trace."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..adapters import ADAPTERS, Adapter, SpikingLayer
from ..lif import LIF
from ..modes import plain_modules


@dataclass(frozen=True, eq=False)
class Place:
    """One spiking layer that a remedy acts on."""

    name: str
    module: nn.Module
    adapter: Adapter
    layer: SpikingLayer


class LoopRemedy:
    """A remedy that is attached to a model and takes part in its training.

    Attach before the optimiser is built, so that what a remedy makes learnable is among
    ``model.parameters()``; and before a checkpoint is loaded, so that its state finds its place.

    Args:
        name: its name in :data:`LOOP_REMEDIES`.
        places: the layers that it acts on.
    """

    def __init__(self, name: str, places: list[Place]) -> None:
        self.name = name
        self.places = places
        self._claimed: list[tuple[nn.Module, str]] = []

    def penalty(self) -> Tensor | None:
        """Return what is to be added to the loss of this step; None for nothing."""
        return None

    def after_step(self) -> None:
        """Take up what the step showed; call it after ``optimizer.step()``, on every rank."""

    def remove(self) -> None:
        """Give the model back as it was found; a second call does nothing."""
        for module, field in self._claimed:
            _CLAIMS.get(module, {}).pop(field, None)
        self._claimed = []

    def parameters(self) -> list[nn.Parameter]:
        """Return what the remedy made learnable: for an optimiser that was built before."""
        return []

    def report(self) -> list[dict[str, Any]]:
        """Return the values in force, one dict per layer; waits for the device."""
        return [{"layer": place.name} for place in self.places]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not in the model's own ``state_dict()``."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state again.

        Raises:
            ValueError: the state of something else.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(
                f"a state with {sorted(state)} is not one of remedy {self.name!r}: it holds "
                f"{sorted(self.state_dict())}"
            )

    def _claim(self, fields: Iterable[str]) -> None:
        """Refuse a second remedy for the same field of a layer."""
        wanted = [(place, field) for place in self.places for field in fields]
        for place, field in wanted:
            if (other := _CLAIMS.get(place.module, {}).get(field)) is not None:
                raise ValueError(
                    f"layer {place.name!r} already has remedy {other!r}, which sets its {field}: "
                    "call remove() on it first"
                )
        for place, field in wanted:
            _CLAIMS.setdefault(place.module, {})[field] = self.name
            self._claimed.append((place.module, field))


_CLAIMS: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
"""Which field of which layer is in whose hands."""


def find_places(
    remedy: str, model: nn.Module, layers: Collection[str] | None, *, reference_only: bool = False
) -> list[Place]:
    """Return the spiking layers of a model that a remedy is to act on.

    Args:
        remedy: name, for the message.
        model: any module.
        layers: names of layers; None for every one that fits.
        reference_only: whether only our own LIF layer can take it.

    Raises:
        ValueError: no spiking layer, none that fits, or an unknown name.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r} is not a torch module: give the model that is trained")
    found: dict[str, Place] = {}
    refused: list[str] = []
    for name, module in plain_modules(model):
        adapter = next((one for one in ADAPTERS if one.handles(module)), None)
        if adapter is None:
            continue
        if reference_only and not isinstance(module, LIF):
            refused.append(f"{name} is a {type(module).__name__}")
            continue
        try:
            found[name] = Place(name, module, adapter, adapter.describe(name, module))
        except ValueError as error:
            refused.append(f"{name}: {error}")
    if layers is not None:
        if isinstance(layers, str) or not layers:
            raise ValueError(f"layers={layers!r} is not possible: give a list of layer names")
        for name in layers:
            if name not in found:
                raise ValueError(
                    f"layers: {name!r} cannot take remedy {remedy!r}; those that can are "
                    f"{', '.join(map(repr, found)) or 'none'}"
                )
        found = {name: found[name] for name in layers}
    if not found:
        need = "spikescope's own LIF layer" if reference_only else "a spiking layer"
        raise ValueError(
            f"no layer of the model can take remedy {remedy!r}: it needs {need}"
            + (f" ({'; '.join(refused)})" if refused else "")
        )
    return list(found.values())


def in_range(name: str, value: Any, low: float, high: float, wanted: str) -> float:
    """Return a setting as a float, or refuse it: low < value <= high, and a number.

    Example:
        >>> in_range("momentum", 2.0, 0.0, 1.0, "above 0 and at most 1")
        Traceback (most recent call last):
        ValueError: momentum=2.0 is not possible: it must be above 0 and at most 1
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high
    if not good:
        raise ValueError(f"{name}={value!r} is not possible: it must be {wanted}")
    return float(value)


def whole(name: str, value: Any) -> int:
    """Return a setting as a whole number of at least 1, or refuse it.

    Example:
        >>> whole("timesteps", 4)
        4
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"{name}={value!r} is not possible: it must be a whole number of at least 1"
        )
    return value
