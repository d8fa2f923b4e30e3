"""P: can the recording itself be trusted?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence, pool, stretch
from .types import Finding

RESIDUAL_WARNING = 0.05
"""Half precision alone was seen to leave up to 0.035; float32 leaves 1e-6."""

P2_SOURCE = "dL/du must be the surrogate times dL/ds plus what leak and reset carry back"

P1_SOURCE = "the replayed u must cross the threshold exactly where spikes were seen"


def replay_mismatch(evidence: Evidence) -> Iterator[Finding]:
    """P1: spikes that the declared decay, threshold and reset do not explain."""
    for layer in evidence.layers:
        rows = evidence.recent(layer.name)
        wrong, seen = int(rows["mismatch"].sum()), int(rows["elements"].sum())
        if wrong == 0:
            continue
        share = wrong / seen
        steps = rows["step"]
        yield Finding(
            code="P1",
            severity="error",
            layer=layer.name,
            t=None,
            steps=(int(steps.min()), int(steps.max())),
            measured=share,
            error=(share * (1.0 - share) / seen) ** 0.5,
            bound=0.0,
            unit="share of elements",
            text=f"{wrong:,} of {seen:,} spikes are not explained by the declared decay, threshold "
            "and reset. Do not trust u and the gradients of this layer before the declaration "
            "matches what the layer does.",
            source=P1_SOURCE,
        )


def gradient_residual(evidence: Evidence) -> Iterator[Finding]:
    """P2: gradients that the declared surrogate and the reset do not explain."""
    for layer in evidence.layers:
        rows = evidence.rows(layer.name)
        by_step = rows.assign(
            residual=rows["residual_square"] * rows["residual_count"],
            whole=rows["grad_u_square"] * rows["residual_count"],
        ).groupby("step")[["residual", "whole"]]
        sums = by_step.sum()
        seen = sums[sums["whole"] > 0]
        if seen.empty or seen.index[-1] < evidence.window[0]:
            continue
        steps = seen.index.to_numpy()
        share = np.sqrt((seen["residual"] / seen["whole"]).to_numpy())
        recent = share[steps >= evidence.window[0]]
        # Arithmetic, not a sample: inside a record the figure has no error.
        figure = pool(recent, np.zeros(len(recent)))
        if not figure.low > RESIDUAL_WARNING:
            continue
        yield Finding(
            code="P2",
            severity="warning",
            layer=layer.name,
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
        )
