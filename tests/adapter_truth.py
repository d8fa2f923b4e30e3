"""How a watched layer of a framework is compared with plain autograd, and with itself unwatched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_network import stack_grads
from torch import Tensor, nn

import spikescope
from spikescope.probes import accumulators, layer_sums

TIMESTEPS, SAMPLES = 5, 7


class PlainFire(torch.autograd.Function):
    """A spike whose derivative is given; fires at or only above the threshold."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Callable[[Tensor], Tensor], strictly: bool) -> Tensor:
        ctx.save_for_backward(z)
        ctx.slope = slope
        return (z > 0 if strictly else z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.slope(ctx.saved_tensors[0]), None, None


class Inside:
    """The inner tensors of one plain layer, each with its gradient kept."""

    def __init__(self) -> None:
        self.u: list[Tensor] = []
        self.s: list[Tensor] = []
        self.emitted: list[Tensor] = []

    def keep(self, u: Tensor, s: Tensor) -> Tensor:
        """Keep one timestep; return the copy of the spikes that goes downstream."""
        out = s.view_as(s)
        for tensor, kept in ((u, self.u), (s, self.s), (out, self.emitted)):
            if tensor.requires_grad:
                tensor.retain_grad()
            kept.append(tensor)
        return out


PlainLayer = Callable[[Tensor, Inside], Tensor]


class Net(nn.Module):
    """Two spiking layers of one kind between three linear ones.

    Args:
        layer: builds one spiking layer.
        run: calls it on a current ``[T, N, M]`` in the layout that it wants.
    """

    def __init__(
        self, layer: Callable[[], nn.Module], run: Callable[[nn.Module, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.low = layer()
        self.second = nn.Linear(9, 8)
        self.high = layer()
        self.readout = nn.Linear(8, 3)
        self.run = run
        with torch.no_grad():
            self.second.weight.mul_(4.0)  # so that the upper layer fires, too

    def forward(self, x: Tensor) -> Tensor:
        low = self.run(self.low, self.first(x))
        return self.readout(self.run(self.high, self.second(low)))

    def plain(self, x: Tensor, layer: PlainLayer) -> tuple[Tensor, dict[str, Inside]]:
        """Run the same weights with a plain layer in place of the spiking ones."""
        low, high = Inside(), Inside()
        first = layer(self.first(x), low)
        return self.readout(layer(self.second(first), high)), {"low": low, "high": high}


def loss_of(output: Tensor) -> Tensor:
    """Return a loss that weighs timesteps and outputs unevenly."""
    weights = torch.linspace(0.5, 2.0, output[..., 0].numel(), dtype=output.dtype)
    return ((output**2).sum(-1).flatten() * weights).sum()


def record(
    net: nn.Module, x: Tensor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, dict[str, list[Tensor]]], spikescope.Run]:
    """Watch one training step.

    Returns:
        Per layer, ``forward`` (u, s) and ``backward`` (dL/ds downstream, total, dL/du, residual),
        ``[T, N, M]`` each; and the run.
    """
    forward: list[Any] = []
    backward: list[Any] = []
    forward_pass, backward_block = accumulators.forward_pass, accumulators.backward_block

    def spy_forward(*args: Any, **more: Any) -> Any:
        passed = forward_pass(*args, **more)
        _, u, spikes, _ = passed
        assert u is not None
        forward.append((u.clone(), spikes.clone()))
        return passed

    def spy_backward(gradients: Any) -> Any:
        backward.append([None if value is None else value.clone() for value in gradients])
        return backward_block(gradients)

    monkeypatch.setattr(layer_sums.accumulators, "forward_pass", spy_forward)
    monkeypatch.setattr(layer_sums.accumulators, "backward_block", spy_backward)
    with spikescope.watch(net, path, every=1) as probe:
        loss = loss_of(net(x))
        loss.backward()
        probe.step(loss=loss)
    seen = {
        name: {
            "forward": _joined([entry for entry in forward if entry[0].shape[-1] == width]),
            # Gradients come in the opposite order.
            "backward": _joined([entry for entry in backward if entry[0].shape[-1] == width][::-1]),
        }
        for name, width in (("low", 9), ("high", 8))
    }
    return seen, spikescope.open_run(path)


def _joined(entries: list[Any]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*entries, strict=True)]


def assert_equal_to_truth(
    net: Net,
    x: Tensor,
    layer: PlainLayer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tolerance: float = 1e-6,
) -> None:
    """Compare what the probe captured with plain autograd, and read the self-check."""
    output, inside = net.plain(x, layer)
    loss_of(output).backward()
    net.zero_grad()
    seen, run = record(net, x, path, monkeypatch)
    for name, truth in inside.items():
        u, s = seen[name]["forward"]
        down, total, du, residual = seen[name]["backward"]
        expected = {
            "u": (u, torch.stack(truth.u)),
            "s": (s, torch.stack(truth.s)),
            "dL/ds downstream": (down, stack_grads(truth.emitted)),
            "dL/ds total": (total, stack_grads(truth.s)),
            "dL/du": (du, stack_grads(truth.u)),
        }
        assert s.sum() > 5  # a silent layer would prove nothing
        for what, (captured, true) in expected.items():
            assert captured.shape == true.shape, (name, what)
            error = (captured - true).abs().max() / true.abs().max()
            assert error <= tolerance, (name, what, error)
        assert residual.abs().max() / du.abs().max() <= 2.0 * tolerance, name
        rows = run.table(layer=name, mode="train")
        assert len(rows) == len(u)
        assert rows["mismatch"].sum() == 0
        assert rows["near_mismatch"].sum() == 0


def self_check(net: nn.Module, x: Tensor, path: Path, break_it: Any = None) -> tuple[int, float]:
    """Watch one step in which the layer may differ from what the probe was told of it.

    Returns:
        Spike mismatches and the largest residual of the lower layer.
    """
    with spikescope.watch(net, path, every=1) as probe:
        if break_it is not None:
            break_it(net)
        loss_of(net(x)).backward()
        probe.step()
    rows = spikescope.open_run(path).table(layer="low", mode="train")
    return int(rows["mismatch"].sum()), float(rows["residual"].max())


def train(net: nn.Module, path: Path | None, steps: int = 20) -> dict[str, Any]:
    """Train and return everything that watching could have disturbed."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = 3.0 * torch.randn(TIMESTEPS, SAMPLES, 6)
    losses, outputs = [], []

    def one_step() -> None:
        optimizer.zero_grad()
        output = net(nn.functional.dropout(x, 0.2))
        loss = loss_of(output)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        outputs.append(output.detach())

    if path is None:
        for _ in range(steps):
            one_step()
    else:
        with spikescope.watch(net, path, every=1) as probe:
            for _ in range(steps):
                one_step()
                probe.step()
    return {
        "losses": losses,
        "outputs": outputs,
        "gradients": [p.grad for p in net.parameters()],
        "weights": [value.clone() for value in net.state_dict().values()],
        "moments": [state["exp_avg_sq"] for state in optimizer.state.values()],
        "random": torch.get_rng_state(),
    }


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two results of :func:`train` are equal in every bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return bool(one == other)


def framework(name: str) -> Any:
    """Import a framework, or skip; fail where the environment says that it must be there."""
    import importlib
    import os
    import warnings

    try:
        with warnings.catch_warnings():
            # Frameworks use what torch and Python have deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("SPIKESCOPE_FRAMEWORKS") == "required":
            raise
        pytest.skip(f"{name} is not installed: {error}", allow_module_level=True)
