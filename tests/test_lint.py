"""The lint flags the surrogates that were released broken, and stays silent on sound ones."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_truth import framework
from torch import Tensor, nn

from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.probes import lint as lint_module
from spikescope.probes.adapters import Adapter
from spikescope.probes.adapters.adapter_spikescope import SpikescopeAdapter
from spikescope.probes.lif import LIF
from spikescope.probes.lint import lint, lint_target


class Fake(LIF):
    """A layer with any derivative and any declaration."""

    def __init__(
        self, slope: Callable[[Tensor], Tensor] | None, declared: Surrogate | None = None
    ) -> None:
        super().__init__()
        self.slope, self.told = slope, declared


class Spike(torch.autograd.Function):
    """A step whose derivative is given."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(z)
        ctx.slope = slope
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.slope(ctx.saved_tensors[0]), None


class FakeAdapter(SpikescopeAdapter):
    """Reads :class:`Fake`; replay is refused, as it is for recurrent layers."""

    def handles(self, module: nn.Module) -> bool:
        return isinstance(module, Fake)

    def describe(self, name: str, module: nn.Module) -> Any:
        raise ValueError("no closed form")

    def spike_function(self, module: Any) -> Callable[[Tensor], Tensor] | None:
        slope = module.slope
        return None if slope is None else lambda z: Spike.apply(z, slope)

    def declared(self, module: Any) -> Surrogate | None:
        return module.told


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    known: tuple[Adapter, ...] = (FakeAdapter(), *lint_module.ADAPTERS)
    monkeypatch.setattr(lint_module, "ADAPTERS", known)


def codes(*layers: nn.Module) -> list[str]:
    return [finding.code for finding in lint(nn.Sequential(*layers))]


def arctan(z: Tensor) -> Tensor:
    return 1 / (1 + (math.pi * z) ** 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [0.01, 0.3, 1.5])
def test_a_sound_surrogate_says_nothing(shape: str, width: float) -> None:
    told = Surrogate(shape, 0.7, width)
    assert codes(Fake(lambda z: told.derivative(z, xp=torch), told)) == []
    assert codes(Fake(lambda z: told.derivative(z, xp=torch))) == []


def test_one_wider_than_the_grid_is_sound_if_it_is_declared() -> None:
    told = Surrogate("arctan", 1.0, 30.0)
    assert codes(Fake(lambda z: told.derivative(z, xp=torch), told)) == []
    assert codes(Fake(lambda z: told.derivative(z, xp=torch))) == ["S7"]


@pytest.mark.parametrize(
    ("code", "slope", "measured"),
    [
        ("S1", lambda z: torch.where(z < -4.9, math.nan, arctan(z)), None),
        ("S1", lambda z: torch.where(z > 4.9, math.inf, arctan(z)), None),
        ("S1", lambda z: (-25 * z).exp() / (1 + (-25 * z).exp()) ** 2, None),
        ("S2", lambda z: 0 * z, 0.0),
        ("S2", lambda z: (z > 1).to(z.dtype) / (1 + z.abs()), 0.0),
        ("S3", lambda z: torch.where(z >= 0, -1.0, 1.0), -1.0),
        ("S3", lambda z: arctan(z) - 0.01 * (z > 4), None),
        ("S4", lambda z: arctan(z - 1), 1.0),
        ("S4", lambda z: (z.abs() < 0.5).to(z.dtype).roll(40), None),
        ("S5", lambda z: arctan(z) * (z != 0), 0.0),
        ("S7", lambda z: (1 + (z / 0.5) ** 2) ** -1.5, None),
        ("S7", lambda z: torch.ones_like(z), 0.0),
    ],
)
def test_each_defect_has_its_code(code: str, slope: Any, measured: float | None) -> None:
    (finding,) = lint(nn.Sequential(Fake(slope)))
    assert (finding.code, finding.layer) == (code, "0")
    assert finding.severity == lint_module.SEVERITY[code]
    assert measured is None or finding.measured == pytest.approx(measured, abs=1e-3)
    assert finding.text.endswith(".")
    json.loads(json.dumps(finding.to_dict(), allow_nan=False))  # no NaN among the figures


def test_a_spike_without_gradient_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes(Fake(arctan)) == []
    bare = lambda z: (z >= 0).to(z.dtype)  # noqa: E731
    monkeypatch.setattr(FakeAdapter, "spike_function", lambda self, module: bare)
    assert codes(Fake(arctan)) == ["S2"]


