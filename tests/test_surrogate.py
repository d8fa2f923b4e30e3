"""Surrogates against published families, quadrature, the frameworks' formulas and live tensors.

The tables ``reference/stability_moment.csv`` and ``stability_uniform.csv`` hold E[s] and E[s^2]
of the families of Herranz-Celotti and Rouat (arXiv 2202.00282), in their parameters gamma, beta,
q, for a Gaussian and a uniform potential. ``E_s`` and ``E_s2`` come from quadrature with 30 digits
split at the threshold (the uniform table prints 10 of them).
"""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from spikescope.analysis import laws
from spikescope.analysis.laws import GaussianLaw, HistogramLaw, UniformLaw
from spikescope.analysis.surrogate import COVERAGE_EPSILON, SHAPES, Surrogate
from spikescope.analysis.surrogate_frameworks import (
    FRAMEWORK_SURROGATES,
    from_framework,
    to_framework,
)
from spikescope.analysis.surrogate_identify import identify

REFERENCE = Path(__file__).parent / "reference"
FAMILIES = {
    "rectangular": "rectangular",
    "triangular": "triangular",
    "exponential": "exponential",
    "gaussian": "gaussian",
    "dsigmoid": "sigmoid",
    "dfastsigmoid": "fast_sigmoid",
    "atan": "arctan",
    "qpseudospike": "q_pseudo_spike",
}

# Unit-height shapes written a second time, in the plainest form.
PLAIN = {
    "rectangular": lambda x, q: 1.0 if abs(x) < 0.5 else 0.0,
    "triangular": lambda x, q: max(0.0, 1.0 - abs(x)),
    "exponential": lambda x, q: math.exp(-abs(x)),
    "gaussian": lambda x, q: math.exp(-x * x / 2.0),
    "sigmoid": lambda x, q: 1.0 / math.cosh(min(abs(x), 700.0) / 2.0) ** 2,
    "fast_sigmoid": lambda x, q: 1.0 / (1.0 + abs(x)) ** 2,
    "arctan": lambda x, q: 1.0 / (1.0 + x * x),
    "q_pseudo_spike": lambda x, q: (1.0 + 2.0 * abs(x) / (q - 1.0)) ** -q,
}


def _rows(name):
    with (REFERENCE / name).open() as file:
        return list(csv.DictReader(file))


def _surrogate(row, width_factor=1.0):
    tail = float(row["q"]) if row["q"] else 2.0
    exact = Surrogate.from_dampening(
        FAMILIES[row["family"]], float(row["gamma"]), float(row["beta"]), tail
    )
    return Surrogate(exact.shape, exact.peak, exact.width * width_factor, tail)


def _gaussian_error(row, width_factor=1.0):
    surrogate, law = (
        _surrogate(row, width_factor),
        GaussianLaw(float(row["mu"]), float(row["sigma"])),
    )
    got = [surrogate.moment(law, float(row["thr"]), order) for order in (1, 2)]
    return max(abs(g / float(row[c]) - 1.0) for g, c in zip(got, ("E_s", "E_s2"), strict=True))


def _uniform_error(row, width_factor=1.0):
    surrogate, law = (
        _surrogate(row, width_factor),
        UniformLaw(float(row["ymin"]), float(row["ymax"])),
    )
    got = [surrogate.moment(law, float(row["thr"]), order) for order in (1, 2)]
    return max(abs(g / float(row[c]) - 1.0) for g, c in zip(got, ("E_s", "E_s2"), strict=True))


@pytest.mark.parametrize("row", _rows("stability_moment.csv"), ids=lambda r: f"{r['family']}")
def test_gaussian_moments_match_the_reference(row):
    assert _gaussian_error(row) < 1e-12  # 16 digits printed; the quadrature's own rounding is 1e-14
    assert _gaussian_error(row, width_factor=1.02) > 1e-5  # a width wrong by 2 % is seen


@pytest.mark.parametrize("row", _rows("stability_uniform.csv"), ids=lambda r: f"{r['family']}")
def test_uniform_moments_match_the_reference(row):
    assert _uniform_error(row) < 1e-9  # 10 digits printed
    inside = row["family"] == "rectangular" and float(row["ymax"]) < 0.5  # window holds the law
    assert inside or _uniform_error(row, width_factor=1.02) > 1e-5


