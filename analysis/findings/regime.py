"""In which regime a layer works: what drives it, whether it rings, where it would settle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...data.runs import Layer
from ..neuron_spec import NeuronSpec
from ..stationary import stationary_law
from ..surrogate import Surrogate
from .evidence import Evidence

LEAST_NOISE = 0.02
"""Standard deviation over time, in thresholds, below which the noise is taken as this much."""

FLUCTUATION_DRIVEN = 0.3
"""Standard deviation over time, in thresholds, above which no case of ringing was found: |lambda_2|
stays below the decay there (decays 0.5 and 0.9)."""


class Drive(NamedTuple):
    """Input of one layer over the window.

    Args:
        mean: mean input current over units, samples and timesteps.
        std: its standard deviation.
        frozen: share of the variance that stays over time; 0 where it was not recorded.
    """

    mean: float
    std: float
    frozen: float

    @property
    def moving(self) -> float:
        """Standard deviation of the part that changes over time."""
        return self.std * float(np.sqrt(max(1.0 - self.frozen, 0.0)))


def drive(evidence: Evidence, layer: Layer) -> Drive | None:
    """Return what drives a layer; None where no input was recorded."""
    place = evidence.place[layer.name]
    mean = evidence.pooled("input_mean").value[place]
    variance = evidence.pooled("input_var").value[place]
    if not np.isfinite(mean).any() or not np.isfinite(variance).any():
        return None
    whole = float(np.nanmean(variance) + np.nanvar(mean))
    held = evidence.vitals.one("input_frozen", layer.name)
    share = 0.0 if held is None else float(np.clip(held.figure.value, 0.0, 1.0))
    share = share if np.isfinite(share) else 0.0
    return Drive(float(np.nanmean(mean)), float(np.sqrt(whole)), share)


def simple(layer: Layer) -> NeuronSpec | None:
    """Return the dynamics of a layer if theory covers them: one number each, no synapse."""
    if not layer.spec:
        return None
    spec = NeuronSpec.from_dict(layer.spec)
    numbers = (spec.decay, spec.gain, spec.threshold, spec.start, spec.rest, spec.reset_value)
    if any(np.size(value) > 1 for value in numbers) or np.any(np.asarray(spec.synapse_decay)):
        return None
    if spec.delayed_reset or not np.isfinite(spec.threshold) or not spec.threshold > 0:
        return None
    return spec


def surrogate_of(layer: Layer) -> Surrogate | None:
    """Return the surrogate that a layer was recorded with; None if it is not known."""
    return Surrogate(**layer.surrogate) if layer.surrogate else None


def rings(evidence: Evidence, layer: Layer, spec: NeuronSpec | None) -> float | None:
    """Return |lambda_2| where a constant start would make the layer ring; None elsewhere.

    Args:
        evidence: the run.
        layer: one of its layers.
        spec: its dynamics.

    Source:
        Second eigenvalue of the transfer operator, negative or complex and above the decay in
        modulus: Kook et al., arXiv 2511.08708, section 3, and the regime is ours.
    """
    given = drive(evidence, layer)
    spec = None if spec is None else simple(layer)
    if spec is None or given is None:
        return None
    theta, gain, decay = (float(value) for value in (spec.threshold, spec.gain, spec.decay))
    pull = gain * given.mean + (1.0 - decay) * float(spec.rest)
    settled = np.inf if decay >= 1.0 and pull > 0 else pull / max(1.0 - decay, 1e-12)
    noise = abs(gain) * given.moving / theta
    if not (settled > theta and noise < FLUCTUATION_DRIVEN) or gain == 0:
        return None
    try:
        law = stationary_law(spec, given.mean, max(noise, LEAST_NOISE) * theta / abs(gain))
    except ValueError:
        return None
    return float(abs(law.lambda_2)) if bool(law.rings) else None
