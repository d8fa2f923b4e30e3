"""G: does the loss reach every layer at all?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Evidence
from .figures import none_of, stretch, total_over
from .types import Advice, Bound, Finding

G7_SOURCE = "a layer learns only through a gradient that is not exactly 0"
G7_BOUNDS = (
    Bound(0.0, "share of samples", "error", "arithmetic; no recorded sample got a gradient"),
    Bound(0.0, "share of records", "warning", "arithmetic; a parameter never got one"),
)


def gradient_absent(evidence: Evidence) -> Iterator[Finding]:
    """G7: a layer whose gradient is exactly 0, or that the loss does not reach."""
    count = evidence.now("grad_u_count")
    square = evidence.now("grad_u_square")
    down, down_count = evidence.now("grad_s_total_square"), evidence.now("grad_s_total_count")
    arrived = np.nansum(count, axis=(1, 2)) + np.nansum(down_count, axis=(1, 2))
    unheard = set(evidence.events.loc[evidence.events["kind"] == "no_gradient", "layer"])
    trained = bool(evidence.vitals.every("gradient_norm")) or "loss" in evidence.scalars
    if not arrived.any() and not (trained and len(evidence.names)):
        return
    if not arrived.any():
        yield _absent(
            evidence,
            0,
            "",
            "No gradient reaches any spiking layer: between {layer!r} and "
            "the loss the path is cut, or no backward pass is made before probe.step()",
        )
        return
    for place, layer in enumerate(evidence.names):
        zero = _all_zero(square[place], count[place])
        if arrived[place] == 0:
            if layer in unheard:
                said = "No gradient reaches {layer!r}, while it reaches others: the loss does not "
                yield _absent(evidence, place, layer, said + "depend on what it emits")
        elif zero and _all_zero(down[place], down_count[place]):
            said = "dL/ds and dL/du of {layer!r} are exactly 0: what follows this layer passes "
            yield _absent(evidence, place, layer, said + "nothing back")
        elif zero:
            said = "dL/ds arrives at {layer!r} and dL/du is exactly 0: the surrogate is 0 wherever "
            yield _absent(evidence, place, layer, said + "the potential lies")
    yield from _parameters(evidence)


def _absent(evidence: Evidence, place: int, layer: str, said: str) -> Finding:
    name = evidence.names[place]
    square = total_over(evidence.cube("grad_u_square")[place])
    known = ~np.isnan(evidence.cube("elements")[place]).all(axis=-1)
    records = len(evidence.window)
    samples = np.nan_to_num(evidence.now("samples")[place]).max(axis=-1, initial=0.0).sum()
    none = none_of(float(samples))
    return Finding(
        code="G7",
        severity="error",
        layer=layer,
        t=None,
        steps=stretch(evidence.steps[known], ~(square[known] > 0)),
        measured=none.value,
        error=none.error,
        bound=0.0,
        unit="share of samples that get a gradient",
        text=f"{said.format(layer=name)}. So it was in each of the last {records} recorded steps; "
        "its weights and those before it learn nothing.",
        source=G7_SOURCE,
        remedies=("restore the path",),
        advice=(
            Advice(
                "restore the path",
                True,
                "Look for detach(), torch.no_grad(), .data or an output that the loss does not use "
                f"behind {name!r}, and let spikescope lint measure its surrogate.",
            ),
        ),
    )


def _parameters(evidence: Evidence) -> Iterator[Finding]:
    """Yield the parameters that never got a gradient while others did."""
    arrived = {series.name for series in evidence.vitals.every("gradient_norm")}
    never = [
        series
        for series in evidence.vitals.every("no_gradient")
        if series.name not in arrived and len(series.recent)
    ]
    if not never:
        return
    first = never[0]
    none = none_of(len(first.steps))
    yield Finding(
        code="G7",
        severity="warning",
        layer=evidence.known(first.layer),
        t=None,
        steps=(int(first.steps[0]), int(first.steps[-1])),
        measured=none.value,
        error=none.error,
        bound=0.0,
        unit="share of records with a gradient",
        text=f"{len(never)} trained parameters never got a gradient, {first.name!r} the first, "
        f"while {len(arrived)} others did. The loss does not depend on them.",
        source=G7_SOURCE,
        remedies=("restore the path",),
    )


def _all_zero(square: np.ndarray, count: np.ndarray) -> bool:
    seen = count > 0
    return bool(seen.any() and (square[seen] == 0).all())
