"""Remedies: fixed points, published widths and thresholds, and one contract for the whole table."""

import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spikescope.analysis import remedies
from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.remedies import REMEDIES, propose
from spikescope.analysis.surrogate import Surrogate

# ---------------------------------------------------------------------- MP-Init


def settle(active_only, batches=160, units=20_000):
    """Run MP-Init as released on a mul LIF, decay 0.5, soft reset, input N(0, 0.5^2), T = 4."""
    rng = np.random.default_rng(4)
    spec = NeuronSpec(decay=0.5, threshold=1.0, reset="subtract")
    start, starts = 0.0, []
    for _ in range(batches):
        v, active = np.full(units, start), np.zeros(units, bool)
        for _ in range(4):
            _, s, v = step(spec, v, rng.normal(0.0, 0.5, units))
            active |= s > 0
        found = remedies.active_mean(v, active if active_only else np.ones(units, bool))
        start = remedies.mp_init(start, found.mean)
        starts.append(start)
    return np.array(starts[60:])  # 0.9^60 of the start value is left: 0.2 %


@pytest.mark.parametrize(("active_only", "fixed_point"), [(False, -0.0629), (True, 0.0602)])
def test_mp_init_settles_at_its_fixed_point(active_only, fixed_point):
    # The fixed points of c = E[v_4 | v_0 = c] over all and over active units, by quadrature.
    starts = settle(active_only)
    # A running mean with 0.1 of the new value has an autocorrelation time of 19 batches.
    error = starts.std() * np.sqrt(19 / len(starts))
    assert starts.mean() == pytest.approx(fixed_point, abs=4 * error + 1e-4)
    assert error < 0.002


def test_mp_init_forms_and_masks():
    assert remedies.mp_init(1.0, 0.0) == pytest.approx(0.9)
    assert remedies.mp_init(1.0, 0.0, "paper") == pytest.approx(0.1)
    with pytest.raises(ValueError, match="form='momentum' is not one of released, paper"):
        remedies.mp_init(1.0, 0.0, "momentum")
    nobody = remedies.active_mean(np.array([0.3, 0.4]), np.array([False, False]))
    assert (nobody.mean, nobody.count) == (0.0, 0)
    v, active = torch.tensor([0.2, 0.6, -0.1]), torch.tensor([True, True, False])
    found = remedies.active_mean(v, active, torch)
    assert (found.mean.item(), found.count.item()) == (pytest.approx(0.4), 2)


@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
def test_post_reset_mean_and_draws_are_those_of_the_units(reset):
    rng = np.random.default_rng(5)
    spec = NeuronSpec(decay=0.5, threshold=1.0, reset=reset, reset_value=0.1)
    u = rng.normal(0.6, 0.5, 200_000)
    edges = np.linspace(-3.0, 5.0, 1601)
    counts = np.histogram(u, edges)[0]
    v = step(spec, 0.0, u)[2]
    assert remedies.post_reset_mean(spec, counts, edges) == pytest.approx(v.mean(), abs=0.005)
    draws = remedies.start_from_law(spec, counts, edges, rng.random(20_000))
    assert stats.ks_2samp(draws, v).pvalue > 1e-3
    other = remedies.start_from_law(NeuronSpec(reset="to_value"), counts, edges, rng.random(20_000))
    assert stats.ks_2samp(other, v).pvalue < 1e-9


def test_draws_avoid_empty_bins():
    spec = NeuronSpec(threshold=9.0)
    uniform = np.linspace(0.0, 1.0, 101)
    draws = remedies.start_from_law(spec, [0, 3, 0, 0, 1, 0], np.arange(7.0), uniform)
    assert (((draws >= 1.0) & (draws <= 2.0)) | ((draws >= 4.0) & (draws <= 5.0))).all()
    assert (draws >= 4.0).mean() == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match=r"uniform=1\.5"):
        remedies.start_from_law(spec, [1], [0.0, 1.0], 1.5)


# ---------------------------------------------------------------------- MPD-AGL and DS-ATGO


def test_lsg_widths():
    # LSG is the rule with gamma 1 after the first step; widths at threshold 0.5.
    found = [remedies.agl_width(1.0, 0.5, decay, t=2) for decay in (0.2, 0.5, 0.8)]
    assert found == pytest.approx([1.0198, 1.1180, 1.2806], abs=5e-5)
    assert remedies.agl_width(1.0, 0.5, 0.8, t=1) == 1.0
    assert remedies.agl_width(1.0, 0.5, 0.2, t=2, alpha=0.5) == pytest.approx(0.5 * found[0])


