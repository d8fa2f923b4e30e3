"""Published remedies as arithmetic: the law of u in, new values of a few fields out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .adaptive_window import (
    Clamped,
    agl_rms_scale,
    agl_width,
    atgo_estimated_threshold,
    atgo_threshold,
    atgo_width,
    clamp_width,
    running_threshold,
    true_std_width,
)
from .start_potential import ActiveMean, active_mean, mp_init, post_reset_mean, start_from_law
from .threshold_gradient import FORMS

__all__ = [
    "REMEDIES",
    "ActiveMean",
    "Clamped",
    "Remedy",
    "active_mean",
    "agl_rms_scale",
    "agl_width",
    "atgo_estimated_threshold",
    "atgo_threshold",
    "atgo_width",
    "clamp_width",
    "mp_init",
    "post_reset_mean",
    "propose",
    "running_threshold",
    "start_from_law",
    "true_std_width",
]

LOWEST_THRESHOLD = 0.05
"""Floor of a moving threshold, in initial thresholds. Ours; at 0 a silent unit would fire."""


@dataclass(frozen=True)
class Remedy:
    """One remedy, as a function from named inputs to new values of named fields.

    The table works on floats and arrays; live layers call the formulas themselves with xp=torch.

    Args:
        needs: names of the inputs.
        changes: fields of :class:`NeuronSpec` or of the surrogate that it sets.
        formula: keyword arguments ``needs`` in, ``{field: value}`` with the fields ``changes`` out.
        source: paper with equation, or "ours".
    """

    needs: tuple[str, ...]
    changes: tuple[str, ...]
    formula: Callable[..., dict[str, Any]]
    source: str


def _window(width: Any) -> dict[str, Any]:
    return {"peak": 1.0 / width, "width": width}


def _atgo(mean: Any, std: Any, threshold: Any, driver: str) -> dict[str, Any]:
    moved = atgo_threshold(mean, std, floor=LOWEST_THRESHOLD * threshold).value
    return {"threshold": moved, **_followed(std if driver == "std" else moved, threshold)}


def _followed(driver: Any, threshold: Any) -> dict[str, Any]:
    # The tanh is not free of units: far below a threshold of 20 it closes the window altogether.
    return _window(clamp_width(atgo_width(driver, threshold), threshold).value)


_SURROGATE = ("peak", "width")
_FORM = (*_SURROGATE, "spike_height")
_KOOK = "Kook et al., arXiv 2511.08708"
_AGL = "MPD-AGL, arXiv 2505.11863"
_ATGO = "DS-ATGO, arXiv 2511.13050"

REMEDIES: dict[str, Remedy] = {
    "mp_init": Remedy(
        ("active_mean",),
        ("start",),
        lambda active_mean: {"start": active_mean},
        f"{_KOOK}, algorithm 1: mean of v[T] over active units",
    ),
    "mp_init_all": Remedy(
        ("post_mean",),
        ("start",),
        lambda post_mean: {"start": post_mean},
        f"{_KOOK}, lemma 1: mean of v[T] over all units",
    ),
    "start_from_law": Remedy(
        ("spec", "counts", "edges", "uniform"),
        ("start",),
        lambda spec, counts, edges, uniform: {
            "start": start_from_law(spec, counts, edges, uniform)
        },
        "ours: v[0] drawn from the recorded law",
    ),
    "as_sg": Remedy(
        (), _FORM, lambda: FORMS["as"].fields(1.0), f"{_KOOK}, section 4: absolute surrogate"
    ),
    "rs_sg": Remedy(
        ("threshold",), _FORM, FORMS["rs"].fields, f"{_KOOK}, section 4: relative surrogate"
    ),
    "trsg": Remedy(
        ("threshold",), _FORM, FORMS["trsg"].fields, f"{_KOOK}, section 4: threshold-robust"
    ),
    "agl": Remedy(
        ("gamma_mean", "threshold", "decay", "t"),
        _SURROGATE,
        lambda gamma_mean, threshold, decay, t: _window(
            clamp_width(agl_width(gamma_mean, threshold, decay, t), threshold).value
        ),
        f"{_AGL}, released rule with the mean of gamma; bounds ours",
    ),
    "agl_rms": Remedy(
        ("gamma_rms", "threshold", "decay", "t"),
        _SURROGATE,
        lambda gamma_rms, threshold, decay, t: _window(
            clamp_width(agl_width(gamma_rms, threshold, decay, t), threshold).value
        ),
        f"ours after {_AGL}: rms of gamma over channels",
    ),
    "agl_true_std": Remedy(
        ("std", "threshold"),
        _SURROGATE,
        lambda std, threshold: _window(clamp_width(true_std_width(std), threshold).value),
        f"ours after {_AGL}: the recorded standard deviation",
    ),
    "atgo_threshold": Remedy(
        ("mean", "std", "threshold"),
        ("threshold",),
        lambda mean, std, threshold: {
            "threshold": atgo_threshold(mean, std, floor=LOWEST_THRESHOLD * threshold).value
        },
        f"{_ATGO}, eq. 5; floor ours",
    ),
    "atgo_width": Remedy(
        ("std", "threshold"),
        _SURROGATE,
        lambda std, threshold: _followed(std, threshold),
        f"{_ATGO}, eq. 7 as released (driver std); bounds ours",
    ),
    "atgo": Remedy(
        ("mean", "std", "threshold"),
        ("threshold", *_SURROGATE),
        lambda mean, std, threshold: _atgo(mean, std, threshold, "std"),
        f"{_ATGO}, eq. 5 and eq. 7 as released (driver std); floor and bounds ours",
    ),
    "atgo_paper": Remedy(
        ("mean", "std", "threshold"),
        ("threshold", *_SURROGATE),
        lambda mean, std, threshold: _atgo(mean, std, threshold, "threshold"),
        f"{_ATGO}, eq. 5 and eq. 7 as printed (driver threshold); bounds ours",
    ),
}


def propose(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new field values that a remedy proposes.

    Args:
        name: a name in :data:`REMEDIES`.
        inputs: at least what the remedy needs, by name; ``threshold`` is the layer's initial one.

    Returns:
        ``{field: value}`` for the fields that it changes.

    Raises:
        ValueError: an unknown remedy, or an input that it needs and did not get.

    Example:
        >>> propose("trsg", {"threshold": 0.5})
        {'peak': 2.0, 'width': 0.5, 'spike_height': 0.5}

    Source:
        The remedy's own: ``REMEDIES[name].source``.
    """
    if name not in REMEDIES:
        raise ValueError(f"remedy={name!r} is not one of {', '.join(REMEDIES)}")
    remedy = REMEDIES[name]
    missing = [need for need in remedy.needs if need not in inputs]
    if missing:
        raise ValueError(f"remedy {name!r} needs {', '.join(missing)}: not among the inputs")
    return remedy.formula(**{need: inputs[need] for need in remedy.needs})
