"""TrSG in the loop, with AS-SG and RS-SG: threshold and decay of a layer are learned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.neuron import NeuronSpec, after_reset, integrate
from ...analysis.surrogate import Surrogate
from ...analysis.threshold_gradient import (
    FORMS,
    ThresholdForm,
    raw_from_tau,
    raw_from_threshold,
    tau_from_raw,
    threshold_from_raw,
)
from ..lif import LIF, Rule
from .base import LoopRemedy, find_places
from .rule import install, uninstall

UNIT_RECTANGLE = Surrogate("rectangular", peak=1.0, width=1.0)
"""The paper's f'(x) with gamma = 1."""


class _Spike(torch.autograd.Function):
    """H(u - threshold) forward; backward the form's derivative, by potential and by threshold."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, threshold: Tensor, form: ThresholdForm, surrogate: Surrogate
    ) -> Tensor:
        ctx.save_for_backward(u, threshold)
        ctx.form, ctx.surrogate = form, surrogate
        return (u >= threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        u, threshold = ctx.saved_tensors
        form, (gradient,) = ctx.form, gradients
        slope = gradient * ctx.surrogate.derivative(form.argument(u, threshold), xp=torch)
        by_u = slope / threshold if form.relative else slope
        by_threshold = None
        if ctx.needs_input_grad[1]:
            share = -u / (threshold * threshold) * slope if form.relative else -slope
            # Millions of units share one threshold: their sum needs more than half precision.
            wide = torch.promote_types(share.dtype, torch.float32)
            by_threshold = share.sum(dtype=wide).to(threshold.dtype)
        return by_u, by_threshold, None, None


class ThresholdRule(Rule):
    """A layer whose threshold softplus(k) and time constant 1 / sigmoid(w) are learned.

    Args:
        layer: what it starts from.
        form: a name in :data:`FORMS`.
        surrogate: f'(x), a function of the form's argument x.
        learn_threshold: whether k is learned.
        learn_decay: whether w is learned.
        follow: whether the gain is 1 / tau, as the layer had it.
    """

    def __init__(
        self,
        layer: LIF,
        form: str,
        surrogate: Surrogate,
        learn_threshold: bool,
        learn_decay: bool,
        follow: bool,
    ) -> None:
        super().__init__()
        self.form = form
        self.surrogate = surrogate
        self.follow = follow
        self.folded = False
        self._dtype = torch.float32
        self.raw_threshold = nn.Parameter(
            _exact(raw_from_threshold(layer.threshold)), requires_grad=learn_threshold
        )
        self.raw_tau: nn.Parameter | None = None
        if learn_decay:
            tau = 1.0 / (1.0 - layer.decay)
            self.raw_tau = nn.Parameter(_exact(raw_from_tau(tau)))

    def values(self, layer: LIF) -> NeuronSpec:
        """Return the dynamics with the learned values, gradients included."""
        spec = layer.dynamics()
        threshold = threshold_from_raw(self.raw_threshold, xp=torch)
        height: Any = FORMS[self.form].height(threshold)
        changes: dict[str, Any] = {
            "threshold": threshold,
            "spike_height": 1.0 if self.folded else height,
        }
        if self.raw_tau is not None:
            share = 1.0 / tau_from_raw(self.raw_tau, xp=torch)
            changes["decay"] = 1.0 - share
            if self.follow:
                changes["gain"] = share
        return replace(spec, **changes)

    def begin(self, layer: LIF, fresh: bool) -> None:
        """Read the learned values once per call."""
        self._spec = self.values(layer)

    def advance(self, layer: LIF, v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Return height times spike, and the potential after the reset."""
        spec = self._spec
        u = integrate(spec, v, current)
        s: Tensor = _Spike.apply(  # type: ignore[no-untyped-call]
            u, spec.threshold, FORMS[self.form], self.surrogate
        )
        v = after_reset(spec, u, s.detach() if layer.detach_reset else s)
        self._dtype = u.dtype
        height = spec.spike_height
        # Rounded before it is emitted, so that what is emitted divides by it without rest.
        return s * height.to(u.dtype) if isinstance(height, Tensor) else s, v

    def in_force(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return the learned values as they stand, without gradient."""
        with torch.no_grad():
            spec = self.values(layer)
            if isinstance(spec.spike_height, Tensor):
                spec = replace(spec, spike_height=spec.spike_height.to(self._dtype))
            return spec, self._as_function_of_u(spec.threshold)

    def described(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return the learned values as numbers."""
        spec, _ = self.in_force(layer)
        fields = ("threshold", "decay", "gain", "spike_height")
        numbers: dict[str, Any] = {name: float(getattr(spec, name)) for name in fields}
        spec = replace(spec, **numbers)
        return spec, self._as_function_of_u(spec.threshold)

    def _as_function_of_u(self, threshold: Any) -> Surrogate:
        if not FORMS[self.form].relative:
            return self.surrogate
        peak, width = self.surrogate.peak / threshold, self.surrogate.width * threshold
        return replace(self.surrogate, peak=peak, width=width)

    def __getstate__(self) -> dict[str, Any]:
        # The values of the last call hold a graph, which cannot be copied.
        state = self.__dict__.copy()
        state.pop("_spec", None)
        return state


class LearnedThreshold(LoopRemedy):
    """One learned threshold and one learned decay per layer, under one form of surrogate.

    What is learned is k and w with threshold = softplus(k) and decay = 1 - sigmoid(w); nothing
    else is clamped. Both are in ``model.parameters()``: weight decay would pull the threshold to
    ln 2 and the decay to 1/2.

    Args:
        name: its name in the table.
        model: a model with LIF layers of ours.
        form: ``"trsg"`` emits threshold times spike; ``"rs"`` has the same window and emits
            spikes; ``"as"`` has a window of constant width.
        threshold: to start from; the layer's own if None.
        learn_threshold: whether thresholds are learned.
        learn_decay: whether decays are learned; the gain follows where it is 1 - decay.
        surrogate: f'(x) of the form's argument, u / threshold - 1 (or u - threshold for
            ``"as"``); a rectangle of width and peak 1 if None.
        published: what the released fast layer does under the name of TrSG: it emits plain spikes,
            which is RS-SG, and keeps the decay fixed.
        layers: names of layers; None for all.

    Raises:
        ValueError: a threshold that softplus does not reach, a decay that 1 - sigmoid does not.

    Source:
        Kook et al., arXiv 2511.08708, section 4; released code 3d2aa23 (trlif.py, trlif_cupy.py).
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        form: str = "trsg",
        threshold: float | None = None,
        learn_threshold: bool = True,
        learn_decay: bool = True,
        surrogate: Surrogate | None = None,
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form={form!r} is not one of {', '.join(map(repr, FORMS))}")
        if surrogate is not None and not isinstance(surrogate, Surrogate):
            raise ValueError(f"surrogate={surrogate!r} is not possible: give a Surrogate, or None")
        if published and form == "trsg":
            form, learn_decay = "rs", False
        places = find_places(name, model, layers, reference_only=True)
        super().__init__(name, places)
        self.form = form
        lifs = [_as_lif(place.module) for place in places]
        rules = []
        for place, layer in zip(places, lifs, strict=True):
            theta = layer.threshold if threshold is None else threshold
            if not (isinstance(theta, int | float) and 0.0 < theta < np.inf):
                raise ValueError(
                    f"threshold={theta!r} of layer {place.name!r} cannot be learned: it must be a "
                    "finite number above 0"
                )
            if learn_decay and not (np.ndim(layer.decay) == 0 and 0.0 < layer.decay < 1.0):
                raise ValueError(
                    f"decay={layer.decay!r} of layer {place.name!r} cannot be learned: it must be "
                    "between 0 and 1, and neither of them (or set learn_decay=False)"
                )
            follow = bool(abs(layer.gain - (1.0 - layer.decay)) <= 1e-6)
            start_from = LIF(decay=layer.decay, threshold=theta)
            sg = UNIT_RECTANGLE if surrogate is None else surrogate
            rules.append(ThresholdRule(start_from, form, sg, learn_threshold, learn_decay, follow))
        self._claim(["threshold", "surrogate"])
        self._unfold: list[tuple[Tensor, Tensor]] = []
        for layer, rule in zip(lifs, rules, strict=True):
            install(layer, rule)

    def fold(self, consumers: Mapping[str, nn.Module | Collection[nn.Module]]) -> None:
        """Move the height of the spikes into the weights behind them, for inference.

        Exact where all that sees a layer's spikes are these modules, linear in them (a linear layer
        or a convolution; its bias stays). An identity shortcut cannot take it.

        Args:
            consumers: for each layer that emits its threshold, the modules that its output enters.

        Raises:
            ValueError: a layer is missing, has nothing to fold, or a module has no weight.
        """
        rules = {place.name: _rule_of(place.module) for place in self.places}
        if set(consumers) != set(rules) or self.form != "trsg" or self._unfold:
            raise ValueError(
                f"consumers for {', '.join(map(repr, consumers)) or 'no layer'} cannot be folded: "
                f"give those of {', '.join(map(repr, rules))}, once, for form 'trsg'"
            )
        lists = {
            name: [given] if isinstance(given, nn.Module) else list(given)
            for name, given in consumers.items()
        }
        for name, modules in lists.items():
            for module in modules:
                if not isinstance(getattr(module, "weight", None), Tensor):
                    raise ValueError(
                        f"consumers of {name!r}: a {type(module).__name__} has no weight to fold "
                        "the threshold into"
                    )
        with torch.no_grad():
            for name, modules in lists.items():
                threshold = threshold_from_raw(rules[name].raw_threshold, xp=torch)
                for module in modules:
                    weight = module.weight
                    assert isinstance(weight, Tensor)
                    self._unfold.append((weight, weight.detach().clone()))
                    weight.mul_(threshold)
                rules[name].folded = True

    def remove(self) -> None:
        """Give each layer its constants back."""
        with torch.no_grad():
            for weight, old in self._unfold:
                weight.copy_(old)
        self._unfold = []
        if self._claimed:
            for place in self.places:
                uninstall(_as_lif(place.module))
        super().remove()

    def parameters(self) -> list[nn.Parameter]:
        """Return k and w of each layer, those that are learned."""
        if not self._claimed:
            return []
        rules = [_rule_of(place.module) for place in self.places]
        return [one for rule in rules for one in rule.parameters() if one.requires_grad]

    def report(self) -> list[dict[str, Any]]:
        """Return threshold, decay and gain of each layer."""
        rows = []
        for place in self.places:
            spec, _ = _rule_of(place.module).described(_as_lif(place.module))
            rows.append(
                {
                    "layer": place.name,
                    "threshold": spec.threshold,
                    "decay": spec.decay,
                    "gain": spec.gain,
                    "spike_height": spec.spike_height,
                }
            )
        return rows


def _exact(value: Any) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def _as_lif(module: nn.Module) -> LIF:
    assert isinstance(module, LIF)
    return module


def _rule_of(module: nn.Module) -> ThresholdRule:
    rule = _as_lif(module).rule
    assert isinstance(rule, ThresholdRule)
    return rule
