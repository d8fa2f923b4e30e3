"""Intervals of figures that are counts or sums: against Monte Carlo and against scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import findings_cases
import numpy as np
import pytest
from scipy import stats

from spikescope.analysis.findings import diagnose
from spikescope.analysis.findings.figures import (
    ALPHA,
    CONFIDENCE_Z,
    none_of,
    share_below,
    total_of_every,
)

TRIALS = 20_000
SE = float(np.sqrt(ALPHA * (1.0 - ALPHA) / TRIALS))
"""Standard error of a rate of 1 % over the trials."""


def test_the_level_is_the_one_of_all_rules() -> None:
    assert stats.norm.sf(CONFIDENCE_Z) == pytest.approx(ALPHA, abs=1e-5)


def _above_truth(correlation: float, timesteps: int, truth: np.ndarray, z: float) -> float:
    """Return how often the lower end of the share is above the true one."""
    rng = np.random.default_rng(timesteps)
    common = rng.normal(size=(TRIALS, 1))
    own = rng.normal(size=(TRIALS, timesteps))
    noise = np.sqrt(correlation) * common + np.sqrt(1.0 - correlation) * own
    true_share = float((truth < 0.0).mean())
    seen = truth + noise
    low = (seen + z < 0.0).mean(axis=1)
    for values, expected in zip(seen[:50], low[:50], strict=True):  # the function is this
        assert share_below(values, np.ones(timesteps), 0.0).low == pytest.approx(expected)
    return float((low > true_share + 1e-12).mean())


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("timesteps", [2, 10, 100])
def test_the_lower_end_of_a_share_holds_however_timesteps_hang_together(
    correlation: float, timesteps: int
) -> None:
    z = -float(stats.norm.ppf(ALPHA / timesteps))
    # The worst truth: every timestep just not below the edge.
    missed = _above_truth(correlation, timesteps, np.zeros(timesteps), z)
    assert missed <= ALPHA + 3.0 * SE
    # Half of them far below: their share is told, and no more.
    truth = np.where(np.arange(timesteps) % 2, -50.0, 0.0)
    assert _above_truth(correlation, timesteps, truth, z) <= ALPHA + 3.0 * SE


def test_without_the_correction_it_would_not_hold() -> None:
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(TRIALS, 10))
    missed = float(((seen + CONFIDENCE_Z < 0.0).any(axis=1)).mean())
    assert missed > ALPHA + 10.0 * SE  # about 1 - 0.99^10


def test_a_share_without_errors_is_exact() -> None:
    one = share_below(np.array([0.0, 0.0, 1.0, 2.0]), np.zeros(4), 0.5)
    assert (one.value, one.error) == (0.5, 0.0)


@pytest.mark.parametrize("count", [1, 7, 128, 10_000])
def test_none_of_so_many_has_the_exact_interval(count: int) -> None:
    exact = stats.binomtest(0, count, alternative="less").proportion_ci(0.99, method="exact")
    assert none_of(count).value == 0.0
    assert none_of(count).high == pytest.approx(exact.high, rel=1e-9)
    # Monte Carlo: where the share is as large as that, 1 of 100 looks sees none.
    seen = np.random.default_rng(count).binomial(count, none_of(count).high, TRIALS)
    assert float((seen == 0).mean()) == pytest.approx(ALPHA, abs=3.0 * SE)


def test_none_of_none_says_nothing() -> None:
    assert none_of(0.0).high == none_of(1.0).high == pytest.approx(0.99)


@pytest.mark.parametrize("distance", [1, 5, 20])
@pytest.mark.parametrize("trend", ["flat", "falling"])
def test_a_total_of_every_nth_step_errs_as_it_says(distance: int, trend: str) -> None:
    rng = np.random.default_rng(distance)
    steps, trials = 400, 4_000
    level = np.full(steps, 1.0) if trend == "flat" else np.linspace(2.0, 0.5, steps)
    values = level * rng.gamma(4.0, 0.25, (trials, steps))  # spread of half of the level
    begin = rng.integers(distance, size=trials)
    taken = begin[:, None] + np.arange(0, steps, distance)
    figures = [
        total_of_every(row[places], float(distance))
        for row, places in zip(values, taken, strict=True)
    ]
    off = np.array([figure.value for figure in figures]) - values.sum(axis=1)
    said = np.array([figure.error for figure in figures])
    if distance == 1:
        assert np.abs(off).max() < 1e-9
        assert not said.any()
        return
    # A standard deviation of so many trials is known to 1 / sqrt(2 trials); where the level falls,
    # the start of the sample moves the total, too: distance / steps of the fall, against its noise.
    spread = float(off.std())
    assert float(np.sqrt((said**2).mean())) == pytest.approx(
        spread, rel=3 / np.sqrt(2 * trials) + 0.05
    )
    # The one-sided interval holds in 99 of 100; few records make it a little less sure (Student).
    missed = float((off > CONFIDENCE_Z * said).mean())
    student = float(stats.t.sf(CONFIDENCE_Z, steps // distance - 1))
    assert missed < student + 3.0 * np.sqrt(student / trials) + 0.01
    # Control: an error that forgets the steps between the records is far off.
    assert float((said / distance).mean()) < 0.5 * spread


def test_one_record_of_many_steps_has_no_error_bar() -> None:
    assert np.isnan(total_of_every(np.array([1.0]), 10.0).low)
    assert total_of_every(np.array([1.0]), 1.0).low == 1.0


def _uneven(rates: list[float], error: float) -> findings_cases.Made:
    """Return a case whose second layer fires with these rates at t = 1, ..., known so well."""

    def change(entry: dict[str, Any], k: int) -> None:
        if k == 1:
            entry.update(findings_cases._rate(rates[entry["t"] - 1]))
            # The pooled error of 8 records of 64 samples each.
            entry["rate_sample_var"] = (error * np.sqrt(8.0)) ** 2 * 63.0

    return findings_cases.Made(change=change)


@pytest.mark.parametrize(
    ("rate", "error", "measured", "low"),
    [(0.0, 1e-6, 0.75, 0.75), (6 / 6400, 3.7e-4, 0.75, 0.75), (6 / 6400, 3.9e-4, 0.75, None)],
)
def test_timesteps_are_lost_only_where_that_is_sure(
    tmp_path: Path, rate: float, error: float, measured: float, low: float | None
) -> None:
    # The edge is 1 % of 0.2; with four timesteps an interval is 2.807 errors wide.
    assert 3.7e-4 < (0.002 - 6 / 6400) / -stats.norm.ppf(ALPHA / 4) < 3.9e-4
    run = findings_cases.write(tmp_path, _uneven([rate, rate, rate, 0.2], error))
    found = [finding for finding in diagnose(run) if finding.code == "R3"]
    assert len(found) == (low is not None)
    for finding in found:
        assert finding.measured == measured
        assert finding.measured - CONFIDENCE_Z * finding.error == pytest.approx(low)
        assert finding.severity == "warning"


def test_of_several_notes_the_worst_alone_is_told(tmp_path: Path) -> None:
    def change(entry: dict[str, Any], k: int) -> None:
        entry.update(findings_cases._rate(0.0 if entry["t"] <= lost[k] else 0.2))

    for lost, told in (((2, 2), 1), ((3, 2), 2), ((3, 3), 2), ((2, 0), 1), ((0, 0), 0)):
        folder = tmp_path / str(lost)
        run = findings_cases.write(folder, findings_cases.Made(change=change))
        found = [finding for finding in diagnose(run) if finding.code == "R3"]
        assert len(found) == told  # every warning, and one note
        assert sum(finding.severity == "note" for finding in found) == (2 in lost)


def test_a_layer_without_gradient_says_how_surely(tmp_path: Path) -> None:
    (case, parameter) = findings_cases.CASES["G7"]
    run = findings_cases.write(tmp_path / "layer", case.make(case.outside))
    (found,) = (finding for finding in diagnose(run) if finding.code == "G7")
    samples = 8 * 64  # a quarter of 32 records
    assert found.measured + CONFIDENCE_Z * found.error == pytest.approx(1 - ALPHA ** (1 / samples))
    run = findings_cases.write(tmp_path / "parameter", parameter.make(parameter.outside))
    (found,) = (finding for finding in diagnose(run) if finding.code == "G7")
    assert found.measured + CONFIDENCE_Z * found.error == pytest.approx(1 - ALPHA ** (1 / 32))


def test_the_first_steps_say_what_was_not_recorded(tmp_path: Path) -> None:
    run = findings_cases.write(tmp_path, findings_cases._early(20.0))
    (found,) = (finding for finding in diagnose(run) if finding.code == "G12")
    assert found.measured == pytest.approx(20.0, rel=1e-3)
    # 8 records of which two show 1 and the others next to 0: variance 1 / 14 by differences; of
    # every ten steps nine were not seen.
    assert found.error == pytest.approx(10.0 * np.sqrt(0.9 * 8.0 / 14.0), rel=1e-3)
