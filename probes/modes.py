"""How a training is run: wrappers around the model, ranks, compiled code, scaled losses."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def plain_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model under the names that they have without any wrapper.

    Args:
        model: a model, itself or parts of it perhaps compiled or distributed.

    Yields:
        ``(name, module)`` as ``named_modules`` would without ``torch.compile`` and
        ``DistributedDataParallel``; the wrappers themselves are left out.

    Example:
        >>> compiled = torch.compile(nn.ReLU(), backend="eager")
        >>> [name for name, _ in plain_modules(nn.Sequential(compiled))]
        ['', '0']
    """
    wrapped: dict[str, str] = {}  # name of a wrapper's child -> name of the wrapper itself
    for name, module in model.named_modules():
        head, _, tail = name.rpartition(".")
        above = wrapped.get(head, head)
        plain = wrapped[name] = wrapped.get(name, ".".join(filter(None, (above, tail))))
        inner = _wraps(module)
        if inner is None:
            yield plain, module
        else:
            wrapped[".".join(filter(None, (name, inner)))] = plain


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that its user wrote, without the wrappers around it."""
    while (inner := _wraps(model)) is not None:
        model = getattr(model, inner)
    return model


def _wraps(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds the module that it stands for."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return "module"
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is not None and isinstance(module, compiler.OptimizedModule):
        return "_orig_mod"
    if type(module).__name__ == "FullyShardedDataParallel":
        return "_fsdp_wrapped_module"
    return None


def rank() -> tuple[int, int]:
    """Return this process's rank and the number of processes; ``(0, 1)`` when it is alone."""
    group = torch.distributed
    if group.is_available() and group.is_initialized():
        return group.get_rank(), group.get_world_size()
    if group.is_available() and group.is_torchelastic_launched():  # by torchrun, and not yet joined
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def refusal(model: nn.Module) -> str | None:
    """Return why a model cannot be recorded as a whole, None if nothing stands against it."""
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        return (
            "the model runs in DataParallel, whose copies are thrown away after each pass: use "
            "DistributedDataParallel or one device; the probe stays off"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            return (
                f"{name!r} has no shape yet: run one batch through the model first; the probe "
                "stays off"
            )
        if tensor.is_meta:
            return (
                f"{name!r} is on the meta device and holds no numbers: call "
                "model.to_empty(device=...) and initialise it first; the probe stays off"
            )
    return None


@dataclass
class _Forced:
    """The stance that recorded steps share: probes come and go in any order."""

    users: int = 0
    stance: Any = None


_forced = _Forced()


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Let compiled code run eagerly, so that hooks are called; it stays compiled for later.

    Where the compiler rounds in another way than eager torch, a recorded step rounds like eager
    torch. A stance that the user sets meanwhile is kept.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and loading it is slow
        yield
        return
    if _forced.users == 0:
        _forced.stance = torch.compiler.set_stance("force_eager")
    _forced.users += 1
    try:
        yield
    finally:
        _forced.users -= 1
        if _forced.users == 0:
            ours = _forced.stance.stance
            if getattr(sys.modules["torch._dynamo.eval_frame"], "_stance", ours) is ours:
                _forced.stance.__exit__(None, None, None)


Unscale = Callable[[Tensor], Tensor]


def as_it_is(gradient: Tensor) -> Tensor:
    """Return a gradient whose loss nobody has scaled."""
    return gradient


def unscale_by(scaler: Any) -> Unscale:
    """Return a function that takes the factor of a scaled loss out of a gradient.

    The factor is read where it lies on the device: nobody waits for it.

    Args:
        scaler: the training's ``torch.amp.GradScaler``; None for none.

    Raises:
        ValueError: something else.

    Example:
        >>> scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        >>> loss = scaler.scale(torch.tensor(1.0))
        >>> unscale_by(scaler)(torch.tensor([2.0]))
        tensor([0.5000])
    """
    if scaler is None:
        return as_it_is
    if not isinstance(scaler, torch.amp.GradScaler):
        raise ValueError(f"scaler={scaler!r} is not possible: give a torch.amp.GradScaler, or None")

    def unscale(gradient: Tensor) -> Tensor:
        scale = getattr(scaler, "_scale", None)  # get_scale() would wait for the device
        if scale is None:  # it is disabled, or no loss has been scaled yet
            return gradient
        unscaled: Tensor = gradient / scale.to(gradient.device, non_blocking=True)
        return unscaled

    return unscale


def is_captured(tensor: Tensor) -> bool:
    """Return whether work on a tensor is only noted down now, for a CUDA graph that runs later."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in at least float32, in which sums over it are safe."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class Hook:
    """A hook that belongs to one module and leaves nothing in a copy of it.

    Args:
        module: the module that it may act for; a shallow copy shares its hooks, and is let pass.
        act: called with the module and what torch gives a hook.
    """

    def __init__(self, module: nn.Module, act: Callable[..., Any]) -> None:
        self._module = module
        self._act = act

    def __call__(self, module: nn.Module, *rest: Any) -> Any:
        """Act for the module that the hook belongs to, and for no other."""
        return self._act(module, *rest) if module is self._module else None

    def __reduce__(self) -> Any:
        # What deepcopy and pickle put in its place takes anything and returns None. It is from
        # the standard library, so that a saved model can be loaded without us.
        return getattr, (contextlib.nullcontext(), "__exit__")
