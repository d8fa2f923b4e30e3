"""Stationary laws against reference cases and closed forms.

``reference/stationary.csv``: cases in the manner of Kook et al., arXiv 2511.08708 (MP-Init).
``fredholm`` rows were computed with 10-point Gauss-Legendre panels of 0.8 standard deviations on
the pre-reset chain, confirmed by a discretisation of the post-reset chain (``lambda2_ulam``) and by
simulation of 1e5 chains (``mc_*``, with standard errors); ``closed_form`` rows are exact. Figures
are printed to 10 digits. The tv columns carry the error of that quadrature at the kinks of
|p - q|, up to 3e-6, as the closed form for AR(1) below shows.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.stationary import FIGURES, StationaryLaw, stationary_law
from spikescope.analysis.stationary_report import UNITS, stationary_report

MODULES = (
    "input_noise", "layer_laws", "potential_range", "stationary", "stationary_report", "transfer",
    "unit_law",
)  # fmt: skip
RESETS = {"hard": "to_value", "soft": "subtract", "none": "none"}


def _rows() -> dict[str, dict[str, str]]:
    path = Path(__file__).parent / "reference" / "stationary.csv"
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


ROWS = _rows()
SOLVED = [name for name, row in ROWS.items() if row["kind"] in ("fredholm", "ar1_exact")]
RESETTING = [name for name, row in ROWS.items() if row["kind"] == "fredholm"]


def number(row: dict[str, str], column: str) -> float:
    return float(row[column])


def spec_of(row: dict[str, str]) -> NeuronSpec:
    decay = number(row, "a")
    gain = 1.0 if row["leak"] == "mul" else 1.0 - decay
    return NeuronSpec(
        decay=decay, gain=gain, threshold=number(row, "v_thr"), reset=RESETS[row["reset"]]
    )


def law_of(row: dict[str, str], **changes: float) -> StationaryLaw:
    """Law of a reference case, or of one whose spec is wrong by a factor."""
    spec = spec_of(row)
    wrong = {name: getattr(spec, name) * factor for name, factor in changes.items()}
    return stationary_law(replace(spec, **wrong), number(row, "mu"), number(row, "sigma"))


def differences(row: dict[str, str], law: StationaryLaw) -> dict[str, float]:
    """Absolute differences of the law's figures from the table's."""
    return {
        "mean": abs(law.mean - number(row, "mean_pre")),
        "std": abs(law.std - number(row, "std_pre")),
        "mean_post": abs(law.mean_post - number(row, "mean_post")),
        "std_post": abs(law.std_post - number(row, "std_post")),
        "rate": abs(law.rate - number(row, "firing_rate")),
        "lambda_2": abs(
            law.lambda_2 - complex(number(row, "lambda2_re"), number(row, "lambda2_im"))
        ),
        "lambda_3": abs(abs(law.lambda_3) - number(row, "lambda3_abs")),
    }


@pytest.mark.parametrize("case", SOLVED)
def test_reference_law(case: str) -> None:
    row = ROWS[case]
    law = law_of(row)
    off = differences(row, law)
    assert max(off.values()) < 1e-6
    for name, error in law.error.items():
        # The table was computed at a truncation that shows in the ninth digit.
        assert off[name] <= error + 6e-9, name
        assert error < 1e-6, name


@pytest.mark.parametrize("case", RESETTING)
@pytest.mark.parametrize("wrong", ["decay", "threshold"])
def test_a_spec_wrong_by_two_per_cent_fails(case: str, wrong: str) -> None:
    off = differences(ROWS[case], law_of(ROWS[case], **{wrong: 1.02}))
    assert max(off.values()) > 100 * 1e-6


@pytest.mark.parametrize("case", RESETTING)
def test_reference_simulation(case: str) -> None:
    """Seventy-odd z-scores of recorded simulations: beyond 4 once in 16 000."""
    row, law = ROWS[case], law_of(ROWS[case])
    for value, name in ((law.mean, "mean_pre"), (law.mean_post, "mean_post"), (law.rate, "rate")):
        z = (value - number(row, f"mc_{name}")) / number(row, f"mc_{name}_se")
        assert abs(z) < 4, name
    wrong = law_of(row, threshold=1.02)
    z = (wrong.rate - number(row, "mc_rate")) / number(row, "mc_rate_se")
    assert abs(z) > 4


@pytest.mark.parametrize("case", RESETTING)
def test_reference_coverage(case: str) -> None:
    row, law = ROWS[case], law_of(ROWS[case])
    theta = number(row, "v_thr")
    for half, column in ((0.5, "cover_abs_halfwidth_0p5"),
                         (0.5 * theta, "cover_rel_halfwidth_0p5Vthr")):  # fmt: skip
        assert law.coverage(theta - half, theta + half) == pytest.approx(
            number(row, column), abs=1e-9
        )
        assert law.coverage(theta - half, theta + 1.02 * half) != pytest.approx(
            number(row, column), abs=1e-6
        )


@pytest.mark.parametrize("case", SOLVED)
@pytest.mark.parametrize("start", ["u0zero", "u0mean"])
def test_reference_transient(case: str, start: str) -> None:
    row, law = ROWS[case], law_of(ROWS[case])
    v = 0.0 if start == "u0zero" else law.best_start
    path = law.transient(4, start=v)
    for t in (1, 2, 4):
        assert path.tv[t - 1] == pytest.approx(number(row, f"tv_t{t}_{start}"), abs=4e-6)
    if row["reset"] != "none":
        assert path.rate[0] == pytest.approx(number(row, f"rate_t1_{start}"), abs=1e-9)
    which = start[2:]
    for distance, name in ((0.1, "0p1"), (0.01, "0p01")):
        assert law.steps_to_tv(distance, v) == number(row, f"steps_tv_lt_{name}_{which}")


@pytest.mark.parametrize("case", RESETTING)
def test_reference_start_potentials(case: str) -> None:
    row, law = ROWS[case], law_of(ROWS[case])
    everyone, active = law.mp_init(4), law.mp_init(4, active_only=True)
    assert everyone == pytest.approx(number(row, "mpinit_T4_all"), abs=1e-9)
    assert active == pytest.approx(number(row, "mpinit_T4_active"), abs=1e-9)
    share = law.active_share(4, start=active)
    assert share == pytest.approx(number(row, "p_active_T4"), abs=1e-9)
    # The same through the other door: after T steps from c the mean is c again.
    assert law.transient(4, start=everyone).mean_post[-1] == pytest.approx(everyone, abs=1e-9)
    assert law.transient(3, start=everyone + 0.01).mean_post[-1] != pytest.approx(
        everyone + 0.01, abs=1e-5
    )


def test_long_window_gives_the_stationary_mean() -> None:
    law = law_of(ROWS["mul5_hard"])
    assert law.mp_init(60) == pytest.approx(law.best_start, abs=1e-9)
    assert law.mp_init(4) != pytest.approx(law.best_start, abs=1e-3)


def test_published_example_of_the_removable_share() -> None:
    """W1/threshold .261 to .146 (44 %), total variation .426 to .309, to the digits printed."""
    shift = law_of(ROWS["decay7_soft"]).removable()
    assert shift.w1_before == pytest.approx(0.261, abs=5e-4)
    assert shift.w1_after == pytest.approx(0.146, abs=5e-4)
    assert shift.share == pytest.approx(0.44, abs=5e-3)
    assert shift.tv_before == pytest.approx(0.426, abs=5e-4)
    assert shift.tv_after == pytest.approx(0.309, abs=5e-4)


def normal_tv(mean: float, std: float, other_mean: float, other_std: float) -> float:
    """Total variation of two normal laws, from the roots of the quadratic where they cross."""
    p, q = stats.norm(mean, std), stats.norm(other_mean, other_std)
    a = 0.5 / other_std**2 - 0.5 / std**2
    b = mean / std**2 - other_mean / other_std**2
    c = 0.5 * (other_mean / other_std) ** 2 - 0.5 * (mean / std) ** 2 + math.log(other_std / std)
    cuts = np.sort(np.roots([a, b, c]).real)
    return float(0.5 * np.abs(np.diff(p.cdf(cuts) - q.cdf(cuts), prepend=0, append=0)).sum())


@pytest.mark.parametrize(("decay", "mean", "std"), [(0.5, 0.2, 0.5), (0.9, 0.1, 0.3)])
def test_ar1(decay: float, mean: float, std: float) -> None:
    law = stationary_law(NeuronSpec(decay=decay, reset="none"), mean, std)
    m, sd = mean / (1 - decay), std / math.sqrt(1 - decay**2)
    assert law.mean == pytest.approx(m, abs=1e-10)
    assert law.std == pytest.approx(sd, rel=1e-9)
    assert law.rate == pytest.approx(special.ndtr((m - 1.0) / sd), rel=1e-9)
    assert law.lambda_2 == pytest.approx(decay, abs=1e-9)
    assert law.lambda_3 == pytest.approx(decay**2, abs=1e-9)
    start = -0.7
    path = law.transient(5, start=start)
    for t in range(1, 6):
        mean_t = m + (start - m) * decay**t
        sd_t = sd * math.sqrt(1 - decay ** (2 * t))
        assert path.mean[t - 1] == pytest.approx(mean_t, abs=1e-9)
        assert path.std[t - 1] == pytest.approx(sd_t, rel=1e-9)
        assert path.tv[t - 1] == pytest.approx(normal_tv(mean_t, sd_t, m, sd), abs=1e-9)
        # W1 of two normal laws: E|difference of means + difference of sds times a standard one|.
        shift, spread = abs(m - mean_t), abs(sd - sd_t)
        w1 = shift * (2 * special.ndtr(shift / spread) - 1) + 2 * spread * stats.norm.pdf(
            shift / spread
        )
        assert path.w1[t - 1] == pytest.approx(w1, abs=1e-9)
        assert path.tv[t - 1] != pytest.approx(normal_tv(1.02 * mean_t, sd_t, m, sd), abs=1e-5)
    u = np.linspace(m - 3 * sd, m + 3 * sd, 7)
    np.testing.assert_allclose(law.pdf(u), stats.norm(m, sd).pdf(u), atol=1e-9)
    np.testing.assert_allclose(law.cdf(u), stats.norm(m, sd).cdf(u), atol=1e-9)


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
@pytest.mark.parametrize(("mean", "std", "theta"), [(0.5, 1.0, 1.0), (0.0, 0.5, 0.25)])
def test_decay_0(reset: str, mean: float, std: float, theta: float) -> None:
    law = stationary_law(NeuronSpec(decay=0.0, threshold=theta, reset=reset), mean, std)
    alpha = (theta - mean) / std
    rate = special.ndtr(-alpha)
    hard = mean * special.ndtr(alpha) - std * stats.norm.pdf(alpha)
    assert law.rate == pytest.approx(rate, abs=1e-12)
    assert law.mean_post == pytest.approx(
        hard if reset == "to_value" else mean - theta * rate, abs=1e-12
    )
    assert law.lambda_2 == 0
    for name in ("A0_soft_mu0.5", "A0_soft_mu0", "A0_hard_mu0"):
        if theta == number(ROWS[name], "v_thr") and ROWS[name]["reset"] == {
            "subtract": "soft", "to_value": "hard"}[reset]:  # fmt: skip
            assert law.mean_post == pytest.approx(number(ROWS[name], "mean_post"), abs=1e-9)
            assert law.std_post == pytest.approx(number(ROWS[name], "std_post"), abs=1e-9)


@pytest.mark.parametrize("rate_of_input", [2.0, 4.0])
def test_exponential_input_without_leak(rate_of_input: float) -> None:
    lam, theta = rate_of_input, 1.0
    spec = NeuronSpec(decay=1.0, threshold=theta, reset="to_value")
    law = stationary_law(spec, input_law=stats.expon(scale=1 / lam))
    rate = 1 / (1 + lam * theta)
    second = lam * theta**3 / (3 * (1 + lam * theta))
    mean = lam * theta**2 / (2 * (1 + lam * theta))
    assert law.rate == pytest.approx(rate, abs=1e-9)
    assert law.mean_post == pytest.approx(mean, abs=1e-9)
    assert law.std_post == pytest.approx(math.sqrt(second - mean**2), abs=1e-9)
    assert law.atom == pytest.approx((0.0, rate), abs=1e-9)
    np.testing.assert_allclose(law.pdf_post([0.25, 0.75]), lam * rate, atol=1e-9)
    assert law.pdf_post(1.5) == 0
    wrong = stationary_law(replace(spec, threshold=1.02), input_law=stats.expon(scale=1 / lam))
    assert wrong.rate != pytest.approx(rate, abs=1e-3)
    if lam == 2.0:
        row = ROWS["EXP_IF_hard_lam2"]
        assert differences(row | {"lambda2_re": "0", "lambda2_im": "0", "lambda3_abs": "0",
                                  "std_pre": "0"}, law)["rate"] < 1e-9  # fmt: skip
        assert law.mean == pytest.approx(number(row, "mean_pre"), abs=1e-9)


def test_no_leak_and_soft_reset() -> None:
    law = stationary_law(NeuronSpec(decay=1.0), 0.3, 0.5)
    assert law.rate == pytest.approx(
        number(ROWS["GAUSS_IF_soft_mu0.3_V1"], "firing_rate"), abs=1e-9
    )
    assert law.error["rate"] < 1e-6


@pytest.mark.parametrize("given", ["law", "samples"])
def test_fair_bits(given: str) -> None:
    """Binary digits: u is uniform on [0, 2]."""
    bits: dict[str, Any] = {"input_law": stats.bernoulli(0.5)}
    if given == "samples":
        bits = {"input_samples": [0, 1]}
    law = stationary_law(NeuronSpec(decay=0.5, reset="none"), **bits)
    row = ROWS["BERN_half"]
    assert law.mean == pytest.approx(number(row, "mean_pre"), abs=1e-6)
    assert law.std == pytest.approx(number(row, "std_post"), abs=1e-6)
    assert law.coverage(0.5, 1.0) == pytest.approx(0.25, abs=1e-6)
    skewed = stationary_law(NeuronSpec(decay=0.5, reset="none"), input_samples=[0, 0, 1])
    assert skewed.mean == pytest.approx(2 / 3, abs=skewed.error["mean"])
    assert skewed.error["mean"] < 1e-4


@pytest.mark.parametrize(
    ("case", "decay", "std", "share"),
    [("AR1_quenched_a0.5_rho0.5", 0.5, 1.0, 0.5), ("AR1_quenched_a0.9_rho0.2", 0.9, 0.3, 0.2)],
)
def test_frozen_input_without_reset(case: str, decay: float, std: float, share: float) -> None:
    row = ROWS[case]
    mean = number(row, "mean_pre") * (1 - decay)
    spec = NeuronSpec(decay=decay, reset="none")
    law = stationary_law(spec, mean, std, frozen=share)
    assert law.mean == pytest.approx(number(row, "mean_pre"), abs=1e-9)
    assert law.std == pytest.approx(number(row, "std_post"), abs=1e-6)
    m, sd = law.mean, law.std
    np.testing.assert_allclose(law.cdf([m - sd, m + sd]), special.ndtr([-1, 1]), atol=1e-6)
    fast = std * math.sqrt(1 - share) / math.sqrt(1 - decay**2)
    slow = std * math.sqrt(share) / (1 - decay)
    first = math.sqrt(fast**2 * (1 - decay**2) + slow**2 * (1 - decay) ** 2)
    expected = normal_tv(mean, first, m, sd)
    assert law.transient(1).tv[0] == pytest.approx(expected, abs=1e-6)
    free = stationary_law(spec, mean, std)
    assert free.std != pytest.approx(number(row, "std_post"), rel=0.02)


def test_frozen_input_is_a_mixture_over_units() -> None:
    spec = NeuronSpec(decay=0.5, reset="to_value")
    law = stationary_law(spec, 0.3, 0.5, frozen=0.3)
    z, w = special.roots_hermitenorm(21)
    units = stationary_law(spec, 0.3 + 0.5 * math.sqrt(0.3) * z, 0.5 * math.sqrt(0.7))
    w = w / w.sum()
    assert law.rate == pytest.approx(w @ units.rate, abs=1e-7)
    assert law.mean == pytest.approx(w @ units.mean, abs=1e-7)
    second = w @ (units.std**2 + units.mean**2)
    assert law.std == pytest.approx(math.sqrt(second - law.mean**2), abs=1e-7)
    assert law.mp_init(5) == pytest.approx(
        law.transient(5, start=law.mp_init(5)).mean_post[-1], abs=1e-8
    )
    assert law.error["rate"] < 1e-6


@pytest.mark.parametrize(
    ("case", "decay", "current"), [("CONST_tau2_I1.1", 0.5, 1.1), ("CONST_tau10_I1.5", 0.9, 1.5)]
)
def test_nearly_periodic_firing(case: str, decay: float, current: float) -> None:
    """With little noise the interval is that of a constant current: ceil(ln(1-1/I)/ln a)."""
    spec = NeuronSpec(decay=decay, gain=1 - decay, reset="to_value")
    law = stationary_law(spec, current, 0.01)
    assert law.rate == pytest.approx(number(ROWS[case], "firing_rate"), abs=1e-6)
    turn = 2 * math.pi * number(ROWS[case], "firing_rate")
    assert np.angle(law.lambda_2) == pytest.approx(turn, abs=1e-4)
    assert law.rings
    assert law.error["lambda_2"] < 1e-4
    assert max(law.error[name] for name in FIGURES[:5]) < 1e-4
    noisy = stationary_law(spec, current, 1.0)
    assert not noisy.rings


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
def test_far_below_and_far_above_the_threshold(reset: str) -> None:
    """Without spikes, and with one at every step, the chain is AR(1) again."""
    decay, std = 0.8, 0.02
    spread = std / math.sqrt(1 - decay**2)
    quiet = stationary_law(NeuronSpec(decay=decay, reset=reset), -4.0, std)
    assert quiet.mean == pytest.approx(-20.0, abs=1e-9)
    assert quiet.std == pytest.approx(spread, rel=1e-9)
    assert quiet.rate == 0
    assert quiet.mp_init(4, active_only=True) is None
    busy = stationary_law(NeuronSpec(decay=decay, reset=reset), 4.0, std)
    assert busy.rate == pytest.approx(1.0, abs=1e-12)
    expected = (4.0 - decay) / (1 - decay) if reset == "subtract" else 4.0
    assert busy.mean == pytest.approx(expected, abs=1e-9)
    assert busy.std == pytest.approx(spread if reset == "subtract" else std, rel=1e-9)


def test_wide_range_of_layers() -> None:
    """The soft reset's balance (1 - a) E[u] = mu - a theta rate holds from end to end."""
    rng = np.random.default_rng(3)
    decay = np.concatenate([rng.uniform(0, 0.99, 30), [0.0, 0.995, 0.999]])
    theta = 10 ** rng.uniform(-1, 1, 33)
    std = theta * 10 ** rng.uniform(-1.5, 1, 33)
    mean = theta * rng.uniform(-1, 3, 33)
    law = stationary_law(NeuronSpec(decay=decay, threshold=theta), mean, std)
    residual = (1 - decay) * law.mean - (mean - decay * theta * law.rate)
    np.testing.assert_allclose(residual / law.std, 0, atol=1e-9)
    assert np.isfinite([law.mean, law.std, law.rate]).all()
    assert max(np.max(law.error[name] / law.std) for name in ("mean", "std")) < 1e-6
    assert np.max(law.error["lambda_2"]) < 1e-6
    hard = stationary_law(NeuronSpec(decay=decay, threshold=theta, reset="to_value"), mean, std)
    assert np.max(hard.error["lambda_2"]) < 1e-6
    assert np.max(hard.error["rate"]) < 1e-6
    off = (1 - decay) * law.mean - (mean - 1.02 * decay * theta * law.rate)
    assert np.max(np.abs(off) / law.std) > 1e-3


