"""Spiking layers of every framework, and the same in plain torch with any start and threshold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from adapter_truth import Inside, Net, PlainFire, framework
from reference_network import seeded
from torch import Tensor, nn

from spikescope.analysis.surrogate import Surrogate
from spikescope.probes.lif import LIF

norse = framework("norse.torch")
norse_lif = framework("norse.torch.functional.lif")
norse_box = framework("norse.torch.functional.lif_box")
norse_iaf = framework("norse.torch.functional.iaf")
sinabs = framework("sinabs.layers")
sinabs_activation = framework("sinabs.activation")
snntorch = framework("snntorch")
spikingjelly = framework("spikingjelly.activation_based.neuron")

TAU, SYN = 4.0, 2.0
SINABS = {"spike_fn": sinabs_activation.SingleSpike}


@dataclass(frozen=True)
class Case:
    """One layer class in one layout.

    Args:
        framework: whose it is.
        build: builds one layer.
        run: calls it on ``[T, N, M]`` from a fresh state.
        dynamics: of the plain layer, as the framework documents them.
        surrogate: derivative before any change, at z.
    """

    framework: str
    build: Callable[[], nn.Module]
    run: Callable[[nn.Module, Tensor], Tensor]
    dynamics: dict[str, Any] = field(default_factory=dict)
    surrogate: Callable[[Tensor], Tensor] = lambda z: 1.0 / (1.0 + (math.pi * z) ** 2)
    start: float = 0.0

    def network(self, dtype: torch.dtype = torch.float64) -> Net:
        """Return two of these layers between linear ones."""

        def run(layer: nn.Module, current: Tensor) -> Tensor:
            return self.run(layer, current).to(current.dtype)  # some emit float32 in any case

        net = seeded(lambda: Net(self.build, run)).to(dtype)
        assert isinstance(net, Net)
        return net

    def plain(
        self,
        start: float | None = None,
        threshold: float = 1.0,
        surrogate: Callable[[Tensor], Tensor] | None = None,
    ) -> Callable[[Tensor, Inside], Tensor]:
        """Return the same layer in plain torch."""
        slope = surrogate or self.surrogate
        begin = self.start if start is None else start
        return lambda current, inside: _plain(
            current, inside, begin, threshold, slope, **self.dynamics
        )


def _plain(
    current: Tensor,
    inside: Inside,
    start: float,
    threshold: float,
    slope: Callable[[Tensor], Tensor],
    decay: Any = 0.5,
    gain: Any = 1.0,
    synapse: Any = 0.0,
    reset: str = "subtract",
    late: bool = False,
    strictly: bool = False,
    detach: bool = False,
    at_once: bool = False,
    narrow: bool = False,
) -> Tensor:
    v, i, out = torch.full_like(current[0], start), torch.zeros_like(current[0]), []
    for now in current:
        i = synapse * i + now
        u = decay * v + gain * i
        left = (v > threshold).to(
            torch.float32 if narrow else v.dtype
        )  # by a soft reset, which snnTorch then repeats
        u = u - left * threshold if at_once else u
        s = PlainFire.apply(u - threshold, slope, strictly)
        s = s.float() if narrow else s  # and so is the gradient that comes back
        fired = s.detach() if detach or late else s
        if late:  # the reset comes with the next timestep, after the leak
            v = u - fired * (u if reset == "to_value" else threshold / decay)
        elif reset == "to_value":
            v = u - fired * u
        elif at_once:
            v = u - (fired - left) * threshold
        else:
            v = u - fired * threshold
        out.append(inside.keep(u, s))
    return torch.stack(out).to(current.dtype)


def sequence(reset: str, halves: bool = False) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a call on the whole sequence, or in two parts with the state carried on."""

    def run(layer: nn.Module, current: Tensor) -> Tensor:
        getattr(layer, reset)()
        parts = (current[:2], current[2:]) if halves else (current,)
        return torch.cat([layer(part) for part in parts])

    return run


def stepwise(reset: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a call timestep by timestep."""

    def run(layer: nn.Module, current: Tensor) -> Tensor:
        getattr(layer, reset)()
        return torch.stack([layer(now) for now in current])

    return run


def passed_on(layer: nn.Module, current: Tensor) -> Tensor:
    """Call snnTorch's layers with the state in the caller's hands."""
    state = layer.reset_mem()
    state = state if isinstance(state, tuple) else (state,)
    out = []
    for now in current:
        spikes, *state = layer(now, *state)
        out.append(spikes)
    return torch.stack(out)


def norse_whole(layer: nn.Module, current: Tensor) -> Tensor:
    first, state = layer(current[:2])
    return torch.cat([first, layer(current[2:], state)[0]])


def norse_stepwise(layer: nn.Module, current: Tensor) -> Tensor:
    out, state = [], None
    for now in current:
        spikes, state = layer(now, state=state)
        out.append(spikes)
    return torch.stack(out)


def sinabs_run(length: int, squeezed: bool = False) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a call on parts of that many timesteps, batch before time."""

    def run(layer: nn.Module, current: Tensor) -> Tensor:
        layer.reset_states()
        out = []
        for part in current.split(length):
            x = part.transpose(0, 1)
            y = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]) if squeezed else layer(x)
            out.append(y.transpose(0, 1))
        return torch.cat(out)

    return run


