"""Initialisations that set a model's weights once, when they are attached."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...analysis.initialisation import (
    Noise,
    discrete_kernel,
    fluctuation_init_recurrent,
)
from ...analysis.stability import (
    offset_for_rate,
    published_sampled_variance,
    recurrent_mean_for_half,
    recurrent_weight_variance,
)
from .base import LoopRemedy, Place, find_places
from .upstream import NORMS, WEIGHTED, before, nothing_between, per_layer

Rates = float | Mapping[str, float]
VarianceForm = Literal["corrected", "published"]


class WeightInit(LoopRemedy):
    """Writes weights at once and keeps the old ones for :meth:`remove`."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        layers: Collection[str] | None,
        weights: Mapping[str, str] | None,
        recurrent: Mapping[str, str] | None,
        seed: int,
    ) -> None:
        places = find_places(name, model, layers)
        self._input = before(model, places, WEIGHTED, "weights", weights)
        nothing_between(model, places, self._input, NORMS, name)
        looped = [place for place in places if place.name in (recurrent or {})]
        if recurrent is not None and len(looped) != len(recurrent):
            raise ValueError(
                f"recurrent={dict(recurrent)!r} names a layer that is not among "
                f"{', '.join(repr(place.name) for place in places)}"
            )
        self._recurrent = before(model, looped, WEIGHTED, "recurrent", recurrent)
        super().__init__(name, places)
        self._generator = torch.Generator().manual_seed(seed)
        self._old: list[tuple[Tensor, Tensor]] = []
        self._rows: list[dict[str, Any]] = []

    def remove(self) -> None:
        """Put the old weights back, whatever training has made of the new ones."""
        with torch.no_grad():
            for tensor, old in self._old:
                tensor.copy_(old)
        self._old = []
        super().remove()

    def report(self) -> list[dict[str, Any]]:
        """Return what was written, and what it should give."""
        return [dict(row) for row in self._rows]

    def _draw(self, module: nn.Module, mean: float, std: float) -> Tensor:
        weight = module.weight
        assert isinstance(weight, Tensor)
        drawn = torch.randn(weight.shape, generator=self._generator, dtype=torch.float64)
        drawn = (drawn * std + mean).to(weight)
        self._put(weight, drawn)
        return weight

    def _put(self, tensor: Tensor, new: Tensor) -> None:
        self._old.append((tensor, tensor.detach().clone()))
        with torch.no_grad():
            tensor.copy_(new)


