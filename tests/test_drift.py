"""Distances against scipy, null bands against simulation, and the false-alarm rate of verdicts."""

import doctest
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from spikescope.analysis import drift
from spikescope.analysis.distance import (
    common_bins,
    law_on_bins,
    probabilities,
    rebin,
    sample_wasserstein,
    total_variation,
    total_variation_null,
    wasserstein,
    wasserstein_null,
)
from spikescope.analysis.effective import (
    autocorrelation_time,
    effective_size,
    frozen_share,
    recorded_effective_size,
)

EDGES = np.linspace(-2.0, 2.0, 129)
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])


def histogram(values):
    """Counts of the rows of values [..., n] on EDGES; what lies outside goes to the end bins."""
    inside = np.clip(values, EDGES[0], EDGES[-1] - 1e-9)
    index = ((inside - EDGES[0]) / (EDGES[1] - EDGES[0])).astype(int)
    rows = index.reshape(-1, index.shape[-1])
    counts = np.stack([np.bincount(row, minlength=len(EDGES) - 1) for row in rows])
    return counts.reshape(*index.shape[:-1], -1)


def binomial_bound(rate, trials, errors=3.0):
    return rate + errors * np.sqrt(rate * (1 - rate) / trials)


def bridges(share, edges, draws, rng):
    """Simulated limits of sqrt(n) times (W1, TV) between a law and a sample of it."""
    z = rng.standard_normal((draws, len(share))) * np.sqrt(share)
    z -= share * z.sum(axis=1, keepdims=True)
    gaps = np.diff(0.5 * (edges[1:] + edges[:-1]))
    return np.abs(z.cumsum(axis=1)[:, :-1]) @ gaps, 0.5 * np.abs(z).sum(axis=1)


@pytest.mark.parametrize("module", ["distance", "effective", "drift"])
def test_the_printed_examples_are_true(module):
    result = doctest.testmod(importlib.import_module(f"spikescope.analysis.{module}"))
    assert result.attempted > 3
    assert result.failed == 0


# ---------------------------------------------------------------------------- distances


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    st.lists(st.floats(0.05, 3.0), min_size=4, max_size=4),
)
def test_wasserstein_of_histograms_is_scipys(a, b, widths):
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    share_a, share_b = probabilities([a, b], edges)[0]
    centres = 0.5 * (edges[1:] + edges[:-1])
    expected = stats.wasserstein_distance(centres, centres, share_a, share_b)
    got = wasserstein(share_a, share_b, edges)
    assert got == pytest.approx(expected, abs=1e-12)
    assert wasserstein(share_b, share_a, edges) == pytest.approx(expected, abs=1e-12)


def test_many_histograms_at_once_are_each_one_alone():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 3, 5, 16)) + 1.0
    edges = np.linspace(0.0, 1.0, 17)
    together = drift.compare_laws(a, b, edges, 80.0, np.full((3, 5), 90.0))
    for index in np.ndindex(3, 5):
        alone = drift.compare_laws(a[index], b[index], edges, 80.0, 90.0)
        for name in ("w1", "tv", "w1_null", "w1_band", "tv_null", "tv_band", "p_value"):
            assert getattr(together, name)[index] == pytest.approx(getattr(alone, name), rel=1e-12)
        assert together.verdict[index] == alone.verdict


def test_total_variation_is_the_largest_difference_of_an_event():
    rng = np.random.default_rng(1)
    a, b = probabilities(rng.random((2, 8)), np.arange(9.0))[0]
    events = np.array(list(np.ndindex(*(2,) * 8)))
    assert total_variation(a, b) == pytest.approx(np.abs(events @ (a - b)).max(), abs=1e-15)


def test_binned_distance_is_the_samples_distance_within_a_bin():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.0, 0.4, 4000), rng.normal(0.3, 0.5, 4000)
    shares, edges = probabilities(histogram(np.stack([a, b])), EDGES)
    exact = sample_wasserstein(a, b)
    # Each mass moves by half a bin at most, in both histograms.
    assert wasserstein(*shares, edges) == pytest.approx(exact, abs=EDGES[1] - EDGES[0])
    assert wasserstein(*shares, edges) != pytest.approx(exact + 2 * (EDGES[1] - EDGES[0]), abs=1e-3)


