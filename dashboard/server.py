"""Serving the dashboard: on this machine only, unless a token guards it."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler
from werkzeug.serving import make_server as make_wsgi_server

from .app import create_app, warm_up
from .catalogue import Catalogue
from .security import Access


class _Quiet(WSGIRequestHandler):
    """Handles requests without a line in the log for each."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the console belongs to the training."""


def make_server(
    root: Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    catalogue: Catalogue | None = None,
) -> tuple[BaseWSGIServer, str]:
    """Return a server that listens already, and the address to open.

    Args:
        root: a run folder, or a folder of run folders.
        host: address to listen on; one that other machines reach gets a fresh token.
        port: TCP port; 0 takes a free one.
        catalogue: the runs under ``root``, if they are known already.

    Returns:
        ``(server, url)``; call ``server.serve_forever()`` and, to end it, ``server.shutdown()``.

    Raises:
        RunError: the folder does not exist.
        OSError: the port is in use or the host is not an address of this machine.
        ValueError: a port outside 0 to 65535.
    """
    _require_port(port)
    family, address = _resolve(host)
    local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    token = "" if local else secrets.token_urlsafe(24)
    access = Access(hosts=None, token=token) if token else Access()
    app = create_app(root, access, catalogue)
    # werkzeug exits the process when a port is taken, so the socket is bound here.
    listener = _listen(family, address, host, port)
    try:
        server = make_wsgi_server(
            address,
            listener.getsockname()[1],
            app.server,
            threaded=True,
            request_handler=_Quiet,
            fd=listener.fileno(),
        )
    finally:
        listener.close()
    # An open event stream or a slow client must not keep the process from ending.
    server.daemon_threads = True  # type: ignore[attr-defined]
    shown = f"[{address}]" if family == socket.AF_INET6 else address
    url = f"http://{shown}:{server.port}/"
    return server, f"{url}?token={token}" if token else url


def serve(
    root: Path,
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard until it is interrupted.

    Args:
        root: a run folder, or a folder of run folders.
        host: address to listen on; the environment is not asked. One that other machines reach gets
            a token, which is part of the address handed to ``on_ready``.
        port: TCP port; 0 takes a free one.
        open_browser: whether to open the address in a browser.
        on_ready: called with the address once the server listens.

    Raises:
        RunError: the folder does not exist.
        OSError: the port is in use or the host is not an address of this machine; one line.
        ValueError: a port outside 0 to 65535.
    """
    catalogue = Catalogue(root)
    server, url = make_server(root, host, port, catalogue)
    # Meanwhile the browser loads its scripts.
    threading.Thread(target=warm_up, args=(catalogue,), daemon=True).start()
    try:
        if on_ready is not None:
            on_ready(url)
        if open_browser:
            webbrowser.open(url)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def require_address(host: str, port: int) -> None:
    """Refuse, before any long work, an address that cannot be listened on.

    Args:
        host: address of this machine.
        port: TCP port.

    Raises:
        OSError: the port is in use or the host is not an address of this machine.
        ValueError: a port outside 0 to 65535.
    """
    _require_port(port)
    family, address = _resolve(host)
    _listen(family, address, host, port).close()


def _require_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port!r} is not possible: it must be between 0 and 65535")


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"host {host!r} is no address: use 127.0.0.1 or one of this machine",
        ) from error
    # IPv4 first: "localhost" means 127.0.0.1 in every link that people write.
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, str(address[0])


def _listen(family: socket.AddressFamily, address: str, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} on {host} is in use: choose another with --port"
        elif error.errno == errno.EACCES:
            reason = f"port {port} on {host} is not allowed for this user: choose one above 1023"
        else:
            reason = f"cannot listen on {host}: {error.strerror}"
        raise OSError(error.errno, reason) from error
    return listener