class FluctuationInit(WeightInit):
    """Weights that put the threshold xi standard deviations above the mean of u.

    Biases are left as they are, as published.

    Args:
        name: its name in the table.
        model: any model in which a linear layer or a convolution makes each layer's current.
        rate: spikes per timestep of the inputs, one number or one per layer.
        xi: (threshold - mean) / standard deviation of u over time; typically 1 to 3.
        mean: wanted mean of u.
        share: part of the variance that is feed-forward where there is a recurrent weight.
        weights: ``{layer: module}`` by name, where it is not the one before the layer.
        recurrent: ``{layer: module}`` of recurrent weights.
        seed: of the draw.
        published: the variance of Poisson inputs, which may come twice per timestep.
        layers: names of layers; None for all.

    Raises:
        ValueError: no weights or several before a layer, a batch norm behind them (it would undo
            the scale), or numbers that are not possible.

    Source:
        Rossbroich, Gygax, Zenke 2022; the variance of Bernoulli inputs is derived.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        rate: Rates,
        xi: float = 1.0,
        mean: float = 0.0,
        share: float = 0.9,
        weights: Mapping[str, str] | None = None,
        recurrent: Mapping[str, str] | None = None,
        seed: int = 0,
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        super().__init__(name, model, layers, weights, recurrent, seed)
        noise: Noise = "poisson" if published else "bernoulli"
        rates = per_layer("rate", rate, [place.name for place in self.places])
        plans = []
        for place in self.places:
            spec = place.layer.spec
            modules = [self._input[place.name][1]]
            loops = [self._recurrent[place.name][1]] if place.name in self._recurrent else []
            try:
                inits = fluctuation_init_recurrent(
                    [fan_in(module) for module in modules],
                    [fan_in(module) for module in loops],
                    rates[place.name],
                    discrete_kernel(spec),
                    share=share,
                    threshold=float(spec.threshold),
                    mean=mean,
                    xi=xi,
                    noise=noise,
                )
            except ValueError as error:
                raise ValueError(f"layer {place.name!r}: {error}") from None
            plans.append((place, [*modules, *loops], inits))
        self._claim(["weights"])
        for place, modules, inits in plans:  # nothing is written before everything is possible
            for module, init in zip(modules, inits, strict=True):
                self._draw(module, init.weight_mean, init.weight_std)
                row = {"layer": place.name, "weight_mean": init.weight_mean}
                row |= {"weight_std": init.weight_std, "temporal_std": init.temporal_std}
                row |= {"quenched_std": init.quenched_std, "crossing": init.crossing}
                self._rows.append(row)


class StabilityInit(WeightInit):
    """Conditions I and II: a bias that gives the target rate, recurrent currents like the input's.

    Args:
        name: its name in the table.
        model: any model in which a linear layer or a convolution with bias makes the current.
        target_rate: wanted spikes per timestep and unit.
        input_rate: spikes per timestep of the inputs, one number or one per layer; the target
            rate if None.
        weights: ``{layer: module}`` by name, where it is not the one before the layer.
        recurrent: ``{layer: module}`` of recurrent weights, which Condition II draws anew.
        seed: of the draw.
        published: the authors' code: the recurrent mean from a balance of means in place of the
            bias, a variance without its factor 2, and drawn as another one (rate 1/2 only).
        layers: names of layers; None for all.

    Raises:
        ValueError: no weights or several before a layer, no bias, a batch norm behind them, or a
            rate that cannot be reached.

    Source:
        Conditions I and II of Herranz-Celotti and Rouat, arXiv 2202.00282, corrected.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        target_rate: float = 0.5,
        input_rate: Rates | None = None,
        weights: Mapping[str, str] | None = None,
        recurrent: Mapping[str, str] | None = None,
        seed: int = 0,
        published: bool = False,
        layers: Collection[str] | None = None,
    ) -> None:
        if not 0.0 < target_rate < 1.0:
            raise ValueError(f"target_rate={target_rate!r} is not possible: it must be in (0, 1)")
        super().__init__(name, model, layers, weights, recurrent, seed)
        given = target_rate if input_rate is None else input_rate
        rates = per_layer("input_rate", given, [place.name for place in self.places])
        plans = []
        for place in self.places:
            rate = rates[place.name]
            if not 0.0 < rate < 1.0:
                raise ValueError(f"input_rate={rate!r} is not possible: it must be in (0, 1)")
            plan = self._published if published else self._corrected
            try:
                plans.append((place, plan(place, target_rate, rate)))
            except ValueError as error:
                raise ValueError(f"layer {place.name!r}: {error}") from None
        self._claim(["weights"])
        for place, row in plans:
            if "bias" in row:
                bias = self._input[place.name][1].bias
                assert isinstance(bias, Tensor)
                self._put(bias, torch.full_like(bias, row["bias"]))
            if "recurrent_std" in row:
                loop = self._recurrent[place.name][1]
                weight = self._draw(loop, row.get("recurrent_mean", 0.0), row["recurrent_std"])
                with torch.no_grad():  # no unit feeds itself
                    weight.fill_diagonal_(0.0)
            self._rows.append({"layer": place.name, **row})

    def _corrected(self, place: Place, target: float, rate: float) -> dict[str, float]:
        name, module = self._input[place.name]
        if not isinstance(module.bias, Tensor):
            raise ValueError(
                f"{name!r} has no bias, which Condition I needs: build it with bias=True"
            )
        n, mean, variance = _inputs(module)
        row: dict[str, float] = {}
        looped = 0.0
        if place.name in self._recurrent:
            units = _units(*self._recurrent[place.name])
            each = recurrent_weight_variance(
                n, units, variance + mean**2, rate, rate * (1.0 - rate), rate=target
            )
            row["recurrent_std"] = each**0.5
            looped = (units - 1) * each
        temporal = (n * (variance + mean**2) * rate * (1.0 - rate)) ** 0.5
        quenched = (n * variance) ** 0.5 * rate
        found = offset_for_rate(
            place.layer.spec, target, temporal, recurrent_variance=looped, quenched_std=quenched
        )
        return row | {"bias": found.offset - n * mean * rate, "rate": found.law.rate}

    def _published(self, place: Place, target: float, rate: float) -> dict[str, float]:
        if target != 0.5:
            raise ValueError(f"target_rate={target!r} is not possible as published: only 0.5 is")
        if place.name not in self._recurrent:
            raise ValueError(
                "the published conditions set recurrent weights: say which with recurrent="
            )
        n, mean, variance = _inputs(self._input[place.name][1])
        units = _units(*self._recurrent[place.name])
        spec = place.layer.spec
        kind = "subtract_before_leak" if spec.reset == "subtract" else spec.reset
        total = recurrent_mean_for_half(kind, float(spec.decay), float(spec.threshold))
        each = total / (units - 1)
        wanted = recurrent_weight_variance(
            n, units, variance + mean**2, rate, rate * (1.0 - rate),
            recurrent_weight_mean=each, form="published",
        )  # fmt: skip
        std = published_sampled_variance(wanted, units) ** 0.5
        return {"recurrent_mean": each, "recurrent_std": std}


def fan_in(module: nn.Module) -> int:
    """Return how many inputs a unit of a linear layer or convolution has.

    Example:
        >>> fan_in(nn.Conv2d(4, 8, 3)), fan_in(nn.Linear(5, 2))
        (36, 5)
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight[0].numel()


def _inputs(module: nn.Module) -> tuple[int, float, float]:
    """Return fan-in, mean and variance of the weights."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    values = weight.detach().double()
    return fan_in(module), float(values.mean()), float(values.var(correction=0))


def _units(name: str, module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{name!r} of shape {tuple(weight.shape)} is not recurrent: it must be a square matrix"
        )
    return int(weight.shape[0])
