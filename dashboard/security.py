"""Who may read the dashboard: Host check, token, headers on every answer."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from dash import Dash
from flask import Flask, Response, abort, redirect, request

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which a browser on this machine reaches it."""


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    Args:
        hosts: names that the Host header may carry: other names belong to sites that had their
            own name point here. None, for a server behind a token, allows every name.
        token: secret that a link carries once and a cookie keeps; empty for none.
    """

    hosts: tuple[str, ...] | None = LOOPBACK
    token: str = ""

    def __post_init__(self) -> None:
        if self.hosts is None and not self.token:
            raise ValueError("hosts=None opens the dashboard to everybody: it needs a token")


def protect(app: Dash, access: Access) -> None:
    """Check every request to an app, and put security headers on every answer.

    Args:
        app: the app, with its callbacks connected.
        access: what a request must bring.
    """
    server: Flask = app.server
    policy = _policy(app)

    def check() -> Response | None:
        if access.hosts is not None and host_name(request.headers.get("Host")) not in access.hosts:
            abort(400, "This address is not one of the dashboard's own.")
        return _check_token(access.token) if access.token else None

    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    server.before_request(check)
    server.after_request(add_headers)


def host_name(header: str | None) -> str:
    """Return the name in a Host header without port and brackets, lower case; empty if malformed.

    Example:
        >>> host_name("[::1]:8050"), host_name("LOCALHOST"), host_name("a@b"), host_name(None)
        ('::1', 'localhost', '', '')
    """
    if not header or any(sign in header for sign in "@/?#\\"):
        return ""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port  # raises where the port is no number
    except ValueError:
        return ""
    return (parts.hostname or "").lower()


def _policy(app: Dash) -> str:
    """Return the content security policy: everything from here, nothing from elsewhere."""
    # Mantine, AG Grid and plotly write style elements; Dash starts with one known inline script.
    scripts = " ".join(f"'{digest}'" for digest in _digests(app))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {scripts}".strip(),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _digests(app: Dash) -> list[str]:
    return [str(digest).strip("'") for digest in app.csp_hashes()]


def _check_token(token: str) -> Response | None:
    """Let a request with the cookie pass; turn a link with the token into the cookie."""
    # Cookies are shared by all ports of a machine: one name per port keeps dashboards apart.
    cookie = f"spikescope-{request.environ.get('SERVER_PORT', '')}"
    if _same(request.cookies.get(cookie, ""), token):
        return None
    if not _same(request.args.get("token", ""), token):
        abort(403, "Open the link with the token that spikescope printed when it started.")
    rest = [
        pair
        for pair in parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True)
        if pair[0] != "token"
    ]
    answer = redirect(f"{request.path}?{urlencode(rest)}" if rest else request.path)
    # Lax, not Strict: the link may be opened from a chat.
    answer.set_cookie(cookie, token, httponly=True, samesite="Lax")
    return answer  # type: ignore[return-value]


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
