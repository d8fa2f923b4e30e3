"""P: can the recording itself be trusted?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence
from .figures import pool, stretch, total_over
from .types import Advice, Bound, Finding

RESIDUAL_WARNING = 0.05
"""Rounding alone was seen to leave up to 0.035 in half precision. Of the healthy runs of the
planted benchmark one in bf16 leaves most, 0.00333, the next 1.15e-07."""

P1_SOURCE = "the replayed u must cross the threshold exactly where spikes were seen"
P2_SOURCE = "dL/du must be the surrogate times dL/ds plus what leak and reset carry back"
P3_SOURCE = "every spiking layer is recorded or listed with the reason"
P4_SOURCE = "a sequence begins where the layer's state was reset"
P5_SOURCE = "a membrane potential is a finite number"

P1_BOUNDS = (Bound(0.0, "share of elements", "error", "arithmetic: no spike is unexplained"),)
P2_BOUNDS = (
    Bound(
        RESIDUAL_WARNING,
        "rms unexplained over rms of dL/du",
        "warning",
        "half precision alone was seen to leave up to 0.035; healthy runs up to 0.00333",
    ),
)
P3_BOUNDS = (Bound(0.0, "layers", "note", "a layer that is not recorded is said"),)
P4_BOUNDS = (Bound(0.0, "layers", "warning", "state and t must begin together"),)
P5_BOUNDS = (Bound(0.0, "share of elements", "error", "arithmetic"),)


def replay_mismatch(evidence: Evidence) -> Iterator[Finding]:
    """P1: spikes that the declared decay, threshold and reset do not explain."""
    wrong = total_over(evidence.now("mismatch").reshape(len(evidence.names), -1))
    seen = total_over(evidence.now("elements").reshape(len(evidence.names), -1))
    for place, layer in enumerate(evidence.names):
        if not wrong[place] > 0:
            continue
        share = float(wrong[place] / seen[place])
        yield Finding(
            code="P1",
            severity="error",
            layer=layer,
            t=None,
            steps=_present(evidence, place),
            measured=share,
            error=(share * (1.0 - share) / float(seen[place])) ** 0.5,
            bound=0.0,
            unit="share of elements",
            text=f"{int(wrong[place]):,} of {int(seen[place]):,} spikes are not explained by the "
            "declared decay, threshold and reset. Do not trust u and the gradients of this layer "
            "before the declaration matches what the layer does.",
            source=P1_SOURCE,
            remedies=("declaration",),
            advice=(
                Advice(
                    "declaration",
                    True,
                    "Compare the decay, threshold and reset of run.layers with the layer's own "
                    "code: a value that is changed after watch() is not seen.",
                ),
            ),
        )


def _present(evidence: Evidence, place: int) -> tuple[int, int]:
    there = evidence.window[~np.isnan(evidence.now("elements")[place]).all(axis=-1)]
    return int(there[0]), int(there[-1])


def gradient_residual(evidence: Evidence) -> Iterator[Finding]:
    """P2: gradients that the declared surrogate and the reset do not explain."""
    count = evidence.cube("residual_count")
    residual = total_over(evidence.cube("residual_square") * count)
    whole = total_over(evidence.cube("grad_u_square") * count)
    for place, layer in enumerate(evidence.names):
        known = whole[place] > 0
        steps = evidence.steps[known]
        if not known.any() or steps[-1] < evidence.window[0]:
            continue
        share = np.sqrt(residual[place][known] / whole[place][known])
        recent = share[steps >= evidence.window[0]]
        # Arithmetic, not a sample: inside a record the figure has no error.
        figure = pool(recent, np.zeros(len(recent)))
        if not figure.low > RESIDUAL_WARNING:
            continue
        yield Finding(
            code="P2",
            severity="warning",
            layer=layer,
            t=None,
            steps=stretch(steps, share > RESIDUAL_WARNING),
            measured=figure.value,
            error=figure.error,
            bound=RESIDUAL_WARNING,
            unit="rms of what is unexplained over rms of dL/du",
            text=f"{figure.value:.0%} of dL/du does not follow from the declared surrogate and "
            "reset. Coverage and surrogate gain of this layer may be those of another surrogate: "
            "spikescope lint measures the one it has.",
            source=P2_SOURCE,
            remedies=("lint",),
        )


def not_covered(evidence: Evidence) -> Iterator[Finding]:
    """P3: spiking layers that are not in the record."""
    layers = evidence.run.layers
    missing = [layer for layer in layers if not layer.covered]
    if not missing:
        return
    reason = missing[0].reason.split(". ")[0].rstrip(".")
    yield Finding(
        code="P3",
        severity="note",
        layer=missing[0].name,
        t=None,
        steps=evidence.span,
        measured=float(len(missing)),
        error=0.0,
        bound=0.0,
        unit="layers",
        text=f"{len(missing)} of {len(layers)} spiking layers are not recorded, the first is "
        f"{missing[0].name!r}: {reason}. Every other finding is silent about them.",
        source=P3_SOURCE,
        remedies=("probe.attach",),
        advice=(
            Advice(
                "probe.attach",
                True,
                f"Call probe.attach({missing[0].name!r}, u=u, spikes=s, threshold=theta) inside "
                "the model's forward pass.",
            ),
        ),
    )


_STATE = {
    "carried": "its state was not reset between the step before and the recorded one",
    "reset": "its state was reset in the middle of a step",
}


def state_not_fresh(evidence: Evidence) -> Iterator[Finding]:
    """P4: a sequence that does not begin with a fresh state in every layer."""
    events = evidence.events
    for kind, words in _STATE.items():
        found = events[events["kind"] == kind]
        if found.empty:
            continue
        layers = list(dict.fromkeys(found["layer"]))
        first = int(found["step"].min())
        yield Finding(
            code="P4",
            severity="warning",
            layer=layers[0],
            t=None,
            steps=(first, int(evidence.steps[-1])),
            measured=float(len(layers)),
            error=0.0,
            bound=0.0,
            unit="layers",
            text=f"In {len(layers)} of {len(evidence.names)} layers, {layers[0]!r} the first, "
            f"{words}. Unless you train on a stream by intention, potentials of one batch leak "
            f"into the next from step {first} on, and t counts from another start.",
            source=P4_SOURCE,
            remedies=("reset the state",),
            advice=(
                Advice(
                    "reset the state",
                    True,
                    "Call the framework's reset (reset_net, reset_state, reset_mem) before each "
                    "batch, for all layers together.",
                ),
            ),
        )


def potential_not_finite(evidence: Evidence) -> Iterator[Finding]:
    """P5: membrane potentials that are NaN or infinite."""
    bad = evidence.cube("nonfinite")
    every = evidence.cube("elements")
    for place, layer in enumerate(evidence.names):
        by_step = total_over(bad[place])
        known = ~np.isnan(by_step)
        wrong = float(np.nansum(by_step[evidence.recent]))
        if wrong == 0:
            continue
        seen = float(np.nansum(every[place, evidence.recent]))
        share = wrong / seen
        first, last = stretch(evidence.steps[known], by_step[known] > 0)
        t = int(np.flatnonzero(np.nansum(bad[place, evidence.recent], axis=0) > 0)[0]) + 1
        yield Finding(
            code="P5",
            severity="error",
            layer=layer,
            t=t,
            steps=(first, last),
            measured=share,
            error=(share * (1.0 - share) / seen) ** 0.5,
            bound=0.0,
            unit="share of elements",
            text=f"{share:.1%} of the potentials are NaN or infinite, first at t = {t}, since "
            f"step {first}. What this layer emits means nothing from there on.",
            source=P5_SOURCE,
            remedies=("smaller learning rate", "gradient clipping"),
            advice=(
                Advice(
                    "gradient clipping",
                    True,
                    f"Restart from a checkpoint before step {first} with the gradient norm "
                    "clipped to the one that the run had before it.",
                ),
            ),
        )
