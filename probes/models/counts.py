"""A check that networks and training share."""

from __future__ import annotations


def require_at_least_one(**counts: int) -> None:
    """Refuse a count below 1.

    Example:
        >>> require_at_least_one(epochs=0)
        Traceback (most recent call last):
        ValueError: epochs=0 is not possible: it must be at least 1
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count!r} is not possible: it must be at least 1")
