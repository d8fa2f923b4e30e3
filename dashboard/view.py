"""What a person looks at, as the query string of the page's address: the only view state."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from .metrics import METRICS

PAGES = ("runs", "overview", "layer", "findings", "about")

_CHOICES: dict[str, tuple[str, ...]] = {
    "page": PAGES,
    "metric": tuple(METRICS),
    "mode": ("train", "eval"),
    "theme": ("light", "dark"),
    "show": ("figures", "tables"),
}

_NUMBERS = ("t", "step")

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
        show: ``"figures"`` or ``"tables"``.
        theme: ``"light"`` or ``"dark"``.
    """

    run: str = ""
    page: str = ""
    layer: str = ""
    t: int | None = None
    step: int | None = None
    metric: str = "coverage"
    mode: str = ""
    show: str = "figures"
    theme: str = "light"

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
            if field.name in _NUMBERS:
                # Longer numbers are no step and no timestep.
                if text.isascii() and text.isdigit() and len(text) < 19:
                    values[field.name] = int(text)
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
