"""Threshold gradients of AS, RS and TrSG: plain autograd, quadrature, simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

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


def test_bad_input_is_named():
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
