"""Conditions I and II, and the self-consistent law of u, against recurrent simulations.

Tables (Herranz-Celotti and Rouat, arXiv 2202.00282; measured with recurrent LIF networks in
float64): ``stability_rate.csv`` rates of the published mean rules (n = 400, 16 samples, 200 steps,
Glorot-uniform W plus the mean, noise .5); ``stability_ratesolve.csv`` offsets solved from the
stationary density and the rates they reach (n = 300, 160 steps); ``stability_condII.csv`` ratio of
recurrent to input variance with the weights that each form asks for; ``stability_rnn.csv`` and
``stability_growth.csv`` rates and E[s^2] of 17 networks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_simulation import random_weights, rows, simulate, spec_of, surrogate_of
from scipy import special

from spikescope.analysis import recurrent_density
from spikescope.analysis.drive_law import drive_law
from spikescope.analysis.laws import GaussianLaw
from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.recurrent_density import recurrent_law
from spikescope.analysis.stability import (
    current_imbalance,
    offset_for_rate,
    published_sampled_variance,
    recurrent_mean_for_half,
    recurrent_weight_variance,
)
from spikescope.analysis.surrogate import Surrogate


@pytest.mark.parametrize("table", ["rnn", "growth"])
def test_law_without_simulation(table: str) -> None:
    """Rate within .02; E[s^2] within 5 %, the error of white recurrent noise (3.7 % here)."""
    for row in rows(table):
        power = 1.0 if table == "rnn" else float(row["g2"])
        law = recurrent_law(
            spec_of(row), float(row.get("offset_b") or 0.0), float(row.get("sig_in") or 0.5),
            recurrent_variance=power,
        )  # fmt: skip
        assert law.residual < 1e-9
        assert law.rate == pytest.approx(float(row["rate_measured"]), abs=0.02)
        second = surrogate_of(row).moment(law, float(row["thr"]), 2)
        assert second == pytest.approx(float(row["E_s2"]), rel=0.05)
        # The tables' own density is a coarser grid with 11 drives; it resolves most cases.
        if row["case"] not in ("2", "4"):
            assert law.rate == pytest.approx(float(row["rate_apriori"]), abs=1e-4)
            assert second == pytest.approx(float(row["E_s2_apriori"]), rel=2e-3)
        wrong = surrogate_of({**row, "beta": str(1.3 * float(row["beta"]))})
        assert wrong.moment(law, float(row["thr"]), 2) != pytest.approx(
            float(row["E_s2_apriori"]), rel=2e-3
        )


def test_two_percent_of_decay_is_noticed() -> None:
    row = next(r for r in rows("growth") if r["case"] == "16")
    right = spec_of(row)
    wrong = NeuronSpec(decay=0.98 * right.decay, threshold=right.threshold, reset="to_value")
    arguments = (float(row["offset_b"]), float(row["sig_in"]))
    rates = [
        recurrent_law(s, *arguments, recurrent_variance=float(row["g2"])).rate
        for s in (right, wrong)
    ]
    assert rates[0] == pytest.approx(float(row["rate_apriori"]), abs=1e-4)
    assert rates[1] != pytest.approx(float(row["rate_apriori"]), abs=1e-4)


def test_law_against_closed_form_without_memory() -> None:
    law = recurrent_law(NeuronSpec(decay=0.0), 0.2, 0.5, quenched_std=0.3)
    exact = GaussianLaw(0.2, np.hypot(0.5, 0.3))
    # 1e-7: what the range of the quenched drive leaves out.
    assert law.rate == pytest.approx(exact.probability(1.0, 50.0), abs=1e-7)
    for shape in ("rectangular", "triangular", "exponential", "fast_sigmoid", "q_pseudo_spike"):
        for width in (0.003, 0.3, 30.0):
            surrogate = Surrogate(shape, 1.5, width, tail=1.3)
            for order in (1, 2):
                assert surrogate.moment(law, 1.0, order) == pytest.approx(
                    surrogate.moment(exact, 1.0, order), rel=2e-7
                )


def test_law_against_an_autoregressive_process() -> None:
    spec = NeuronSpec(decay=0.8, reset="none")
    law = recurrent_law(spec, 0.1, 0.4)
    assert law.mean == pytest.approx(0.5, abs=1e-9)
    assert law.std == pytest.approx(0.4 / np.sqrt(1 - 0.64), rel=1e-8)
    # Gaussian surrogate, AR(1): E[s s'] is a Gaussian integral in two dimensions.
    surrogate = Surrogate("gaussian", 1.0, 0.3)
    stats = law.statistics(surrogate, lags=5)
    for k, value in enumerate(stats.correlation[1:], start=1):
        cov = law.std**2 * np.array([[1.0, 0.8**k], [0.8**k, 1.0]]) + 0.09 * np.eye(2)
        z = np.array([0.5, 0.5])
        exact = 0.09 / np.sqrt(np.linalg.det(cov)) * np.exp(-0.5 * z @ np.linalg.solve(cov, z))
        assert value == pytest.approx(exact, rel=1e-8)


@settings(max_examples=15, deadline=None)
@given(
    decay=st.floats(0.0, 0.9), threshold=st.floats(0.2, 2.0), drive=st.floats(-1.0, 1.0),
    noise=st.floats(0.2, 1.0), reset=st.sampled_from(["subtract", "to_value", "none"]),
)  # fmt: skip
def test_stationary_law_is_stationary(
    decay: float, threshold: float, drive: float, noise: float, reset: str
) -> None:
    """One more step of the operator, evaluated off the grid, leaves mean and rate in place."""
    law = drive_law(NeuronSpec(decay=decay, threshold=threshold, reset=reset), drive, noise)  # type: ignore[arg-type]
    following = law.following(law.u)
    assert law.mass @ following == pytest.approx(law.mass @ law.u, abs=1e-7)
    rate = law.mass @ special.ndtr((following - threshold) / noise)
    assert rate == pytest.approx(law.rate, abs=1e-7)


def test_published_mean_rule_by_simulation() -> None:
    """Soft reset: near 1/2 for every leak and threshold; the law says how near."""
    for row in rows("rate"):
        decay, theta = float(row["alpha"]), float(row["thr"])
        if row["reset"] == "sub" and theta < 1.0:
            mean = recurrent_mean_for_half("subtract", decay, theta)
            spec = NeuronSpec(decay=decay, threshold=theta, delayed_reset=True)
            law = recurrent_law(
                spec, 0.0, 0.5, recurrent_variance=1.0, recurrent_mean=mean, start_rate=0.4
            )
            # One network of 400 units: the recurrent mean amplifies its own offset.
            assert law.rate == pytest.approx(float(row["rate_measured"]), abs=0.03)
        elif row["reset"] == "mult1":
            assert float(row["rate_measured"]) < 0.49
    assert recurrent_mean_for_half("multreset1", 0.5, 1.0, form="balance") == 3.0
    assert recurrent_mean_for_half("multreset1", 0.5, 1.0) == 1.0
    assert recurrent_mean_for_half("to_value", 0.9, 1.0) == pytest.approx(1.1)
    assert recurrent_mean_for_half("subtract_before_leak", 0.5, 1.0) == 1.5


def test_published_hard_rule_fails_with_a_leak() -> None:
    for decay, theta, simulated in ((0.5, 0.3, 0.39), (0.9, 0.01, 0.29), (0.9, 1.0, 0.11)):
        law = recurrent_law(
            NeuronSpec(decay=decay, threshold=theta, reset="to_value"), 0.0, 0.5,
            recurrent_variance=1.0,
            recurrent_mean=recurrent_mean_for_half("to_value", decay, theta),
        )  # fmt: skip
        assert law.rate == pytest.approx(simulated, abs=0.015)
        assert law.rate < 0.45


def test_two_laws_from_two_starts() -> None:
    """Hard reset without leak, threshold 1: the recurrent mean holds both .05 and .5."""
    spec = NeuronSpec(decay=0.0, reset="to_value")
    mean = recurrent_mean_for_half("to_value", 0.0, 1.0)
    silent, active = (
        recurrent_law(
            spec, 0.0, 0.5, recurrent_variance=1.0, recurrent_mean=mean, start_rate=r
        ).rate
        for r in (0.0, 0.9)
    )
    assert silent == pytest.approx(0.05, abs=0.005)
    assert active == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("row", rows("ratesolve"), ids=lambda r: f"{r['reset']}-{r['alpha']}")
def test_offset_for_rate(row: dict[str, str]) -> None:
    target = float(row["target"])
    found = offset_for_rate(spec_of(row), target, 0.5, recurrent_variance=float(row["g2"]))
    assert found.law.rate == pytest.approx(target, abs=1e-7)
    assert found.offset == pytest.approx(float(row["offset_b"]), abs=5e-4)
    assert found.recurrent_mean == pytest.approx(found.offset / target)
    assert found.mean_allowed
    # What simulations reached with the table's offset, as a bias and as a recurrent mean.
    assert target == pytest.approx(float(row["rate_bias_from_silent"]), abs=0.005)
    assert target == pytest.approx(float(row["rate_recmean_from_silent"]), abs=0.02)
    if row["reset"] == "hard" and target == 0.5:
        assert found.offset != pytest.approx(float(row["offset_paper_meanfield"]), abs=0.1)


@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
@pytest.mark.parametrize("target", [0.05, 0.3, 0.8])
def test_offset_reaches_any_rate_in_a_simulation(reset: str, target: float) -> None:
    spec = NeuronSpec(decay=0.5, reset=reset, delayed_reset=reset == "subtract")  # type: ignore[arg-type]
    found = offset_for_rate(spec, target, 0.5, recurrent_variance=1.0)
    rng = np.random.default_rng(4)
    rates = []
    for offset in (found.offset, found.offset + 0.15):
        weights = random_weights(300, 1.0, rng)
        _, x = simulate(spec, weights, offset, 0.5, 120, rng, 16)
        rates.append(x[40:].mean())
    # The quenched part of 300 units is one draw: standard error of the mean rate.
    error = np.sqrt((found.law.rate_square - target**2) / 300) + 0.004
    assert rates[0] == pytest.approx(target, abs=3 * error)
    assert abs(rates[1] - target) > abs(rates[0] - target)


def test_recurrent_mean_is_refused_where_feedback_is_too_strong() -> None:
    """Soft reset: the mean may be recurrent only if sigma_u > .8 threshold (rate 1/2)."""
    spec = NeuronSpec(decay=0.5, threshold=1.0, delayed_reset=True)
    quiet = offset_for_rate(spec, 0.5, 0.3, recurrent_variance=0.05)
    loud = offset_for_rate(spec, 0.5, 1.2, recurrent_variance=0.05)
    assert quiet.law.std < 0.8 < loud.law.std
    assert not quiet.mean_allowed
    assert loud.mean_allowed


def test_variance_condition() -> None:
    """Binary input and units, Glorot W_in; the table's own variance differs by its sampled W."""
    inputs = {784: (0.00367, 0.00366), 700: (0.0439, 0.0420), 256: (0.5, 0.25)}
    for row in rows("condII"):
        n, n_in = int(row["n"]), int(row["n_in"])
        mean, variance = inputs[n_in]
        glorot = 2.0 / (n + n_in)
        coded = recurrent_weight_variance(n_in, n, glorot, mean, variance, form="published")
        right = recurrent_weight_variance(n_in, n, glorot, mean, variance)
        assert coded == pytest.approx(float(row["var_rec_coded"]), rel=5e-3)
        assert right == pytest.approx(float(row["var_rec_derived"]), rel=5e-3)
        assert published_sampled_variance(float(row["var_rec_coded"]), n) == pytest.approx(
            float(row["var_rec_sampled_by_code"]), rel=1e-9
        )
        assert float(row["ratio_rec_in_derived"]) == pytest.approx(1.0, abs=0.1)
        assert float(row["ratio_rec_in_coded"]) != pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_variance_condition_by_sampling(rate: float) -> None:
    rng = np.random.default_rng(1)
    n, n_in, mean = 200, 300, 0.02
    variance = recurrent_weight_variance(
        n_in, n, 0.01, 0.2, 0.16, rate=rate, recurrent_weight_mean=mean
    )
    published = recurrent_weight_variance(
        n_in, n, 0.01, 0.2, 0.16, recurrent_weight_mean=mean, form="published"
    )
    z = rng.random((200, n_in)) < 0.2
    x = rng.random((200, n)) < rate
    spread = []
    for v in (variance, published):
        w_in = rng.normal(0.0, 0.1, (4000, n_in))
        w = rng.normal(mean, np.sqrt(v), (4000, n - 1))
        i_in = np.einsum("ij,kj->ki", w_in, z * 1.0)
        i_rec = np.einsum("ij,kj->ki", w, x[:, 1:] * 1.0)
        spread.append(current_imbalance(float(i_in.var()), float(i_rec.var())))
    # 200 draws of spikes: the relative error of a variance is about sqrt(2 / 200) = 10 %.
    assert spread[0] < 0.15
    assert spread[1] > 0.25 or rate == 0.8


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        recurrent_law(NeuronSpec(decay=1.0))
    with pytest.raises(ValueError, match=r"synapse_decay=0\.5"):
        recurrent_law(NeuronSpec(synapse_decay=0.5))
    with pytest.raises(ValueError, match=r"input_std=-1\.0"):
        recurrent_law(NeuronSpec(), 0.0, -1.0)
    with pytest.raises(ValueError, match="input_std=nan"):
        recurrent_law(NeuronSpec(), 0.0, float("nan"))
    with pytest.raises(ValueError, match="no noise over time"):
        recurrent_law(NeuronSpec(), 0.0, 0.0)
    with pytest.raises(ValueError, match="too small against its range"):
        recurrent_law(NeuronSpec(decay=0.99), 0.02, 1e-5)
    with pytest.raises(ValueError, match=r"target_rate=1\.0"):
        offset_for_rate(NeuronSpec(), 1.0, 0.5)
    with pytest.raises(ValueError, match=r"gain=0\.0"):
        offset_for_rate(NeuronSpec(gain=0.0), 0.5, 0.5)
    with pytest.raises(ValueError, match="reset='soft'"):
        recurrent_mean_for_half("soft", 0.5, 1.0)
    with pytest.raises(ValueError, match=r"recurrent_weight_mean=0\.5"):
        recurrent_weight_variance(10, 100, 0.01, 0.1, 0.1, recurrent_weight_mean=0.5)
    with pytest.raises(ValueError, match="form='code'"):
        recurrent_weight_variance(10, 100, 0.01, 0.1, 0.1, form="code")  # type: ignore[arg-type]


def test_rates_that_do_not_settle_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = NeuronSpec(decay=0.5)
    found = recurrent_law(spec, 0.3, 0.5, recurrent_variance=0.5)
    assert 1 < found.iterations < recurrent_density.MOST_ITERATIONS
    monkeypatch.setattr(recurrent_density, "MOST_ITERATIONS", found.iterations - 1)
    with pytest.raises(ValueError, match=r"the rates did not settle in \d+ iterations") as caught:
        recurrent_law(spec, 0.3, 0.5, recurrent_variance=0.5)
    assert "\n" not in str(caught.value)
