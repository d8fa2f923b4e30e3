"""The few batches that a preflight looks at, and the loss that it sends back through them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_BATCHES = 4

Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Tensor]


def take(inputs: Any, targets: Any = None, most: int = MOST_BATCHES) -> list[Batch]:
    """Return at most ``most`` batches as (inputs, targets), targets None where there are none.

    Args:
        inputs: a tensor (one batch); a pair (tensor, class numbers); a list or tuple of batches; or
            anything that yields batches, such as a DataLoader.
        targets: targets of the batch, or a list with those of each batch.
        most: how many batches to take.

    Raises:
        ValueError: no batch, an empty one, or targets that do not fit the batches.

    Example:
        >>> [batch[0].shape[0] for batch in take([torch.zeros(3, 2), torch.zeros(5, 2)])]
        [3, 5]
        >>> take((torch.zeros(2, 4), torch.tensor([0, 1])))[0][1].tolist()
        [0, 1]
    """
    if isinstance(inputs, Tensor):
        batches: list[Batch] = [(inputs, targets)]
    else:
        if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
            raise ValueError(
                f"inputs are {type(inputs).__name__}: give a tensor, a list of batches or a loader"
            )
        if targets is None and _is_pair(inputs):
            inputs = [inputs]
        found = []
        for batch in inputs:
            found.append(batch)
            if len(found) == most:
                break
        batches = _joined(found, targets)
    if not batches:
        raise ValueError("inputs hold no batch: give one at least")
    for place, (x, _) in enumerate(batches, 1):
        if not isinstance(x, Tensor):
            raise ValueError(f"batch {place} is {type(x).__name__}: give tensors as inputs")
        if x.numel() == 0:
            raise ValueError(f"batch {place} of shape {tuple(x.shape)} holds nothing")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ValueError(f"batch {place} holds NaN or infinity: give finite inputs")
    return batches


def _is_pair(value: Any) -> bool:
    """Return whether a value is one batch of inputs and class numbers, not two batches."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(part, Tensor) for part in value)
        and value[1].ndim == 1
        and not value[1].is_floating_point()
        and value[0].ndim > 1
    )


def _joined(found: list[Any], targets: Any) -> list[Batch]:
    if targets is None:
        batches = []
        for entry in found:
            if isinstance(entry, list | tuple):
                if not 1 <= len(entry) <= 2:
                    raise ValueError(f"a batch has {len(entry)} parts: give inputs, or two")
                batches.append((entry[0], entry[1] if len(entry) == 2 else None))
            else:
                batches.append((entry, None))
        return batches
    given = [targets] if isinstance(targets, Tensor) else list(targets)
    if len(given) < len(found):
        raise ValueError(f"{len(found)} batches and targets for {len(given)}: give one for each")
    return list(zip(found, given, strict=False))


def loss_of(output: Any, targets: Any, loss: Loss | None, generator: torch.Generator) -> Tensor:
    """Return what is sent back: the given loss, cross entropy, or a random projection.

    Args:
        output: what the model returned.
        targets: targets of the batch; None for none.
        loss: ``loss(output, targets)``; None for cross entropy of logits ``[N, classes]`` (or of
            their mean over a leading time axis).
        generator: draws the projection where there are no targets: the global state is not used.

    Raises:
        ValueError: an output that cross entropy cannot judge, or a loss that is no finite number.
    """
    if loss is not None:
        value = loss(output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"loss returned {type(value).__name__}: it must be one number")
    else:
        first = first_tensor(output)
        if targets is None:
            noise = torch.randn(first.shape, generator=generator)
            value = (first * noise.to(first.device, first.dtype)).sum() / max(len(first), 1)
        else:
            value = _cross_entropy(first, targets)
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError("the loss is not finite on the batch: check weights and inputs")
    return value


def _cross_entropy(logits: Tensor, targets: Any) -> Tensor:
    wanted = "give loss=, a function of (output, targets)"
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        raise ValueError(f"targets are no class numbers [N]: {wanted}")
    if logits.ndim == 3 and logits.shape[1] == len(targets):
        logits = logits.mean(0)
    if logits.ndim != 2 or len(logits) != len(targets):
        raise ValueError(
            f"output of shape {tuple(logits.shape)} does not fit {len(targets)} targets as logits "
            f"[N, classes]: {wanted}"
        )
    if not bool(((targets >= 0) & (targets < logits.shape[1])).all()):
        raise ValueError(
            f"targets go up to {int(targets.max())}, but the output has {logits.shape[1]} classes"
        )
    return nn.functional.cross_entropy(logits, targets.to(logits.device))


def first_tensor(output: Any) -> Tensor:
    """Return the first floating tensor in what a model returned.

    Raises:
        ValueError: there is none.
    """
    if isinstance(output, Tensor) and output.is_floating_point():
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        for part in output:
            with contextlib.suppress(ValueError):
                return first_tensor(part)
    raise ValueError(f"the model returned {type(output).__name__}, in which is no floating tensor")


@contextlib.contextmanager
def untouched_randomness(inputs: Any = None) -> Iterator[None]:
    """Put every random state back afterwards: torch's, numpy's, Python's, and a loader's own.

    Example:
        >>> before = torch.get_rng_state()
        >>> with untouched_randomness():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    owned = {
        id(generator): generator
        for holder in (inputs, getattr(inputs, "sampler", None))
        if isinstance(generator := getattr(holder, "generator", None), torch.Generator)
    }
    states = {key: generator.get_state() for key, generator in owned.items()}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else []
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            for key, generator in owned.items():
                generator.set_state(states[key])
