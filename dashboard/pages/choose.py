"""Choose: which surrogate and initialisation before I train? It needs no run."""

from __future__ import annotations

from typing import Any

from dash import html

from ...analysis.neuron_spec import RESETS
from ...analysis.surrogate_shapes import SHAPES
from .. import figures
from ..components import badge, grid, labelled, named, notice, switch
from ..figures_choose import Choice, Criterion, code, criteria, criteria_frame, preset_of
from ..pieces import Piece, show
from ..view import View
from .content import Content, show_switch
from .pickers import choice_picker, number_picker

_INTRO = (
    "Say which neuron, how many inputs and how busy they are; weights, bias and surrogate follow "
    "from theory alone, without a run."
)

MOST_DECAY = 0.99
"""Decay up to which the law of u is worked out in seconds."""

THRESHOLDS = (1e-6, 1e6)
MOST_INPUTS = 1_000_000
MOST_TIMESTEPS = 1000
MOST_LAYERS = 1000


def choice_of(view: View) -> Choice:
    """Return what a view chooses for."""
    return Choice(
        view.decay, view.threshold, view.reset, view.fan_in, view.input_rate, view.target_rate,
        view.wiring == "recurrent", view.layers, view.timesteps, view.family,
    )  # fmt: skip


def render(catalogue: Any, view: View) -> Content:
    """Return the page: shapes on the law of u, the conditions, the numbers and the code."""
    controls = [*_controls(view), show_switch(view)]
    keys = ("decay", "threshold", "reset", "fan_in", "input_rate", "target_rate", "wiring",
            "layers", "timesteps", "family")  # fmt: skip
    defaults = {key: getattr(View(), key) for key in keys}
    chosen = choice_of(view)
    try:
        _check(chosen)
        preset = preset_of(chosen)
    except ArithmeticError as error:
        said = f"They are too large or too small to be worked out ({error})."
        why = notice("These numbers are not possible.", said, kind="warning")
        return Content(controls, [why], defaults)
    except ValueError as error:
        why = notice("These numbers are not possible.", str(error), kind="warning")
        return Content(controls, [why], defaults)
    body: list[Any] = [
        html.H2("Choose before training"),
        html.P(_INTRO, className="quiet"),
        html.Div([show(piece, view) for piece in pieces(catalogue, view)], className="tiles"),
        html.H2("Conditions"),
        _conditions(criteria(chosen)),
        *(notice("Mind:", f"{warning[0].upper()}{warning[1:]}.") for warning in preset.warnings),
        html.H2("Code"),
        html.Pre(code(chosen), id="code", tabIndex="0", role="region", **named("Code")),
        html.Button(
            "Copy the code", id={"type": "copy", "index": "code"}, className="save",
            **named("Copy the code"),
        ),
        html.H2("Everything that was chosen"),
        _everything(chosen),
    ]  # fmt: skip
    return Content(controls, body, defaults)


def _check(chosen: Choice) -> None:
    """Refuse what would take too long to work out, in one line."""
    for name, most in (("fan_in", MOST_INPUTS), ("layers", MOST_LAYERS),
                       ("timesteps", MOST_TIMESTEPS)):  # fmt: skip
        value = getattr(chosen, name)
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value} is not possible here: it must be from 1 to {most}")
    if MOST_DECAY < chosen.decay < 1.0:
        raise ValueError(
            f"decay={chosen.decay} is not possible here: it must be at most {MOST_DECAY}, for the "
            "law of a slower neuron takes minutes; analysis.preset.recommend_by_numbers gives it"
        )
    low, high = THRESHOLDS
    if chosen.threshold > 0 and not low <= chosen.threshold <= high:
        raise ValueError(
            f"threshold={chosen.threshold} is not possible here: it must be from {low:g} to "
            f"{high:.0f}"
        )


def _controls(view: View) -> list[Any]:
    return [
        number_picker("decay", view.decay, "decay", 0.0, MOST_DECAY, 0.05),
        number_picker("threshold", view.threshold, "threshold", 0.001, 1000.0, 0.1),
        choice_picker("reset", view.reset, RESETS, "reset"),
        number_picker("fan_in", view.fan_in, "fan-in", 1, MOST_INPUTS, 16),
        number_picker("input_rate", view.input_rate, "input rate", 0.001, 0.999, 0.01),
        number_picker("target_rate", view.target_rate, "wanted rate", 0.001, 0.999, 0.01),
        number_picker("layers", view.layers, "layers", 1, MOST_LAYERS, 1),
        number_picker("timesteps", view.timesteps, "timesteps", 1, MOST_TIMESTEPS, 1),
        switch("wiring", view.wiring,
               [("feed-forward", "feed-forward"), ("recurrent", "recurrent")], "wiring"),
        choice_picker("family", view.family, tuple(SHAPES), "surrogate"),
    ]  # fmt: skip


def _everything(chosen: Choice) -> html.Div:
    frame = criteria_frame(chosen)
    frame["in brief"] = [
        f"{what}: {value} {unit}".strip() + f" ({source})"
        for what, value, unit, source in frame.itertuples(index=False)
    ]
    return grid(frame, "Everything that was chosen", name="chosen", sortable=False,
                wrapped=("source",), brief="in brief")  # fmt: skip


def _conditions(found: list[Criterion]) -> html.Div:
    head = ("condition", "this choice", "wanted", "holds", "source")
    rows = [
        html.Tr(
            [
                html.Th(each.name, scope="row"),
                labelled("this choice", each.value),
                labelled("wanted", each.wanted),
                labelled("holds", badge(*(("good", "yes") if each.holds else ("warning", "no")))),
                labelled("source", each.source, className="quiet"),
            ]
        )
        for each in found
    ]
    table = html.Table(
        [html.Thead(html.Tr([html.Th(name, scope="col") for name in head])), html.Tbody(rows)],
        className="runs",
    )
    return html.Div(table, role="region", **named("Conditions"))


def pieces(catalogue: Any, view: View) -> list[Piece]:
    """Return the figures of the page."""
    chosen = choice_of(view)
    _check(chosen)
    return [
        Piece(
            "chosen-law",
            lambda: figures.chosen_law(chosen, theme=view.theme),
            lambda: figures.law_frame(chosen),
        ),
        Piece(
            "shapes",
            lambda: figures.shapes(chosen, theme=view.theme),
            lambda: figures.shapes_frame(chosen),
        ),
    ]
