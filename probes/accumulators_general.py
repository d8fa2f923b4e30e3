"""The statistics of a block as they are defined, in torch, for any device, dtype and neuron.

Nothing here waits for the device: no ``.item()``, no shape that depends on the data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..analysis.surrogate import Surrogate
from ..data.schema import COVERAGE_EPSILON, DENSITY_BINS, DENSITY_WIDTH
from . import capture
from .accumulators_merge import Block
from .capture import Gradients, LayerGradients
from .observed import Observed


def forward(seen: Observed) -> Block:
    """Summarise one forward pass of a layer whose potential is known.

    Args:
        seen: what is known of it.

    Returns:
        The forward columns, ``[T]`` each (``density`` is ``[T, bin]``).
    """
    u, threshold, spikes, implied = seen.u, seen.threshold, seen.spikes, seen.implied
    assert u is not None
    if implied is None:
        implied = (u >= threshold if seen.fires_at_threshold else u > threshold).to(u.dtype)
    fired_before = torch.zeros_like(spikes[0]) if seen.fired_before is None else seen.fired_before
    blocks = []
    timed = capture.is_timed(threshold, u)
    for rows in _each_timestep(u) if timed else _slices(u):
        block = _forward(
            u[rows],
            implied[rows],
            spikes[rows],
            None if seen.current is None else seen.current[rows],
            fired_before,
            threshold[rows] if isinstance(threshold, Tensor) and timed else threshold,
            seen.scale,
            _at(seen.surrogate, u, rows),
            seen.t + rows.start,
            seen.rounding,
            seen.histogram,
        )
        blocks.append(block)
        fired_before = fired_before + spikes[rows].sum(0)
    return _joined(blocks)


def backward(gradients: Gradients | LayerGradients) -> Block:
    """Summarise the gradients of one backward pass of a layer.

    Args:
        gradients: ``[T, N, ...]`` each.

    Returns:
        The gradient columns, ``[T]`` each.
    """
    s, s_total, u, residual = gradients.whole
    return _joined(
        [
            _backward(s[rows], s_total[rows], u[rows], None if residual is None else residual[rows])
            for rows in _slices(u)
        ]
    )


def _forward(
    u: Tensor,
    implied: Tensor,
    spikes: Tensor,
    current: Tensor | None,
    fired_before: Tensor,
    threshold: Tensor | float,
    scale: float,
    surrogate: Surrogate | None,
    t: int,
    rounding: float,
    histogram: bool,
) -> Block:
    timesteps = len(u)
    z = _flat(u - threshold)
    finite = torch.isfinite(z)
    z = torch.where(finite, z, 0.0)
    # Moments are taken about one level, for precision; it is the threshold itself if there is one.
    level: Tensor | float = threshold
    about = z
    if isinstance(threshold, Tensor):
        level = threshold.double().mean()
        if threshold.numel() > 1:
            about = torch.where(finite, _flat(u - level.to(u.dtype)), 0.0)
    per_sample = _count(finite)
    count = per_sample.sum(-1)
    block = {
        "samples": (per_sample > 0).sum(-1),
        "count": count,
        "nonfinite": z[0].numel() - count,
        "threshold": _constant(level, timesteps, u),
    }
    block |= _agreement(z, finite, _flat(implied), _flat(spikes), rounding)
    block |= _moments("u", about, finite, per_sample, level)
    if current is not None:
        # The input is looked at where u is finite, so that one count weighs both.
        current = torch.where(finite, _flat(current), 0.0)
        moments = _moments("input", current, finite, per_sample, 0.0)
        block |= {name: moments[name] for name in ("input_mean", "input_var")}
    least = torch.where(finite, about, torch.inf).amin((1, 2)).double() + level
    largest = torch.where(finite, about, -torch.inf).amax((1, 2)).double() + level
    block["u_min"] = torch.where(count > 0, least, torch.nan)
    block["u_max"] = torch.where(count > 0, largest, torch.nan)
    if histogram:
        # By a tensor: an accelerator takes a number's reciprocal first, which rounds twice.
        block |= density(z / z.new_full((), scale), finite)
    block |= _spiking(_flat(spikes), _flat(fired_before.unsqueeze(0)), per_sample, t)
    block |= _surrogate(surrogate, z, finite, per_sample)
    return block


def _backward(s: Tensor, s_total: Tensor, u: Tensor, residual: Tensor | None) -> Block:
    block: Block = {}
    for name, values in (
        ("grad_s", s),
        ("grad_s_total", s_total),
        ("grad_u", u),
    ):
        block |= gradient_block(name, values)
    flat, _, seen = _finite(_flat(u))
    square, _ = _mean_square(flat, seen)
    block["grad_samples"] = (seen > 0).sum(-1)
    block |= _sample_moments("grad_u", square, 0.0)
    if residual is not None:
        flat, _, seen = _finite(_flat(residual))
        block["residual_count"] = seen.sum(-1)
        block["residual_square"] = _mean_square(flat, seen)[1]
    return block


def gradient_block(name: str, values: Tensor) -> Block:
    """Summarise one gradient ``[T, N, ...]`` into its columns, ``[T]`` each."""
    flat, finite, seen = _finite(_flat(values))
    count = seen.sum(-1)
    return {
        f"{name}_count": count,
        f"{name}_nonfinite": flat[0].numel() - count,
        f"{name}_zero": _count((flat == 0) & finite).sum(-1),
        f"{name}_square": _mean_square(flat, seen)[1],
    }


def density(z: Tensor, finite: Tensor) -> Block:
    """Count u into bins whose range doubles until every finite value lies inside.

    Args:
        z: (u - threshold) in thresholds, 0 where it is not finite, ``[T, N, M]``.
        finite: which of them count, ``[T, N, M]``.

    Returns:
        ``density`` ``[T, bin]`` and ``density_exponent`` ``[T]``.

    Example:
        >>> block = density(torch.tensor([[[-0.5, 0.0, 7.0]]]), torch.ones(1, 1, 3, dtype=bool))
        >>> block["density_exponent"].tolist(), block["density"].nonzero()[:, 1].tolist()
        ([2], [120, 128, 240])
    """
    half = DENSITY_BINS // 2
    # A finite u in units of a small threshold may be infinite: it belongs into the last bin.
    reach = _largest(z).clamp(max=torch.finfo(z.dtype).max) / (half * DENSITY_WIDTH)
    # frexp: reach = mantissa * 2^exponent with mantissa < 1, so 2^exponent is a bound.
    exponent = torch.frexp(reach).exponent.clamp(min=0)
    # Dividing by a power of two is exact, so a coarser count is a merge of a finer one. The range
    # comes first: dividing by the width first would overflow.
    bins = torch.ldexp(z, -exponent[:, None, None]).div_(DENSITY_WIDTH).floor_()
    # What the division took below the smallest number stays on its side of the threshold.
    bins = torch.where(z < 0, bins.clamp(max=-1), bins).clamp_(-half, half - 1)
    rows = torch.arange(len(z), device=z.device)[:, None, None]
    places = (bins.int() + (half + DENSITY_BINS * rows)).flatten()
    size = len(z) * DENSITY_BINS
    if places.device.type == "cpu":
        counts = torch.bincount(places, minlength=size)
    else:  # bincount would wait for the device
        counts = torch.zeros(size, dtype=torch.int64, device=z.device)
        counts.scatter_add_(0, places, torch.ones_like(places))
    counts = counts.view(len(z), DENSITY_BINS)
    # What is not finite came in as 0, and is taken out of the bin above the threshold.
    counts[:, half] -= _count(~finite).sum(-1)
    return {
        "density": counts,
        "density_exponent": exponent.long(),
    }


def _slices(values: Tensor) -> list[slice]:
    """Return which timesteps to look at together: on a CPU each alone, since one fits its cache."""
    return _each_timestep(values) if values.device.type == "cpu" else [slice(0, len(values))]


def _each_timestep(values: Tensor) -> list[slice]:
    return [slice(place, place + 1) for place in range(len(values))]


def _at(surrogate: Surrogate | None, u: Tensor, rows: slice) -> Surrogate | None:
    """Return the surrogate of some timesteps, its numbers as they broadcast over flattened u."""
    if surrogate is None:
        return None
    timed = {
        name: value[rows].reshape(-1, 1, 1)
        for name in ("peak", "width")
        if capture.is_timed(value := getattr(surrogate, name), u)
    }
    return replace(surrogate, **timed) if timed else surrogate


def _joined(blocks: list[Block]) -> Block:
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _flat(values: Tensor) -> Tensor:
    """Return ``[T, N, M]`` in float32 or float64."""
    values = values.reshape(*values.shape[:2], -1)
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _finite(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values with 0 for what is not finite, the mask, and how many count per sample."""
    finite = torch.isfinite(values)
    return torch.where(finite, values, 0.0), finite, _count(finite)


