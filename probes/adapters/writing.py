"""How one value of a live layer is replaced, so that it can be put back as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.surrogate import Surrogate
from .measure import derivative

Undo = Callable[[], None]
"""Puts back what a write replaced: the same objects, the same bits."""

START = "spikescope_start"
"""Name under which a foreign layer keeps its start potential in the state_dict."""

SAME = 1e-6
"""Relative difference up to which a number counts as the one that was asked for."""

_EXACT = 1e-7  # of a derivative, in shares of its peak: some frameworks keep pi in float32


def put(module: nn.Module, name: str, value: Any) -> Undo:
    """Replace an attribute in place of the old one, wherever the module keeps it.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> undo = put(layer, "in_features", 7)
        >>> layer.in_features
        7
        >>> undo()
        >>> layer.in_features
        1
    """
    places = (module.__dict__, module._parameters, module._buffers, module._modules)
    # Not setattr: it would move the entry to another place, where the old one cannot go back to.
    place: dict[str, Any] = next(entry for entry in places if name in entry)
    old = place[name]
    place[name] = value

    def undo() -> None:
        place[name] = old

    return undo


def together(undos: Sequence[Undo]) -> Undo:
    """Return one function that takes several changes back, the last first."""

    def undo() -> None:
        for one in reversed(undos):
            one()

    return undo


def put_number(module: nn.Module, name: str, value: Any) -> Undo:
    """Replace a number of a layer, be it plain, in a buffer or in a parameter.

    A parameter stays the object that an optimiser knows; its old storage is not written to, since
    other layers may share it (a default argument of a framework, one tensor given to two layers).

    Args:
        module: the layer.
        name: of the attribute.
        value: a number, or an array of the attribute's shape.
    """
    old = getattr(module, name)
    if not isinstance(old, Tensor):
        return put(module, name, float(value))
    new = torch.as_tensor(value, dtype=old.dtype, device=old.device).expand(old.shape).clone()
    if not isinstance(old, nn.Parameter):
        return put(module, name, new)
    kept = old.data
    old.data = new

    def undo() -> None:
        old.data = kept

    return undo


def put_start(
    module: nn.Module,
    value: Any,
    begin: Callable[..., Any],
    after: Callable[..., Any] | None = None,
    as_parameter: bool = False,
) -> Undo:
    """Give a foreign layer a start potential: a tensor in its state_dict, a hook that uses it.

    The hooks are functions of a module of ours: they go with a copy and into a pickle.

    Args:
        module: the layer.
        value: start potential, a number or an array that broadcasts over one timestep.
        begin: forward pre-hook (module, args, kwargs) that sets the state where a sequence begins.
        after: forward hook (module, args, output), for what ``begin`` must know of the last call.
        as_parameter: keep it as a parameter without gradient, where buffers are states (Sinabs).
    """
    if isinstance(value, Tensor):
        kept = value.detach().clone()
    else:
        kept = torch.as_tensor(value, dtype=torch.get_default_dtype()).clone()
    kept = nn.Parameter(kept, requires_grad=False) if as_parameter else kept
    if hasattr(module, START):
        return put(module, START, kept)
    if isinstance(kept, nn.Parameter):
        module.register_parameter(START, kept)
    else:
        module.register_buffer(START, kept)
    # First of all hooks: what others see of the state is then what the layer begins with.
    handles: list[Any] = [module.register_forward_pre_hook(begin, prepend=True, with_kwargs=True)]
    if after is not None:
        handles.append(module.register_forward_hook(after))

    def undo() -> None:
        for handle in handles:
            handle.remove()
        delattr(module, START)

    return undo


def start_for(module: nn.Module, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the start potential that a layer keeps, a row for each sample of a timestep.

    Args:
        module: the layer.
        like: input of one timestep, ``[N, ...]``.
        dtype: of the result; that of the input if None.

    Raises:
        ValueError: its shape does not broadcast over the input.
    """
    start: Tensor = getattr(module, START)
    start = start.to(like.device, like.dtype if dtype is None else dtype)
    try:
        return start.detach().expand(like.shape).clone()
    except RuntimeError:
        raise ValueError(
            f"the start potential of shape {tuple(start.shape)} does not fit the input of "
            f"{type(module).__name__}, {tuple(like.shape)} per timestep"
        ) from None


def described_start(module: nn.Module, own: Any) -> Any:
    """Return the start potential that was written into a layer, else that of the framework."""
    start = getattr(module, START, None)
    if start is None:
        return own
    numbers = start.detach().double().cpu().numpy()
    return float(numbers) if numbers.ndim == 0 else numbers


def device_of(module: nn.Module) -> torch.device:
    """Return where a layer's first tensor lies; the CPU for a layer without any."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    return torch.device("cpu") if first is None else first.device


def same_number(one: Any, other: Any, tolerance: float = SAME) -> bool:
    """Return whether two numbers or arrays are equal up to rounding.

    Example:
        >>> same_number(0.3, np.float32(0.3)), same_number(0.3, 0.301)
        (True, False)
    """
    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    try:
        return bool(np.allclose(first, second, rtol=tolerance, atol=1e-9))
    except ValueError:  # shapes that do not broadcast
        return False


def same_surrogate(one: Surrogate | None, other: Surrogate | None, tolerance: float = SAME) -> bool:
    """Return whether two surrogates are one, up to rounding.

    Example:
        >>> same_surrogate(Surrogate("gaussian", 1.0, 0.3), Surrogate("gaussian", 1.0, 0.31))
        False
    """
    if one is None or other is None:
        return one is other
    fields = ("peak", "width", "tail") if one.shape == "q_pseudo_spike" else ("peak", "width")
    return one.shape == other.shape and all(
        same_number(getattr(one, field), getattr(other, field), tolerance) for field in fields
    )


def same_slope(before: Any, after: Any) -> bool:
    """Return whether two measured derivatives, each (x, slope) or None, are one."""
    if before is None or after is None:
        return before is after
    size = float(np.max(np.abs(before[1]), where=np.isfinite(before[1]), initial=0.0))
    return bool(np.allclose(before[1], after[1], rtol=0.0, atol=SAME * size, equal_nan=True))


def has_derivative(
    function: Callable[[Tensor], Tensor] | None,
    surrogate: Surrogate,
    scale: float,
    device: torch.device,
) -> bool:
    """Return whether the derivative of a spike, by autograd, is that of a surrogate.

    It is compared in double precision, and must be finite in single precision, too.

    Args:
        function: the spike as a function of u - threshold; None has no derivative.
        surrogate: what it should be.
        scale: size of the threshold, potential.
        device: where the function can compute.

    Example:
        >>> cpu = torch.device("cpu")
        >>> has_derivative(lambda z: torch.sigmoid(4 * z), Surrogate("sigmoid", 1, 0.25), 1.0, cpu)
        True
        >>> has_derivative(lambda z: torch.sigmoid(4 * z), Surrogate("sigmoid", 1, 0.26), 1.0, cpu)
        False
    """
    if function is None:
        return False
    x, slope = derivative(function, scale, device=device)
    # An edge may lie on either side of a point of the grid that hits it.
    near = (x, x * (1.0 + SAME), x * (1.0 - SAME)) if surrogate.shape == "rectangular" else (x,)
    error = np.min([np.abs(slope - surrogate.derivative(place)) for place in near], axis=0)
    finite = np.all(np.isfinite(derivative(function, scale, torch.float32, device)[1]))
    return bool(finite and np.max(error) <= _EXACT * float(surrogate.peak))
