"""What the accumulators must say: two-pass float64 over the whole data, and ways to cut it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from spikescope.analysis.surrogate import Surrogate
from spikescope.data.merge import merge_rows
from spikescope.data.schema import (
    COLUMNS,
    COVERAGE_EPSILON,
    density_edges,
)
from spikescope.probes.accumulators import (
    ROUNDING_ULPS,
    backward_block,
    forward_block,
    merge,
)
from spikescope.probes.capture import Gradients

SURROGATE = Surrogate("fast_sigmoid", peak=1.5, width=0.125)

Row = dict[str, np.ndarray]


# ---- the oracle: the whole data at once, plain numpy, float64, two passes


def _mean_and_var(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return np.nan, np.nan
    mean = values.mean()
    return float(mean), float(((values - mean) ** 2).mean())


def forward_truth(data: dict[str, Any], surrogate: Surrogate | None = SURROGATE) -> Row:
    """Return every forward column of the whole data, and under ``tol`` what rounding allows."""
    threshold, scale, t = data["threshold"], data["scale"], data["t"]
    dtype = data["u"].dtype
    eps = float(np.finfo(dtype).eps)
    timesteps, samples = data["u"].shape[:2]
    u, implied, spikes, current = (
        data[name].reshape(timesteps, samples, -1) for name in ("u", "implied", "spikes", "current")
    )
    units = u.shape[-1]
    fired = data["fired_before"].reshape(samples, -1)
    rows: dict[str, list[Any]] = {}
    for k in range(timesteps):
        fired = fired + spikes[k]
        with np.errstate(invalid="ignore", over="ignore"):
            # One subtraction in the data's own dtype: that is what the layer compares with 0.
            z_own = u[k] - dtype.type(threshold)
        finite = np.isfinite(z_own)
        seen = finite.any(1)
        z = z_own[finite].astype(float)
        exact = u[k][finite].astype(float)
        row: dict[str, Any] = {
            "samples": seen.sum(),
            "count": finite.sum(),
            "nonfinite": (~finite).sum(),
            "threshold": threshold,
            "u_min": exact.min(initial=np.inf) if z.size else np.nan,
            "u_max": exact.max(initial=-np.inf) if z.size else np.nan,
            "spikes": spikes[k].sum(),
            "silent": (fired == 0).sum(),
            "saturated": (fired == t + k).sum(),
        }
        row["u_mean"], row["u_var"] = _mean_and_var(exact)
        row["input_mean"], row["input_var"] = _mean_and_var(current[k][finite].astype(float))
        wrong = (implied[k] != spikes[k]) & finite
        near = np.abs(np.where(finite, z_own, 0)) <= ROUNDING_ULPS * eps * scale
        row["mismatch"], row["near_mismatch"] = (wrong & ~near).sum(), (wrong & near).sum()
        # Beyond the dtype's largest number lies the last bin.
        largest = float(np.finfo(dtype).max)
        places = (z / scale).clip(-largest, largest)
        reach = np.abs(places).max(initial=0.0)
        exponent = 0
        while reach >= 2.0 * 2.0**exponent:
            exponent += 1
        row["density_exponent"] = exponent
        row["density"] = np.histogram(places, density_edges(exponent))[0]
        means = np.array([u[k, i][finite[i]].astype(float).mean() for i in np.flatnonzero(seen)])
        row["u_sample_mean"], row["u_sample_var"] = _mean_and_var(means)
        rates = spikes[k][seen].astype(float).mean(1)
        row["rate_sample_mean"], row["rate_sample_var"] = _mean_and_var(rates)
        row["ambiguous"] = 0
        if surrogate is None:
            row |= {"covered": 0, "open": 0}
            for name in ("surrogate_mean", "surrogate_square"):
                row[name] = np.nan
            row["coverage_sample_mean"] = row["coverage_sample_var"] = np.nan
        else:
            slope = np.asarray(surrogate.derivative(np.where(finite, z_own, 0).astype(float)))
            row["surrogate_mean"] = slope[finite].mean() if z.size else np.nan
            row["surrogate_square"] = (slope[finite] ** 2).mean() if z.size else np.nan
            level = COVERAGE_EPSILON * surrogate.peak
            covered = (slope > level) & finite
            row["covered"] = covered.sum()
            row["ambiguous"] = (finite & (np.abs(slope / level - 1.0) < 1e2 * eps)).sum()
            # A slope below the dtype's smallest number is 0 there.
            row["open"] = (finite & (slope.astype(dtype) != 0)).sum()
            shares = covered.sum(1)[seen] / finite.sum(1)[seen]
            row["coverage_sample_mean"], row["coverage_sample_var"] = _mean_and_var(shares)
        row["tol"] = _forward_tolerance(row, z, current[k][finite], units, threshold, eps)
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}


def _forward_tolerance(
    row: dict[str, Any],
    z: np.ndarray,
    current: np.ndarray,
    units: int,
    threshold: float,
    eps: float,
) -> dict[str, float]:
    """Return error bounds: a sum of n terms in any order is off by at most n eps of its size."""
    size = max(float(np.abs(z).max(initial=0.0)), abs(threshold))
    mean = (units + 8) * eps * size
    size = float(np.abs(current.astype(float)).max(initial=0.0))
    mean_input = (units + 8) * eps * size + 1e-44
    slope = 1.5 * (units + 16) * eps + 1e-40
    double = 1e-13

    def spread(variance: float, error: float) -> float:
        # Moving every value by at most ``error`` moves a variance by 2 std error + error^2.
        std = np.sqrt(np.nan_to_num(variance))
        return float(4.0 * (std * error + error**2) + 2 * (units + 8) * eps * std**2)

    return {
        "u_mean": mean,
        "u_var": spread(row["u_var"], mean),
        "u_min": mean,
        "u_max": mean,
        "u_sample_mean": mean,
        "u_sample_var": spread(row["u_sample_var"], mean),
        "input_mean": mean_input,
        "input_var": spread(row["input_var"], mean_input),
        "surrogate_mean": slope,
        "surrogate_square": 2 * slope,
        "threshold": double,
        "rate_sample_mean": double,
        "rate_sample_var": double,
        "coverage_sample_mean": double,
        "coverage_sample_var": double,
    }


def backward_truth(gradients: dict[str, np.ndarray]) -> Row:
    """Return every gradient column of the whole data, and the tolerances."""
    timesteps, samples = gradients["u"].shape[:2]
    eps = float(np.finfo(gradients["u"].dtype).eps)
    rows: dict[str, list[Any]] = {}
    for k in range(timesteps):
        row: dict[str, Any] = {"tol": {}}
        for name in ("s", "s_total", "u", "residual"):
            values = gradients[name][k].reshape(samples, -1)
            relative = 2 * (values.shape[1] + 8) * eps
            finite = np.isfinite(values)
            kept = values[finite].astype(float)
            key = "residual" if name == "residual" else f"grad_{name}"
            square = (kept**2).mean() if kept.size else np.nan
            row |= {f"{key}_count": kept.size, f"{key}_square": square}
            row["tol"][f"{key}_square"] = relative * np.nan_to_num(square)
            if name != "residual":
                row |= {f"{key}_nonfinite": (~finite).sum(), f"{key}_zero": (kept == 0).sum()}
            if name == "u":
                each = np.array(
                    [
                        (one[use].astype(float) ** 2).mean()
                        for one, use in zip(values, finite, strict=True)
                        if use.any()
                    ]
                )
                row["grad_samples"] = len(each)
                mean, var = _mean_and_var(each)
                row["grad_u_sample_mean"], row["grad_u_sample_var"] = mean, var
                error = relative * each.max(initial=0.0)
                row["tol"]["grad_u_sample_mean"] = error
                row["tol"]["grad_u_sample_var"] = 4 * (
                    np.sqrt(np.nan_to_num(var)) * error + error**2
                )
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}


def check(block: dict[str, Any], truth: Row) -> None:
    """Demand counts and densities bit for bit, moments within the bounds of their arithmetic."""
    for name in block:
        got = np.array([np.asarray(value) for value in block[name]])
        want = truth[name]
        if name in ("covered", "coverage_sample_mean", "coverage_sample_var"):
            clear = truth["ambiguous"] == 0
            got, want = got[clear], want[clear]
            if name == "covered":
                assert np.all(np.abs(np.asarray(block[name]) - truth[name]) <= truth["ambiguous"])
        if COLUMNS[name].dtype != "float64":
            assert np.array_equal(got, want), (name, got, want)
            continue
        tolerances = [entry[name] for entry in truth["tol"]]
        if len(got) != len(tolerances):
            tolerances = [tol for tol, use in zip(tolerances, clear, strict=True) if use]
        for one, other, tolerance in zip(got, want, tolerances, strict=True):
            same = (np.isnan(one) and np.isnan(other)) or abs(one - other) <= tolerance
            assert same, f"{name}: {one!r} is not {other!r} within {tolerance!r}"


# ---- how the data are cut and folded


def forward_of(data: dict[str, Any], part: slice, surrogate: Surrogate | None = SURROGATE) -> Any:
    """Return the block of some of the samples."""
    u, implied, spikes, current = (
        torch.from_numpy(data[name][:, part]) for name in ("u", "implied", "spikes", "current")
    )
    return forward_block(
        u,
        implied,
        spikes,
        current,
        threshold=data["threshold"],
        scale=data["scale"],
        surrogate=surrogate,
        fired_before=torch.from_numpy(data["fired_before"][part]),
        t=data["t"],
    )


def backward_of(gradients: dict[str, np.ndarray], part: slice) -> Any:
    return backward_block(
        Gradients(**{name: torch.from_numpy(values[:, part]) for name, values in gradients.items()})
    )


def fold(blocks: list[Any]) -> Any:
    merged = blocks[0]
    for block in blocks[1:]:
        merged = merge(merged, block)
    return merged


def fold_on_host(blocks: list[Any]) -> dict[str, Any]:
    """Merge the same blocks as rows, as a reader of several parts would."""
    tables = []
    for block in blocks:
        table = {name: list(values.numpy()) for name, values in block.items()}
        tables.append(pd.DataFrame({"t": range(len(next(iter(table.values())))), **table}))
    merged = merge_rows(pd.concat(tables, ignore_index=True), ["t"])
    return {name: list(merged[name]) for name in blocks[0]}


FOLDS = {"device": fold, "host": fold_on_host}


def slices(samples: int, cuts: set[int]) -> list[slice]:
    """Return the pieces between sorted cuts."""
    ends = [0, *sorted(cut % samples for cut in cuts if cut % samples), samples]
    ends = sorted(set(ends))
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


ODD = [0.0, 1.0, -1.0, 3.0, -3.0, 1e30, -1e30, 3e38, np.nan, np.inf, -np.inf, 1e-40]


@st.composite
def datasets(draw: st.DrawFn, dtype: Any = None) -> dict[str, Any]:
    """Draw potentials with every oddity that a diverging layer shows."""
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])) if dtype is None else dtype)
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 6)),
        *draw(st.sampled_from([(1,), (4,), (2, 3)])),
    )
    offset, spread = draw(st.sampled_from([(0.0, 1.0), (0.5, 0.25), (1e4, 1.0), (-3e-3, 1e-3)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    threshold, scale = draw(st.sampled_from([(1.0, 1.0), (0.5, 0.5), (0.25, 1.0)]))
    u = (offset + spread * rng.standard_normal(shape)).astype(dtype)
    current = (spread * rng.standard_normal(shape)).astype(dtype)
    odd = draw(arrays(np.int64, shape, elements=st.integers(-1, len(ODD) - 1), fill=st.just(-1)))
    u[odd >= 0] = np.array(ODD, dtype=dtype)[odd[odd >= 0]]
    if draw(st.booleans()):
        u[:, draw(st.integers(0, shape[1] - 1))] = np.nan  # a whole sample
    if draw(st.integers(0, 7)) == 0:
        u[draw(st.integers(0, shape[0] - 1))] = np.nan  # a whole timestep
    # No finite potential comes from an input that is none.
    current[~np.isfinite(u)] = draw(st.sampled_from([np.nan, np.inf, 0.5]))
    implied = (u >= threshold).astype(dtype)
    spikes = np.where(rng.random(shape) < 0.1, 1 - implied, implied).astype(dtype)
    t = draw(st.integers(1, 3))
    fired = rng.integers(0, t, shape[1:]).astype(dtype)
    return {
        "u": u,
        "implied": implied,
        "spikes": spikes,
        "current": current,
        "fired_before": fired,
        "threshold": threshold,
        "scale": scale,
        "t": t,
    }


def random_gradients(
    seed: int, size: float, shape: Any, bad: float = 0.0, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """Return gradients of one size, a fifth of them 0, a share of them NaN or infinite."""
    rng = np.random.default_rng(seed)
    out = {}
    for name in ("s", "s_total", "u", "residual"):
        values = size * rng.standard_normal(shape)
        values[rng.random(shape) < 0.2] = 0.0
        values[rng.random(shape) < bad / 2] = np.nan
        values[rng.random(shape) < bad / 2] = -np.inf
        out[name] = values.astype(dtype)
    return out


# ---- data of one kind


def plain_data(
    samples: int = 8,
    offset: float = 0.0,
    spread: float = 1.0,
    seed: int = 0,
    dtype: Any = np.float32,
) -> dict[str, Any]:
    """Return Gaussian potentials whose mean grows from sample to sample."""
    rng = np.random.default_rng(seed)
    shape = (3, samples, 16)
    u = offset + spread * (rng.standard_normal(shape) + np.linspace(-1, 1, samples)[:, None])
    u = u.astype(dtype)
    implied = (u >= 1.0).astype(dtype)
    return {
        "u": u,
        "implied": implied,
        "spikes": implied,
        "current": u / 2,
        "fired_before": np.zeros(shape[1:], dtype=dtype),
        "threshold": 1.0,
        "scale": 1.0,
        "t": 1,
    }


def halves(data: dict[str, Any]) -> list[Any]:
    middle = data["u"].shape[1] // 2
    return [forward_of(data, slice(0, middle)), forward_of(data, slice(middle, None))]


def block_of(u: Tensor, surrogate: Surrogate | None = SURROGATE, **more: Any) -> Any:
    """Return the block of a potential with spikes at 1 and the potential as its own input."""
    spikes = more.pop("spikes", (u >= 1.0).to(u.dtype))
    settings_ = {"threshold": 1.0, "scale": 1.0, "fired_before": torch.zeros_like(u[0]), "t": 1}
    return forward_block(u, spikes, spikes, u, surrogate=surrogate, **(settings_ | more))
