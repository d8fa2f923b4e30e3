"""The decisions about one layer, from its recordings: what to change, why, what to expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .depth import WARN_LOG
from .findings.evidence import CONFIDENCE_Z
from .findings.types import Finding
from .layer_gradient import inner_gradient, slope_gain
from .layer_record import (
    Estimate,
    LayerRecord,
    coverage_of,
    jackknife,
    mean_of,
    per_sample,
    rate_of,
    spread_of,
    square_of,
)
from .recommend import COPY, Predicted, Recommendation, Verdict
from .recommend_forward import (
    RATE_BUSY,
    XI_QUIET,
    Currents,
    ForwardSolution,
    apply_forward,
    solve_forward,
    xi_of,
)
from .recommend_forward import SOURCE as FORWARD_SOURCE
from .recommend_start import SOURCE as START_SOURCE
from .recommend_start import settled_rate, solve_start
from .recommend_surrogate import (
    COVERAGE_LOW,
    FLOOD,
    PEAK_SOURCE,
    WIDTH_SOURCE,
    RankedShape,
    fitted_width,
    rank_shapes,
    solve_peak,
    width_verdict,
)
from .surrogate import Surrogate

VETOED: dict[str, str] = {}
"""Field of a recommendation to why the evidence speaks against changing it: never proposed.

The studies of the evidence report are the judge; a row is added here where they contradict a rule.
"""

SAMPLES_LEAST = 8
ELEMENTS_LEAST = 1000
MISMATCH_MOST = 0.01

UNEVEN = float(np.log(2.0))
"""Change of the gradient's mean square from one layer to the next that counts as its share."""

SHAPE_CLEAR = 2.0
"""Factor of sensitivity by which another shape must be better before it is proposed."""

