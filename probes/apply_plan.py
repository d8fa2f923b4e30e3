"""What a list of recommendations would change in a live model, checked before anything is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.recommend import Recommendation, in_words
from ..analysis.surrogate import Surrogate
from .adapters import ADAPTERS, WRITABLE, Adapter
from .adapters.writing import same_number, same_surrogate
from .modes import plain_modules, unwrapped

_ROLES = {"weight_scale": "weight", "bias_shift": "bias", "recurrent_scale": "recurrent"}
"""Field of a recommendation to the role of the parameters that it changes."""

_ORDER = ("threshold", "start", "surrogate", *_ROLES)
"""A start potential is judged at the new threshold."""

Held = Callable[[nn.Module, Recommendation], bool]


@dataclass(frozen=True)
class Step:
    """One thing to change.

    Args:
        recommendation: why.
        field: what.
        owner: the module that it belongs to.
        now: value that the recommendation was made at.
        proposed: value that it asks for; as the layer takes it.
        adapter: how to write it; None for a parameter.
        name: of the parameter, empty for a setting of the layer.
        parameter: the parameter.
    """

    recommendation: Recommendation
    field: str
    owner: nn.Module
    now: Any
    proposed: Any
    adapter: Adapter | None = None
    name: str = ""
    parameter: nn.Parameter | None = None


def plan(model: nn.Module, recommendations: Iterable[Recommendation], held: Held) -> list[Step]:
    """Return the steps of a list of recommendations, in order.

    Args:
        model: the model.
        recommendations: at most one per layer.
        held: whether a recommendation has been applied to a module already.

    Raises:
        ValueError: one line that says what stands against it. Nothing has been changed.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r} is not possible: give a torch.nn.Module")
    parts = _Parts(model)
    steps: list[Step] = []
    for one in _listed(recommendations):
        steps += _settings(parts, one, held)
        steps += _scales(parts, one, held)
    changed: dict[int, Step] = {}
    for step in steps:
        if step.parameter is None:
            continue
        other = changed.setdefault(id(step.parameter), step)
        if other is not step:
            raise ValueError(
                f"{step.name!r} would be changed twice, by {other.field} of layer "
                f"{other.recommendation.layer!r} and by {step.field} of layer "
                f"{step.recommendation.layer!r}"
            )
    return steps


class _Parts:
    """A model's modules and parameters under their names, with and without wrappers."""

    def __init__(self, model: nn.Module) -> None:
        inner = unwrapped(model)
        self.kind = type(inner).__name__
        self.modules = dict(plain_modules(inner))
        self.owners: dict[str, tuple[nn.Module, str]] = {}
        for modules in (inner.named_modules(), plain_modules(inner)):
            for name, module in modules:
                for entry, parameter in module._parameters.items():
                    if parameter is not None:
                        self.owners[f"{name}.{entry}" if name else entry] = module, entry
        self.uses: dict[int, list[str]] = {}
        for name, parameter in inner.named_parameters(remove_duplicate=False):
            if _without_numbers(parameter) is None:
                self.uses.setdefault(parameter.data_ptr(), []).append(name)
        self.like = next((p for p in inner.parameters() if p.is_floating_point()), None)

    def parameter(self, name: str) -> nn.Parameter:
        """Return the parameter of a name."""
        owner, entry = self.owners[name]
        parameter = owner._parameters[entry]
        assert parameter is not None
        return parameter

    @property
    def writable(self) -> bool:
        """Whether any layer is one of a framework."""
        return any(adapter.handles(m) for m in self.modules.values() for adapter in ADAPTERS)


def _without_numbers(parameter: Tensor) -> str | None:
    """Return why a parameter has no numbers yet."""
    if nn.parameter.is_lazy(parameter):
        return "has no shape yet: run one batch through the model first"
    if parameter.is_meta:
        return "is on the meta device and holds no numbers: initialise the model first"
    return None


def _listed(recommendations: Any) -> Iterator[Recommendation]:
    """Yield those that change something, after a look at all of them."""
    if isinstance(recommendations, Recommendation) or not isinstance(recommendations, Iterable):
        raise ValueError(
            f"recommendations={type(recommendations).__name__} is not possible: give a list of "
            "Recommendation"
        )
    asked = list(recommendations)
    layers: set[str] = set()
    for place, one in enumerate(asked):
        if not isinstance(one, Recommendation):
            raise ValueError(
                f"recommendations[{place}] is {one!r}, not a Recommendation as recommend() gives"
            )
        if one.layer in layers:
            raise ValueError(f"two recommendations are for layer {one.layer!r}: keep one of them")
        layers.add(one.layer)
    return (one for one in asked if one.verdict == "change")


