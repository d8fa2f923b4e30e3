"""MPD-AGL in the loop: the surrogate's window follows the spread that tdBN gives the potential."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...analysis.adaptive_window import agl_rms_scale, agl_width, clamp_width, true_std_width
from ..journal import SpikescopeWarning
from ..lif import LIF
from .base import LoopRemedy, Place, find_places
from .rule import TimedRule, Window, install, rectangle, uninstall
from .sync import moments
from .tdbn import SynchronisedThresholdBatchNorm
from .upstream import NORMS, before, replace_module

Spread = Literal["gamma_mean", "gamma_rms", "true_std"]
SPREADS: tuple[Spread, ...] = ("gamma_mean", "gamma_rms", "true_std")


class WindowRule(TimedRule):
    """Rectangular surrogate around the layer's threshold, twice the predicted spread wide.

    Args:
        layer: the layer.
        norm: the normalisation before it, whose gamma it reads; None for the measured spread.
        spread: a name in :data:`SPREADS`.
        published: no bounds, no alpha, no gain, the layer's threshold for that of tdBN.
    """

    def __init__(self, layer: LIF, norm: nn.Module | None, spread: Spread, published: bool) -> None:
        super().__init__(layer.surrogate)
        # In a tuple, so that the norm does not become a second entry of the state_dict.
        self._norm = (norm,)
        self.spread = spread
        self.published = published
        self.clamped: Tensor | int = 0
        if norm is not None:
            width, _ = self._held(layer, self.predicted(layer, 1))
            self.initial = rectangle(width.detach().cpu().double().item())

    def window(self, layer: LIF, u: Tensor, t: int) -> Window:
        """Return the width at timestep t."""
        if self.spread == "true_std":
            wanted = true_std_width(moments(u).std)
        else:
            wanted = self.predicted(layer, t)
        width, clamped = self._held(layer, wanted)
        self.clamped = self.clamped + clamped
        return Window(width=width)

    def scale(self, layer: LIF) -> Tensor:
        """Return the spread of the current in thresholds, mean or rms of gamma over channels."""
        (norm,) = self._norm
        assert norm is not None
        weight, bias = norm.weight, norm.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        gamma, beta = weight.detach(), bias.detach()
        if self.spread == "gamma_rms":
            theta, alpha = self._unit(layer)
            return _tensor(agl_rms_scale(gamma, beta, theta, alpha, xp=torch))
        return gamma.mean()

    def predicted(self, layer: LIF, t: int) -> Tensor:
        """Return twice the spread of u that the released rule predicts."""
        theta, alpha = self._unit(layer)
        gain = 1.0 if self.published else float(layer.gain)
        return _tensor(gain * agl_width(self.scale(layer), theta, layer.decay, t, alpha))

    def _unit(self, layer: LIF) -> tuple[float, float]:
        """Return threshold and alpha that multiply gamma in the norm."""
        (norm,) = self._norm
        if self.published:
            return float(layer.threshold), 1.0
        # A plain batch norm has neither: its gamma is the spread of the current.
        return float(getattr(norm, "threshold", 1.0)), float(getattr(norm, "alpha", 1.0))

    def _held(self, layer: LIF, wanted: Tensor) -> tuple[Tensor, Tensor]:
        if self.published:
            return wanted, torch.zeros((), dtype=torch.bool, device=wanted.device)
        # NaN, from a layer without spread, is held at the lower bound.
        held = clamp_width(torch.nan_to_num(wanted, nan=0.0), abs(float(layer.threshold)), xp=torch)
        return _tensor(held.value), _tensor(held.clamped)


class FollowingWindow(LoopRemedy):
    """Width of the surrogate from the spread of u, for each layer and timestep.

    It widens the window of a layer only where the predicted spread is larger than the window is:
    with a fixed width k, where ``2 alpha gbar theta sqrt(1 + decay^2) > k``; so it narrows it
    where gamma shrinks. The forward pass is untouched.

    Args:
        name: its name in the table.
        model: a model with LIF layers of ours, each after a batch norm.
        spread: ``"gamma_mean"``: mean of the norm's gamma, as released; ``"gamma_rms"``: its rms
            with the offsets; ``"true_std"``: the standard deviation of u in the batch.
        tdbn: whether plain batch norms are made threshold-dependent, as the method has them.
        norms: ``{layer: batch norm}`` by name, where it is not the one before the layer.
        published: the released rule without bounds: a negative mean of gamma then blocks every
            gradient of the layer, and alpha is left out.
        layers: names of layers; None for all.

    Raises:
        ValueError: a layer without a batch norm before it, or whose mean of gamma is not above 0.

    Source:
        MPD-AGL, arXiv 2505.11863, released code 61abbf3.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        spread: Spread = "gamma_mean",
        tdbn: bool = True,
        norms: Mapping[str, str] | None = None,
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        if spread not in SPREADS:
            raise ValueError(f"spread={spread!r} is not one of {', '.join(map(repr, SPREADS))}")
        places = find_places(name, model, layers, reference_only=True)
        super().__init__(name, places)
        self.published = published
        self.spread = spread
        found: dict[str, tuple[str, nn.Module]] = {}
        if spread != "true_std":
            found = before(model, places, NORMS, "norms", norms)
            for place in places:
                _require_scale(place, *found[place.name], needs_mean=spread == "gamma_mean")
        self._claim(["surrogate"])
        self._undo: list[Callable[[], None]] = []
        self._rules: list[tuple[Place, LIF, WindowRule]] = []
        for place in places:
            layer = place.module
            assert isinstance(layer, LIF)
            path, norm = found.get(place.name, ("", None))
            if norm is not None and tdbn and not hasattr(norm, "alpha"):
                norm = self._convert(model, path, norm, float(layer.threshold))
            rule = WindowRule(layer, norm, spread, published)
            install(layer, rule)
            self._rules.append((place, layer, rule))
        self._warned: set[str] = set()
        self._negative: Tensor | None = None

    def _convert(self, model: nn.Module, path: str, norm: nn.Module, threshold: float) -> nn.Module:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        new = SynchronisedThresholdBatchNorm.in_place_of(norm, threshold)
        replace_module(model, path, new)

        def undo() -> None:
            norm.training = new.training
            replace_module(model, path, norm)

        self._undo.append(undo)
        return new

    def after_step(self) -> None:
        """Warn once of a layer whose mean of gamma has fallen to 0 or below."""
        if self.spread != "gamma_mean" or not self._rules:
            return
        # Looked at one step late: by then the device has it, and nobody waits.
        if self._negative is not None:
            for (place, _, _), bad in zip(self._rules, self._negative.tolist(), strict=True):
                if bad and place.name not in self._warned:
                    self._warned.add(place.name)
                    text = NEGATIVE if self.published else NEGATIVE_HELD
                    warnings.warn(text.format(layer=place.name), SpikescopeWarning, stacklevel=2)
        where = self._rules[0][2].scale(self._rules[0][1]).device
        scales = [rule.scale(layer).to(where) for _, layer, rule in self._rules]
        self._negative = (torch.stack(scales) <= 0).to("cpu", non_blocking=True)

    def remove(self) -> None:
        """Give the layers their surrogate back, and the model its plain batch norms."""
        for _, layer, _ in self._rules:
            uninstall(layer)
        for undo in reversed(self._undo):
            undo()
        self._rules, self._undo = [], []
        super().remove()

    def report(self) -> list[dict[str, Any]]:
        """Return widths per timestep of the last call, and how often the bounds held one.

        ``widens`` says for each timestep whether the window is wider than the layer's own
        surrogate; None where that is no rectangle.
        """
        return [
            {
                "layer": place.name,
                "widths": rule.last()["width"],
                "widens": _widens(layer, rule),
                "clamped": int(rule.clamped),
            }
            for place, layer, rule in self._rules
        ]


NEGATIVE = "the mean of gamma before layer {layer!r} is not above 0: no gradient passes the layer"
NEGATIVE_HELD = (
    "the mean of gamma before layer {layer!r} is not above 0: its window is held at its lower "
    "bound; take agl_rms"
)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _widens(layer: LIF, rule: WindowRule) -> list[bool] | None:
    if layer.surrogate.shape != "rectangular":
        return None
    return [width > float(layer.surrogate.width) for width in rule.last()["width"]]


def _require_scale(place: Place, path: str, norm: nn.Module, needs_mean: bool) -> None:
    weight = norm.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"batch norm {path!r} before layer {place.name!r} has no gamma to read")
    if norm.running_mean is None:
        raise ValueError(
            f"batch norm {path!r} before layer {place.name!r} keeps no running statistics: tdBN "
            "needs them for evaluation (track_running_stats=True)"
        )
    if needs_mean:
        agl_width(float(weight.detach().mean()), 1.0, 0.0, 1, layer=place.name)
