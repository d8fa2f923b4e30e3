"""The ``spikescope`` command: its subcommands by name, and how it ends.

Exit status: 0 for success, 1 when ``--fail-on`` finds something, 2 for bad input (one line).
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from . import (
    __version__,
    cli_attribute,
    cli_compare,
    cli_demo,
    cli_diagnose,
    cli_export,
    cli_live,
    cli_recommend,
    cli_runs,
    cli_theory,
    cli_train,
)

COMMANDS = (
    cli_demo.demo,
    cli_train.train,
    cli_diagnose.diagnose,
    cli_live.lint,
    cli_compare.compare,
    cli_attribute.attribute,
    cli_runs.runs,
    cli_runs.dashboard,
    cli_export.export,
    cli_theory.stationary,
    cli_recommend.recommend,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"spikescope {__version__}")
        raise typer.Exit


_VERSION = typer.Option(
    "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
)


@app.callback()
def options(version: Annotated[bool, _VERSION] = False) -> None:
    """See, explain and mend what happens inside spiking neural networks."""


def main() -> None:
    """Run the command; bad input is one line on standard error and exit status 2."""
    warnings.formatwarning = _one_line_warning
    try:
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        _complain(_of_the_system(error))
    except ImportError as error:
        if (error.name or "").startswith(__name__.partition(".")[0]):
            raise  # a module of our own is no input
        _complain(str(error))
    except ValueError as error:
        _complain(str(error))
    except Exception as error:
        # Usage errors of the parser, whichever module it keeps them in.
        if not hasattr(error, "format_message"):
            raise
        _complain(_of_the_parser(error))


def _one_line_warning(message: Warning | str, *where: Any, **more: Any) -> str:
    """Show a warning as a sentence: a person at the command line has no use for our line number."""
    return f"spikescope: {' '.join(str(message).split())}\n"


def _of_the_system(error: OSError) -> str:
    """Return what the system says, without its number; our own sentences as they are."""
    if error.strerror is None or error.filename is None:
        return error.strerror or str(error)
    return f"{str(error.filename)!r}: {error.strerror}"


def _of_the_parser(error: Any) -> str:
    """Return what the parser says, and the value where it does not quote it."""
    message: str = error.format_message().replace("Value error, ", "")
    details = getattr(error.__cause__, "errors", None)
    given = details()[0].get("input") if callable(details) else None
    return message if given is None or repr(given) in message else f"{message}: {given!r}"


def _complain(message: str) -> None:
    print(f"spikescope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