def test_slow_modes_of_a_strong_drift() -> None:
    """Lambda 2 lies between the decay of the distance from a near and from a far start."""
    law = stationary_law(NeuronSpec(decay=0.998, reset="to_value"), 0.8, 1.0)
    near, far = (law.transient(60, start=start).tv for start in (0.0, -20.0))
    assert near[50] / near[49] < law.lambda_2.real < far[59] / far[58]
    assert far[59] / far[58] - near[50] / near[49] < 0.05
    assert law.error["lambda_2"] < 1e-6


def test_far_start() -> None:
    """From far below the mean path is the decay of the distance until the threshold matters."""
    law = stationary_law(NeuronSpec(decay=0.5), 0.0, 0.5)
    path = law.transient(3, start=-1000.0)
    np.testing.assert_allclose(path.mean, [-500, -250, -125], atol=1e-9)
    np.testing.assert_allclose(path.tv, 1.0, atol=1e-9)
    assert law.steps_to_tv(0.01, start=-1000.0) > law.steps_to_tv(0.01, start=-10.0)


def test_a_layer_that_never_fires() -> None:
    law = stationary_law(NeuronSpec(decay=0.5, threshold=np.inf, reset="none"), 0.1, 0.5)
    assert law.rate == 0
    assert law.mean == pytest.approx(0.2, abs=1e-12)
    assert law.mp_init(4) == pytest.approx(0.2, abs=1e-9)
    assert law.mp_init(4, active_only=True) is None


