"""The statistics of a backward pass on a CPU, piece by piece of a size that stays in its cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .accumulators_cpu import pieces
from .accumulators_merge import Block
from .capture import Gradients, LayerGradients
from .slopes_cpu import squares
from .sums_cpu import over_samples


class _Gradient:
    """Sums of one gradient, filled piece by piece."""

    def __init__(self, timesteps: int, samples: int, *, each: bool, zeros: bool) -> None:
        self.squares = [0.0] * timesteps
        self.zeros: list[float] | None = [0.0] * timesteps if zeros else None
        self.each = torch.zeros(timesteps, samples, dtype=torch.float64) if each else None

    def add(self, rows: slice, share: slice, values: Tensor, space: Tensor) -> bool:
        """Add a piece ``[k, n, M]``; False where something in it is not finite."""
        flat, room = values.view(len(values), -1), space.view(len(values), -1)
        count = flat.shape[1]
        if self.zeros is not None:
            found = torch.eq(flat, 0.0, out=room).sum(1).tolist()
            for k, zeros in enumerate(found):
                self.zeros[rows.start + k] += zeros
        if self.each is None:
            squared, each = squares(flat), None
        else:
            each = torch.mul(values, values, out=space).sum(-1).double()
            squared = each.sum(1).tolist()
        for k, square in enumerate(squared):
            if not square < math.inf:
                return False
            unit = 1.0
            # One element of 1e-13 or more: what its square loses to the end of float32 is nothing.
            if not square > count * 1e-26:
                # A vanishing gradient is the very thing to measure: its square leaves float32.
                largest = float(flat[k].abs().max())
                if largest == 0.0:
                    continue
                unit = math.ldexp(1.0, min(120, -math.frexp(largest)[1]))
                scaled = values[k] * unit
                if not float(scaled.abs().max()) > 1e-9:  # below the smallest normal number
                    return False
                scaled = scaled.mul_(scaled).sum(-1).double()
                square = float(scaled.sum())
                if each is not None:
                    each[k] = scaled / unit**2
            self.squares[rows.start + k] += square / unit**2
        if self.each is not None and each is not None:
            self.each[rows, share] = each
        return True


def backward(gradients: Gradients | LayerGradients) -> Block | None:
    """Summarise one backward pass; see :func:`.accumulators.backward_block`.

    Returns:
        The gradient columns, or None where a gradient is not finite.
    """
    timesteps, samples, *shape = gradients.like.shape
    units = math.prod(shape)
    sizes = pieces(timesteps, samples, units)
    times = [slice(a, min(a + sizes[0], timesteps)) for a in range(0, timesteps, sizes[0])]
    shares = [slice(a, min(a + sizes[1], samples)) for a in range(0, samples, sizes[1])]
    sums = {
        name: _Gradient(timesteps, samples, each=name == "u", zeros=name != "residual")
        for name in ("s", "s_total", "u", "residual")
    }
    space = gradients.like.new_empty(times[0].stop * shares[0].stop * units)
    one_s, checked = False, 0
    for share in shares:
        for rows in times:
            part = gradients.part(rows, share)
            one_s = part.s_total is part.s
            if part.residual is not None and rows.start == 0:
                checked += part.residual.shape[1]
            for name, values in zip(sums, part, strict=True):
                if values is None or (name == "s_total" and one_s):
                    continue
                values = values.reshape(*values.shape[:2], -1).contiguous()
                area = space[: values.numel()].view(values.shape)
                if not sums[name].add(rows, share, values, area):
                    return None
    if one_s:
        sums["s_total"] = sums["s"]
    return _finished(sums, checked, samples, units)


def _finished(sums: dict[str, _Gradient], checked: int, samples: int, units: int) -> Block:
    timesteps = len(sums["u"].squares)
    count = torch.full((timesteps,), samples * units)

    def numbers(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    block: Block = {}
    for name in ("s", "s_total", "u"):
        entry = sums[name]
        assert entry.zeros is not None
        block |= {
            f"grad_{name}_count": count,
            f"grad_{name}_nonfinite": torch.zeros_like(count),
            f"grad_{name}_zero": numbers(entry.zeros).round().long(),
            f"grad_{name}_square": numbers(entry.squares) / count,
        }
    each = sums["u"].each
    assert each is not None
    block["grad_samples"] = torch.full_like(count, samples)
    block |= over_samples("grad_u", each / units)
    if checked:
        block["residual_count"] = torch.full_like(count, checked * units)
        block["residual_square"] = numbers(sums["residual"].squares) / (checked * units)
    return block