def _settings(parts: _Parts, one: Recommendation, held: Held) -> Iterator[Step]:
    """Yield what changes in the spiking layer itself."""
    fields = [field for field in _ORDER if field in one.changes and field in WRITABLE]
    module = parts.modules.get(one.layer.partition("[")[0])
    _check_shapes(parts, one)
    if module is None:
        raise ValueError(
            f"layer {one.layer!r} is not in this {parts.kind}: the recommendations are for "
            "another model"
        )
    if held(module, one):
        raise ValueError(
            f"already applied: layer {one.layer!r} has these changes; undo them first, or ask "
            "recommend() again"
        )
    adapter = next((entry for entry in ADAPTERS if entry.handles(module)), None)
    if fields and adapter is None:
        raise ValueError(
            f"{fields[0]} of layer {one.layer!r} cannot be written: {type(module).__name__} is no "
            "spiking layer of a known framework"
            if parts.writable
            else f"no layer of this {parts.kind} can be written: it has no spiking layer of "
            f"{', '.join(entry.framework for entry in ADAPTERS)}"
        )
    layer = None
    for field in fields:
        assert adapter is not None
        now, proposed = one.changes[field]
        value = _settled(parts, one, field, proposed)
        reason = None
        try:
            layer = layer or adapter.describe(one.layer, module)
            # A start potential may need the new threshold: it is judged when that is in place.
            if not (field == "start" and "threshold" in one.changes):
                reason = adapter.obstacle(module, field, value)
        except ValueError as error:
            reason = str(error)
        if reason is not None or layer is None:
            raise ValueError(f"{field} of layer {one.layer!r} cannot be written: {reason}")
        live = layer.surrogate if field == "surrogate" else getattr(layer.spec, field)
        same = same_surrogate if field == "surrogate" else same_number
        if not same(live, now):
            again = "already applied: " if same(live, proposed) else ""
            raise ValueError(
                f"{again}{field} of layer {one.layer!r} is {in_words(live)}, but the "
                f"recommendation was made at {in_words(now)}"
            )
        yield Step(one, field, module, now, value, adapter)


def _settled(parts: _Parts, one: Recommendation, field: str, proposed: Any) -> Any:
    """Return a proposal as the layer takes it.

    Raises:
        ValueError: it is no value for this field.
    """
    if field == "surrogate":
        fine = isinstance(proposed, Surrogate) and all(
            np.ndim(x) == 0 for x in (proposed.peak, proposed.width, proposed.tail)
        )
        wanted = "a Surrogate with one peak and one width"
    else:
        fine = _is_finite(proposed) and (field == "start" or np.ndim(proposed) == 0)
        wanted = "finite numbers" if field == "start" else "a finite number"
    if not fine:
        raise _impossible(one, field, proposed, wanted)
    if field != "start":
        return proposed
    # In the precision of the model, which a layer without tensors of its own does not know.
    dtype = torch.float32 if parts.like is None else parts.like.dtype
    device = None if parts.like is None else parts.like.device
    wide = torch.promote_types(dtype, torch.float32)
    return torch.as_tensor(proposed, dtype=wide, device=device)


def _scales(parts: _Parts, one: Recommendation, held: Held) -> Iterator[Step]:
    """Yield what changes in the parameters before the layer."""
    for field in (field for field in _ORDER if field in one.changes and field in _ROLES):
        now, proposed = one.changes[field]
        neutral = 0.0 if field == "bias_shift" else 1.0
        if not (_is_finite(proposed) and np.ndim(proposed) == 0):
            raise _impossible(one, field, proposed, "a finite number")
        if field != "bias_shift" and not float(proposed) > 0.0:
            raise _impossible(one, field, proposed, "above 0")
        if not same_number(now, neutral):
            raise ValueError(
                f"{field} of layer {one.layer!r} was {now!r} before: it counts from {neutral:g}"
            )
        names = one.parameters.get(_ROLES[field], ())
        if not names:
            raise ValueError(
                f"{field} of layer {one.layer!r} is to change, but the recommendation names no "
                f"parameter of the role {_ROLES[field]!r}"
            )
        for name in names:
            if name not in parts.owners:
                raise ValueError(_missing(parts, one, name))
            owner, parameter = parts.owners[name][0], parts.parameter(name)
            if held(owner, one):
                raise ValueError(
                    f"already applied: {name!r} has been changed by this recommendation; undo it "
                    "first, or ask recommend() again"
                )
            if (reason := _against(parts, owner, name, parameter)) is not None:
                raise ValueError(f"{field} of layer {one.layer!r}: {name!r} {reason}")
            yield Step(one, field, owner, now, float(proposed), None, name, parameter)


def _against(parts: _Parts, owner: nn.Module, name: str, parameter: nn.Parameter) -> str | None:
    """Return why a parameter is not to be changed."""
    if (reason := _without_numbers(parameter)) is not None:
        return reason
    if not parameter.requires_grad:
        return "is frozen (requires_grad is False): unfreeze it, or leave this layer out"
    if "parametrizations" in name.split("."):
        return (
            "is only an ingredient of a parametrised weight: fold it with "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    hooks = [type(hook) for hook in owner._forward_pre_hooks.values()]
    by = next((k.__name__ for k in hooks if k.__module__.startswith("torch.nn.utils.")), None)
    if by is not None:
        return f"is only an ingredient of a weight that {by} computes: remove that first"
    uses = parts.uses[parameter.data_ptr()]
    if len(uses) > 1 and parameter.numel():
        names = " and ".join(map(repr, uses))
        return f"is one tensor under {len(uses)} names, {names}: it would change for all of them"
    return None


def _check_shapes(parts: _Parts, one: Recommendation) -> None:
    for name, shape in one.shapes.items():
        if name not in parts.owners:
            raise ValueError(_missing(parts, one, name))
        parameter = parts.parameter(name)
        found = None if nn.parameter.is_lazy(parameter) else tuple(parameter.shape)
        if found != tuple(shape):
            raise ValueError(
                f"{name!r} has shape {found}, but {tuple(shape)} in the recommendation for layer "
                f"{one.layer!r}: it is for another model"
            )


def _missing(parts: _Parts, one: Recommendation, name: str) -> str:
    return (
        f"{name!r}, which the recommendation for layer {one.layer!r} names, is no parameter of "
        f"this {parts.kind}: it is for another model"
    )


def _impossible(one: Recommendation, field: str, value: Any, wanted: str) -> ValueError:
    return ValueError(
        f"{field} of layer {one.layer!r} is proposed as {value!r}: it must be {wanted}"
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        return bool(np.all(np.isfinite(np.asarray(value, dtype=float)))) and np.size(value) > 0
    except (TypeError, ValueError):
        return False
