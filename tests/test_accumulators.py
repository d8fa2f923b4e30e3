"""Blocks of any split of the data, merged on the device or on the host, equal two-pass float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accumulator_truth import (
    FOLDS,
    backward_of,
    backward_truth,
    block_of,
    check,
    datasets,
    fold,
    fold_on_host,
    forward_of,
    forward_truth,
    halves,
    plain_data,
    random_gradients,
    slices,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.data.schema import (
    COLUMNS,
    DENSITY_BINS,
    KEYS,
    STORED,
    coarsen_density,
    density_edges,
)
from spikescope.probes import accumulators, accumulators_general
from spikescope.probes.accumulators import (
    backward_block,
    density,
    gradient_block,
    merge,
)
from spikescope.probes.capture import Gradients

CUTS = st.sets(st.integers(1, 5), max_size=4)


@pytest.mark.parametrize("where", FOLDS)
@given(data=datasets(), cuts=CUTS, order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_forward_blocks_of_any_split_merge_to_the_whole(
    where: str, data: dict[str, Any], cuts: set[int], order: Any
) -> None:
    parts = slices(data["u"].shape[1], cuts)
    order.shuffle(parts)
    blocks = [forward_of(data, part) for part in parts]
    check(FOLDS[where](blocks), forward_truth(data))


@pytest.mark.parametrize("where", FOLDS)
@given(data=datasets(), cuts=CUTS)
@settings(max_examples=25, deadline=None)
def test_counts_and_densities_of_a_split_are_bit_equal_to_one_block(
    where: str, data: dict[str, Any], cuts: set[int]
) -> None:
    data["scale"] = 0.3  # not a power of two: the division rounds, and rounds alike in all parts
    whole = forward_of(data, slice(None))
    merged = FOLDS[where]([forward_of(data, part) for part in slices(data["u"].shape[1], cuts)])
    for name in whole:
        if COLUMNS[name].dtype != "float64":
            assert np.array_equal(np.stack(list(merged[name])), whole[name].numpy()), name


@pytest.mark.parametrize("where", FOLDS)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1.0, 1e-30, 1e-38, 1e18, 1e30]),
    shape=st.sampled_from([(1, 1, 1), (2, 5, 3), (3, 4, 2, 2)]),
    cuts=CUTS,
    bad=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=40, deadline=None)
def test_gradient_blocks_of_any_split_merge_to_the_whole(
    where: str, seed: int, size: float, shape: Any, cuts: set[int], bad: float, dtype: Any
) -> None:
    gradients = random_gradients(seed, size, shape, bad, dtype)
    blocks = [backward_of(gradients, part) for part in slices(shape[1], cuts)]
    check(FOLDS[where](blocks), backward_truth(gradients))


# ---- negative controls: the same check refuses a merge that leaves something out


@pytest.mark.parametrize("name", ["u_var", "u_sample_var", "input_var", "coverage_sample_var"])
def test_pooling_variances_without_the_spread_between_means_is_refused(name: str) -> None:
    data = plain_data()
    one, other = halves(data)
    truth = forward_truth(data)
    check(merge(one, other), truth)
    weight = COLUMNS[name].weight
    naive = (one[name] * one[weight] + other[name] * other[weight]) / (one[weight] + other[weight])
    with pytest.raises(AssertionError, match=name):
        check(merge(one, other) | {name: naive}, truth)


def test_adding_densities_without_aligning_their_ranges_is_refused() -> None:
    data = plain_data(spread=0.2)
    data["u"][:, 0] *= 50.0
    one, other = halves(data)
    assert (one["density_exponent"] > other["density_exponent"]).any()
    truth = forward_truth(data)
    check(merge(one, other), truth)
    with pytest.raises(AssertionError, match="density"):
        check(merge(one, other) | {"density": one["density"] + other["density"]}, truth)


def test_weighing_an_unseen_sample_is_refused() -> None:
    data = plain_data()
    data["u"][:, 1] = np.nan
    one, other = halves(data)
    truth = forward_truth(data)
    check(merge(one, other), truth)
    assert one["samples"].tolist() == [3, 3, 3]
    with pytest.raises(AssertionError, match="u_sample_mean"):
        both = merge(one | {"samples": one["samples"] + 1}, other)
        check({"u_sample_mean": both["u_sample_mean"]}, truth)


# ---- accuracy


def test_variance_survives_a_mean_far_larger_than_the_spread() -> None:
    data = plain_data(samples=64, offset=1e4)
    block = forward_of(data, slice(None))
    u = data["u"].reshape(3, -1)
    truth = u.astype(float).var(1)
    # u - 1 is rounded to half a unit in the last place of 1e4: error 5e-4 per value at std 1.2.
    tolerance = 2 * 1.2 * 5e-4
    assert np.abs(block["u_var"].numpy() - truth).max() <= tolerance
    with np.errstate(invalid="ignore"):
        naive = (u * u).mean(1) - u.mean(1) ** 2
    assert np.abs(naive - truth).max() > 100 * tolerance


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_double_input_is_summed_in_double(offset: float) -> None:
    data = plain_data(offset=offset, dtype=np.float64)
    truth = data["u"].reshape(3, -1)
    for name, want in (("u_mean", truth.mean(1)), ("u_var", truth.var(1))):
        merged = fold(halves(data))[name].numpy()
        # 1e-12 of the largest value, times the spread for a variance.
        assert np.abs(merged - want).max() <= 1e-12 * max(1.0, offset)
        single = fold(halves(plain_data(offset=offset)))[name].numpy()
        assert np.abs(single - want).max() > 1e-12 * max(1.0, offset)


def test_squares_of_a_diverged_potential_stay_finite() -> None:
    u = torch.tensor([[[1e30, -1e30], [3e38, -3e38]]])
    block = block_of(u)
    want = u.double().flatten()
    assert block["u_mean"].item() == pytest.approx(want.mean().item(), abs=1e-6 * 3e38)
    assert block["u_var"].item() == pytest.approx(want.var(correction=0).item(), rel=1e-6)
    assert not torch.isfinite((u * u).mean())  # what float32 alone would say
    assert block["density"].sum() == 4
    # Half of the mass on either side of the threshold.
    assert block["density"][0, :128].sum() == 2


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e25])
def test_gradient_squares_leave_neither_end_of_float32(size: float) -> None:
    gradients = random_gradients(3, size, (2, 4, 8))
    truth = (gradients["u"].astype(float) ** 2).mean((1, 2))
    block = backward_of(gradients, slice(None))
    assert block["grad_u_square"].numpy() == pytest.approx(truth, rel=1e-5)
    with np.errstate(over="ignore", under="ignore"):
        naive = (gradients["u"] ** 2).mean((1, 2), dtype=np.float32)
    assert not np.allclose(naive, truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    u = (3.0 + torch.randn(2, 40, 100, generator=torch.Generator().manual_seed(0))).to(dtype)
    block, truth = block_of(u), u.double().mean((1, 2)).numpy()
    # 108 float32 roundings of values up to 7.
    assert block["u_mean"].numpy() == pytest.approx(truth, abs=108 * 6e-8 * 7)
    assert u.mean((1, 2)).double().numpy() != pytest.approx(truth, abs=108 * 6e-8 * 7)


# ---- what is not finite


def test_nonfinite_elements_are_counted_apart_and_left_out() -> None:
    u = torch.tensor([[[0.5, torch.nan, 2.0], [torch.inf, -torch.inf, 1.0]]])
    block = block_of(u)
    assert block["count"].item() == 3
    assert block["nonfinite"].item() == 3
    assert block["u_mean"].item() == pytest.approx(3.5 / 3, rel=1e-6)
    assert (block["u_min"].item(), block["u_max"].item()) == (0.5, 2.0)
    assert block["density"].sum().item() == 3
    assert block["samples"].item() == 2


def test_a_timestep_without_a_finite_value_says_nothing_and_spoils_nothing() -> None:
    lost = block_of(torch.full((1, 2, 3), torch.nan))
    assert lost["count"].item() == lost["samples"].item() == 0
    assert lost["nonfinite"].item() == 6
    for name in ("u_mean", "u_var", "u_min", "u_max", "u_sample_mean", "input_mean"):
        assert torch.isnan(lost[name]).all(), name
    assert lost["threshold"].item() == merge(lost, lost)["threshold"].item() == 1.0
    sound = block_of(torch.tensor([[[0.5, 1.5, 0.25]]]))
    for merged in (merge(lost, sound), merge(sound, lost), fold_on_host([lost, sound])):
        for name in sound:
            if name not in ("nonfinite", "silent", "spikes", "saturated"):
                got, want = np.asarray(merged[name]), np.asarray(sound[name])
                assert np.array_equal(got, want, equal_nan=True), name


def test_a_gradient_without_a_finite_value_spoils_nothing() -> None:
    sound = random_gradients(1, 1.0, (1, 2, 4))
    lost = {name: np.full_like(values, np.nan) for name, values in sound.items()}
    one, other = backward_of(lost, slice(None)), backward_of(sound, slice(None))
    assert one["grad_samples"].item() == 0
    merged = merge(one, other)
    for name in other:
        if name.endswith("nonfinite"):
            assert merged[name].item() == 8
        else:
            assert merged[name].item() == other[name].item(), name


# ---- over time


def test_single_timesteps_say_what_the_whole_sequence_says() -> None:
    rng = np.random.default_rng(5)
    spikes = torch.from_numpy((rng.random((6, 3, 10)) < 0.5).astype(np.float32))
    spikes[:, 0, 0], spikes[:, 1, 1] = 1.0, 0.0
    u = torch.where(spikes > 0, 1.25, 0.75)
    whole = block_of(u, spikes=spikes)
    for k in range(6):
        fired = spikes[:k].sum(0)
        part = slice(k, k + 1)
        single = block_of(u[part], spikes=spikes[part], fired_before=fired, t=k + 1)
        for name in whole:
            assert torch.equal(single[name], whole[name][part]), name
        forgot = block_of(u[part], spikes=spikes[part], t=k + 1)
        assert k == 0 or not torch.equal(forgot["silent"], whole["silent"][part])
    fired = spikes.cumsum(0).flatten(1)
    assert whole["silent"].tolist() == (fired == 0).sum(1).tolist()
    assert whole["saturated"].tolist() == [(fired[k] == k + 1).sum().item() for k in range(6)]
    assert whole["silent"][-1] >= 1 <= whole["saturated"][-1]
    assert (whole["silent"].diff() <= 0).all()


@given(data=datasets(), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_all_timesteps_at_once_say_what_each_says_alone(data: dict[str, Any], seed: int) -> None:
    # A CPU looks at one timestep at a time, an accelerator at all: the same numbers.
    gradients = random_gradients(seed, 1e-3, data["u"].shape, 0.2, data["u"].dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulators, "ROUTES", accumulators.ROUTES[-1:])
        patch.setattr(accumulators_general, "_slices", lambda values: [slice(0, len(values))])
        check(forward_of(data, slice(None)), forward_truth(data))
        check(backward_of(gradients, slice(None)), backward_truth(gradients))


# ---- density


def histogram(values: np.ndarray) -> Any:
    z = torch.from_numpy(values.reshape(1, 1, -1))
    return density(z, torch.isfinite(z))


@given(
    values=arrays(
        np.float32,
        st.integers(1, 30),
        elements=st.floats(-300, 300, width=32)
        | st.sampled_from([2.0**k for k in range(-6, 9)]).flatmap(
            lambda x: st.sampled_from([x, -x])
        )
        | st.sampled_from([0.0, -0.0, 1e-6, -1e-6, 1e30, -1e30]),
    ),
)
@settings(max_examples=150, deadline=None)
def test_density_loses_no_mass_and_doubling_merges_exactly(values: np.ndarray) -> None:
    block = histogram(values)
    exponent = int(block["density_exponent"])
    counts = block["density"][0].numpy()
    edges = density_edges(exponent)
    assert counts.sum() == values.size
    assert np.array_equal(counts, np.histogram(values.astype(float), edges)[0])
    assert np.abs(values).max() < edges[-1]
    assert exponent == 0 or np.abs(values).max() >= edges[-1] / 2  # no wider than needed
    # Each value on its own, coarsened to the common range, adds up to the same counts.
    total = np.zeros_like(counts)
    for value in values:
        alone = histogram(np.array([value]))
        doublings = exponent - int(alone["density_exponent"])
        total += coarsen_density(alone["density"][0].numpy(), doublings)
    assert np.array_equal(total, counts)


def test_a_fixed_range_would_lose_mass() -> None:
    values = np.array([0.5, 3.0, 1e5], dtype=np.float32)
    assert np.histogram(values, density_edges(0))[0].sum() == 1
    assert histogram(values)["density"].sum() == 3


def test_the_accelerators_way_of_counting_is_the_same() -> None:
    # bincount serves the CPU, scatter_add_ the rest: same places, same counts.
    z = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(2))
    bins = torch.floor(z * 32).long() + 128
    assert (z.abs() < 4).all()
    assert (z.abs().amax((1, 2)) > 2).all()
    scattered = torch.zeros(3, DENSITY_BINS, dtype=torch.int64)
    scattered.scatter_add_(1, bins.flatten(1), torch.ones_like(bins.flatten(1)))
    assert torch.equal(density(z, torch.ones_like(z, dtype=torch.bool))["density"], scattered)


# ---- surrogate


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surrogate_columns_equal_the_derivative_in_double(shape: str, dtype: torch.dtype) -> None:
    surrogate = Surrogate(shape, peak=2.0, width=0.3, tail=1.5)
    u = 1.5 * torch.randn(2, 9, 31, generator=torch.Generator().manual_seed(1), dtype=dtype)
    block = block_of(u, surrogate)
    slope = surrogate.derivative((u - 1.0).double().numpy())
    rounding = 2.0 * torch.finfo(dtype).eps * 64  # 31 additions, and a shape of a few operations
    for name, want in (("surrogate_mean", slope), ("surrogate_square", slope**2)):
        assert block[name].numpy() == pytest.approx(want.mean((1, 2)), abs=2 * rounding)
    assert block["covered"].tolist() == (slope > 0.02).sum((1, 2)).tolist()
    # Between the smallest normal number and 0 the rounding of exp decides what is 0.
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).tiny * torch.finfo(dtype).eps / 4
    assert (block["open"].numpy() >= (slope > 2 * least).sum((1, 2))).all()
    assert (block["open"].numpy() <= (slope > most).sum((1, 2))).all()
    share = (slope > 0.02).mean(2)
    assert block["coverage_sample_mean"].numpy() == pytest.approx(share.mean(1), rel=1e-12)
    assert block["coverage_sample_var"].numpy() == pytest.approx(share.var(1), rel=1e-12)
    # Another surrogate of the same family is told apart.
    other = Surrogate(shape, peak=2.0, width=0.36, tail=1.5).derivative((u - 1.0).double().numpy())
    assert block["surrogate_mean"].numpy() != pytest.approx(other.mean((1, 2)), abs=2 * rounding)


def test_covered_is_above_a_hundredth_of_the_peak_and_open_is_not_zero() -> None:
    surrogate = Surrogate("triangular", peak=4.0, width=1.0)
    heights = torch.tensor([[[1.0, 0.011, 0.009, 0.0]]], dtype=torch.float64)
    block = block_of(2.0 - heights, surrogate)
    assert (block["covered"].item(), block["open"].item()) == (2, 3)


def test_without_a_surrogate_its_columns_say_that_nothing_was_seen() -> None:
    data = plain_data()
    middle = slice(0, 4), slice(4, None)
    for blocks in (
        [forward_of(data, slice(None), None)],
        [forward_of(data, m, None) for m in middle],
    ):
        check(fold(blocks), forward_truth(data, None))
        check(fold_on_host(blocks), forward_truth(data, None))


# ---- the schema


def all_columns(device: str = "cpu") -> Any:
    """Return a merged block of a forward and a backward pass, as the hooks make it."""
    values = torch.zeros(4, 3, 5, device=device)
    block = block_of(values, Surrogate())
    block |= backward_block(Gradients(values, values, values, values))
    return merge(block, block)


def test_every_stored_column_is_measured_in_the_dtype_it_is_stored_in() -> None:
    block = all_columns()
    assert set(block) == set(STORED) - set(KEYS)
    for name, values in block.items():
        wanted = torch.float64 if COLUMNS[name].dtype == "float64" else torch.int64
        assert values.dtype == wanted, name
        assert values.shape == ((4, DENSITY_BINS) if name == "density" else (4,)), name
    gradient = gradient_block("grad_s", torch.ones(2, 3, 4))
    assert set(gradient) == {name for name in STORED if name.startswith("grad_s_")} - {
        name for name in STORED if name.startswith("grad_s_total")
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_waits_for_the_device(shape: str) -> None:
    # Tensors without data: whatever needs a value on the host, or a shape that depends on one,
    # raises here, and takes the accelerators' branch.
    u = torch.zeros(4, 3, 5, device="meta")
    block = block_of(u, Surrogate(shape))
    block |= backward_block(Gradients(u, u, u, u))
    merged = merge(block, block)
    assert set(merged) == set(STORED) - set(KEYS)
    assert {values.device.type for values in merged.values()} == {"meta"}


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool((values > 0).any()),
        lambda values: values[values > 0],
        lambda values: values.cpu(),
        lambda values: torch.bincount(values.long().flatten(), minlength=9),
    ],
)
def test_what_waits_for_the_device_would_be_noticed(
    wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finite = accumulators_general._finite
    monkeypatch.setattr(
        accumulators_general, "_finite", lambda values: (wait(values), finite(values))[1]
    )
    with pytest.raises((RuntimeError, NotImplementedError)):
        all_columns("meta")


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_rounding_is_that_of_the_dtype_that_the_layer_computed_in(
    dtype: torch.dtype, near: int
) -> None:
    """0.05 below the threshold is 13 units in the last place of bfloat16, and a mile of float32."""
    u = torch.tensor([[[0.95, 0.2]]])
    spikes = torch.tensor([[[1.0, 0.0]]])
    block = accumulators.forward_block(
        u,
        (u >= 1.0).float(),
        spikes,
        u,
        threshold=1.0,
        scale=1.0,
        surrogate=None,
        fired_before=torch.zeros(1, 2),
        t=1,
        computed_in=dtype,
    )
    assert (int(block["near_mismatch"]), int(block["mismatch"])) == (near, 1 - near)
