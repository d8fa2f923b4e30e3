"""Drift: does it start where it settles?"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from dash import html

from .. import figures
from ..catalogue import Snapshot
from ..components import notice
from ..figures_style import number
from ..pieces import Piece, show
from ..view import View
from ..words import nothing_yet
from .content import Content, Moment, show_switch
from .layer import chosen
from .pickers import layer_picker, timestep_picker, timesteps


def render(run: Snapshot, view: View) -> Content:
    """Return the page: distances of one layer's laws, and what a start would mend in each."""
    if not run.layers:
        return Content(body=[notice("This model has no spiking layer.", nothing_yet(run))])
    name = chosen(run, view)
    moment = Moment.of(run, view)
    timestep = timestep_picker(run, name, moment, view.t)
    controls = [layer_picker(run, name), *timestep, *moment.controls(run), show_switch(view)]
    at_t = [str(t) for t in timesteps(run, name, moment)]
    defaults = moment.defaults() | {"layer": name, "t": at_t[-1] if at_t else ""}
    shape = (*moment.shape(run), len(run.layers), *at_t)
    layer = run.layer(name)
    head = html.H2(name, className="name")
    if not layer.covered:
        why = notice("This layer was not recorded.", layer.reason or "No reason was given.")
        return Content(controls, [*moment.notes, head, why], defaults, shape)
    if moment.step is None:
        waiting = notice("Nothing to draw.", nothing_yet(run))
        return Content(controls, [*moment.notes, head, waiting], defaults, shape)
    distances, removable = (show(piece, view) for piece in pieces(run, view))
    body = [
        *moment.notes,
        head,
        distances,
        html.Div(_settling(run, name, moment), id={"type": "live", "index": "settling"}),
        removable,
    ]
    return Content(controls, body, defaults, shape, not moment.whole)


def _settling(run: Snapshot, name: str, moment: Moment) -> Any:
    """Say how long the layer needs to settle, and from where it would need less."""
    drift = figures.drift_values(run, name, **moment.at)
    if drift is None:
        return []
    start = run.layer(name).spec.get("start", 0.0)
    if drift.predicted is None or not isinstance(start, int | float):
        return html.P(
            f"Mixing time: not predicted, {drift.unpredicted or 'its start is not one number'}.",
            className="quiet",
        )
    law = drift.predicted.law
    now, best = run.once(
        f"mixing {name}", moment.step or 0, moment.mode,
        lambda: figures.mixing(drift, float(start)) or (math.inf, math.inf),
    )  # fmt: skip

    def said(steps: float) -> str:
        return f"{steps:.0f} timesteps" if math.isfinite(steps) else "more than 10000 timesteps"

    return html.P(
        f"Mixing time: from the start potential {number(float(start))}, u comes within "
        f"{figures.SETTLED:.0%} (total variation) of its stationary law after {said(now)}; from "
        f"{number(float(law.best_start))}, the stationary mean of v, after {said(best)}. The "
        f"sequence has {len(drift.t)}. {drift.predicted.frozen:.0%} of the input's variance is "
        "the same at every timestep.",
        className="verdict quietly",
    )


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page."""
    name, moment = chosen(run, view), Moment.of(run, view)
    at = moment.at

    def distances() -> pd.DataFrame:
        drift = figures.drift_values(run, name, **at)
        return drift.frame() if drift is not None else pd.DataFrame()

    names = {"before": "now (thresholds)", "after": "with the proposed start (thresholds)",
             "share": "share removed", "start now": "start now (thresholds)",
             "start proposed": "start proposed (thresholds)"}  # fmt: skip
    return [
        Piece(
            "distances",
            lambda: figures.drift_distances(run, name, t=view.t, theme=view.theme, **at),
            distances,
            "t",
        ),
        Piece(
            "removable",
            lambda: figures.removable_shift(run, theme=view.theme, **at),
            lambda: figures.removable_values(run, **at)[0].rename(columns=names),
            "layer",
        ),
    ]
