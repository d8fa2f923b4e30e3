"""Runs made of Gaussian laws, written through the real store: what the readers are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from spikescope.data.schema import COLUMNS, DENSITY_BINS, STORED, density_edges
from spikescope.data.store import RunStore

SPEC = {"decay": 0.5, "gain": 1.0, "threshold": 1.0, "reset": "subtract", "start": 0.0}
SURROGATE = {"shape": "fast_sigmoid", "peak": 1.0, "width": 0.1, "tail": 2.0}


def header(names: list[str], **more: Any) -> dict[str, Any]:
    """Return a run header with one covered layer per name."""
    layers = [
        {"name": name, "kind": "LIF", "spec": SPEC, "surrogate": SURROGATE, "scale": 1.0}
        for name in names
    ]
    return {"layers": layers, "model": "Synthetic", "seed": 0, "versions": {}, **more}


def row(
    step: int,
    layer: str,
    t: int,
    *,
    mode: str = "train",
    mean: float = 0.4,
    std: float = 0.5,
    samples: int = 64,
    units: int = 100,
    grad: float = 1e-3,
    exponent: int = 0,
) -> dict[str, Any]:
    """Return one record row whose u is exactly Gaussian up to whole counts."""
    count = samples * units
    edges = density_edges(exponent)
    mass = np.diff(stats.norm.cdf(edges, loc=mean - 1.0, scale=std))
    density = np.round(count * mass).astype(np.int64)
    density[np.argmax(density)] += count - density.sum()
    rate = float(stats.norm.sf(1.0, mean, std))
    covered = float(np.diff(stats.norm.cdf([1.0 - 0.9, 1.0 + 0.9], mean, std))[0])
    values: dict[str, Any] = {name: 0 for name in STORED if COLUMNS[name].dtype == "int64"}
    values |= {name: 0.0 for name in STORED if COLUMNS[name].dtype == "float64"}
    values |= {
        "step": step,
        "mode": mode,
        "layer": layer,
        "t": t,
        "samples": samples,
        "count": count,
        "threshold": 1.0,
        "u_mean": mean,
        "u_var": std**2,
        "u_min": mean - 4 * std,
        "u_max": mean + 4 * std,
        "u_sample_mean": mean,
        "u_sample_var": std**2 / units * 4,
        "density": density,
        "density_exponent": exponent,
        "input_mean": mean / 2,
        "input_var": std**2 * 0.75,
        "spikes": round(count * rate),
        "silent": round(count * 0.5),
        "rate_sample_mean": rate,
        "rate_sample_var": rate * (1 - rate) / units * 4,
        "surrogate_mean": 0.3,
        "surrogate_square": 0.15,
        "covered": round(count * covered),
        "open": count,
        "coverage_sample_mean": covered,
        "coverage_sample_var": covered * (1 - covered) / units * 4,
        "grad_samples": samples,
        "grad_u_sample_mean": grad**2,
        "grad_u_sample_var": grad**4,
    }
    for name in ("grad_s", "grad_s_total", "grad_u"):
        values |= {f"{name}_count": count, f"{name}_square": grad**2}
    assert set(values) == set(STORED)
    assert len(density) == DENSITY_BINS
    return values


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into the columns that the store takes."""
    return {name: [entry[name] for entry in rows] for name in STORED}


def write_run(
    path: Path,
    *,
    layers: int | list[str] = 4,
    timesteps: int = 6,
    steps: range = range(0, 200, 50),
    finish: bool = True,
    **more: Any,
) -> Path:
    """Write a whole run in which u drifts from the start potential and gradients fall with depth.

    Layer k at timestep t and record r has mean 0.6 (1 - 0.5^t), standard deviation
    0.4 + 0.02 k and rms dL/du of 1e-2 * 0.5^(depth from the top).
    """
    names = [f"block{k}.lif" for k in range(layers)] if isinstance(layers, int) else layers
    store = RunStore(path, header(names, **more))
    for step in steps:
        rows = [
            row(
                step,
                name,
                t,
                mean=0.6 * (1 - 0.5**t) - 0.001 * step,
                std=0.4 + 0.02 * (k % 10),
                grad=1e-2 * 0.5 ** min(len(names) - 1 - k, 40),
            )
            for k, name in enumerate(names)
            for t in range(1, timesteps + 1)
        ]
        store.append("records", columns(rows))
        loss = 2.3 * np.exp(-step / 100)
        store.append("scalars", {"step": [step], "name": ["loss"], "value": [loss]})
    if finish:
        store.end("finished", steps=steps.stop)
    return store.path