def test_moments_are_exact_in_special_cases():
    # Window (0, 2) and a standard normal potential: Phi(0) - Phi(-2).
    wide = Surrogate("rectangular", width=2.0)
    assert wide.moment(GaussianLaw(0.0, 1.0), 1.0, 2) == pytest.approx(
        0.4772498680518208, rel=1e-14
    )
    # A Gaussian shape of sharpness beta at its own centre: (1 + 2 pi beta^2 sigma^2)^-1/2.
    bell = Surrogate.from_dampening("gaussian", 1.0, 3.0)
    exact = (1.0 + 2.0 * math.pi * 9.0 * 0.25) ** -0.5
    assert bell.moment(GaussianLaw(1.0, 0.5), 1.0, 1) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize(
    ("threshold", "width", "coverage"),
    # Coverage of the windows of Kook et al. (arXiv 2511.08708) for u ~ N(0, 0.5^2).
    [(0.1, 1.0, 0.673075), (0.5, 1.0, 0.477250), (1.0, 1.0, 0.157305), (2.0, 1.0, 0.001350),
     (0.1, 0.1, 0.078084), (0.5, 0.5, 0.241730), (2.0, 2.0, 0.022750)],
)  # fmt: skip
def test_coverage_of_the_rectangular_window(threshold, width, coverage):
    law = GaussianLaw(0.0, 0.5)
    assert Surrogate("rectangular", width=width).coverage(law, threshold) == pytest.approx(
        coverage, abs=5.1e-7
    )
    wrong = Surrogate("rectangular", width=1.02 * width).coverage(law, threshold)
    assert abs(wrong - coverage) > 5e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_counts_where_the_derivative_exceeds_a_share_of_the_peak(shape):
    surrogate = Surrogate(shape, peak=3.0, width=0.2, tail=1.7)
    u = (np.arange(400_000) + 0.5) / 400_000 * 12.0 - 5.0  # evenly over (-5, 7)
    covered = surrogate.derivative(u - 0.9) > COVERAGE_EPSILON * surrogate.peak
    law = UniformLaw(-5.0, 7.0)
    assert surrogate.coverage(law, 0.9) == pytest.approx(covered.mean(), abs=3 / 400_000)
    assert abs(surrogate.coverage(law, 0.9, epsilon=0.5) - covered.mean()) > 1e-3 or (
        shape == "rectangular"
    )


def _quad(surrogate, density, threshold, order, cuts):
    cuts = sorted(set(cuts))

    def f(u):
        return (
            density(u)
            * (
                surrogate.peak
                * PLAIN[surrogate.shape]((u - threshold) / surrogate.width, surrogate.tail)
            )
            ** order
        )

    return math.fsum(
        integrate.quad(f, a, b, epsabs=0.0, epsrel=1e-11, limit=200)[0]
        for a, b in itertools.pairwise(cuts)
    )


def _cuts(low, high, threshold, width, tail):
    scale = width * min(1.0, 0.5 * (tail - 1.0))
    reach = np.concatenate([scale * 4.0 ** np.arange(-1, 14), [0.5 * width, width]])
    cuts = np.concatenate([[low, high, threshold], threshold - reach, threshold + reach])
    return cuts[(cuts >= low) & (cuts <= high)].tolist()


@settings(max_examples=80, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    order=st.sampled_from([1, 2]),
    mean=st.floats(-3.0, 3.0),
    std=st.floats(0.02, 5.0),
    width=st.floats(0.01, 10.0),
    tail=st.floats(1.02, 20.0),
)
def test_gaussian_moments_match_adaptive_quadrature(shape, order, mean, std, width, tail):
    surrogate = Surrogate(shape, peak=0.7, width=width, tail=tail)
    got = surrogate.moment(GaussianLaw(mean, std), 0.5, order)
    low, high = mean - 38.0 * std, mean + 38.0 * std
    cuts = _cuts(low, high, 0.5, width, tail) + np.linspace(low, high, 39).tolist()

    def density(u):
        return math.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2.0 * math.pi))

    exact = _quad(surrogate, density, 0.5, order, cuts)
    assert got == pytest.approx(exact, rel=1e-9, abs=1e-290)


@pytest.mark.parametrize("shape", sorted(laws._CLOSED))
def test_closed_forms_match_the_quadrature_route(shape):
    # Where a closed form is used it must agree with the general route: they share no formula.
    m, d = (x.ravel() for x in np.meshgrid([0.0, 0.3, 1.0, 2.5, 6.0], [0.01, 0.2, 1.0, 7.0, 300.0]))
    for order in (1, 2):
        exact, fits = laws._CLOSED[shape](m, d, order)
        if shape == "rectangular":
            # The general route does not break at the edges of the window; integrate it by quad.
            slow = [
                integrate.quad(lambda z: math.exp(-z * z / 2), (-0.5 - a) / b, (0.5 - a) / b,
                               epsabs=0.0, epsrel=1e-12, limit=200)[0] / math.sqrt(2 * math.pi)
                for a, b in zip(m, d, strict=True) if (a - 0.5) / b < 30.0
            ]  # fmt: skip
            np.testing.assert_allclose(exact[(m - 0.5) / d < 30.0], slow, rtol=1e-10)
            continue
        slow = laws._quadrature(shape, m, d, order, np.full(m.shape, 2.0))
        assert fits.sum() >= 5
        np.testing.assert_allclose(np.broadcast_to(exact, m.shape)[fits], slow[fits], rtol=2e-12)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(
                np.broadcast_to(exact, m.shape)[fits],
                laws._quadrature(shape, m, 1.02 * d, order, np.full(m.shape, 2.0))[fits],
                rtol=2e-12,
            )