@pytest.mark.parametrize(
    ("peak", "width", "flagged"),
    [(1.0, 0.3, False), (1.005, 0.3, False), (1.0, 0.33, True), (1.05, 0.3, True)],
)
def test_another_peak_or_width_than_declared(peak: float, width: float, flagged: bool) -> None:
    real = Surrogate("triangular", 1.0, 0.3)
    layer = Fake(lambda z: real.derivative(z, xp=torch), Surrogate("triangular", peak, width))
    found = lint(nn.Sequential(layer))
    assert [finding.code for finding in found] == (["S6"] if flagged else [])
    if flagged:
        assert f"declares triangular of peak {peak:.4g} and width {width:.4g}" in found[0].text
        assert "its derivative is triangular of peak 1 and width 0.3" in found[0].text


def test_a_jump_may_fall_on_either_side_of_a_sample() -> None:
    told = Surrogate("rectangular", 1.0, 1.0)
    assert codes(Fake(lambda z: (z.abs() < 0.5).to(z.dtype), told)) == []
    assert codes(Fake(lambda z: (z.abs() <= 0.5).to(z.dtype), told)) == []
    assert codes(Fake(lambda z: (z.abs() <= 0.52).to(z.dtype), told)) == ["S6"]


def test_a_spike_function_that_fails_is_said_in_one_line() -> None:
    def broken(z: Tensor) -> Tensor:
        raise RuntimeError("first\nsecond")

    (finding,) = lint(nn.Sequential(Fake(broken)))
    assert finding.code == "S9"
    assert "RuntimeError: first second" in finding.text


def test_a_layer_that_names_no_spike_function_is_left_out() -> None:
    assert codes(Fake(None)) == []


def test_severe_findings_come_first() -> None:
    layers = [
        Fake(lambda z: torch.ones_like(z)),
        Fake(lambda z: arctan(z - 1)),
        Fake(torch.zeros_like),
    ]
    assert codes(*layers) == ["S2", "S4", "S7"]


def test_model_and_random_state_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Fake(lambda z: arctan(z) * (1 + 0 * torch.rand_like(z))))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        assert lint(model) == []
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_our_own_layers_are_sound() -> None:
    assert codes(LIF(), nn.Linear(2, 2), LIF(surrogate=Surrogate("triangular", 1.0, 0.5))) == []


# The frameworks.


def test_norse_super_spike_of_the_release_ignores_alpha() -> None:
    norse = framework("norse.torch")
    from norse.torch.functional.lif import LIFParameters

    def layer(kind: str = "LIF", **p: Any) -> nn.Module:
        size = (3, 3) if "Recurrent" in kind else ()
        return getattr(norse, kind)(*size, p=LIFParameters(**p))

    for kind in ("LIF", "LIFCell", "LIFRecurrent"):
        (finding,) = lint(nn.Sequential(layer(kind)))
        assert finding.code == "S6"
        assert "width 0.01, but its derivative is fast_sigmoid of peak 1 and width 1." in (
            finding.text
        )
    assert codes(layer(alpha=torch.tensor(1.0))) == []  # then it does what it says
    for method in ("triangle", "tanh", "heavi_erfc"):
        assert codes(layer(method=method), layer("LIFRecurrent", method=method)) == []
    assert codes(layer(method="heaviside")) == ["S2"]


def test_sinabs_surrogates() -> None:
    sinabs = framework("sinabs.layers")
    from sinabs import activation as sa

    def layer(function: Any, **more: Any) -> nn.Module:
        return sinabs.LIF(tau_mem=2.0, surrogate_grad_fn=function, **more)

    # Defaults share one object, which is no module and is measured as it is declared.
    assert codes(sinabs.LIF(tau_mem=2.0), sinabs.IAF(spike_fn=sa.SingleSpike)) == []
    for threshold in (0.1, 1.0, 20.0):
        for function in (sa.SingleExponential(grad_width=0.3), sa.Gaussian(sigma=0.8)):
            assert codes(layer(function, spike_threshold=threshold)) == []
    assert codes(layer(sa.Gaussian(mu=1.0))) == ["S4"]
    assert codes(layer(sa.MultiGaussian())) == ["S3"]
    assert codes(layer(sa.Heaviside())) == ["S7"]


