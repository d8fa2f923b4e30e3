"""Distances of laws against scipy, and their null bands against simulated Brownian bridges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spikescope.analysis.distance import (
    centres,
    common_bins,
    law_on_bins,
    probabilities,
    sample_shares,
    total_variation,
    total_variation_null,
    wasserstein,
    wasserstein_null,
)

EDGES = np.linspace(-2.0, 2.0, 129)
CENTRES = centres(EDGES)


def binomial_bound(rate, trials, errors=3.0):
    return rate + errors * np.sqrt(rate * (1 - rate) / trials)


def bridges(share, positions, draws, rng):
    """Simulated limits of sqrt(n) times (W1, TV) between a law and a sample of it."""
    z = rng.standard_normal((draws, len(share))) * np.sqrt(share)
    z -= share * z.sum(axis=1, keepdims=True)
    gaps = np.diff(positions)
    return np.abs(z.cumsum(axis=1)[:, :-1]) @ gaps, 0.5 * np.abs(z).sum(axis=1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    st.lists(st.floats(0.05, 3.0), min_size=4, max_size=4),
)
def test_wasserstein_of_histograms_is_scipys(a, b, widths):
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    share_a, share_b = probabilities([a, b], edges)[0]
    at = centres(edges)
    expected = stats.wasserstein_distance(at, at, share_a, share_b)
    assert wasserstein(share_a, share_b, at) == pytest.approx(expected, abs=1e-12)
    assert wasserstein(share_b, share_a, at) == pytest.approx(expected, abs=1e-12)


def test_total_variation_is_the_largest_difference_of_an_event():
    rng = np.random.default_rng(1)
    a, b = probabilities(rng.random((2, 8)), np.arange(9.0))[0]
    events = np.array(list(np.ndindex(*(2,) * 8)))
    assert total_variation(a, b) == pytest.approx(np.abs(events @ (a - b)).max(), abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=30),
    st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=30),
)
def test_distance_of_samples_is_scipys(a, b):
    share_a, share_b, positions = sample_shares(a, b)
    got = wasserstein(share_a, share_b, positions)
    assert got == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)


def test_binned_distance_is_the_samples_distance_within_a_bin():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.0, 0.4, 4000), rng.normal(0.3, 0.5, 4000)
    exact = stats.wasserstein_distance(a, b)
    for width in (0.01, 0.2):
        # Each mass moves by half a bin at most, in both samples.
        assert wasserstein(*sample_shares(a, b, width)) == pytest.approx(exact, abs=width)
    assert wasserstein(*sample_shares(a, b + 0.05, 0.01)) != pytest.approx(exact, abs=0.01)


def test_edges_of_two_families_are_refused():
    with pytest.raises(ValueError, match="does not lie inside one wanted bin"):
        common_bins([1, 1], [0.0, 1.0, 2.0], [1, 1], [0.0, 1.5, 3.0])


def test_law_on_bins_keeps_what_lies_outside():
    share = law_on_bins(stats.norm.cdf(EDGES), EDGES)
    assert share.sum() == pytest.approx(1.0, abs=1e-15)
    assert share[0] == pytest.approx(stats.norm.cdf(EDGES[1]), abs=1e-15)
    with pytest.raises(ValueError, match="must rise"):
        law_on_bins(1.0 - stats.norm.cdf(EDGES), EDGES)


LAWS = {
    "normal": np.diff(stats.norm.cdf(EDGES, 0.0, 0.4)),
    "exponential": np.diff(stats.expon.cdf(EDGES, -1.0, 0.4)),
    "two peaks": np.diff(stats.norm.cdf(EDGES, -1, 0.1) + stats.norm.cdf(EDGES, 1, 0.1)),
    "atom and normal": np.eye(128)[40] * 0.8 + 0.2 * np.diff(stats.norm.cdf(EDGES, 0.0, 0.3)),
    "two values": np.eye(128)[40] * 0.3 + np.eye(128)[80] * 0.7,
    "heavy tail": np.diff(stats.t.cdf(EDGES / 0.2, 2)),
}


@pytest.mark.parametrize("name", LAWS)
def test_null_moments_and_quantiles_against_simulated_bridges(name):
    draws = 8000
    share = LAWS[name] / LAWS[name].sum()
    simulated = bridges(share, CENTRES, draws, np.random.default_rng(4))
    nulls = wasserstein_null(share, CENTRES), total_variation_null(share)
    for values, null in zip(simulated, nulls, strict=True):
        error = values.std() / np.sqrt(draws)
        assert null.mean == pytest.approx(values.mean(), abs=4 * error)
        assert null.mean * 1.1 != pytest.approx(values.mean(), abs=4 * error)
        square = values**2
        assert null.floor + null.scale == pytest.approx(
            square.mean(), abs=4 * square.std() / np.sqrt(draws) + 6e-4 * square.mean()
        )
    # The false-alarm rate of the W1 band: at most the stated one, and no more than halved.
    for alpha in (0.05, 0.01):
        rate = (simulated[0] > nulls[0].quantile(1 - alpha)).mean()
        assert rate <= binomial_bound(1.05 * alpha, draws)
        assert rate >= alpha / 2 - 3 * np.sqrt(alpha / draws)


def test_null_of_two_values_is_half_normal():
    share, edges = np.array([0.3, 0.7]), np.array([0.0, 1.0, 2.0])
    sd = np.sqrt(0.3 * 0.7)
    for null in (wasserstein_null(share, centres(edges)), total_variation_null(share)):
        for alpha in (0.1, 0.01, 1e-4):
            expected = sd * stats.norm.isf(alpha / 2)
            assert null.quantile(1 - alpha) == pytest.approx(expected, rel=1e-3)
        # A size estimated with few degrees of freedom turns the normal into Student's t.
        expected = sd * stats.t.isf(0.005, 7)
        assert null.quantile(0.99, 7) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=40).filter(lambda p: sum(p) > 0.1),
    st.floats(1e-4, 0.5),
    st.floats(4.0, 1e6),
)
def test_p_value_and_band_are_one_statement(weights, alpha, freedom):
    share = np.array(weights) / sum(weights)
    for null in (
        wasserstein_null(share, np.arange(float(len(share)))),
        total_variation_null(share),
    ):
        band = null.quantile(1 - alpha, freedom)
        assert np.isfinite(band)
        if null.scale > 1e-12:
            assert null.exceedance(band, freedom) == pytest.approx(alpha, rel=1e-6)
            assert (
                null.exceedance(band * 1.01, freedom)
                < alpha
                < null.exceedance(band * 0.99, freedom)
            )