def test_one_sample_on_two_ranges_of_the_doubling_family_is_one_law():
    rng = np.random.default_rng(3)
    values = rng.normal(0.1, 0.3, 5000)
    fine = np.histogram(values, EDGES)[0]
    coarse_edges = 4.0 * EDGES
    coarse = np.histogram(values, coarse_edges)[0]
    assert rebin(fine, EDGES, coarse_edges).tolist() == coarse.tolist()
    same = drift.compare_laws(fine, coarse, EDGES, 5000, 5000, edges_b=coarse_edges)
    assert same.w1 == 0.0
    other = np.histogram(values + 0.2, coarse_edges)[0]
    moved = drift.compare_laws(other, fine, coarse_edges, 5000, 5000, edges_b=EDGES)
    assert moved.w1 == pytest.approx(0.2, abs=coarse_edges[1] - coarse_edges[0])
    assert moved.verdict == drift.DRIFTING


def test_edges_of_two_families_are_refused():
    with pytest.raises(ValueError, match="does not lie inside one wanted bin"):
        common_bins([1, 1], [0.0, 1.0, 2.0], [1, 1], [0.0, 1.5, 3.0])


def test_law_on_bins_keeps_what_lies_outside():
    share = law_on_bins(stats.norm.cdf(EDGES), EDGES)
    assert share.sum() == pytest.approx(1.0, abs=1e-15)
    assert share[0] == pytest.approx(stats.norm.cdf(EDGES[1]), abs=1e-15)
    with pytest.raises(ValueError, match="must rise"):
        law_on_bins(1.0 - stats.norm.cdf(EDGES), EDGES)


# ---------------------------------------------------------------------------- null bands


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
    simulated = bridges(share, EDGES, draws, np.random.default_rng(4))
    nulls = wasserstein_null(share, EDGES), total_variation_null(share)
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
    for null in (wasserstein_null(share, edges), total_variation_null(share)):
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
    for null in (wasserstein_null(share, np.arange(len(share) + 1.0)), total_variation_null(share)):
        band = null.quantile(1 - alpha, freedom)
        assert np.isfinite(band)
        if null.scale > 1e-12:
            assert null.exceedance(band, freedom) == pytest.approx(alpha, rel=1e-6)
            assert (
                null.exceedance(band * 1.01, freedom)
                < alpha
                < null.exceedance(band * 0.99, freedom)
            )


def test_a_law_without_spread_moves_only_truly():
    atom = np.eye(128)[40]
    same = drift.compare_laws(atom, atom, EDGES, 100, 100)
    assert (same.w1, same.w1_band, same.p_value, same.verdict) == (0, 0, 1, drift.STATIONARY)
    moved = drift.compare_laws(atom, np.eye(128)[60], EDGES, 1000, 1000)
    assert moved.verdict == drift.DRIFTING


# ---------------------------------------------------------------------------- effective size


def clustered(rng, shared, runs=400, samples=48, units=60, scale=0.0):
    """Values [runs, samples, units]: own offsets of units, and a part that a sample shares."""
    offsets = 0.3 * rng.standard_normal(units)
    image = rng.standard_normal((runs, samples, 1))
    spread = np.exp(scale * rng.standard_normal((runs, samples, 1)))
    own = rng.standard_normal((runs, samples, units))
    return 0.4 * (offsets + spread * (np.sqrt(shared) * image + np.sqrt(1 - shared) * own))


def sizes_of(values):
    means = values.mean(axis=-1)
    count = values.shape[-1] * values.shape[-2]
    return effective_size(values.var(axis=(-1, -2)), means.var(axis=-1), values.shape[-2], count)


def test_effective_size_gives_the_true_error_of_the_mean():
    values = clustered(np.random.default_rng(5), shared=0.2)
    error = values.mean(axis=(-1, -2)).std()
    claimed = np.sqrt((values.var(axis=(-1, -2)) / sizes_of(values)).mean())
    # Relative standard error of a standard deviation from 400 runs.
    assert claimed == pytest.approx(error, rel=3 / np.sqrt(2 * 400))
    naive = np.sqrt(values.var(axis=(-1, -2)) / (48 * 60)).mean()
    assert naive < 0.5 * error  # counting each element would claim far too much