def sj(kind: str, mode: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        # The default surrogate is one object for all layers: Sigmoid(alpha=4).
        layer = getattr(spikingjelly, kind)(**settings)
        layer.step_mode = mode
        assert isinstance(layer, nn.Module)
        return layer

    return build


def _sigmoid(z: Tensor) -> Tensor:
    return 4.0 * torch.sigmoid(4.0 * z) * (1.0 - torch.sigmoid(4.0 * z))


def _tanh(z: Tensor) -> Tensor:
    return 1.0 - torch.tanh(2.0 * z) ** 2


def _exponential(z: Tensor) -> Tensor:
    return 2.0 * torch.exp(-z.abs() / 0.5)


TANH = {"method": "tanh", "alpha": 2.0}
NORSE = {"tau_mem_inv": torch.tensor(500.0), "tau_syn_inv": torch.tensor(500.0), **TANH}
HALF = float(1e-3 * torch.tensor(500.0))  # the layer multiplies in float32
ALPHA, BETA = math.exp(-1.0 / TAU), math.exp(-1.0 / SYN)

CASES: dict[str, Case] = {
    "ours, multi": Case("spikescope", LIF, lambda layer, x: layer(x)),
    "ours, single": Case("spikescope", lambda: LIF(step_mode="single"), stepwise("reset")),
    "SpikingJelly LIF, multi": Case(
        "spikingjelly", sj("LIFNode", "m", tau=2.0, v_reset=None), sequence("reset", halves=True),
        {"gain": 0.5}, _sigmoid,
    ),
    "SpikingJelly LIF hard, single": Case(
        "spikingjelly", sj("LIFNode", "s", tau=2.0), stepwise("reset"),
        {"gain": 0.5, "reset": "to_value"}, _sigmoid,
    ),
    "SpikingJelly IF detached, multi": Case(
        "spikingjelly", sj("IFNode", "m", detach_reset=True, v_reset=None), sequence("reset"),
        {"decay": 1.0, "detach": True}, _sigmoid,
    ),
    "SpikingJelly PLIF, single": Case(
        "spikingjelly", sj("ParametricLIFNode", "s", v_reset=None), stepwise("reset"),
        {"gain": 0.5}, _sigmoid,
    ),
    "snnTorch Leaky, single": Case(
        "snntorch", lambda: snntorch.Leaky(beta=0.5), passed_on,
        {"late": True, "strictly": True, "narrow": True},
    ),
    "snnTorch Leaky hidden, learned, single": Case(
        "snntorch",
        lambda: snntorch.Leaky(
            beta=0.5, init_hidden=True, learn_threshold=True, reset_mechanism="zero"
        ),
        stepwise("reset_mem"),
        {"late": True, "strictly": True, "narrow": True, "reset": "to_value"},
    ),
    "snnTorch Leaky at once, single": Case(
        "snntorch", lambda: snntorch.Leaky(beta=0.5, reset_delay=False), passed_on,
        {"strictly": True, "narrow": True, "at_once": True},
    ),
    "snnTorch Synaptic, single": Case(
        "snntorch", lambda: snntorch.Synaptic(alpha=0.25, beta=0.5), passed_on,
        {"late": True, "strictly": True, "narrow": True, "synapse": 0.25},
    ),
    "Norse LIF, multi": Case(
        "norse", lambda: norse.LIF(p=norse_lif.LIFParameters(**NORSE)), norse_whole,
        {"decay": 1.0 - HALF, "gain": HALF, "synapse": 1.0 - HALF, "reset": "to_value",
         "strictly": True}, _tanh,
    ),
    "Norse LIFCell, single": Case(
        "norse", lambda: norse.LIFCell(p=norse_lif.LIFParameters(**NORSE)), norse_stepwise,
        {"decay": 1.0 - HALF, "gain": HALF, "synapse": 1.0 - HALF, "reset": "to_value",
         "strictly": True}, _tanh,
    ),
    "Norse LIFBoxCell, single": Case(
        "norse",
        lambda: norse.LIFBoxCell(
            p=norse_box.LIFBoxParameters(tau_mem_inv=NORSE["tau_mem_inv"], **TANH)
        ),
        norse_stepwise,
        {"decay": 1.0 - HALF, "gain": HALF, "reset": "to_value", "strictly": True}, _tanh,
    ),
    "Norse IAFCell, single": Case(
        "norse", lambda: norse.IAFCell(p=norse_iaf.IAFParameters(**TANH)), norse_stepwise,
        {"decay": 1.0, "reset": "to_value", "strictly": True}, _tanh,
    ),
    "Sinabs LIF, multi": Case(
        "sinabs",
        lambda: sinabs.LIF(tau_mem=TAU, tau_syn=SYN, norm_input=False, **SINABS),
        sinabs_run(3),
        {"decay": ALPHA, "gain": BETA, "synapse": BETA, "narrow": True}, _exponential,
    ),
    "Sinabs LIF hard, single": Case(
        "sinabs",
        lambda: sinabs.LIF(
            tau_mem=TAU, norm_input=False, reset_fn=sinabs_activation.MembraneReset(), **SINABS
        ),
        sinabs_run(1),
        {"decay": ALPHA, "reset": "to_value", "detach": True, "narrow": True}, _exponential,
    ),
    "Sinabs IAF squeezed, multi": Case(
        "sinabs", lambda: sinabs.IAFSqueeze(batch_size=7, **SINABS), sinabs_run(5, squeezed=True),
        {"decay": 1.0, "narrow": True}, _exponential,
    ),
}  # fmt: skip
"""Framework, layer and layout; 7 samples, which a squeezed layer must be told."""

NEW = Surrogate("triangular", peak=0.5, width=0.6)
"""A height and width that no framework's own family has."""


def new_slope(z: Tensor) -> Tensor:
    """Return the derivative of :data:`NEW`, written out."""
    return 0.5 * (1.0 - z.abs() / 0.6).clamp(min=0.0)


NEW_START, NEW_THRESHOLD = 0.375, 0.75


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(5)
    return (4.0 * torch.randn(5, 7, 6)).to(dtype)