def test_a_narrow_window_keeps_its_digits():
    # Between Phi(b) and Phi(a) nothing is left of 1e-9: the density times the window is exact.
    law, window = GaussianLaw(0.0, 1.0), Surrogate("rectangular", width=1e-9)
    exact = 1e-9 * math.exp(-0.5 * 0.7**2) / math.sqrt(2.0 * math.pi)
    # The edges 0.7 -+ 5e-10 are themselves rounded, to 1e-16 of the 1e-9 between them.
    assert window.moment(law, 0.0) == pytest.approx(
        1e-9 / math.sqrt(2.0 * math.pi), rel=1e-14, abs=0.0
    )
    assert window.moment(law, 0.7) == pytest.approx(exact, rel=3e-7, abs=0.0)
    # Phi(30.25) - Phi(29.75), with 40 digits.
    far = Surrogate("rectangular", width=0.5).moment(law, 30.0)
    assert far == pytest.approx(8.670690914822108e-195, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_gaussian_moments_hold_at_any_ratio_of_the_scales(shape, ratio):
    surrogate = Surrogate(shape, width=1.0, tail=3.0)
    for order, area in ((1, surrogate.area), (2, surrogate.square_area)):
        at_threshold = surrogate.moment(GaussianLaw(1.0, ratio), 1.0, order)
        if ratio >= 1e3:  # a sharp shape samples the density: area times density
            limit = area / (ratio * math.sqrt(2.0 * math.pi))
        elif ratio <= 1e-3:  # a wide one is constant under the law
            limit = 1.0
        else:
            continue
        assert at_threshold == pytest.approx(limit, rel=max(ratio, 1 / ratio) ** -0.9 * 5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    order=st.sampled_from([1, 2]),
    low=st.floats(-6.0, 6.0),
    length=st.floats(0.01, 8.0),
    width=st.floats(0.005, 5.0),
    tail=st.floats(1.02, 20.0),
)
def test_uniform_moments_match_adaptive_quadrature(shape, order, low, length, width, tail):
    surrogate, high = Surrogate(shape, 1.3, width, tail), low + length
    got = surrogate.moment(UniformLaw(low, high), 1.0, order)
    cuts = _cuts(low, high, 1.0, width, tail)
    exact = _quad(surrogate, lambda u: 1.0 / (high - low), 1.0, order, cuts)
    # Differences of antiderivatives: rounding relative to what lies outside, |u - 1| / length.
    assert got == pytest.approx(exact, rel=1e-9, abs=1e-290)


@pytest.mark.parametrize("shape", SHAPES)
def test_histogram_moments_are_exact_where_midpoints_are_not(shape):
    rng = np.random.default_rng(5)
    edges = np.linspace(-2.0, 3.0, 26)
    counts = rng.integers(0, 50, size=25)
    surrogate = Surrogate(shape, peak=2.0, width=0.03, tail=2.5)  # much narrower than a bin
    mass = counts / counts.sum()
    for order in (1, 2):
        got = surrogate.moment(HistogramLaw(edges, counts), 0.9, order)
        exact = math.fsum(
            m * _quad(surrogate, lambda u: 5.0, 0.9, order, _cuts(a, b, 0.9, 0.03, 2.5))
            for m, a, b in zip(mass, edges, edges[1:], strict=False)
        )
        assert got == pytest.approx(exact, rel=1e-9)
        midpoints = 0.5 * (edges[1:] + edges[:-1])
        rough = float((mass * surrogate.derivative(midpoints - 0.9) ** order).sum())
        assert abs(rough / exact - 1.0) > 0.05


def test_laws_agree_with_each_other():
    surrogate = Surrogate("sigmoid", 1.5, 0.2)
    one_bin = HistogramLaw([-1.0, 2.0], [7])
    flat = UniformLaw(-1.0, 2.0)
    assert surrogate.moment(one_bin, 0.4) == pytest.approx(surrogate.moment(flat, 0.4), rel=1e-14)
    assert surrogate.coverage(one_bin, 0.4) == pytest.approx(
        surrogate.coverage(flat, 0.4), rel=1e-14
    )
    # A finely binned normal law tends to the Gaussian moments; the bin's spread adds h^2/12.
    edges = np.linspace(-6.0, 6.0, 1201)
    fine = HistogramLaw(edges, GaussianLaw(0.3, 0.7).probability(edges[:-1], edges[1:]))
    assert surrogate.moment(fine, 1.0) == pytest.approx(
        surrogate.moment(GaussianLaw(0.3, 0.7), 1.0), rel=1e-4
    )
    assert (
        abs(surrogate.moment(fine, 1.0) / surrogate.moment(GaussianLaw(0.32, 0.7), 1.0) - 1) > 1e-3
    )


def test_arrays_over_layers_equal_a_loop():
    means, stds = np.array([[-1.0], [0.2], [4.0]]), np.array([0.1, 0.7])
    threshold, width = np.array([1.0, 0.5]), np.array([0.3, 2.0])
    for shape in SHAPES:
        many = Surrogate(shape, peak=np.array([1.0, 2.0]), width=width, tail=np.array([1.5, 4.0]))
        moment = many.moment(GaussianLaw(means, stds), threshold, 2)
        coverage = many.coverage(GaussianLaw(means, stds), threshold)
        assert moment.shape == coverage.shape == (3, 2)
        for i in range(3):
            for j in range(2):
                one = Surrogate(shape, [1.0, 2.0][j], width[j], [1.5, 4.0][j])
                law = GaussianLaw(means[i, 0], stds[j])
                assert moment[i, j] == pytest.approx(one.moment(law, threshold[j], 2), rel=1e-12)
                assert coverage[i, j] == pytest.approx(one.coverage(law, threshold[j]), rel=1e-12)
        edges = np.linspace([-1.0, -2.0], [2.0, 5.0], 9).T  # a row of edges per layer
        counts = np.arange(16.0).reshape(2, 8)
        by_layer = many.moment(HistogramLaw(edges, counts), threshold)
        for j in range(2):
            one = Surrogate(shape, [1.0, 2.0][j], width[j], [1.5, 4.0][j])
            alone = one.moment(HistogramLaw(edges[j], counts[j]), threshold[j])
            assert by_layer[j] == pytest.approx(alone, rel=1e-12)


def test_many_laws_at_once_take_the_same_values_as_one():
    # More laws than one chunk of the quadrature holds.
    means = np.linspace(-3.0, 3.0, 1300)
    surrogate = Surrogate("fast_sigmoid", width=0.1)
    together = surrogate.moment(GaussianLaw(means, 0.4))
    for k in (0, 511, 512, 1299):
        assert together[k] == pytest.approx(surrogate.moment(GaussianLaw(means[k], 0.4)), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tail", [1.3, 2.0, 7.0])
def test_area_half_width_and_decay(shape, tail):
    surrogate = Surrogate(shape, peak=2.0, width=0.3, tail=tail)

    def integral(order, stop):
        cuts = _cuts(-stop, stop, 0.0, 0.3, tail)
        return _quad(surrogate, lambda u: 1.0, 0.0, order, cuts)

    # What lies outside the interval, from the antiderivative (checked above), is added.
    stop = 1e6 if shape in ("q_pseudo_spike", "fast_sigmoid", "arctan") else 60.0
    rest = 2.0 * 2.0 * 0.3 * SHAPES[shape].outer(stop / 0.3, 1, tail)
    assert surrogate.area == pytest.approx(integral(1, stop) + rest, rel=1e-9)
    assert surrogate.square_area == pytest.approx(integral(2, stop), rel=1e-9)
    assert surrogate.sharpness == pytest.approx(surrogate.peak / surrogate.area, rel=1e-14)
    for epsilon in (1e-4, 0.01, 0.5, 0.999):
        reach = surrogate.half_width(epsilon)
        low, high = surrogate.interval(1.0, epsilon)
        assert (low, high) == (1.0 - reach, 1.0 + reach)
        if shape == "rectangular":
            assert surrogate.derivative(0.9999 * reach) == 2.0
            assert surrogate.derivative(1.0001 * reach) == 0.0
        else:
            assert surrogate.derivative(reach) == pytest.approx(2.0 * epsilon, rel=1e-9)
            # Negative control: 2 % further out the derivative is smaller.
            assert surrogate.derivative(1.02 * reach) < 2.0 * epsilon * (1.0 - 1e-6)
    assert surrogate.fwhm == 2.0 * surrogate.half_width(0.5)
    far = np.array([1e6, 2e6])
    if np.isfinite(surrogate.tail_exponent):
        slope = -np.diff(np.log(surrogate.derivative(far))) / np.log(2.0)
        assert surrogate.tail_exponent == pytest.approx(slope.item(), abs=1e-3)
    else:
        assert np.all(surrogate.derivative(far) == 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tail", [1.0 + 1e-9, 1.01, 2.0, 50.0, 1e6])
def test_derivative_is_finite_and_keeps_its_dtype(shape, tail):
    z = np.concatenate([[0.0], np.logspace(-8, 4, 200), [1e4]])
    z = np.concatenate([-z[::-1], z])
    surrogate = Surrogate(shape, peak=2.0, width=1.0, tail=tail)
    exact = surrogate.derivative(z)
    plain = np.array([2.0 * PLAIN[shape](x, tail) for x in z])
    # The plain form of a large q loses q roundings of 1 + 2x/(q-1); ours does not.
    np.testing.assert_allclose(exact, plain, rtol=1e-12 + 4e-16 * tail, atol=1e-300)
    for dtype in (np.float32, np.float64):
        for narrow in (1.0, 1e-4):
            out = Surrogate(shape, 2.0, narrow, tail).derivative(z.astype(dtype))
            assert out.dtype == dtype
            assert np.all(
                np.isfinite(out) & (out >= 0.0) & (out <= 2.0 * (1.0 + np.finfo(dtype).eps))
            )
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        tensor = surrogate.derivative(torch.tensor(z, dtype=dtype), xp=torch)
        assert tensor.dtype == dtype
        assert bool(torch.isfinite(tensor).all())
        # The argument is rounded to the dtype: rel. error of z times the log-slope of the shape.
        at = surrogate.derivative(torch.tensor(z, dtype=dtype).double().numpy())
        rounding = torch.finfo(dtype).eps
        slope = -np.log(np.maximum(at, 1e-300) / 2.0)  # power or exponent in the last operation
        good = np.abs(tensor.double().numpy() - at) <= rounding * (8.0 + 4.0 * slope) * at + 1e-30
        assert good[at > 1e-30].all()


def test_derivative_keeps_dtype_for_numpy_parameters():
    surrogate = Surrogate("arctan", peak=np.float64(2.0), width=np.float64(0.5))
    assert surrogate.derivative(np.zeros(3, dtype=np.float32)).dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    peak=st.floats(1e-3, 1e3),
    width=st.floats(1e-3, 1e3),
    tail=st.floats(1.01, 30.0),
)
def test_dampening_and_sharpness_round_trip(shape, peak, width, tail):
    surrogate = Surrogate(shape, peak, width, tail)
    again = Surrogate.from_dampening(shape, surrogate.dampening, surrogate.sharpness, tail)
    assert again.peak == peak
    assert again.width == pytest.approx(width, rel=1e-14)
    # The unit-area form of the paper: gamma h(beta v), so the area is gamma / beta.
    assert surrogate.area == pytest.approx(surrogate.dampening / surrogate.sharpness, rel=1e-14)
    off = Surrogate.from_dampening(shape, peak, 1.02 * surrogate.sharpness, tail)
    assert abs(off.width / width - 1.0) > 0.019


# The frameworks' own backward formulas, from their sources, at parameters that are no defaults.
FORMULAS = {
    ("snntorch", "fast_sigmoid"): ({"slope": 10.0}, lambda x: 1.0 / (10.0 * abs(x) + 1.0) ** 2),
    ("snntorch", "atan"): ({"alpha": 3.0}, lambda x: 1.5 / (1.0 + (math.pi / 2 * 3.0 * x) ** 2)),
    ("snntorch", "sigmoid"): (
        {"slope": 5.0},
        lambda x: 5.0 * np.exp(-5.0 * x) / (np.exp(-5.0 * x) + 1.0) ** 2,
    ),
    ("spikingjelly", "Sigmoid"): (
        {"alpha": 6.0},
        lambda x: 6.0 / (1.0 + np.exp(-6.0 * x)) * (1.0 - 1.0 / (1.0 + np.exp(-6.0 * x))),
    ),
    ("spikingjelly", "ATan"): ({"alpha": 4.0}, lambda x: 2.0 / (1.0 + (math.pi * 2.0 * x) ** 2)),
    ("spikingjelly", "SoftSign"): ({"alpha": 3.0}, lambda x: 3.0 / 2.0 / (1.0 + abs(3.0 * x)) ** 2),
    ("spikingjelly", "SuperSpike"): ({"alpha": 3.0}, lambda x: 3.0 / (1.0 + abs(x)) ** 2),
    ("spikingjelly", "PiecewiseQuadratic"): (
        {"alpha": 2.0},
        lambda x: np.where(abs(x) > 0.5, 0.0, -4.0 * abs(x) + 2.0),
    ),
    ("spikingjelly", "PiecewiseExp"): ({"alpha": 3.0}, lambda x: 1.5 * np.exp(-3.0 * abs(x))),
    ("spikingjelly", "Erf"): (
        {"alpha": 3.0},
        lambda x: 3.0 / math.sqrt(math.pi) * np.exp(-9.0 * x * x),
    ),
    ("spikingjelly", "Rect"): ({"alpha": 0.4}, lambda x: 0.4 * (abs(x) < 1.25)),
    ("spikingjelly", "QPseudoSpike"): (
        {"alpha": 3.5},
        lambda x: (1.0 + 2.0 / 2.5 * abs(x)) ** -3.5,
    ),
    ("norse", "super"): ({"alpha": 20.0}, lambda x: 1.0 / (20.0 * abs(x) + 1.0) ** 2),
    ("norse", "triangle"): ({"alpha": 0.5}, lambda x: 0.5 * np.maximum(0.0, 1.0 - abs(x))),
    ("norse", "tanh"): ({"alpha": 3.0}, lambda x: 1.0 - np.tanh(3.0 * x) ** 2),
    ("norse", "heavi_erfc"): (
        {"alpha": 3.0},
        lambda x: 2.0 * np.exp(-9.0 * x * x) / math.sqrt(math.pi),
    ),
    ("sinabs", "SingleExponential"): (
        {"grad_width": 0.25, "grad_scale": 3.0, "threshold": 2.0},
        lambda x: 3.0 / 0.5 * np.exp(-abs(x) / 0.5),
    ),
    ("sinabs", "Gaussian"): (
        {"sigma": 0.3, "grad_scale": 2.0},
        lambda x: 2.0 * np.exp(-x * x / 0.18) / (0.3 * math.sqrt(2.0 * math.pi)),
    ),
    ("stork", "SuperSpike"): ({"beta": 8.0}, lambda x: 1.0 / (8.0 * abs(x) + 1.0) ** 2),
}


def test_every_framework_surrogate_has_a_formula():
    assert set(FORMULAS) == set(FRAMEWORK_SURROGATES)


@pytest.mark.parametrize("key", FORMULAS, ids=" ".join)
def test_framework_surrogates_are_the_frameworks_formulas(key):
    parameters, formula = FORMULAS[key]
    x = np.linspace(-3.0, 3.0, 601) + 1e-4
    surrogate = from_framework(*key, **parameters)
    np.testing.assert_allclose(surrogate.derivative(x), formula(x), rtol=1e-11, atol=1e-15)
    # Negative control: 2 % more of each parameter is another derivative (threshold included).
    for name in parameters:
        other = from_framework(*key, **(parameters | {name: 1.02 * parameters[name]}))
        assert np.max(np.abs(other.derivative(x) - formula(x))) > 1e-3
    # And back.
    threshold = parameters.get("threshold", 1.0)
    back = to_framework(surrogate, *key, threshold=threshold)
    wanted = {name: value for name, value in parameters.items() if name != "threshold"}
    assert back == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("key", "gamma", "beta"),
    [
        (("snntorch", "atan"), 1.0, 1.0), (("snntorch", "fast_sigmoid"), 1.0, 12.5),
        (("snntorch", "sigmoid"), 6.25, 6.25), (("norse", "super"), 1.0, 50.0),
        (("norse", "triangle"), 0.3, 1.0), (("stork", "SuperSpike"), 1.0, 10.0),
        (("spikingjelly", "ATan"), 1.0, 1.0), (("spikingjelly", "SoftSign"), 1.0, 1.0),
        (("spikingjelly", "Sigmoid"), 1.0, 1.0), (("spikingjelly", "PiecewiseQuadratic"), 1.0, 1.0),
        (("spikingjelly", "PiecewiseExp"), 0.5, 0.5),
        (("spikingjelly", "Erf"), 2 / math.sqrt(math.pi), 2 / math.sqrt(math.pi)),
        (("spikingjelly", "SuperSpike"), 1.0, 0.5), (("spikingjelly", "QPseudoSpike"), 1.0, 1.0),
        (("sinabs", "SingleExponential"), 2.0, 1.0),
        (("sinabs", "Gaussian"), 1 / math.sqrt(math.pi / 2), 1 / math.sqrt(math.pi / 2)),
    ],
)  # fmt: skip
def test_defaults_in_dampening_and_sharpness(key, gamma, beta):
    surrogate = from_framework(*key)
    assert surrogate.dampening == pytest.approx(gamma, rel=1e-12)
    assert surrogate.sharpness == pytest.approx(beta, rel=1e-12)


def test_framework_conversion_says_what_is_possible():
    with pytest.raises(ValueError, match=r"peak=2\.0, width=0\.1 .* has peak = 1, any width"):
        to_framework(Surrogate("fast_sigmoid", 2.0, 0.1), "snntorch", "fast_sigmoid")
    with pytest.raises(ValueError, match=r"peak \* width = 1 / 4"):
        to_framework(Surrogate("sigmoid", 1.0, 1.0), "spikingjelly", "Sigmoid")
    with pytest.raises(ValueError, match="is arctan, but the surrogate is 'sigmoid'"):
        to_framework(Surrogate("sigmoid"), "snntorch", "atan")
    with pytest.raises(ValueError, match="snntorch triangular is not one of"):
        from_framework("snntorch", "triangular")
    with pytest.raises(ValueError, match="has slope, but not 'alpha'"):
        from_framework("snntorch", "fast_sigmoid", alpha=2.0)
    with pytest.raises(ValueError, match=r"slope=-1\.0 is not possible"):
        from_framework("snntorch", "fast_sigmoid", slope=-1.0)


GRID = np.linspace(-5.0, 5.0, 4001)
SETTINGS = [
    Surrogate("rectangular", 1.0, 1.0),
    Surrogate("triangular", 0.3, 1.0),
    Surrogate("exponential", 2.0, 0.5),
    Surrogate("gaussian", 0.8, 0.5),
    Surrogate("sigmoid", 6.25, 0.04),
    Surrogate("fast_sigmoid", 1.0, 0.04),
    Surrogate("fast_sigmoid", 3.0, 1.0),
    Surrogate("arctan", 1.0, 1.0 / math.pi),
    Surrogate("q_pseudo_spike", 1.0, 1.0, 1.3),
    Surrogate("q_pseudo_spike", 0.5, 0.4, 5.0),
]


@pytest.mark.parametrize("truth", SETTINGS, ids=lambda s: s.shape)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identify_names_what_it_measures(truth, dtype):
    found = identify(GRID, truth.derivative(GRID.astype(dtype)))
    assert found.problems == ()
    assert found.surrogate.shape == truth.shape
    assert found.fit_error < 1e-5
    # A rectangle's edges are known to one step of the grid; the rest to rounding, far below 2 %.
    precision = 0.0026 / truth.width if truth.shape == "rectangular" else 1e-4
    assert found.width == pytest.approx(truth.width, rel=precision)
    assert found.surrogate.peak == pytest.approx(truth.peak, rel=1e-4)
    assert abs(found.centre) < 1e-6
    assert found.fwhm == pytest.approx(truth.fwhm, abs=0.003)
    assert found.area == pytest.approx(np.trapezoid(truth.derivative(GRID), GRID), rel=1e-5)
    if truth.shape == "q_pseudo_spike":
        assert found.surrogate.tail == pytest.approx(truth.tail, rel=1e-3)


def test_identify_takes_the_simpler_name_of_the_same_curve():
    # q = 2 is exactly the fast sigmoid of half the width.
    found = identify(GRID, Surrogate("q_pseudo_spike", 1.0, 1.0, 2.0).derivative(GRID))
    assert found.surrogate.shape == "fast_sigmoid"
    assert found.width == pytest.approx(0.5, rel=1e-9)


def test_identify_measures_peak_width_and_area():
    # Peak, full width at half maximum and area on the grid, as measured from the frameworks.
    for key, peak, fwhm, area in [
        (("snntorch", "sigmoid"), 6.25, 0.14, 1.0),
        (("snntorch", "fast_sigmoid"), 1.0, 0.03, 0.08),
        (("snntorch", "atan"), 1.0, 0.64, 0.97),
        (("sinabs", "SingleExponential"), 2.0, 0.69, 2.0),
    ]:
        found = identify(GRID, from_framework(*key).derivative(GRID))
        assert found.peak == pytest.approx(peak, rel=1e-6)
        assert found.fwhm == pytest.approx(fwhm, abs=0.0055)
        assert found.area == pytest.approx(area, abs=0.0105)


def test_identify_refuses_what_is_no_surrogate():
    def problem(derivative):
        found = identify(GRID, derivative)
        assert found.surrogate is None
        assert np.isnan(found.width)
        return found.problems[-1]

    # snnTorch's "triangular": +threshold below, -threshold above.
    assert problem(np.where(GRID < 0.0, 1.0, -1.0)).startswith("negative, down to -1 at x = 0")
    # snnTorch's "spike_rate_escape" peaks one unit above the threshold.
    assert (
        problem(25.0 * np.exp(-abs(GRID - 1.0))) == "centred at x = 1 instead of 0, the threshold"
    )
    assert problem(np.ones_like(GRID)).startswith("no bump")
    assert problem((GRID > 0.0) * 1.0).startswith("no bump")
    assert problem(np.zeros_like(GRID)) == "zero: no gradient passes"
    assert problem(np.full_like(GRID, np.nan)) == "NaN at 4001 of 4001 points, from x = -5 to 5"
    lobes = 1.3 * np.exp(-8.0 * GRID**2) - 0.3 * np.exp(-0.2 * GRID**2)
    assert problem(lobes).startswith("negative")
    assert problem(np.maximum(0.0, 1.0 - abs(GRID)) ** 0.5).startswith("no known shape")
    two = np.exp(-8.0 * (GRID - 1.0) ** 2) + np.exp(-8.0 * (GRID + 1.0) ** 2)
    assert problem(two).startswith("no bump")


def test_identify_flags_overflow_but_names_the_rest():
    z = (25.0 * GRID).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(-z)
        derivative = 25.0 * e / (e + 1.0) ** 2  # snnTorch's sigmoid(25) in float32
    found = identify(GRID, derivative)
    assert found.surrogate.shape == "sigmoid"
    assert found.width == pytest.approx(0.04, rel=1e-5)
    (problem,) = found.problems
    assert problem.startswith("NaN at")
    assert problem.endswith(
        "to -3.4225"
    )  # below 25 z = -88.7, where exp overflows... squared first
    derivative[-1] = np.inf
    assert any(line.startswith("infinite at 1 of") for line in identify(GRID, derivative).problems)


def test_identify_says_when_the_grid_is_too_coarse():
    narrow = Surrogate("rectangular", 1.0, 0.004)
    found = identify(GRID, narrow.derivative(GRID))
    assert any(line.startswith("only 1 points lie above half") for line in found.problems)
    with pytest.raises(ValueError, match="at least 16"):
        identify([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="ascend"):
        identify(GRID[::-1], GRID)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Surrogate("boxcar"), "shape='boxcar' is not one of rectangular"),
        (lambda: Surrogate(peak=0.0), r"peak=0\.0 is not possible"),
        (lambda: Surrogate(peak=math.nan), "peak=nan is not possible"),
        (lambda: Surrogate(peak=-1), "peak=-1 is not possible"),
        (lambda: Surrogate(width=math.inf), "width=inf is not possible"),
        (lambda: Surrogate(width=np.array([1.0, 0.0])), "width=array"),
        (lambda: Surrogate(width="wide"), "width='wide' is not possible"),
        (lambda: Surrogate(width=None), "width=None is not possible"),
        (lambda: Surrogate("q_pseudo_spike", tail=1.0), r"tail=1\.0 .* above 1, or it has no area"),
        (lambda: Surrogate("q_pseudo_spike", tail=0.5), r"tail=0\.5 is not possible"),
        (lambda: Surrogate("q_pseudo_spike", tail=math.inf), "take 'exponential'"),
        (lambda: Surrogate.from_dampening("arctan", 1.0, 0.0), r"sharpness=0\.0 is not possible"),
        (lambda: Surrogate().half_width(0.0), r"epsilon=0\.0 is not possible"),
        (lambda: Surrogate().interval(1.0, 1.0), r"epsilon=1\.0 is not possible"),
        (lambda: Surrogate().half_width(math.nan), "epsilon=nan is not possible"),
        (lambda: Surrogate().interval(math.nan), "threshold=nan is not possible"),
        (lambda: Surrogate().moment(GaussianLaw(0.0, 1.0), math.inf), "threshold=inf"),
        (lambda: Surrogate().coverage(GaussianLaw(0.0, 1.0), math.nan), "threshold=nan"),
        (lambda: Surrogate().moment(GaussianLaw(0.0, 1.0), order=3), "order=3 is not possible"),
        (lambda: Surrogate().cell_averages(np.array([1.0, 0.0])), "ascending"),
        (lambda: GaussianLaw(0.0, 0.0), r"std=0\.0 is not possible"),
        (lambda: GaussianLaw(0.0, -1.0), r"std=-1\.0 is not possible"),
        (lambda: GaussianLaw(math.nan, 1.0), "mean=nan is not possible"),
        (lambda: GaussianLaw(np.zeros(2), np.array([1.0, math.nan])), "std=array"),
        (lambda: UniformLaw(1.0, 1.0), r"low=1\.0, high=1\.0"),
        (lambda: UniformLaw(-math.inf, 1.0), "low=-inf is not possible"),
        (lambda: HistogramLaw([0.0, 1.0], [0]), r"counts=\[0\] are empty"),
        (lambda: HistogramLaw([0.0], []), r"counts=\[\] are empty"),
        (lambda: HistogramLaw([0.0, 1.0, 2.0], [1, -1]), "must not be negative"),
        (lambda: HistogramLaw([0.0, 2.0, 1.0], [1, 1]), "must ascend"),
        (lambda: HistogramLaw([0.0, 1.0], [1, 1]), "must be one longer"),
        (lambda: HistogramLaw([0.0, math.nan], [1]), "edges=.*finite"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_good_input_is_not_refused():
    Surrogate("q_pseudo_spike", tail=1.0 + 1e-12)
    Surrogate("fast_sigmoid", tail=0.5)  # ignored by the other shapes
    Surrogate(width=torch.tensor(0.5))
    HistogramLaw([0.0, 1.0, 2.0], [0, 1])


def test_gaussian_mass_to_infinity() -> None:
    law = GaussianLaw(0.5, 2.0)
    for low, high in ((1.0, np.inf), (-np.inf, 1.0), (9.0, np.inf), (-np.inf, np.inf)):
        expected = stats.norm.cdf(high, 0.5, 2.0) - stats.norm.cdf(low, 0.5, 2.0)
        if low == 9.0:
            expected = stats.norm.sf(9.0, 0.5, 2.0)
        assert law.probability(low, high) == pytest.approx(expected, rel=1e-12)
