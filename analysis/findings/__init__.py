"""Findings: what a recorded run shows, against which bound, from which source.

A rule fires when the confidence interval of its figure clears the bound, not when a point does.
"""

from __future__ import annotations

from ...data.runs import Run
from .evidence import Evidence
from .rules_capture import P1_SOURCE, P2_SOURCE, gradient_residual, replay_mismatch
from .rules_gradient import (
    DECAY_SOURCE,
    G1_SOURCE,
    coverage_low,
    gradient_lost_over_depth,
    gradient_lost_over_time,
)
from .rules_membrane import M1_SOURCE, temporal_covariate_shift
from .types import SEVERITIES, Finding, Rule, Severity

__all__ = ["RULES", "SEVERITIES", "Finding", "Rule", "Severity", "diagnose"]

RULES: tuple[Rule, ...] = (
    Rule(
        "P1",
        "replay mismatch",
        "Does the layer do what was declared of it?",
        P1_SOURCE,
        replay_mismatch,
    ),
    Rule(
        "P2",
        "gradient residual",
        "Do the gradients follow from the declared surrogate?",
        P2_SOURCE,
        gradient_residual,
    ),
    Rule(
        "G1",
        "gradient coverage low",
        "Do the elements lie where the surrogate passes gradient on?",
        G1_SOURCE,
        coverage_low,
    ),
    Rule(
        "G2",
        "gradient lost over depth",
        "Does the gradient reach the early layers?",
        DECAY_SOURCE,
        gradient_lost_over_depth,
    ),
    Rule(
        "G3",
        "gradient lost over time",
        "Does the gradient reach the early timesteps?",
        DECAY_SOURCE,
        gradient_lost_over_time,
    ),
    Rule(
        "M1",
        "temporal covariate shift",
        "Does the membrane potential start where it settles?",
        M1_SOURCE,
        temporal_covariate_shift,
    ),
)


def diagnose(run: Run) -> list[Finding]:
    """Apply every rule of the catalogue to a run.

    Args:
        run: an opened run, finished or not.

    Returns:
        Findings, errors first, then warnings, then notes; inside a severity in the order of
        :data:`RULES` and of the network. Empty for a healthy run, and for one without records.
    """
    evidence = Evidence(run)
    if not evidence.layers:
        return []
    found = [finding for rule in RULES for finding in rule.check(evidence)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
