"""Attribution of a model's output to the timesteps of its layers, through captum.

The one file of this folder that loads torch and captum. What it attributes to are modules that run
once per forward pass, batch first: one per layer and timestep.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerConductance,
    LayerFeatureAblation,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Occlusion,
)
from torch import Tensor, nn

from .attribution_plan import PERTURBATION_METHODS, Plan
from .attribution_result import Array, Attribution

OCCLUDED = 2
"""Timesteps that one window of the occlusion hides."""


class Tapped(Protocol):
    """A model in which each timestep of each layer passes a module of its own."""

    @property
    def taps(self) -> Mapping[str, Sequence[nn.Module]]:
        """The modules of each layer, one per timestep."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """Inputs ``[N, ...]`` to outputs ``[N, classes]``."""

    def replaced(self, outputs: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Let layers hand on given outputs ``[N, T, ...]`` in place of their own."""

    def seen(self, name: str) -> AbstractContextManager[list[Tensor]]:
        """Collect what a layer hands on at each timestep."""


def attribute_timesteps(
    tapped: Tapped,
    inputs: Tensor,
    classes: Sequence[int],
    plan: Plan,
    baseline: Tensor | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Attribution:
    """Attribute outputs to every timestep of every layer, with the truth of ablation beside.

    Args:
        tapped: the model, one module per layer and timestep.
        inputs: ``[N, ...]``, batch first.
        classes: outputs to attribute.
        plan: how.
        baseline: input that stands for nothing, broadcast over the batch; None for zeros.
        advance: called once per unit of work.

    Returns:
        Scores, ablation and output changes per layer in units of the output. Gradient methods
        count from the layer's answer to the baseline, perturbation methods from a silent layer.

    Raises:
        ValueError: a batch that does not fit into memory.

    Example:
        See :func:`spikescope.attribute`, which taps the model.

    Source:
        Sundararajan, Taly and Yan 2017 (integrated gradients); Dhamdhere, Sundararajan and Yan
        2019, eq. 3 (conductance); captum for the computation.
    """
    parts: list[dict[str, Any]] = []
    try:
        for chunk in torch.split(inputs, plan.chunk):
            start = torch.zeros_like(chunk) if baseline is None else baseline.expand_as(chunk)
            worker = _Chunk(tapped, chunk, start, plan)
            parts.append(worker.attribute(tuple(classes), plan.seed + len(parts), advance))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ValueError(_too_large(inputs, plan)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise ValueError(_too_large(inputs, plan)) from error

    def joined(name: str, samples: int) -> dict[str, Array]:
        return {
            layer: np.concatenate([part[name][layer] for part in parts], samples)
            for layer in tapped.taps
        }

    saliency = [part["inputs"] for part in parts if "inputs" in part]
    scores = joined("scores", 1)
    return Attribution(
        plan.method,
        tuple(classes),
        scores,
        joined("ablation", 1),
        joined("change", 1),
        joined("noise", 2),
        np.concatenate(saliency, 1) if saliency else None,
        {
            "steps": plan.steps,
            "noise_baselines": plan.repeats,
            "baseline": "zeros" if baseline is None else "given",
            "seed": plan.seed,
            "samples": len(inputs),
        },
        tuple(
            f"{layer}: the gradients are not finite; look at the surrogate (spikescope lint)"
            for layer, values in scores.items()
            if not np.isfinite(values).all()
        ),
    )


class _Chunk:
    """Attributes the samples that go through the model together."""

    def __init__(self, tapped: Tapped, inputs: Tensor, start: Tensor, plan: Plan) -> None:
        self._tapped, self._inputs, self._start, self._plan = tapped, inputs, start, plan
        self._outputs = self._output(inputs)

    def attribute(
        self, classes: tuple[int, ...], seed: int, advance: Callable[[], None]
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        noises = [_noise(self._inputs, generator) for _ in range(self._plan.repeats)]
        found: dict[str, Any] = {"scores": {}, "ablation": {}, "change": {}, "noise": {}}
        for layer in self._tapped.taps:
            scores, ablated, change = [], [], []
            random: list[list[Array]] = [[] for _ in noises]
            fall = self._outputs - self._reference(layer)
            for label in classes:
                scores.append(self._scores(layer, label, self._start))
                advance()
                for noise, kept in zip(noises, random, strict=True):
                    kept.append(self._scores(layer, label, noise))
                    advance()
                ablated.append(self._ablated(layer, label, self._silent(layer)))
                advance()
                change.append(_numbers(fall[:, label]))
            found["scores"][layer] = np.stack(scores)
            found["ablation"][layer] = np.stack(ablated)
            found["change"][layer] = np.stack(change)
            shape = (len(noises), *found["scores"][layer].shape)
            found["noise"][layer] = np.array(random, dtype=float).reshape(shape)
        if self._plan.saliency:
            found["inputs"] = np.stack([self._saliency(label) for label in classes])
        return found

    def _scores(self, layer: str, label: int, start: Tensor) -> Array:
        """Return the scores of one layer and class, ``[sample, t]``, summed over the units."""
        method, taps = self._plan.method, list(self._tapped.taps[layer])
        if method in PERTURBATION_METHODS:
            baselines = (
                self._silent(layer) if start is self._start else self._handed_on(layer, start)
            )
            hide = self._ablated if method == "ablation" else self._occluded
            return hide(layer, label, baselines)
        integral: dict[str, Any] = {
            "target": label,
            "n_steps": self._plan.steps,
            "internal_batch_size": self._plan.internal_batch_size,
        }
        with warnings.catch_warnings():
            # The timesteps of one layer are replaced together: none depends on another.
            warnings.filterwarnings("ignore", message="Multiple layers provided")
            if method == "integrated_gradients":
                layered = LayerIntegratedGradients(self._tapped, taps)
                parts = layered.attribute(self._inputs, start, **integral)
            elif method == "conductance":
                # Differences along the path: only points at both its ends leave nothing out.
                integral["method"] = "riemann_trapezoid"
                parts = [
                    LayerConductance(self._tapped, tap).attribute(self._inputs, start, **integral)
                    for tap in taps
                ]
            else:
                layered = LayerGradientXActivation(self._tapped, taps)
                parts = layered.attribute(self._inputs, target=label)
        return np.stack([_numbers(_only(part).flatten(1).sum(1)) for part in parts], axis=-1)

    def _ablated(self, layer: str, label: int, baselines: Tensor) -> Array:
        """Return the fall of the output when the layer hands on a baseline at t alone."""
        columns = []
        for t, tap in enumerate(self._tapped.taps[layer]):
            baseline = baselines[:, t]
            mask = torch.zeros_like(baseline[:1], dtype=torch.long)  # the timestep is one feature
            found = LayerFeatureAblation(self._tapped, tap).attribute(
                self._inputs, layer_baselines=baseline, target=label, layer_mask=mask
            )
            columns.append(_numbers(_only(found).flatten(1)[:, 0]))
        return np.stack(columns, axis=-1)

    def _occluded(self, layer: str, label: int, baselines: Tensor) -> Array:
        """Return the mean fall over the windows that hide t, shared among their timesteps."""

        def forward(given: Tensor) -> Tensor:
            with self._tapped.replaced({layer: given}):
                return self._output(self._inputs)

        outputs = self._handed_on(layer, self._inputs)
        window = (min(OCCLUDED, outputs.shape[1]), *outputs.shape[2:])
        found = Occlusion(forward).attribute(
            outputs, sliding_window_shapes=window, baselines=baselines, target=label
        )
        # Every element of a timestep carries the fall of its windows.
        falls: Array = _numbers(found.flatten(2)[:, :, 0]) / window[0]
        return falls

    def _reference(self, layer: str) -> Tensor:
        """Return the output that the scores count from."""
        if self._plan.method == "conductance":
            return self._output(self._start)
        integral = self._plan.method == "integrated_gradients"
        baselines = self._handed_on(layer, self._start) if integral else self._silent(layer)
        with self._tapped.replaced({layer: baselines}):
            return self._output(self._inputs)

    def _output(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = self._tapped(inputs)
        return output

    def _handed_on(self, layer: str, inputs: Tensor) -> Tensor:
        """Return what a layer hands on, ``[N, T, ...]``."""
        with self._tapped.seen(layer) as outputs:
            self._output(inputs)
        return torch.stack(outputs, 1)

    def _silent(self, layer: str) -> Tensor:
        return torch.zeros_like(self._handed_on(layer, self._inputs))

    def _saliency(self, label: int) -> Array:
        if self._plan.method in PERTURBATION_METHODS:
            ablation = FeatureAblation(self._tapped)
            return _numbers(ablation.attribute(self._inputs, self._start, target=label))
        return _numbers(
            IntegratedGradients(self._tapped).attribute(
                self._inputs, self._start, target=label, n_steps=self._plan.steps,
                internal_batch_size=self._plan.internal_batch_size,
            )
        )  # fmt: skip


def timestep_falls(
    gated: Callable[[Tensor], Tensor], samples: int, timesteps: int, target: Tensor
) -> Array:
    """Return how each sample's output falls when all layers are silent at one timestep.

    Args:
        gated: output ``[N, classes]`` for gates ``[N, T]`` that every layer's output is
            multiplied by.
        samples: N.
        timesteps: T.
        target: class of each sample, ``[N]``.

    Returns:
        ``[sample, t]`` in units of the output; positive where the timestep speaks for the class.

    Example:
        >>> weights = torch.tensor([1.0, 3.0])
        >>> timestep_falls(lambda g: (g * weights).sum(1, keepdim=True), 1, 2, torch.tensor([0]))
        array([[1., 3.]])

    Source:
        Zeiler and Fergus 2014 (occlusion); computed by captum's FeatureAblation.
    """
    gates = torch.ones(samples, timesteps, device=target.device)
    return _numbers(FeatureAblation(gated).attribute(gates, target=target))


def input_sums(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    start: Tensor,
    targets: Tensor,
    steps: int,
    internal_batch_size: int,
) -> Array:
    """Return the sum of each sample's integrated gradients at the input.

    Args:
        model: outputs ``[N, classes]`` for inputs ``[N, ...]``.
        inputs: end of the path, ``[N, ...]``.
        start: its beginning, same shape.
        targets: class of each sample, ``[N]``.
        steps: points of the integral.
        internal_batch_size: samples that one forward pass may hold.

    Returns:
        ``[sample]`` in units of the output.

    Example:
        >>> weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> given = torch.tensor([[1.0, 1.0]])
        >>> input_sums(lambda x: x @ weights, given, 0 * given, torch.tensor([1]), 4, 8)
        array([6.])

    Source:
        Sundararajan, Taly and Yan 2017, eq. 1; computed by captum.
    """
    gradients = IntegratedGradients(model)
    sums = []
    for part, base, labels in zip(
        *(torch.split(tensor, internal_batch_size) for tensor in (inputs, start, targets)),
        strict=True,
    ):
        found = gradients.attribute(
            part, base, target=labels, n_steps=steps, internal_batch_size=internal_batch_size
        )
        sums.append(_numbers(found.flatten(1).sum(1)))
    return np.concatenate(sums)


def _only(part: Tensor | tuple[Tensor, ...]) -> Tensor:
    return part[0] if isinstance(part, tuple) else part


def _numbers(tensor: Tensor) -> Array:
    numbers: Array = tensor.detach().double().cpu().numpy()
    return numbers


def _noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return inputs whose elements come from random samples: same law each, no content."""
    flat = inputs.flatten(1)
    order = torch.randint(len(inputs), flat.shape, generator=generator).to(inputs.device)
    return torch.gather(flat, 0, order).view(inputs.shape)


def _too_large(inputs: Tensor, plan: Plan) -> str:
    return (
        f"{len(inputs)} samples with internal_batch_size={plan.internal_batch_size} do not fit "
        "into memory: give fewer samples, or a smaller internal_batch_size"
    )
