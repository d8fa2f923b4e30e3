"""Running statistics on the device: summarise a block of timesteps by the fastest route.

A block is a dict from stored column to a tensor with one entry per timestep. What its columns are
is defined once, by :mod:`.accumulators_general`; the other routes say the same, faster, of passes
that they handle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..analysis.neuron import NeuronSpec
from ..analysis.surrogate import Surrogate
from . import accumulators_cpu, accumulators_general, capture, gradients_cpu, kernels
from .accumulators_general import density, gradient_block
from .accumulators_merge import Block, merge
from .capture import Gradients, LayerGradients
from .kernels import take_note
from .modes import wide
from .observed import ROUNDING_ULPS, Dynamics, Observed
from .past import Past
from .update_rule import settled

__all__ = [
    "ROUNDING_ULPS",
    "ROUTES",
    "Block",
    "Route",
    "backward_block",
    "density",
    "forward_block",
    "forward_pass",
    "gradient_block",
    "merge",
    "take_note",
]


@dataclass(frozen=True)
class Route:
    """One way to the statistics of a pass.

    Args:
        name: what it is called.
        handles: whether it is made for a forward pass.
        forward: the forward columns; None where the values turn out to be unusual.
        handles_gradients: whether it is made for a backward pass.
        backward: the gradient columns; None where the values turn out to be unusual.
        replays: whether it recomputes the potential itself.
    """

    name: str
    handles: Callable[[Observed], bool]
    forward: Callable[[Observed], Block | None]
    handles_gradients: Callable[[Gradients | LayerGradients], bool]
    backward: Callable[[Gradients | LayerGradients], Block | None]
    replays: bool = False


class Summary(NamedTuple):
    """What is left of a forward pass.

    Args:
        block: the forward columns of :func:`forward_block`.
        u: pre-reset potential in at least float32, ``[T, N, ...]``, of all samples or of those
            needed; None where it was not kept.
        spikes: the spikes, ``[T, N, ...]``, likewise.
        units: spikes of each unit, ``[...]``; None where nobody counted them along.
    """

    block: Block
    u: Tensor | None
    spikes: Tensor
    units: Tensor | None


def forward_pass(
    spec: NeuronSpec,
    current: Tensor,
    spikes: Tensor,
    start: Tensor,
    filtered: Tensor | None = None,
    *,
    scale: float,
    surrogate: Surrogate | None,
    fired_before: Tensor | None,
    t: int,
    histogram: bool = True,
    keep_u: bool = True,
    keep_samples: int | None = None,
    late: bool = False,
    past: Past | None = None,
) -> Summary:
    """Replay one forward pass of a layer, and summarise it.

    Args:
        spec: the layer's dynamics.
        current: input current, ``[T, N, ...]``.
        spikes: observed spikes (0 or 1), ``[T, N, ...]``.
        start: potential before the first timestep, ``[N, ...]``; or before each of them,
            ``[T, N, ...]``, on a CPU and without a filter.
        filtered: current that a synaptic filter holds before it, ``[N, ...]``; None for none.
        scale: potential per unit of the density's axis.
        surrogate: declared surrogate, None where it is unknown.
        fired_before: spikes of each element before this pass, ``[N, ...]``; None for none.
        t: first timestep of the pass, from 1.
        histogram: whether to count the density, too.
        keep_u: whether u is needed afterwards.
        keep_samples: of how many samples, the first ones, u is needed; None for all.
        late: whether ``start`` is before the reset that the spikes of its own imply.
        past: in place of ``fired_before``, of a pass of one timestep: what its sequence has done so
            far, which this timestep is taken into.

    Returns:
        The columns, and what else is needed afterwards.

    Example:
        >>> current, spikes = torch.tensor([[0.6], [0.8]]), torch.tensor([[0.0], [1.0]])
        >>> block, u, *_ = forward_pass(
        ...     NeuronSpec(decay=0.5), current, spikes, torch.zeros(1), scale=1.0, surrogate=None,
        ...     fired_before=None, t=1)
        >>> block["mismatch"].tolist(), [round(value, 6) for value in u.flatten().tolist()]
        ([0, 0], [0.6, 1.1])
    """
    if late and current.device.type != "cpu":
        start, late = settled(spec, start), False
    if past is not None and not accumulators_cpu.suits(spikes):
        fired_before = past.counts()
        past.take(wide(spikes))
        past = None
    seen = Observed(
        None,
        None,
        spikes,
        current,
        spec.threshold,
        scale,
        surrogate,
        fired_before,
        t,
        current.dtype,
        spec.fires_at_threshold,
        histogram,
        Dynamics(spec, start),
        keep_u,
        keep_samples,
        past,
        late,
    )
    for route in ROUTES:
        if route.replays and route.handles(seen):
            block = route.forward(seen)
            if block is not None:
                return Summary(block, seen.u, spikes, seen.units)
    if late:
        start = settled(spec, start)
    if past is not None:
        fired_before = past.counts()
        past.take(wide(spikes))
    # The replay rounds as the layer does, in its dtype; sums over it need a wider one.
    implied: Tensor | None = None
    if wide(current) is current:
        u = capture.potential(spec, current, spikes, start, filtered)
    else:
        u, implied = capture.membrane(spec, current, spikes, start, filtered)
        implied = wide(implied)
    computed_in = u.dtype
    u, spikes = wide(u), wide(spikes)
    block = forward_block(
        u,
        implied,
        spikes,
        wide(current),
        threshold=spec.threshold,
        scale=scale,
        surrogate=surrogate,
        fired_before=fired_before,
        t=t,
        computed_in=computed_in,
        fires_at_threshold=spec.fires_at_threshold,
        histogram=histogram,
    )
    return Summary(block, u, spikes, None)


def forward_block(
    u: Tensor,
    implied: Tensor | None,
    spikes: Tensor,
    current: Tensor | None,
    *,
    threshold: Tensor | float,
    scale: float,
    surrogate: Surrogate | None,
    fired_before: Tensor | None,
    t: int,
    computed_in: torch.dtype | None = None,
    fires_at_threshold: bool = True,
    histogram: bool = True,
) -> Block:
    """Summarise one forward pass of a layer whose potential is known.

    Args:
        u: pre-reset potential, ``[T, N, ...]`` with N independent samples.
        implied: spikes (0 or 1) that u implies, ``[T, N, ...]``; None where it is what u does at
            the threshold.
        spikes: observed spikes (0 or 1), ``[T, N, ...]``.
        current: input current, ``[T, N, ...]``; None where it was not seen.
        threshold: threshold in force; a tensor must broadcast over u, ``[T, 1, ...]`` for one per
            timestep. So must the numbers of the surrogate.
        scale: potential per unit of the density's axis.
        surrogate: declared surrogate; without one its columns say that nothing was seen.
        fired_before: spikes of each element before this block, ``[N, ...]``; None for none.
        t: first timestep of the block, from 1.
        computed_in: dtype that the layer rounds in, if it is narrower than that of u.
        fires_at_threshold: whether u = threshold is a spike, where ``implied`` is None.
        histogram: whether to count the density, too.

    Returns:
        The forward columns, ``[T]`` each (``density`` is ``[T, bin]``).
    """
    seen = Observed(
        u,
        implied,
        spikes,
        current,
        threshold,
        scale,
        surrogate,
        fired_before,
        t,
        computed_in or u.dtype,
        fires_at_threshold,
        histogram,
    )
    for route in ROUTES:
        if route.handles(seen):
            block = route.forward(seen)
            if block is not None:
                return block
    raise ValueError(f"no route handles a potential of shape {tuple(u.shape)}")


def backward_block(gradients: Gradients | LayerGradients) -> Block:
    """Summarise the gradients of one backward pass of a layer.

    Args:
        gradients: ``[T, N, ...]`` each.

    Returns:
        The gradient columns, ``[T]`` each.
    """
    for route in ROUTES:
        if route.handles_gradients(gradients):
            block = route.backward(gradients)
            if block is not None:
                return block
    raise ValueError(f"no route handles gradients of shape {tuple(gradients.like.shape)}")


ROUTES = (
    Route(
        "kernel",
        kernels.handles,
        kernels.forward,
        kernels.handles_gradients,
        kernels.backward,
        replays=True,
    ),
    Route(
        "pieces",
        accumulators_cpu.handles,
        accumulators_cpu.forward,
        lambda gradients: accumulators_cpu.suits(gradients.like),
        gradients_cpu.backward,
        replays=True,
    ),
    Route(
        "general",
        lambda seen: seen.u is not None,
        accumulators_general.forward,
        lambda gradients: True,
        accumulators_general.backward,
    ),
)
"""The routes, the fastest first; the last one takes whatever is left."""
