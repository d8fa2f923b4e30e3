"""The figures, for the pages and for a notebook: pure functions of a recorded run.

Example:
    >>> import spikescope                                        # doctest: +SKIP
    >>> from spikescope.dashboard import figures                 # doctest: +SKIP
    >>> run = spikescope.open_run("runs/my-run")                 # doctest: +SKIP
    >>> figures.membrane_law(run, "net.3").show()                # doctest: +SKIP
"""

from .figures_attribution import (
    attribution_error,
    attribution_frame,
    attribution_map,
    error_frame,
)
from .figures_choose import chosen_law, law_frame, shapes, shapes_frame
from .figures_compare import (
    QUANTITIES,
    at_point,
    difference_heatmap,
    difference_values,
    loss_frame,
    losses,
    parting_curve,
)
from .figures_decay import decay_values, gradient_decay
from .figures_drift import (
    SETTLED,
    drift_distances,
    drift_values,
    mixing,
    removable_shift,
    removable_values,
)
from .figures_fidelity import fewer_timesteps, fidelity_curve, timestep_importance
from .figures_flow import flow_values, gradient_over_depth, gradient_over_time
from .figures_heatmap import cells, layer_heatmap, recorded_steps
from .figures_joint import joint_density, joint_frame
from .figures_law import membrane_law
from .figures_profile import profile, profile_values
from .figures_ribbon import QUANTILE_NAMES, quantile_ribbon, ribbon_values
from .figures_saliency import input_saliency, saliency_frame
from .figures_scalars import loss, scalar_curve, scalar_curves
from .figures_style import CONFIG, reading
from .measured_law import measured_law
from .metrics import METRICS

__all__ = [
    "CONFIG",
    "METRICS",
    "QUANTILE_NAMES",
    "QUANTITIES",
    "SETTLED",
    "at_point",
    "attribution_error",
    "attribution_frame",
    "attribution_map",
    "cells",
    "chosen_law",
    "decay_values",
    "difference_heatmap",
    "difference_values",
    "drift_distances",
    "drift_values",
    "error_frame",
    "fewer_timesteps",
    "fidelity_curve",
    "flow_values",
    "gradient_decay",
    "gradient_over_depth",
    "gradient_over_time",
    "input_saliency",
    "joint_density",
    "joint_frame",
    "law_frame",
    "layer_heatmap",
    "loss",
    "loss_frame",
    "losses",
    "measured_law",
    "membrane_law",
    "mixing",
    "parting_curve",
    "profile",
    "profile_values",
    "quantile_ribbon",
    "reading",
    "recorded_steps",
    "removable_shift",
    "removable_values",
    "ribbon_values",
    "saliency_frame",
    "scalar_curve",
    "scalar_curves",
    "shapes",
    "shapes_frame",
    "timestep_importance",
]
