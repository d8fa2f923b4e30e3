"""How well a network classifies the test part of a data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...data.datasets import Dataset
from ..lif import reset_state
from .counts import require_at_least_one


def as_input(inputs: Tensor, scale: float) -> Tensor:
    """Turn a batch as the data set keeps it into what a network takes.

    Args:
        inputs: ``[N, ...]``, floating or uint8.
        scale: what a uint8 input is multiplied by.

    Returns:
        ``[N, ...]``, floating.

    Example:
        >>> as_input(torch.tensor([[255]], dtype=torch.uint8), 1 / 255)
        tensor([[1.]])
    """
    return inputs if inputs.is_floating_point() else inputs.float() * scale


def measure_accuracy(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    amp: bool = False,
) -> float:
    """Return the share of the test part that a network classifies right.

    The network is put into evaluation mode for it, and left in the mode that it came in.

    Args:
        model: gives logits ``[N, classes]`` for inputs ``[N, ...]``.
        dataset: its test part is used.
        batch_size: samples at a time; does not change the result.
        device: where the model is: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        amp: whether the forward pass runs in mixed precision (bfloat16).

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: the test part is empty, or ``batch_size`` is below 1.
    """
    require_at_least_one(batch_size=batch_size)
    if len(dataset.test_inputs) == 0:
        raise ValueError(f"the test part of {dataset.name!r} is empty: there is no accuracy")
    where = find_device(device)
    inputs = torch.split(torch.from_numpy(dataset.test_inputs), batch_size)
    targets = torch.split(torch.from_numpy(dataset.test_targets), batch_size)
    right = torch.zeros((), dtype=torch.int64, device=where)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=amp):
            for some_inputs, some_targets in zip(inputs, targets, strict=True):
                reset_state(model)
                logits = model(as_input(some_inputs.to(where), dataset.scale))
                right += (logits.argmax(1) == some_targets.to(where)).sum()
    finally:
        model.train(was_training)
    return int(right) / len(dataset.test_targets)


def find_device(name: str) -> torch.device:
    """Return the torch device for ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: another name, or CUDA where there is none.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} is not one of 'auto', 'cpu', 'cuda'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch finds no CUDA device: use 'auto' or 'cpu'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
