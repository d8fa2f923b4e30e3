"""``MODULE:CALLABLE`` on a command line: build what it names."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NamedTuple

from torch import Tensor, nn

from .adapters import ADAPTERS


class Case(NamedTuple):
    """A model with a batch.

    Args:
        model: the model.
        inputs: one batch, None if the builder gave none.
        targets: its classes, None if the builder gave none.
    """

    model: nn.Module
    inputs: Tensor | None
    targets: Tensor | None


def build_model(target: str) -> nn.Module:
    """Build a model with a spiking layer from a name.

    Args:
        target: ``MODULE:CALLABLE``; the module is looked for in the current directory first, the
            callable takes no argument and returns the model, or the model with a batch.

    Returns:
        The model.

    Raises:
        ValueError: no such module or attribute, or what is called is no builder of a model; one
            line that quotes it.
    """
    return build_case(target).model


def build_case(target: str) -> Case:
    """Build a model with a spiking layer, and a batch for it, from a name.

    Args:
        target: ``MODULE:CALLABLE``; the callable takes no argument and returns ``model``,
            ``(model, inputs)`` or ``(model, inputs, targets)``.

    Returns:
        Model, inputs and targets; None for what was not given.

    Raises:
        ValueError: as for :func:`build_model`.

    Example:
        >>> case = build_case("spikescope.probes.models.networks:digits_net")
        >>> type(case.model).__name__, case.inputs
        ('DigitsNet', None)
    """
    value = call_target(target)
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, Tensor) for part in parts[1:]):
        given = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"{target!r} returned ({given}): return model, (model, inputs) or "
            "(model, inputs, targets)"
        )
    model = parts[0]
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} returned {type(model).__name__}, not a torch.nn.Module")
    if not any(adapter.handles(module) for module in model.modules() for adapter in ADAPTERS):
        raise ValueError(f"{target!r} returned {type(model).__name__} without a spiking layer")
    return Case(model, *parts[1:], *[None] * (3 - len(parts)))


def call_target(target: str) -> Any:
    """Return what the callable of ``MODULE:CALLABLE`` returns.

    Raises:
        ValueError: no such module or attribute, or the call failed; one line that quotes it.
    """
    module_name, colon, name = target.partition(":")
    if not (colon and module_name and name):
        raise ValueError(f"{target!r} is not MODULE:CALLABLE, such as my_package.models:build")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            plain = module_name.removesuffix(".py").replace("/", ".")
            meant = "" if plain == module_name else f"; as a module it is {plain!r}"
            raise ValueError(
                f"no module {module_name!r} in {here} nor among the installed ones{meant}"
            ) from error
        raise ValueError(f"{module_name!r} cannot be imported: {line_of(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{module_name!r} cannot be imported: {line_of(error)}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValueError(f"module {module_name!r} has no {name!r}")
        value = getattr(value, part)
    if not callable(value):
        raise ValueError(
            f"{target!r} is of type {type(value).__name__}: name what builds the model"
        )
    try:
        return value()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{target!r} raised {line_of(error)}") from error


def line_of(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