def test_error_of_any_figure() -> None:
    """The estimate is at least the true error, where that is known from the table."""
    row, law = ROWS["mul7_soft"], law_of(ROWS["mul7_soft"])
    assert law.error_of(lambda x: x.transient(4).tv).max() < 1e-7
    assert law.error_of(lambda x: x.removable().share) < 1e-7
    error = law.error_of(lambda x: x.mp_init(4, active_only=True))
    off = abs(law.mp_init(4, active_only=True) - number(row, "mpinit_T4_active"))
    assert off < error + 1e-10
    with pytest.raises(ValueError, match="no error estimate"):
        law.error_of(lambda x: None)
    with pytest.raises(ValueError, match="coarse"):
        law.coarse.error_of(lambda x: x.mean)


def test_histogram_as_input() -> None:
    """A normal law in bins: binning and the spread inside bins each add h^2 / 12 of variance."""
    edges = np.linspace(-2.7, 3.3, 481)
    counts = np.diff(special.ndtr((edges - 0.3) / 0.5))
    histogram = stats.rv_histogram((counts, edges), density=False)
    spec = NeuronSpec(decay=0.6, reset="to_value")
    law = stationary_law(spec, input_law=histogram)
    smooth = stationary_law(spec, 0.3, math.sqrt(0.25 + 0.0125**2 / 6))
    for name in FIGURES[:5]:
        # Where the bins' edges meet the threshold, terms of a tenth of h^2 remain.
        tolerance = law.error[name] + 0.1 * 0.0125**2
        assert getattr(law, name) == pytest.approx(getattr(smooth, name), abs=tolerance), name
    off = stationary_law(spec, 0.3, 0.51)
    assert off.rate != pytest.approx(law.rate, abs=1e-3)


