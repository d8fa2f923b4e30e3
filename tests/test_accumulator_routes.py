"""One definition, two routes on a CPU: torch in pieces, torch at once. They agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accumulator_truth import check as check_truth
from accumulator_truth import datasets, forward_truth
from hypothesis import given, settings
from hypothesis import strategies as st

from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.data.schema import COLUMNS
from spikescope.probes import accumulators, accumulators_cpu, capture

ROUTES = ("pieces", "general")


class Only:
    """Takes one route, and the general one where the first gives up."""

    def __init__(self, name: str, piece: int = 64) -> None:
        self.name, self.piece = name, piece

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        kept = [route for route in accumulators.ROUTES if route.name in (self.name, "general")]
        self.patch.setattr(accumulators, "ROUTES", tuple(kept))
        self.patch.setattr(accumulators_cpu, "PIECE", self.piece)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def data(shape: tuple[int, ...], scale: float = 1.0, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    current = scale * torch.randn(shape, generator=generator)
    u = 0.7 * current + 0.2 * scale
    u[0, 0].view(-1)[:2] = torch.tensor([1.0, -1.0])  # on the threshold, and on an edge
    spikes = (u >= 1.0).float()
    spikes.view(-1)[::97] = 1.0 - spikes.view(-1)[::97]
    return {"u": u, "spikes": spikes, "current": current}


def forward(
    name: str, values: dict[str, torch.Tensor], piece: int = 64, **more: Any
) -> dict[str, torch.Tensor]:
    known: dict[str, Any] = {"threshold": 1.0, "scale": 1.0, "fired_before": None, "t": 1}
    known |= {"surrogate": Surrogate("arctan", peak=1.0, width=0.3)} | more
    with Only(name, piece):
        return accumulators.forward_block(
            values["u"], None, values["spikes"], values["current"], **known
        )


def same(one: dict[str, Any], other: dict[str, Any], rel: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.dtype == other[name].dtype, name
        if COLUMNS[name].dtype != "float64":
            assert torch.equal(values, other[name]), name
        else:
            # Variances are compared on the scale of what they are taken about.
            floor = 1e-6 if name.endswith("var") else 1e-7
            assert values.numpy() == pytest.approx(
                other[name].numpy(), rel=rel, abs=floor, nan_ok=True
            ), name


@given(values=datasets(dtype=np.float32))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", ROUTES)
def test_each_route_says_what_two_passes_in_double_say(name: str, values: dict[str, Any]) -> None:
    surrogate = Surrogate("fast_sigmoid", peak=1.5, width=0.125)
    tensors = {key: torch.from_numpy(values[key]) for key in ("u", "spikes", "current")}
    block = forward(
        name,
        tensors,
        piece=3,
        surrogate=surrogate,
        threshold=values["threshold"],
        scale=values["scale"],
        fired_before=torch.from_numpy(values["fired_before"]),
        t=values["t"],
    )
    check_truth(block, forward_truth(values))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(3, 5, 700), (2, 3, 4, 6, 7), (4, 40, 9)])
def test_counts_are_bit_equal_and_moments_agree(
    route: str, shape: str, size: tuple[int, ...]
) -> None:
    surrogate = Surrogate(shape, peak=2.0, width=0.3, tail=1.5)
    values = data(size)
    same(
        forward(route, values, surrogate=surrogate),
        forward("general", values, surrogate=surrogate),
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
def test_densities_are_bit_equal_at_any_range(route: str, scale: float, spread: float) -> None:
    values = data((3, 6, 1500), spread)
    values["u"][1] *= 40.0  # a range of its own at each timestep, and in each piece
    values["u"][1, 2, 7] = 1e4 * spread
    one = forward(route, values, piece=1000, scale=scale, surrogate=None)
    other = forward("general", values, scale=scale, surrogate=None)
    same(one, other)
    assert len(set(one["density_exponent"].tolist())) > 1 or spread < 1
    assert one["density"].sum(1).tolist() == [9000] * 3


def test_what_a_wide_range_takes_below_the_smallest_number_stays_below_the_threshold(
    route: str,
) -> None:
    u = torch.tensor([[[-1e-44, 0.0, 1e4]]])
    values = {"u": u, "spikes": (u >= 0).float(), "current": u}
    block = forward(route, values, threshold=0.0, surrogate=None)
    assert block["density"][0, [127, 128]].tolist() == [1, 1]


@pytest.mark.parametrize("level", [-1.0, 0.0, 0.5, 30.0])
def test_a_layer_that_never_moves(route: str, level: float) -> None:
    u = torch.full((3, 4, 50), level)
    values = {"u": u, "spikes": (u >= 1.0).float(), "current": torch.zeros_like(u)}
    block = forward(route, values)
    same(block, forward("general", values))
    assert block["u_var"].tolist() == [0.0] * 3
    assert block["saturated"].tolist() == [200 * (level >= 1)] * 3
    assert block["silent"].tolist() == [200 * (level < 1)] * 3


def test_what_came_before_counts(route: str) -> None:
    values = data((4, 3, 64), 2.0)
    whole = forward(route, values)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        fired = values["spikes"][: rows.start].sum(0)
        part = {name: entry[rows] for name, entry in values.items()}
        parts.append(forward(route, part, fired_before=fired, t=rows.start + 1))
    for name, entry in whole.items():
        assert torch.equal(entry, torch.cat([part[name] for part in parts])), name
    assert whole["saturated"][2] > 0


@pytest.mark.parametrize("fires_at", [True, False])
def test_spikes_at_the_threshold_are_explained_by_the_rule_in_force(
    route: str, fires_at: bool
) -> None:
    u = torch.tensor([[[1.0, 1.0, 0.5, 1.5]]])
    values = {"u": u, "spikes": torch.tensor([[[1.0, 0.0, 1.0, 1.0]]]), "current": u}
    block = forward(route, values, fires_at_threshold=fires_at)
    assert (block["mismatch"].item(), block["near_mismatch"].item()) == (1, 1)


def test_threads_make_no_difference(two_threads: None) -> None:
    values = data((3, 7, 500), 5.0)
    values["u"][0, 6, 3] = 1e5
    same(forward("pieces", values, piece=100), forward("general", values))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("where", ["u", "current"])
def test_what_is_unusual_is_left_to_the_general_route(route: str, where: str, bad: float) -> None:
    values = data((2, 3, 100))
    if where == "u":
        values["current"][1, 1, 5] = bad
    values[where][1, 1, 5] = bad
    one, other = forward(route, values), forward("general", values)
    for name, entry in one.items():
        if name not in ("input_mean", "input_var"):
            assert entry.numpy() == pytest.approx(other[name].numpy(), rel=1e-5, nan_ok=True), name
    assert one["nonfinite"].tolist() == [0, int(where == "u" and not np.isfinite(bad))]


def test_strides_and_layouts_make_no_difference(route: str) -> None:
    values = data((3, 4, 5, 6, 7))
    plain = forward("general", values)
    turned = {
        name: entry.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 4))
        for name, entry in values.items()
    }
    same(forward(route, turned), plain)
    batch_first = {
        name: entry.movedim(0, 1).contiguous().movedim(1, 0) for name, entry in values.items()
    }
    assert not batch_first["u"].is_contiguous()
    same(forward(route, batch_first), plain)


def test_without_a_histogram_the_rest_is_the_same(route: str) -> None:
    values = data((2, 3, 40))
    block, whole = forward(route, values, histogram=False), forward("general", values)
    assert "density" not in block
    same(block, {name: whole[name] for name in block})


# ---- the potential, and the gradients


SPECS: dict[str, dict[str, Any]] = {
    "soft": {"decay": 0.7},
    "soft, gain": {"decay": 0.7, "gain": 0.3, "threshold": 0.8, "reset_amount": 0.6},
    "soft, hidden": {"decay": 0.9, "reset_gradient": False},
    "hard": {"decay": 0.6, "reset": "to_value", "reset_value": 0.25},
    "hard to 0": {"decay": 0.6, "reset": "to_value", "rest": 0.1},
    "hard, hidden": {"decay": 0.6, "reset": "to_value", "reset_gradient": False},
    "late": {"decay": 0.6, "delayed_reset": True, "reset_gradient": False},
    "none": {"decay": 0.5, "reset": "none"},
    "synapse": {"decay": 0.5, "synapse_decay": 0.4},
}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_potential_alone_is_that_of_the_replay_bit_for_bit(
    kind: str, dtype: torch.dtype
) -> None:
    spec = NeuronSpec(**SPECS[kind])
    generator = torch.Generator().manual_seed(3)
    current = 1.3 * torch.randn(6, 4, 9, generator=generator, dtype=dtype)
    start = torch.rand(4, 9, generator=generator, dtype=dtype)
    _, spikes = capture.membrane(spec, current, (current > 1).to(dtype), start)
    u, _ = capture.membrane(spec, current, spikes, start)
    assert torch.equal(capture.potential(spec, current, spikes, start), u)
    learned = NeuronSpec(**SPECS[kind] | {"decay": torch.tensor(spec.decay, dtype=dtype)})
    assert torch.equal(capture.potential(learned, current, spikes, start), u)


def inside(
    kind: str, shape: str = "arctan", size: float = 1.0, later: bool = True
) -> capture.LayerGradients:
    generator = torch.Generator().manual_seed(5)

    def draw(*lengths: int) -> torch.Tensor:
        values = size * torch.randn(*lengths, generator=generator)
        return values * (torch.rand(*lengths, generator=generator) > 0.2)

    u = torch.randn(4, 5, 300, generator=generator)
    behind = (draw(5, 300), draw(5, 300)) if later else None
    return capture.gradients(
        NeuronSpec(**SPECS[kind]),
        Surrogate(shape, peak=1.5, width=0.4),
        u,
        (u > 1).float(),
        draw(4, 5, 300),
        draw(4, 5, 300),
        behind,
    )


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("size", [1.0, 1e-20, 1e-33, 1e12])
@pytest.mark.parametrize("later", [True, False])
def test_gradients_of_each_route_agree(route: str, kind: str, size: float, later: bool) -> None:
    with Only("general"):
        want = accumulators.backward_block(inside(kind, size=size, later=later).whole)
    with Only(route):
        got = accumulators.backward_block(inside(kind, size=size, later=later))
    assert got.keys() == want.keys()
    for name, values in got.items():
        if COLUMNS[name].dtype != "float64":
            # Where u - kept - slope * total is 0 to rounding, the order of operations decides.
            assert torch.equal(values, want[name]), name
        else:
            assert values.numpy() == pytest.approx(want[name].numpy(), rel=1e-5), name


@pytest.mark.parametrize("shape", SHAPES)
def test_residuals_agree_for_every_surrogate(route: str, shape: str) -> None:
    with Only("general"):
        want = accumulators.backward_block(inside("hard", shape).whole)
    with Only(route):
        got = accumulators.backward_block(inside("hard", shape))
    assert got["residual_square"].numpy() == pytest.approx(want["residual_square"], rel=1e-5)
    other = accumulators.backward_block(inside("soft", shape))
    assert other["residual_square"].numpy() != pytest.approx(want["residual_square"], rel=1e-5)


def test_a_gradient_that_is_not_finite_is_counted_apart(route: str) -> None:
    gradients = inside("soft")
    gradients.like[2, 1, 7] = torch.nan
    with Only(route):
        block = accumulators.backward_block(gradients)
    assert block["grad_u_nonfinite"].tolist() == [0, 0, 1, 0]
    assert block["grad_s_total_nonfinite"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("kind", SPECS)
@given(cut=st.integers(1, 3), first=st.integers(0, 4), last=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_a_part_of_the_gradients_is_that_part_of_the_whole(
    kind: str, cut: int, first: int, last: int
) -> None:
    gradients = inside(kind)
    samples = slice(min(first, last - 1), last)
    for rows in (slice(0, cut), slice(cut, 4)):
        part = gradients.part(rows, samples)
        for one, whole in zip(part, gradients.whole, strict=True):
            assert torch.equal(one, whole[rows, samples])
