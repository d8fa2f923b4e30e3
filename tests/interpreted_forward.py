"""The kernels of the forward pass in Triton's interpreter, run by `test_kernels.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accumulator_truth import check
from interpreted_cases import (  # noqa: F401
    ARCTAN,
    NARROW,
    SPECS,
    Only,
    agree,
    data,
    forward,
    on_a_cpu,
    same,
    truth_of,
)

from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.probes import accumulators, capture, fine, kernels, kernels_launch

# The interpreter computes with numpy, which warns where a device does not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("on_a_cpu"),
]


@pytest.mark.parametrize("shape", [(2, 1, 300), (1, 5, 7), (2, 3, 2, 3, 5)])
def test_a_pass_says_what_two_passes_in_double_say(shape: tuple[int, ...]) -> None:
    spec = NeuronSpec(decay=0.7, threshold=0.5)
    values = data(shape, spec)
    block, u = forward("kernel", spec, values)
    check(block, truth_of(spec, values, u, ARCTAN))
    wrong = NeuronSpec(decay=0.75, threshold=0.5)
    other, _ = forward("kernel", wrong, values)
    assert shape[0] == 1 or not torch.equal(other["mismatch"], block["mismatch"])
    with pytest.raises(AssertionError):
        check(other, truth_of(spec, values, u, ARCTAN))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, "float32") for kind in SPECS),
        *((kind, "bfloat16") for kind in SPECS if kind != "hard, rest"),
        *((kind, "float16") for kind in ("soft, gain", "hard")),
    ],
)
def test_each_neuron_is_replayed_bit_for_bit(kind: str, dtype: str) -> None:
    spec = NeuronSpec(**SPECS[kind])
    values = data((2, 3, 40), spec, NARROW.get(dtype, torch.float32))
    block, u = forward("kernel", spec, values, scale=0.8)
    want, truth = forward("general", spec, values, scale=0.8)
    assert torch.equal(u, truth)
    same(block, want)
    assert block["mismatch"].sum() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_each_surrogate_is_that_of_the_analysis(shape: str) -> None:
    assert shape in kernels.SHAPES
    spec, surrogate = NeuronSpec(decay=0.5), Surrogate(shape, peak=2.0, width=0.3, tail=1.5)
    values = data((1, 4, 60), spec)
    block, u = forward("kernel", spec, values, surrogate=surrogate)
    truth = truth_of(spec, values, u, surrogate)
    check(block, truth)
    mean = surrogate.derivative(u.double().numpy() - 1.0).mean((1, 2))
    assert block["surrogate_mean"].numpy() == pytest.approx(mean, rel=2e-5)
    with pytest.raises(AssertionError, match=r"surrogate|covered|open"):
        check(forward("kernel", spec, values, surrogate=Surrogate(shape, 2.0, 0.45, 1.5))[0], truth)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_potential_is_kept_in_the_dtype_that_it_was_rounded_to(dtype: str) -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((2, 3, 40), spec, NARROW[dtype])
    known: dict[str, Any] = {"surrogate": ARCTAN, "fired_before": None, "t": 1, "scale": 1.0}
    kept = []
    for name in ("kernel", "general"):
        with Only(name):
            _, u, *_ = accumulators.forward_pass(
                spec, values["current"], values["spikes"], values["start"], **known
            )
        assert u is not None
        kept.append(u)
    assert [u.dtype for u in kept] == [NARROW[dtype], torch.float32]
    assert torch.equal(kept[0].float(), kept[1])
    # Whoever reads it widens it first: the distance from the threshold is not rounded again.
    given = torch.ones_like(kept[1])
    spikes = (kept[1] > 1).float()
    one, other = (capture.gradients(spec, ARCTAN, u, spikes, given, given).residual for u in kept)
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
    narrow, wide = (fine.joint_counts(u, 0.9, 1.0, given) for u in kept)
    assert torch.equal(narrow, wide)


def test_a_fat_or_a_thin_tail_keeps_its_precision() -> None:
    spec = NeuronSpec(decay=0.5)
    values = data((1, 2, 130), spec, scale=30.0)
    for tail in (1.001, 1e5):
        surrogate = Surrogate("q_pseudo_spike", peak=1.0, width=5.0, tail=tail)
        block, u = forward("kernel", spec, values, surrogate=surrogate)
        mean = surrogate.derivative(u.double().numpy() - 1.0).mean((1, 2))
        assert block["surrogate_mean"].numpy() == pytest.approx(mean, rel=1e-5), tail


BAD = [torch.nan, torch.inf, -torch.inf, 3e38, -1e30, 1e-40]


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
def test_what_is_not_finite_is_counted_apart(reset: Any) -> None:
    spec = NeuronSpec(decay=0.7, reset=reset)
    values = data((3, 3, 40), spec)
    values["current"][1, 0, : len(BAD)] = torch.tensor(BAD)
    values["current"][0, 1] = torch.nan  # a whole sample, from the first timestep on
    block, u = forward("kernel", spec, values)
    check(block, truth_of(spec, values, u, ARCTAN))
    same(block, forward("general", spec, values)[0])
    assert block["nonfinite"].tolist()[:2] == [40, 43]
    assert block["samples"].tolist() == [2, 2, 2]


def test_a_timestep_without_a_finite_value_says_nothing() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((2, 2, 20), spec)
    values["current"][1] = torch.nan
    block, _ = forward("kernel", spec, values)
    same(block, forward("general", spec, values)[0])
    assert block["count"].tolist() == [40, 0]
    assert block["u_min"].isnan().tolist() == [False, True]


@pytest.mark.parametrize(("scale", "spread"), [(0.3, 1e-3), (1.0, 1.0), (0.3, 300.0)])
def test_densities_are_bit_equal_at_any_range(scale: float, spread: float) -> None:
    spec = NeuronSpec(decay=0.0)
    values = data((3, 2, 100), spec, scale=spread)
    values["current"][1] *= 40.0  # a range of its own at each timestep, and in each tile
    values["current"][1, 1, 7] = 1e4 * spread
    values["current"][2, 0, 0], values["current"][2, 1, 0] = 1e30, -1e-44
    block, want = (
        forward(route, spec, values, scale=scale, surrogate=None)[0]
        for route in ("kernel", "general")
    )
    for name in ("density", "density_exponent", "count", "mismatch", "near_mismatch"):
        assert torch.equal(block[name], want[name]), name
    assert block["density"].sum(1).tolist() == [200] * 3
    assert len(set(block["density_exponent"].tolist())) > 1


def test_tiles_of_every_range_are_counted_into_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_launch, "TILE", 16)  # each sample is a tile
    generator = torch.Generator().manual_seed(0)
    current = torch.exp2(torch.arange(12.0))[None, :, None] * torch.randn(
        1, 12, 16, generator=generator
    ).clamp(-1.99, 1.99)
    current[..., 0] = torch.exp2(torch.arange(12.0)) * 1.99
    spec = NeuronSpec(decay=0.0, threshold=0.0, reset="none")
    values = {"current": current, "spikes": (current >= 0).float(), "start": torch.zeros(12, 16)}
    block, want = (
        forward(route, spec, values, surrogate=None)[0] for route in ("kernel", "general")
    )
    assert block["density_exponent"].tolist() == [11]
    assert torch.equal(block["density"], want["density"])


@pytest.mark.parametrize("shape", [(1, 1, 280), (1, 20, 3)])
def test_more_chunks_or_samples_than_one_program_takes(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_launch, "TILE", 16)
    spec = NeuronSpec(decay=0.7)
    values = data(shape, spec)
    block, u = forward("kernel", spec, values)
    same(block, forward("general", spec, values)[0])
    generator = torch.Generator().manual_seed(2)
    given = [torch.randn(shape, generator=generator) for _ in range(2)]
    inside = capture.gradients(spec, ARCTAN, u, values["spikes"], *given)
    agree(inside)


@pytest.mark.parametrize("shape", [(1, 2, 1100), (2, 9, 130), (1, 70, 3)])
def test_large_layers_are_looked_at_in_larger_tiles(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = NeuronSpec(decay=0.7)
    values = data(shape, spec)
    small, _ = forward("kernel", spec, values)
    monkeypatch.setattr(kernels_launch, "LARGE", 1)
    view = kernels_launch._View(values["current"])
    assert (view.rows * view.columns, view.warps) == (1024, 4)
    block, u = forward("kernel", spec, values)
    check(block, truth_of(spec, values, u, ARCTAN))
    same(block, small)
    generator = torch.Generator().manual_seed(2)
    given = [torch.randn(shape, generator=generator) for _ in range(2)]
    agree(capture.gradients(spec, ARCTAN, u, values["spikes"], *given))


@pytest.mark.parametrize("level", [0.3, 30.0])
def test_a_layer_that_never_moves(level: float) -> None:
    spec = NeuronSpec(decay=0.0, reset="none")
    current = torch.full((2, 4, 50), level)
    values = {
        "current": current,
        "spikes": (current >= 1.0).float(),
        "start": torch.zeros(4, 50),
    }
    block, _ = forward("kernel", spec, values)
    same(block, forward("general", spec, values)[0])
    assert block["u_var"].tolist() == block["input_var"].tolist() == [0.0] * 2
    assert block["saturated"].tolist() == [200 * (level >= 1)] * 2
    assert block["silent"].tolist() == [200 * (level < 1)] * 2


def test_no_level_looks_like_a_spread() -> None:
    # The mean of equal numbers is off by a rounding for some of them.
    levels = torch.linspace(-3.0, 5.0, 16)
    values = {
        "current": levels[:, None, None].expand(16, 1, 50),
        "spikes": torch.zeros(16, 1, 50),
        "start": torch.zeros(1, 50),
    }
    block, _ = forward("kernel", NeuronSpec(decay=0.0, reset="none"), values)
    assert block["u_var"].tolist() == block["input_var"].tolist() == [0.0] * 16
    assert block["input_mean"].tolist() == levels.double().tolist()


def test_what_a_wide_range_takes_below_the_smallest_number_stays_below_the_threshold() -> None:
    current = torch.tensor([[[-1e-44, 0.0, 1e4]]])
    values = {"current": current, "spikes": (current >= 0).float(), "start": torch.zeros(1, 3)}
    spec = NeuronSpec(decay=0.0, threshold=0.0, reset="none")
    block, _ = forward("kernel", spec, values, surrogate=None)
    assert block["density"][0, [127, 128]].tolist() == [1, 1]


def test_what_came_before_counts() -> None:
    spec = NeuronSpec(decay=0.7, reset="none")
    values = data((4, 3, 60), spec, scale=2.0)
    whole, u = forward("kernel", spec, values)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        fired = values["spikes"][: rows.start].sum(0)
        part = {name: values[name][rows] for name in ("current", "spikes")}
        part["start"] = values["start"] if rows.start == 0 else u[rows.start - 1]
        block, _ = forward("kernel", spec, part, fired_before=fired, t=rows.start + 1)
        parts.append(block)
    for name, entry in whole.items():
        assert torch.equal(entry, torch.cat([part[name] for part in parts])), name
    assert 0 < whole["saturated"][3] < whole["saturated"][0]


def test_strides_and_layouts_make_no_difference() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((2, 4, 5, 2, 3), spec)
    plain, u = forward("kernel", spec, values)
    for turned in (
        lambda entry: (
            entry.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (2, 4))
        ),
        lambda entry: entry.movedim(0, 1).contiguous().movedim(1, 0),
        lambda entry: entry.repeat_interleave(2, -1)[..., ::2],
    ):
        one = {name: turned(entry) for name, entry in values.items() if name != "start"}
        block, other = forward("kernel", spec, one | {"start": values["start"]})
        assert torch.equal(other, u)
        same(block, plain)
    held = {name: entry.clone() for name, entry in values.items()}
    held["current"] = held["current"][:1].expand(2, 4, 5, 2, 3)
    held["start"] = torch.tensor(0.25)
    block, other = forward("kernel", spec, held)
    want, truth = forward("general", spec, held | {"start": torch.full((4, 5, 2, 3), 0.25)})
    assert torch.equal(other, truth)
    same(block, want)


def test_no_layout_is_copied() -> None:
    plain = torch.zeros(2, 4, 5, 2, 3)
    last = plain.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (2, 4))
    for values in (plain, last, plain.movedim(0, 1)):
        view = kernels_launch._View(values)
        assert view.flat(values).data_ptr() == values.data_ptr()
        assert view.flat(values).stride(2) == 1
    assert kernels_launch._View(plain).flat(last).data_ptr() != last.data_ptr()


def test_a_narrow_layer_compares_with_its_own_threshold() -> None:
    spec = NeuronSpec(decay=0.0, threshold=0.301)
    current = torch.full((1, 1, 4), 0.30078125, dtype=torch.bfloat16)
    assert (current >= 0.301).all()  # bfloat16 has nothing between the two
    assert not (current.float() >= 0.301).any()
    values = {"current": current, "spikes": torch.ones_like(current), "start": current[0]}
    block, _ = forward("kernel", spec, values)
    assert (block["near_mismatch"].item(), block["mismatch"].item()) == (0, 0)
    same(block, forward("general", spec, values)[0])


def test_what_is_not_asked_for_is_not_there_and_the_rest_is_the_same() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((2, 3, 40), spec)
    whole, _ = forward("kernel", spec, values)
    block, u = forward("kernel", spec, values, histogram=False, keep_u=False)
    assert u is None
    assert whole.keys() - block.keys() == {"density", "density_exponent"}
    same(block, {name: whole[name] for name in block})
    block, _ = forward("kernel", spec, values, surrogate=None)
    same(block, forward("general", spec, values, surrogate=None)[0])


def test_the_same_data_give_the_same_bits() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((2, 2, 300), spec)
    one, other = (forward("kernel", spec, values)[0] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
