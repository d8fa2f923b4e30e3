"""A dashboard in a process of its own, and browsers that open it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLD = 5
HEADLESS = ["--no-sandbox", "--disable-gpu"]

SERVER = """
import sys
from pathlib import Path
from spikescope.dashboard import app, server
app.REFRESH = 250
sys.path.insert(0, sys.argv[3])
from served import telling
server.create_app = telling(server.create_app)
server.serve(Path(sys.argv[1]), port=int(sys.argv[2]))
"""

# The title is there when the figure is drawn; the frame after it shows it.
_TELL = """
new MutationObserver(function (changes, observer) {
    if (document.querySelector(".dash-graph .gtitle")) {
        observer.disconnect();
        requestAnimationFrame(function () {
            setTimeout(function () { fetch("/painted?ms=" + performance.now()); }, 0);
        });
    }
}).observe(document, {subtree: true, childList: true});
"""


def telling(create_app: Any) -> Any:
    """Return a ``create_app`` whose pages say when the first figure is on the screen."""
    from flask import Response, request

    def create(*given: Any, **named: Any) -> Any:
        app = create_app(*given, **named)
        app.index_string = app.index_string.replace(
            "{%css%}", "{%css%}<script src='/tell.js'></script>"
        )
        said: list[float] = []

        def painted() -> Response:
            said.extend(map(float, request.args.getlist("ms")))
            return Response(json.dumps(said), mimetype="application/json")

        def script() -> Response:
            return Response(_TELL, mimetype="text/javascript")

        app.server.add_url_rule("/tell.js", "tell", script)
        app.server.add_url_rule("/painted", "painted", painted)
        return app

    return create


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str]) -> Any:
    """Run a server until it is no longer needed."""
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield running
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(20)


def resident(pid: int) -> float:
    """Return the memory of a process and its children, MB."""
    total = 0.0
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    for each in [pid, *map(int, children.stdout.split())]:
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:
            continue
        found = [line for line in status.splitlines() if line.startswith("VmRSS")]
        total += float(found[0].split()[1]) / 1000 if found else 0.0
    return total


def wait_for(url: str, seconds: float = 120.0) -> bytes:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def command_of(root: Path, port: int) -> list[str]:
    """Return the command that serves a folder of runs."""
    return [sys.executable, "-c", SERVER, str(root), str(port), str(Path(__file__).parent)]


@contextmanager
def dashboard(root: Path) -> Any:
    """Serve a folder of runs; yield the address and the process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with process(command_of(root, port)) as running:
        wait_for(url)
        yield url, running.pid


@contextmanager
def opened(url: str) -> Any:
    """Open the overview in a steered browser; yield its page and the seconds to the heatmap."""
    from playwright.sync_api import sync_playwright

    arguments = [*HEADLESS, "--js-flags=--expose-gc", "--enable-precise-memory-info"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(f"{url}?run=run", wait_until="commit")
        page.wait_for_selector(".dash-graph .gtitle")
        yield page, time.perf_counter() - began
        browser.close()


def told(url: str) -> float:
    """Open the overview in a browser as people have it; return the seconds to the heatmap."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            "/usr/bin/chromium", "--headless", *HEADLESS, "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update",
            "--window-size=1280,900", f"--user-data-dir={profile}", f"{url}?run=run",
        ]  # fmt: skip
        with process(command):
            for _ in range(60):
                time.sleep(0.5)
                said = json.loads(wait_for(f"{url}painted"))
                if said:
                    return float(said[0]) / 1e3
    raise TimeoutError("the heatmap did not come")


def first_paints(root: Path) -> dict[str, list[float]]:
    """Return seconds from the address to the heatmap, each with a new server and a new browser.

    ``plain`` are those of a browser as people have it. A browser that is steered from outside has
    its debugger on, which reads plotly's script once more.
    """
    found: dict[str, list[float]] = {"plain": [], "steered": []}
    for _ in range(COLD):
        with dashboard(root) as (url, _):
            found["plain"].append(told(url))
        with dashboard(root) as (url, _), opened(url) as (_, paint):
            found["steered"].append(paint)
    return found
