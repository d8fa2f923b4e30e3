"""Which framework's class a module is, told by names alone: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def framework_class(module: nn.Module, packages: tuple[str, ...]) -> type | None:
    """Return the nearest class of a module that one of the packages defines.

    Args:
        module: a module of the user's model.
        packages: full names; what lies below them counts, too.

    Returns:
        The class, or None.

    Example:
        >>> framework_class(nn.Linear(1, 1), ("torch.nn",)).__name__
        'Linear'
        >>> framework_class(nn.Linear(1, 1), ("snntorch",)) is None
        True
    """
    for kind in type(module).__mro__:
        if any(f"{kind.__module__}.".startswith(f"{package}.") for package in packages):
            return kind
    return None


def check_unchanged(module: nn.Module, known: type, names: Iterable[str]) -> None:
    """Refuse a user's class that changes what the framework's class does.

    Args:
        module: the layer.
        known: the framework's class, whose dynamics are known.
        names: what decides on the dynamics.

    Raises:
        ValueError: a name of these is defined again, by a subclass or on the layer itself.

    Example:
        >>> class Mine(nn.Identity):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> check_unchanged(Mine(), nn.Identity, ("forward",))
        Traceback (most recent call last):
        ...
        ValueError: Mine defines its own forward: the dynamics of Identity do not tell what it does
    """
    kinds = type(module).__mro__
    own = [vars(module), *(vars(kind) for kind in kinds[: kinds.index(known)])]
    for name in names:
        if any(name in place for place in own):
            raise ValueError(
                f"{type(module).__name__} defines its own {name}: the dynamics of "
                f"{known.__name__} do not tell what it does"
            )
