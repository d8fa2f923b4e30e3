"""Switches that several pages have: which layer, which other runs, which number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import html

from ...data.runs import Run
from ..components import named
from ..figures_style import short
from ..lazy import lazy
from .content import Moment

LONGEST = 32
"""Characters of a name in a field."""


def _width(names: Sequence[str]) -> int:
    """Return pixels in which the longest name is seen whole."""
    return max(160, 8 * min(max(map(len, names), default=0), LONGEST) + 56)


def layer_picker(run: Run, name: str) -> html.Div:
    """Return the choice of a layer; typing searches."""
    picker: Any = dmc.Select(
        id={"type": "set", "key": "layer"},
        value=name,
        data=[{"value": layer.name, "label": short(layer.name, LONGEST)} for layer in run.layers],
        searchable=True,
        allowDeselect=False,
        size="sm",
        w=_width([layer.name for layer in run.layers]),
        comboboxProps={"withinPortal": True},
        **named("layer"),
    )
    return html.Div([html.Span("layer", className="label"), picker], className="control")


def timestep_picker(run: Run, layer: str, moment: Moment, t: int | None) -> list[html.Div]:
    """Return the choice of the timestep that the figures stress; none where there is but one."""
    found = timesteps(run, layer, moment)
    if len(found) < 2:
        return []
    return [choice_picker("t", str(t or found[-1]), [str(each) for each in found], "timestep")]


def timesteps(run: Run, layer: str, moment: Moment) -> list[int]:
    """Return the timesteps of a layer that were recorded at a moment."""
    if moment.step is None:
        return []
    rows = lazy(run).rows_at(moment.step, moment.mode)
    return [int(t) for t in np.unique(rows[rows["layer"] == layer]["t"])]


def choice_picker(key: str, value: str, choices: Sequence[str], label: str) -> html.Div:
    """Return a choice of one of a few words."""
    picker: Any = dmc.Select(
        id={"type": "set", "key": key},
        value=value,
        data=[{"value": choice, "label": choice.replace("_", " ")} for choice in choices],
        allowDeselect=False,
        size="sm",
        w=_width(choices),
        comboboxProps={"withinPortal": True},
        **named(label),
    )
    return html.Div([html.Span(label, className="label"), picker], className="control")


def number_picker(
    key: str, value: float, label: str, low: float, high: float, step: float
) -> html.Div:
    """Return a field for a number, which is taken when it is left or Enter is pressed."""
    field: Any = dmc.NumberInput(
        id={"type": "set", "key": key},
        value=value,
        min=low,
        max=high,
        step=step,
        debounce=600,
        # What is typed is what the page speaks of, possible or not.
        clampBehavior="none",
        allowDecimal=isinstance(step, float),
        size="sm",
        w=96,
        **named(label),
    )
    return html.Div([html.Span(label, className="label"), field], className="control")
