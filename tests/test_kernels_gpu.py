"""The kernels on a CUDA device: the same numbers, no waiting, graphs and streams."""

from __future__ import annotations

from collections.abc import Iterator
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
from spikescope.probes import accumulators, capture, kernels
from spikescope.probes.lif import LIF

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ARCTAN = Surrogate("arctan", peak=1.5, width=0.4)
SPECS: dict[str, dict[str, Any]] = {
    "soft": {"decay": 0.7},
    "soft, gain": {"decay": 0.7, "gain": 0.3, "threshold": 0.8, "reset_amount": 0.6},
    "hard": {"decay": 0.6, "reset": "to_value", "reset_value": 0.25},
    "late": {"decay": 0.6, "delayed_reset": True, "reset_gradient": False},
    "none": {"decay": 0.5, "reset": "none"},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGE = (4, 8, 3, 50, 51)  # 30 chunks of each sample, the last one not full


@pytest.fixture(autouse=True)
def the_kernels_are_not_given_up() -> Iterator[None]:
    yield
    assert kernels._Given.up is None


def data(
    shape: tuple[int, ...], spec: NeuronSpec, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Return what a layer on the device took and gave, two of a hundred spikes wrong."""
    generator = torch.Generator().manual_seed(seed)
    current = (1.3 * torch.randn(shape, generator=generator)).to(DEVICE, dtype)
    start = torch.rand(shape[1:], generator=generator).to(DEVICE, dtype)
    spikes, v = torch.zeros_like(current), start
    for t, given in enumerate(current):
        _, spikes[t], v = step(spec, v, given)
    spikes.view(-1)[::50] = 1.0 - spikes.view(-1)[::50]
    return {"current": current, "spikes": spikes, "start": start}


def forward(
    name: str, spec: NeuronSpec, values: dict[str, Tensor], **more: Any
) -> tuple[Any, Tensor]:
    known: dict[str, Any] = {"scale": 1.0, "surrogate": ARCTAN, "fired_before": None, "t": 1}
    with pytest.MonkeyPatch.context() as patch:
        kept = [route for route in accumulators.ROUTES if route.name == name]
        patch.setattr(accumulators, "ROUTES", tuple(kept))
        block, u, *_ = accumulators.forward_pass(
            spec, values["current"], values["spikes"], values["start"], **known | more
        )
    assert u is not None
    return block, u.float()  # it is kept in the layer's own dtype


def backward(name: str, gradients: capture.LayerGradients) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        kept = [route for route in accumulators.ROUTES if route.name == name]
        patch.setattr(accumulators, "ROUTES", tuple(kept))
        return accumulators.backward_block(gradients)


def on_host(block: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.cpu() for name, values in block.items()}


def truth_of(spec: NeuronSpec, values: dict[str, Tensor], u: Tensor, surrogate: Surrogate) -> Any:
    wide = {name: value.float().cpu().numpy() for name, value in values.items()}
    return forward_truth(
        {
            "u": u.cpu().numpy(),
            "implied": (u >= spec.threshold).float().cpu().numpy(),
            "spikes": wide["spikes"],
            "current": wide["current"],
            "fired_before": np.zeros(u.shape[1:], np.float32),
            "threshold": spec.threshold,
            "scale": 1.0,
            "t": 1,
        },
        surrogate,
    )


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_says_what_the_general_route_says(kind: str, dtype: str) -> None:
    spec = NeuronSpec(**SPECS[kind])
    values = data(LARGE, spec, DTYPES[dtype])
    block, u = forward("kernel", spec, values)
    want, truth = forward("general", spec, values)
    assert torch.equal(u, truth)  # bit for bit: each product and each sum is rounded
    for name, entry in want.items():
        assert (block[name].dtype, block[name].shape) == (entry.dtype, entry.shape), name
        # Where the surrogate crosses a hundredth of its peak is a matter of its rounding.
        if COLUMNS[name].dtype != "float64" and name not in ("covered", "open"):
            assert torch.equal(block[name], entry), name
        else:
            assert block[name].cpu().numpy() == pytest.approx(
                entry.cpu().numpy(), rel=1e-5, abs=1e-7
            ), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_says_what_two_passes_in_double_say(shape: str) -> None:
    spec, surrogate = NeuronSpec(decay=0.7), Surrogate(shape, peak=2.0, width=0.3, tail=1.5)
    values = data((2, 3, 700), spec)
    values["current"][1, 0, :3] = torch.tensor([torch.nan, torch.inf, 1e30])
    block, u = forward("kernel", spec, values, surrogate=surrogate)
    check(on_host(block), truth_of(spec, values, u, surrogate))
    wider = Surrogate(shape, peak=2.0, width=0.45, tail=1.5)
    other, _ = forward("kernel", spec, values, surrogate=wider)
    with pytest.raises(AssertionError, match=r"surrogate|covered|open"):
        check(on_host(other), truth_of(spec, values, u, surrogate))


def test_a_wrong_decay_is_noticed() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data((4, 8, 700), spec)
    block, _ = forward("kernel", spec, values)
    wrong, _ = forward("kernel", NeuronSpec(decay=0.75), values)
    assert (wrong["mismatch"][1:] > block["mismatch"][1:]).all()


def inside(kind: str, size: float = 1.0, handed: bool = False) -> capture.LayerGradients:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        values = size * torch.randn(*shape, generator=generator)
        return (values * (torch.rand(*shape, generator=generator) > 0.2)).to(DEVICE)

    u = torch.randn(LARGE, generator=generator).to(DEVICE)
    return capture.gradients(
        NeuronSpec(**SPECS[kind]),
        ARCTAN,
        u,
        (u > 1).float(),
        draw(*LARGE),
        draw(*LARGE),
        (draw(*LARGE[1:]), draw(*LARGE[1:])),
        draw(*LARGE) if handed else None,
    )


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e25])
def test_gradients(kind: str, size: float) -> None:
    gradients = inside(kind, size, handed=size == 1.0)
    block, want = backward("kernel", gradients), backward("general", gradients)
    assert block.keys() == want.keys()
    for name, entry in want.items():
        assert block[name].cpu().numpy() == pytest.approx(entry.cpu().numpy(), rel=1e-5), name
    s, s_total, u, _ = gradients.whole
    whole = {"s": s, "s_total": s_total, "u": u, "residual": u}
    truth = backward_truth({name: values.cpu().numpy() for name, values in whole.items()})
    check({k: v for k, v in on_host(block).items() if "residual" not in k}, truth)


# ---- no waiting


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 500), nn.Linear(500, 300)
        self.low, self.high = LIF(decay=0.6), LIF(decay=0.8, reset="to_value")
        self.readout = nn.Linear(300, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.high(self.second(self.low(self.first(x) * 4)) * 20))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_recorded_step_never_waits_for_the_device(autocast: bool, tmp_path: Path) -> None:
    net, x = seeded(Net).to(DEVICE), torch.randn(4, 16, 64, device=DEVICE)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        for number in range(3):
            torch.cuda.set_sync_debug_mode("error" if number else "default")
            try:
                with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
                    loss = (net(x) ** 2).sum()
                loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert len(table) == 3 * 2 * 4
    assert table["spikes"].sum() > 0
    assert table["mismatch"].sum() == 0


def test_waiting_would_be_noticed() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(3, device=DEVICE).sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_same_data_give_the_same_bits_on_any_stream() -> None:
    spec = NeuronSpec(decay=0.7)
    values = data(LARGE, spec)
    one, _ = forward("kernel", spec, values)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other, _ = forward("kernel", spec, values)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_both_passes_are_captured_in_a_graph() -> None:
    spec = NeuronSpec(decay=0.7)
    held, fresh = data(LARGE, spec), data(LARGE, spec, seed=1)
    gradients = inside("soft")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, which a graph cannot hold
        forward("kernel", spec, held)
        backward("kernel", gradients)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block, u = forward("kernel", spec, held)
        back = backward("kernel", gradients)
    want, truth = forward("kernel", spec, fresh)
    for name, entry in fresh.items():
        held[name].copy_(entry)
    graph.replay()
    assert torch.equal(u, truth)
    assert all(torch.equal(block[name], want[name]) for name in want)
    again = backward("kernel", gradients)
    assert all(torch.equal(back[name], again[name]) for name in again)


def test_memory_is_what_is_said() -> None:
    """Kept: u in float32. Meanwhile: 68 bytes per tile, 129 KiB per timestep, sums by sample."""
    spec = NeuronSpec(decay=0.7)
    values = data((8, 64, 64, 32, 32), spec)
    elements, timesteps, samples = values["current"].numel(), 8, 64
    forward("kernel", spec, values)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    block, u = forward("kernel", spec, values)
    peak = torch.cuda.max_memory_allocated() - before
    said = 4 * elements + 68 * elements // 256 + timesteps * (130 << 10)
    assert peak <= said + timesteps * samples * 16 * 8 + (64 << 10)
    assert torch.cuda.memory_allocated() - before <= 4 * elements + (128 << 10)
    assert len(block) > 20
    assert u.shape == values["current"].shape
