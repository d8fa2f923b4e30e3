"""Randman against its published formula, written out term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spikescope.data.datasets import load
from spikescope.data.datasets_randman import (
    manifold,
    manifold_parameters,
    randman,
    standardise,
)


def formula(x, parameters, alpha):
    """One point by the formula of the paper: a product of sums of sines."""
    out = []
    for of_unit in parameters:
        product = 1.0
        for x_j, (a, b, c) in zip(x, of_unit, strict=True):
            total = 0.0
            for k in range(1, len(a) + 1):
                wave = math.sin(2 * math.pi * (k * x_j * b[k - 1] + c[k - 1]))
                total += wave * a[k - 1] / k**alpha
            product *= total
        out.append(product)
    return out


@pytest.mark.parametrize(("dimensions", "alpha"), [(1, 3.0), (2, 1.5), (3, 0.7)])
def test_manifold_is_the_published_formula(dimensions, alpha):
    random = np.random.default_rng(5)
    parameters = manifold_parameters(random, 4, dimensions, alpha)[..., :20]
    points = random.random((6, dimensions))
    expected = [formula(x, parameters, alpha) for x in points]
    np.testing.assert_allclose(manifold(points, parameters, alpha), expected, rtol=0, atol=1e-12)
    # Control: the amplitude of the authors' program, (k + 1)^-alpha, is another manifold.
    other = [[y * 2**-dimensions for y in formula(x, parameters, alpha + 0.1)] for x in points]
    assert np.abs(manifold(points, parameters, alpha) - other).max() > 1e-3


@pytest.mark.parametrize(("alpha", "harmonics"), [(3.0, 10), (2.0, 32), (1.0, 1000), (0.0, 1000)])
def test_harmonics_reach_down_to_a_thousandth(alpha, harmonics):
    parameters = manifold_parameters(np.random.default_rng(0), 1, 1, alpha)
    assert parameters.shape == (1, 1, 3, harmonics)
    if harmonics < 1000:
        assert harmonics**-alpha <= 1e-3 * (1 + 1e-9) < (harmonics - 1) ** -alpha


def test_parameters_are_uniform():
    values = manifold_parameters(np.random.default_rng(1), 50, 2, 2.0).ravel()
    n = values.size  # 9600: standard errors of mean and variance of a uniform law
    assert abs(values.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    assert abs(values.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)


def test_each_unit_fires_once_and_the_spikes_fill_the_time():
    data = randman(classes=3, units=7, timesteps=12, samples=40, seed=2)
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    assert inputs.shape == (120, 12, 7)
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs.sum(1), 1.0)
    # Standardised per class and unit: some sample fires in the first and some in the last timestep.
    targets = np.concatenate([data.train_targets, data.test_targets])
    for label in range(3):
        of_class = inputs[targets == label]
        assert of_class[:, 0].any(0).all()
        assert of_class[:, -1].any(0).all()


def test_spike_times_by_hand():
    seed, label = 4, 1
    data = randman(classes=2, units=3, timesteps=10, samples=20, alpha=2.0, seed=seed)
    random = np.random.default_rng([seed, label])
    parameters = manifold_parameters(random, 3, 1, 2.0)
    y = standardise(manifold(random.random((20, 1)), parameters, 2.0))
    times = sorted(map(tuple, np.minimum(np.floor(y * 10), 9).astype(int)))
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    targets = np.concatenate([data.train_targets, data.test_targets])
    assert sorted(map(tuple, inputs[targets == label].argmax(1))) == times
    assert sorted(map(tuple, inputs[targets == 0].argmax(1))) != times


def test_a_larger_alpha_is_smoother():
    x = np.linspace(0, 1, 400)[:, None]
    lengths = []
    for alpha in (3.0, 1.0):
        parameters = manifold_parameters(np.random.default_rng(3), 30, 1, alpha)
        y = standardise(manifold(x, parameters, alpha))
        lengths.append(np.abs(np.diff(y, axis=0)).sum(0).mean())
    assert lengths[0] < 0.5 * lengths[1]


def test_the_seed_decides_everything_and_classes_do_not_depend_on_their_number():
    settings = {"units": 5, "timesteps": 20, "samples": 10}
    one, same = (randman(seed=1, classes=3, **settings) for _ in range(2))
    np.testing.assert_array_equal(one.train_inputs, same.train_inputs)
    np.testing.assert_array_equal(one.test_targets, same.test_targets)
    other = randman(seed=2, classes=3, **settings)
    assert not np.array_equal(one.train_inputs, other.train_inputs)
    fewer = randman(seed=1, classes=2, **settings)

    def spikes(data, label):
        rows = np.concatenate(
            [
                data.train_inputs[data.train_targets == label],
                data.test_inputs[data.test_targets == label],
            ]
        )
        return sorted(map(tuple, rows.argmax(1)))

    assert spikes(one, 1) == spikes(fewer, 1)
    assert spikes(one, 1) != spikes(one, 2)


def test_counts_of_spikes_tell_nothing():
    """All the information is in the times: every class has the same count in every unit."""
    data = load("randman", 0, classes=4, samples=25)
    counts = data.train_inputs.sum(1)
    assert (counts == counts[0]).all()
    assert data.classes == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, "classes=1 is not possible: it must be at least 2"),
        ({"units": 0}, "units=0 is not possible: it must be at least 1"),
        ({"timesteps": 0}, "timesteps=0 is not possible"),
        ({"dimensions": 0}, "dimensions=0 is not possible"),
        ({"samples": 0}, "samples=0 is not possible"),
        ({"samples": 1}, "each part needs at least one"),
        ({"alpha": -1.0}, "alpha=-1.0 is not possible: it must be 0 or more"),
        ({"alpha": float("nan")}, "alpha=nan is not possible"),
        ({"alpha": float("inf")}, "alpha=inf is not possible"),
        ({"seed": -1}, "seed=-1 is not possible"),
        ({"test_share": 1.0}, "test_share=1.0 is not possible"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        randman(**settings)
    assert "\n" not in str(caught.value)
