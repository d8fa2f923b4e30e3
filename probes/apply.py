"""Recommendations carried out on a live model: everything or nothing, with a way back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..analysis.recommend import Recommendation, in_words
from .adapters import ADAPTERS
from .adapters.writing import START, Undo, together
from .apply_plan import Step, plan

_MARK = "_spikescope_applied"
"""Attribute of a changed module: (what was applied, number of the application), the last last."""

_numbers = count()


class Change(NamedTuple):
    """One thing that was changed.

    Args:
        layer: name of the spiking layer that it was changed for.
        field: as in :data:`spikescope.analysis.recommend.FIELDS`.
        parameter: name of the model's parameter; empty for a setting of the layer itself.
        before: value before; 1 for a scale, 0 for a shift.
        after: value after; the factor or the shift.
    """

    layer: str
    field: str
    parameter: str
    before: Any
    after: Any

    def __str__(self) -> str:
        where = f" of {self.parameter}" if self.parameter else ""
        return (
            f"{self.layer}: {self.field}{where} {in_words(self.before)} -> {in_words(self.after)}"
        )


class Applied:
    """What :func:`apply` changed, and the way back.

    Used as a context manager it undoes the changes at the end of the block.

    Args:
        changes: one row per thing changed.
        undo: puts everything back.
        marked: modules that were changed.
        number: which application this is.
    """

    def __init__(
        self,
        changes: Sequence[Change],
        undo: Undo,
        marked: Sequence[nn.Module],
        number: int,
    ) -> None:
        self.changes = tuple(changes)
        self._undo: Undo | None = undo
        self._marked = marked
        self._number = number

    def undo(self) -> None:
        """Put back what was there when the recommendations were applied; a second call is idle.

        Values, surrogate objects, hooks and buffers are the old ones, bit for bit. Weights that
        were changed go back to what they were before, also where they have been trained since.

        Raises:
            ValueError: something that was applied later stands on top of these changes.
        """
        if self._undo is None:
            return
        for module in self._marked:
            if module.__dict__.get(_MARK, [("", self._number)])[-1][1] != self._number:
                raise ValueError(
                    f"{type(module).__name__} was changed by a later apply: undo that one first"
                )
        self._undo()
        self._undo = None
        _unmark(self._marked)
        _forget_compiled()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing was changed"


def apply(model: nn.Module, recommendations: Iterable[Recommendation]) -> Applied:
    """Carry recommendations out on a live model: all of them, or none.

    Everything is checked before anything is changed: that these layers and parameters exist with
    the recorded shapes, that each value is still the one that the recommendation was made at, that
    the framework takes the new one. Parameters are changed in place, so that optimisers keep
    them. What is written is then read back, the surrogate by autograd; if anything fails, the
    model is put back as it was. Apply before a probe is attached: it notes the layers as it begins.

    A start potential is kept in the ``state_dict``: as the buffer ``start`` of our own layers, as
    ``spikescope_start`` of foreign ones. A model built anew takes such a ``state_dict`` after
    :func:`restore`. Surrogate and threshold stay settings of the layer, as far as the framework
    does not save them itself.

    Args:
        model: the model, also compiled or distributed (then on each rank).
        recommendations: from :func:`spikescope.recommend` for this model, at most one per layer;
            those that say "leave it" or "cannot tell" change nothing.

    Returns:
        What was changed, and its ``undo()``.

    Raises:
        ValueError: one line that says what stands against it; the model is as it was.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> model = nn.Sequential(nn.Linear(2, 3), LIF())
        >>> advice = Recommendation("1", "change", {"start": (0.0, 0.25)})
        >>> applied = apply(model, [advice])
        >>> print(applied)
        1: start 0 -> 0.25
        >>> model.state_dict()["1.start"]
        tensor(0.2500)
        >>> applied.undo()
        >>> model.state_dict()["1.start"]
        tensor(0.)
    """
    steps = plan(model, recommendations, _held)
    number = next(_numbers)
    undos: list[Undo] = []
    marked: list[nn.Module] = []
    try:
        for step in steps:
            undos.append(_carry_out(step))
            if not any(step.owner is module for module in marked):
                marked.append(step.owner)
    except BaseException as error:
        together(undos)()
        _forget_compiled()
        if isinstance(error, ValueError):
            raise ValueError(f"{error}; the model is as it was") from None
        raise
    for step in steps:
        mark = step.owner.__dict__.setdefault(_MARK, [])
        mark.append((fingerprint(step.recommendation), number))
    changes = [
        Change(step.recommendation.layer, step.field, step.name, step.now, step.proposed)
        for step in steps
    ]
    if steps:
        _forget_compiled()
    return Applied(changes, together(undos), marked, number)


def restore(model: nn.Module, saved: dict[str, Tensor]) -> list[str]:
    """Prepare a model built anew for a ``state_dict`` that holds start potentials.

    Without it a strict ``load_state_dict`` names the keys that end in ``spikescope_start`` as
    unexpected (or the shape of ``start``, where our own layer has one per unit now). With it, the
    layers have a place for them, and use what is loaded.

    Args:
        model: built as the saved one was, before its recommendations were applied.
        saved: what the other model's ``state_dict()`` returned, under the same names.

    Returns:
        Names of the layers that were given a start potential.

    Raises:
        ValueError: a layer is missing, or cannot take it.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> saved = {"start": torch.tensor([0.1, 0.2])}
        >>> layer = LIF()
        >>> restore(layer, saved)
        ['']
        >>> layer.load_state_dict(saved)
        <All keys matched successfully>
    """
    modules = dict(model.named_modules())
    found = []
    for key, value in saved.items():
        name, _, entry = key.rpartition(".")
        module = modules.get(name)
        adapter = None
        if module is not None:
            adapter = next((entry for entry in ADAPTERS if entry.handles(module)), None)
        ours = adapter is not None and adapter.framework == "spikescope"
        if entry != ("start" if ours else START):
            continue
        if module is None or adapter is None:
            raise ValueError(f"{key!r} is a start potential, but {name!r} is no spiking layer")
        adapter.write(module, "start", value)
        found.append(name)
    if found:
        _forget_compiled()
    return found


def fingerprint(recommendation: Recommendation) -> str:
    """Return a text that is the same for the same changes."""
    return json.dumps(recommendation.to_dict()["changes"], sort_keys=True)


def _held(owner: nn.Module, recommendation: Recommendation) -> bool:
    """Return whether these changes have been applied to a module already."""
    marks = owner.__dict__.get(_MARK, [])
    return any(mark == fingerprint(recommendation) for mark, _ in marks)


def _carry_out(step: Step) -> Undo:
    if step.adapter is not None:
        try:
            return step.adapter.write(step.owner, step.field, step.proposed)
        except ValueError as error:
            raise ValueError(f"layer {step.recommendation.layer!r}: {error}") from None
    parameter = step.parameter
    assert parameter is not None
    kept = parameter.detach().clone()
    with torch.no_grad():
        if step.field == "bias_shift":
            parameter.add_(step.proposed)
        else:
            parameter.mul_(step.proposed)

    def undo() -> None:
        with torch.no_grad():
            parameter.copy_(kept)

    if not bool(torch.isfinite(parameter).all()) and bool(torch.isfinite(kept).all()):
        undo()
        raise ValueError(
            f"layer {step.recommendation.layer!r}: {step.field} {step.proposed!r} makes entries of "
            f"{step.name!r} infinite in {parameter.dtype}"
        )
    return undo


def _unmark(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        marks = module.__dict__.get(_MARK, [])
        number = marks[-1][1] if marks else None
        left = [mark for mark in marks if mark[1] != number]
        if left:
            module.__dict__[_MARK] = left
        else:
            module.__dict__.pop(_MARK, None)


def _forget_compiled() -> None:
    """Let compiled code compile again: hooks that come or go do not make it do so by themselves."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
