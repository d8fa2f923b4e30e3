"""Serving the dashboard: who may ask, where it listens, what the environment may do."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dashboard_client import LOCAL, client_of, draw, words
from flask.testing import FlaskClient
from plotly.offline import get_plotlyjs
from synthetic import write_run
from werkzeug.serving import BaseWSGIServer

from spikescope.dashboard.app import create_app, warm_up
from spikescope.dashboard.catalogue import Catalogue
from spikescope.dashboard.security import Access, host_name
from spikescope.dashboard.server import make_server, serve
from spikescope.data.runs import RunError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server") / "runs"
    write_run(root / "one", layers=3)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> FlaskClient:
    return client_of(root)


@contextmanager
def running(server: BaseWSGIServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/view.js"])
@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8050",
        "127.0.0.1.attacker.example",
        "localhost@a.b",
        "",
    ],
)
def test_a_foreign_host_is_refused(client: FlaskClient, path: str, host: str) -> None:
    assert client.get(path, headers={"Host": host}).status_code == 400


def test_a_foreign_host_cannot_call_back(client: FlaskClient) -> None:
    headers = {"Host": "attacker.example", "Origin": "http://attacker.example"}
    answer = client.post("/_dash-update-component", json={}, headers=headers)
    assert answer.status_code == 400
    assert "own" in answer.text
    # Negative control: the same route answers to this machine.
    assert draw(client, "?run=one")["content"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8050", "localhost:1", "LocalHost", "[::1]", "[::1]:8050"]
)
def test_this_machine_s_own_names_pass(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("header", ["[::1", "a:b", "127.0.0.1:x", "::1", "[127.0.0.1"])
def test_malformed_hosts_have_no_name(header: str) -> None:
    assert host_name(header) not in ("127.0.0.1", "localhost", "::1")


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/style.css", "/no/such/page"])
def test_security_headers_are_on_every_answer(client: FlaskClient, path: str) -> None:
    with client.get(path, headers=LOCAL) as answer:
        headers = answer.headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert not any(sign in words(policy) for sign in ("*", "http:", "https:"))


def test_the_index_speaks_english_and_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    page = client.get("/", headers=LOCAL).text
    assert '<html lang="en">' in page
    assert "http://" not in page
    assert "https://" not in page
    assert 'src="/_dash-component-suites' in page  # what is loaded is there to be seen


def test_pages_with_figures_ask_for_plotly_at_once(client: FlaskClient) -> None:
    page = client.get("/?run=one", headers=LOCAL).text
    (script,) = re.findall(r'<script async id="plotly" src="([^"]+)">', page)
    answer = client.get(script, headers=LOCAL)
    assert answer.mimetype == "text/javascript"
    hint, _, own = answer.text.partition("\n")
    assert hint == "//# allFunctionsCalledOnLoad"  # so Chromium compiles it beside the page
    assert own == get_plotlyjs()
    assert 'id="plotly"' in client.get("/?page=choose", headers=LOCAL).text
    # The table of runs has no figures.
    assert 'id="plotly"' not in client.get("/", headers=LOCAL).text


def test_the_youngest_run_is_read_before_anybody_asks(tmp_path: Path) -> None:
    old, young = (write_run(tmp_path / name, layers=2) for name in ("old", "young"))
    os.utime(young / "end.json", (time.time() + 60,) * 2)
    assert old.exists()
    catalogue = Catalogue(tmp_path)
    warm_up(catalogue)
    assert list(catalogue._open) == ["young"]
    assert len(catalogue.run("young").steps_so_far()) == 4


@pytest.mark.parametrize("make", [lambda path: None, lambda path: (path / "x").mkdir()])
def test_warming_up_over_nothing_does_nothing(tmp_path: Path, make: Any) -> None:
    make(tmp_path)
    warm_up(Catalogue(tmp_path))


def test_a_token_opens_once_by_link_and_then_by_cookie(root: Path) -> None:
    client = client_of(root, Access(hosts=None, token="s3cret"))
    anywhere = {"Host": "lab-machine:8050"}
    for path in ("/", "/_dash-layout", "/?token=wrong", "/?token="):
        assert client.get(path, headers=anywhere).status_code == 403
    answer = client.get("/?run=one&token=s3cret&t=2", headers=anywhere)
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/?run=one&t=2"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert client.get("/_dash-layout", headers=anywhere).status_code == 200


def test_an_open_door_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="it needs a token"):
        Access(hosts=None)


def test_the_environment_opens_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("DASH_DEBUG", "true")
    monkeypatch.setenv("DASH_MCP_ENABLED", "true")
    monkeypatch.setenv("DASH_ASSETS_EXTERNAL_PATH", "https://attacker.example/")
    server, url = make_server(root, port=0)
    with running(server):
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read().decode()
        assert "attacker" not in page
        assert '"ui":false' in page  # no developer tools
        # Without the environment's server for agents its path is one more page of the app.
        request = urllib.request.Request(f"{url}_mcp", data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=10)


def test_a_port_in_use_is_one_clear_line(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            serve(root, port=port)
        assert str(caught.value).endswith("choose another with --port")
    # Negative control: once it is free, the same port works.
    server, url = make_server(root, port=port)
    server.server_close()
    assert url == f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "port=70000 is not possible: it must be between 0 and 65535"),
        ("no such host", 0, "host 'no such host' is no address"),
        ("203.0.113.7", 0, "cannot listen on 203.0.113.7"),
    ],
)
def test_bad_addresses_are_one_clear_line(root: Path, host: str, port: int, message: str) -> None:
    with pytest.raises((OSError, ValueError), match=message):
        make_server(root, host, port)


def test_a_missing_root_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist: name a run folder or a folder of runs"):
        create_app(tmp_path / "nowhere")


def test_ipv6_and_localhost_are_served(root: Path) -> None:
    hosts = ["localhost"]
    if socket.has_ipv6:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
            hosts.append("[::1]")
        except OSError:
            pass
    for host in hosts:
        server, url = make_server(root, host, 0)
        with running(server), urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200


def test_other_machines_need_the_token(root: Path) -> None:
    server, url = make_server(root, "0.0.0.0", 0)
    local = url.replace("0.0.0.0", "127.0.0.1")
    bare, _, token = local.partition("?token=")
    assert len(token) >= 24
    with running(server):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(bare, timeout=10)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(local, timeout=10) as answer:
            assert answer.status == 200
            assert "token" not in answer.url
    other, second = make_server(root, "0.0.0.0", 0)
    other.server_close()
    assert second.partition("?token=")[2] != token


def test_serve_says_when_it_is_ready_and_ends_on_interrupt(root: Path) -> None:
    seen: list[str] = []

    def ready(url: str) -> None:
        seen.append(url)
        raise KeyboardInterrupt

    port = free_port()
    serve(root, port=port, on_ready=ready)
    assert seen == [f"http://127.0.0.1:{port}/"]
    with socket.socket() as again:  # nothing listens any more
        assert again.connect_ex(("127.0.0.1", port)) != 0


def test_serving_is_local_unless_asked_otherwise() -> None:
    assert serve.__defaults__ == ("127.0.0.1", 8050, False, None)