def test_snntorch_surrogates_of_the_release() -> None:
    snn = framework("snntorch")
    from snntorch import surrogate as sg

    def found(function: Any) -> Any:
        return lint(nn.Sequential(snn.Leaky(beta=0.9, spike_grad=function)))

    one = sg.fast_sigmoid(slope=10)
    assert codes(snn.Leaky(beta=0.9), snn.Leaky(beta=0.9, spike_grad=sg.atan())) == []
    assert codes(*(snn.Leaky(beta=0.9, spike_grad=one) for _ in range(2))) == []
    (nan,) = found(sg.sigmoid(slope=25))
    assert nan.code == "S1"
    assert "from u - threshold = -5 to -3.4" in nan.text
    assert [f.code for f in found(sg.sigmoid(slope=5))] == []  # overflows beyond the grid
    (sign,) = found(sg.triangular())
    assert (sign.code, sign.measured) == ("S3", -1.0)
    (centre,) = found(sg.spike_rate_escape())
    assert (centre.code, centre.measured) == ("S4", pytest.approx(1.0, abs=1e-3))
    assert [f.code for f in found(sg.SFS())] == ["S2"]
    assert [f.code for f in found(sg.LSO())] == ["S9"]


def test_spikingjelly_layers_that_share_one_surrogate_object() -> None:
    neuron = framework("spikingjelly.activation_based.neuron")
    surrogate = framework("spikingjelly.activation_based.surrogate")
    own = [neuron.LIFNode(surrogate_function=surrogate.ATan()) for _ in range(2)]
    assert codes(*own) == []
    assert codes(neuron.IFNode(surrogate_function=surrogate.Sigmoid(alpha=2.0))) == []
    one = surrogate.ATan()
    model = nn.Sequential(
        neuron.LIFNode(surrogate_function=one), nn.Linear(2, 2), *own,
        neuron.IFNode(surrogate_function=one),
    )  # fmt: skip
    (finding,) = lint(model)
    assert (finding.code, finding.measured) == ("S8", 2.0)
    assert finding.text.startswith("0, 4 hold the same ATan object.")
    # The default is one object for all layers of a class.
    assert codes(neuron.LIFNode(), neuron.LIFNode()) == ["S8"]
    assert codes(neuron.LIFNode(surrogate_function=surrogate.SquarewaveFourierSeries())) == ["S3"]


# The command's body.


def test_a_target_is_built_and_linted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lint_me.py").write_text(
        "from torch import nn\n"
        "from spikescope.probes.lif import LIF\n"
        "class Holder:\n"
        "    @staticmethod\n"
        "    def build():\n"
        "        return nn.Sequential(nn.Linear(2, 2), LIF())\n"
        "def empty():\n    return nn.Linear(2, 2)\n"
        "def number():\n    return 3\n"
        "def raises():\n    raise RuntimeError('no\\ndata')\n"
        "def wants(size):\n    return nn.Linear(size, size)\n"
        "constant = 3\n"
    )
    (tmp_path / "lint_broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "lint_exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "lint_wrong.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert lint_target("lint_me:Holder.build") == []
    for target, reason in {
        "lint_me": "'lint_me' is not MODULE:CALLABLE, such as my_package.models:build",
        ":build": "':build' is not MODULE:CALLABLE",
        "no_such_module:build": f"no module 'no_such_module' in {tmp_path}",
        "lint_me.inner:build": "no module 'lint_me.inner'",
        "lint_me:missing": "module 'lint_me' has no 'missing'",
        "lint_me:constant": "'lint_me:constant' is of type int: name what builds the model",
        "lint_me:number": "'lint_me:number' returned int, not a torch.nn.Module",
        "lint_me:raises": "'lint_me:raises' raised RuntimeError: no data",
        "lint_me:wants": "'lint_me:wants' raised TypeError",
        "lint_me:empty": "'lint_me:empty' returned Linear without a spiking layer",
        "lint_broken:build": "'lint_broken' cannot be imported: ModuleNotFoundError: No module "
        "named 'no_such_package_at_all'",
        "lint_exits:build": "'lint_exits' cannot be imported: SystemExit: 3",
        "lint_wrong:f": "'lint_wrong' cannot be imported: SyntaxError",
    }.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            lint_target(target)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
