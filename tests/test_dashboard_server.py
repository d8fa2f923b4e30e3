"""The app behind its server: who may ask, what a wrong address gets, what the environment may."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import columns, header, row, write_run
from werkzeug.serving import BaseWSGIServer

from spikescope.analysis.findings import Finding
from spikescope.dashboard import catalogue as catalogue_module
from spikescope.dashboard.app import create_app
from spikescope.dashboard.catalogue import Catalogue, Snapshot
from spikescope.dashboard.metrics import METRICS
from spikescope.dashboard.pages import overview
from spikescope.dashboard.security import Access, host_name
from spikescope.dashboard.server import make_server, serve
from spikescope.dashboard.view import PAGES, View
from spikescope.data.runs import RunError, open_run
from spikescope.data.store import RunStore

OUTPUTS = (
    "provider",
    "crumbs",
    "pages",
    "verdict",
    "controls",
    "content",
    "defaults",
    "drawn",
    "tick",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server") / "runs"
    write_run(root / "one", layers=3)
    write_run(root / "two", layers=2)
    (root / "newer").mkdir()
    (root / "newer" / "run.json").write_text('{"format": 99}')
    write_run(root.parent / "outside", layers=["secret"])
    (root / "link").symlink_to(root.parent / "outside")
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> FlaskClient:
    return client_of(root)


def client_of(root: Path, access: Access | None = None) -> FlaskClient:
    return create_app(root, access).server.test_client()


def draw(
    client: FlaskClient, search: str, *, beat: bool = False, drawn: Any = None
) -> dict[str, Any]:
    """Ask for a page as the browser does, and return what each part of it becomes."""
    dependencies = client.get("/_dash-dependencies", headers=LOCAL).get_json()
    entry = next(item for item in dependencies if "content.children" in item["output"])
    body = {
        "output": entry["output"],
        "outputs": [
            dict(zip(("id", "property"), part.split("."), strict=True))
            for part in entry["output"].strip(".").split("...")
        ],
        "inputs": [
            {"id": "url", "property": "search", "value": search},
            {"id": "beat", "property": "data", "value": 1},
        ],
        "state": [{"id": "drawn", "property": "data", "value": drawn or {}}],
        "changedPropIds": ["beat.data" if beat else "url.search"],
    }
    answer = client.post("/_dash-update-component", json=body, headers=LOCAL)
    if answer.status_code == 204:
        return {}
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json()["response"])


LOCAL = {"Host": "127.0.0.1:8050"}


def words(part: Any) -> str:
    """Return what a page says, as one text."""
    return json.dumps(part, ensure_ascii=False)


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


# Who may ask.


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


# Serving.


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


# What an address gets.


@pytest.mark.parametrize("page", ["overview", "layer", "findings", "about"])
def test_each_page_is_drawn(client: FlaskClient, page: str) -> None:
    parts = draw(client, f"?run=one&page={page}")
    assert set(parts) == set(OUTPUTS)
    assert "cannot be shown" not in words(parts["content"])
    assert parts["tick"]["max_intervals"] == 0  # a run that has ended is not asked again


def test_the_root_lists_its_runs(client: FlaskClient) -> None:
    text = words(draw(client, "?")["content"])
    assert '"?run=one"' in text
    assert "finished" in text
    assert "upgrade spikescope" in text  # the run of a newer format
    assert "secret" not in text


def test_a_root_that_is_a_run_opens_it(root: Path) -> None:
    parts = draw(client_of(root / "one"), "?")
    assert "block0.lif" in words(parts["content"])


def test_an_empty_root_teaches(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    parts = draw(client, "?")
    assert "spikescope.watch(model" in words(parts["content"])
    assert parts["tick"]["max_intervals"] == -1  # the first run appears by itself
    write_run(tmp_path / "first", layers=1, steps=range(1))
    later = draw(client, "?", beat=True, drawn=parts["drawn"]["data"])
    assert '"?run=first"' in words(later["content"])


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "..",
        "../outside",
        "one/../../outside",
        "/etc",
        "%2e%2e",
        "link",
        "one\x00",
        "x" * 5000,
    ],
)
def test_only_discovered_runs_open(client: FlaskClient, name: str) -> None:
    parts = draw(client, View(run=name, page="overview").search())
    text = words(parts["content"])
    assert "There is no run named" in text
    assert "secret" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?run=newer", "upgrade spikescope to open it"),
        ("?run=one&page=layer&layer=gone", "layer 'gone' is not in run 'one'"),
        ("?run=one&step=70", "This page shows step 50, the nearest one."),
        ("?run=one&mode=eval", "eval was not recorded."),
        ("?run=one&page=attack&t=-1&step=1e9&metric=x&theme=y", "Gradient coverage, step 150"),
        ("?run=one&t=999999999999999999999999", "Gradient coverage, step 150"),
        ("?&&&=%%%", '"?run=one"'),
    ],
)
def test_wrong_addresses_get_a_friendly_page(client: FlaskClient, search: str, said: str) -> None:
    parts = draw(client, search)
    assert said in words(parts["content"])
    assert "Traceback" not in words(parts)


def test_an_error_of_ours_is_a_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(overview, "_findings", fail)
    text = words(draw(client_of(root), "?run=one")["content"])
    assert "An error of spikescope itself: ZeroDivisionError('boom')" in text
    assert "Traceback" not in text
    assert "Traceback" in caplog.text  # whoever runs the server can see where


def test_heatmap_in_the_page_has_the_run_s_numbers(client: FlaskClient, root: Path) -> None:
    text = words(draw(client, "?run=one&step=100&metric=coverage&show=tables")["content"])
    table = Snapshot(root / "one").table(["coverage", "coverage_se"], layer="block1.lif")
    entry = table[(table["step"] == 100) & (table["t"] == 4)].iloc[0]
    assert METRICS["coverage"].show(entry["coverage"], entry["coverage_se"]) in text
    assert METRICS["coverage"].show(entry["coverage"] + 0.001) not in text


# Following a run.


def test_a_tick_without_news_changes_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    client = client_of(tmp_path)
    first = draw(client, "?run=live")
    assert "Not yet" in words(first["content"])
    assert first["tick"]["max_intervals"] == -1
    assert draw(client, "?run=live", beat=True, drawn=first["drawn"]["data"]) == {}
    store.append("records", columns([row(0, "net", 1)]))
    news = draw(client, "?run=live", beat=True, drawn=first["drawn"]["data"])
    assert "Gradient coverage, step 0" in words(news["content"])
    store.end("finished", steps=1)
    last = draw(client, "?run=live", beat=True, drawn=news["drawn"]["data"])
    assert last["tick"]["max_intervals"] == 0
    assert "finished" in words(last["crumbs"])


def test_switches_stay_while_only_the_view_changes(client: FlaskClient) -> None:
    first = draw(client, "?run=one")
    moved = draw(client, "?run=one&step=50&metric=rate", drawn=first["drawn"]["data"])
    assert "controls" not in moved
    assert "Firing rate, step 50" in words(moved["content"])
    other = draw(client, "?run=one&page=layer", drawn=first["drawn"]["data"])
    assert "controls" in other


def test_runs_are_read_again_only_when_they_changed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    catalogue = Catalogue(tmp_path)
    first = catalogue.run("live")
    assert catalogue.run("live") is first
    store.append("records", columns([row(5, "net", 1)]))
    second = catalogue.run("live")
    assert second is not first
    assert second.table()["step"].tolist() == [0, 5]
    assert catalogue.summary("live").last_step == 5


@pytest.mark.parametrize(
    "choice",
    [{}, {"layer": "block1.lif"}, {"mode": "train"}, {"mode": "eval"}, {"since": 100},
     {"layer": "block2.lif", "mode": "train", "since": 50, "columns": ["rate", "t", "coverage"]},
     {"layer": "block0.lif", "mode": "eval"}],
)  # fmt: skip
def test_a_snapshot_reads_like_the_run(root: Path, choice: dict[str, Any]) -> None:
    plain = open_run(root / "one").table(**choice)
    kept = Snapshot(root / "one").table(**choice)
    pd.testing.assert_frame_equal(plain.reset_index(drop=True), kept.reset_index(drop=True))
    with pytest.raises(RunError, match="layer 'gone' is not in run"):
        Snapshot(root / "one").table(layer="gone")


def test_only_a_few_runs_stay_in_memory(tmp_path: Path) -> None:
    for name in "abcdef":
        RunStore(tmp_path / name, header(["net"])).end("finished")
    catalogue = Catalogue(tmp_path)
    first = catalogue.run("a")
    for name in "bcdef":
        catalogue.run(name)
    assert len(catalogue._open) == catalogue_module.KEPT
    assert catalogue.run("a") is not first


def test_a_deleted_run_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "gone", layers=1, steps=range(1))
    client = client_of(tmp_path)
    assert "Gradient coverage" in words(draw(client, "?run=gone")["content"])
    shutil.rmtree(tmp_path / "gone")
    assert "There is no run named 'gone' here" in words(draw(client, "?run=gone")["content"])


def test_findings_are_spelt_out_with_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(
        "G1", "error", "block1.lif", 2, (0, 100), 0.03, 0.002, 0.05, "share", "Too low.", "A paper",
        ("start potential",),
    )  # fmt: skip
    monkeypatch.setattr(Snapshot, "findings", [finding])
    client = client_of(root)
    parts = draw(client, "?run=one")
    assert "Not healthy: 1 error in 1 of 3 layers" in words(parts["verdict"])
    link = View(run="one", page="layer", layer="block1.lif", t=2, step=100).search()
    assert link in words(parts["content"])
    table = words(draw(client, "?run=one&page=findings")["content"])
    for part in ("G1", "block1.lif", "0 to 100", "Too low.", "A paper"):
        assert part in table


def test_slow_rules_do_not_hold_up_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "slow", layers=2, steps=range(2))
    go = threading.Event()
    finding = Finding("G1", "error", "", None, (0, 1), 0.0, 0.0, 0.0, "", "Bad.", "A paper")

    def wait(_: Any) -> list[Finding]:
        go.wait(10)
        return [finding]

    monkeypatch.setattr(catalogue_module, "diagnose", wait)
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    client = client_of(tmp_path)
    first = draw(client, "?run=slow")
    assert "The rules are being checked" in words(first["verdict"])
    assert "Gradient coverage, step 1" in words(first["content"])
    assert "checking …" in words(draw(client, "?page=runs")["content"])
    assert first["tick"]["max_intervals"] == -1  # although the run itself has ended
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    for _ in range(100):
        last = draw(client, "?run=slow", beat=True, drawn=first["drawn"]["data"])
        if last["tick"]["max_intervals"] == 0:
            break
        time.sleep(0.05)
    assert "Not healthy: 1 error" in words(last["verdict"])
    assert "G1" in words(draw(client, "?page=runs")["content"])


def test_earlier_findings_stay_while_new_ones_are_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "live", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    go = threading.Event()
    go.set()

    def judge(run: Any) -> list[Finding]:
        last = int(run.table()["step"].max())
        go.wait(10)
        return [Finding("G1", "error", "", None, (0, last), 0.0, 0.0, 0.0, "", "Bad.", "A paper")]

    monkeypatch.setattr(catalogue_module, "diagnose", judge)
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("live").findings[0].steps == (0, 0)
    go.clear()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 0.01)
    store.append("records", columns([row(5, "net", 1)]))
    run = catalogue.run("live")
    assert run.findings[0].steps == (0, 0)
    assert run.checking
    go.set()
    monkeypatch.setattr(catalogue_module, "PATIENCE", 10.0)
    run._due = time.monotonic() + 10
    assert run.findings[0].steps == (0, 5)
    assert not run.checking


def test_failing_rules_leave_the_record_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", layers=2, steps=range(2))

    def fail(_: Any) -> list[Finding]:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(catalogue_module, "diagnose", fail)
    parts = draw(client_of(tmp_path), "?run=run")
    assert "could not be worked out: ZeroDivisionError('boom')" in words(parts["verdict"])
    assert "Gradient coverage, step 1" in words(parts["content"])


# The address.


text = st.text(max_size=30)
VIEWS = st.builds(
    View,
    run=text,
    page=st.sampled_from(["", *PAGES]),
    layer=text,
    t=st.none() | st.integers(0, 10**6),
    step=st.none() | st.integers(0, 10**17),
    metric=st.sampled_from(list(METRICS)),
    mode=st.sampled_from(["", "train", "eval"]),
    show=st.sampled_from(["figures", "tables"]),
    theme=st.sampled_from(["light", "dark"]),
)


@settings(max_examples=100, deadline=None)
@given(VIEWS)
def test_an_address_restores_its_view(view: View) -> None:
    assert View.parse(view.search()) == view
    other = view.but(theme="dark" if view.theme == "light" else "light")
    assert View.parse(other.search()) != view


@settings(max_examples=100, deadline=None)
@given(st.none() | st.text(max_size=200))
def test_any_address_is_some_view(search: str | None) -> None:
    view = View.parse(search)
    assert view.metric in METRICS
    assert View.parse(view.search()) == view


def test_serving_is_local_unless_asked_otherwise() -> None:
    assert serve.__defaults__ == ("127.0.0.1", 8050, False, None)
