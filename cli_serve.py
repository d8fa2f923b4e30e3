"""How a command opens the dashboard."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

PORT = 8050


def require_dashboard() -> None:
    """Refuse, before any work, what could not be shown at its end."""
    from importlib.util import find_spec

    missing = [name for name in ("dash", "plotly") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the dashboard needs {missing[0]}: pip install 'spikescope[dashboard]'")


def require_address(host: str, port: int) -> None:
    """Refuse, before any work, an address that the dashboard could not be served on."""
    require_dashboard()
    from .dashboard.server import require_address as require

    require(host, port)


def serve_folder(folder: Path, host: str, port: int, view: str = "") -> None:
    """Serve a run, or a folder of runs, and say where; the address opens a view if one is given."""
    from .dashboard.server import serve

    def say(address: str) -> None:
        # An address with a token has a query already; it opens the list of runs.
        where = address if "?" in address else f"{address}{view}"
        Console().print(f"Dashboard: {where} (Ctrl+C ends it)", soft_wrap=True)

    serve(folder, host=host, port=port, on_ready=say)
