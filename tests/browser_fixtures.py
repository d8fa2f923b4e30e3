"""A browser, a server over runs of every kind, and one page for all tests of a file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from visitor import FINDING, PATIENCE, Visitor, write_runs

from spikescope.dashboard import app as app_module
from spikescope.dashboard.catalogue import Snapshot
from spikescope.dashboard.server import make_server

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser") / "runs"
    write_runs(root)
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "REFRESH", 300)
        # What the rules find is theirs to test.
        patch.setattr(Snapshot, "findings", [FINDING])
        server, url = make_server(root, port=0)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield url
        server.shutdown()
        thread.join(5)
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "chromium is not installed: apt-get install chromium"
        # Where tests decide about a change, a test that did not run is a red one.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    # One for all tests: its cache spares each of them the megabytes of plotly.
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture(scope="module")
def window(context: BrowserContext, address: str) -> Iterator[Visitor]:
    # One page for all tests: loading it costs more than all that they look at.
    visitor = Visitor(context.new_page(), address)
    yield visitor
    visitor.page.close()


@pytest.fixture
def visitor(window: Visitor) -> Iterator[Visitor]:
    window.page.set_viewport_size({"width": 1280, "height": 900})
    window.complaints.clear()
    window.foreign.clear()
    yield window
    assert window.foreign == []
    assert window.complaints == []
