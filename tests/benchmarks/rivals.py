"""Networks of two frameworks, and three other ways to record what happens in their layers.

What they keep per layer and timestep is called a content. ``"same"`` is all of the record that
they can have: the potential that a framework holds is the one after the reset, and dL/du is not to
be had at all. ``"usual"`` is what people log: the histogram, mean, variance and extrema of the
potential, the firing rate, mean square and share of zeros of dL/ds. ``"economy"`` is the same as
spikescope's level of that name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

BINS = 256


class Size(NamedTuple):
    """How large a network and its batch are."""

    channels: int = 16
    timesteps: int = 8
    pixels: int = 28
    batch: int = 64


QUICK = Size(2, 3, 8, 4)


class Built(NamedTuple):
    """A network, one step's forward pass and its neurons' class."""

    net: nn.Module
    forward: Callable[[Tensor], Tensor]
    neuron: type[nn.Module]
    version: str


def widths(channels: int) -> list[tuple[int, int, int]]:
    """Return channels in, channels out and stride of the six convolutions."""
    c = channels
    first = [(1, c, 1), (c, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1)]
    return [*first, (2 * c, 4 * c, 2), (4 * c, 4 * c, 1)]


def spikingjelly_net(size: Size) -> Built:
    """Return six layers of SpikingJelly, which run the whole sequence at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spikingjelly
        from spikingjelly.activation_based import functional, layer, neuron, surrogate
    parts: list[nn.Module] = []
    for inside, out, stride in widths(size.channels):
        parts += [layer.Conv2d(inside, out, 3, stride, 1, bias=False), layer.BatchNorm2d(out)]
        parts += [neuron.LIFNode(2.0, surrogate_function=surrogate.ATan(), detach_reset=True)]
    left = -(-size.pixels // 4)
    net = nn.Sequential(*parts, layer.Flatten(), layer.Linear(4 * size.channels * left**2, 10))
    functional.set_step_mode(net, "m")

    def forward(images: Tensor) -> Tensor:
        functional.reset_net(net)
        out: Tensor = net(images.expand(size.timesteps, *images.shape)).mean(0)
        return out

    version = getattr(spikingjelly, "__version__", "") or _version("spikingjelly")
    return Built(net, forward, neuron.LIFNode, version)


def snntorch_net(size: Size) -> Built:
    """Return six layers of snnTorch, called timestep by timestep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import snntorch
        from snntorch import surrogate, utils
    parts: list[nn.Module] = []
    for inside, out, stride in widths(size.channels):
        parts += [nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)]
        parts += [snntorch.Leaky(0.5, spike_grad=surrogate.atan(), init_hidden=True)]
    left = -(-size.pixels // 4)
    net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(4 * size.channels * left**2, 10))

    def forward(images: Tensor) -> Tensor:
        utils.reset(net)
        return torch.stack([net(images) for _ in range(size.timesteps)]).mean(0)

    return Built(net, forward, snntorch.Leaky, _version("snntorch"))


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


CONTENTS = {"same": "standard", "usual": "standard", "economy": "economy"}
"""The level of spikescope that a content is compared with."""

ALPHA = 2.0
"""Of the arctangent surrogate, in both frameworks."""


class Figures:
    """Numbers of one layer, timestep after timestep, by numpy.

    Args:
        content: a key of :data:`CONTENTS`.
    """

    def __init__(self, content: str) -> None:
        self.content = content
        self.ever: Any = False
        self.always: Any = True

    def of(self, v: Any, s: Any, x: Any, g: Any) -> dict[str, Any]:
        """Return the figures of potential, spikes, input and dL/ds, ``[N, ...]`` each."""
        v, s = v.reshape(len(v), -1), s.reshape(len(v), -1)
        out = {"mean": v.mean(), "var": v.var(), "min": v.min(), "max": v.max(), "rate": s.mean()}
        if self.content != "economy":
            out |= {"grad_square": np.square(g).mean(), "grad_zero": (g == 0).mean()}
        if self.content == "usual":
            return out
        fired = s != 0
        self.ever, self.always = fired | self.ever, fired & self.always
        out |= {"silent": 1 - self.ever.mean(), "saturated": self.always.mean()}
        z = (v - 1.0) * (np.pi / 2 * ALPHA)
        slope = ALPHA / 2 / (1 + z * z)
        covered = (slope > 0.01 * ALPHA / 2).mean(1)
        out |= {"slope": slope.mean(), "slope_square": np.square(slope).mean()}
        out |= {"open": (slope != 0).mean(), "coverage": covered.mean()}
        out |= {"input": x.mean(), "input_var": x.var()}
        each = {"mean": v.mean(1), "rate": s.mean(1), "coverage": covered}
        if self.content == "same":
            each["grad_square"] = np.square(g.reshape(v.shape)).mean(1)
        return out | {f"{name}_sample_var": values.var() for name, values in each.items()}


class Monitors:
    """A framework's own monitors and numpy.

    Args:
        built: the network.
        module: the framework's module of monitors.
        attribute: where a neuron keeps its potential.
        folder: where a file per recorded step goes.
        content: a key of :data:`CONTENTS`, or ``"references"``: the monitors keep what they see
            and nothing is made of it.
    """

    threads: tuple[Any, ...] = ()

    def __init__(
        self, built: Built, module: Any, attribute: str, folder: Path, content: str
    ) -> None:
        self.built, self.module, self.attribute = built, module, attribute
        self.folder, self.content = folder, content
        self.kept: list[Any] = []
        folder.mkdir(parents=True)

    def arm(self) -> None:
        """Attach the monitors."""
        net, neuron = self.built.net, self.built.neuron
        self._sequences(on=True)
        self.monitors = {
            "s": self.module.OutputMonitor(net, neuron),
            "v": self.module.AttributeMonitor(self.attribute, False, net, neuron),
        }
        if self.content != "usual":
            self.monitors["x"] = self.module.InputMonitor(net, neuron)
        if self.content != "economy":
            self.monitors["g"] = self.module.GradOutputMonitor(net, neuron)

    def finish(self, step: int) -> None:
        """Make statistics of what they hold, write them and let go of it."""
        if self.content == "references":
            self.kept.append([list(monitor.records) for monitor in self.monitors.values()])
        else:
            columns = {}
            for name in self.monitors["s"].monitored_layers:
                columns |= self._statistics(name)
            np.savez(self.folder / f"{step:06d}.npz", **columns)
        for monitor in self.monitors.values():
            monitor.remove_hooks()
            monitor.clear_recorded_data()
        self._sequences(on=False)

    def close(self) -> None:
        """Let go of everything."""
        self.kept.clear()

    def _statistics(self, name: str) -> dict[str, np.ndarray]:
        found: dict[str, list[Any]] = {}
        held = {key: _timesteps(monitor[name]) for key, monitor in self.monitors.items()}
        if "g" in held and len(self.monitors["g"][name]) > 1:
            held["g"].reverse()  # called once per timestep, they came from the last to the first
        figures = Figures(self.content)
        for t, v in enumerate(held["v"]):
            row = figures.of(v, *(held[key][t] if key in held else None for key in "sxg"))
            if self.content != "economy":
                row["histogram"] = np.histogram(v, BINS, (-1.0, 3.0))[0]
            for key, value in row.items():
                found.setdefault(f"{name}.{key}", []).append(value)
        return {key: np.array(values) for key, values in found.items()}

    def _sequences(self, *, on: bool) -> None:
        """Have SpikingJelly's neurons keep the potential of every timestep, or not."""
        if self.attribute == "v_seq":
            for module in self.built.net.modules():
                if isinstance(module, self.built.neuron):
                    module.store_v_seq = on


def _timesteps(records: list[Tensor]) -> list[np.ndarray]:
    """Return an array per timestep: of one tensor of a sequence, or of a tensor each."""
    if len(records) == 1:
        return list(records[0].detach().numpy())
    return [record.detach().numpy() for record in records]


class TensorBoard:
    """``SummaryWriter.add_histogram`` and ``add_scalar`` per layer and timestep.

    The figures come from hooks on SpikingJelly's neurons, which hold what there is to log.
    """

    def __init__(self, built: Built, folder: Path, content: str) -> None:
        import threading

        from torch.utils.tensorboard import SummaryWriter

        before = set(threading.enumerate())
        self.built, self.content = built, content
        self.writer = SummaryWriter(str(folder))
        self.threads = tuple(set(threading.enumerate()) - before)
        self.seen: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self.gradients: dict[str, Tensor] = {}
        self.handles: list[Any] = []

    def arm(self) -> None:
        """Attach the hooks."""
        for name, module in self.built.net.named_modules():
            if isinstance(module, self.built.neuron):
                module.store_v_seq = True
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            self.seen.append((name, module.v_seq.detach(), output.detach(), args[0].detach()))
            if self.content != "economy":
                output.register_hook(lambda g: self.gradients.__setitem__(name, g))

        return hook

    def finish(self, step: int) -> None:
        """Log what was seen."""
        for name, *tensors in self.seen:
            if self.content != "economy":
                tensors.append(self.gradients[name])
            figures = Figures(self.content)
            for t, now in enumerate(zip(*tensors, strict=True)):
                v, s, x, *g = (tensor.numpy() for tensor in now)
                for what, value in figures.of(v, s, x, g[0] if g else None).items():
                    self.writer.add_scalar(f"{name}/{t + 1}/{what}", value, step)
                if self.content != "economy":
                    self.writer.add_histogram(f"{name}/{t + 1}/potential", v, step)
        for handle in self.handles:
            handle.remove()
        for module in self.built.net.modules():
            if isinstance(module, self.built.neuron):
                module.store_v_seq = False
        self.seen, self.gradients, self.handles = [], {}, []

    def close(self) -> None:
        """Write what waits."""
        self.writer.close()


RIVALS = ("tensorboard", "spikingjelly", "snntorch")


def build(rival: str, size: Size) -> Built:
    """Return the network on which a rival is measured."""
    torch.manual_seed(0)
    return snntorch_net(size) if rival == "snntorch" else spikingjelly_net(size)


def rival_on(rival: str, built: Built, folder: Path, content: str) -> Any:
    """Return a rival that records a network."""
    if rival == "tensorboard":
        return TensorBoard(built, folder, content)
    if rival == "spikingjelly":
        from spikingjelly.activation_based import monitor

        return Monitors(built, monitor, "v_seq", folder, content)
    from snntorch.functional import probe

    return Monitors(built, probe, "mem", folder, content)
