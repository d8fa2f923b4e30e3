"""What a spike function returns: whether these are spikes, and whether the threshold fires."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .measure import grid


def fires_at_threshold(
    function: Callable[[Tensor], Tensor],
    scale: float = 1.0,
    device: torch.device | str = "cpu",
) -> bool:
    """Return whether u = threshold fires, from what the function itself says.

    Args:
        function: the spike as a function of u - threshold.
        scale: size of the threshold, potential.
        device: where the function can compute.

    Returns:
        True for ``>=``, False for ``>``.

    Raises:
        ValueError: it returns something else than 0 below and 1 above the threshold.

    Example:
        >>> fires_at_threshold(lambda z: (z >= 0).float()), fires_at_threshold(lambda z: z > 0)
        (True, False)
        >>> fires_at_threshold(torch.sigmoid)
        Traceback (most recent call last):
        ...
        ValueError: its spike function returns 0.00669285 at u - threshold = -5, not the spike 0
    """
    x = grid(scale)
    distance = torch.from_numpy(x).to(device)
    with torch.random.fork_rng([distance.device] if distance.is_cuda else []), torch.no_grad():
        spikes = function(distance).double().cpu().numpy()
    wrong = (spikes != (x > 0)) & (x != 0)
    at = spikes[x == 0][0]
    if np.any(wrong) or at not in (0.0, 1.0):
        place = int(np.argmax(wrong)) if np.any(wrong) else int(np.argmax(x == 0))
        raise ValueError(
            f"its spike function returns {spikes[place]:.6g} at u - threshold = {x[place]:.6g}, "
            f"not the spike {int(x[place] > 0)}"
        )
    return bool(at == 1)
