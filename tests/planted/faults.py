"""One fault in each training, and the findings of which one must come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF

from . import frameworks as fw
from .bench import BATCH, CLASSES, FEATURES, Looped, Net, Task, Training
from .healthy import lif


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Args:
        build: makes the training.
        codes: findings of which at least one must come.
        layer: layer that one of them must name; any if None.
        since: step from which the fault is there.
    """

    build: Callable[[], Training]
    codes: tuple[str, ...]
    layer: str | None = None
    since: int = 0


def _change(act: Callable[[Net], Any], **settings: Any) -> Callable[[], Training]:
    """Return a training of a network to which something was done first."""

    def build() -> Training:
        torch.manual_seed(0)
        kept = {name: settings.pop(name) for name in list(settings) if name in _NET}
        model = Net(**kept)
        settings.update(kept)
        with torch.no_grad():
            act(model)
        rest = {name: value for name, value in settings.items() if name not in _NET}
        return Training(model, **rest)

    return build


_NET = ("make", "depth", "width", "norm", "scale", "last")


def _plain(**settings: Any) -> Callable[[], Training]:
    return _change(lambda model: None, **settings)


def _threshold(model: Net) -> None:
    model.blocks[1].lif.threshold = 10.0


def _bias(shift: float) -> Callable[[Net], None]:
    def act(model: Net) -> None:
        model.blocks[1].norm.bias.fill_(shift)

    return act


def _scaled(factor: float) -> Callable[[Net], None]:
    def act(model: Net) -> None:
        for block in model.blocks:
            block.linear.weight.mul_(factor)

    return act


class Detached(Net):
    """Its second block hands on spikes without their history."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x)).detach()
        return self.readout(self.blocks[2](x)).mean(0)


class Branch(Net):
    """Its third block looks on, and nobody looks at it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x))
        self.blocks[2](x)
        return self.readout(x).mean(0)


class Misdeclared(LIF):
    """Says that its decay is 0.5, and decays by 0.8."""

    def forward(self, current: Tensor) -> Tensor:
        self.decay = 0.8
        out = super().forward(current)
        self.decay = 0.5
        return out


def _model(kind: type[nn.Module], **settings: Any) -> Callable[[], Training]:
    def build() -> Training:
        torch.manual_seed(0)
        return Training(kind(), **settings)

    return build


def _nan_at(step: int) -> Callable[[Training, int], None]:
    def before(training: Training, now: int) -> None:
        if now == step:
            with torch.no_grad():
                training.model.blocks[1].linear.weight[0, 0] = torch.nan

    return before


def _infinite(training: Training, step: int) -> None:
    """Make a gradient infinite for a while; the optimiser does not get it."""
    if step >= 60:
        weight = training.model.blocks[0].linear.weight
        weight.grad[0, 0] = torch.inf


class Skipping(torch.optim.Adam):
    """An optimiser that leaves out steps whose gradients are not finite."""

    def step(self, closure: Any = None) -> Any:
        finite = all(
            bool(torch.isfinite(p.grad).all())
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        )
        return super().step(closure) if finite else None


def _non_finite() -> Training:
    torch.manual_seed(0)
    model = Net()
    return Training(model, optimizer=Skipping(model.parameters(), lr=2e-3), after=_infinite)


def _eval_norms(training: Training, step: int) -> None:
    for block in training.model.blocks:
        block.norm.eval()


def _eval_all(training: Training, step: int) -> None:
    training.model.eval()


class Recurrent(nn.Module):
    """One layer that hears its own spikes of the timestep before, through strong weights."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.inside = nn.Linear(FEATURES, 48)
        self.back = nn.Linear(48, 48, bias=False)
        self.lif = LIF(step_mode="single", decay=0.9)
        self.readout = nn.Linear(48, CLASSES)
        with torch.no_grad():
            self.back.weight.mul_(strength)

    def forward(self, x: Tensor) -> Tensor:
        spikes = torch.zeros(x.shape[1], 48)
        for now in x:
            spikes = self.lif(self.inside(now) + self.back(spikes))
        return self.readout(spikes)


class Held(nn.Module):
    """Single-step layers whose state is cut from the graph between batches, and never reset."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Looped(partial(LIF, step_mode="single"), self.keep)

    @staticmethod
    def keep(model: nn.Module) -> None:
        for layer in model.lif:
            if getattr(layer, "kept", None) is not None:
                layer.v = layer.kept.detach()

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        for layer in self.model.lif:
            layer.kept = layer.v
        return out