def test_effective_size_at_its_edges():
    assert effective_size(1.0, 0.0, 10, 500) == 500
    assert effective_size(1.0, 1e-9, 10, 500) == 500
    assert effective_size(1.0, 0.5, 1, 500) == 0
    assert effective_size([1.0, 2.0], [0.5, 0.5], [11, 11], [99, 99]).tolist() == [20.0, 40.0]
    with pytest.raises(ValueError, match=r"sample_variance=-0\.5"):
        effective_size(1.0, -0.5, 10, 500)
    with pytest.raises(ValueError, match="variance=nan"):
        effective_size(np.nan, 0.5, 10, 500)
    with pytest.raises(ValueError, match="is below samples"):
        effective_size(1.0, 0.5, 10, 5)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_autocorrelation_time_of_ar1(phi):
    expected = max((1 + phi) / (1 - phi), 1.0)
    length, runs = int(2000 * expected), 60
    noise = np.random.default_rng(6).standard_normal((runs, length + 200))
    series = signal.lfilter([1.0], [1.0, -phi], noise)[:, 200:]
    times = autocorrelation_time(series)
    # Relative variance of one estimate: about 4 times the window (5 times) over the length
    # (Sokal 1997, eq. 3.19); the window itself varies, hence the last percent.
    error = np.sqrt(4 * 5 * expected / length / runs) * expected
    if phi > 0:
        assert times.mean() == pytest.approx(expected, abs=3 * error + 0.01 * expected)
        assert times.mean() != pytest.approx(1.1 * expected, abs=3 * error + 0.01 * expected)
    else:
        # Never below 1, so independent values come out slightly above.
        assert 1.0 <= times.mean() < 1.0 + 2 * np.sqrt(4 * 5 / length)


def test_autocorrelation_time_of_rows_and_of_constants():
    series = np.random.default_rng(17).standard_normal((3, 40)).cumsum(axis=1)
    series[1] = 0.1
    times = autocorrelation_time(series)
    assert times[1] == 1.0
    assert times[0] > 3
    assert times.tolist() == [float(autocorrelation_time(row)) for row in series]


def test_frozen_share_finds_what_was_planted():
    rng = np.random.default_rng(7)
    for planted, steps in ((0.0, 4), (0.5, 4), (0.5, 10), (0.9, 3)):
        frozen = np.sqrt(planted) * rng.standard_normal(20_000)
        inputs = frozen + np.sqrt(1 - planted) * rng.standard_normal((steps, 20_000))
        share = frozen_share(inputs)
        assert share.value == pytest.approx(planted, abs=4 * share.error)
        assert 0 < share.error < 0.01
        assert abs(share.value - planted - 0.05) > 4 * share.error


def test_error_of_the_frozen_share_is_its_spread():
    rng = np.random.default_rng(8)
    frozen = np.sqrt(0.4) * rng.standard_normal((400, 1, 100))
    inputs = frozen + np.sqrt(0.6) * rng.standard_normal((400, 5, 100))
    shares = [frozen_share(values) for values in inputs]
    spread = np.std([share.value for share in shares])
    assert np.mean([share.error for share in shares]) == pytest.approx(spread, rel=3 / np.sqrt(800))


# ---------------------------------------------------------------------------- verdicts


REPETITIONS = 400
ALPHA = 0.05


def verdicts(values, sizes, freedom):
    """Verdicts for runs [runs, T, ...] whose laws are compared with the last timestep's."""
    counts = histogram(values.reshape(*values.shape[:2], -1))
    return drift.drift_over_time(counts, EDGES, sizes, ALPHA, freedom=freedom, resolution=9.0)


