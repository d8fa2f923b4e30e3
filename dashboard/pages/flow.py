"""Gradient flow: where does the gradient die?"""

from __future__ import annotations

from dash import html

from .. import figures
from ..catalogue import Snapshot
from ..components import notice
from ..pieces import Piece, show
from ..view import View
from ..words import nothing_yet
from .content import Content, Moment, show_switch
from .layer import chosen
from .pickers import layer_picker, timestep_picker, timesteps

_DECAY_NAMES = {
    "kept": "norm of dL/du over that of the layer above",
    "error": "standard error of that",
    "low": "predicted from",
    "high": "predicted to",
    "product": "norm of dL/du over the last layer's",
    "product low": "that predicted from",
    "product high": "that predicted to",
    "per timestep": "factor of the rms per timestep back",
    "leak alone": "that of the leak alone",
}
"""Headers of the table of decays; all are ratios, without unit."""


def render(run: Snapshot, view: View) -> Content:
    """Return the page: the gradient over depth and time, and its decay beside the prediction."""
    moment = Moment.of(run, view)
    if moment.step is None:
        return Content(body=[*moment.notes, notice("Nothing to draw.", nothing_yet(run))])
    name = chosen(run, view)
    timestep = timestep_picker(run, name, moment, view.t)
    at_t = [str(t) for t in timesteps(run, name, moment)]
    depth, decay, time = (show(piece, view) for piece in pieces(run, view))
    return Content(
        controls=[layer_picker(run, name), *timestep, *moment.controls(run), show_switch(view)],
        body=[*moment.notes, html.Div([depth, decay], className="tiles"), time],
        defaults=moment.defaults() | {"layer": name, "t": at_t[-1] if at_t else ""},
        shape=(*moment.shape(run), len(run.layers), *at_t),
        unfinished=not moment.whole,
    )


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page."""
    moment = Moment.of(run, view)
    at, theme, unit = moment.at, view.theme, "(loss / potential)"
    names = {"rms": f"rms of dL/du {unit}", "error": f"standard error {unit}"}
    return [
        Piece(
            "depth",
            lambda: figures.gradient_over_depth(run, t=view.t, theme=theme, **at),
            lambda: figures.flow_values(run, **at).rename(columns=names),
            "layer",
        ),
        Piece(
            "decay",
            lambda: figures.gradient_decay(run, theme=theme, **at),
            lambda: figures.decay_values(run, **at).rename(columns=_DECAY_NAMES),
            "layer",
        ),
        Piece(
            "time",
            lambda: figures.gradient_over_time(run, layer=chosen(run, view), theme=theme, **at),
            lambda: figures.flow_values(run, **at).rename(columns=names),
            "t",
        ),
    ]