def test_widths_of_the_first_step_and_the_rest_at_once():
    widths = remedies.agl_width(1.0, 0.5, 0.2, np.arange(1, 5))
    assert widths.tolist() == [remedies.agl_width(1.0, 0.5, 0.2, t) for t in range(1, 5)]
    assert widths[1] == widths[3] != widths[0]


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.array([1.0, -0.2])])
def test_a_scale_that_blocks_all_gradients_is_refused(scale):
    with pytest.raises(ValueError, match=r"gbar=.* of conv3 gives no window"):
        remedies.agl_width(scale, 0.5, 0.2, t=2, layer="conv3")


def test_rms_scale_is_the_spread_over_channels():
    gamma, beta = np.linspace(-0.8, 1.2, 64), np.linspace(-0.1, 0.3, 64)
    rng = np.random.default_rng(6)
    inputs = beta + 0.5 * gamma * rng.standard_normal((20_000, 64))
    predicted = 0.5 * remedies.agl_rms_scale(gamma, beta, 0.5)
    # Relative standard error of a standard deviation; heavy tails of a scale mixture double it.
    assert predicted == pytest.approx(inputs.std(), rel=8 / np.sqrt(2 * inputs.size))
    assert 0.5 * gamma.mean() < 0.4 * predicted  # the published mean misses most of it
    tensor = remedies.agl_rms_scale(torch.tensor(gamma), torch.tensor(beta), 0.5, xp=torch)
    assert tensor.item() == pytest.approx(predicted / 0.5, rel=1e-12)


def test_bounds_of_the_width():
    found = remedies.clamp_width(np.array([0.05, 1.0, 9.0]), 1.5)
    assert found.value.tolist() == pytest.approx([0.3, 1.0, 7.5])
    assert found.clamped.tolist() == [True, False, True]


def test_both_cases_of_the_width_rule_are_one():
    theta, k0 = np.linspace(-2.0, 4.0, 50), 1.3
    printed = np.where(theta < 1, k0 * (1 - np.tanh(1 - theta)), k0 * (1 + np.tanh(theta - 1)))
    np.testing.assert_allclose(remedies.atgo_width(theta, 1.0, k0), printed, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3.0, 3.0), st.floats(0.05, 4.0))
def test_threshold_lets_15_87_percent_fire(mean, std):
    theta = remedies.atgo_threshold(mean, std, floor=-np.inf).value
    assert stats.norm.sf(theta, mean, std) == pytest.approx(0.158655, abs=5e-7)


def test_floor_of_the_threshold_is_said():
    found = remedies.atgo_threshold(np.array([-2.0, 0.0]), 0.5, floor=0.05)
    assert found.value.tolist() == [0.05, 0.5]
    assert found.clamped.tolist() == [True, False]


def test_running_threshold_forgets_its_start_in_22_batches():
    value = 1.0
    for _ in range(22):
        value = remedies.running_threshold(value, 0.0)
    assert value == pytest.approx(0.9**22)
    assert 0.09 < value < 0.11


# ---------------------------------------------------------------------- the table

SCALARS = {
    "active_mean": 0.3,
    "post_mean": 0.25,
    "threshold": 0.8,
    "gamma_mean": 0.9,
    "gamma_rms": 1.1,
    "decay": 0.4,
    "t": 2,
    "mean": 0.1,
    "std": 0.6,
}
INPUTS = SCALARS | {
    "spec": NeuronSpec(decay=0.4, threshold=0.8),
    "counts": np.array([1.0, 4.0, 3.0]),
    "edges": np.array([-1.0, 0.0, 0.8, 1.6]),
    "uniform": np.array([0.1, 0.6, 0.9]),
}
SPEC_FIELDS = set(inspect.signature(NeuronSpec).parameters)
SURROGATE_FIELDS = set(inspect.signature(Surrogate).parameters)


