"""See, explain and mend what happens inside directly trained spiking neural networks.

The public names are resolved on first use, so that ``import spikescope`` and the dashboard
load neither torch nor plotly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.compare import compare
    from .analysis.findings import Finding, diagnose
    from .data.runs import Run, open_run
    from .probes.apply import Applied, apply, restore
    from .probes.attribute import attribute
    from .probes.journal import SpikescopeWarning
    from .probes.preflight import recommend
    from .probes.probe import Probe, watch
    from .probes.remedies import attach_remedy
    from .probes.surrogate_fidelity import surrogate_fidelity
    from .probes.timestep_importance import timestep_importance

__version__ = "0.1.0"

_HOMES = {
    "Applied": ".probes.apply",
    "Finding": ".analysis.findings",
    "Probe": ".probes.probe",
    "Run": ".data.runs",
    "SpikescopeWarning": ".probes.journal",
    "apply": ".probes.apply",
    "attach_remedy": ".probes.remedies",
    "attribute": ".probes.attribute",
    "compare": ".analysis.compare",
    "diagnose": ".analysis.findings",
    "open_run": ".data.runs",
    "recommend": ".probes.preflight",
    "restore": ".probes.apply",
    "surrogate_fidelity": ".probes.surrogate_fidelity",
    "timestep_importance": ".probes.timestep_importance",
    "watch": ".probes.probe",
}

__all__ = [
    "Applied",
    "Finding",
    "Probe",
    "Run",
    "SpikescopeWarning",
    "__version__",
    "apply",
    "attach_remedy",
    "attribute",
    "compare",
    "diagnose",
    "open_run",
    "recommend",
    "restore",
    "surrogate_fidelity",
    "timestep_importance",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import the home of a public name the first time that somebody asks for it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(
        f"module 'spikescope' has no attribute {name!r}; it has {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted(__all__)
