"""The figures, for the pages and for a notebook: pure functions of a recorded run.

Example:
    >>> import spikescope                                        # doctest: +SKIP
    >>> from spikescope.dashboard import figures                 # doctest: +SKIP
    >>> run = spikescope.open_run("runs/my-run")                 # doctest: +SKIP
    >>> figures.membrane_law(run, "net.3").show()                # doctest: +SKIP
"""

from .figures_heatmap import cells, layer_heatmap, recorded_steps
from .figures_law import measured_law, membrane_law
from .figures_profile import profile, profile_values
from .figures_scalars import loss, scalar_curve
from .figures_style import CONFIG, reading
from .metrics import METRICS

__all__ = [
    "CONFIG",
    "METRICS",
    "cells",
    "layer_heatmap",
    "loss",
    "measured_law",
    "membrane_law",
    "profile",
    "profile_values",
    "reading",
    "recorded_steps",
    "scalar_curve",
]