@pytest.mark.parametrize("name", REMEDIES)
def test_each_remedy_keeps_the_contract(name):
    remedy = REMEDIES[name]
    changes = propose(name, INPUTS)
    assert tuple(changes) == remedy.changes
    assert set(changes) <= SPEC_FIELDS | SURROGATE_FIELDS
    assert all(np.isfinite(value).all() for value in changes.values())
    # What it proposes can be built.
    spec = {key: value for key, value in changes.items() if key in SPEC_FIELDS}
    NeuronSpec(**({"threshold": 0.8} | spec))
    surrogate = {key: value for key, value in changes.items() if key in SURROGATE_FIELDS}
    if surrogate:
        assert Surrogate("rectangular", **surrogate).area == pytest.approx(1.0)
    # Its source names a paper or ours, and where.
    assert re.search(r"arXiv \d{4}\.\d{5}, |^ours", remedy.source)
    # Each need is needed.
    for need in remedy.needs:
        less = {key: value for key, value in INPUTS.items() if key != need}
        with pytest.raises(ValueError, match=f"remedy '{name}' needs {need}"):
            propose(name, less)


@pytest.mark.parametrize(
    "name", [n for n, row in REMEDIES.items() if set(row.needs) <= set(SCALARS)]
)
def test_each_remedy_takes_many_layers_at_once(name):
    needs = [need for need in REMEDIES[name].needs if need != "t"]
    arrays = {need: SCALARS[need] * np.array([0.5, 1.0, 1.7]) for need in needs} | {"t": 2}
    together = propose(name, arrays)
    for i in range(3):
        alone = propose(
            name, {need: values[i] for need, values in arrays.items() if need != "t"} | {"t": 2}
        )
        for field, value in alone.items():
            values = np.broadcast_to(together[field], 3)
            assert values[i] == pytest.approx(value, rel=1e-14)
    # A need that changed nothing would be idle; some only enter through a bound.
    first = propose(name, SCALARS)
    for need in needs:
        moved = [propose(name, SCALARS | {need: c * SCALARS[need]}) for c in (1.3, 0.01, 100.0)]
        assert any(case[field] != value for case in moved for field, value in first.items()), need


def test_the_two_drivers_of_the_moving_width():
    inputs = {"mean": -0.5, "std": 0.6, "threshold": 1.0}
    released, printed = propose("atgo", inputs), propose("atgo_paper", inputs)
    assert released["threshold"] == printed["threshold"] == pytest.approx(0.1)
    assert released["width"] == pytest.approx(1 + np.tanh(0.6 - 1.0))
    assert printed["width"] == pytest.approx(1 + np.tanh(0.1 - 1.0))
    assert propose("atgo_width", inputs)["width"] == released["width"]
    # A threshold that would fall to 0 or below stops at the floor.
    low = propose("atgo", inputs | {"mean": -2.0})["threshold"]
    assert low == pytest.approx(remedies.LOWEST_THRESHOLD)


def test_an_unknown_remedy_is_named():
    with pytest.raises(ValueError, match="remedy='dropout' is not one of mp_init"):
        propose("dropout", INPUTS)


@pytest.mark.parametrize("name", ["rs_sg", "trsg", "mp_init"])
def test_plain_arithmetic_serves_tensors(name):
    tensors = {need: torch.tensor([0.5, 1.5]) for need in REMEDIES[name].needs}
    for field, value in propose(name, tensors).items():
        plain = propose(name, {need: 1.5 for need in REMEDIES[name].needs})[field]
        assert float(torch.as_tensor(value).expand(2)[1]) == pytest.approx(plain, rel=1e-6)


def test_adaptive_rules_serve_tensors():
    mean, std = torch.tensor(0.1), torch.tensor(0.6)
    moved = remedies.atgo_threshold(mean, std, floor=0.05, xp=torch)
    assert moved.value.item() == pytest.approx(0.7)
    width = remedies.atgo_width(std, 1.0, xp=torch)
    assert width.item() == pytest.approx(float(remedies.atgo_width(0.6, 1.0)), rel=1e-6)
    assert remedies.clamp_width(width, 5.0, xp=torch).value.item() == pytest.approx(1.0)
    assert remedies.agl_width(torch.tensor(2.0), 0.5, 0.2, 2).item() == pytest.approx(2.0396, 1e-4)


def test_a_law_without_spread_gives_no_width():
    with pytest.raises(ValueError, match=r"std=0\.0"):
        remedies.true_std_width(0.0)
