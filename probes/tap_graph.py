"""Where a tensor came from: the graph behind it, and the code that called."""

from __future__ import annotations

import sys
from collections.abc import Container
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_CASTS = ("ToCopyBackward0", "CloneBackward0", "AliasBackward0")

# Nodes whose result may be what a neuron carries on. A product, a quotient or a view may be a copy
# of u made for the surrogate alone: the gradient there would lack the paths through time.
_CARRIED = (
    "AccumulateGrad",
    "AddBackward",
    "AddbmmBackward",
    "AddcdivBackward",
    "AddcmulBackward",
    "AddmmBackward",
    "BaddbmmBackward",
    "CatBackward",
    "ClampBackward",
    "ClampMaxBackward",
    "ClampMinBackward",
    "ConvolutionBackward",
    "LerpBackward",
    "LinearBackward",
    "MaximumBackward",
    "MinimumBackward",
    "MmBackward",
    "ReluBackward",
    "SubBackward",
    "WhereBackward",
)


class NoNode(ValueError):
    """The potential cannot be found in the graph; the message says why."""


def potential_node(x: Tensor, shifted: bool) -> tuple[Any, int]:
    """Return the node, and its output, at which the whole gradient of u arrives.

    Args:
        x: what a surrogate was given.
        shifted: whether x is u - threshold, u otherwise.

    Raises:
        NoNode: the graph does not tell which tensor u is.
    """
    place: tuple[Any, int] = x.grad_fn, x.output_nr
    place = _behind_casts(place)
    if shifted:
        place = _behind_casts(_minuend(place, x))
    node, output = place
    kind = _kind(node)
    if not kind.startswith(_CARRIED):
        raise NoNode(
            f"what its surrogate is given comes from {kind}, which may be a copy of u: dL/du over "
            "all paths is not recorded"
        )
    if _shape(place) not in (None, x.shape):
        raise NoNode(
            f"u has shape {tuple(_shape(place) or ())}, the surrogate's argument "
            f"{tuple(x.shape)}: dL/du is not recorded"
        )
    return node, output


def _minuend(place: tuple[Any, int], x: Tensor) -> tuple[Any, int]:
    """Return where u comes from in x = u - threshold."""
    node, _ = place
    kind = _kind(node)
    operands: list[tuple[Any, int]] = list(node.next_functions) if node is not None else []
    if kind.startswith("SubBackward") and operands[0][0] is not None:
        return operands[0]
    if kind.startswith("AddBackward"):  # u + (-threshold), or a potential with threshold 0
        whole = [operand for operand in operands if operand[0] and _shape(operand) == x.shape]
        if len(whole) == 1:
            return whole[0]
        if len(whole) == 2:
            return place
    raise NoNode(
        f"what its surrogate is given comes from {kind}, in which u cannot be told from the "
        "threshold: dL/du over all paths is not recorded"
    )


def _behind_casts(place: tuple[Any, int]) -> tuple[Any, int]:
    node, output = place
    while _kind(node) in _CASTS and node.next_functions[0][0] is not None:
        node, output = node.next_functions[0]
    return node, output


def _kind(node: Any) -> str:
    return "no graph" if node is None else str(node.name()).rpartition("::")[2]


def _shape(place: tuple[Any, int]) -> torch.Size | None:
    node, output = place
    known = getattr(node, "_input_metadata", None)
    return torch.Size(known[output].shape) if known else None


class Work(NamedTuple):
    """A module whose forward pass is under way.

    Args:
        module: the module.
        given: its first argument.
        lines: the lines of code that lead from it to what is being heard.
    """

    module: nn.Module
    given: Any
    lines: tuple[Any, ...]


def at_work(names: Container[nn.Module]) -> list[Work]:
    """Return which modules of a model led to this call, the innermost first.

    Read off the stack: hooks on every module would be seen by the model's user.

    Args:
        names: the modules of the model.
    """
    found: list[Work] = []
    lines: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            values = frame.f_locals
            if values["self"] in names:
                given = values.get("args")
                found.append(Work(values["self"], given[0] if given else None, tuple(lines)))
        # Which of torch's own lines call a module depends on whether it has a hook.
        elif frame.f_code.co_filename != nn.Module._call_impl.__code__.co_filename:
            lines.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return found
