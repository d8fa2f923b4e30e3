"""What another width, threshold or start would do to a layer's window, from its recorded law."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ...data.runs import Layer
from ..adaptive_window import agl_width
from ..distance import centres
from ..neuron_spec import NeuronSpec
from ..start_potential import post_reset_mean
from ..surrogate import Surrogate
from ..whatif import VALID_START, VALID_THRESHOLD, VALID_WIDTH, predict
from .evidence import Evidence
from .types import Advice

Aim = Literal["wider", "narrower"]

LOWEST_THRESHOLD = 0.05
"""A threshold below this share of the one in force is not proposed: silent units would fire."""

MOST_COVERED = 0.15
"""Advice must lead to at least this coverage, the bound of the finding that it is about."""


def window_advice(evidence: Evidence, layer: Layer, t: int, aim: Aim) -> tuple[Advice, ...]:
    """Return what would help a layer at one timestep, and what of the published would not.

    Args:
        evidence: the run.
        layer: one of its layers.
        t: place of the timestep, from 0.
        aim: whether more elements should be reached, or those reached get more.

    Returns:
        One entry per remedy that was looked at, the helping ones first; empty where the law or
        the surrogate is not known.
    """
    law = recorded_law(evidence, layer, t)
    if law is None or not layer.surrogate:
        return ()
    counts, edges = law
    surrogate = Surrogate(**layer.surrogate)
    mean, std = moments(counts, edges)
    if not std > 0.0:
        return ()
    looked: list[Advice | None] = [_width(counts, edges, surrogate, std, aim)]
    if aim == "wider":
        looked.append(_threshold(evidence, layer, t, counts, edges, surrogate, mean + std))
        if t == 0:
            looked.append(_start(evidence, layer, counts, edges, surrogate))
    looked.append(_agl(evidence, layer, surrogate, t, aim))
    known = [advice for advice in looked if advice is not None]
    return tuple(sorted(known, key=lambda advice: not advice.helps))


def recorded_law(evidence: Evidence, layer: Layer, t: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the histogram of u - threshold over the window and its edges in potential; or None."""
    density = evidence.densities.get(layer.name)
    if density is None:
        return None
    place = np.flatnonzero(density.t == t + 1)
    recent = density.steps >= evidence.window[0]
    if not len(place) or not recent.any():
        return None
    counts = density.counts[recent, int(place[0])].sum(axis=0)
    return (counts, layer.scale * density.edges) if counts.sum() > 0 else None


