"""What each column of the record is called, and what it means: the only place that says so.

Stored columns merge exactly over chunks of the same row; derived columns are computed from them
when a run is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Merge = Literal["key", "sum", "min", "max", "mean", "variance", "density", "exponent", "derived"]


@dataclass(frozen=True)
class Column:
    """What one column of the record is.

    Args:
        dtype: pandas dtype as stored or derived.
        unit: unit of its values; empty for keys and pure numbers.
        meaning: one sentence.
        merge: how two chunks of one row become one.
        weight: column with the number of values behind a mean or variance.
        mean: for ``merge="variance"``, the column with the mean it was taken about.
        label: axis label in figures.
        derive: for ``merge="derived"``, the function of the stored columns.
    """

    dtype: str
    unit: str
    meaning: str
    merge: Merge
    weight: str = ""
    mean: str = ""
    label: str = ""
    derive: Callable[[dict[str, Any]], Any] | None = None


def _share(part: str, whole: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: _divide(row[part], row[whole])


def _surrogate_share(part: str) -> Callable[[dict[str, Any]], Any]:
    """Return a share of elements that is unknown, not 0, where no surrogate was known."""
    return lambda row: np.where(
        np.isnan(row["surrogate_mean"]), np.nan, _divide(row[part], row["count"])
    )


def _root(square: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: np.sqrt(np.maximum(row[square], 0.0))


def _standard_error(variance: str) -> Callable[[dict[str, Any]], Any]:
    # Population variance over n independent samples: se of the mean is sqrt(var / (n - 1)).
    return lambda row: np.sqrt(_divide(row[variance], row["samples"] - 1.0))


def _divide(part: Any, whole: Any) -> Any:
    """Return part / whole, NaN where there is nothing to divide by."""
    whole = np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


COLUMNS: dict[str, Column] = {
    # What the row speaks of.
    "step": Column("int64", "", "optimiser step, counted from 0", "key", label="step"),
    "mode": Column("str", "", "train or eval", "key"),
    "layer": Column("str", "", "name of the layer in the model", "key", label="layer"),
    "t": Column(
        "int64", "", "timestep inside the sequence, counted from 1", "key", label="timestep t"
    ),
    # How much was seen.
    "samples": Column(
        "int64", "samples", "independent samples (batch elements) with a finite u", "sum"
    ),
    "count": Column("int64", "elements", "finite values of u", "sum"),
    "nonfinite": Column("int64", "elements", "values of u that are NaN or infinite", "sum"),
    "mismatch": Column(
        "int64", "elements", "spikes that the replayed u and the threshold do not explain", "sum"
    ),
    "near_mismatch": Column(
        "int64", "elements", "disagreements within float rounding of the threshold", "sum"
    ),
    # The membrane potential before the reset.
    "threshold": Column("float64", "potential", "threshold in force", "mean", weight="count"),
    "u_mean": Column(
        "float64", "potential", "mean of u", "mean", weight="count", label="mean of u"
    ),
    "u_var": Column(
        "float64", "potential^2", "variance of u", "variance", weight="count", mean="u_mean"
    ),
    "u_min": Column("float64", "potential", "smallest u", "min"),
    "u_max": Column("float64", "potential", "largest u", "max"),
    "u_sample_mean": Column(
        "float64", "potential", "mean over samples of the sample's mean u", "mean", weight="samples"
    ),
    "u_sample_var": Column(
        "float64",
        "potential^2",
        "variance over samples of the sample's mean u",
        "variance",
        weight="samples",
        mean="u_sample_mean",
    ),
    "density": Column(
        "counts",
        "elements",
        "histogram of (u - threshold) in thresholds; bin width 2^density_exponent / 64",
        "density",
    ),
    "density_exponent": Column("int64", "", "how often the range was doubled", "exponent"),
    # Input current.
    "input_mean": Column(
        "float64",
        "current",
        "mean input current where u is finite",
        "mean",
        weight="count",
        label="mean input",
    ),
    "input_var": Column(
        "float64",
        "current^2",
        "variance of the input current where u is finite",
        "variance",
        weight="count",
        mean="input_mean",
    ),
    # Spikes.
    "spikes": Column("int64", "spikes", "spikes emitted at this timestep", "sum"),
    "silent": Column("int64", "elements", "elements without a spike in timesteps 1 to t", "sum"),
    "saturated": Column("int64", "elements", "elements that fired at each timestep 1 to t", "sum"),
    "rate_sample_var": Column(
        "float64",
        "1",
        "variance over samples of the sample's firing rate",
        "variance",
        weight="samples",
        mean="rate_sample_mean",
    ),
    "rate_sample_mean": Column(
        "float64", "1", "mean over samples of the sample's firing rate", "mean", weight="samples"
    ),
    # The surrogate on the law of u.
    "surrogate_mean": Column(
        "float64", "1 / potential", "mean surrogate derivative E[s]", "mean", weight="count"
    ),
    "surrogate_square": Column(
        "float64", "1 / potential^2", "mean square of the surrogate E[s^2]", "mean", weight="count"
    ),
    "covered": Column(
        "int64", "elements", "elements where the surrogate exceeds 1e-2 of its peak", "sum"
    ),
    "open": Column("int64", "elements", "elements where the surrogate is not exactly 0", "sum"),
    "coverage_sample_var": Column(
        "float64",
        "1",
        "variance over samples of the sample's coverage",
        "variance",
        weight="samples",
        mean="coverage_sample_mean",
    ),
    "coverage_sample_mean": Column(
        "float64", "1", "mean over samples of the sample's coverage", "mean", weight="samples"
    ),
}


def _gradient_columns(name: str, what: str) -> dict[str, Column]:
    """Return the stored columns of one gradient; squares stay mergeable where roots do not."""
    return {
        f"{name}_count": Column("int64", "elements", f"finite values of {what}", "sum"),
        f"{name}_nonfinite": Column(
            "int64", "elements", f"values of {what} that are NaN or infinite", "sum"
        ),
        f"{name}_zero": Column("int64", "elements", f"values of {what} that are exactly 0", "sum"),
        f"{name}_square": Column(
            "float64", "loss^2 / ...^2", f"mean square of {what}", "mean", weight=f"{name}_count"
        ),
    }


COLUMNS |= _gradient_columns("grad_s", "dL/ds from downstream layers only")
COLUMNS |= _gradient_columns("grad_s_total", "dL/ds with the path through the reset")
COLUMNS |= _gradient_columns("grad_u", "dL/du over all paths")
COLUMNS |= {
    "grad_samples": Column("int64", "samples", "samples with a finite dL/du", "sum"),
    "grad_u_sample_mean": Column(
        "float64",
        "loss^2 / potential^2",
        "mean over samples of the sample's mean square of dL/du",
        "mean",
        weight="grad_samples",
    ),
    "grad_u_sample_var": Column(
        "float64",
        "loss^4 / potential^4",
        "variance over samples of the sample's mean square of dL/du",
        "variance",
        weight="grad_samples",
        mean="grad_u_sample_mean",
    ),
    "residual_count": Column("int64", "elements", "elements in the gradient self-check", "sum"),
    "residual_square": Column(
        "float64",
        "loss^2 / potential^2",
        "mean square of dL/du minus what the declared surrogate implies",
        "mean",
        weight="residual_count",
    ),
    # Derived on reading.
    "elements": Column(
        "int64",
        "elements",
        "values of u, finite or not",
        "derived",
        derive=lambda row: row["count"] + row["nonfinite"],
    ),
    "rate": Column(
        "float64",
        "spikes / element / timestep",
        "firing rate",
        "derived",
        label="firing rate",
        derive=lambda row: _divide(row["spikes"], row["count"] + row["nonfinite"]),
    ),
    "rate_se": Column(
        "float64",
        "spikes / element / timestep",
        "standard error of the firing rate over samples",
        "derived",
        derive=_standard_error("rate_sample_var"),
    ),
    "u_std": Column(
        "float64",
        "potential",
        "standard deviation of u",
        "derived",
        label="standard deviation of u",
        derive=_root("u_var"),
    ),
    "u_mean_se": Column(
        "float64",
        "potential",
        "standard error of the mean of u over samples",
        "derived",
        derive=_standard_error("u_sample_var"),
    ),
    "coverage": Column(
        "float64",
        "share of elements",
        "gradient coverage: share of elements where the surrogate exceeds 1e-2 of its peak",
        "derived",
        label="gradient coverage",
        derive=_surrogate_share("covered"),
    ),
    "coverage_se": Column(
        "float64",
        "share of elements",
        "standard error of the coverage over samples",
        "derived",
        derive=_standard_error("coverage_sample_var"),
    ),
    "open_share": Column(
        "float64",
        "share of elements",
        "share of elements where the surrogate is not exactly 0",
        "derived",
        label="non-zero surrogate",
        derive=_surrogate_share("open"),
    ),
    "silent_share": Column(
        "float64",
        "share of elements",
        "share of elements without a spike in timesteps 1 to t",
        "derived",
        label="silent so far",
        derive=lambda row: _divide(row["silent"], row["count"] + row["nonfinite"]),
    ),
    "saturated_share": Column(
        "float64",
        "share of elements",
        "share of elements that fired at each timestep 1 to t",
        "derived",
        label="saturated so far",
        derive=lambda row: _divide(row["saturated"], row["count"] + row["nonfinite"]),
    ),
    "grad_s_rms": Column(
        "float64",
        "loss / spike",
        "root mean square of dL/ds from downstream layers only",
        "derived",
        label="rms of dL/ds",
        derive=_root("grad_s_square"),
    ),
    "grad_s_zero_share": Column(
        "float64",
        "share of elements",
        "share of elements where dL/ds (downstream) is exactly 0",
        "derived",
        derive=_share("grad_s_zero", "grad_s_count"),
    ),
    "grad_s_total_rms": Column(
        "float64",
        "loss / spike",
        "root mean square of dL/ds with the path through the reset",
        "derived",
        derive=_root("grad_s_total_square"),
    ),
    "grad_u_rms": Column(
        "float64",
        "loss / potential",
        "root mean square of dL/du over all paths",
        "derived",
        label="rms of dL/du",
        derive=_root("grad_u_square"),
    ),
    "grad_u_rms_se": Column(
        "float64",
        "loss / potential",
        "standard error of the rms of dL/du over samples",
        "derived",
        # d sqrt(m) = dm / (2 sqrt(m))
        derive=lambda row: _divide(
            np.sqrt(_divide(row["grad_u_sample_var"], row["grad_samples"] - 1.0)),
            2.0 * np.sqrt(np.maximum(row["grad_u_square"], 0.0)),
        ),
    ),
    "grad_u_zero_share": Column(
        "float64",
        "share of elements",
        "share of elements where dL/du is exactly 0",
        "derived",
        derive=_share("grad_u_zero", "grad_u_count"),
    ),
    "residual": Column(
        "float64",
        "1",
        "gradient self-check: rms deviation from the declared surrogate over rms of dL/du",
        "derived",
        label="gradient residual",
        derive=lambda row: np.sqrt(_divide(row["residual_square"], row["grad_u_square"])),
    ),
}
