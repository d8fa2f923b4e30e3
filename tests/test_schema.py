"""The schema documents every column, and derived columns are what their documentation says."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from synthetic import row

from spikescope.data import schema
from spikescope.data.schema import (
    COLUMNS,
    DENSITY_BINS,
    DENSITY_WIDTH,
    DERIVED,
    KEYS,
    STORED,
    Column,
    coarsen_density,
    density_edges,
    derive,
)

PURE = {"step", "mode", "layer", "t", "density_exponent"}
"""Keys and exponents have no unit."""


def complaints(name: str, column: Column) -> list[str]:
    """Return what is missing from a column's documentation."""
    found = []
    if not column.meaning or "\n" in column.meaning or column.meaning.endswith("."):
        found.append("meaning is one phrase")
    if bool(column.unit) == (name in PURE):
        found.append("unit")
    if column.dtype not in ("int64", "float64", "str", "counts"):
        found.append("dtype")
    if column.merge not in get_args(schema.Merge):
        found.append("merge")
    if (column.derive is not None) != (column.merge == "derived"):
        found.append("derive")
    if bool(column.weight) != (column.merge in ("mean", "variance")):
        found.append("weight")
    if bool(column.mean) != (column.merge == "variance"):
        found.append("mean")
    if column.weight and COLUMNS[column.weight].merge != "sum":
        found.append("a weight is a count")
    if column.mean:
        about = COLUMNS[column.mean]
        if about.merge != "mean" or about.weight != column.weight:
            found.append("a variance and its mean have one weight")
    if column.merge == "sum" and column.dtype != "int64":
        found.append("what is added is whole")
    return found


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_is_documented(name: str) -> None:
    assert complaints(name, COLUMNS[name]) == []


@pytest.mark.parametrize(
    "column",
    [
        Column("float64", "", "mean of u", "mean", weight="count"),
        Column("float64", "potential", "", "min"),
        Column("float64", "potential", "mean of u", "mean"),
        Column("float64", "potential", "mean of u", "mean", weight="u_max"),
        Column("float64", "potential^2", "variance", "variance", weight="samples", mean="u_mean"),
        Column("float64", "1", "a share", "derived"),
        Column("float64", "elements", "a count", "sum"),
    ],
)
def test_a_column_with_a_hole_in_its_documentation_is_noticed(column: Column) -> None:
    assert complaints("new", column)


def test_keys_stored_and_derived_columns_part_the_schema() -> None:
    assert KEYS == ("step", "mode", "layer", "t")
    assert set(KEYS) < set(STORED)
    assert set(STORED) | set(DERIVED) == set(COLUMNS)
    assert not set(STORED) & set(DERIVED)
    assert {name for name in COLUMNS if "count" in COLUMNS[name].dtype} == {"density"}


# ---- derived columns


def one(**values: Any) -> pd.Series[Any]:
    """Return the derived columns of a row with some values replaced."""
    stored = row(0, "lif", 1) | values
    del stored["density"]
    return derive(pd.DataFrame([stored])).iloc[0]


SHARES = {
    "rate": ("spikes", ("count", "nonfinite")),
    "coverage": ("covered", ("count",)),
    "open_share": ("open", ("count",)),
    "silent_share": ("silent", ("count", "nonfinite")),
    "saturated_share": ("saturated", ("count", "nonfinite")),
    "grad_s_zero_share": ("grad_s_zero", ("grad_s_count",)),
    "grad_u_zero_share": ("grad_u_zero", ("grad_u_count",)),
}


@pytest.mark.parametrize("name", SHARES)
def test_shares_are_parts_of_the_whole(name: str) -> None:
    part, whole = SHARES[name]
    counts = {"count": 60, "nonfinite": 20, "grad_s_count": 50, "grad_u_count": 40}
    total = sum(counts[entry] for entry in whole)
    assert one(**counts, **{part: 15})[name] == 15 / total
    assert np.isnan(one(**dict.fromkeys(counts, 0), **{part: 0})[name])


ROOTS = {
    "u_std": "u_var",
    "grad_s_rms": "grad_s_square",
    "grad_s_total_rms": "grad_s_total_square",
    "grad_u_rms": "grad_u_square",
}


@pytest.mark.parametrize("name", ROOTS)
def test_roots_are_roots_of_their_square(name: str) -> None:
    assert one(**{ROOTS[name]: 6.25e-4})[name] == 0.025
    assert one(**{ROOTS[name]: 0.0})[name] == 0.0
    assert np.isnan(one(**{ROOTS[name]: np.nan})[name])


def test_elements_and_residual() -> None:
    assert one(count=7, nonfinite=3)["elements"] == 10
    assert one(residual_square=4e-6, grad_u_square=1e-4)["residual"] == pytest.approx(0.2)
    assert np.isnan(one(residual_square=4e-6, grad_u_square=0.0)["residual"])


