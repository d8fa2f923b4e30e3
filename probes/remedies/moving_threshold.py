"""DS-ATGO in the loop: threshold and window of each timestep follow the law of the potential."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...analysis.adaptive_window import (
    atgo_threshold,
    atgo_width,
    clamp_width,
    running_threshold,
)
from ...analysis.neuron import NeuronSpec
from ...analysis.remedies import LOWEST_THRESHOLD
from ...analysis.surrogate import Surrogate
from ..journal import SpikescopeWarning
from ..lif import LIF
from .base import LoopRemedy, Place, find_places, in_range, whole
from .rule import TimedRule, Window, install, rectangle, uninstall
from .start import FORGOTTEN
from .sync import moments

Driver = Literal["std", "threshold"]


class MovingRule(TimedRule):
    """Threshold fc (mean + std) of the batch and width k0 (1 + tanh(driver - initial threshold)).

    The buffer ``running`` holds the threshold of each timestep for evaluation.

    Args:
        place: the layer.
        timesteps: T, how many thresholds are kept.
        moves: whether the threshold moves (AT).
        follows: what drives the width (TGO): ``"std"``, ``"threshold"``; None leaves the surrogate.
        fc: factor of the threshold.
        k0: width where the driver equals the initial threshold, potential.
        published: no floor, no bounds, not synchronised, the running thresholds outside the
            state_dict and 1.0 at the start.
    """

    running: Tensor

    def __init__(
        self,
        place: Place,
        timesteps: int,
        *,
        moves: bool,
        follows: Driver | None,
        fc: float,
        k0: float,
        published: bool,
    ) -> None:
        layer = place.module
        assert isinstance(layer, LIF)
        super().__init__(layer.surrogate if follows is None else rectangle(k0))
        self.layer_name = place.name
        self.timesteps, self.moves, self.follows = timesteps, moves, follows
        self.fc, self.k0, self.published = fc, k0, published
        self.initial_threshold = float(layer.threshold)
        first = layer.start.new_full((timesteps,), 1.0 if published else self.initial_threshold)
        if published:
            self.running = first  # neither saved nor moved with the model
        elif moves:
            self.register_buffer("running", first)
        self.clamped: Tensor | int = 0
        self._sums: dict[int, tuple[Tensor, int]] = {}
        self._warned = False

    def begin(self, layer: LIF, fresh: bool) -> None:
        """Begin a call; in evaluation, say so if the step before was not taken up."""
        super().begin(layer, fresh)
        if not self.training and self._sums and not self._warned:
            self._warned = True
            warnings.warn(FORGOTTEN.format(layer=self.layer_name), SpikescopeWarning, stacklevel=4)

    def window(self, layer: LIF, u: Tensor, t: int) -> Window:
        """Return threshold and width at timestep t: from the batch, or as kept from training."""
        if self.moves and t > self.timesteps:
            raise ValueError(
                f"layer {self.layer_name!r} is at timestep {t}, but its remedy was attached with "
                f"timesteps={self.timesteps}: a threshold per timestep needs as many in use as in "
                "training"
            )
        mean, std = moments(u, synchronise=not self.published)
        threshold: Tensor | None = None
        if self.moves:
            threshold = self.running[t - 1]
            if self.training:
                threshold = self._from_batch(mean, std, t)
        width = None
        if self.follows is not None:
            driver = std if self.follows == "std" or threshold is None else threshold
            width = self._width(driver)
        return Window(threshold, width)

    def take_up(self, momentum: float) -> None:
        """Move the kept thresholds towards those of the batches since the last time."""
        for t, (total, count) in self._sums.items():
            new = running_threshold(self.running[t - 1], total / count, momentum)
            self.running[t - 1] = new
        self._sums = {}

    def described(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return the initial threshold and width."""
        return replace(layer.dynamics(), threshold=self.initial_threshold), self.initial

    def _from_batch(self, mean: Tensor, std: Tensor, t: int) -> Tensor:
        floor = -math.inf if self.published else LOWEST_THRESHOLD * self.initial_threshold
        moved = atgo_threshold(mean, std, self.fc, floor, xp=torch)
        threshold: Tensor = moved.value
        self.clamped = self.clamped + moved.clamped
        # One entry per timestep, whatever number of passes a step has.
        total, count = self._sums.get(t, (torch.zeros_like(threshold), 0))
        self._sums[t] = total + threshold, count + 1
        return threshold

    def _width(self, driver: Tensor) -> Tensor:
        width: Tensor = atgo_width(driver, self.initial_threshold, self.k0, xp=torch)
        if self.published:
            return width
        # A layer without any spread has none to follow: NaN is held at the lower bound.
        wanted = torch.nan_to_num(width, nan=0.0)
        held = clamp_width(wanted, self.initial_threshold, xp=torch)
        self.clamped = self.clamped + held.clamped
        value: Tensor = held.value
        return value


