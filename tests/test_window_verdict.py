"""Which side of the surrogate's window a law misses, and why."""

import numpy as np
import pytest
from scipy import stats

from spikescope.analysis.window_verdict import judge_window

EDGES = np.linspace(-8.0, 8.0, 3201)


@pytest.mark.parametrize(
    ("mean", "std", "severity", "side", "cause"),
    [
        (0.8, 0.3, "fine", "", ""),
        (-1.0, 0.2, "critical", "under threshold", "offset"),
        (3.5, 0.4, "critical", "saturated", "offset"),
        (0.0, 0.55, "fine", "", ""),
        (0.0, 0.45, "warning", "under threshold", "width"),
        (0.0, 3.4, "warning", "under threshold", "width"),
        (1.5, 3.4, "warning", "saturated", "width"),
    ],
)
def test_side_and_cause_of_a_missed_window(mean, std, severity, side, cause):
    counts = np.diff(stats.norm.cdf(EDGES, mean, std))
    found = judge_window(counts, EDGES, 1.0, 1.0, mean, std, n_eff=400.0)
    assert (str(found.severity), str(found.side), str(found.cause)) == (severity, side, cause)
    assert found.coverage + found.below + found.above == pytest.approx(1.0, abs=1e-12)
    # Mass beyond the edges is left out of the histogram: 1 % at std 3.4.
    assert found.coverage == pytest.approx(float(found.gaussian), abs=0.004)
    assert found.error == pytest.approx(np.sqrt(found.coverage * (1 - found.coverage) / 400))


def test_reference_for_a_configuration():
    counts = np.diff(stats.norm.cdf(EDGES, 0.0, 1.0))
    found = judge_window(counts, EDGES, 1.0, 1.0, 0.0, 1.0)
    assert found.best == pytest.approx(0.2417, abs=5e-5)
    assert found.error == 0
    assert judge_window(counts, EDGES, 1.0, 6.0, 0.0, 1.0).too_wide
    assert not judge_window(counts, EDGES, 1.0, 4.0, 0.0, 1.0).too_wide


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"width=-1\.0"):
        judge_window([1, 2], [0.0, 1.0, 2.0], 1.0, -1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"std=0\.0"):
        judge_window([1, 2], [0.0, 1.0, 2.0], 1.0, 1.0, 0.0, 0.0)
