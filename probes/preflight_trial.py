"""A copy of the user's model that changes are tried on, one after the other."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..analysis.findings import Finding, diagnose
from ..analysis.layer_record import LayerRecord
from ..analysis.recommend import Recommendation
from ..analysis.recommend_forward import Currents, ForwardSolution
from ..data.runs import open_run
from .adapters import Adapter
from .apply_plan import plan
from .fresh import forget_state, fresh_copy
from .header import find_layers
from .misfit import misfit
from .modes import plain_modules, refusal, unwrapped
from .preflight_batches import Batch, Loss, loss_of
from .preflight_fan_in import FanIn, fan_in
from .preflight_record import Recording, call, run
from .probe import watch

Forward = Callable[[nn.Module, Any], Any]

WEAK = 0.01
"""Share of the current below which weights do not move it: a norm behind undoes their scale."""


class Trial:
    """The copy, and what is known of its layers.

    Args:
        model: the user's model, which is not touched.
        batches: (inputs, targets) each.
        loss: as in :func:`.preflight_batches.loss_of`.
        forward: as in :func:`.preflight_record.run`.
        seed: of dropout and of the random projection.

    Raises:
        ValueError: a model that cannot be run or read; one line.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: list[Batch],
        loss: Loss | None,
        forward: Forward | None,
        seed: int,
    ) -> None:
        check(model)
        self.batches, self._loss, self._forward, self._seed = batches, loss, forward, seed
        self.model = fresh_copy(unwrapped(model))
        forget_state(self.model)
        if not self.model.training:
            self.model.train()  # what counts is how it will train
        self.frozen = {
            name for name, entry in self.model.named_parameters() if not entry.requires_grad
        }
        self.parameters = dict(self.model.named_parameters())
        for entry in self.parameters.values():
            if entry.is_floating_point():
                entry.requires_grad_()  # gradient must flow through frozen parts, too
        self.adapters: dict[str, tuple[nn.Module, Adapter]] = {
            layer.name: (layer.module, adapter) for layer, adapter in find_layers(self.model)[0]
        }
        self.before = self.record()
        self.fan_in = self._fan_in()

    def record(self, only: Iterable[str] | None = None, *, gradients: bool = True) -> Recording:
        """Return what the layers of the copy do now.

        Raises:
            ValueError: the batch does not go through the model; the line names the module.
        """
        try:
            return run(
                self.model,
                self.batches,
                loss=self._loss,
                forward=self._forward,
                seed=self._seed,
                gradients=gradients,
                only=only,
            )
        except ValueError:
            raise
        except Exception as error:
            inputs = [batch for batch, _ in self.batches]
            line = misfit(self.model, inputs, partial(call, forward=self._forward), error)
            raise ValueError(line) from error

    def layer(self, name: str) -> LayerRecord:
        """Return the forward record of one layer as the copy is now."""
        return self.record([name], gradients=False).layers[name]

    def findings(self) -> list[Finding]:
        """Return what the rules of the findings say of the copy, from a run of one step a batch."""
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = fresh_copy(self.model)
            with watch(copy, Path(folder) / "preflight", every=1) as probe:
                for number, (inputs, targets) in enumerate(self.batches):
                    forget_state(copy)
                    torch.manual_seed(self._seed + number)
                    generator = torch.Generator().manual_seed(self._seed + number)
                    output = call(copy, inputs, self._forward)
                    value = loss_of(output, targets, self._loss, generator)
                    if value.requires_grad:
                        value.backward()  # type: ignore[no-untyped-call]
                    probe.step(loss=value.detach())
            try:
                return [] if probe.path is None else diagnose(open_run(probe.path))
            except ValueError:  # a layer that a rule cannot judge: the recommendation stands alone
                return []

    def currents(self, record: LayerRecord) -> tuple[Currents | None, str]:
        """Split a layer's current by what its weights do to it, by measuring it.

        Args:
            record: the layer as the copy is now.

        Returns:
            The parts, or None with the reason why its weights cannot be scaled.
        """
        name = record.name
        found = self.fan_in[name]
        if found.unknown or not found.weight:
            return None, found.unknown or "no weight was found before it"
        for other, theirs in self.fan_in.items():
            shared = set(found.weight) & set(theirs.weight + theirs.recurrent)
            if other != name and shared:
                return None, f"{min(shared)} feeds layer {other!r}, too"
        if frozen := sorted(set(found.weight) & self.frozen):
            return None, f"{frozen[0]} is frozen"
        if (reason := self._refused(name)) is not None:
            return None, reason
        one = self._current(name, 1.0, found)
        two = self._current(name, 2.0, found)
        weighted = two - one
        if not float(np.std(weighted)) > WEAK * float(np.std(one)):
            return None, f"{found.weight[0]} does not move the current: a norm undoes its scale"
        # What comes back from the layer's own spikes is taken as it was recorded.
        return Currents(weighted, record.current - weighted), ""

    def _refused(self, name: str) -> str | None:
        """Return why apply would not scale the weights of a layer, None if it would."""
        asked = Recommendation(
            name, "change", {"weight_scale": (1.0, 2.0)}, self.roles(name), self.shapes(name)
        )
        try:
            plan(self.model, [asked], lambda *_: False)
        except ValueError as error:
            return str(error)
        return None

    def _current(self, name: str, scale: float, found: FanIn) -> Any:
        """Return a layer's current with its weights scaled and its own feedback cut."""
        factors = dict.fromkeys(found.weight, scale) | dict.fromkeys(found.recurrent, 0.0)
        kept = {entry: self.parameters[entry].detach().clone() for entry in factors}
        try:
            for entry, factor in factors.items():
                self._scale(entry, factor)
            return self.layer(name).current
        finally:
            with torch.no_grad():
                for entry, value in kept.items():
                    self.parameters[entry].copy_(value)

    def biases(self, name: str) -> tuple[list[str], str]:
        """Return the biases of a layer that can be changed, or none and the reason."""
        names = self.fan_in[name].bias
        if not names:
            return [], "it has no bias"
        if frozen := sorted(set(names) & self.frozen):
            return [], f"{frozen[0]} is frozen"
        for other, theirs in self.fan_in.items():
            if other != name and (shared := set(names) & set(theirs.bias)):
                return [], f"{min(shared)} feeds layer {other!r}, too"
        return names, ""

    def roles(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return the parameters before a layer by role; of several biases that add up, one."""
        found = self.fan_in[name]
        roles = {
            "weight": tuple(found.weight),
            "bias": tuple(found.bias[:1]),
            "recurrent": tuple(found.recurrent),
        }
        return {role: names for role, names in roles.items() if names}

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter before a layer."""
        return {
            entry: tuple(self.parameters[entry].shape)
            for names in self.roles(name).values()
            for entry in names
        }

    def recurrent_power(self, name: str) -> float:
        """Return n E[w^2] of a layer's dense recurrent weights times its gain squared, else 0."""
        matrices = [self.parameters[entry].detach() for entry in self.fan_in[name].recurrent]
        matrices = [matrix for matrix in matrices if matrix.ndim == 2]
        record = self.before.layers.get(name)
        if record is None or np.ndim(record.spec.gain):
            return 0.0
        total = sum(float(matrix.double().square().sum()) / len(matrix) for matrix in matrices)
        return total * float(record.spec.gain) ** 2

    def apply(self, name: str, solution: ForwardSolution) -> None:
        """Make the copy do what a forward solution says."""
        for entry in self.fan_in[name].weight:
            if solution.scale != 1.0:
                self._scale(entry, solution.scale)
        if solution.shift != 0.0:
            with torch.no_grad():
                # Several biases add up: one of them takes the whole shift.
                self.parameters[self.fan_in[name].bias[0]].add_(solution.shift)
        if solution.threshold is not None:
            self.write(name, "threshold", solution.threshold)

    def obstacle(self, name: str, field: str, value: Any) -> str | None:
        """Return why a field of a layer cannot be written, None if it can."""
        module, adapter = self.adapters[name]
        return adapter.can_write(module, field, value)

    def write(self, name: str, field: str, value: Any) -> None:
        """Write a field of a layer of the copy."""
        module, adapter = self.adapters[name]
        adapter.write(module, field, value)

    def _scale(self, name: str, factor: float) -> None:
        with torch.no_grad():
            self.parameters[name].mul_(factor)

    def _fan_in(self) -> dict[str, FanIn]:
        try:
            return fan_in(self.model, self.batches[0], self._forward)
        except Exception as error:  # a graph of a kind that we do not know is no reason to stop
            reason = f"its graph could not be followed ({type(error).__name__})"
            return {name: FanIn(unknown=reason) for name in self.adapters}


def check(model: Any) -> None:
    """Refuse a model that a preflight cannot judge.

    Raises:
        ValueError: no module, lazy or not finite parameters, no spiking layer that can be read; one
            line that names what.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}, not a torch.nn.Module")
    if (reason := refusal(model)) is not None:
        raise ValueError(reason.removesuffix("; the probe stays off"))
    for kind, entries in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for name, tensor in entries:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                if kind == "buffer" and not _is_state(model, name):
                    continue
                count = int((~torch.isfinite(tensor)).sum())
                raise ValueError(
                    f"{kind} {name!r} holds {count} values that are NaN or infinite: nothing can "
                    "be recommended before they are mended"
                )
    found, refused = find_layers(model)
    if not found:
        known = "; ".join(f"{entry['name']!r}: {entry['reason']}" for entry in refused)
        count = sum(1 for _ in plain_modules(model))
        raise ValueError(
            f"{type(unwrapped(model)).__name__} has no spiking layer that can be read "
            + (f"({known})" if known else f"among its {count} modules")
        )


def _is_state(model: nn.Module, name: str) -> bool:
    """Return whether a buffer is saved with the model: others may well be unset."""
    return name in model.state_dict()
