"""What a page hands to the app: its switches and its content."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..catalogue import Snapshot
from ..components import notice, step_slider, switch
from ..view import View

CHECKING = "The rules are being checked …"
"""Said while the findings are being worked out."""

PATIENCE = 0.4
"""Seconds that a page spends on learning the steps of a long run; the next look goes on."""


@dataclass(frozen=True)
class Content:
    """One page, drawn.

    Args:
        controls: switches that stay in place while the content changes.
        body: everything else.
        defaults: what each switch stands at when the address does not say.
        shape: changes when the switches themselves must be drawn anew.
        unfinished: whether the next look has more to show although the disk is the same.
    """

    controls: list[Any] = field(default_factory=list)
    body: list[Any] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    shape: tuple[Any, ...] = ()
    unfinished: bool = False


@dataclass(frozen=True)
class Moment:
    """Which mode and step of a run a view stands for, and what must be said about it.

    Args:
        mode: ``"train"`` or ``"eval"``.
        step: a recorded step, None when there is none.
        steps: ``[R]`` recorded steps of the mode.
        notes: notices, if the address asked for something that is not there.
        whole: whether all recorded steps are known by now.
    """

    mode: str
    step: int | None
    steps: list[int]
    notes: list[Any]
    whole: bool = True

    @classmethod
    def of(cls, run: Snapshot, view: View) -> Moment:
        """Resolve a view against what was recorded; the nearest step stands in, and it is said."""
        notes = []
        # A step that is asked for must be among those that are known.
        whole = run.index(PATIENCE if view.step is None else np.inf)
        mode = view.mode or (run.modes[0] if run.modes else "train")
        if run.modes and mode not in run.modes:
            notes.append(
                notice(f"{mode} was not recorded.", f"This page shows {run.modes[0]} instead.")
            )
            mode = run.modes[0]
        steps = [int(step) for step in run.steps_so_far(mode)]
        if not steps:
            return cls(mode, None, [], notes, whole)
        if view.step is None:
            return cls(mode, steps[-1], steps, notes, whole)
        nearest = steps[int(np.argmin(np.abs(np.array(steps) - view.step)))]
        if nearest != view.step:
            notes.append(
                notice(
                    f"Step {view.step} was not recorded.",
                    f"This page shows step {nearest}, the nearest one.",
                )
            )
        return cls(mode, nearest, steps, notes, whole)

    @property
    def at(self) -> dict[str, Any]:
        """What the figures of one step are called with."""
        return {"step": self.step, "mode": self.mode}

    def controls(self, run: Snapshot) -> list[Any]:
        """Return the switches that every page over training has."""
        controls = []
        if len(run.modes) > 1:
            controls.append(switch("mode", self.mode, [(mode, mode) for mode in run.modes], "mode"))
        if self.step is not None:
            controls.append(step_slider(self.steps, self.step))
        return controls

    def defaults(self) -> dict[str, Any]:
        """Return what the switches stand at when the address does not say."""
        return {
            "mode": self.mode,
            "steps": self.steps,
            "step": self.steps[-1] if self.steps else None,
        }

    def shape(self, run: Snapshot) -> tuple[Any, ...]:
        """Return what makes the switches of :meth:`controls` others than before."""
        return tuple(run.modes), bool(self.steps)


def show_switch(view: View) -> Any:
    """Return the switch between figures and the tables behind them."""
    return switch("show", view.show, [("figures", "figures"), ("tables", "tables")], "show as")