def draw(rng, kind, steps=3, shift=0.0):
    """Laws at T = 3 timesteps of independent batches; the first may be shifted."""
    if kind == "independent":
        values = 0.4 * rng.standard_normal((REPETITIONS, steps, 300))
        sizes = np.full((REPETITIONS, steps), 300.0)
        freedom = np.inf
    else:
        shared = {"clustered": 0.2, "nearly one value": 0.95}[kind]
        values = clustered(rng, shared, REPETITIONS * steps, samples=32, units=30)
        sizes = sizes_of(values).reshape(REPETITIONS, steps)
        values = values.reshape(REPETITIONS, steps, -1)
        freedom = 31
    values[:, 0] += shift
    return verdicts(values, sizes, freedom)


@pytest.mark.parametrize("kind", ["independent", "clustered", "nearly one value"])
def test_false_alarm_rate_of_drift_over_time(kind):
    found = draw(np.random.default_rng(9), kind).overall
    rate = (found == drift.DRIFTING).mean()
    assert rate <= binomial_bound(ALPHA, REPETITIONS)
    # And the band is not so wide that it would never alarm.
    assert rate >= ALPHA / 10


@pytest.mark.parametrize(("kind", "shift"), [("independent", 0.15), ("clustered", 0.35)])
def test_a_planted_drift_is_found(kind, shift):
    result = draw(np.random.default_rng(10), kind, shift=shift)
    assert (result.overall == drift.DRIFTING).mean() > 0.9
    assert (result.verdict[:, 0] == drift.DRIFTING).mean() > 0.9
    assert (result.verdict[:, 1] == drift.DRIFTING).mean() <= binomial_bound(ALPHA, REPETITIONS)


def test_counting_each_element_would_alarm_all_the_time():
    values = clustered(np.random.default_rng(11), 0.2, REPETITIONS * 3, samples=32, units=30)
    values = values.reshape(REPETITIONS, 3, -1)
    found = verdicts(values, np.full((REPETITIONS, 3), 960.0), np.inf).overall
    assert (found == drift.DRIFTING).mean() > binomial_bound(ALPHA, REPETITIONS, 10)


