"""The data sets: what they hold, how they are split, what happens when something is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from spikescope.data.datasets import DATASETS, digits, load, stratified_split


def as_rows(inputs, targets):
    """Return images and classes as sorted rows, so that only their order is lost."""
    rows = np.column_stack([targets, inputs.reshape(len(inputs), -1)])
    return rows[np.lexsort(rows.T)]


def test_digits_are_all_of_scikit_learns_and_none_twice():
    data = digits()
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    targets = np.concatenate([data.train_targets, data.test_targets])
    bundle = load_digits()
    original = as_rows(bundle.images / 16, bundle.target)
    assert len(inputs) == 1797
    np.testing.assert_array_equal(as_rows(inputs, targets), original)
    # Control: one image in both parts would be seen.
    inputs[0], targets[0] = data.test_inputs[0], data.test_targets[0]
    assert not np.array_equal(as_rows(inputs, targets), original)


def test_digits_have_the_promised_form():
    data = digits()
    assert data.train_inputs.shape == (1438, 1, 8, 8)
    assert data.test_inputs.shape == (359, 1, 8, 8)
    assert data.train_inputs.dtype == data.test_inputs.dtype == np.float32
    assert data.train_targets.dtype == data.test_targets.dtype == np.int64
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    assert (data.name, data.classes) == ("digits", 10)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_each_class_has_its_share_to_half_a_sample(share):
    data = digits(seed=4, test_share=share)
    train = np.bincount(data.train_targets, minlength=10)
    test = np.bincount(data.test_targets, minlength=10)
    distance = np.abs(test - share * (train + test))
    assert distance.max() <= 0.5
    # Control: a plain random split of the same size misses some class by more.
    shuffled = np.random.default_rng(4).permutation(np.r_[data.train_targets, data.test_targets])
    plain = np.bincount(shuffled[: len(data.test_targets)], minlength=10)
    assert np.abs(plain - share * (train + test)).max() > 0.5


def test_the_seed_decides_the_split():
    one, same, other = digits(seed=1), digits(seed=1), digits(seed=2)
    np.testing.assert_array_equal(one.train_inputs, same.train_inputs)
    np.testing.assert_array_equal(one.test_targets, same.test_targets)
    assert not np.array_equal(one.test_inputs, other.test_inputs)


def test_split_by_hand():
    targets = np.array([1, 1, 0, 1, 0, 1])
    train, test = stratified_split(targets, 0.5, seed=0)
    assert sorted([*train, *test]) == [0, 1, 2, 3, 4, 5]
    assert sorted(targets[test]) == [0, 1, 1]
    assert list(train) == sorted(train)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"test_share={share}.*between 0 and 1"):
        digits(test_share=share)


@pytest.mark.parametrize(("share", "count"), [(0.1, 0), (0.9, 2)])
def test_a_class_missing_from_one_part_is_refused(share, count):
    with pytest.raises(ValueError, match=f"puts {count} of the 2 samples of class 7"):
        stratified_split(np.array([7, 7]), share, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1 is not possible: it must be 0 or more"):
        digits(seed=-1)


def test_load_knows_its_names_and_says_them():
    np.testing.assert_array_equal(load("digits", 3).test_inputs, digits(3).test_inputs)
    with pytest.raises(ValueError, match="data='mnst' is not one of 'digits'") as caught:
        load("mnst")
    assert "\n" not in str(caught.value)
    assert set(DATASETS) >= {"digits", "sequential-digits", "randman"}


def test_missing_scikit_learn_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'spikescope\[demo\]'") as caught:
        digits()
    assert "\n" not in str(caught.value)


def test_data_sets_load_without_torch():
    code = (
        "import sys; from spikescope.data.datasets import digits; digits(); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
