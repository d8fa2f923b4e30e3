"""Synthetic runs in which one figure of one rule is set: what the bounds are tested on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

import spikescope
from spikescope.analysis.findings import evidence as evidence_module
from spikescope.analysis.findings.rules_regime import TRAINING_RECORDS
from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.stationary import stationary_law
from spikescope.data.store import RunStore

LAYERS, TIMESTEPS, STEPS = 2, 4, np.arange(0, 320, 10)
NAMES = [f"block{k}.lif" for k in range(LAYERS)]


@functools.cache
def _row(t: int, mean: float, std: float) -> dict[str, Any]:
    return synthetic.row(0, "", t, mean=mean, std=std)


def row(step: int, layer: str, t: int, mean: float = 0.4, std: float = 0.5) -> dict[str, Any]:
    """Return a row of a healthy layer; laws are drawn once."""
    return {**_row(t, mean, std), "step": int(step), "layer": layer}


@dataclass
class Made:
    """What a case writes beside healthy rows.

    Args:
        change: called with (row, layer number); may return another row.
        header: called with the header.
        vitals: (layer, name, quantity, value or values over the records, t).
        scalars: name to values over all steps.
        events: (step, layer, kind, text).
    """

    change: Callable[[dict[str, Any], int], Any] | None = None
    header: Callable[[dict[str, Any]], None] | None = None
    vitals: Iterable[tuple[str, str, str, Any, int]] = ()
    scalars: dict[str, np.ndarray] = field(default_factory=dict)
    events: Iterable[tuple[int, str, str, str]] = ()


def write(folder: Path, made: Made) -> spikescope.Run:
    """Write a case as a run."""
    header = synthetic.header(NAMES)
    header["layers"] = [dict(layer) for layer in header["layers"]]
    if made.header is not None:
        made.header(header)
    store = RunStore(folder / "run", header)
    rows = []
    for step in STEPS:
        for k, name in enumerate(NAMES):
            for t in range(1, TIMESTEPS + 1):
                entry = row(step, name, t)
                if made.change is not None:
                    entry = made.change(entry, k) or entry
                rows.append(entry)
    store.append("records", synthetic.columns(rows))
    figures = [
        (int(step), layer, name, t, quantity, float(value))
        for layer, name, quantity, values, t in made.vitals
        for step, value in zip(STEPS, np.broadcast_to(values, len(STEPS)), strict=True)
    ]
    if figures:
        columns = ("step", "layer", "name", "t", "quantity", "value")
        store.append("vitals", dict(zip(columns, zip(*figures, strict=True), strict=True)))
    for name, values in made.scalars.items():
        count = len(values)
        store.append(
            "scalars", {"step": range(count), "name": [name] * count, "value": list(values)}
        )
    if made.events:
        columns = ("step", "layer", "kind", "text")
        store.append("events", dict(zip(columns, zip(*made.events, strict=True), strict=True)))
    store.end("finished")
    return spikescope.open_run(store.path)


@dataclass(frozen=True)
class Case:
    """A figure on both sides of a bound of a rule.

    Args:
        make: what to write so that the rule measures x.
        inside: x just inside: the rule is silent.
        outside: x just outside: it fires.
        severity: what it is then.
    """

    make: Callable[[float], Made]
    inside: float
    outside: float
    severity: str


def _set(**columns: Any) -> Callable[[dict[str, Any], int], None]:
    """Return a change that sets columns of the second layer."""

    def change(entry: dict[str, Any], k: int) -> None:
        if k == 1:
            entry.update(columns)

    return change


def _vital(*figures: tuple[str, str, Any]) -> Made:
    """Return a case of figures of the second layer: (name, quantity, value)."""
    return Made(vitals=[(NAMES[1], name, quantity, v, 0) for name, quantity, v in figures])


def _law(mean: float, std: float, where: Callable[[dict[str, Any]], bool]) -> Any:
    def change(entry: dict[str, Any], k: int) -> Any:
        if k == 1 and where(entry):
            return row(entry["step"], entry["layer"], entry["t"], mean, std)
        return None

    return change


def _gradient(rms: Callable[[int, int], float]) -> Callable[[dict[str, Any], int], None]:
    """Return a change of dL/du by layer number and timestep."""

    def change(entry: dict[str, Any], k: int) -> None:
        square = rms(k, entry["t"]) ** 2
        entry |= {"grad_u_square": square, "grad_u_sample_mean": square}
        entry["grad_u_sample_var"] = (0.01 * square) ** 2

    return change


def _first_timestep(rms: float) -> Any:
    return _gradient(lambda k, t: rms if t == 1 and k else 1.0)


def _surrogate(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        for layer in header["layers"]:
            layer["surrogate"] = {**layer["surrogate"], **fields}

    return change


def _spec(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        layer = header["layers"][1]
        layer["spec"] = {**layer["spec"], **fields}

    return change


def _rate(rate: float) -> dict[str, Any]:
    return {"spikes": round(6400 * rate), "rate_sample_mean": rate, "rate_sample_var": 1e-12}


def _uncovered(header: dict[str, Any]) -> None:
    header["layers"].append(
        {"name": "other", "kind": "RLIF", "covered": False, "reason": "it is recurrent"}
    )


def _training(shift: float) -> Made:
    half = evidence_module.spread(STEPS, evidence_module.HISTORY_RECORDS)
    start = half[-TRAINING_RECORDS:][TRAINING_RECORDS // 2]
    return Made(change=_law(0.4 + shift, 0.5, lambda entry: entry["step"] >= start))


def _periodic(std: float) -> Made:
    return Made(change=_set(input_mean=0.9, input_var=std**2))


def _unsettled(ahead: float) -> Made:
    quiet = {"input_mean": 0.1 * (0.4 + ahead), **_rate(0.0)}
    return Made(change=_set(**quiet), header=_spec(decay=0.9))


def _firing(ahead: float) -> Made:
    busy = {"input_mean": 0.1 * (0.4 + ahead) + 0.9 * 0.2, **_rate(0.2)}
    return Made(change=_set(**busy), header=_spec(decay=0.9))


def _covered(share: float) -> Any:
    return _set(covered=round(6400 * share), coverage_sample_mean=share, coverage_sample_var=1e-9)


def _once(scale: float) -> Callable[[float], Made]:
    def make(bad: float) -> Made:
        def change(entry: dict[str, Any], k: int) -> None:
            if k == 1 and entry["step"] == 50:
                entry["grad_u_nonfinite"] = int(bad)

        return Made(change=change, vitals=[("", "", "loss_scale", scale, 0)])

    return make


def _lost(timesteps: float) -> Made:
    def change(entry: dict[str, Any], k: int) -> None:
        if k == 1:
            entry.update(_rate(0.0 if entry["t"] <= timesteps else 0.2))

    return Made(change=change)


def _layers(ratio: float) -> Made:
    def change(entry: dict[str, Any], k: int) -> None:
        entry.update(_rate(0.4))
        if k == 1:
            entry.update({"count": 640_000, **_rate(0.4)})
            entry["spikes"] = round(640_000 * 0.4 * ratio)

    return Made(change=change)


@functools.cache
def _predicted() -> float:
    return float(stationary_law(NeuronSpec(decay=0.5), 0.2, 0.5).rate)


def _off_law(factor: float) -> Made:
    rate = _rate(_predicted() * factor)
    return Made(change=_set(input_mean=0.2, input_var=0.25, **rate))


def _narrow_rectangle(width: float) -> Made:
    return Made(header=_surrogate(shape="rectangular", peak=1.0, width=width))


def _weights(update: Any, value: float = 1.0, epsilon: float = 1.2e-7) -> Made:
    return _vital(
        ("w", "value_norm", value),
        ("w", "update_norm", update),
        ("w", "dimensions", 2.0),
        ("w", "epsilon", epsilon),
        ("w", "gradient_norm", 1.0),
    )


def _early(total: float) -> Made:
    # The first quarter, 8 records 10 steps apart, moves the weight by `total`; two of them do it.
    update = np.full(len(STEPS), 1e-4)
    update[[0, 1]] = total / 20.0
    return _weights(update)


def _walk(size: float) -> Made:
    sign = np.where(np.arange(len(STEPS)) % 2, 1.0, -1.0)
    return _vital(
        ("lif.threshold", "gradient_mean", sign),
        ("lif.threshold", "update_norm", size),
        ("lif.threshold", "value_norm", 1.0),
    )


def _still(size: float) -> Made:
    return _vital(
        ("lif.threshold", "value_mean", 1.0),
        ("lif.threshold", "update_norm", size),
        ("w", "update_norm", 1.0),
    )


def _norm(off: float, own: float) -> Made:
    return _vital(
        ("norm", "norm_off", off), ("norm", "norm_scale", 0.0), ("norm", "norm_batch", own)
    )


def _evaluated(mode: float) -> Made:
    def change(entry: dict[str, Any], k: int) -> None:
        entry["mode"] = "eval" if mode else "train"

    return Made(change=change)


def _loss(ratio: float) -> Made:
    return Made(
        scalars={"loss": np.linspace(1.0, 1.0, 200) * np.where(np.arange(200) < 100, 1, ratio)}
    )


def _half(rms: float) -> Made:
    made = _vital(("", "gradient_tiny", 6.1e-5))
    made.vitals = [*made.vitals, ("", "", "loss_scale", 1.0, 0)]
    made.change = _gradient(lambda k, t: 6.1e-5 * (rms if k else 100.0))
    return made


_RMS = float(np.hypot(1.0 - 0.4, 0.5))

CASES: dict[str, tuple[Case, ...]] = {
    "P1": (Case(lambda x: Made(change=_set(mismatch=int(x))), 0, 1, "error"),),
    "P2": (
        Case(
            lambda x: Made(change=_set(residual_count=6400, residual_square=x**2 * 1e-6)),
            0.0495,
            0.0505,
            "warning",
        ),
    ),
    "P3": (Case(lambda x: Made(header=_uncovered if x else None), 0, 1, "note"),),
    "P4": (
        Case(
            lambda x: Made(events=[(0, NAMES[1], "carried" if x else "tap", "text")]),
            0,
            1,
            "warning",
        ),
        Case(
            lambda x: Made(events=[(0, NAMES[1], "reset" if x else "tap", "text")]),
            0,
            1,
            "warning",
        ),
    ),
    "P5": (Case(lambda x: Made(change=_set(nonfinite=int(x))), 0, 1, "error"),),
    "S10": (
        Case(
            lambda x: Made(change=_set(surrogate_mean=0.1, surrogate_square=0.01 / x)),
            0.0101,
            0.0099,
            "warning",
        ),
    ),
    "S11": (Case(lambda x: _narrow_rectangle(x * _RMS), 4.9, 5.1, "warning"),),
    "M1": (
        Case(
            lambda x: Made(change=_law(0.4 - x, 0.5, lambda entry: entry["t"] == 1)),
            0.22,
            0.35,
            "note",
        ),
        Case(
            lambda x: (
                Made(change=_law(0.9 - x, 0.3, lambda entry: entry["t"] == 1))
                if x < 0
                else Made(
                    change=lambda entry, k: (
                        row(
                            entry["step"],
                            entry["layer"],
                            entry["t"],
                            0.8 - x * (entry["t"] == 1),
                            0.3,
                        )
                        if k == 1
                        else None
                    )
                )
            ),
            0.2,
            0.6,
            "warning",
        ),
    ),
    "M2": (
        Case(_training, 0.23, 0.27, "note"),
        Case(lambda x: _training(x), 0.2, 1.1, "warning"),
    ),
    "M3": (
        Case(
            lambda x: Made(
                change=_law(1.0 - 0.2 * x, 0.2, lambda entry: True), header=_surrogate(width=0.005)
            ),
            2.9,
            3.1,
            "warning",
        ),
    ),
    "M4": (Case(_periodic, 0.14, 0.12, "note"),),
    "M5": (Case(lambda x: _vital(("", "input_frozen", x)), 0.949, 0.951, "note"),),
    "M6": (Case(_unsettled, 0.48, 0.52, "warning"), Case(_firing, 0.48, 0.52, "note")),
    "R1": (
        Case(
            lambda x: _vital(("", "dead_units", x), ("", "chances", 400.0)), 0.499, 0.501, "warning"
        ),
        Case(
            lambda x: _vital(("", "dead_units", x), ("", "chances", 400.0)), 0.499, 0.901, "error"
        ),
        Case(
            lambda x: Made(
                change=_set(
                    **{"count": 6_400_000, **_rate(0)},
                )
                if x < 0
                else _set(
                    count=6_400_000,
                    spikes=round(6_400_000 * x),
                    rate_sample_mean=x,
                    rate_sample_var=1e-18,
                )
            ),
            0.00101,
            0.00099,
            "warning",
        ),
        Case(lambda x: Made(change=_set(**_rate(x))), 0.01, 0.0, "error"),
    ),
    "R2": (
        Case(lambda x: _vital(("", "saturated_units", x)), 0.499, 0.501, "warning"),
        Case(lambda x: _vital(("", "saturated_units", x)), 0.499, 0.901, "error"),
        Case(lambda x: Made(change=_set(**_rate(x))), 0.899, 0.901, "warning"),
    ),
    "R3": (Case(_lost, 1, 2, "note"), Case(_lost, 1, 3, "warning")),
    "R4": (Case(_layers, 0.0102, 0.0098, "note"),),
    "R5": (Case(_off_law, 2.95, 3.05, "note"),),
    "G1": (
        Case(lambda x: Made(change=_covered(x)), 0.151, 0.149, "warning"),
        Case(lambda x: Made(change=_covered(x)), 0.151, 0.049, "error"),
        Case(
            lambda x: Made(
                change=_covered(x), header=_surrogate(shape="rectangular", peak=1.0, width=0.2)
            ),
            0.151,
            0.149,
            "note",
        ),
    ),
    "G2": (
        Case(
            lambda x: Made(change=_gradient(lambda k, t: x if k == 0 else 1.0)),
            0.101,
            0.099,
            "warning",
        ),
        Case(
            lambda x: Made(change=_gradient(lambda k, t: x if k == 0 else 1.0)),
            0.101,
            0.00099,
            "error",
        ),
    ),
    "G3": (
        Case(lambda x: Made(change=_first_timestep(x)), 0.101, 0.099, "warning"),
        Case(lambda x: Made(change=_first_timestep(x)), 0.101, 0.00099, "error"),
    ),
    "G4": (Case(lambda x: Made(change=_set(surrogate_square=x**2)), 0.101, 0.099, "warning"),),
    "G5": (
        Case(
            lambda x: Made(change=_gradient(lambda k, t: x if k == 0 else 1.0)),
            9.9,
            10.1,
            "warning",
        ),
        Case(
            lambda x: Made(change=_gradient(lambda k, t: x if k == 0 else 1.0)),
            9.9,
            1010.0,
            "error",
        ),
    ),
    # Leaks of 0.5 over 4 timesteps add up to 1.875.
    "G6": (
        Case(lambda x: Made(change=_first_timestep(x)), 18.6, 18.9, "warning"),
        Case(lambda x: Made(change=_first_timestep(x)), 18.6, 1890.0, "error"),
    ),
    "G7": (
        Case(lambda x: Made(change=_gradient(lambda k, t: 1.0 if k else x)), 1e-12, 0.0, "error"),
        Case(
            lambda x: _vital(
                ("a.weight", "gradient_norm", 1.0),
                ("b.weight", "no_gradient" if x else "gradient_norm", 1.0),
            ),
            0,
            1,
            "warning",
        ),
    ),
    "G8": (
        Case(lambda x: Made(change=_set(grad_u_nonfinite=int(x))), 0, 1, "error"),
        Case(_once(1.0), 0, 1, "warning"),
        Case(_once(1024.0), 0, 1, "note"),
    ),
    "G9": (Case(_half, 1.02, 0.98, "warning"), Case(_half, 1.02, 9.7e-4, "error")),
    "G10": (Case(_walk, 0.0099, 0.0101, "warning"),),
    "G11": (
        Case(
            lambda x: _vital(("", "scale_felt", x), ("", "threshold", 1.0)), 0.0101, 0.0099, "note"
        ),
    ),
    "G12": (
        Case(_weights, 0.099, 0.101, "warning"),
        Case(_weights, 0.099, 1.01, "error"),
        Case(_early, 4.9, 5.1, "warning"),
        Case(lambda x: _weights(x, epsilon=1e-2), 0.0401, 0.0399, "warning"),
        Case(_weights, 1e-3, 0.0, "error"),
    ),
    "T1": (
        Case(
            lambda x: Made(scalars={"loss": np.array([1.0, 0.9, np.nan if x else 0.8])}),
            0,
            1,
            "error",
        ),
    ),
    "T2": (
        Case(lambda x: _vital(("", "threshold", x)), 3.99, 4.01, "note"),
        Case(lambda x: _vital(("", "threshold", x)), 3.99, 10.1, "warning"),
        Case(lambda x: _vital(("", "threshold", x)), 0.3, 0.0, "error"),
        Case(lambda x: _vital(("", "decay", x)), 0.87, 0.88, "note"),
        Case(lambda x: _vital(("", "decay", x)), 0.7, 1.0, "error"),
    ),
    "T3": (Case(_still, 1e-12, 0.0, "warning"),),
    "T4": (
        Case(
            lambda x: Made(vitals=[(NAMES[1], "norm", "norm_shift", x, 1)]), 0.499, 0.501, "warning"
        ),
    ),
    "T5": (
        Case(lambda x: _norm(x, 0.0), 0.249, 0.251, "warning"),
        Case(lambda x: _norm(x, 1.0), 0.999, 1.001, "warning"),
    ),
    "T6": (Case(_evaluated, 0, 1, "warning"),),
    "T7": (Case(_loss, 0.979, 0.981, "note"), Case(_loss, 0.9, 1.101, "warning")),
}
"""Code to cases, one for each bound."""
