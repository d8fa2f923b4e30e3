"""Scale of the recurrent weights for a wanted growth of the gradient and the law it implies."""

from __future__ import annotations

import numpy as np

from .growth import growth_rate
from .neuron_spec import NeuronSpec
from .recurrent_density import recurrent_law
from .roots import Roots, scan_roots
from .surrogate import Surrogate

POWER_GRID = np.geomspace(0.1, 10.0, 6)  # n E[w^2], around the 1 of common initialisations


def weight_power_for_growth(
    spec: NeuronSpec,
    surrogate: Surrogate,
    input_mean: float,
    input_std: float,
    *,
    target: float = 1.0,
    quenched_std: float = 0.0,
) -> Roots:
    """Solve n Var[w] of zero-mean recurrent weights for a growth of the gradient per timestep.

    The weights change the law of u as well, so the law is solved again at every trial.

    Args:
        spec: scalar dynamics of the layer.
        surrogate: its derivative.
        input_mean: mean input current, a bias included.
        input_std: standard deviation over time of the input current.
        target: wanted growth chi of the amplitude per timestep.
        quenched_std: standard deviation over units of their mean input currents.

    Returns:
        All solutions between .1 and 10, none with the reason.

    Raises:
        ValueError: inputs that are not possible.

    Example:
        >>> spec = NeuronSpec(decay=0.5, delayed_reset=True, reset_gradient=False)
        >>> found = weight_power_for_growth(spec, Surrogate("exponential", 2.2440, 0.5), 0.0, 0.5)
        >>> [round(power, 2) for power in found.values]
        [1.0]

    Source:
        Growth with reused weights on the self-consistent law of the layer.
    """
    gain = float(spec.gain)

    def excess(power: float) -> float:
        law = recurrent_law(
            spec, input_mean, input_std, recurrent_variance=power, quenched_std=quenched_std
        )
        return growth_rate(law.statistics(surrogate), power * gain**2).chi - target

    found = scan_roots(excess, POWER_GRID, tolerance=1e-6)
    low, high = (excess(float(power)) + target for power in POWER_GRID[[0, -1]])
    span = f"the growth goes from {low:.4g} (n Var[w] = .1) to {high:.4g} (10)"
    return Roots("weight power", found, span)