def test_arrays_are_loops() -> None:
    spec = NeuronSpec(decay=np.array([[0.5], [0.9]]), threshold=np.array([1.0, 1.0, 0.5]))
    law = stationary_law(spec, 0.1, np.array([0.5, 0.5, 0.3]))
    assert law.rate.shape == law.lambda_2.shape == law.rings.shape == (2, 3)
    assert law.transient(4).tv.shape == (2, 3, 4)
    assert law.pdf(np.zeros(7)).shape == (2, 3, 7)
    assert len({id(unit) for unit in law.units}) == 4
    one = stationary_law(NeuronSpec(decay=0.9, threshold=0.5), 0.1, 0.3)
    for figure in FIGURES:
        assert getattr(law, figure)[1, 2] == getattr(one, figure)
    assert law.steps_to_tv(0.1, start=[0.0, 1.0, 0.2])[1, 2] == one.steps_to_tv(0.1, start=0.2)
    assert law.removable()[1, 2] == one.removable()
    assert law.error["rate"].shape == (2, 3)


def test_grid_holds_the_mass() -> None:
    law = law_of(ROWS["mul5_hard"])
    u = law.grid(2001)
    assert np.trapezoid(law.pdf(u), u) == pytest.approx(1.0, abs=1e-5)
    post = np.trapezoid(law.pdf_post(u), u) + law.atom[1]
    # The density of v jumps at the threshold: one cell of the trapezoid rule is uncertain.
    assert post == pytest.approx(1.0, abs=law.pdf(2.0) * (u[1] - u[0]))


