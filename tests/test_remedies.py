"""Remedies: gradients against plain autograd, closed forms against quadrature and simulation."""

import doctest
import importlib
import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from spikescope.analysis import remedies
from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.remedies import REMEDIES, propose
from spikescope.analysis.surrogate import Surrogate
from spikescope.analysis.threshold_gradient import (
    FORMS,
    gaussian_magnitudes,
    raw_from_tau,
    raw_from_threshold,
    tau_from_raw,
    threshold_from_raw,
    threshold_slope,
)


@pytest.mark.parametrize(
    "module", ["threshold_gradient", "start_potential", "adaptive_window", "remedies"]
)
def test_the_printed_examples_are_true(module):
    result = doctest.testmod(importlib.import_module(f"spikescope.analysis.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------------- threshold gradients


class Step(torch.autograd.Function):
    """Heaviside forward, rectangle of area 1 and width gamma backward."""

    gamma = 1.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < Step.gamma / 2) / Step.gamma


def emit(form, u, theta):
    """Spike and output of a form, written as in the paper and not through FORMS."""
    if form == "as":
        s = Step.apply(u - theta)
        return s, s
    s = Step.apply(u / theta - 1.0)
    return s, theta * s if form == "trsg" else s


def gradients(output, *inputs):
    return torch.autograd.grad(output.sum(), inputs, retain_graph=True)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
@pytest.mark.parametrize("theta", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_each_form_against_autograd(form, theta, gamma, monkeypatch):
    monkeypatch.setattr(Step, "gamma", gamma)
    generator = torch.Generator().manual_seed(0)
    spread = 1.8 * gamma * max(theta, 1.0)
    u = theta + spread * (torch.rand(400, generator=generator, dtype=torch.float64) - 0.5)
    u.requires_grad_()
    thetas = torch.full_like(u, theta).requires_grad_()
    s, o = emit(form, u, thetas)
    by_u, by_theta = gradients(o, u, thetas)
    soft = u - (o if form == "trsg" else theta * s)
    hard = u * (1.0 - s)

    row = FORMS[form]
    x = row.argument(u.detach().numpy(), theta)
    f = (np.abs(x) < gamma / 2) / gamma
    values = (u.detach().numpy(), theta, f, s.detach().numpy())
    for got, expected in (
        (row.output_by_potential(*values), by_u),
        (row.output_by_threshold(*values), by_theta),
        (row.carry_subtract(*values), gradients(soft, u)[0]),
        (row.carry_to_value(*values), gradients(hard, u)[0]),
    ):
        np.testing.assert_allclose(got * np.ones(400), expected.numpy(), rtol=1e-13, atol=1e-13)
        assert np.abs(got * 1.02 - expected.numpy()).max() > 1e-3
    # Elements inside and outside the window, above and below the threshold, all occur.
    assert 0 < (f > 0).mean() < 1
    assert 0 < s.mean() < 1


@pytest.mark.parametrize("form", FORMS)
def test_total_gradients_through_the_past_against_autograd(form):
    generator = torch.Generator().manual_seed(1)
    past = torch.rand(300, generator=generator, dtype=torch.float64)
    v, current = (torch.rand(2, 300, generator=generator, dtype=torch.float64)) * 2
    theta0, tau0 = 0.8, 2.5
    theta = torch.full_like(past, theta0).requires_grad_()
    tau = torch.full_like(past, tau0).requires_grad_()

    u = 0.4 + v / 2 + past * (theta - theta0)
    by_theta = gradients(emit(form, u, theta)[1], theta)[0]
    row = FORMS[form]
    s = (u >= theta0).double().detach().numpy()
    f = (np.abs(row.argument(u.detach().numpy(), theta0)) < 0.5) / 1.0
    got = row.total_by_threshold(u.detach().numpy(), theta0, f, s, past.numpy())
    np.testing.assert_allclose(got, by_theta.numpy(), atol=1e-13)

    carried = v + past * (tau - tau0)
    u = (1.0 - 1.0 / tau) * carried + current / tau
    by_tau = gradients(emit(form, u, torch.full_like(u, theta0))[1], tau)[0]
    s = (u >= theta0).double().detach().numpy()
    f = (np.abs(row.argument(u.detach().numpy(), theta0)) < 0.5) / 1.0
    got = row.output_by_tau(
        u.detach().numpy(), theta0, f, s, tau0, v.numpy(), current.numpy(), past.numpy()
    )
    np.testing.assert_allclose(got, by_tau.numpy(), atol=1e-13)
    wrong = row.output_by_tau(
        u.detach().numpy(), theta0, f, s, tau0, v.numpy(), current.numpy(), 0 * past.numpy()
    )
    assert np.abs(wrong - by_tau.numpy()).max() > 1e-2


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("form", FORMS)
def test_fields_of_a_form_are_its_spike_derivative(form, threshold):
    fields = FORMS[form].fields(threshold, relative_width=0.8)
    surrogate = Surrogate("rectangular", peak=fields["peak"], width=fields["width"])
    u = threshold * np.linspace(0.31, 1.69, 70)
    f = (np.abs(FORMS[form].argument(u, threshold)) < 0.4) / 0.8
    by_u = FORMS[form].output_by_potential(u, threshold, f, u >= threshold)
    height = fields["spike_height"]
    np.testing.assert_allclose(height * surrogate.derivative(u - threshold), by_u, rtol=1e-12)
    assert surrogate.area == pytest.approx(1.0)


# Mean 0, standard deviation 0.5, gamma 1: coverage, E[g^2], E[explicit do/dthreshold].
MAGNITUDES = {
    ("as", 0.1): (0.673075, 0.673075, -0.673075),
    ("rs", 0.1): (0.078084, 7.808358, -0.778237),
    ("trsg", 0.1): (0.078084, 0.078084, 0.342917),
    ("as", 0.5): (0.477250, 0.477250, -0.477250),
    ("rs", 0.5): (0.241730, 0.966921, -0.445095),
    ("trsg", 0.5): (0.241730, 0.241730, -0.063892),
    ("as", 1.0): (0.157305, 0.157305, -0.157305),
    ("rs", 1.0): (0.157305, 0.157305, -0.118769),
    ("trsg", 1.0): (0.157305, 0.157305, -0.096019),
    ("as", 2.0): (0.001350, 0.001350, -0.001350),
    ("rs", 2.0): (0.022750, 0.005688, -0.006749),
    ("trsg", 2.0): (0.022750, 0.022750, -0.013466),
}


@pytest.mark.parametrize(("form", "threshold"), MAGNITUDES)
def test_magnitudes_to_their_printed_digits(form, threshold):
    found = gaussian_magnitudes(form, threshold, 0.0, 0.5)
    got = (found.coverage, found.gain, found.threshold_gradient)
    assert got == pytest.approx(MAGNITUDES[form, threshold], abs=5.1e-7)
    off = gaussian_magnitudes(form, 1.02 * threshold, 0.0, 0.5)
    assert (off.coverage, off.gain, off.threshold_gradient) != pytest.approx(got, abs=5e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(FORMS)),
    st.floats(0.2, 3.0),
    st.floats(-1.0, 1.5),
    st.floats(0.2, 2.0),
    st.floats(0.3, 1.8),
)
def test_magnitudes_against_quadrature_of_the_gradients(form, threshold, mean, std, gamma):
    row, law = FORMS[form], stats.norm(mean, std)
    fields = row.fields(threshold, gamma)
    low, high = threshold - fields["width"] / 2, threshold + fields["width"] / 2

    def average(value, start, stop):
        return integrate.quad(lambda u: value(u) * law.pdf(u), start, stop, epsabs=1e-12)[0]

    def explicit(s):
        return lambda u: row.output_by_threshold(u, threshold, 1.0 / gamma, s)

    gain = average(lambda u: row.output_by_potential(u, threshold, 1 / gamma, 0) ** 2, low, high)
    outside = row.output_by_threshold(2 * high, threshold, 0.0, 1.0) * law.sf(high)
    gradient = average(explicit(0.0), low, threshold) + average(explicit(1.0), threshold, high)
    found = gaussian_magnitudes(form, threshold, mean, std, gamma)
    assert found.coverage == pytest.approx(law.cdf(high) - law.cdf(low), abs=1e-10)
    assert found.gain == pytest.approx(gain, abs=1e-8)
    assert found.threshold_gradient == pytest.approx(gradient + outside, abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_magnitudes_against_simulation(form):
    theta, mean, std, draws = 0.4, 0.1, 0.6, 100_000
    u = np.random.default_rng(2).normal(mean, std, draws)
    f = (np.abs(FORMS[form].argument(u, theta)) < 0.5) * 1.0
    sampled = (
        FORMS[form].output_by_potential(u, theta, f, u >= theta) ** 2,
        FORMS[form].output_by_threshold(u, theta, f, u >= theta),
    )
    found = gaussian_magnitudes(form, theta, mean, std)
    for values, exact in zip(sampled, (found.gain, found.threshold_gradient), strict=True):
        error = values.std() / np.sqrt(draws)
        assert exact == pytest.approx(values.mean(), abs=4 * error)
        assert exact + 10 * error != pytest.approx(values.mean(), abs=4 * error)


def test_trsg_gradient_stays_bounded_where_rs_explodes():
    thetas = np.array([0.01, 0.1, 1.0, 10.0])
    u = thetas * np.linspace(0.0, 2.0, 2001)[:, None]
    f = np.abs(u / thetas - 1) < 0.5
    s = u >= thetas
    trsg = np.abs(FORMS["trsg"].output_by_threshold(u, thetas, f, s)).max(axis=0)
    rs = np.abs(FORMS["rs"].output_by_threshold(u, thetas, f, s)).max(axis=0)
    assert (trsg <= 1.0).all()
    assert rs[0] > 100


def test_the_batch_norm_behind_a_layer_absorbs_its_height():
    """TrSG and RS give identical weight gradients if only a batch norm reads the spikes."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    readout = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(64, 5, generator=generator, dtype=torch.float64)

    def gradient(form, normalise):
        w = weight.clone().requires_grad_()
        out = emit(form, x @ w, torch.tensor(0.1, dtype=torch.float64))[1] @ readout
        if normalise:
            out = (out - out.mean(0)) / out.std(0)
        ((out - target) ** 2).mean().backward()
        return w.grad.numpy()

    rs = gradient("rs", True)
    np.testing.assert_allclose(gradient("trsg", True), rs, rtol=1e-9, atol=1e-12)
    assert np.abs(gradient("trsg", False) - gradient("rs", False)).max() > 1e-2


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 50.0), st.floats(1.001, 200.0))
def test_parameterisations_are_inverse_and_have_their_slope(threshold, tau):
    raw = raw_from_threshold(threshold)
    assert threshold_from_raw(raw) == pytest.approx(threshold, rel=1e-9)
    assert tau_from_raw(raw_from_tau(tau)) == pytest.approx(tau, rel=1e-9)
    k = torch.tensor(float(raw), dtype=torch.float64, requires_grad=True)
    theta = threshold_from_raw(k, torch)
    torch.testing.assert_close(theta, torch.nn.functional.softplus(k), rtol=1e-9, atol=1e-12)
    theta.backward()
    assert threshold_slope(threshold) == pytest.approx(k.grad.item(), rel=1e-6)
    assert threshold_slope(1.1 * threshold + 0.01) != pytest.approx(k.grad.item(), rel=1e-6) or (
        threshold > 12
    )


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


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="form='lsq' is not one of as, rs, trsg"):
        gaussian_magnitudes("lsq", 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"threshold=0\.0 is not possible"):
        gaussian_magnitudes("trsg", 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"std=-1\.0 is not possible"):
        gaussian_magnitudes("trsg", 1.0, 0.0, -1.0)
    with pytest.raises(ValueError, match=r"threshold=-1\.0"):
        raw_from_threshold(-1.0)
    with pytest.raises(ValueError, match=r"tau=1\.0"):
        raw_from_tau(1.0)
    with pytest.raises(ValueError, match=r"std=0\.0"):
        remedies.true_std_width(0.0)
