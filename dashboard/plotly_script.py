"""plotly's own script, served so that the browser compiles it beside the page."""

from __future__ import annotations

from functools import cache

from flask import Flask, Response
from plotly.offline import get_plotlyjs, get_plotlyjs_version

# Chromium compiles a script that starts so while it arrives, in a thread of its own. Otherwise the
# page waits for it: most of plotly is called as it is loaded. Other browsers see a comment.
_COMPILE_AT_ONCE = "//# allFunctionsCalledOnLoad\n"


def script_address() -> str:
    """Return where the script is served; another release has another address.

    Example:
        >>> script_address().startswith("/plotly-")
        True
    """
    return f"/plotly-{get_plotlyjs_version()}.js"


@cache
def script() -> bytes:
    """Return the script. It is kept: a browser asks for it first of all."""
    return f"{_COMPILE_AT_ONCE}{get_plotlyjs()}".encode()


def add_script(server: Flask) -> None:
    """Serve the script.

    Args:
        server: the WSGI app.
    """

    def answer() -> Response:
        return Response(
            script(),
            mimetype="text/javascript",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    server.add_url_rule(script_address(), "plotly", answer)