UNITS = {
    "rate": "spikes per unit and timestep",
    "settled rate": "spikes per unit and timestep",
    "xi": "",
    "mean of u": "potential",
    "std of u": "potential",
    "shift at t = 1": "potential",
    "coverage": "share of elements",
    "E[s^2]": "1 / potential^2",
    "gain": "1 / potential^2",
    "gradient ratio": "",
}
"""What is predicted, and in which unit.

xi: distance of the mean from the threshold in standard deviations, without reset. settled rate:
that of the stationary law of the layer's current. E[s^2]: mean square of the surrogate derivative
under the law of u. gain: the same as the gradient meets it, E[(s g)^2] / E[g^2]. gradient ratio:
mean square of dL/du over that of the next layer.
"""

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
        return bool(_drive_fault(now))

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
        fault = _drive_fault(now)
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
            if _drive_fault(after) and not _closer(now, after):
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
            "mean of u": mean_of(after.u),
            "std of u": spread_of(after),
        }

    # Start potential.

    def propose_start(self, now: LayerRecord) -> float | None:
        """Return a start potential where replaying the layer shows that it helps, else None."""
        if "start" in VETOED or np.size(now.spec.threshold) > 1:
            return None
        found = solve_start(now)
        scale = abs(float(now.spec.threshold)) or 1.0
        if found is None or not found.helps(scale):
            return None
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
        gain = _wanted_gain(now, above)
        spread = spread_of(now)
        if not spread.value > 0.0:
            return None
        self.ranking = tuple(rank_shapes(now, gain, float(now.surrogate.tail)))
        verdict = width_verdict(now, now.surrogate, CONFIDENCE_Z)
        if "surrogate" in VETOED or not (verdict or (uneven and gain is not None)):
            return None
        proposed = replace(
            now.surrogate, width=fitted_width(now.surrogate.shape, spread.value, now.surrogate.tail)
        ) if verdict else now.surrogate  # fmt: skip
        if verdict:
            proposed = self._shape(proposed)
        reached = coverage_of(now, proposed)
        if verdict and reached.value < COVERAGE_LOW and reached.value <= coverage_of(
            now, now.surrogate
        ).value:  # fmt: skip
            return None  # a width from the spread of u that reaches less is no help
        proposed = replace(proposed, peak=1.0 / replace(proposed, peak=1.0).area) if verdict else (
            proposed
        )  # fmt: skip
        limit = ""
        if gain is not None:
            try:
                peak, limit = solve_peak(now, proposed, gain)
                proposed = replace(proposed, peak=peak)
            except ValueError:
                gain = None
        self._say_surrogate(now, proposed, verdict, gain, limit)
        return proposed

    def _shape(self, fitted: Surrogate) -> Surrogate:
        """Return another shape only where it is clearly less sensitive to what training does."""
        own = next((row for row in self.ranking if row.surrogate.shape == fitted.shape), None)
        best = self.ranking[0] if self.ranking else None
        if best is None or (own is not None and own.sensitivity < SHAPE_CLEAR * best.sensitivity):
            return fitted
        return best.surrogate

    def _say_surrogate(
        self,
        now: LayerRecord,
        proposed: Surrogate,
        verdict: str,
        gain: float | None,
        limit: str,
    ) -> None:
        assert now.surrogate is not None
        reached, spread = coverage_of(now, now.surrogate).value, spread_of(now).value
        if verdict == "narrow":
            text = (
                f"The surrogate reaches {100 * reached:.2g} % of the elements; its width should "
                f"follow the spread of u, {spread:.3g}."
            )
        elif verdict == "wide":
            text = (
                f"The surrogate is {1.0 / (now.surrogate.sharpness * spread):.2g} times as wide as "
                f"the spread of u, {spread:.3g}: near and far count alike (bound {1 / FLOOD:g})."
            )
        else:
            text = "The gradient changes too much from layer to layer; this peak keeps it equal."
        self.because.append(text)
        if verdict and gain is not None:
            text += " The peak keeps the gradient as large as in the next layer"
            text += f", as far as {limit} allows." if limit else "."
        elif verdict:
            text += " The peak gives it the area of the spike's own jump, 1."
        self.reasons.append(text)
        self.sources += [WIDTH_SOURCE, PEAK_SOURCE] if verdict else [PEAK_SOURCE]

    def refuse_surrogate(self, reason: str) -> None:
        """Note that the layer does not take the surrogate proposed."""
        self.reasons.pop()
        self.blocked.append(f"Its surrogate cannot be set: {reason}.")

    def accept_surrogate(
        self, now: LayerRecord, above: LayerRecord | None, proposed: Surrogate
    ) -> None:
        """Note a surrogate that was written into the copy, and what it is expected to do."""
        self.changes["surrogate"] = (now.surrogate, proposed)
        self.expected |= _backward_figures(replace(now, surrogate=proposed), above)

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
        was = _figures(self.before, above_before)
        now = _figures(after, above_after) if moved else was
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


def unbalanced(records: Sequence[LayerRecord], will_change: Sequence[bool]) -> list[bool]:
    """Return for each layer whether its peak must give, so that depth keeps the gradient's size.

    The mean square of dL/du may change by a factor of 100 from the last layer to the first; if it
    changes by more, each layer whose own share is more than a factor of 2 is to be mended.

    Args:
        records: the layers with their gradients, input first.
        will_change: layers whose surrogate is set anyway, and then balanced.

    Source:
        :func:`.depth.time_verdict` for the factor of 100.
    """
    logs: list[Estimate | None] = []
    for record, above in pairwise(records):
        logs.append(_log_ratio(record, above))
    counted = [
        entry for entry, known in zip(logs, will_change, strict=False) if entry and not known
    ]
    total = sum(entry.value for entry in counted)
    error = float(np.sqrt(sum(np.nan_to_num(entry.error) ** 2 for entry in counted)))
    if abs(total) - CONFIDENCE_Z * error < WARN_LOG:
        return [False] * len(records)
    return [entry is not None and abs(entry.value) > UNEVEN for entry in logs] + [False]


