"""The kernels' route: who takes it, what happens where it fails, and that it compiles."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spikescope
from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.analysis.surrogate_shapes import SHAPES as TABLE
from spikescope.probes import accumulators, capture, kernels
from spikescope.probes.lif import LIF
from spikescope.probes.observed import Dynamics, Observed

HERE = Path(__file__).parent
ARCTAN = Surrogate("arctan", peak=1.5, width=0.4)
PARTS = ("forward", "backward", "recording")


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the route take tensors of a CPU; forget afterwards what failed there."""
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})
    monkeypatch.setattr(kernels._Given, "up", None)
    monkeypatch.setattr(kernels._Given, "told", False)


# ---- what the kernels say


def test_the_kernels_say_in_the_interpreter_what_the_definition_says() -> None:
    triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        pytest.skip("older interpreters do not go with numpy 2.4")
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
            *(str(HERE / f"interpreted_{part}.py") for part in PARTS),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50
    assert "skipped" not in done.stdout


# ---- who takes this route


def seen(**more: Any) -> Observed:
    shape = more.pop("shape", (2, 3, 4))
    dtype = more.pop("dtype", torch.float32)
    fields = {"decay": 0.5} | {k: more.pop(k) for k in list(more) if hasattr(NeuronSpec, k)}
    spec = NeuronSpec(**fields)
    values = torch.zeros(shape, dtype=dtype)
    start = torch.zeros(shape[1:], dtype=more.pop("start_dtype", dtype))
    known = {
        "u": None,
        "implied": None,
        "spikes": values,
        "current": values,
        "threshold": spec.threshold,
        "scale": 1.0,
        "surrogate": ARCTAN,
        "fired_before": None,
        "t": 1,
        "computed_in": dtype,
        "dynamics": Dynamics(spec, start),
    }
    return Observed(**known | more)


class Tagged(Tensor):
    pass


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16, "spikes": torch.zeros(2, 3, 4)},
        {"reset": "to_value", "reset_value": 0.2, "rest": 0.1},
        {"delayed_reset": True, "reset_amount": 0.5},
        {"surrogate": None},
        {"shape": (1, 1)},
        {"threshold": float("inf"), "reset": "none"},
    ],
)
def test_plain_passes_take_the_kernel(more: dict[str, Any], on_a_cpu: None) -> None:
    assert kernels.handles(seen(**more))


@pytest.mark.parametrize(
    "more",
    [
        {"dtype": torch.float64},
        {"start_dtype": torch.float64},
        {"dtype": torch.bfloat16, "rest": 0.1},
        {"decay": torch.tensor(0.5)},
        {"threshold": torch.ones(2, 1, 1)},
        {"gain": np.ones(4)},
        {"synapse_decay": 0.5},
        {"surrogate": Surrogate("arctan", peak=torch.tensor(1.0))},
        {"current": None},
        {"dynamics": None},
        {"shape": (2, 0, 4)},
        {"shape": (2,)},
        {"spikes": torch.zeros(2, 3, 4, dtype=torch.int64)},
        {"spikes": torch.zeros(2, 3, 4).as_subclass(Tagged)},
        {"decay": 1e-300, "delayed_reset": True, "gain": 1e300},
    ],
)
def test_all_else_takes_another_route(more: dict[str, Any], on_a_cpu: None) -> None:
    assert not kernels.handles(seen(**more))


def test_a_cpu_does_not_take_the_kernel() -> None:
    assert not kernels.handles(seen())


def test_a_surrogate_that_the_kernels_lack_takes_another_route(
    on_a_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(kernels.SHAPES) == set(SHAPES)
    monkeypatch.setitem(TABLE, "made up", TABLE["arctan"])
    assert not kernels.handles(seen(surrogate=Surrogate("made up")))


def gradients(spec: NeuronSpec, surrogate: Surrogate | None = ARCTAN, **more: Any) -> Any:
    values = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), **more)
    return capture.gradients(spec, surrogate, values, values.round(), values, -values)


