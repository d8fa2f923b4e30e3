"""What a person looks at, as the query string of the page's address: the only view state."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from ..analysis.surrogate_shapes import SHAPES
from .metrics import METRICS

PAGES = (
    "runs",
    "choose",
    "overview",
    "layer",
    "drift",
    "flow",
    "compare",
    "attribution",
    "findings",
    "about",
)
"""Pages by their word in an address; ``pages/__init__.py`` says what each shows."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "page": PAGES,
    "metric": tuple(METRICS),
    "mode": ("train", "eval"),
    "align": ("step", "loss"),
    "theme": ("light", "dark"),
    "show": ("figures", "tables"),
    "reset": ("subtract", "to_value", "none"),
    "family": tuple(SHAPES),
    "wiring": ("feed-forward", "recurrent"),
}

_SIZES = ("fan_in", "layers", "timesteps")

_COUNTS = ("t", "step", "label", *_SIZES)

_NUMBERS = ("decay", "threshold", "input_rate", "target_rate")

LONGEST = 65536
"""Characters of a query string that are looked at; a layer's name may be long."""


@dataclass(frozen=True)
class View:
    """One view of the dashboard; empty or None stands for the default.

    Args:
        run: name of a run under the root.
        page: one of :data:`PAGES`.
        layer: name of a layer.
        t: timestep, from 1.
        step: optimiser step.
        metric: metric of the heatmap.
        mode: ``"train"`` or ``"eval"``.
        scalar: the given number under the heatmap of a deep network.
        other: runs to compare with, names apart by ``/``.
        align: what two runs are compared at, ``"step"`` or ``"loss"``.
        show: ``"figures"`` or ``"tables"``.
        theme: ``"light"`` or ``"dark"``.
        decay: of the neuron that is chosen for.
        threshold: its threshold, potential.
        reset: its reset.
        fan_in: inputs per unit.
        input_rate: spikes per input and timestep.
        target_rate: wanted spikes per unit and timestep.
        wiring: ``"feed-forward"`` or ``"recurrent"``.
        layers: spiking layers of the network.
        timesteps: length of a sequence.
        family: shape of the surrogate.
        method: method of an attribution.
        label: class that was attributed.
    """

    run: str = ""
    page: str = ""
    layer: str = ""
    t: int | None = None
    step: int | None = None
    metric: str = "coverage"
    mode: str = ""
    scalar: str = ""
    other: str = ""
    align: str = "step"
    show: str = "figures"
    theme: str = "light"
    decay: float = 0.5
    threshold: float = 1.0
    reset: str = "subtract"
    fan_in: int = 128
    input_rate: float = 0.1
    target_rate: float = 0.1
    wiring: str = "feed-forward"
    layers: int = 4
    timesteps: int = 8
    family: str = "fast_sigmoid"
    method: str = ""
    label: int | None = None

    @classmethod
    def parse(cls, search: str | None) -> View:
        """Read a query string; what is not possible there is left at its default.

        Args:
            search: such as ``"?run=digits&page=layer&t=2"``.

        Returns:
            The view.

        Example:
            >>> View.parse("?run=a&page=layer&t=2&step=x&metric=nonsense").search()
            '?run=a&page=layer&t=2'
        """
        given = parse_qs((search or "").lstrip("?")[:LONGEST])
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = given.get(field.name, [""])[-1]
            if field.name in _COUNTS:
                # A size below 0 is refused where it is asked for.
                digits = text.removeprefix("-") if field.name in _SIZES else text
                # Longer numbers are no step and no timestep.
                if digits.isascii() and digits.isdigit() and len(digits) < 19:
                    values[field.name] = int(text)
            elif field.name in _NUMBERS:
                number = _finite(text)
                if number is not None:
                    values[field.name] = number
            elif text in _CHOICES.get(field.name, (text,)) and text:
                values[field.name] = text
        return cls(**values)

    def search(self) -> str:
        """Return the query string of this view, without what is at its default."""
        default = View()
        pairs = [
            (field.name, getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        return f"?{urlencode(pairs)}" if pairs else "?"

    def but(self, **changes: Any) -> View:
        """Return this view with some parts changed."""
        return replace(self, **changes)


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
