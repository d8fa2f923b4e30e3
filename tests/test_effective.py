"""Effective sizes: what clustered, autocorrelated and frozen values are worth."""

import numpy as np
import pytest
from clustered import clustered, sizes_of
from scipy import signal

from spikescope.analysis.effective import autocorrelation_time, effective_size, frozen_share


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
    frozen = np.sqrt(0.4) * rng.standard_normal((2000, 1, 100))
    inputs = frozen + np.sqrt(0.6) * rng.standard_normal((2000, 5, 100))
    shares = [frozen_share(values) for values in inputs]
    spread = np.std([share.value for share in shares])
    assert np.mean([share.error for share in shares]) == pytest.approx(
        spread, rel=3 / np.sqrt(4000)
    )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="8 values are needed"):
        autocorrelation_time([1.0, 2.0])
    with pytest.raises(ValueError, match="holds nan"):
        autocorrelation_time([np.nan] * 9)
    with pytest.raises(ValueError, match=r"inputs are all 2"):
        frozen_share(np.full((3, 4), 2.0))
    with pytest.raises(ValueError, match="at least 2 of each"):
        frozen_share([[1.0, 2.0]])
