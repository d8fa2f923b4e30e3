"""The kernels in Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/kernels_interpreted.py`.

The name keeps pytest from collecting it: the interpreter is chosen when Triton is first imported,
so that `test_kernels.py` runs these tests in a process of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accumulator_truth import backward_truth, check, forward_truth
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.data.schema import COLUMNS
from spikescope.probes import accumulators, capture, kernels, kernels_launch
from spikescope.probes.lif import LIF

# The interpreter computes with numpy, which warns where a device does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ARCTAN = Surrogate("arctan", peak=1.5, width=0.4)

SPECS: dict[str, dict[str, Any]] = {
    "soft": {"decay": 0.7},
    "soft, gain": {"decay": 0.7, "gain": 0.3, "threshold": 0.8, "reset_amount": 0.6},
    "soft, hidden": {"decay": 0.9, "reset_gradient": False, "fires_at_threshold": False},
    "hard": {"decay": 0.6, "reset": "to_value", "reset_value": 0.25},
    "hard, rest": {"decay": 0.6, "reset": "to_value", "rest": 0.1, "reset_gradient": False},
    "late": {"decay": 0.6, "delayed_reset": True, "reset_gradient": False},
    "none": {"decay": 0.5, "reset": "none"},
}
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})


class Only:
    """Takes one route alone."""

    def __init__(self, name: str) -> None:
        self.kept = tuple(route for route in accumulators.ROUTES if route.name == name)

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(accumulators, "ROUTES", self.kept)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


def data(
    shape: tuple[int, ...], spec: NeuronSpec, dtype: torch.dtype = torch.float32, scale: float = 1.3
) -> dict[str, Tensor]:
    """Return what a layer took and gave, two of a hundred spikes wrong."""
    generator = torch.Generator().manual_seed(sum(shape))
    current = (scale * torch.randn(shape, generator=generator)).to(dtype)
    start = torch.rand(shape[1:], generator=generator).to(dtype)
    spikes = torch.zeros_like(current)
    v = start
    for t, given in enumerate(current):  # the layer itself, in its own dtype
        _, spikes[t], v = step(spec, v, given)
    spikes.view(-1)[::50] = 1.0 - spikes.view(-1)[::50]
    return {"current": current, "spikes": spikes, "start": start}


def forward(
    name: str, spec: NeuronSpec, values: dict[str, Tensor], **more: Any
) -> tuple[Any, Tensor]:
    known: dict[str, Any] = {"scale": 1.0, "surrogate": ARCTAN, "fired_before": None, "t": 1}
    with Only(name):
        block, u, *_ = accumulators.forward_pass(
            spec, values["current"], values["spikes"], values["start"], **known | more
        )
    return block, u


def same(one: dict[str, Tensor], other: dict[str, Tensor], rel: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert (values.dtype, values.shape) == (other[name].dtype, other[name].shape), name
        if COLUMNS[name].dtype != "float64":
            assert torch.equal(values, other[name]), name
        else:
            floor = 0.0 if "square" in name or "grad" in name else 1e-7
            assert values.numpy() == pytest.approx(
                other[name].numpy(), rel=rel, abs=floor, nan_ok=True
            ), name


def truth_of(
    spec: NeuronSpec, values: dict[str, Tensor], u: Tensor, surrogate: Surrogate | None
) -> Any:
    """Return what two passes in float64 say of a potential."""
    wide = {name: value.float().numpy() for name, value in values.items()}
    return forward_truth(
        {
            "u": u.numpy(),
            "implied": (u >= spec.threshold).float().numpy(),
            "spikes": wide["spikes"],
            "current": wide["current"],
            "fired_before": np.zeros(u.shape[1:], np.float32),
            "threshold": spec.threshold,
            "scale": 1.0,
            "t": 1,
        },
        surrogate,
    )


# ---- forward


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


# ---- backward


def inside(
    kind: str,
    size: float = 1.0,
    later: bool = True,
    handed: str = "",
    shape: str = "arctan",
    known: bool = True,
) -> capture.LayerGradients:
    generator = torch.Generator().manual_seed(5)

    def draw(*lengths: int) -> Tensor:
        values = size * torch.randn(*lengths, generator=generator)
        return values * (torch.rand(*lengths, generator=generator) > 0.2)

    u = torch.randn(2, 3, 40, generator=generator)
    return capture.gradients(
        NeuronSpec(**SPECS[kind]),
        Surrogate(shape, peak=1.5, width=0.4) if known else None,
        u,
        (u > 1).float(),
        draw(2, 3, 40),
        draw(2, 3, 40),
        (draw(3, 40), draw(3, 40)) if later else None,
        draw(2, 3, 40) if handed else None,
        handed == "passed",
    )


def agree(gradients: capture.LayerGradients) -> dict[str, Tensor]:
    """Compare the kernel with the general route and with float64; return what it says."""
    with Only("kernel"):
        block = accumulators.backward_block(gradients)
    with Only("general"):
        same(block, accumulators.backward_block(gradients), rel=1e-5)
    s, s_total, u, residual = gradients.whole
    if residual is not None:
        whole = {"s": s, "s_total": s_total, "u": u}
        truth = backward_truth({name: v.numpy() for name, v in whole.items()} | {
            "residual": residual.numpy()
        })  # fmt: skip
        # The residual of a right declaration is rounding itself: the general route bounds it.
        check({name: v for name, v in block.items() if "residual" not in name}, truth)
    return block


@pytest.mark.parametrize("kind", SPECS)
def test_gradients_of_each_neuron(kind: str) -> None:
    block = agree(inside(kind))
    wrong = inside(kind)
    wrong.spec = NeuronSpec(**SPECS[kind] | {"decay": 0.3})
    with Only("general"):
        other = accumulators.backward_block(wrong)
    with pytest.raises(AssertionError, match=r"residual|grad_s_total"):
        same(block, other, rel=1e-5)


def test_gradients_of_the_last_timesteps() -> None:
    agree(inside("hard", later=False))


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e25])
def test_vanishing_and_exploding_gradients(size: float) -> None:
    block = agree(inside("soft", size=size))
    assert (block["grad_u_square"] > 0).all()
    with np.errstate(over="ignore", under="ignore"):
        naive = inside("soft", size=size).u.square().mean((1, 2))
    assert size > 1e-20 or (naive == 0).all()


@pytest.mark.parametrize("kind", ["soft", "late"])
@pytest.mark.parametrize("handed", ["own", "passed"])
def test_a_potential_that_the_layer_hands_out(kind: str, handed: str) -> None:
    agree(inside(kind, handed=handed))


@pytest.mark.parametrize("shape", ["q_pseudo_spike", "rectangular"])
def test_residuals_of_another_surrogate(shape: str) -> None:
    agree(inside("hard", shape=shape))


def test_without_a_surrogate_there_is_no_residual() -> None:
    assert "residual_square" not in agree(inside("hard", known=False))


def test_a_gradient_that_is_not_finite_is_counted_apart() -> None:
    gradients = inside("soft")
    gradients.like[1, 1, 7], gradients.grad_spikes[0, 0, 3] = torch.nan, torch.inf
    block = agree(gradients)
    assert block["grad_u_nonfinite"].tolist() == [0, 1]
    assert block["grad_s_nonfinite"].tolist() == [1, 0]
    assert block["grad_s_total_nonfinite"].tolist() == [2, 0]
    gradients = inside("soft")
    gradients.like[:, 0] = torch.nan
    assert agree(gradients)["grad_samples"].tolist() == [2, 2]


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_gradients_are_widened_where_they_are_read(kind: str, dtype: str) -> None:
    narrow, wide = inside(kind, handed="own"), inside(kind, handed="own")
    for name in ("like", "grad_spikes", "handed"):
        rounded = getattr(wide, name).to(NARROW[dtype])
        setattr(narrow, name, rounded)
        setattr(wide, name, rounded.float())
    assert kernels.handles_gradients(narrow)
    block = agree(narrow)
    with Only("kernel"):
        want = accumulators.backward_block(wide)
    assert all(torch.equal(block[name], want[name]) for name in want)
    assert narrow.at_first().dtype == torch.float32
    assert torch.equal(narrow.at_first(), wide.at_first())


# ---- the table of routes, and the recorder on this one


@pytest.mark.parametrize("route", [route.name for route in accumulators.ROUTES])
def test_every_route_says_the_same_of_a_pass_that_all_handle(route: str) -> None:
    spec = NeuronSpec(decay=0.7, reset="to_value")
    values = data((3, 3, 70), spec)
    block, u = forward(route, spec, values)
    check(block, truth_of(spec, values, u, ARCTAN))
    same(block, forward("general", spec, values)[0])
    with Only(route):
        one = accumulators.backward_block(inside("hard"))
    with Only("general"):
        same(one, accumulators.backward_block(inside("hard")), rel=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 40), nn.Linear(40, 30)
        self.low, self.high = LIF(decay=0.6), LIF(decay=0.8, gain=0.2, reset="to_value")
        self.readout = nn.Linear(30, 2)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(self.first(x) * 4)
        return self.readout(self.high(self.second(low) * 20))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_narrow_gradient_arrives_as_it_is(
    scaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    x = 2 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    dtypes, tables = [], []
    real = kernels.backward
    kernel = accumulators.ROUTES[0]
    watching = accumulators.Route(
        *("kernel", kernels.handles, kernels.forward, kernels.handles_gradients),
        lambda given: (dtypes.append((given.like.dtype, given.grad_spikes.dtype)), real(given))[1],
        replays=True,
    )
    for name, routes in (("kernel", (watching,)), ("torch", ())):
        assert kernel.name == "kernel"
        if name == "torch":
            monkeypatch.setattr(kernels, "DEVICES", set())
        monkeypatch.setattr(accumulators, "ROUTES", (*routes, accumulators.ROUTES[-1]))
        net = seeded(Net)
        with spikescope.watch(net, tmp_path / name, every=1, scaler=scaler) as probe:
            with torch.autocast("cpu", torch.bfloat16):
                loss = (net(x) ** 2).sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table())
    # A scaled one is widened first: the factor may take it out of a narrow range.
    assert dtypes == [(torch.float32 if scaled else torch.bfloat16,) * 2] * 2
    for column in ("grad_u_rms", "grad_s_rms", "grad_s_total_rms"):
        np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-5)
        assert (tables[0][column] > 0).all()


@pytest.mark.parametrize("collect", ["economy", "full"])
def test_a_training_is_recorded_alike(
    collect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 2 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    called = []
    real = kernels.forward
    routes = [
        accumulators.Route(
            "kernel",
            kernels.handles,
            lambda seen: (called.append(seen), real(seen))[1],
            kernels.handles_gradients,
            kernels.backward,
            replays=True,
        ),
        *accumulators.ROUTES[1:],
    ]
    tables = []
    for name, kept in (("kernel", routes), ("torch", routes[1:])):
        monkeypatch.setattr(accumulators, "ROUTES", tuple(kept))
        net = seeded(Net)
        with spikescope.watch(net, tmp_path / name, every=1, collect=collect) as probe:
            (net(x) ** 2).sum().backward()
            probe.step()
        tables.append(spikescope.open_run(tmp_path / name).table())
    kernel, plain = tables
    assert len(called) == 2
    assert all((seen.u is not None) == (collect == "full") for seen in called)
    assert kernel["spikes"].sum() > 0
    for column in kernel.columns:
        if column in COLUMNS and COLUMNS[column].dtype == "int64":
            assert kernel[column].tolist() == plain[column].tolist(), column
    for column in ("u_mean", "u_std", "coverage", "grad_u_rms", "grad_s_total_rms"):
        np.testing.assert_allclose(kernel[column], plain[column], rtol=1e-5, atol=1e-8)