def _walking(rate: float) -> Callable[[], Training]:
    """A learned threshold with a learning rate of its own, in a noisy task."""

    def build() -> Training:
        torch.manual_seed(0)
        model = Looped(fw.snntorch(beta=0.5, learn_threshold=True), fw.fresh_snntorch)
        names = [p for n, p in model.named_parameters() if "threshold" in n]
        rest = [p for n, p in model.named_parameters() if "threshold" not in n]
        optimizer = torch.optim.SGD([{"params": rest, "lr": 1e-3}, {"params": names, "lr": rate}])
        return Training(model, Task(noise=4.0), optimizer=optimizer, steps=160)

    return build


def _pushed() -> Training:
    """A penalty that only wants a small threshold."""
    torch.manual_seed(0)
    model = Looped(fw.snntorch(beta=0.5, learn_threshold=True), fw.fresh_snntorch)
    layers = [m for m in model.modules() if hasattr(m, "threshold")]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets) + sum(m.threshold for m in layers)

    return Training(model, loss=loss, rate=2e-2)


def _frozen_threshold() -> Training:
    torch.manual_seed(0)
    model = Looped(fw.snntorch(beta=0.5, learn_threshold=True), fw.fresh_snntorch)
    rest = [p for n, p in model.named_parameters() if "threshold" not in n]
    return Training(model, optimizer=torch.optim.Adam(rest, lr=2e-3))


def _half() -> Training:
    torch.manual_seed(0)
    model = Net(norm=False).half()
    return Training(
        model,
        Task(dtype=torch.float16),
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-2),
        loss=lambda logits, targets: 1e-3 * nn.functional.cross_entropy(logits, targets),
    )


def _bf16() -> Training:
    torch.manual_seed(0)
    model = Net(norm=False).bfloat16()
    return Training(
        model,
        Task(dtype=torch.bfloat16),
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
    )


def _forgotten() -> Training:
    torch.manual_seed(0)
    model = Net()
    kept = [p for name, p in model.named_parameters() if not name.startswith("blocks.1.linear")]
    return Training(model, optimizer=torch.optim.Adam(kept, lr=2e-3))


def _shared() -> Training:
    torch.manual_seed(0)
    surrogate = fw.load("spikingjelly.activation_based.surrogate").ATan()
    make = fw.spikingjelly(surrogate_function=surrogate)
    return Training(Net(lambda: fw.Stateful(make())))


def _overflowing() -> Training:
    torch.manual_seed(0)
    steep = fw.load("snntorch.surrogate").sigmoid(slope=25)
    return Training(Looped(fw.snntorch(beta=0.5, spike_grad=steep), fw.fresh_snntorch), rate=1e-5)


