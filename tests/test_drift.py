"""Verdicts on drift: measured false-alarm rates, planted drifts, and what is refused."""

import numpy as np
import pytest
from clustered import clustered, sizes_of
from scipy import signal, stats

from spikescope.analysis import drift
from spikescope.analysis.distance import law_on_bins, rebin
from spikescope.analysis.effective import recorded_effective_size

EDGES = np.linspace(-2.0, 2.0, 129)


def histogram(values):
    """Counts of the rows of values [..., n] on EDGES; what lies outside goes to the end bins."""
    inside = np.clip(values, EDGES[0], EDGES[-1] - 1e-9)
    index = ((inside - EDGES[0]) / (EDGES[1] - EDGES[0])).astype(int)
    rows = index.reshape(-1, index.shape[-1])
    counts = np.stack([np.bincount(row, minlength=len(EDGES) - 1) for row in rows])
    return counts.reshape(*index.shape[:-1], -1)


def binomial_bound(rate, trials, errors=3.0):
    return rate + errors * np.sqrt(rate * (1 - rate) / trials)


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


def test_a_law_without_spread_moves_only_truly():
    atom = np.eye(128)[40]
    same = drift.compare_laws(atom, atom, EDGES, 100, 100)
    assert (same.w1, same.w1_band, same.p_value, same.verdict) == (0, 0, 1, drift.STATIONARY)
    moved = drift.compare_laws(atom, np.eye(128)[60], EDGES, 1000, 1000)
    assert moved.verdict == drift.DRIFTING


def test_samples_are_compared_without_bins():
    rng = np.random.default_rng(18)
    a, b = rng.normal(0.0, 0.4, 3000), rng.normal(0.1, 0.4, 3000)
    found = drift.compare_samples(a, b, 3000, 3000)
    assert found.w1 == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)
    assert found.verdict == drift.DRIFTING
    edges = np.arange(-60, 61) * 0.05
    binned = drift.compare_laws(
        np.histogram(a, edges)[0], np.histogram(b, edges)[0], edges, 3000, 3000
    )
    assert found.tv == pytest.approx(float(binned.tv), abs=1e-12)
    assert found.tv_band == pytest.approx(float(binned.tv_band), rel=1e-9)
    assert found.w1_band == pytest.approx(float(binned.w1_band), rel=0.01)
    # One wild value does not blur the rest.
    wild = drift.compare_samples(np.append(a, 40.0), b, 3000, 3000)
    assert wild.w1 == pytest.approx(float(found.w1) + 40.0 / 3001, abs=0.002)


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


def test_alpha_holds_for_all_timesteps_together():
    found = draw(np.random.default_rng(20), "independent", steps=8)
    assert found.alpha == ALPHA / 7
    assert (found.overall == drift.DRIFTING).mean() <= binomial_bound(ALPHA, REPETITIONS)
    # At alpha for each of the 7 comparisons it would not.
    assert (found.p_value < ALPHA).any(axis=-1).mean() > binomial_bound(ALPHA, REPETITIONS)


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


def test_the_same_samples_at_each_timestep_alarm_less():
    """Two timesteps of one batch share their images: the band for independent ones holds too."""
    rng = np.random.default_rng(19)
    image = rng.standard_normal((REPETITIONS, 1, 32, 1))
    own = rng.standard_normal((REPETITIONS, 3, 32, 30))
    values = 0.4 * (np.sqrt(0.3) * image + np.sqrt(0.7) * own)
    found = verdicts(values, sizes_of(values), 31).overall
    assert (found == drift.DRIFTING).mean() <= binomial_bound(ALPHA, REPETITIONS)


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="T >= 2"):
        drift.drift_over_time([[1, 2]], [0.0, 1.0, 2.0], [50.0])
    with pytest.raises(ValueError, match="leave 3 records to a window"):
        drift.drift_over_training(np.ones((12, 2)), [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"index \[1\] is empty"):
        drift.drift_over_time([[1, 2], [0, 0]], [0.0, 1.0, 2.0], 50.0)
    with pytest.raises(ValueError, match="a sample of 0 values"):
        drift.compare_samples([], [1.0], 50, 50)
    with pytest.raises(ValueError, match="1 not finite"):
        drift.compare_samples([np.nan], [1.0], 50, 50)
