"""Commands about a live model: they load torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from .cli_print import AsJson, FailOnOption, fail, print_findings, print_json


def lint(
    target: Annotated[str, typer.Argument(help="MODULE:CALLABLE that builds the model.")],
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """Measure each layer's surrogate and compare it with what the layer declares."""
    from .probes.lint import TITLES, lint_target

    findings = lint_target(target)
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    elif findings:
        print_findings(Console(), findings, TITLES)
    else:
        Console().print("No finding: every surrogate is sound and as declared.")
    fail(findings, fail_on)
