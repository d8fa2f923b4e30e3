"""The statistics of a backward pass on a CPU, piece by piece of a size that stays in its cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .accumulators_cpu import pieces
from .accumulators_merge import Block
from .capture import Gradients, LayerGradients, looks_at_potential
from .slopes_cpu import squares
from .sums_cpu import over_samples
from .update_rule import is_power_of_two


class _Gradient:
    """Sums of one gradient, filled piece by piece."""

    def __init__(self, timesteps: int, samples: int, *, each: bool, zeros: bool) -> None:
        self.squares = [0.0] * timesteps
        self.zeros: list[float] | None = [0.0] * timesteps if zeros else None
        self.each = torch.zeros(timesteps, samples, dtype=torch.float64) if each else None
        self._zero = torch.zeros(())

    def add(self, rows: slice, share: slice, values: Tensor, space: Tensor) -> bool:
        """Add a piece ``[k, n, M]``; False where something in it is not finite."""
        flat, room = values.view(len(values), -1), space.view(len(values), -1)
        count = flat.shape[1]
        if self.zeros is not None:
            found = torch.eq(flat, self._zero, out=room).sum(1).tolist()
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


class _Parts:
    """Parts of what is inside a layer, worked out in general."""

    scale = 1.0

    def __init__(self, gradients: Gradients | LayerGradients) -> None:
        self._gradients = gradients

    def part(self, rows: slice, share: slice, space: Tensor) -> Gradients:
        """Return the gradients of some timesteps and samples."""
        return self._gradients.part(rows, share)

    def end(self) -> None:
        """Leave what was taken along."""


class _PlainParts:
    """Parts of what is inside a layer whose dynamics are plain numbers, in fewer passes.

    dL/du is dL/dI over the gain: it is summed up as dL/dI, and ``scale`` is 1 / gain. Along go the
    products of spikes and dL/ds.
    """

    def __init__(self, gradients: LayerGradients, size: int) -> None:
        spec = self._spec = gradients.spec
        self._gradients = gradients
        self.scale = 1.0 / spec.gain
        self._total = gradients.like.new_empty(size)
        self._reset = spec.reset_gradient and spec.reset != "none"
        amount = spec.threshold if spec.reset_amount is None else spec.reset_amount
        self._amount = float(amount)
        self._exact = is_power_of_two(spec.gain) and is_power_of_two(spec.decay)
        self._felt = [0.0, 0.0]

    @staticmethod
    def suits(gradients: Gradients | LayerGradients) -> bool:
        """Return whether dynamics and tensors are of that kind."""
        if not isinstance(gradients, LayerGradients) or gradients.handed is not None:
            return False
        spec, like = gradients.spec, gradients.like
        numbers = (spec.decay, spec.gain, spec.threshold, spec.reset_amount or 0.0)
        return (
            all(isinstance(value, int | float) for value in (*numbers, spec.synapse_decay))
            and spec.synapse_decay == 0
            and 0 < spec.gain <= 1
            and not looks_at_potential(spec)
            and like.dtype == gradients.grad_spikes.dtype == gradients.spikes.dtype
            and like.shape == gradients.grad_spikes.shape == gradients.spikes.shape
        )

    def part(self, rows: slice, share: slice, space: Tensor) -> Gradients:
        """Return the gradients of some timesteps and samples."""
        whole = self._gradients
        grad_s, grad_u = whole.grad_spikes[rows, share], whole.like[rows, share]
        total = self._with_reset(rows, share, grad_s) if self._reset else grad_s
        self._feel(whole.spikes[rows, share], grad_s, space)
        return Gradients(grad_s, total, grad_u, self._residual(rows, share))

    def _with_reset(self, rows: slice, share: slice, grad_s: Tensor) -> Tensor:
        """Return dL/ds with the path through the reset."""
        whole, spec = self._gradients, self._spec
        if rows.stop < len(whole.like):
            known = len(grad_s)
        elif whole.later is not None:
            return whole.part(rows, share).s_total
        elif len(grad_s) == 1:
            return grad_s
        else:
            known = len(grad_s) - 1
        ahead = whole.like[rows.start + 1 : rows.start + 1 + known, share]
        total = self._total[: grad_s.numel()].view(grad_s.shape)
        if self._exact:
            factor = -self._amount * spec.decay / spec.gain
            torch.add(grad_s[:known], ahead, alpha=factor, out=total[:known])
        else:
            carried = total[:known]
            torch.mul(ahead if spec.gain == 1 else ahead / spec.gain, spec.decay, out=carried)
            torch.add(grad_s[:known], carried, alpha=-self._amount, out=carried)
        if known < len(grad_s):
            total[known:].copy_(grad_s[known:])
        return total

    def _residual(self, rows: slice, share: slice) -> Tensor | None:
        count = self._gradients.checked(share)
        if count == 0:
            return None
        return self._gradients.part(rows, slice(share.start, share.start + count)).residual

    def _feel(self, spikes: Tensor, grad_s: Tensor, space: Tensor) -> None:
        if not (spikes.is_contiguous() and grad_s.is_contiguous()):
            spikes, grad_s = spikes.contiguous(), grad_s.contiguous()
        flat, fired = grad_s.view(-1), spikes.view(-1)
        self._felt[0] += torch.dot(fired, flat).item()
        # A spike is 0 or 1.
        self._felt[1] += torch.dot(fired, torch.abs(flat, out=space[: len(flat)])).item()

    def end(self) -> None:
        """Leave what was taken along."""
        self._gradients.felt = torch.tensor(self._felt)


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
    one_s, checked = True, 0
    parts: _Parts | _PlainParts = _Parts(gradients)
    if isinstance(gradients, LayerGradients) and _PlainParts.suits(gradients):
        parts = _PlainParts(gradients, len(space))
    for share in shares:
        for rows in times:
            part = parts.part(rows, share, space)
            one_s = one_s and part.s_total is part.s
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
    parts.end()
    return _finished(sums, checked, samples, units, parts.scale)


def _finished(
    sums: dict[str, _Gradient], checked: int, samples: int, units: int, scale: float
) -> Block:
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
    block["grad_u_square"] = block["grad_u_square"] * scale**2
    each = sums["u"].each
    assert each is not None
    block["grad_samples"] = torch.full_like(count, samples)
    block |= over_samples("grad_u", each * (scale**2 / units))
    if checked:
        block["residual_count"] = torch.full_like(count, checked * units)
        block["residual_square"] = numbers(sums["residual"].squares) / (checked * units)
    return block