def _count(mask: Tensor) -> Tensor:
    """Return how many elements of each sample are true, ``[T, N]``."""
    if mask.shape[-1] < 2**24:  # float32 counts exactly up to here, and several times faster
        return mask.float().sum(-1).long()
    return mask.sum(-1)


def _largest(values: Tensor) -> Tensor:
    """Return the largest magnitude of each timestep, ``[T]``; two reductions beat one abs."""
    return torch.maximum(values.amax((1, 2)), -values.amin((1, 2)))


def _constant(value: Tensor | float, timesteps: int, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.double().expand(timesteps)
    return torch.full((timesteps,), value, dtype=torch.float64, device=like.device)


def _moments(
    name: str, values: Tensor, finite: Tensor, per_sample: Tensor, level: Tensor | float
) -> Block:
    """Return mean and variance, also over the samples' means.

    Two passes: the second is about the first's mean. Values are taken relative to a power of two
    near the largest, so that no sum or square leaves float32 when the potential diverges.
    """
    count = per_sample.sum(-1)
    exponent = torch.frexp(_largest(values)).exponent.clamp(-120, 120)
    unit = torch.ldexp(torch.ones_like(values[:, 0, 0]), exponent)
    relative = values / unit[:, None, None]
    # Sums of one sample are float32 (torch adds them pairwise), sums over samples float64.
    summed = relative.sum(-1).double()
    mean = summed.sum(-1) / count
    centred = torch.where(finite, relative - mean[:, None, None].to(values.dtype), 0.0)
    # The mean was rounded to the values' dtype; what that left is taken out of the square.
    rest = centred.sum(-1).double().sum(-1) / count
    square = (centred * centred).sum(-1).double().sum(-1) / count
    unit = unit.double()
    return {
        f"{name}_mean": mean * unit + level,
        f"{name}_var": (square - rest * rest).clamp(min=0) * unit**2,
        **_sample_moments(name, summed / per_sample * unit[:, None], level),
    }


def _sample_moments(name: str, per_sample: Tensor, shift: Tensor | float) -> Block:
    """Return mean and variance over samples of a figure ``[T, N]``, NaN where nothing was seen."""
    seen = torch.isfinite(per_sample)
    values = torch.where(seen, per_sample, 0.0)
    count = seen.sum(-1)
    mean = values.sum(-1) / count
    spread = torch.where(seen, (values - mean[:, None]) ** 2, 0.0).sum(-1) / count
    return {f"{name}_sample_mean": mean + shift, f"{name}_sample_var": spread}


def _agreement(
    z: Tensor, finite: Tensor, implied: Tensor, spikes: Tensor, rounding: float
) -> Block:
    """Count the spikes that the replay does not explain, those within rounding apart."""
    wrong = (implied != spikes) & finite
    near = z.abs() <= rounding
    near_count = _count(wrong & near).sum(-1)
    return {"mismatch": _count(wrong).sum(-1) - near_count, "near_mismatch": near_count}


def _spiking(spikes: Tensor, fired_before: Tensor, per_sample: Tensor, t: int) -> Block:
    emitted = spikes.sum(-1)
    rate = torch.where(per_sample > 0, emitted.double() / spikes.shape[-1], torch.nan)
    so_far = fired_before + spikes.cumsum(0)
    elapsed = torch.arange(t, t + len(spikes), device=spikes.device)[:, None, None]
    return {
        "spikes": emitted.double().sum(-1).round().long(),
        "silent": _count(so_far == 0).sum(-1),
        "saturated": _count(so_far == elapsed).sum(-1),
        **_sample_moments("rate", rate, 0.0),
    }


def _surrogate(surrogate: Surrogate | None, z: Tensor, finite: Tensor, per_sample: Tensor) -> Block:
    if surrogate is None:
        unknown = torch.full((len(z),), torch.nan, dtype=torch.float64, device=z.device)
        none = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return {
            "surrogate_mean": unknown,
            "surrogate_square": unknown,
            "covered": none,
            "open": none,
            "coverage_sample_mean": unknown,
            "coverage_sample_var": unknown,
        }
    slope = torch.where(finite, surrogate.derivative(z, xp=torch), 0.0)
    covered = _count(slope > COVERAGE_EPSILON * surrogate.peak)
    count = per_sample.sum(-1)
    return {
        "surrogate_mean": slope.sum(-1).double().sum(-1) / count,
        "surrogate_square": (slope * slope).sum(-1).double().sum(-1) / count,
        "covered": covered.sum(-1),
        "open": _count(slope != 0).sum(-1),
        **_sample_moments("coverage", covered.double() / per_sample, 0.0),
    }


def _mean_square(values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean square per sample ``[T, N]`` and overall ``[T]``, without underflow.

    A vanishing gradient is the very thing to measure: its square leaves float32 long before the
    gradient does, so it is taken relative to the largest element.
    """
    largest = _largest(values)
    unit = torch.where(largest > 0, largest, 1.0)
    relative = values / unit[:, None, None]
    summed = (relative * relative).sum(-1).double()
    square = unit.double() ** 2
    return square[:, None] * summed / seen, square * summed.sum(-1) / seen.sum(-1)
