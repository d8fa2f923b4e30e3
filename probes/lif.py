"""The reference spiking layer: leaky integrate-and-fire, with every setting that we study."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..analysis.neuron import NeuronSpec, Reset, after_reset, integrate
from ..analysis.surrogate import Surrogate

StepMode = Literal["multi", "single"]

# Height 1 and width 1/pi: the arctan of Fang et al. 2021 at its usual alpha = 2.
DEFAULT_SURROGATE = Surrogate("arctan", peak=1.0, width=1.0 / math.pi)


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate derivative backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: float | Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(u)
        ctx.threshold = threshold
        ctx.surrogate = surrogate
        return (u >= threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * ctx.surrogate.derivative(u - ctx.threshold, xp=torch), None, None


def spike(u: Tensor, threshold: float | Tensor, surrogate: Surrogate) -> Tensor:
    """Return 1 where u reaches the threshold, else 0; the surrogate is its derivative.

    Args:
        u: pre-reset potential, any shape.
        threshold: potential at which a unit fires; no gradient flows to it.
        surrogate: derivative in the backward pass.

    Returns:
        Spikes in the shape and dtype of u.

    Example:
        >>> spike(torch.tensor([0.5, 1.0]), 1.0, DEFAULT_SURROGATE)
        tensor([0., 1.])
    """
    fired: Tensor = _Spike.apply(u, threshold, surrogate)  # type: ignore[no-untyped-call]
    return fired


class Rule(nn.Module, ABC):
    """What a remedy puts in place of a layer's constants; parameters and buffers are saved with it.

    A layer with a rule asks it for every timestep. The arithmetic of :meth:`advance` must be that
    of `spikescope.analysis.neuron` with what :meth:`in_force` says, so that replay stays exact.
    """

    def begin(self, layer: LIF, fresh: bool) -> None:
        """Start a call of the layer; ``fresh`` if it begins a new sequence."""

    @abstractmethod
    def advance(self, layer: LIF, v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the layer emits at the next timestep, and the v that it carries on."""

    @abstractmethod
    def in_force(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return dynamics and surrogate of the last call, as tensors without gradient.

        What changes from timestep to timestep is ``[T, 1, ...]``, as it broadcasts over u. Called
        inside a training step: it may not wait for the device.
        """

    @abstractmethod
    def described(self, layer: LIF) -> tuple[NeuronSpec, Surrogate]:
        """Return dynamics and surrogate in plain numbers; may wait for the device."""


class LIF(nn.Module):
    """Leaky integrate-and-fire layer; the shape of the input is the shape of the output.

    ``u[t] = decay v[t-1] + gain I[t] + (1 - decay) rest``; ``s[t]`` is 1 where u[t] >= threshold,
    else 0; the reset turns u[t] into v[t]. The arithmetic is that of `spikescope.analysis.neuron`
    in the dtype of the input, so that ``replay(layer.spec, I, s, start=layer.carried(I[0]))`` gives
    the u of the layer bit for bit.

    Args:
        decay: share of v that survives one timestep, in [0, 1].
        gain: potential per unit of input current.
        threshold: potential at which a unit fires.
        reset: ``"subtract"`` (soft), ``"to_value"`` (hard) or ``"none"``.
        reset_value: potential after a hard reset.
        rest: potential to which v relaxes without input.
        start: potential before t = 1; kept as the buffer ``start``, saved with the model. A tensor
            that broadcasts over one timestep may be assigned in its place.
        surrogate: derivative of the spike in the backward pass.
        detach_reset: whether the reset is hidden from the gradient.
        step_mode: ``"multi"`` takes a whole sequence ``[T, N, ...]`` and begins at ``start`` in
            each call; ``"single"`` takes one timestep ``[N, ...]`` and carries ``v`` to the next
            call until :meth:`reset`.

    Raises:
        ValueError: a setting that no neuron can have, or an unknown ``step_mode``.

    Example:
        >>> layer = LIF(decay=0.5, threshold=1.0, reset="subtract")
        >>> layer(torch.tensor([[0.6], [0.8], [0.0]])).flatten().tolist()
        [0.0, 1.0, 0.0]

    Source:
        Fang et al. 2021 (ICCV), "Incorporating learnable membrane time constant", for the three
        stages charge, fire, reset; Neftci, Mostafa and Zenke 2019 for the surrogate gradient.
    """

    start: Tensor

    def __init__(
        self,
        decay: float = 0.5,
        gain: float = 1.0,
        threshold: float = 1.0,
        reset: Reset = "subtract",
        reset_value: float = 0.0,
        rest: float = 0.0,
        start: float = 0.0,
        surrogate: Surrogate = DEFAULT_SURROGATE,
        detach_reset: bool = False,
        step_mode: StepMode = "multi",
    ) -> None:
        super().__init__()
        self.decay = decay
        self.gain = gain
        self.threshold = threshold
        self.reset_kind: Reset = reset  # `reset` is the method that forgets the state
        self.reset_value = reset_value
        self.rest = rest
        self.register_buffer("start", torch.tensor(float(start)))
        self.surrogate = surrogate
        self.detach_reset = detach_reset
        self.step_mode: StepMode = step_mode
        self.v: Tensor | None = None
        self.rule: Rule | None = None
        _ = self.spec  # refuses, here and not in training, a setting that no neuron can have
        self._require_step_mode()

    @property
    def spec(self) -> NeuronSpec:
        """The layer's dynamics in plain numbers (an array for a start potential per unit).

        Reading ``start`` waits for the device: not for use inside a training step.
        """
        start = self.start.detach()
        numbers = start.item() if start.ndim == 0 else start.cpu().numpy()
        if self.rule is not None:
            return replace(self.rule.described(self)[0], start=numbers)
        return self.dynamics(numbers)

    def dynamics(self, start: Any = 0.0) -> NeuronSpec:
        """Return the layer's own settings, whatever a rule makes of them; never waits."""
        return NeuronSpec(
            decay=self.decay,
            gain=self.gain,
            threshold=self.threshold,
            reset=self.reset_kind,
            reset_value=self.reset_value,
            rest=self.rest,
            start=start,
            reset_gradient=not self.detach_reset,
        )

    def carried(self, current: Tensor) -> Tensor:
        """Return the potential v that the next call begins with.

        Args:
            current: input current of one timestep, ``[N, ...]``; gives shape and dtype.

        Returns:
            ``start``, or in single-step mode the v that the last call left; ``[N, ...]``.

        Raises:
            ValueError: the state belongs to an input of another shape, dtype or device.
        """
        v = self.v
        if self.step_mode == "multi" or v is None:
            return self.start.to(current.dtype).expand_as(current)
        if (v.shape, v.dtype, v.device) != (current.shape, current.dtype, current.device):
            raise ValueError(
                f"the input ({_describe(current)}) does not fit the state of the previous timestep "
                f"({_describe(v)}): call reset_state(model) before a new sequence"
            )
        return v

    def forward(self, current: Tensor) -> Tensor:
        """Turn input current into spikes.

        Args:
            current: ``[T, N, ...]`` in multi-step mode, ``[N, ...]`` in single-step mode; floating.

        Returns:
            Spikes, 0 or 1, in the shape and dtype of ``current``.

        Raises:
            ValueError: an input that is not floating, or has no timestep.
        """
        self._require_step_mode()
        if not current.is_floating_point():
            raise ValueError(
                f"the input of a LIF layer is {current.dtype}, but a current must be a floating "
                "dtype: convert it with .float()"
            )
        advance = self._begin()
        if self.step_mode == "single":
            spikes, self.v = advance(self.carried(current), current)
            return spikes
        if current.ndim == 0 or len(current) == 0:
            raise ValueError(
                f"the input of a multi-step LIF layer has shape {tuple(current.shape)}, but it "
                "must be [T, N, ...] with at least one timestep"
            )
        v = self.carried(current[0])
        out = []
        # unbind, because the gradient of indexing fills a whole [T, N, ...] for each timestep.
        for now in current.unbind(0):
            spikes, v = advance(v, now)
            out.append(spikes)
        return torch.stack(out)

    def _begin(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return what one timestep of the coming call does."""
        rule = self.rule
        if rule is None:
            return partial(self._advance, self.dynamics())
        rule.begin(self, self.step_mode == "multi" or self.v is None)
        return partial(rule.advance, self)

    def _advance(self, spec: NeuronSpec, v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        u = integrate(spec, v, current)
        s = spike(u, spec.threshold, self.surrogate)
        return s, after_reset(spec, u, s.detach() if self.detach_reset else s)

    def reset(self) -> None:
        """Forget the state, so that the next timestep begins at ``start``."""
        self.v = None

    def _require_step_mode(self) -> None:
        if self.step_mode not in ("multi", "single"):
            raise ValueError(f"step_mode={self.step_mode!r} is not one of 'multi', 'single'")

    def __getstate__(self) -> dict[str, Any]:
        # A copy keeps the potential but not the graph behind it, which cannot be copied.
        state = self.__dict__.copy()
        state["v"] = None if self.v is None else self.v.detach()
        return state

    def extra_repr(self) -> str:
        """Show the settings in ``print(model)``."""
        parts = [
            f"decay={self.decay}, gain={self.gain}, threshold={self.threshold}",
            f"reset={self.reset_kind!r}",
        ]
        if self.reset_kind == "to_value":
            parts.append(f"reset_value={self.reset_value}")
        if self.rest != 0:
            parts.append(f"rest={self.rest}")
        shape = self.surrogate
        parts.append(f"surrogate={shape.shape}(peak={shape.peak:g}, width={shape.width:g})")
        parts.append(f"detach_reset={self.detach_reset}, step_mode={self.step_mode!r}")
        return ", ".join(parts)


def reset_state(model: nn.Module) -> None:
    """Make every LIF layer of a model forget its state (needed between single-step sequences).

    Args:
        model: any module; layers of other kinds are left alone.

    Example:
        >>> layer = LIF(step_mode="single")
        >>> _ = layer(torch.tensor([0.75]))
        >>> layer.v.tolist()
        [0.75]
        >>> reset_state(nn.Sequential(layer))
        >>> layer.v is None
        True
    """
    for module in model.modules():
        if isinstance(module, LIF):
            module.reset()


def _describe(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"
