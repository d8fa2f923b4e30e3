"""Is a layer's surrogate sound, and is it the one that the layer says it has?

Each spiking layer's spike is differentiated on a grid; a finding quotes what is wrong. Nothing is
trained, and the model is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.findings.types import SEVERITIES, Finding, Severity
from ..analysis.surrogate import Surrogate
from ..analysis.surrogate_identify import FIT_TOLERANCE, Identification, identify
from ..data.store import RunStore
from .adapters import ADAPTERS, Adapter
from .adapters.measure import derivative
from .target import build_model, line_of

CENTRE_BOUND = 0.05
"""Distance of the middle from the threshold, in shares of the width at half height."""

SEVERITY: dict[str, Severity] = {
    "S1": "error",
    "S2": "error",
    "S3": "error",
    "S4": "warning",
    "S5": "warning",
    "S6": "error",
    "S7": "note",
    "S8": "note",
    "S9": "warning",
}
"""Code of each finding about a surrogate, and how severe it is."""

TITLES = {
    "S1": "surrogate not finite",
    "S2": "surrogate zero around the threshold",
    "S3": "surrogate negative",
    "S4": "surrogate off the threshold",
    "S5": "surrogate not largest at the threshold",
    "S6": "surrogate not as declared",
    "S7": "surrogate of no known shape",
    "S8": "surrogate shared by layers",
    "S9": "surrogate cannot be measured",
}
"""What is wrong, in a few words, by code."""

_SOURCE = "derivative of the layer's spike, measured by autograd in float32"


@dataclass(frozen=True)
class _Case:
    """What was measured of one layer: slope over x = u - threshold."""

    layer: str
    x: Any
    slope: Any
    scale: float
    declared: Surrogate | None
    found: Identification

    @property
    def height(self) -> float:
        """Largest size of the finite samples, 1 / potential."""
        return float(np.max(np.abs(self.slope[np.isfinite(self.slope)]), initial=0.0))


def lint(model: nn.Module) -> list[Finding]:
    """Measure the surrogate of every spiking layer and say what is wrong with it.

    Args:
        model: the model; its spiking layers are found by themselves, also those that the probe
            cannot record.

    Returns:
        Findings, errors first; empty where every surrogate is sound and as declared. Lengths are in
        potential, slopes in 1 / potential.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> lint(nn.Sequential(nn.Linear(4, 3), LIF(), nn.Linear(3, 2)))
        []

    Source:
        Neftci, Mostafa and Zenke 2019, IEEE Signal Processing Magazine 36(6): a surrogate is a bump
        at the threshold in place of the spike's derivative.
    """
    layers = _layers(model)
    findings: list[Finding] = []
    for name, module, adapter, function in layers:
        try:
            case = _measured(name, module, adapter, function)
        except Exception as error:  # the framework's own, of any kind
            findings.append(_finding("S9", name, text=_CANNOT.format(error=line_of(error))))
            continue
        findings += _judged(case)
    findings += _shared(layers)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def judge_surrogates(store: RunStore, model: nn.Module) -> None:
    """Keep what the lint says with a run; a model that cannot be linted is said instead."""
    try:
        content: dict[str, Any] = {"findings": [finding.to_dict() for finding in lint(model)]}
    except Exception as error:  # the framework's own: the recording must go on
        content = {"findings": [], "failed": line_of(error)}
    store.judge("lint", content)


def lint_target(target: str) -> list[Finding]:
    """Build a model from a name and lint it.

    Args:
        target: ``MODULE:CALLABLE``; the module is looked for in the current directory first, the
            callable takes no argument and returns the model.

    Returns:
        The findings of :func:`lint`.

    Raises:
        ValueError: no such module or attribute, or what is called is no builder of a model; one
            line that quotes it.
    """
    return lint(build_model(target))


_Layer = tuple[str, nn.Module, Adapter, Callable[[Tensor], Tensor]]


def _layers(model: nn.Module) -> list[_Layer]:
    """Return the spiking layers whose spike can be asked, recorded by the probe or not."""
    found = []
    for name, module in model.named_modules():
        adapter = next((entry for entry in ADAPTERS if entry.handles(module)), None)
        function = None if adapter is None else adapter.spike_function(module)
        if adapter is not None and function is not None:
            found.append((name, module, adapter, function))
    return found


def _measured(
    name: str, module: nn.Module, adapter: Adapter, function: Callable[[Tensor], Tensor]
) -> _Case:
    """Measure one layer in the precision of training, where overflow shows."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    device = torch.device("cpu") if first is None else first.device
    scale = 1.0
    try:
        scale = adapter.describe(name, module).scale
    except ValueError:
        pass  # the probe cannot replay the layer: its surrogate can be measured all the same
    x, slope = derivative(function, scale, torch.float32, device)
    return _Case(name, x, slope, scale, adapter.declared(module), identify(x, slope))