def test_plain_gradients_take_the_kernel_and_others_do_not(on_a_cpu: None) -> None:
    spec = NeuronSpec(decay=0.5)
    assert kernels.handles_gradients(gradients(spec))
    assert kernels.handles_gradients(gradients(spec, None))
    assert not kernels.handles_gradients(gradients(spec).whole)
    assert not kernels.handles_gradients(gradients(spec, dtype=torch.float64))
    assert not kernels.handles_gradients(gradients(NeuronSpec(decay=torch.tensor(0.5))))
    assert not kernels.handles_gradients(gradients(NeuronSpec(synapse_decay=0.5)))


# ---- where it fails


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let the kernels' own modules fail as they are imported; return who asked."""
    asked: list[str] = []
    real = importlib.import_module

    def refuse(name: str, package: str | None = None) -> Any:
        if "kernels_" in name:
            asked.append(name)
            raise error
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    return asked


def test_a_kernel_that_fails_is_given_up_and_the_other_routes_go_on(
    on_a_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fails(monkeypatch, RuntimeError("ptxas was not found\nand more lines"))
    current = torch.rand(3, 4, 5)
    known: dict[str, Any] = {"scale": 1.0, "surrogate": ARCTAN, "fired_before": None, "t": 1}
    blocks = []
    for devices in ({"cpu"}, {"cpu"}, set()):
        monkeypatch.setattr(kernels, "DEVICES", devices)
        spec, start = NeuronSpec(decay=0.5), torch.zeros(4, 5)
        block, u, *_ = accumulators.forward_pass(spec, current, current.round(), start, **known)
        blocks.append(block)
        assert u is not None
    assert asked == [".kernels_launch"]  # it is not tried again
    assert all(torch.equal(blocks[0][name], blocks[2][name]) for name in blocks[2])
    note = accumulators.take_note()
    assert note is not None
    assert "RuntimeError: ptxas was not found" in note
    assert "more lines" not in note
    assert accumulators.take_note() is None


def test_the_backward_kernel_may_fail_alone(
    on_a_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fails(monkeypatch, ImportError("No module named 'triton'"))
    block = accumulators.backward_block(gradients(NeuronSpec(decay=0.5)))
    assert asked == [".kernels_launch"]
    assert block["grad_u_count"].tolist() == [12, 12]
    assert "No module named 'triton'" in str(accumulators.take_note())


def test_a_training_is_told_once_and_recorded(
    on_a_cpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fails(monkeypatch, RuntimeError("no compiler"))
    net = nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 6), LIF(reset="to_value"))
    with pytest.warns(spikescope.SpikescopeWarning, match="general route") as told:
        with spikescope.watch(net, tmp_path / "run", every=1) as probe:
            for _ in range(3):
                net(torch.randn(3, 5, 4)).sum().backward()
                probe.step()
    assert len(told) == 1
    table = spikescope.open_run(tmp_path / "run").table()
    assert len(table) == 3 * 2 * 3
    assert (table["grad_u_count"] > 0).all()


def test_without_triton_all_of_it_imports_and_a_cpu_never_asks_for_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, spikescope\n"
        "from spikescope.probes import accumulators, hooks, lif\n"
        "net = torch.nn.Sequential(torch.nn.Linear(4, 3), lif.LIF())\n"
        f"with spikescope.watch(net, {str(tmp_path / 'run')!r}, every=1) as probe:\n"
        "    net(torch.rand(2, 5, 4)).sum().backward(); probe.step()\n"
        "assert accumulators.take_note() is None\n"
        "print([name for name in sys.modules if name.startswith('spikescope.probes.kernels_')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# ---- that they compile, without a device


TYPES = {"sums": "*fp32", "counts": "*i32", "sums_out": "*fp64", "counts_out": "*i64"}
TYPES |= {"ranged": "*i32", "density": "*i32", "density_out": "*i64", "floats_out": "*fp64"}
WHOLE = "timesteps samples units chunks rows field field_out".split()
NUMBERS = (
    "decay gain leak threshold fires_from reset_value amount scale rounding peak width tail "
    "covered_above elapsed"
).split()
REPLAY = {"RESET": "subtract", "AT": True, "LEAKS": False, "NARROW": "", "SHAPE": "arctan"}
REPLAY |= {"HISTOGRAM": True, "FIRED": True, "KEEP": True, "BN": 1, "BM": 256}
BACK = {"RESET": "to_value", "THROUGH": True, "SHAPE": "sigmoid", "HANDED": True, "BN": 1}
BACK |= {"PASSED": False, "LATE": False, "AFTER": True, "BM": 256}
PROGRAMS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "replay": ("forward", "replay_kernel", "fp32", REPLAY),
    "replay in bfloat16": (
        "forward",
        "replay_kernel",
        "bf16",
        REPLAY | {"RESET": "to_value", "NARROW": "bfloat16", "SHAPE": "q_pseudo_spike"},
    ),
    "replay of few units": (
        "forward",
        "replay_kernel",
        "fp16",
        REPLAY | {"RESET": "none", "NARROW": "float16", "SHAPE": "unknown", "BN": 16, "BM": 16},
    ),
    "replay of a large layer": ("forward", "replay_kernel", "bf16", REPLAY | {"BM": 1024}),
    "gradients of a large layer": ("backward", "gradient_kernel", "bf16", BACK | {"BM": 1024}),
    "samples": ("merging", "sample_kernel", "", {"KNOWN": True, "RB": 2, "CB": 128}),
    "forward": ("merging", "forward_kernel", "", {"KNOWN": True, "HISTOGRAM": True, "SB": 64}),
    "gradients": ("backward", "gradient_kernel", "fp32", BACK),
    "gradient samples": ("merging", "gradient_sample_kernel", "", {"FIELDS": 4, "RB": 8, "CB": 1}),
    "backward": ("merging", "backward_kernel", "", {"FIELDS": 4, "SB": 64}),
}


