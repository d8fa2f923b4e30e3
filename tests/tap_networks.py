"""Hand-written spiking networks in plain torch, of the kinds that papers' authors publish.

Every neuron keeps, in ``inside``, the tensors u and s of the last pass with their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class StepOfZ(torch.autograd.Function):
    """Given u - threshold; fast sigmoid of width 1/10."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] / (1.0 + 10.0 * z.abs()) ** 2


class NewStyle(torch.autograd.Function):
    """The same with a setup_context of its own, firing only above the threshold."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] / (1.0 + 10.0 * z.abs()) ** 2


class Window(torch.autograd.Function):
    """Given u, threshold and width: a rectangle of unit area, as in MPD-AGL and DS-ATGO."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Any, width: Any) -> Tensor:
        ctx.save_for_backward(u)
        ctx.threshold, ctx.width = threshold, width
        return (u >= threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        inside = (u - ctx.threshold).abs() < ctx.width / 2
        return grads[0] * inside / ctx.width, None, None


class Tall(torch.autograd.Function):
    """Spikes as high as the threshold: TrSG's rectangle of peak 1/theta and width theta."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(u, theta)
        return (u >= theta).to(u.dtype) * theta

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        u, theta = ctx.saved_tensors
        slope = ((u - theta).abs() < theta / 2).to(u.dtype)
        return grads[0] * slope, (grads[0] * (u >= theta)).sum().reshape(theta.shape)


class Inner(torch.autograd.Function):
    """Given u; the threshold 0.6 is written into the code."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0.6).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grads[0] / (1.0 + 10.0 * (u - 0.6).abs()) ** 2


class Neuron(nn.Module):
    """What the neurons below share: the loop over ``[N, T, ...]`` and the truth kept inside."""

    detach = False

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[tuple[Tensor, Tensor, Any, Tensor]] = []
        self.leak = nn.Parameter(torch.tensor(0.3))
        self.level = nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor) -> Tensor:
        self.inside = []
        v: Tensor | float = 0.0
        out = []
        for t in range(x.shape[1]):
            u = torch.sigmoid(self.leak) * v + x[:, t]
            s, threshold = self.fire(u, t)
            v = self.reset(u, s, threshold)
            out.append(s)
        return torch.stack(out, 1)

    def keep(self, u: Tensor, s: Tensor, threshold: Any, z: Tensor) -> None:
        for tensor in (u, s):
            if tensor.requires_grad:
                tensor.retain_grad()
        self.inside.append((u, s, threshold, z))

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def reset(self, u: Tensor, s: Tensor, threshold: Any) -> Tensor:
        return u - (s.detach() if self.detach else s) * threshold


class Learnable(Neuron):
    """Learnable decay, and a threshold that softplus keeps positive."""

    function: Any = StepOfZ

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        threshold = softplus(self.level)
        z = u - threshold
        s = self.function.apply(z)
        self.keep(u, s, threshold, z)
        return s, threshold


class LearnableNew(Learnable):
    function = NewStyle
    detach = True


class Adaptive(Neuron):
    """Threshold and width follow mean and spread of u at every timestep (DS-ATGO, eq. 5, 7)."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        with torch.no_grad():
            threshold = u.mean() + u.std()
            width = 1.0 + torch.tanh(u.std() - 1.0)
        s = Window.apply(u, threshold, width)
        self.keep(u, s, threshold, u - threshold)
        return s, threshold

    def reset(self, u: Tensor, s: Tensor, threshold: Any) -> Tensor:
        return u * (1.0 - s)


class Fixed(Neuron):
    """Threshold and width are plain numbers, the width another from t = 2 on (MPD-AGL)."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        width = 1.0 if t == 0 else 1.02
        s = Window.apply(u, 0.5, width)
        self.keep(u, s, 0.5, u - 0.5)
        return s, 0.5

    def reset(self, u: Tensor, s: Tensor, threshold: Any) -> Tensor:
        return u * (1.0 - s)


class TallNeuron(Neuron):
    """Spikes of the height of a learnable theta."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        theta = softplus(self.level).reshape(1)
        s = Tall.apply(u, theta)
        self.keep(u, s, theta, u - theta)
        return s, theta

    def reset(self, u: Tensor, s: Tensor, threshold: Any) -> Tensor:
        return u - s


class Constant(Neuron):
    """The threshold is a number in the surrogate's own code."""

    def fire(self, u: Tensor, t: int) -> tuple[Tensor, Any]:
        s = Inner.apply(u)
        self.keep(u, s, 0.6, u - 0.6)
        return s, 0.6


class Stepwise(nn.Module):
    """A neuron that is called once for each timestep and carries its potential itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[tuple[Tensor, Tensor, Any, Tensor]] = []
        self.v: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        u = 0.6 * self.v + x
        z = u - 0.7
        s = StepOfZ.apply(z)
        self.v = u * (1.0 - s)
        Neuron.keep(self, u, s, 0.7, z)  # type: ignore[arg-type]
        return s


class Net(nn.Module):
    """Two layers of one neuron; ``[N, T, 6]`` in, ``[N, T, 3]`` out."""

    def __init__(self, neuron: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.low = nn.Linear(6, 30), neuron()
        self.drop = nn.Dropout(0.2)
        self.second, self.high = nn.Linear(30, 20), neuron()
        self.readout = nn.Linear(20, 3)
        with torch.no_grad():
            self.second.weight.mul_(6.0)  # so that the upper layer fires, too

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.low, Stepwise):
            assert isinstance(self.high, Stepwise)
            for layer in (self.low, self.high):
                layer.v, layer.inside = 0.0, []
            return torch.stack([self.once(x[:, t]) for t in range(x.shape[1])], 1)
        return self.once(x)

    def once(self, x: Tensor) -> Tensor:
        """One pass through the layers, of a sequence or of one timestep."""
        return self.readout(self.high(self.second(self.drop(self.low(self.first(x))))))


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "learnable": Learnable,
    "learnable, setup_context, detached reset": LearnableNew,
    "adaptive threshold and width": Adaptive,
    "threshold and width as numbers": Fixed,
    "spikes as high as theta": TallNeuron,
    "threshold in the surrogate": Constant,
    "one timestep per call": Stepwise,
}
