"""Time of a stationary law against simulation at equal error, over 100 random layers.

Run on one core: ``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python stationary_speed.py``. Writes
``results/stationary_speed.json`` and exits with 1 if a bound is missed.

The simulation is given every advantage: it starts in the stationary law (no burn-in), keeps every
timestep, estimates the mean of u only, and its standard error is measured from independent units.
Errors below what it reaches in its own run are extrapolated by time ~ 1 / error^2; the run with
four times the units checks that law.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from rich.progress import track

from spikescope.analysis.neuron import NeuronSpec, after_reset, step
from spikescope.analysis.stationary import StationaryLaw, stationary_law

LAYERS = 100
UNITS, STEPS = 5_000, 100
MAX_MEDIAN_MS = 20.0
MIN_SPEEDUP = 1000.0
# The largest of 100 normal z-scores is beyond this once in 150 runs.
MAX_Z = 4.0
# The error that the solver promises, relative to the standard deviation of u.
PROMISED = 1e-6
RESULT = Path(__file__).parent / "results" / "stationary_speed.json"


def random_layer(rng: np.random.Generator) -> tuple[NeuronSpec, float, float]:
    """Return a layer with threshold 1 and the mean and std of its input after the gain."""
    decay = float(rng.uniform(0, 0.99))
    reset = str(rng.choice(["subtract", "to_value"]))
    spec = NeuronSpec(decay=decay, reset=reset)
    # The mean drive in thresholds at rest: from silent to about one spike at every other step.
    mean = (1 - decay) * float(rng.uniform(-0.5, 1.0)) + float(rng.uniform(0, 0.5))
    return spec, mean, float(10 ** rng.uniform(-1.3, 0.3))


def solve(spec: NeuronSpec, mean: float, std: float) -> tuple[StationaryLaw, float, float]:
    """Return the law, its error relative to std of u, and the seconds for all its figures.

    Timed: mean, std, rate of u and v, lambda 2 and 3, and the error estimate of each.
    """
    began = time.perf_counter()
    law = stationary_law(spec, mean, std)
    error = law.error
    seconds = time.perf_counter() - began
    worst = max(error["mean"] / law.std, error["std"] / law.std, error["rate"])
    return law, max(worst, 1e-12), seconds


def simulate(
    spec: NeuronSpec, mean: float, std: float, law: StationaryLaw, units: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:  # fmt: skip
    """Return seconds, standard error of the mean of u relative to its std, and its z-score."""
    grid = law.grid(4001)
    u = np.interp(rng.random(units), law.cdf(grid), grid)
    v = after_reset(spec, u, (u >= spec.threshold) * 1.0)
    total = np.zeros(units)
    began = time.perf_counter()
    for _ in range(STEPS):
        u, _, v = step(spec, v, mean + std * rng.standard_normal(units))
        total += u
    seconds = time.perf_counter() - began
    means = total / STEPS
    error = float(means.std(ddof=1) / math.sqrt(units))
    return seconds, error / law.std, float((means.mean() - law.mean) / error)


def main() -> int:
    """Run the comparison and write the result."""
    rng = np.random.default_rng(2026)
    cases = [random_layer(rng) for _ in range(LAYERS)]
    solve(*cases[0])
    rows: list[dict[str, Any]] = []
    for spec, mean, std in track(cases, description="layers"):
        law, error, seconds = solve(spec, mean, std)
        _, se, _ = simulate(spec, mean, std, law, UNITS, rng)
        four, se_four, z = simulate(spec, mean, std, law, 4 * UNITS, rng)
        target = max(error, PROMISED)
        rows.append(
            {
                "decay": spec.decay,
                "reset": spec.reset,
                "mean": mean,
                "std": std,
                "rate": law.rate,
                "lambda_2_abs": abs(law.lambda_2),
                "nodes": len(law.units[0].typical.nodes),
                "solver_ms": 1e3 * seconds,
                "solver_relative_error": error,
                "simulation_ms": 1e3 * four,
                "simulation_relative_error": se_four,
                "simulation_z_score": z,
                "error_ratio_at_4_times_the_units": se / se_four,
                "speedup_at_promised_error": four * (se_four / target) ** 2 / seconds,
                "speedup_at_solver_error": four * (se_four / error) ** 2 / seconds,
                "time_ratio_at_simulation_error": four / seconds,
            }
        )
    times = np.array([row["solver_ms"] for row in rows])
    gain = np.array([row["speedup_at_promised_error"] for row in rows])
    errors = np.array([row["solver_relative_error"] for row in rows])
    summary = {
        "layers": LAYERS,
        "solver_ms_median": float(np.median(times)),
        "solver_ms_90_percent": float(np.quantile(times, 0.9)),
        "solver_ms_max": float(times.max()),
        "solver_relative_error_median": float(np.median(errors)),
        "solver_relative_error_max": float(errors.max()),
        "simulation_relative_error_median": float(
            np.median([row["simulation_relative_error"] for row in rows])
        ),
        "simulation_abs_z_score_max": max(abs(row["simulation_z_score"]) for row in rows),
        "error_ratio_at_4_times_the_units_median": float(
            np.median([row["error_ratio_at_4_times_the_units"] for row in rows])
        ),
        "speedup_at_promised_error_min": float(gain.min()),
        "speedup_at_promised_error_median": float(np.median(gain)),
        "time_ratio_at_simulation_error_median": float(
            np.median([row["time_ratio_at_simulation_error"] for row in rows])
        ),
        "promised_relative_error": PROMISED,
    }
    passed = bool(
        summary["solver_ms_median"] <= MAX_MEDIAN_MS
        and summary["speedup_at_promised_error_min"] >= MIN_SPEEDUP
        and summary["solver_relative_error_max"] <= PROMISED
        and summary["simulation_abs_z_score_max"] < MAX_Z
    )
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    result = {
        "passed": passed,
        "bounds": {
            "solver_ms_median": f"<= {MAX_MEDIAN_MS:g}",
            "speedup_at_promised_error_min": f">= {MIN_SPEEDUP:g}",
            "solver_relative_error_max": f"<= {PROMISED:g}",
            "simulation_abs_z_score_max": f"< {MAX_Z:g}",
        },
        "summary": summary,
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "openblas_num_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
            "git_commit": commit,
        },
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    print("passed" if passed else "a bound was missed", "-", RESULT)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