def test_report() -> None:
    law = law_of(ROWS["decay7_soft"])
    report = stationary_report(law, interval=(0.5, 1.5))
    assert json.loads(json.dumps(report)) == report
    assert list(report["figures"]) == list(UNITS) == list(report["units"])
    figures, errors = report["figures"], report["errors"]
    assert figures["rate"] == law.rate
    covered = number(ROWS["decay7_soft"], "cover_abs_halfwidth_0p5")
    assert figures["coverage"] == pytest.approx(covered, abs=1e-9)
    assert figures["steps_to_tv_0.01_from_start"] == 16
    assert figures["mp_init_active_units"] == pytest.approx(0.114766, abs=1e-6)
    assert all(error is not None and error < 1e-6 for error in errors.values())
    assert "fluctuation-driven" in report["verdict"]
    ringing = stationary_law(NeuronSpec(decay=0.5, gain=0.5, reset="to_value"), 1.1, 0.01)
    assert "ring" in stationary_report(ringing)["verdict"]
    assert "coverage" not in stationary_report(ringing)["figures"]
    with pytest.raises(ValueError, match="one layer"):
        stationary_report(stationary_law(NeuronSpec(), [0.0, 0.1], 0.5))


SPEC = NeuronSpec(decay=0.5)


@pytest.mark.parametrize(
    ("spec", "given", "said"),
    [
        (SPEC, {"input_mean": 0.0, "input_std": 0.0}, "input_std=0.0"),
        (SPEC, {"input_mean": 0.0, "input_std": -1.0}, "input_std=-1.0"),
        (SPEC, {"input_mean": math.nan, "input_std": 1.0}, "input_mean=nan"),
        (SPEC, {"input_mean": 0.0, "input_std": math.inf}, "input_std=inf"),
        (SPEC, {"input_mean": "much", "input_std": 1.0}, "input_mean='much'"),
        (SPEC, {"input_mean": 0.0}, "belong together"),
        (SPEC, {}, "given once"),
        (SPEC, {"input_mean": 0.0, "input_std": 1.0, "input_samples": [1.0]}, "given once"),
        (SPEC, {"input_samples": []}, "input_samples is empty"),
        (SPEC, {"input_samples": [1.0, 1.0]}, "not above 0"),
        (SPEC, {"input_samples": [1.0, math.nan]}, "must be finite"),
        (SPEC, {"input_law": 3.0}, "lacks cdf"),
        (SPEC, {"input_law": stats.cauchy()}, "no finite mean"),
        (SPEC, {"input_mean": [0.0, 1.0], "input_std": [1.0, 1.0, 1.0]}, "do not broadcast"),
        (SPEC, {"input_mean": [], "input_std": 1.0}, "is empty"),
        (SPEC, {"input_mean": 0.0, "input_std": 1.0, "frozen": 1.0}, "frozen=1.0"),
        (SPEC, {"input_law": stats.expon(), "frozen": 0.5}, "frozen=0.5"),
        (SPEC, {"input_mean": 0.5, "input_std": 1e-7}, "too small"),
        (replace(SPEC, threshold=0.0), {"input_mean": 0.0, "input_std": 1.0}, "threshold=0.0"),
        (replace(SPEC, rest=2.0), {"input_mean": 0.0, "input_std": 1.0}, "rest=2.0"),
        (replace(SPEC, gain=0.0), {"input_mean": 0.0, "input_std": 1.0}, "gain=0.0"),
        (replace(SPEC, decay=1.0), {"input_mean": 1.5, "input_std": 1.0}, "decay=1.0"),
        (replace(SPEC, decay=1.0, reset="none"), {"input_mean": 0.5, "input_std": 1.0}, "decay=1"),
        (
            replace(SPEC, decay=1.0, reset="to_value"),
            {"input_mean": -0.5, "input_std": 1.0},
            "decay=1.0",
        ),
        (
            replace(SPEC, reset="to_value", reset_value=1.0),
            {"input_mean": 0.0, "input_std": 1.0},
            "reset_value=1.0",
        ),
        (replace(SPEC, reset_amount=-1.0), {"input_mean": 0.0, "input_std": 1.0}, "-1.0"),
        (replace(SPEC, synapse_decay=0.5), {"input_mean": 0.0, "input_std": 1.0}, "synapse_decay"),
    ],
)
def test_bad_input_is_refused(spec: NeuronSpec, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        stationary_law(spec, **given)
    assert "\n" not in str(refusal.value)


def test_bad_questions_are_refused() -> None:
    law = stationary_law(SPEC, 0.0, 0.5)
    with pytest.raises(ValueError, match=r"distance=1\.5"):
        law.steps_to_tv(1.5)
    with pytest.raises(ValueError, match="steps=0"):
        law.transient(0)
    with pytest.raises(ValueError, match="timesteps=0"):
        law.mp_init(0)
    with pytest.raises(ValueError, match="empty"):
        law.coverage(1.0, 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        law.pdf(np.nan)
