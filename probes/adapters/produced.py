"""Whether the state that a layer finds is the one that it left, without waiting for the device."""

from __future__ import annotations

import weakref

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

_left: weakref.WeakKeyDictionary[nn.Module, StorageWeakRef] = weakref.WeakKeyDictionary()


def remember(module: nn.Module, state: object) -> None:
    """Note the state that a layer leaves behind; nothing but a tensor can come back as such."""
    if isinstance(state, Tensor):
        # Detaching keeps the storage. A weak reference keeps its identity from being used again,
        # but not its memory.
        _left[module] = _identity(state)


def is_own(module: nn.Module, state: object) -> bool:
    """Return whether the state is what the layer left behind, detached or not.

    Args:
        module: the layer.
        state: what it will begin its next call with.

    Returns:
        False also if no call of the layer was seen yet.

    Example:
        >>> import torch
        >>> layer, v = nn.Identity(), torch.zeros(3)
        >>> remember(layer, v)
        >>> is_own(layer, v.detach()), is_own(layer, torch.zeros(3))
        (True, False)
    """
    left = _left.get(module)
    return left is not None and isinstance(state, Tensor) and bool(_identity(state) == left)


def _identity(state: Tensor) -> StorageWeakRef:
    return StorageWeakRef(state.untyped_storage())  # type: ignore[no-untyped-call]
