"""The decisions about one layer, from its recordings: what to change, why, what to expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .findings.types import Finding
from .layer_figures import (
    UNITS,
    backward_figures,
    figures,
    wanted_gain,
)
from .layer_record import (
    Estimate,
    LayerRecord,
    mean_of,
    rate_of,
    spread_of,
)
from .recommend import COPY, VETOED, Predicted, Recommendation, Verdict
from .recommend_choice import choose_surrogate
from .recommend_forward import (
    RATE_BUSY,
    XI_QUIET,
    Currents,
    ForwardSolution,
    apply_forward,
    drive_fault,
    is_closer,
    solve_forward,
    xi_of,
)
from .recommend_forward import SOURCE as FORWARD_SOURCE
from .recommend_start import SOURCE as START_SOURCE
from .recommend_start import solve_start
from .recommend_surrogate import (
    COVERAGE_LOW,
    WIDTH_SOURCE,
    RankedShape,
    rank_shapes,
)
from .surrogate import Surrogate

RATE_KEPT = 0.5
"""Share of the firing rate that a start potential must leave."""

SAMPLES_LEAST = 8
ELEMENTS_LEAST = 1000
MISMATCH_MOST = 0.01

NOT_KNOWN = Estimate(float("nan"), float("nan"))


@dataclass
class LayerPlan:
    """What is decided about one layer; filled step by step.

    Args:
        name: name of the layer.
        kind: whose layer it is, and its class.
        before: its record as the model came; None if it was not called.
        findings: what the rules say of it.
    """

    name: str
    kind: tuple[str, str]
    before: LayerRecord | None
    findings: tuple[Finding, ...] = ()
    drive: ForwardSolution | None = None
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    parameters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    because: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    expected: dict[str, Estimate] = field(default_factory=dict)
    predicted: dict[str, Predicted] = field(default_factory=dict)
    ranking: tuple[RankedShape, ...] = ()
    power: float = 0.0
    """n E[w^2] of the layer's recurrent weights, times the gain squared; 0 without any."""

    @property
    def lacking(self) -> str:
        """Why the recording does not suffice for a judgement; empty if it does."""
        record = self.before
        if record is None:
            return "The batch did not reach this layer."
        if record.samples < SAMPLES_LEAST:
            return (
                f"{record.samples} samples are too few for an error bar: give {SAMPLES_LEAST} or "
                "more."
            )
        if record.u.size < ELEMENTS_LEAST:
            return (
                f"{record.u.size} elements (timesteps x samples x units) are too few: give "
                f"{ELEMENTS_LEAST} or more."
            )
        if record.mismatch > MISMATCH_MOST:
            return (
                f"{100 * record.mismatch:.2g} % of its spikes do not follow from its declared "
                "dynamics: what a change would do cannot be replayed."
            )
        return ""

    def know_parameters(
        self, roles: dict[str, tuple[str, ...]], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        """Note which parameters make the layer's current."""
        self.parameters, self.shapes = roles, shapes

    # Forward: weights, bias, threshold.

    def needs_drive(self, now: LayerRecord) -> bool:
        """Return whether weights, bias or threshold are out of range, beyond the error bars."""
        return bool(drive_fault(now))

    def plan_drive(
        self,
        now: LayerRecord,
        parts: Currents | None,
        no_weight: str,
        biases: Sequence[str],
        no_bias: str,
        barred: Callable[[float], str | None],
    ) -> ForwardSolution | None:
        """Decide on weights, bias or threshold; return what is to be done now.

        Args:
            now: the layer as it is, after the changes of the layers before it.
            parts: its current, split by what the weights do; None if they cannot be scaled.
            no_weight: why not.
            biases: biases that can be shifted.
            no_bias: why there is none.
            barred: why a threshold cannot be written; None if it can.
        """
        fault = drive_fault(now)
        if "weight_scale" in VETOED:
            parts, no_weight = None, VETOED["weight_scale"]
        has_bias = bool(biases) and "bias_shift" not in VETOED
        solution = solve_forward(now, parts, has_bias=has_bias)
        aside = f"its weights cannot be scaled ({no_weight})" if parts is None else ""
        if parts is not None and not has_bias and solution is None:
            aside = f"no factor of its weights leads there ({no_bias})"
        if solution is not None and solution.threshold is not None:
            reason = VETOED.get("threshold") or barred(solution.threshold)
            if reason is not None:
                solution = None
                aside += f", and its threshold cannot be set ({reason})"
        if solution is not None:
            after = apply_forward(now, parts, solution)
            if drive_fault(after) and not is_closer(now, after):
                solution, aside = None, "no change in reach brings its potential to the threshold"
        self.because.append(fault)
        if solution is None:
            self.blocked.append(f"{fault} It cannot be mended: {aside}.")
            return None
        self._note_drive(now, after, solution, fault, aside)
        return solution

    def _note_drive(
        self,
        now: LayerRecord,
        after: LayerRecord,
        solution: ForwardSolution,
        fault: str,
        aside: str,
    ) -> None:
        earlier = self.drive or ForwardSolution()
        whole = ForwardSolution(
            earlier.scale * solution.scale,
            earlier.shift + solution.shift,
            earlier.threshold if solution.threshold is None else solution.threshold,
        )
        self.drive = whole
        if whole.scale != 1.0:
            self.changes["weight_scale"] = (1.0, whole.scale)
        if whole.shift != 0.0:
            self.changes["bias_shift"] = (0.0, whole.shift)
        if solution.threshold is not None:
            first = self.changes.get("threshold", (now.spec.threshold, None))[0]
            self.changes["threshold"] = (first, solution.threshold)
        else:
            # Weights and threshold are never both needed: a soft reset scales with the threshold.
            aside = ""
        self._expect_forward(after)
        if len(self.reasons) == 0:
            what = {
                "weight_scale": f"weights times {whole.scale:.3g}",
                "bias_shift": f"bias shifted by {whole.shift:.3g}",
                "threshold": f"threshold {solution.threshold or 0.0:.3g}",
            }
            doing = " and ".join(text for key, text in what.items() if key in self.changes)
            tail = f" ({aside})" if aside else ""
            self.reasons.append(
                f"{fault} With {doing}{tail} the threshold lies one standard deviation above the "
                "mean, where fluctuations make it fire."
            )
            self.sources.append(FORWARD_SOURCE)

    def _expect_forward(self, after: LayerRecord) -> None:
        self.expected |= {
            "rate": rate_of(after),
            "xi": xi_of(after),
            "mean of u": mean_of(after, after.u),
            "std of u": spread_of(after),
        }

    # Start potential.

    def propose_start(
        self, now: LayerRecord, barred: Callable[[float], str | None]
    ) -> float | None:
        """Return a start potential where replaying the layer shows that it helps, else None.

        Args:
            now: the layer as it is.
            barred: why a start cannot be written; None if it can.
        """
        if "start" in VETOED or np.size(now.spec.threshold) > 1 or np.ptp(now.start) > 0.0:
            return None
        found = solve_start(now)
        scale = abs(float(now.spec.threshold)) or 1.0
        if found is None or not found.helps(scale) or barred(found.start) is not None:
            return None
        after = now.rerun(now.spec, now.current, found.start)
        if drive_fault(after) or rate_of(after).value < RATE_KEPT * rate_of(now).value:
            return None  # it would settle where it hardly fires: the shift is what makes it fire
        self.because.append(
            f"u at t = 1 lies {found.before / scale:.2g} thresholds from where it settles."
        )
        self.reasons.append(
            f"Started at {found.start:.3g} it is off by {found.after / scale:.2g}, and "
            f"{100 * found.removed:.0f} % of the shift over all timesteps goes."
        )
        self.expected["shift at t = 1"] = Estimate(found.after, float("nan"))
        return found.start

    def accept_start(self, now: LayerRecord, start: float) -> None:
        """Note a start potential that was written into the copy."""
        self.changes["start"] = (float(np.mean(now.start)), start)
        self.sources.append(START_SOURCE)
        self._expect_forward(now.rerun(now.spec, now.current, start))

    # Surrogate.

    def propose_surrogate(
        self, now: LayerRecord, above: LayerRecord | None, uneven: bool
    ) -> Surrogate | None:
        """Return the surrogate to set, None to leave the present one.

        Args:
            now: the layer with its gradients, after all forward changes.
            above: the next layer, its surrogate settled; None for the last.
            uneven: whether this layer's share of a gradient that is lost over depth is to be made
                up for.
        """
        if now.surrogate is None:
            self.blocked.append("Its surrogate is not known: width and peak cannot be judged.")
            return None
        gain = wanted_gain(now, above)
        if not spread_of(now).value > 0.0:
            return None
        self.ranking = tuple(rank_shapes(now, gain, float(now.surrogate.tail)))
        choice = choose_surrogate(now, self.ranking, gain, self.power, uneven)
        if choice.blocked:
            self.blocked.append(choice.blocked)
        if choice.surrogate is None:
            return None
        self.because.append(choice.because)
        self.reasons.append(f"{choice.because} {choice.effect}".strip())
        self.sources += choice.sources
        return choice.surrogate

    def refuse_surrogate(self, reason: str) -> None:
        """Note that the layer does not take the surrogate proposed."""
        self.reasons.pop()
        self.blocked.append(f"Its surrogate cannot be set: {reason}.")

    def accept_surrogate(
        self, now: LayerRecord, above: LayerRecord | None, proposed: Surrogate
    ) -> None:
        """Note a surrogate that was written into the copy, and what it is expected to do."""
        self.changes["surrogate"] = (now.surrogate, proposed)
        self.expected |= backward_figures(replace(now, surrogate=proposed), above, self.power)

    # What came of it.

    def measure(
        self,
        after: LayerRecord,
        above_before: LayerRecord | None,
        above_after: LayerRecord | None,
        moved: bool,
    ) -> None:
        """Put before, expected and measured values side by side.

        Args:
            after: the layer on the copy after all changes.
            above_before: the next layer as the model came.
            above_after: the next layer after all changes.
            moved: whether anything was changed anywhere.
        """
        if self.before is None:
            return
        was = figures(self.before, above_before, self.power)
        now = figures(after, above_after, self.power) if moved else was
        for name, unit in UNITS.items():
            old, new = was.get(name, NOT_KNOWN), now.get(name, NOT_KNOWN)
            expected = self.expected.get(name, new)
            if not (np.isfinite(old.value) or np.isfinite(expected.value)):
                continue
            self.predicted[name] = _predicted(old, expected, unit)
            if moved and name in self.expected and name in now:
                self.predicted[f"{name}{COPY}"] = _predicted(old, new, unit)

    def recommendation(self) -> Recommendation:
        """Return what was decided."""
        verdict: Verdict = "change" if self.changes else "leave it"
        reasons = [*self.reasons, *self.blocked]
        if self.lacking:
            verdict, reasons = "cannot tell", [self.lacking]
        elif not self.changes and self.blocked:
            verdict = "cannot tell"
        elif not self.changes:
            reasons = [self._leave()]
        return Recommendation(
            layer=self.name,
            verdict=verdict,
            changes=self.changes if verdict == "change" else {},
            parameters=self.parameters,
            shapes=self.shapes,
            because=(*self.findings, *self.because),
            reason=" ".join(reasons),
            predicted=self.predicted,
            source="; ".join(dict.fromkeys(self.sources)) or f"{FORWARD_SOURCE}; {WIDTH_SOURCE}",
        )

    def _leave(self) -> str:
        parts = []
        for name, bound in (("xi", f"at most {XI_QUIET:g}"), ("rate", f"at most {RATE_BUSY:g}"),
                            ("coverage", f"at least {COVERAGE_LOW:g}")):  # fmt: skip
            if name in self.predicted:
                parts.append(f"{name} {self.predicted[name].after:.3g} ({bound})")
        return f"Nothing is out of range beyond the error bars: {', '.join(parts)}."


def _predicted(before: Estimate, after: Estimate, unit: str) -> Predicted:
    return Predicted(before.value, before.error, after.value, after.error, unit)
