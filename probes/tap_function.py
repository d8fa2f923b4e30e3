"""Listening to the calls of every `torch.autograd.Function`, patched only while someone listens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import Function

Listener = Callable[[Any, tuple[Any, ...], Any], None]
"""Called with (backward node, arguments, result) of each call of a Function."""

_OURS_NOT = ("torch.", "triton", "functorch")
_patched: list[tuple[type, str, Any]] = []
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Let a listener hear every call of every Function that is not torch's own.

    Args:
        listener: must neither raise nor change what it is given.
    """
    if not _listeners:
        for function in _functions(Function):
            _patch(function)
    _listeners.append(listener)


def unlisten(listener: Listener) -> None:
    """Stop a listener; with the last one, every Function gets its own methods back."""
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners:
        while _patched:
            function, name, original = _patched.pop()
            setattr(function, name, original)


def _functions(base: type) -> Iterator[type]:
    seen: set[type] = set()
    waiting: list[type] = list(base.__subclasses__())
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        waiting += function.__subclasses__()
        if not f"{function.__module__}.".startswith(_OURS_NOT):
            yield function


def _patch(function: Any) -> None:
    # A Function with setup_context gets its node there, an older one as forward's first argument.
    newer = function.setup_context is not Function.setup_context
    name = "setup_context" if newer else "forward"
    if name not in vars(function):
        return  # inherited from another Function, which is patched itself
    original = vars(function)[name]
    method = getattr(function, name)

    @functools.wraps(method)
    def heard(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if newer:
            node, inputs, output = args
        else:
            node, inputs, output = (args[0] if args else None), args[1:], result
        # Without a node the call runs inside a transform such as vmap: it is left alone.
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            for listener in tuple(_listeners):
                listener(node, inputs, output)
        return result

    setattr(function, name, staticmethod(heard))
    _patched.append((function, name, original))
