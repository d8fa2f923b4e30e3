"""Swap the surrogate of a trained network and see whose gradients explain its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.fidelity import FidelityCurve
from ..analysis.surrogate import Surrogate
from .adapters import ADAPTERS, Adapter, SpikingLayer
from .attribute import require_baseline, require_batch, require_captum, require_targets
from .progress import steps_of
from .timestep_taps import Forward, TappedModel

SHAPES_TRIED = ("arctan", "fast_sigmoid", "gaussian", "triangular")
WIDTHS_TRIED = tuple(float(width) for width in np.geomspace(0.05, 5.0, 9))
"""Widths in thresholds: from needles that few elements meet to slopes that all share."""


def surrogate_fidelity(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    shapes: Sequence[str] = SHAPES_TRIED,
    widths: Sequence[float] = WIDTHS_TRIED,
    forward: Forward | None = None,
    baseline: Tensor | None = None,
    steps: int = 32,
    internal_batch_size: int = 256,
    progress: bool = False,
) -> FidelityCurve:
    """Measure the completeness gap of integrated gradients over surrogate shapes and widths.

    A surrogate does not enter the forward pass: the network answers as before, only its gradients
    change. Each surrogate tried has area 1, the height of the spike that it stands for. The model
    is copied; nothing about it changes.

    Args:
        model: a trained model in eval mode.
        inputs: ``[N, ...]``, batch first.
        targets: class of each sample whose output is explained, ``[N]``; None for the class that
            the model answers.
        shapes: names of surrogate shapes.
        widths: in units of each layer's threshold.
        forward: ``(model, inputs) -> outputs [N, classes]``; None as in :func:`attribute`.
        baseline: input that stands for nothing; None for zeros.
        steps: points of the integral.
        internal_batch_size: samples that one forward pass may hold.
        progress: whether to show a progress bar.

    Returns:
        Sums of attributions for each surrogate; the first row is the model's own.

    Raises:
        ValueError: a shape or width that is not possible, a layer whose surrogate cannot be
            written, and what :func:`attribute` refuses.
        ImportError: captum is not installed.

    Example:
        >>> from spikescope.probes.models.networks import digits_net
        >>> _ = torch.manual_seed(0)
        >>> net = digits_net(timesteps=2, channels=2).eval()
        >>> curve = surrogate_fidelity(net, torch.rand(2, 1, 8, 8), shapes=["arctan"], widths=[1.0])
        >>> curve.shapes
        ('arctan', 'arctan')

    Source:
        Sundararajan, Taly and Yan 2017, completeness axiom; computed by captum.
    """
    require_captum()
    from ..analysis.attribution import input_sums

    require_batch(inputs)
    require_baseline(baseline, inputs)
    for shape in shapes:
        unit_area(shape, 1.0)  # an unknown shape is refused before any work
    if not shapes or not widths or any(not np.isfinite(w) or w <= 0.0 for w in widths):
        raise ValueError(
            f"shapes={list(shapes)!r}, widths={list(widths)!r}: give at least one shape, and "
            "widths above 0"
        )
    inputs = inputs.detach()
    tapped = TappedModel(model, inputs[:internal_batch_size], forward)
    if targets is not None:
        require_targets(targets, inputs, tapped.outputs.shape[1])
    layers = _layers(tapped.model)
    start = torch.zeros_like(inputs) if baseline is None else baseline.expand_as(inputs)
    with torch.no_grad():
        answers = torch.cat([tapped(part) for part in torch.split(inputs, internal_batch_size)])
        empty = torch.cat([tapped(part) for part in torch.split(start, internal_batch_size)])
    labels = answers.argmax(1) if targets is None else targets.to(answers.device)
    change = (answers - empty).gather(1, labels[:, None])[:, 0].double().cpu().numpy()
    configurations = [(shape, float(width)) for shape in shapes for width in widths]
    sums, names, spans, peaks = [], [], [], []
    with steps_of("surrogates", 1 + len(configurations), progress) as advance:

        def measure() -> None:
            sums.append(input_sums(tapped, inputs, start, labels, steps, internal_batch_size))
            advance()

        own = {(s.shape, float(s.width), float(s.peak)) for _, layer in layers
               if (s := layer.surrogate) is not None}  # fmt: skip
        known = next(iter(own)) if len(own) == 1 else ("various", float("nan"), float("nan"))
        measure()
        names, spans, peaks = [known[0]], [known[1]], [known[2]]
        for shape, width in configurations:
            for adapter, layer in layers:
                adapter.write(layer.module, "surrogate", unit_area(shape, width * layer.scale))
            measure()
            shown = unit_area(shape, width * layers[0][1].scale)
            names.append(shape)
            spans.append(float(shown.width))
            peaks.append(float(shown.peak))
    return FidelityCurve(tuple(names), np.array(spans), np.array(peaks), np.stack(sums), change, 0)


def unit_area(shape: str, width: float) -> Surrogate:
    """Return the surrogate of a shape and width whose area is 1.

    Example:
        >>> round(float(unit_area("triangular", 0.5).area), 12)
        1.0
    """
    return Surrogate(shape, 1.0 / float(Surrogate(shape, 1.0, width).area), width)


def _layers(model: nn.Module) -> list[tuple[Adapter, SpikingLayer]]:
    found = []
    for name, module in model.named_modules():
        adapter = next((entry for entry in ADAPTERS if entry.handles(module)), None)
        if adapter is not None:
            reason = adapter.can_write(module, "surrogate")
            if reason is not None:
                raise ValueError(f"the surrogate of {name!r} cannot be swapped: {reason}")
            found.append((adapter, adapter.describe(name, module)))
    return found
