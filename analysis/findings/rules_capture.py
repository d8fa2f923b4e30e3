"""P: can the recording itself be trusted?"""

from __future__ import annotations

from collections.abc import Iterator

from .evidence import Evidence
from .types import Finding

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
