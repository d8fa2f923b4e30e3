"""Which module makes the current of a spiking layer, told from where it stands in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..adapters import ADAPTERS
from ..modes import plain_modules
from .base import Place

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def before(
    model: nn.Module,
    places: list[Place],
    kinds: tuple[type[nn.Module], ...],
    what: str,
    given: Mapping[str, str] | None,
) -> dict[str, tuple[str, nn.Module]]:
    """Return the one module of a kind that stands before each spiking layer.

    It is the one beside the layer in the same block, or the one between the layer before and this
    one, in the order in which the model names them.

    Args:
        model: the model.
        places: spiking layers.
        kinds: classes to look for.
        what: name of the setting that says it outright, such as ``"norms"``.
        given: that setting: for each layer the name of its module.

    Returns:
        For each layer the module's name and the module.

    Raises:
        ValueError: none or several stand there, or the setting names what is not there.
    """
    modules = dict(plain_modules(model))
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}={given!r} is not possible: give {{layer: module}} by name")
    names = {place.name for place in places}
    for layer, name in given.items():
        if layer not in names or not isinstance(modules.get(name), kinds):
            raise ValueError(
                f"{what}={{{layer!r}: {name!r}}} is not possible: give a spiking layer and the "
                f"name of a {' or '.join(kind.__name__ for kind in kinds)}"
            )
    found = {}
    for place in places:
        if place.name in given:
            names_found = [given[place.name]]
        else:
            names_found = _candidates(modules, place.name, kinds)
        if len(names_found) != 1:
            several = f"{', '.join(map(repr, names_found))} all stand" if names_found else "stands"
            raise ValueError(
                f"layer {place.name!r}: {'' if names_found else 'none of '}"
                f"{'' if names_found else ', '.join(kind.__name__ for kind in kinds) + ' '}"
                f"{several} before it; say which with {what}={{{place.name!r}: ...}}"
            )
        found[place.name] = names_found[0], modules[names_found[0]]
    return found


def _candidates(
    modules: Mapping[str, nn.Module], layer: str, kinds: tuple[type[nn.Module], ...]
) -> list[str]:
    parent = layer.rpartition(".")[0]
    beside = [name for name in modules if name and name.rpartition(".")[0] == parent]
    spiking = [name for name in beside if _spikes(modules[name])]
    of_kind = [name for name in beside if isinstance(modules[name], kinds)]
    if len(spiking) == 1 and len(of_kind) == 1:
        return of_kind
    order = list(modules)
    ahead = [name for name in of_kind if order.index(name) < order.index(layer)]
    if len(spiking) == 1 and len(ahead) == 1:
        return ahead
    since: list[str] = []
    for name in order[: order.index(layer)]:
        if _spikes(modules[name]):
            since = []
        elif isinstance(modules[name], kinds):
            since.append(name)
    return since


def _spikes(module: nn.Module) -> bool:
    return any(adapter.handles(module) for adapter in ADAPTERS)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module in the place of one, wherever the model keeps it.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> replace_module(model, "0", nn.Tanh())
        >>> model[0]
        Tanh()
    """
    old = dict(plain_modules(model))[name]
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = module


def per_layer(name: str, value: Any, layers: list[str]) -> dict[str, Any]:
    """Return a setting for each layer, from one value for all or a mapping by layer.

    Example:
        >>> per_layer("rate", 0.1, ["a", "b"])
        {'a': 0.1, 'b': 0.1}
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(layers, value)
    missing = [layer for layer in layers if layer not in value]
    if missing or len(value) != len(layers):
        raise ValueError(
            f"{name} for {', '.join(map(repr, value)) or 'no layer'} does not fit: give one "
            f"number, or one for each of {', '.join(map(repr, layers))}"
        )
    return {layer: value[layer] for layer in layers}


def nothing_between(
    model: nn.Module,
    places: list[Place],
    found: Mapping[str, tuple[str, nn.Module]],
    kinds: tuple[type[nn.Module], ...],
    remedy: str,
) -> None:
    """Refuse a layer whose weights are normalised: their scale would have no effect.

    Raises:
        ValueError: a module of such a kind stands before a layer.
    """
    modules = dict(plain_modules(model))
    for place in places:
        norms = _candidates(modules, place.name, kinds)
        if norms:
            raise ValueError(
                f"layer {place.name!r}: {norms[0]!r} normalises what the weights of "
                f"{found[place.name][0]!r} give, so remedy {remedy!r} would have no effect there"
            )
