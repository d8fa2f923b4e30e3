"""Findings: what a recorded run shows, against which bound, from which source.

A rule fires when the confidence interval of its figure clears the bound, not when a point does.
"""

from __future__ import annotations

from ...data.runs import Run
from .catalogue import RULES
from .evidence import Evidence
from .types import SEVERITIES, Advice, Bound, Finding, Rule, Severity

__all__ = [
    "RULES",
    "SEVERITIES",
    "Advice",
    "Bound",
    "Evidence",
    "Finding",
    "Rule",
    "Severity",
    "diagnose",
]


def diagnose(run: Run, *, layer: str | None = None, since: int | None = None) -> list[Finding]:
    """Apply every rule of the catalogue to a run.

    Args:
        run: an opened run, finished or not.
        layer: only findings about this layer; all if None.
        since: look at steps from this one on; all if None.

    Returns:
        Findings, errors first, then warnings, then notes; inside a severity in the order of
        :data:`RULES` and of the network, those of the lint last. Empty for a healthy run, and for
        one without records.

    Raises:
        RunError: an unknown layer.
        ValueError: a negative step.

    Example:
        >>> import tempfile
        >>> from spikescope import open_run
        >>> from spikescope.data.store import RunStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = RunStore(f"{folder}/run", {"format": 1, "layers": []})
        ...     store.end("finished")
        ...     diagnose(open_run(f"{folder}/run"))
        []

    Source:
        Each rule's own: ``CATALOGUE.md`` in this folder, and :attr:`Finding.source`.
    """
    if layer is not None:
        run.layer(layer)
    if since is not None and since < 0:
        raise ValueError(f"since={since!r} is not possible: give a step, 0 or more")
    evidence = Evidence(run, since)
    found: list[Finding] = []
    if evidence.layers:
        found = [finding for rule in RULES for finding in rule.check(evidence)]
    stored = run.judgement("lint").get("findings", [])
    found += [Finding.from_dict(entry) for entry in stored]
    if layer is not None:
        found = [finding for finding in found if finding.layer == layer]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
