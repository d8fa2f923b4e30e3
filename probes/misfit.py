"""In which module of a model a batch fails, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from .fresh import forget_state, fresh_copy


def misfit(
    model: nn.Module,
    batches: Iterable[Tensor],
    run: Callable[[nn.Module, Any], Any],
    error: Exception,
) -> str:
    """Return one line that names the module in which a batch failed.

    Args:
        model: the model, which stays as it is.
        batches: the inputs that were given, of which one failed.
        run: ``(model, inputs) -> output``, as it was called.
        error: what was raised.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> try:
        ...     model(torch.ones(3, 5))
        ... except RuntimeError as error:
        ...     misfit(model, [torch.ones(3, 5)], lambda model, x: model(x), error)[:67]
        "a batch of shape (3, 5) fails in module '0' (Linear): RuntimeError:"
    """
    copy = fresh_copy(model)
    forget_state(copy)
    inside: list[tuple[str, nn.Module]] = []
    for name, module in copy.named_modules():
        entry = (name, module)
        module.register_forward_pre_hook(lambda *_, entry=entry: inside.append(entry))
        module.register_forward_hook(lambda *_: inside.pop() and None)
    shape: tuple[int, ...] = ()
    try:
        for inputs in batches:
            inside.clear()
            shape = tuple(inputs.shape)
            run(copy, inputs)
    except Exception:  # the same again: now we know where
        pass
    name, module = inside[-1] if inside else ("", copy)
    where = f"module {name!r} ({type(module).__name__})" if name else "the model"
    text = " ".join(str(error).split())
    return f"a batch of shape {shape} fails in {where}: {type(error).__name__}: {text}"