def test_samples_that_differ_in_scale_need_more_than_the_mean():
    runs, samples, units = 800, 32, 60
    values = clustered(np.random.default_rng(12), 0.0, runs, samples, units, scale=0.7)
    inside = np.abs(values) < 0.4
    fired = values > 0.6
    record = {
        "u_var": values.var(axis=(1, 2)),
        "u_sample_var": values.mean(axis=2).var(axis=1),
        "samples": np.full(runs, samples),
        "count": np.full(runs, samples * units),
    }
    only_mean = recorded_effective_size(record)
    for name, share in (("rate", fired.mean(axis=2)), ("coverage", inside.mean(axis=2))):
        record |= {
            f"{name}_sample_mean": share.mean(axis=1),
            f"{name}_sample_var": share.var(axis=1),
        }
    with_shares = recorded_effective_size(record)
    values = values.reshape(runs // 2, 2, -1)
    rates = [
        (verdicts(values, size.reshape(-1, 2), samples - 1).overall == drift.DRIFTING).mean()
        for size in (only_mean, with_shares)
    ]
    assert rates[0] > binomial_bound(ALPHA, runs // 2)
    assert rates[1] <= binomial_bound(ALPHA, runs // 2)


def test_drift_from_an_exact_law():
    rng = np.random.default_rng(13)
    law = law_on_bins(stats.norm.cdf(EDGES, 0.0, 0.4), EDGES)
    counts = histogram(0.4 * rng.standard_normal((REPETITIONS, 2, 300)))
    found = drift.drift_from_law(counts, EDGES, 300.0, law, ALPHA)
    rate = (found.overall == drift.DRIFTING).mean()
    assert ALPHA / 10 <= rate <= binomial_bound(ALPHA, REPETITIONS)
    wrong = law_on_bins(stats.norm.cdf(EDGES, 0.0, 0.55), EDGES)
    found = drift.drift_from_law(counts, EDGES, 300.0, wrong, ALPHA)
    assert (found.overall == drift.DRIFTING).mean() > 0.9


def training(rng, phi, records, trend=0.0):
    """Histograms [runs, records, bins] whose mean does an AR(1) walk of sd 0.05, and a trend."""
    noise = rng.standard_normal((REPETITIONS, records + 100))
    walk = signal.lfilter([np.sqrt(1 - phi**2)], [1.0, -phi], noise)[:, 100:]
    means = 0.05 * walk + trend * np.linspace(0.0, 1.0, records)
    cumulative = stats.norm.cdf(EDGES, means[..., None], 0.4)
    shares = np.diff(cumulative)
    return rng.poisson(2000 * shares)


@pytest.mark.parametrize(("phi", "records"), [(0.0, 48), (0.5, 80)])
def test_false_alarm_rate_of_drift_over_training(phi, records):
    rng = np.random.default_rng(14)
    found = drift.drift_over_training(training(rng, phi, records), EDGES, ALPHA).overall
    assert (found == drift.DRIFTING).mean() <= binomial_bound(ALPHA, REPETITIONS)


def test_a_trend_over_training_is_found():
    rng = np.random.default_rng(15)
    found = drift.drift_over_training(training(rng, 0.0, 80, trend=0.25), EDGES, ALPHA).overall
    assert (found == drift.DRIFTING).mean() > 0.8


def test_batch_noise_alone_would_call_settled_training_drifting():
    counts = training(np.random.default_rng(16), 0.5, 8)
    by_size = drift.drift_over_time(counts, EDGES, 2000.0, ALPHA)
    assert (by_size.overall == drift.DRIFTING).mean() > 0.9


def test_not_enough_data_is_said():
    law = law_on_bins(stats.norm.cdf(EDGES, 0.0, 0.4), EDGES)
    for size, freedom in ((0.0, np.inf), (19.0, np.inf), (1000.0, 3.0)):
        found = drift.compare_laws(law, law, EDGES, size, 1e5, freedom_a=freedom)
        assert found.verdict == drift.NOT_ENOUGH_DATA
        assert np.isfinite(found.w1_band)
    # The same pair with a band too wide for the wanted resolution, and narrow enough.
    assert drift.compare_laws(law, law, EDGES, 60, 60).verdict == drift.NOT_ENOUGH_DATA
    assert drift.compare_laws(law, law, EDGES, 6000, 6000).verdict == drift.STATIONARY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts_a": [0, 0]}, r"histogram at index \[\] is empty"),
        ({"counts_a": [1, -2]}, r"count -2\.0 is not possible"),
        ({"counts_a": [1, np.nan]}, "count nan is not possible"),
        ({"counts_a": [1, 2, 3]}, "one edge more than bins"),
        ({"edges": [0.0, 2.0, 1.0]}, "must be finite and increasing"),
        ({"alpha": 1.5}, r"alpha=1\.5"),
        ({"n_eff_a": np.nan}, "n_eff_a=nan"),
        ({"n_eff_b": -3.0}, r"n_eff_b=-3\.0"),
        ({"n_eff_a": np.inf, "n_eff_b": np.inf}, "two exact laws have no null band"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"counts_a": [1, 2], "counts_b": [2, 1], "edges": [0.0, 1.0, 2.0]}
    good |= {"n_eff_a": 50.0, "n_eff_b": 50.0, "alpha": 0.01}
    assert drift.compare_laws(**good).w1 > 0
    with pytest.raises(ValueError, match=message):
        drift.compare_laws(**(good | change))


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="T >= 2"):
        drift.drift_over_time([[1, 2]], [0.0, 1.0, 2.0], [50.0])
    with pytest.raises(ValueError, match="leave 3 records to a window"):
        drift.drift_over_training(np.ones((12, 2)), [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"index \[1\] is empty"):
        drift.drift_over_time([[1, 2], [0, 0]], [0.0, 1.0, 2.0], 50.0)
    with pytest.raises(ValueError, match="8 values are needed"):
        autocorrelation_time([1.0, 2.0])
    with pytest.raises(ValueError, match="holds nan"):
        autocorrelation_time([np.nan] * 9)
    with pytest.raises(ValueError, match=r"inputs are all 2"):
        frozen_share(np.full((3, 4), 2.0))
    with pytest.raises(ValueError, match="at least 2 of each"):
        frozen_share([[1.0, 2.0]])
    with pytest.raises(ValueError, match="a sample of 0 values"):
        sample_wasserstein([], [1.0])