class MovingThreshold(LoopRemedy):
    """Threshold one standard deviation above the mean of u (AT), window by its spread (TGO).

    Each layer has one threshold per timestep, from the batch in training (of all ranks), from a
    running mean in evaluation; the means are buffers, saved with the model.

    Args:
        name: its name in the table.
        model: a model with LIF layers of ours.
        timesteps: T of the training; evaluation cannot use more. Not needed where no threshold
            moves.
        moves: whether the threshold moves (AT).
        follows: what drives the width (TGO): ``"std"`` as released, ``"threshold"`` as printed;
            None leaves the surrogate as it is, around the moving threshold.
        fc: factor of the threshold.
        k0: width where the driver equals the initial threshold, potential.
        momentum: share of the new batch in the running mean.
        published: as released: no floor and no bounds (a threshold below 0 makes silent units
            fire), running thresholds from 1.0 outside the state_dict, each rank on its own.
        layers: names of layers; None for all.

    Raises:
        ValueError: a setting that is not possible.

    Source:
        DS-ATGO, arXiv 2511.13050, equations 5 to 7; released code 333ad21.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        timesteps: int | None = None,
        moves: bool = True,
        follows: Driver | None = "std",
        fc: float = 1.0,
        k0: float = 1.0,
        momentum: float = 0.1,
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        if follows not in (None, "std", "threshold"):
            raise ValueError(f"follows={follows!r} is not one of None, 'std', 'threshold'")
        if moves and timesteps is None:
            raise ValueError(
                f"remedy {name!r} keeps a threshold per timestep: give timesteps=T, that of the "
                "training"
            )
        kept = whole("timesteps", timesteps) if timesteps is not None else 1
        self.momentum = in_range("momentum", momentum, 0.0, 1.0, "above 0 and at most 1")
        fc = in_range("fc", fc, 0.0, 1e6, "above 0")
        k0 = in_range("k0", k0, 0.0, 1e6, "above 0")
        places = find_places(name, model, layers, reference_only=True)
        for place in places:
            if not 0.0 < (theta := place.layer.spec.threshold) < math.inf:
                raise ValueError(
                    f"threshold={theta!r} of layer {place.name!r} cannot be followed: it must be "
                    "a finite number above 0"
                )
        super().__init__(name, places)
        self._claim(["threshold", "surrogate"] if moves else ["surrogate"])
        self._rules: list[tuple[Place, LIF, MovingRule]] = []
        for place in places:
            rule = MovingRule(
                place, kept, moves=moves, follows=follows, fc=fc, k0=k0, published=published
            )
            layer = place.module
            assert isinstance(layer, LIF)
            install(layer, rule)
            self._rules.append((place, layer, rule))

    def after_step(self) -> None:
        """Move the running thresholds; no rank needs another one for it."""
        with torch.no_grad():
            for _, _, rule in self._rules:
                rule.take_up(self.momentum)

    def remove(self) -> None:
        """Give each layer its threshold and its surrogate back."""
        for _, layer, _ in self._rules:
            uninstall(layer)
        self._rules = []
        super().remove()

    def report(self) -> list[dict[str, Any]]:
        """Return thresholds and widths of the last call, the kept ones, and how many were held."""
        return [
            {
                "layer": place.name,
                "thresholds": rule.last()["threshold"],
                "widths": rule.last()["width"],
                "running": rule.running.tolist() if rule.moves else [],
                "clamped": int(rule.clamped),
            }
            for place, _, rule in self._rules
        ]