def _uphill(logits: Tensor, targets: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(logits, targets)
    return 2.0 * loss.detach() - loss  # reads as the loss, and points uphill


def _narrow(surrogate: Surrogate) -> Callable[[], Training]:
    return _plain(make=lif(surrogate=surrogate))


class Constant(Task):
    """A strong input, the same for all units and timesteps but for a little noise."""

    def batch(self) -> tuple[Tensor, Tensor]:
        inputs, targets = super().batch()
        return 1.0 + 0.02 * inputs, targets


def _driven(model: Net) -> None:
    for block in model.blocks[:1]:
        block.linear.weight.fill_(0.9 / FEATURES)
        block.linear.bias.fill_(0.0)


class Nothing(Task):
    """An input of zeros."""

    def batch(self) -> tuple[Tensor, Tensor]:
        inputs, targets = super().batch()
        return torch.zeros_like(inputs), targets


def _without_bias(model: Net) -> None:
    for block in model.blocks:
        block.linear.bias.fill_(0.0)


assert BATCH > 1

FAULTS: dict[str, Fault] = {
    "threshold x 10": Fault(_change(_threshold), ("R1", "M3", "G1"), "blocks.1.lif"),
    "threshold x 1000": Fault(
        _change(lambda m: setattr(m.blocks[2].lif, "threshold", 1e3)), ("R1",), "blocks.2.lif"
    ),
    "surrogate width / 50": Fault(
        _narrow(Surrogate("arctan", 1.0, 1.0 / (50 * torch.pi))), ("S10", "G1")
    ),
    "rectangle / 50": Fault(_narrow(Surrogate("rectangular", 1.0, 0.02)), ("S10", "G1")),
    "surrogate width x 30": Fault(_narrow(Surrogate("rectangular", 1.0 / 30, 30.0)), ("S11", "G4")),
    "arctan width x 30": Fault(
        _narrow(Surrogate("arctan", 1.0 / 30, 30.0 / torch.pi)), ("S11", "G4")
    ),
    "surrogate peak x 0.02": Fault(_narrow(Surrogate("arctan", 0.02, 1 / torch.pi)), ("G2", "G4")),
    "surrogate peak x 10": Fault(
        _plain(make=lif(surrogate=Surrogate("arctan", 10.0, 1 / torch.pi)), depth=5), ("G5",)
    ),
    "weights x 0.05": Fault(_change(_scaled(0.05), norm=False), ("R1", "M3", "G1")),
    "weights x 20": Fault(_change(_scaled(20.0), norm=False), ("G1", "R2", "G5")),
    "dead layer": Fault(_change(_bias(-6.0)), ("R1", "M3"), "blocks.1.lif"),
    "saturated layer": Fault(_change(_bias(6.0)), ("R2",), "blocks.1.lif"),
    "detached path": Fault(_model(Detached), ("G7",), "blocks.1.lif"),
    "loss does not reach a layer": Fault(_model(Branch), ("G7",), "blocks.2.lif"),
    "NaN at step 200": Fault(_plain(before=_nan_at(200), steps=240), ("T1", "G8", "P5"), None, 200),
    "gradient not finite from step 60": Fault(_non_finite, ("G8",), None, 60),
    "start potential -3": Fault(_plain(make=lif(start=-3.0, decay=0.8)), ("M1",)),
    "start potential 2": Fault(_plain(make=lif(start=3.0, decay=0.7)), ("M1",)),
    "learning rate x 100": Fault(_plain(rate=0.2), ("G12",)),
    "loss uphill": Fault(_plain(loss=_uphill), ("T7",)),
    "shared surrogate": Fault(_shared, ("S8",)),
    "Norse 1.1.0, alpha left out": Fault(
        lambda: (
            torch.manual_seed(0),
            Training(Net(lambda: fw.Norse("super"), norm=False, scale=2.0), Task(8), steps=40),
        )[1],
        ("S6",),
    ),
    "surrogate that overflows": Fault(_overflowing, ("S1",)),
    "T too short for the decay": Fault(
        _plain(make=lif(decay=0.97, gain=0.03), task=Task(4)), ("M6", "R1", "R3")
    ),
    "frozen input": Fault(_plain(task=Task(frozen=True)), ("M5",)),
    "input of zeros": Fault(
        _change(_without_bias, task=Nothing(), norm=False), ("R1",), "blocks.0.lif"
    ),
    "batch norm in eval": Fault(_plain(before=_eval_norms), ("T5",)),
    "model in eval": Fault(_plain(before=_eval_all), ("T6",)),
    "wrong declared decay": Fault(_plain(make=Misdeclared), ("P1",)),
    "state never reset": Fault(_model(Held), ("P4",)),
    "exploding over time": Fault(
        lambda: (torch.manual_seed(0), Training(Recurrent(30.0), Task(12), steps=60))[1],
        ("G6",),
        "lif",
    ),
    "vanishing over time": Fault(_plain(make=lif(decay=0.3), task=Task(8), last=True), ("G3",)),
    "threshold walks": Fault(_walking(20.0), ("G10", "T2")),
    "threshold runs away": Fault(_pushed, ("T2",)),
    "threshold not in the optimiser": Fault(_frozen_threshold, ("T3",)),
    "weights not in the optimiser": Fault(_forgotten, ("G12",), "blocks.1.lif"),
    "half precision underflow": Fault(_half, ("G9", "G7")),
    "bf16 weights, small steps": Fault(_bf16, ("G12",)),
    "nearly periodic": Fault(
        _change(_driven, task=Constant(10), norm=False), ("M4",), "blocks.0.lif"
    ),
    "input ramps over t": Fault(_plain(task=Task(8, ramp=6.0)), ("T4",)),
}
"""Name to fault; 40 of them."""
