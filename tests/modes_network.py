"""A small spiking network, and what happens inside it by plain torch, however it is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from reference_network import WIDTH, PlainStep, stack_grads
from torch import Tensor, nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF, reset_state

LAYERS = ("low", "high")
TIMESTEPS = 4
DECAY = 0.5


class Net(nn.Module):
    """Dropout, then two spiking layers between three linear ones."""

    def __init__(self, step_mode: Any = "multi") -> None:
        super().__init__()
        surrogate = Surrogate("arctan", peak=1.0, width=WIDTH)
        self.dropout = nn.Dropout(0.2)
        self.first = nn.Linear(6, 9)
        self.low = LIF(DECAY, surrogate=surrogate, step_mode=step_mode)
        self.second = nn.Linear(9, 8)
        self.high = LIF(DECAY, surrogate=surrogate, step_mode=step_mode)
        self.readout = nn.Linear(8, 3)
        with torch.no_grad():
            self.second.weight.mul_(4.0)  # so that the upper layer fires, too

    def forward(self, x: Tensor) -> Tensor:
        """Take a sequence ``[T, N, 6]``; in single-step mode from a fresh state."""
        if self.low.step_mode == "multi":
            return self.advance(x)
        reset_state(self)
        return torch.stack([self.advance(now) for now in x])

    def advance(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        return self.readout(self.high(self.second(self.low(self.first(x)))))


class Inside:
    """u, s and the copy of s handed downstream, of each layer and timestep, with gradients."""

    def __init__(self) -> None:
        self.tensors: dict[str, tuple[list[Tensor], ...]] = {name: ([], [], []) for name in LAYERS}
        self.v: dict[str, Tensor] = {}

    def run(self, net: Net, x: Tensor) -> Tensor:
        """Go through ``[T, N, 6]`` timestep by timestep, on from the state that is there."""
        x = net.dropout(x)
        for name, linear in zip(LAYERS, (net.first, net.second), strict=True):
            out = []
            for now in linear(x):
                u = DECAY * self.v.get(name, torch.zeros_like(now)) + now
                s = PlainStep.apply(u - 1.0, WIDTH)
                emitted = s.view_as(s)
                self.v[name] = u - s
                for tensor, kept in zip((u, s, emitted), self.tensors[name], strict=True):
                    if tensor.requires_grad:
                        tensor.retain_grad()
                    kept.append(tensor)
                out.append(emitted)
            x = torch.stack(out)
        return net.readout(x)

    def detach(self) -> None:
        self.v = {name: v.detach() for name, v in self.v.items()}

    def figures(self, name: str) -> dict[str, Tensor]:
        """Return u, s and the gradients of a layer, ``[T, N, M]`` each."""
        us, spikes, emitted = self.tensors[name]
        return {
            "u": torch.stack(us).detach().float(),
            "s": torch.stack(spikes).detach().float(),
            "grad_u": stack_grads(us).float(),
            "grad_s": stack_grads(emitted).float(),
            "grad_s_total": stack_grads(spikes).float(),
        }


def assert_recorded(table: pd.DataFrame, parts: list[Inside], name: str, rtol: float) -> None:
    """Compare the rows of one layer with all samples of the parts taken together."""
    whole = [part.figures(name) for part in parts]
    true = {key: torch.cat([part[key] for part in whole], dim=1) for key in whole[0]}
    assert true["s"].sum() > 0  # a silent layer would prove nothing
    assert table["t"].tolist() == list(range(1, len(true["u"]) + 1))
    assert table["count"].tolist() == [true["u"][0].numel()] * len(table)
    assert table["spikes"].tolist() == true["s"].sum((1, 2)).tolist()
    assert table["mismatch"].sum() == table["near_mismatch"].sum() == 0
    figures = {
        "u_mean": true["u"].mean((1, 2)),
        "u_var": true["u"].var((1, 2), correction=0),
    }
    for gradient in ("grad_u", "grad_s", "grad_s_total"):
        figures[f"{gradient}_square"] = true[gradient].square().mean((1, 2))
        assert table[f"{gradient}_count"].tolist() == [true["u"][0].numel()] * len(table)
    for column, expected in figures.items():
        np.testing.assert_allclose(
            table[column], expected.numpy(), rtol=rtol, atol=1e-9, err_msg=f"{name} {column}"
        )


def loss_of(output: Tensor) -> Tensor:
    """Return a loss that weighs timesteps and outputs unevenly, in float32."""
    weights = torch.linspace(0.5, 2.0, output[..., 0].numel())
    return ((output.float() ** 2).sum(-1).flatten() * weights).sum()
