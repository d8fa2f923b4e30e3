"""Named configurations of the reference networks, and how one is built for a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..lif import LIF
from .networks import digits_net
from .recurrent import recurrent_net
from .sew_resnet import sew_resnet
from .vgg import vgg

Family = Literal["digits-net", "vgg", "sew-resnet", "recurrent"]

FAMILIES: dict[Family, Callable[..., nn.Module]] = {
    "digits-net": digits_net,
    "vgg": vgg,
    "sew-resnet": sew_resnet,
    "recurrent": recurrent_net,
}


@dataclass(frozen=True)
class Configuration:
    """A network by name.

    Args:
        family: how it is built; a name in :data:`FAMILIES`.
        size: ``"cpu"`` trains in seconds to minutes on one core, ``"gpu"`` is what papers use.
        settings: arguments of the family's function that differ from its defaults.
    """

    family: Family
    size: Literal["cpu", "gpu"]
    settings: dict[str, Any]


CONFIGURATIONS: dict[str, Configuration] = {
    "digits-net": Configuration("digits-net", "cpu", {}),
    "vgg-small": Configuration("vgg", "cpu", {"depth": 5, "channels": 8}),
    "vgg9": Configuration("vgg", "gpu", {"depth": 9}),
    "vgg11": Configuration("vgg", "gpu", {"depth": 11}),
    "vgg16": Configuration("vgg", "gpu", {"depth": 16}),
    "vgg19": Configuration("vgg", "gpu", {"depth": 19}),
    "sew-small": Configuration("sew-resnet", "cpu", {"blocks": (1, 1, 1), "widths": (8, 16, 32)}),
    "sew-resnet18": Configuration("sew-resnet", "gpu", {"blocks": (2, 2, 2, 2)}),
    "sew-resnet34": Configuration("sew-resnet", "gpu", {"blocks": (3, 4, 6, 3)}),
    "resnet19": Configuration(
        "sew-resnet",
        "gpu",
        {"blocks": (3, 3, 2), "widths": (128, 256, 512), "hidden": 256, "norm": "tdbn"},
    ),
    "recurrent-small": Configuration("recurrent", "cpu", {"units": 64}),
    "recurrent-large": Configuration("recurrent", "gpu", {"units": [256, 256]}),
}
"""Every network by the name that the command line knows."""


def build_network(name: str, shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    """Build a named network for inputs of a given shape.

    Args:
        name: a name in :data:`CONFIGURATIONS`.
        shape: shape of one input without the batch: an image ``(channels, height, width)`` or a
            sequence ``(T, features)``. A recurrent network reads an image row by row.
        classes: number of classes.
        settings: arguments of the family's function in place of the configuration's, and settings
            of every :class:`~spikescope.probes.lif.LIF` layer.

    Returns:
        A network that takes ``[N, *shape]`` and gives logits ``[N, classes]``.

    Raises:
        ValueError: an unknown name or setting, a setting that is not possible, or inputs that the
            network cannot take.

    Example:
        >>> net = build_network("recurrent-small", (20, 8), classes=3, units=5)
        >>> net.readout
        LeakyReadout(
          (linear): Linear(in_features=5, out_features=3, bias=True)
        )
    """
    if name not in CONFIGURATIONS:
        raise ValueError(f"network={name!r} is not one of {', '.join(map(repr, CONFIGURATIONS))}")
    configuration = CONFIGURATIONS[name]
    family = configuration.family
    possible = network_settings(family)
    for setting in settings:
        if setting not in possible:
            raise ValueError(
                f"network {name!r} has no setting {setting!r}: it has {', '.join(possible)}"
            )
    given: dict[str, Any] = {**configuration.settings, **settings, "classes": classes}
    if family == "recurrent":
        if len(shape) not in (2, 3):
            raise ValueError(
                f"inputs of shape {shape} do not fit network {name!r}: it takes sequences "
                "(T, features) or images (channels, height, width)"
            )
        given["features"] = shape[1] if len(shape) == 2 else shape[0] * shape[2]
    elif len(shape) != 3:
        recurrent = [key for key, each in CONFIGURATIONS.items() if each.family == "recurrent"]
        raise ValueError(
            f"inputs of shape {shape} do not fit network {name!r}: it takes images (channels, "
            f"height, width); for sequences use {' or '.join(map(repr, recurrent))}"
        )
    elif family == "digits-net":
        if shape != (1, 8, 8):
            raise ValueError(
                f"inputs of shape {shape} do not fit network {name!r}: it takes the digits' "
                "(1, 8, 8)"
            )
    else:
        given["image"] = shape
    return FAMILIES[family](**given)


def timesteps_of(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return T, the number of timesteps that a network runs for one input.

    Args:
        model: what :func:`build_network` gave.
        shape: shape of one input without the batch.

    Example:
        >>> timesteps_of(build_network("recurrent-small", (20, 8), classes=3), (20, 8))
        20
    """
    own = getattr(model, "timesteps", None)
    return int(shape[-2]) if own is None else int(own)  # the rows of an image are its timesteps


def network_settings(family: Family) -> list[str]:
    """Return what can be set on a family of networks: its own settings, then its neurons'.

    Example:
        >>> network_settings("recurrent")[:3]
        ['units', 'norm', 'readout_decay']
    """
    own = [
        each
        for each, parameter in inspect.signature(FAMILIES[family]).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
        and each not in ("image", "features", "classes")
    ]
    neuron = [each for each in inspect.signature(LIF).parameters if each != "step_mode"]
    return own + neuron