def _judged(case: _Case) -> Iterator[Finding]:
    """Yield what is wrong with one surrogate; a defect that explains others stands alone."""
    bad = ~np.isfinite(case.slope)
    if bad.any():
        where = case.x[bad]
        yield _finding(
            "S1",
            case.layer,
            measured=float(np.mean(bad)),
            unit="share of the grid",
            text=f"The derivative is NaN or infinite from u - threshold = {where[0]:.4g} to "
            f"{where[-1]:.4g}. One unit there makes every weight before it NaN.",
        )
        return
    near = float(np.max(np.abs(case.slope[np.abs(case.x) <= case.scale])))
    if near == 0.0:
        reach = np.abs(case.x[case.slope != 0.0])
        beyond = f" It begins at {np.min(reach):.4g} from it." if reach.size else ""
        yield _finding(
            "S2",
            case.layer,
            measured=near,
            unit="1 / potential",
            text=f"No gradient passes within {case.scale:.4g} of the threshold.{beyond} The layers "
            "before this one cannot learn.",
        )
        return
    lowest = float(np.min(case.slope))
    if lowest < -1e-6 * case.height:
        yield _finding(
            "S3",
            case.layer,
            measured=lowest,
            unit="1 / potential",
            text=f"The derivative is negative, down to {lowest:.4g} at u - threshold = "
            f"{case.x[np.argmin(case.slope)]:.4g}. The gradient points the wrong way there.",
        )
        return
    if case.declared is None:
        yield from _misplaced(case)
    elif (off := _deviation(case, case.declared)) > FIT_TOLERANCE:
        yield from _misplaced(case)
        yield _finding(
            "S6",
            case.layer,
            measured=off,
            bound=FIT_TOLERANCE,
            unit="share of the peak",
            text=f"The layer declares {_shape(case.declared)}, but its derivative is "
            f"{_shape(case.found.surrogate, case.found)}.",
        )


def _deviation(case: _Case, declared: Surrogate) -> float:
    """Return the largest deviation from what the layer's settings say, in shares of the peak."""
    told = declared.derivative(case.x)
    # Rounding may put a sample on the other side of a jump.
    jump = np.abs(np.diff(told)) > 0.5 * np.max(told)
    beside = np.concatenate([jump, [False]]) | np.concatenate([[False], jump])
    return float(np.max(np.where(beside, 0.0, np.abs(told - case.slope)))) / case.height


def _misplaced(case: _Case) -> Iterator[Finding]:
    """Yield what is wrong with place or shape of a surrogate that is finite and not negative."""
    found = case.found
    at = float(case.slope[np.argmin(np.abs(case.x))])
    whole = at >= (1.0 - FIT_TOLERANCE) * found.peak
    if found.surrogate is None and np.isfinite(found.centre) and np.isnan(found.fit_error):
        less = "" if whole else f" Units at the threshold get {at / found.peak:.3g} of the peak."
        yield _finding(
            "S4",
            case.layer,
            measured=found.centre,
            bound=CENTRE_BOUND * found.fwhm,
            unit="potential",
            text=f"The middle of the surrogate lies at u - threshold = {found.centre:.4g}, not at "
            f"0; its width at half height is {found.fwhm:.4g}.{less}",
        )
    elif not whole:
        yield _finding(
            "S5",
            case.layer,
            measured=at,
            bound=found.peak,
            unit="1 / potential",
            text=f"The derivative at the threshold is {at:.4g}, its largest value {found.peak:.4g} "
            f"lies at u - threshold = {case.x[np.argmax(case.slope)]:.4g}.",
        )
    elif found.surrogate is None:
        fits = np.isfinite(found.fit_error)
        crossings = np.count_nonzero(np.diff(case.slope > 0.5 * found.peak))
        yield _finding(
            "S7",
            case.layer,
            measured=found.fit_error if fits else float(crossings),
            bound=FIT_TOLERANCE if fits else 2.0,
            unit="share of the peak" if fits else "crossings of half height",
            text=f"No known shape describes the surrogate ({'; '.join(found.problems)}). The probe "
            "records neither coverage nor the gradient's self-check for it.",
        )


def _shape(surrogate: Surrogate | None, measured: Identification | None = None) -> str:
    if surrogate is not None:
        return f"{surrogate.shape} of peak {surrogate.peak:.4g} and width {surrogate.width:.4g}"
    assert measured is not None
    return f"no known shape, of peak {measured.peak:.4g}"


def _shared(layers: list[_Layer]) -> Iterator[Finding]:
    """Yield one finding per module with a surrogate's settings that several layers hold."""
    holders: dict[int, tuple[nn.Module, list[str]]] = {}
    for name, module, _, function in layers:
        for held in _modules_of(function):
            if held is not module:
                holders.setdefault(id(held), (held, []))[1].append(name)
    for held, names in holders.values():
        if len(names) > 1:
            yield _finding(
                "S8",
                names[0],
                measured=float(len(names)),
                bound=1.0,
                unit="layers",
                text=f"{', '.join(names)} hold the same {type(held).__name__} object. A change of "
                "its settings in one layer changes all of them; give each its own.",
            )


def _modules_of(function: Any) -> list[nn.Module]:
    """Return the modules that a spike function is or calls, the layer itself perhaps among them."""
    cells = getattr(function, "__closure__", None) or ()
    inside = [getattr(function, "__self__", None), *(cell.cell_contents for cell in cells)]
    return [value for value in [function, *inside] if isinstance(value, nn.Module)]


_CANNOT = "Its spike function fails on a grid of potentials: {error}."


def _finding(
    code: str,
    layer: str,
    *,
    text: str,
    measured: float = 0.0,
    bound: float = 0.0,
    unit: str = "",
) -> Finding:
    return Finding(
        code, SEVERITY[code], layer, None, (0, 0), measured, 0.0, bound, unit, text, _SOURCE
    )
