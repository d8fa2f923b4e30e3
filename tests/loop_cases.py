"""One table over all remedies in the loop: settings, a small network, and a training of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF, reset_state
from spikescope.probes.remedies import LoopRemedy, attach_remedy, weights

# A pure function that takes most of a second: the many tests of one network solve it once.
weights.offset_for_rate = functools.cache(weights.offset_for_rate)

TIMESTEPS, SAMPLES = 4, 6
# Two layers of different constants, so that mixing them up is seen.
NEURONS: dict[str, dict[str, Any]] = {
    "low": {"decay": 0.5, "gain": 0.5, "threshold": 0.4, "reset": "subtract"},
    "high": {"decay": 0.75, "gain": 1.0, "threshold": 0.8, "reset": "to_value"},
}
RECTANGLE = Surrogate("rectangular", peak=1.0, width=1.0)


class Net(nn.Module):
    """Two spiking layers, with or without batch norm before each."""

    def __init__(self, norm: bool, step_mode: str = "multi") -> None:
        super().__init__()
        self.first = nn.Linear(5, 9)
        self.norm1 = nn.BatchNorm1d(9) if norm else None
        self.low = LIF(surrogate=RECTANGLE, step_mode=step_mode, **NEURONS["low"])
        self.second = nn.Linear(9, 7)
        self.norm2 = nn.BatchNorm1d(7) if norm else None
        self.high = LIF(surrogate=RECTANGLE, step_mode=step_mode, **NEURONS["high"])
        self.readout = nn.Linear(7, 3)
        with torch.no_grad():
            self.first.weight.mul_(2.0)
            self.second.weight.mul_(4.0)  # so that the upper layer fires, too
            for index, one in enumerate((self.norm1, self.norm2)):
                if one is not None:
                    count = one.num_features
                    one.weight.copy_(torch.linspace(0.4, 1.5 + 0.5 * index, count))
                    one.bias.copy_(torch.linspace(-0.2, 0.6, count))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 3]`` for ``[T, N, 5]``, the mean over timesteps."""
        x = self._current(x, self.first, self.norm1)
        x = self._current(self._spikes(self.low, x), self.second, self.norm2)
        return self.readout(self._spikes(self.high, x)).mean(0)

    def _current(self, x: Tensor, linear: nn.Module, norm: nn.Module | None) -> Tensor:
        x = linear(x)
        return x if norm is None else norm(x.flatten(0, 1)).view_as(x)

    def _spikes(self, layer: LIF, current: Tensor) -> Tensor:
        if layer.step_mode == "multi":
            return layer(current)
        layer.reset()
        return torch.stack([layer(now) for now in current])


@dataclass(frozen=True)
class Case:
    """Settings of one remedy, what it needs, and the tensors of the model that it moves."""

    settings: dict[str, Any] = field(default_factory=dict)
    norm: bool = False
    state: tuple[str, ...] = ()
    name: str = ""


_RUNNING = ("low.rule.running", "high.rule.running")
_LEARNED = tuple(f"{one}.rule.raw_{two}" for one in ("low", "high") for two in ("threshold", "tau"))

CASES: dict[str, Case] = {
    "mp_init": Case(state=("low.start", "high.start")),
    "mp_init_all": Case(state=("low.start", "high.start")),
    "as_sg": Case(state=_LEARNED),
    "rs_sg": Case(state=_LEARNED),
    "trsg": Case(state=_LEARNED),
    "agl": Case(norm=True, state=("norm1.weight", "norm2.running_var")),
    "agl_rms": Case(norm=True, state=("norm1.weight",)),
    "agl_true_std": Case(norm=True, state=("norm1.weight",)),
    "atgo": Case({"timesteps": TIMESTEPS}, state=_RUNNING),
    "atgo_paper": Case({"timesteps": TIMESTEPS}, state=_RUNNING),
    "atgo_threshold": Case({"timesteps": TIMESTEPS}, state=_RUNNING),
    "atgo_width": Case(state=("first.weight",)),
    "sparsity": Case(
        {"final_rate": 0.05, "epochs": 4, "steps_per_epoch": 1, "schedule": "exponential"},
        state=("first.weight",),
    ),
    "count_bound": Case({"bound": 1.0, "strength": 0.5}, state=("first.weight",)),
    "fluctuation_init": Case({"rate": 0.2, "xi": 1.5}, state=("first.weight",)),
    "stability_init": Case({"target_rate": 0.3, "input_rate": 0.4}, state=("first.bias",)),
}


def build(name: str, seed: int = 0, *, double: bool = True, step_mode: str = "multi") -> Net:
    """Return the network of a case."""
    torch.manual_seed(seed)
    net = Net(CASES[name].norm, step_mode)
    return net.double() if double else net


def one_layer(**neuron: Any) -> tuple[nn.Sequential, LIF]:
    """Return one LIF layer in float64, alone in a model."""
    layer = LIF(**neuron)
    return nn.Sequential(layer).double(), layer


def attach(name: str, net: nn.Module, **more: Any) -> LoopRemedy:
    """Attach the remedy of a case."""
    return attach_remedy(name, net, **(CASES[name].settings | more))


def batches(count: int, *, samples: int = SAMPLES, double: bool = True, seed: int = 1) -> Tensor:
    """Return ``[count, T, samples, 5]`` inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(count, TIMESTEPS, samples, 5, generator=generator, dtype=torch.float64)
    return x if double else x.float()


def loss_of(logits: Tensor) -> Tensor:
    """Return a loss that is a mean over samples."""
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=logits.dtype)
    return ((logits - 0.3) ** 2 * weights.abs()).sum(1).mean() + (logits @ weights).mean()


def optimiser(net: nn.Module) -> torch.optim.Optimizer:
    """Return one with a state of its own."""
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def train(
    net: nn.Module,
    remedy: LoopRemedy | None,
    inputs: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    after: Callable[[int, Tensor], None] | None = None,
) -> list[float]:
    """Train one step per batch; return the losses, penalties included."""
    losses = []
    for step, x in enumerate(inputs):
        optimizer.zero_grad()
        loss = loss_of((forward or net)(x))
        if remedy is not None and (penalty := remedy.penalty()) is not None:
            loss = loss + penalty
        loss.backward()
        optimizer.step()
        if remedy is not None:
            remedy.after_step()
        losses.append(loss.item())
        if after is not None:
            after(step, loss)
    return losses


def evaluate(net: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs in evaluation mode; the mode is put back."""
    was = net.training
    net.eval()
    with torch.no_grad():
        reset_state(net)
        out = net(x)
    net.train(was)
    return out


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names whose tensors are not bit for bit the same."""
    names = sorted(set(one) | set(other))
    return [
        name
        for name in names
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    ]


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state_dict that training leaves alone."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}