def _drive_fault(record: LayerRecord) -> str:
    """Return a sentence on what is wrong with how a layer is driven; empty if nothing is."""
    xi, rate = xi_of(record), rate_of(record)
    if rate.value - CONFIDENCE_Z * np.nan_to_num(rate.error) > RATE_BUSY:
        return f"{100 * rate.value:.0f} % of all elements fire, so that a spike says little."
    if not np.isfinite(xi.value):
        return "" if rate.value > 0.0 else "Its potential does not move, it never fires."
    if xi.value - CONFIDENCE_Z * np.nan_to_num(xi.error) > XI_QUIET:
        return (
            f"The threshold lies {xi.value:.3g} standard deviations above the mean of the "
            f"potential, the rate is {rate.value:.2g}."
        )
    return ""


def _closer(now: LayerRecord, after: LayerRecord) -> bool:
    """Return whether a layer that is still out of range is less so than before."""
    return abs(xi_of(after).value - 1.0) < abs(np.nan_to_num(xi_of(now).value, nan=np.inf) - 1.0)


def _log_ratio(record: LayerRecord, above: LayerRecord) -> Estimate | None:
    """Return ln of the gradient's mean square here over that in the next layer."""
    ratio = _gradient_ratio(record, above)
    if ratio is None or not ratio.value > 0.0:
        return None
    return Estimate(float(np.log(ratio.value)), ratio.error / ratio.value)


def _gradient_ratio(record: LayerRecord, above: LayerRecord | None) -> Estimate | None:
    if above is None or None in (record.surrogate, above.surrogate):
        return None
    if record.grad_s is None or above.grad_s is None or record.samples != above.samples:
        return None
    assert record.surrogate is not None
    assert above.surrogate is not None
    own = per_sample(np.square(inner_gradient(record, record.surrogate).u))
    theirs = per_sample(np.square(inner_gradient(above, above.surrogate).u))
    if not theirs.sum() > 0.0:
        return None
    return jackknife(lambda below, top: below / top, own, theirs)


def _wanted_gain(now: LayerRecord, above: LayerRecord | None) -> float | None:
    """Return the gain at which dL/du is as large as in the next layer; None if unknown."""
    if above is None or above.surrogate is None or above.grad_s is None or now.grad_s is None:
        return None
    arriving = float(np.mean(np.square(now.grad_s, dtype=np.float64)))
    theirs = float(np.mean(np.square(inner_gradient(above, above.surrogate).u)))
    return theirs / arriving if arriving > 0.0 and theirs > 0.0 else None


def _figures(record: LayerRecord, above: LayerRecord | None) -> dict[str, Estimate]:
    """Return what is measured of a layer, by the names of :data:`UNITS`."""
    found = {
        "rate": rate_of(record),
        "xi": xi_of(record),
        "mean of u": mean_of(record.u),
        "std of u": spread_of(record),
    }
    if (settled := settled_rate(record)) is not None:
        found["settled rate"] = Estimate(settled[0], float("nan"))
    if (start := solve_start(record)) is not None:
        found["shift at t = 1"] = Estimate(start.before, float("nan"))
    return found | _backward_figures(record, above)


def _backward_figures(record: LayerRecord, above: LayerRecord | None) -> dict[str, Estimate]:
    if record.surrogate is None:
        return {}
    found = {
        "coverage": coverage_of(record, record.surrogate),
        "E[s^2]": square_of(record, record.surrogate),
    }
    if record.grad_s is not None and np.any(record.grad_s):
        found["gain"] = slope_gain(record, record.surrogate)
        if (ratio := _gradient_ratio(record, above)) is not None:
            found["gradient ratio"] = ratio
    return found


def _predicted(before: Estimate, after: Estimate, unit: str) -> Predicted:
    return Predicted(before.value, before.error, after.value, after.error, unit)
