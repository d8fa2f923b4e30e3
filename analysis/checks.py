"""Checks of numbers at the edge: a wrong value is refused in one line that quotes it."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST = float(np.finfo(float).max)
"""Bound of :func:`number` that leaves out infinity."""

ABOVE_ZERO = float(np.nextafter(0.0, 1.0))
"""Bound of :func:`number` that leaves out 0."""


def is_number(value: Any) -> bool:
    """Return whether a value is a number or a numpy array, and not a live tensor."""
    return isinstance(value, float | int | np.ndarray | np.generic)


def number(name: str, value: Any, low: float, high: float, wanted: str) -> Any:
    """Check numbers, and settle their type.

    Args:
        name: what the number is called.
        value: a number, an array or list of numbers, or a tensor. A learned tensor is checked where
            it lives: looking at it here would stop the device.
        low: smallest possible value.
        high: largest possible value.
        wanted: what would be right, for the message.

    Returns:
        A Python float (which never widens a float32 potential), a float array, or the tensor.

    Raises:
        ValueError: not a number, NaN, no number at all, or a value outside [low, high].

    Example:
        >>> number("decay", 1.5, 0.0, 1.0, "between 0 and 1")
        Traceback (most recent call last):
        ...
        ValueError: decay=1.5 is not possible: it must be between 0 and 1
    """
    if type(value) is float and low <= value <= high:  # it is what most are, and asked often
        return value
    if not is_number(value) and hasattr(value, "new_empty"):
        return value
    try:
        if not (is_number(value) or isinstance(value, list | tuple)):
            raise TypeError
        array = np.asarray(value)
        wide = array.astype(float)
        good = array.size > 0 and bool(np.all((wide >= low) & (wide <= high)))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name}={value!r} is not possible: it must be {wanted}")
    if array.ndim == 0:
        return float(array)
    return array if array.dtype == np.float32 else wide


def require(holds: Any, message: str) -> None:
    """Raise a ValueError with the message unless everything holds."""
    if not np.all(holds):
        raise ValueError(message)