def test_every_derived_column_has_a_test_here() -> None:
    errors = {"rate_se", "u_mean_se", "coverage_se", "grad_u_rms_se"}
    assert set(DERIVED) == {*SHARES, *ROOTS, *errors, "elements", "residual"}


def sampled(rng: np.random.Generator, samples: int = 40, units: int = 25) -> dict[str, Any]:
    """Return the sample columns of correlated data: units of a sample share an offset."""
    u = 0.5 + 0.3 * rng.standard_normal((samples, 1)) + rng.standard_normal((samples, units))
    out: dict[str, Any] = {"samples": samples, "grad_samples": samples, "count": u.size}
    for name, values in (
        ("u", u.mean(1)),
        ("rate", (u > 1.0).mean(1)),
        ("coverage", (np.abs(u - 1.0) < 0.5).mean(1)),
        ("grad_u", (u**2).mean(1)),
    ):
        out |= {f"{name}_sample_mean": values.mean(), f"{name}_sample_var": values.var()}
        out[f"_{name}"] = values
    return out | {"grad_u_square": (u**2).mean()}


ERRORS = {
    "u_mean_se": ("u", lambda means: means.mean(-1)),
    "rate_se": ("rate", lambda rates: rates.mean(-1)),
    "coverage_se": ("coverage", lambda shares: shares.mean(-1)),
    "grad_u_rms_se": ("grad_u", lambda squares: np.sqrt(squares.mean(-1))),
}


@pytest.mark.parametrize("name", ERRORS)
def test_standard_errors_equal_the_bootstrap_over_samples(name: str) -> None:
    rng = np.random.default_rng(11)
    source, estimate = ERRORS[name]
    record = sampled(rng, samples=400)
    stated = one(**{key: value for key, value in record.items() if key[0] != "_"})[name]
    values = record[f"_{source}"]
    draws = 4000
    resampled = estimate(values[rng.integers(0, len(values), (draws, len(values)))])
    # A standard deviation of 4000 draws is known to 1/sqrt(8000) = 1.1 %; the bootstrap divides by
    # n where the error divides by n - 1, 0.13 %; the root's curvature is below 1 %. Four of them.
    assert resampled.std() == pytest.approx(stated, rel=0.05)
    # Counting units as independent, a tempting mistake, is refused.
    assert resampled.std() != pytest.approx(stated * np.sqrt(1 / 25), rel=0.05)


def test_standard_errors_equal_the_spread_of_repeated_recordings() -> None:
    rng = np.random.default_rng(3)
    repeats = [sampled(rng) for _ in range(1500)]
    keep = [{key: value for key, value in one_.items() if key[0] != "_"} for one_ in repeats]
    stored = row(0, "lif", 1)
    del stored["density"]
    table = derive(pd.DataFrame([stored | entry for entry in keep]))
    for name, (source, estimate) in ERRORS.items():
        figures = estimate(np.stack([entry[f"_{source}"] for entry in repeats]))
        # 1500 repeats know the spread to 1.8 %; mean of se^2 is unbiased for a mean.
        stated = np.sqrt((table[name] ** 2).mean())
        assert figures.std() == pytest.approx(stated, rel=4 * 0.018), name


def test_one_sample_has_no_standard_error() -> None:
    values = one(samples=1, grad_samples=1)
    assert values[list(ERRORS)].isna().all()


# ---- density


def test_edges_double_and_keep_the_threshold_in_the_middle() -> None:
    for exponent in (0, 1, 7):
        edges = density_edges(exponent)
        assert len(edges) == DENSITY_BINS + 1
        assert edges[DENSITY_BINS // 2] == 0.0
        assert np.array_equal(np.diff(edges), np.full(DENSITY_BINS, DENSITY_WIDTH * 2**exponent))
        inner = density_edges(exponent + 1)
        assert set(inner[64:193:1]) <= set(edges)


@pytest.mark.parametrize("doublings", [0, 1, 3, 8, 70])
def test_coarsening_is_the_histogram_at_the_wider_range(doublings: int) -> None:
    rng = np.random.default_rng(doublings)
    values = rng.standard_normal(5000).clip(-1.99, 1.99)
    fine = np.histogram(values, density_edges(0))[0]
    coarse = coarsen_density(np.stack([fine, 2 * fine]), doublings)
    want = np.histogram(values, density_edges(doublings))[0]
    assert np.array_equal(coarse, np.stack([want, 2 * want]))
    assert coarse.sum() == 15000
    assert doublings == 0 or not np.array_equal(coarse[0], fine)


def test_coverage_without_a_surrogate_is_unknown_not_zero() -> None:
    one = row(0, "a", 1)
    unknown = one | {"surrogate_mean": float("nan"), "covered": 0, "open": 0}
    table = pd.DataFrame([one, unknown]).drop(columns="density")
    derived = schema.derive(table)
    assert derived["coverage"].isna().tolist() == [False, True]
    assert derived["open_share"].isna().tolist() == [False, True]
    assert derived["rate"].notna().all()
