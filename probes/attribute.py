"""Attribution of a live model: which layers and timesteps carry the decision, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.attribution_plan import Plan
from ..analysis.attribution_result import Attribution
from .progress import steps_of
from .timestep_taps import Forward, TappedModel


def attribute(
    model: nn.Module,
    inputs: Tensor,
    target: int | Sequence[int] | None = None,
    method: str = "integrated_gradients",
    *,
    layers: Sequence[str] | None = None,
    forward: Forward | None = None,
    baseline: Tensor | None = None,
    steps: int = 32,
    noise_baselines: int = 2,
    internal_batch_size: int = 256,
    saliency: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Attribution:
    """Attribute a model's output to every timestep of its layers, and say how far that is off.

    The model is copied; nothing about it changes.

    Args:
        model: a trained model in eval mode.
        inputs: one batch ``[N, ...]``, batch first.
        target: class or classes whose output is attributed; None for all classes.
        method: ``"integrated_gradients"``, ``"conductance"``, ``"gradient_x_activation"``,
            ``"ablation"`` or ``"occlusion"``.
        layers: names of layers, spiking or not; None for all spiking layers.
        forward: ``(model, inputs) -> outputs [N, classes]``; None calls the model and takes the
            mean over T of outputs ``[T, N, classes]``.
        baseline: input that stands for nothing, broadcast over the batch; None for zeros.
        steps: points of the integral.
        noise_baselines: how often to attribute again from noise, to see how stable the scores are.
        internal_batch_size: samples that one forward pass may hold; bounds the memory.
        saliency: whether to attribute to the input as well.
        seed: of the noise.
        progress: whether to show a progress bar.

    Returns:
        Scores per layer, timestep and class in units of the output, with the completeness gap,
        the agreement with ablation and the stability of each layer.

    Raises:
        ValueError: the model is in train mode, a class, layer or method that is not there, a
            layer that is not on the way to the output, a baseline of another shape, a batch that
            does not go through the model or is too large for the memory.
        ImportError: captum is not installed.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), LIF(), nn.Linear(8, 2)).eval()
        >>> time_first = lambda model, inputs: model(inputs.transpose(0, 1))
        >>> found = attribute(net, torch.rand(6, 5, 4), 1, forward=time_first)
        >>> found.table().columns.tolist()[:4]
        ['layer', 'class', 't', 'score']

    Source:
        Sundararajan, Taly and Yan 2017; Dhamdhere, Sundararajan and Yan 2019; computed by captum.
    """
    require_captum()
    from ..analysis.attribution import attribute_timesteps

    plan = Plan(method, steps, noise_baselines, internal_batch_size, saliency, seed)
    require_batch(inputs)
    require_baseline(baseline, inputs)
    inputs = inputs.detach()
    tapped = TappedModel(model, inputs[:internal_batch_size], forward, layers)
    classes = _classes(target, tapped.outputs.shape[1])
    work = plan.work(len(inputs), len(tapped.taps), len(classes))
    with steps_of("attributing", work, progress) as advance:
        return attribute_timesteps(tapped, inputs, classes, plan, baseline, advance)


def require_captum() -> None:
    """Refuse, before any work, what needs captum.

    Raises:
        ImportError: captum is not installed.
    """
    if find_spec("captum") is None:
        raise ImportError("attribution needs captum: pip install 'spikescope[attribution]'")


def require_batch(inputs: Any) -> None:
    """Refuse what is no batch of finite floating numbers.

    Raises:
        ValueError: a line that says what was given.
    """
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs is {type(inputs).__name__}: give one batch as a tensor [N, ...]")
    if inputs.ndim < 2 or len(inputs) == 0 or not inputs.is_floating_point():
        raise ValueError(
            f"inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give floating numbers "
            "[N, ...] with at least one sample"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("inputs hold values that are not finite: an attribution would be NaN")


def require_baseline(baseline: Any, inputs: Tensor) -> None:
    """Refuse a baseline that does not broadcast over the batch.

    Raises:
        ValueError: a line that says what was given.
    """
    if baseline is None:
        return
    try:
        baseline.expand_as(inputs[:1])
    except (AttributeError, RuntimeError):
        given = tuple(baseline.shape) if isinstance(baseline, Tensor) else type(baseline).__name__
        raise ValueError(
            f"baseline is {given}: give a tensor that broadcasts over samples of shape "
            f"{tuple(inputs.shape[1:])}"
        ) from None


def require_targets(targets: Any, inputs: Tensor, classes: int) -> None:
    """Refuse targets that are not one class for each sample.

    Raises:
        ValueError: a line that says what was given.
    """
    if not isinstance(targets, Tensor) or targets.shape != inputs.shape[:1]:
        given = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"targets are {given} for {len(inputs)} samples: give one class each")
    if targets.is_floating_point() or not bool(((targets >= 0) & (targets < classes)).all()):
        raise ValueError(f"targets must be whole numbers from 0 to {classes - 1}")


def _classes(target: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    wanted = range(count) if target is None else [target] if isinstance(target, int) else target
    for label in wanted:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < count:
            raise ValueError(
                f"target={label!r} is not a class of the model: it has 0 to {count - 1}"
            )
    if len(wanted) == 0:
        raise ValueError("target=[] names no class: give one, several, or None for all")
    return tuple(wanted)
