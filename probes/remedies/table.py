"""The table of remedies that act in the training loop, and how one is attached."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ...analysis.remedies import REMEDIES
from .base import LoopRemedy
from .moving_threshold import MovingThreshold
from .sparsity import CountBound, GradualSparsity
from .start import MPInit
from .threshold_form import LearnedThreshold
from .weights import FluctuationInit, StabilityInit
from .window import FollowingWindow


@dataclass(frozen=True)
class LoopEntry:
    """One remedy of the table.

    Args:
        build: class, perhaps with settings that the name fixes.
        summary: what it does, one line.
        source: paper with equation, or "ours".
        foreign: whether it acts on layers of other frameworks, too.
    """

    build: Callable[..., LoopRemedy]
    summary: str
    source: str
    foreign: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that it takes."""
        fixed = self.build.keywords if isinstance(self.build, partial) else {}
        made = self.build.func if isinstance(self.build, partial) else self.build
        names = inspect.signature(made).parameters
        return tuple(name for name in names if name not in ("name", "model", *fixed))


_STABILITY = "Herranz-Celotti and Rouat, arXiv 2202.00282"
_FLUCTUATION = "Rossbroich, Gygax, Zenke 2022"

LOOP_REMEDIES: dict[str, LoopEntry] = {
    "mp_init": LoopEntry(
        MPInit, "start at the running mean of v[T] over active units", REMEDIES["mp_init"].source,
        foreign=True,
    ),
    "mp_init_all": LoopEntry(
        partial(MPInit, over="all"), "start at the running mean of v[T] over all units",
        REMEDIES["mp_init_all"].source, foreign=True,
    ),
    "as_sg": LoopEntry(
        partial(LearnedThreshold, form="as", published=False),
        "learned threshold and decay, window of fixed width",
        REMEDIES["as_sg"].source,
    ),
    "rs_sg": LoopEntry(
        partial(LearnedThreshold, form="rs", published=False),
        "learned threshold and decay, relative window",
        REMEDIES["rs_sg"].source,
    ),
    "trsg": LoopEntry(
        partial(LearnedThreshold, form="trsg"),
        "learned threshold and decay, relative window, spikes as high as the threshold",
        REMEDIES["trsg"].source,
    ),
    "agl": LoopEntry(
        partial(FollowingWindow, spread="gamma_mean"), "window from the mean of tdBN's gamma",
        REMEDIES["agl"].source,
    ),
    "agl_rms": LoopEntry(
        partial(FollowingWindow, spread="gamma_rms", published=False),
        "window from the rms of tdBN's gamma",
        REMEDIES["agl_rms"].source,
    ),
    "agl_true_std": LoopEntry(
        partial(FollowingWindow, spread="true_std", published=False),
        "window from the measured spread of u",
        REMEDIES["agl_true_std"].source,
    ),
    "atgo": LoopEntry(
        MovingThreshold, "threshold and window per timestep follow u", REMEDIES["atgo"].source
    ),
    "atgo_paper": LoopEntry(
        partial(MovingThreshold, follows="threshold"),
        "the same, the window driven by the threshold as printed", REMEDIES["atgo_paper"].source,
    ),
    "atgo_threshold": LoopEntry(
        partial(MovingThreshold, follows=None), "threshold per timestep alone (AT)",
        REMEDIES["atgo_threshold"].source,
    ),
    "atgo_width": LoopEntry(
        partial(MovingThreshold, moves=False), "window per timestep alone (TGO)",
        REMEDIES["atgo_width"].source,
    ),
    "sparsity": LoopEntry(
        GradualSparsity, "firing rates pulled to a final rate, gradually",
        f"{_STABILITY}, released code", foreign=True,
    ),
    "count_bound": LoopEntry(
        CountBound, "spike counts of single units held below a bound",
        f"{_FLUCTUATION}, stork", foreign=True,
    ),
    "fluctuation_init": LoopEntry(
        FluctuationInit, "weights for a wanted mean and spread of u", _FLUCTUATION, foreign=True
    ),
    "stability_init": LoopEntry(
        StabilityInit, "bias for a target rate, recurrent currents like the input's",
        f"{_STABILITY}, conditions I and II, corrected", foreign=True,
    ),
}  # fmt: skip
"""Names are those of :data:`~spikescope.analysis.remedies.REMEDIES` where both have it."""


def attach_remedy(name: str, model: nn.Module, **settings: Any) -> LoopRemedy:
    """Attach a published remedy to a model; it then acts while the model is trained.

    Attach before the optimiser is built and before a checkpoint is loaded. In the loop, add
    ``penalty()`` to the loss where it is not None, and call ``after_step()`` after each
    ``optimizer.step()``.

    Args:
        name: a name in :data:`LOOP_REMEDIES`.
        model: the model that is trained; layers keep their names.
        **settings: of the remedy; see its class.

    Returns:
        The remedy: ``penalty()``, ``after_step()``, ``report()``, ``remove()``, ``state_dict()``.

    Raises:
        ValueError: an unknown remedy or setting, a model that cannot take it, or a value that is
            not possible; the model is as it was.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> model = nn.Sequential(nn.Linear(2, 3), LIF(threshold=0.5))
        >>> remedy = attach_remedy("trsg", model)
        >>> remedy.report()[0]["spike_height"]
        0.5
        >>> remedy.remove()

    Source:
        The remedy's own: ``LOOP_REMEDIES[name].source``.
    """
    if name not in LOOP_REMEDIES:
        raise ValueError(f"remedy={name!r} is not one of {', '.join(LOOP_REMEDIES)}")
    entry = LOOP_REMEDIES[name]
    known = entry.settings
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"remedy {name!r} has no setting {setting!r}: it has {', '.join(known)}"
            )
    needed = [
        setting
        for setting, parameter in inspect.signature(entry.build).parameters.items()
        if parameter.default is parameter.empty and setting not in ("name", "model", *settings)
    ]
    if needed:
        raise ValueError(f"remedy {name!r} needs {', '.join(needed)}")
    return entry.build(name, model, **settings)
