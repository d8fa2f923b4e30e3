"""Attribution: which layers and timesteps carry the decision, and how surely?"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from dash import html

from ...analysis.attribution_result import GAP_BOUND, Attribution
from ...analysis.attribution_study import stored_attributions, stored_timesteps
from ...analysis.fidelity import FidelityCurve, stored_fidelity
from ...analysis.timestep_result import TimestepImportance
from .. import figures
from ..catalogue import Snapshot
from ..components import badge, notice
from ..pieces import Piece, show
from ..view import View
from .content import Content, show_switch
from .pickers import choice_picker

_HOW = (
    "Attribute a trained model and keep the result with this run: spikescope attribute "
    "MODULE:CALLABLE --run FOLDER, where the callable returns (model, inputs, targets)."
)


class Studies(NamedTuple):
    """What is kept with a run.

    Args:
        attributions: newest first.
        timesteps: ablation of timesteps, None if there is none.
        fidelity: curve over surrogates, None if there is none.
        problems: a sentence for each file that cannot be read.
    """

    attributions: list[Attribution]
    timesteps: TimestepImportance | None
    fidelity: FidelityCurve | None
    problems: list[str]

    @classmethod
    def of(cls, run: Snapshot) -> Studies:
        """Read what is kept with a run."""
        found, first = stored_attributions(run.path)
        timesteps, second = stored_timesteps(run.path)
        fidelity, third = stored_fidelity(run.path)
        return cls(found, timesteps, fidelity, [*first, *second, *third])

    def chosen(self, view: View) -> tuple[Attribution, int] | None:
        """Return the attribution and the class that a view means, else the newest and first."""
        if not self.attributions:
            return None
        by_method = {found.method: found for found in self.attributions}
        found = by_method.get(view.method, self.attributions[0])
        label = view.label if view.label in found.classes else found.classes[0]
        return found, int(label or 0)


def render(run: Snapshot, view: View) -> Content:
    """Return the page: the map, its error, the timesteps, the surrogates, the input."""
    studies = Studies.of(run)
    body: list[Any] = [notice("Not read.", text, kind="warning") for text in studies.problems]
    controls: list[Any] = []
    defaults: dict[str, Any] = {}
    meant = studies.chosen(view)
    if meant is None:
        body.append(notice("Nothing was attributed yet.", _HOW))
    else:
        found, label = meant
        methods = [entry.method for entry in studies.attributions]
        controls = [
            choice_picker("method", found.method, methods, "method"),
            choice_picker("label", str(label), [str(c) for c in found.classes], "class"),
        ]
        defaults = {"method": methods[0], "label": str(found.classes[0])}
        body.append(_said(found))
        body += [notice("Mind.", note, kind="warning") for note in found.notes]
    drawn = {piece.name: show(piece, view) for piece in pieces(run, view)}
    body += [drawn.pop("attribution")] if "attribution" in drawn else []
    body.append(html.Div(list(drawn.values()), className="tiles"))
    shape = (len(studies.attributions), meant[0].method if meant else "")
    return Content([*controls, show_switch(view)], body, defaults, shape)


def _said(found: Attribution) -> Any:
    """Return the badge with what it means here."""
    if found.faithful:
        meaning = f"In every layer the sum is within {GAP_BOUND:.0%} of the output's change."
    elif found.badge == "not additive":
        meaning = (
            "Each cell is measured, but timesteps work together: their single effects do not sum "
            "to the effect of all."
        )
    else:
        meaning = (
            "A surrogate gradient is not the derivative of the network: these scores do not sum "
            "to the output's change. Trust the ablation on hover where the two differ."
        )
    severity = "none" if found.faithful else "warning"
    return html.P([badge(severity, found.badge), " ", meaning], className=f"verdict {severity}")


def pieces(run: Snapshot, view: View) -> list[Piece]:
    """Return the figures of the page, those that there is something for."""
    studies = Studies.of(run)
    theme = view.theme
    shown: list[Piece] = []
    meant = studies.chosen(view)
    if meant is not None:
        found, label = meant
        shown += [
            Piece(
                "attribution",
                lambda: figures.attribution_map(found, label, theme),
                lambda: figures.attribution_frame(found, label),
            ),
            Piece(
                "attribution-error",
                lambda: figures.attribution_error(found, theme),
                lambda: figures.error_frame(found),
            ),
        ]
    timesteps, fidelity = studies.timesteps, studies.fidelity
    if timesteps is not None:
        shown += [
            Piece(
                "timesteps",
                lambda: figures.timestep_importance(timesteps, theme),
                timesteps.table,
            ),
            Piece("fewer", lambda: figures.fewer_timesteps(timesteps, theme), timesteps.table),
        ]
    if fidelity is not None:

        def table() -> pd.DataFrame:
            return fidelity.table().replace({"own": {True: "yes", False: ""}})

        shown.append(Piece("fidelity", lambda: figures.fidelity_curve(fidelity, theme), table))
    if meant is not None and meant[0].inputs is not None:
        found, label = meant
        shown.append(
            Piece(
                "saliency",
                lambda: figures.input_saliency(found, label, theme),
                lambda: figures.saliency_frame(found, label),
            )
        )
    return shown
