"""Findings of one rule together: a reader sees what is wrong once, not once per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.findings import RULES, SEVERITIES, Finding

_TITLES = {rule.code: rule.title for rule in RULES}


@dataclass(frozen=True)
class Group:
    """The findings of one rule and severity.

    Args:
        findings: at least one, the first ones first.
    """

    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Finding:
        """The finding that stands for the others: the first that its rule found."""
        return self.findings[0]

    @property
    def title(self) -> str:
        """What is wrong, in a few words; the rule's code if the rule is unknown."""
        return _TITLES.get(self.worst.code, self.worst.code)

    @property
    def layers(self) -> list[str]:
        """Names of the layers, each once; empty if it is about the whole model."""
        return list(dict.fromkeys(found.layer for found in self.findings if found.layer))

    @property
    def steps(self) -> tuple[int, int]:
        """First and last step."""
        return (
            min(found.steps[0] for found in self.findings),
            max(found.steps[1] for found in self.findings),
        )


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings with the gravest first, otherwise in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """Return findings by rule and severity, the gravest first.

    Args:
        findings: what ``diagnose`` said.

    Returns:
        Groups, in the order of their first findings.

    Example:
        >>> one = Finding("G1", "error", "net.1", 1, (0, 9), 0.0, 0.0, 0.1, "", "", "")
        >>> two = Finding("G1", "error", "net.3", 1, (5, 9), 0.0, 0.0, 0.1, "", "", "")
        >>> (group,) = grouped([one, two])
        >>> group.title, group.layers, group.steps
        ('gradient coverage low', ['net.1', 'net.3'], (0, 9))
    """
    by_rule: dict[tuple[str, str], list[Finding]] = {}
    for finding in ranked(findings):
        by_rule.setdefault((finding.code, finding.severity), []).append(finding)
    return [Group(tuple(members)) for members in by_rule.values()]
