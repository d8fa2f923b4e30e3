"""M: does the membrane potential start where it settles?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...data.densities import Density
from ...data.runs import Layer
from ..distance import centres, wasserstein
from ..drift import DRIFTING, LawDifference, drift_over_time
from ..effective import recorded_effective_size
from ..neuron_spec import NeuronSpec
from ..whatif import removable_drift
from .evidence import CONFIDENCE_Z, Evidence, stretch
from .types import Finding, Severity

DRIFT_NOTE = 0.25
"""Wasserstein-1 distance in thresholds that is worth a word: a quarter of the way to firing."""

DRIFT_WARNING = 0.5
"""Half of the way to firing: the batch norm behind the layer sees two different inputs."""

REMOVABLE_WARNING = 0.1
"""Share of the shift at t = 1 below which moving the start potential is not worth the trouble."""

M1_SOURCE = (
    "Kook et al., arXiv 2511.08708: temporal covariate shift; null band of two samples of one law"
)


def temporal_covariate_shift(evidence: Evidence) -> Iterator[Finding]:
    """M1: the law of u at some timestep lies far from that at the last one.

    A warning for each layer that a start potential would mend; what it would not mend is one note
    about the worst layer, not one for each.
    """
    notes = []
    for layer in evidence.layers:
        finding = _shift_of(evidence, layer)
        if finding is not None and finding.severity == "note":
            notes.append(finding)
        elif finding is not None:
            yield finding
    if notes:
        worst = max(notes, key=lambda finding: finding.measured)
        others = len(notes) - 1
        if others:
            more = f"{others} other layer{'s shift' if others > 1 else ' shifts'} likewise."
            worst = replace(worst, text=f"{worst.text} {more}")
        yield worst


def _shift_of(evidence: Evidence, layer: Layer) -> Finding | None:
    """Judge one layer; None if nothing is to be said."""
    drift = _drift(evidence, layer)
    if drift is None:
        return None
    place = int(np.argmax(drift.difference.w1))
    distance = float(drift.difference.w1[place])
    # The band is what chance alone reaches once in 100 runs; read back as a standard error.
    error = float(drift.difference.w1_band[place]) / CONFIDENCE_Z
    low = distance - CONFIDENCE_Z * error
    if drift.difference.verdict[place] != DRIFTING or low < DRIFT_NOTE:
        return None
    share, advice = _removable(layer, drift)
    # A warning is for what can be mended: a shift that a start potential would take away.
    mendable = share >= REMOVABLE_WARNING
    severity: Severity = "warning" if low >= DRIFT_WARNING and mendable else "note"
    bound = DRIFT_WARNING if severity == "warning" else DRIFT_NOTE
    t = int(drift.density.t[place])
    # Where only the distance to the threshold is known, its size is not.
    unit = "thresholds" if layer.coordinate == "u" else "potential"
    return Finding(
        code="M1",
        severity=severity,
        layer=layer.name,
        t=t,
        steps=_since(drift, place, bound),
        measured=distance,
        error=error,
        bound=bound,
        unit=f"{unit} (Wasserstein-1)",
        text=f"At t = {t} {layer.coordinate} is {_moments(drift, place)} {unit} (mean ± spread), "
        f"at t = {int(drift.density.t[-1])} it is {_moments(drift, -1)}: the laws lie "
        f"{distance:.2f} {unit} apart, chance alone would show "
        f"{float(drift.difference.w1_null[place]):.3f}. {advice}",
        source=M1_SOURCE,
        remedies=("start potential",) if mendable else (),
    )


@dataclass(frozen=True)
class _Drift:
    density: Density
    counts: np.ndarray
    difference: LawDifference
    thresholds: np.ndarray
    """Threshold in force at each timestep, in units of the density's axis."""


def _drift(evidence: Evidence, layer: Layer) -> _Drift | None:
    """Compare each timestep with the last, over the densities of the window together."""
    density = evidence.densities[layer.name]
    recent = density.steps >= evidence.window[0]
    counts = density.counts[recent].sum(axis=0)
    if len(counts) < 2 or (counts.sum(axis=-1) == 0).any():
        return None
    rows = evidence.recent(layer.name)
    rows = rows[rows["step"].isin(density.steps) & (rows["count"] > 0)]
    known = [name for name in _SIZE_COLUMNS if rows[name].notna().all()]
    # Each record holds other samples, so that effective sizes add; within one they do not.
    sizes = recorded_effective_size({name: rows[name].to_numpy() for name in known})
    by_t = rows.assign(size=sizes).groupby("t")[["size", "samples"]].sum()
    freedom = np.maximum(by_t["samples"].to_numpy(dtype=float) - 1.0, 0.0)
    difference = drift_over_time(counts, density.edges, by_t["size"].to_numpy(), freedom=freedom)
    thresholds = rows.groupby("t")["threshold"].mean().to_numpy() / layer.scale
    return _Drift(density, counts, difference, thresholds)


_SIZE_COLUMNS = (
    "u_var",
    "u_sample_var",
    "samples",
    "count",
    "rate_sample_mean",
    "rate_sample_var",
    "coverage_sample_mean",  # not known of a layer without a surrogate
    "coverage_sample_var",
)


def _since(drift: _Drift, place: int, bound: float) -> tuple[int, int]:
    """Return the stretch of records up to now in which the distance exceeds the bound."""
    counts = drift.density.counts
    seen = (counts[:, place].sum(-1) > 0) & (counts[:, -1].sum(-1) > 0)
    laws = counts[seen] / counts[seen].sum(axis=-1, keepdims=True)
    distance = wasserstein(laws[:, place], laws[:, -1], centres(drift.density.edges))
    return stretch(drift.density.steps[seen], distance > bound)


def _moments(drift: _Drift, place: int) -> str:
    """Say mean and standard deviation of u in thresholds."""
    law = drift.counts[place] / drift.counts[place].sum()
    u = drift.thresholds[place] + centres(drift.density.edges)
    mean = float((law * u).sum())
    return f"{mean:.2f} ± {float(np.sqrt((law * (u - mean) ** 2).sum())):.2f}"


def _removable(layer: Layer, drift: _Drift) -> tuple[float, str]:
    """Return the share of the shift at t = 1 that a constant start potential removes, in words."""
    if not layer.spec:
        return 0.0, "What a start potential would remove is not known: the dynamics are not."
    spec = NeuronSpec.from_dict(layer.spec)
    edges = spec.threshold + layer.scale * drift.density.edges
    removable = removable_drift(spec, drift.counts[0], drift.counts[-1], edges)
    share, start = float(removable.share), float(removable.start)
    if share <= 0.0:
        return share, "What differs is the spread: a constant start potential would not help."
    return share, (
        f"A start potential of {start:.2f} instead of {spec.start:g} would remove {share:.0%} of "
        "the shift at t = 1, at the current weights."
    )
