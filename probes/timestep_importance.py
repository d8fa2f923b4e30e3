"""How much of a decision each timestep carries, measured by leaving it out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.timestep_result import TimestepImportance
from .attribute import require_batch, require_captum, require_targets
from .progress import steps_of
from .timestep_taps import Forward, TappedModel

LENGTH_NAMES = ("timesteps", "time_steps", "num_steps", "n_steps", "T")
"""Attributes by which models commonly hold their number of timesteps."""

Shorten = Callable[[nn.Module, Tensor, int], Tensor]


def timestep_importance(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    forward: Forward | None = None,
    shorten: Shorten | None = None,
    internal_batch_size: int = 256,
    progress: bool = False,
) -> TimestepImportance:
    """Measure what each timestep carries, and whether fewer timesteps would do.

    The model is copied; nothing about it changes.

    Args:
        model: a trained model in eval mode.
        inputs: ``[N, ...]``, batch first.
        targets: true class of each sample, ``[N]``.
        forward: ``(model, inputs) -> outputs [N, classes]``; None as in :func:`attribute`.
        shorten: ``(model, inputs, t) -> outputs [N, classes]`` of a run of t timesteps; None
            looks for the model's number of timesteps under a common name.
        internal_batch_size: samples that one forward pass may hold.
        progress: whether to show a progress bar.

    Returns:
        Fall of the true class's output and accuracy without each timestep; accuracy with the
        first t.

    Raises:
        ValueError: targets that do not fit the inputs, and what :func:`attribute` refuses.
        ImportError: captum is not installed.

    Example:
        >>> from spikescope.probes.models.networks import digits_net
        >>> _ = torch.manual_seed(0)
        >>> found = timestep_importance(
        ...     digits_net(timesteps=2, channels=2).eval(), torch.rand(3, 1, 8, 8), torch.arange(3)
        ... )
        >>> found.table()["t"].tolist()
        [1, 2]

    Source:
        Zeiler and Fergus 2014 (occlusion), over timesteps; computed by captum.
    """
    require_captum()
    from ..analysis.attribution import timestep_falls

    require_batch(inputs)
    tapped = TappedModel(model, inputs[:internal_batch_size], forward)
    steps = tapped.timesteps
    require_targets(targets, inputs, tapped.outputs.shape[1])
    run = _shorter(tapped, shorten)
    falls, without, first = [], [], []
    reason = "" if run is not None else _NO_LENGTH
    pieces = list(
        zip(*(torch.split(part, internal_batch_size) for part in (inputs, targets)), strict=True)
    )
    with steps_of("leaving out timesteps", 2 * steps * len(pieces), progress) as advance:
        for given, labels in pieces:

            def gated(gates: Tensor, given: Tensor = given) -> Tensor:
                with torch.no_grad(), tapped.gated(gates):
                    outputs: Tensor = tapped(given)
                return outputs

            falls.append(timestep_falls(gated, len(given), steps, labels.to(given.device)))
            right = []
            for t in range(steps):
                gates = torch.ones(len(given), steps, device=given.device)
                gates[:, t] = 0.0
                right.append(_right(gated(gates), labels))
                advance()
            without.append(np.stack(right, 1))
            right = []
            for t in range(1, steps + 1):
                if run is not None and not reason:
                    outputs, reason = run(given, t)
                    right.append(_right(outputs, labels))
                else:
                    right.append(np.full(len(given), np.nan))
                advance()
            first.append(np.stack(right, 1))
    shorter = np.concatenate(first)
    if reason:
        shorter = np.full_like(shorter, np.nan)
    return TimestepImportance(np.concatenate(falls), np.concatenate(without), shorter, reason)


_NO_LENGTH = (
    "the model's number of timesteps was not found: give shorten=, a function "
    "(model, inputs, t) -> outputs"
)


def _shorter(
    tapped: TappedModel, shorten: Shorten | None
) -> Callable[[Tensor, int], tuple[Tensor, str]] | None:
    """Return a function that runs the copy for t timesteps and says if it did not."""
    inner = tapped.model
    whole = tapped.timesteps
    if shorten is None:
        holders = [
            (module, name)
            for module in inner.modules()
            for name in LENGTH_NAMES
            if type(getattr(module, name, None)) is int and getattr(module, name) == whole
        ]
        if not holders:
            return None

    def run(inputs: Tensor, t: int) -> tuple[Tensor, str]:
        with torch.no_grad():
            if shorten is not None:
                outputs = tapped.through(lambda model, given: shorten(model, given, t), inputs)
            else:
                for module, name in holders:
                    setattr(module, name, t)
                try:
                    outputs = tapped(inputs)
                finally:
                    for module, name in holders:
                        setattr(module, name, whole)
        if tapped.ran != t:
            return outputs, f"asked for {t} timesteps, the model ran {tapped.ran}: give shorten="
        return outputs, ""

    return run


def _right(outputs: Tensor, labels: Tensor) -> np.ndarray:
    return (outputs.argmax(1).cpu() == labels.cpu()).double().numpy()
