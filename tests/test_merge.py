"""Rows of the record merge as if their data had been seen at once, in any order and grouping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import columns, row

from spikescope.data.merge import merge_rows
from spikescope.data.schema import COLUMNS, KEYS, STORED, density_edges


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(columns(list(rows)))


def seen(values: np.ndarray, exponent: int = 0) -> dict[str, Any]:
    """Return a row that describes one sample of values, by plain numpy."""
    entry = row(0, "lif", 1, exponent=exponent)
    return entry | {
        "samples": 1,
        "count": len(values),
        "u_mean": values.mean() if len(values) else np.nan,
        "u_var": values.var() if len(values) else np.nan,
        "u_min": values.min() if len(values) else np.nan,
        "u_max": values.max() if len(values) else np.nan,
        "spikes": int((values > 1).sum()),
        "density": np.histogram(values - 1.0, density_edges(exponent))[0],
    }


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    exponents=st.lists(st.integers(2, 5), min_size=6, max_size=6),
    offset=st.sampled_from([0.0, 6.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_merged_rows_describe_all_the_data(
    sizes: list[int], exponents: list[int], offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    chunks = [offset + rng.random(size) for size in sizes]
    rows = [seen(chunk, exponent) for chunk, exponent in zip(chunks, exponents, strict=False)]
    merged = merge_rows(table(*rows))
    assert len(merged) == 1
    whole = seen(np.concatenate(chunks), max(exponents[: len(sizes)]))
    for name in ("count", "spikes", "density_exponent"):
        assert merged[name][0] == whole[name], name
    assert np.array_equal(merged["density"][0], whole["density"])
    for name in ("u_mean", "u_var", "u_min", "u_max"):
        # At most 54 additions of numbers below 7.
        assert merged[name][0] == pytest.approx(whole[name], abs=1e-13 * 49, nan_ok=True), name


def test_a_variance_pooled_without_its_means_would_differ() -> None:
    low, high = np.array([0.0, 0.2]), np.array([6.0, 6.2])
    merged = merge_rows(table(seen(low), seen(high)))
    truth = np.concatenate([low, high]).var()
    assert merged["u_var"][0] == pytest.approx(truth, rel=1e-14)
    naive = (low.var() + high.var()) / 2
    assert naive != pytest.approx(truth, rel=0.5)


@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_order_and_grouping_of_merges_do_not_matter(order: list[int], cut: int) -> None:
    rows = [row(0, "lif", 1, mean=0.1 * k, samples=8 + k, exponent=k % 3) for k in range(5)]
    at_once = merge_rows(table(*rows))
    mixed = [rows[k] for k in order]
    parts = [merge_rows(table(*mixed[:cut])), merge_rows(table(*mixed[cut:]))]
    in_two = merge_rows(pd.concat(parts, ignore_index=True))
    for name in STORED:
        one, two = at_once[name][0], in_two[name][0]
        if COLUMNS[name].dtype == "float64":
            # Ten roundings of the largest value at play.
            assert one == pytest.approx(two, rel=1e-13, abs=1e-15), name
        else:
            assert np.array_equal(one, two), name


def test_rows_that_differ_in_a_key_stay_apart_in_order_of_appearance() -> None:
    rows = [
        row(5, "b", 2),
        row(0, "a", 1),
        row(5, "b", 2, mode="eval"),
        row(5, "b", 2),
        row(5, "b", 1),
    ]
    merged = merge_rows(table(*rows))
    keys = list(zip(*(merged[name] for name in KEYS), strict=True))
    assert keys == [
        (5, "train", "b", 2),
        (0, "train", "a", 1),
        (5, "eval", "b", 2),
        (5, "train", "b", 1),
    ]
    assert merged["count"].tolist() == [12800, 6400, 6400, 6400]
    by_layer = merge_rows(table(*rows), ["layer"])
    assert by_layer["count"].tolist() == [4 * 6400, 6400]
    assert by_layer["step"].tolist() == [5, 0]


def test_a_single_row_is_itself() -> None:
    alone = table(row(3, "lif", 2, exponent=1))
    merged = merge_rows(alone)
    for name in STORED:
        same = np.array_equal(merged[name][0], alone[name][0])
        # weight * value / weight rounds twice.
        close = COLUMNS[name].dtype == "float64" and merged[name][0] == pytest.approx(
            alone[name][0], rel=4e-16, abs=0
        )
        assert same or close, name


def test_counts_beyond_the_whole_numbers_of_a_float_stay_exact() -> None:
    large = 2**53
    rows = [row(0, "lif", 1) | {"spikes": large}, row(0, "lif", 1) | {"spikes": 1}]
    assert merge_rows(table(*rows))["spikes"][0] == large + 1
    assert int(float(large) + 1.0) != large + 1  # what adding as floats would say


def test_an_unseen_row_spoils_nothing_and_keeps_the_threshold() -> None:
    lost = row(0, "lif", 1) | {"count": 0, "samples": 0, "density": np.zeros(256, dtype=int)}
    floats = [name for name in STORED if COLUMNS[name].dtype == "float64" and name != "threshold"]
    weighed = [name for name in floats if COLUMNS[name].weight in ("count", "samples")]
    lost |= dict.fromkeys([*weighed, "u_min", "u_max"], np.nan)
    sound = row(0, "lif", 1)
    merged = merge_rows(table(lost, sound))
    for name in [*weighed, "u_min", "u_max"]:
        assert merged[name][0] == pytest.approx(sound[name], rel=4e-16), name
    both = merge_rows(table(lost, lost))
    assert both["threshold"][0] == 1.0
    assert both[weighed].isna().all(axis=None)
    # A chunk that holds NaN but claims weight is not hidden.
    claimed = merge_rows(table(lost | {"count": 1}, sound))
    assert np.isnan(claimed["u_mean"][0])


def test_no_rows_merge_to_no_rows() -> None:
    empty = table(row(0, "lif", 1)).iloc[:0]
    merged = merge_rows(empty)
    assert len(merged) == 0
    assert set(merged) == set(STORED)