def assembly(program: str, cache: Path, patch: pytest.MonkeyPatch, **options: Any) -> str:
    """Return the assembly of a program for a device that need not be there."""
    compiler = pytest.importorskip("triton.compiler", reason="the kernels are written in Triton")
    backend = importlib.import_module("triton.backends.compiler")
    patch.setenv("TRITON_CACHE_DIR", str(cache))
    side, name, dtype, constants = PROGRAMS[program]
    kernel = getattr(importlib.import_module(f"spikescope.probes.kernels_{side}"), name)
    types = dict.fromkeys(WHOLE, "i32") | dict.fromkeys(NUMBERS, "fp32") | TYPES
    if name in ("forward_kernel", "backward_kernel"):
        types |= {"sums": "*fp64", "counts": "*i64"}
    signature = {
        argument: "constexpr"
        if argument in constants
        else types.get(argument, "i32" if argument.endswith(("_t", "_n")) else f"*{dtype}")
        for argument in kernel.arg_names
    }
    source = compiler.ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, (name, kind) in enumerate(signature.items())
            if kind.startswith("*") or name.endswith(("_t", "_n")) or name == "units"
        },
    )
    done = compiler.compile(source, target=backend.GPUTarget("cuda", 80, 32), options=options)
    assert len(done.asm["cubin"]) > 1000
    return str(done.asm["ptx"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_kernel_compiles(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = PROGRAMS[program][3]
    warps = max(1, constants.get("BN", 1) * constants.get("BM", 1) // 256)
    text = assembly(program, tmp_path, monkeypatch, enable_fp_fusion=False, num_warps=warps)
    # The layer rounds each product and each sum, so the replay must not contract them.
    assert not re.search(r"\bfma\.rn\.f32", text)
    # Many devices are slow in double precision: what runs over all elements has none of it.
    if program in ("replay", "gradients"):
        assert ".f64" not in text
        assert "ld.global.v4" in text
        assert not re.search(r"ld\.global\.b(16|32)", text)


def test_contracted_arithmetic_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = assembly("replay", tmp_path, monkeypatch, enable_fp_fusion=True, num_warps=1)
    assert re.search(r"\bfma\.rn\.f32", text)