def moments(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a histogram whose bins lie at their middles.

    Example:
        >>> moments(np.array([1, 0, 1]), np.array([0.0, 1.0, 2.0, 3.0]))
        (1.5, 1.0)
    """
    middles = centres(edges)
    share = counts / counts.sum()
    mean = float(share @ middles)
    return mean, float(np.sqrt(share @ (middles - mean) ** 2))


def _width(
    counts: np.ndarray, edges: np.ndarray, surrogate: Surrogate, std: float, aim: Aim
) -> Advice:
    """Look at a window of one standard deviation each way, at the same area."""
    now = predict(counts[None], edges, surrogate, 0.0)
    wanted = 2.0 * std
    factor = wanted * float(surrogate.sharpness)
    new = replace(
        surrogate, width=float(surrogate.width) * factor, peak=float(surrogate.peak) / factor
    )
    then = predict(counts[None], edges, new, 0.0)
    before, after = float(now.coverage[0]), float(then.coverage[0])
    rms = np.sqrt([float(now.gain2[0]), float(then.gain2[0])])
    said = f"width {float(new.width):.3g} and peak {float(new.peak):.3g}"
    if aim == "narrower":
        helps = bool(rms[1] > rms[0])
        verb = "raises" if helps else "would not raise"
        text = (
            f"{said.capitalize()} (two standard deviations of u) {verb} the surrogate's rms from "
            f"{rms[0]:.2g} to {rms[1]:.2g}."
        )
        return Advice(
            "surrogate width",
            helps,
            text,
            "rms of the surrogate",
            float(rms[0]),
            float(rms[1]),
            VALID_WIDTH,
        )
    helps = after > before and after >= MOST_COVERED
    verb = "takes" if helps else "would only take"
    text = (
        f"{said.capitalize()} (two standard deviations of u) {verb} coverage from {before:.1%} to "
        f"{after:.1%}, the surrogate's rms from {rms[0]:.2g} to {rms[1]:.2g}."
    )
    return Advice("surrogate width", helps, text, "coverage", before, after, VALID_WIDTH)


def _threshold(
    evidence: Evidence,
    layer: Layer,
    t: int,
    counts: np.ndarray,
    edges: np.ndarray,
    surrogate: Surrogate,
    shift: float,
) -> Advice | None:
    """Look at the threshold mean + std of DS-ATGO, as a shift of the one in force."""
    now = float(evidence.pooled("threshold").value[evidence.place[layer.name], t])
    if not np.isfinite(now):
        return None
    new = now + shift
    here = predict(counts[None], edges, surrogate, 0.0)
    there = predict(counts[None], edges, surrogate, shift, 0.0)
    before, after = float(here.coverage[0]), float(there.coverage[0])
    if new < LOWEST_THRESHOLD * abs(now):
        text = (
            f"The threshold mean + spread of DS-ATGO would be {new:.2g}: units at rest would fire."
        )
        return Advice("threshold", False, text)
    helps = after > before and after >= MOST_COVERED
    verb = "takes" if helps else "would only take"
    text = (
        f"A threshold of {new:.3g} instead of {now:.3g} {verb} coverage from {before:.1%} to "
        f"{after:.1%} and the rate from {float(here.rate[0]):.1%} to {float(there.rate[0]):.1%}."
    )
    return Advice("threshold", helps, text, "coverage", before, after, VALID_THRESHOLD)


def _start(
    evidence: Evidence, layer: Layer, counts: np.ndarray, edges: np.ndarray, surrogate: Surrogate
) -> Advice | None:
    """Look at the start potential to which the layer settles, at t = 1."""
    last = recorded_law(evidence, layer, int(evidence.seen[evidence.place[layer.name]].sum()) - 1)
    if not layer.spec or last is None:
        return None
    spec = NeuronSpec.from_dict(layer.spec)
    if np.size(spec.threshold) > 1 or np.size(spec.start) > 1 or np.any(spec.synapse_decay):
        return None
    settled = float(post_reset_mean(spec, last[0], float(spec.threshold) + last[1]))
    shift = float(spec.decay) * (settled - float(spec.start))
    here = predict(counts[None], edges, surrogate, 0.0)
    there = predict(counts[None], edges + shift, surrogate, 0.0)
    before, after = float(here.coverage[0]), float(there.coverage[0])
    helps = after > before and after >= MOST_COVERED
    verb = "takes" if helps else "would only take"
    text = (
        f"A start potential of {settled:.3g} instead of {float(spec.start):.3g} {verb} coverage at "
        f"t = 1 from {before:.1%} to {after:.1%}."
    )
    return Advice("start potential", helps, text, "coverage", before, after, VALID_START)


def _agl(evidence: Evidence, layer: Layer, surrogate: Surrogate, t: int, aim: Aim) -> Advice | None:
    """Say what MPD-AGL would make of the width, where a batch norm stands before the layer."""
    gamma = evidence.vitals.one("gamma_mean", layer.name)
    if gamma is None or not layer.spec:
        return None
    spec = NeuronSpec.from_dict(layer.spec)
    scale = gamma.figure.value
    if np.size(spec.threshold) > 1 or np.size(spec.decay) > 1 or not scale > 0.0:
        return None
    # Its width counts gamma in thresholds (tdBN); a plain norm's gamma is in potential.
    width = float(agl_width(scale / float(spec.threshold), spec.threshold, spec.decay, t + 1))
    now = 1.0 / float(surrogate.sharpness)
    wider = width > now
    helps = wider == (aim == "wider")
    verb = "widen" if wider else "narrow"
    end = "." if helps else ", the wrong way here."
    text = f"MPD-AGL would {verb} the window from {now:.3g} to {width:.3g} at t = {t + 1}{end}"
    return Advice("MPD-AGL", helps, text, "width", now, width, VALID_WIDTH)
