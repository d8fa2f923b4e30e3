"""The pages: each answers one question, and this is the list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..pieces import Piece
from . import about, attribution, choose, compare, drift, findings, flow, layer, overview, runs


@dataclass(frozen=True)
class Page:
    """One page.

    Args:
        title: its name among the others.
        question: what it answers.
        render: makes its content from a run (of pages without one: the catalogue) and a view.
        pieces: its figures, from the same; what is downloaded and exported.
        of_run: whether it looks at one run.
    """

    title: str
    question: str
    render: Callable[..., Any]
    pieces: Callable[..., list[Piece]] | None = None
    of_run: bool = True


PAGES: dict[str, Page] = {
    "runs": Page("Runs", "Which run needs me?", runs.render, of_run=False),
    "choose": Page(
        "Choose",
        "Which surrogate and initialisation before I train?",
        choose.render,
        choose.pieces,
        of_run=False,
    ),
    "overview": Page(
        "Overview", "Where is it broken, since when?", overview.render, overview.pieces
    ),
    "layer": Page("Layer", "What does this layer's potential do?", layer.render, layer.pieces),
    "drift": Page("Drift", "Does it start where it settles?", drift.render, drift.pieces),
    "flow": Page("Gradient flow", "Where does the gradient die?", flow.render, flow.pieces),
    "compare": Page("Compare", "Did it help, and from when?", compare.render, compare.pieces),
    "attribution": Page(
        "Attribution",
        "Which timesteps carry the decision, and how surely?",
        attribution.render,
        attribution.pieces,
    ),
    "findings": Page("Findings", "What do the rules say?", findings.render),
    "about": Page("About", "What exactly was recorded?", about.render),
}
"""Pages by their word in an address, in the order of the tabs."""
