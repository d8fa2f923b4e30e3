"""Asks the dashboard as a browser does, without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from synthetic import write_run

from spikescope.dashboard.app import create_app
from spikescope.dashboard.security import Access

LOCAL = {"Host": "127.0.0.1:8050"}
"""What a browser on this machine sends."""


def client_of(root: Path, access: Access | None = None) -> FlaskClient:
    """Return a client of the app over a folder of runs."""
    return create_app(root, access).server.test_client()


def draw(
    client: FlaskClient, search: str, *, beat: bool = False, drawn: Any = None
) -> dict[str, Any]:
    """Ask for a page as the browser does, and return what each part of it becomes."""
    answer = post(client, search, beat=beat, drawn=drawn)
    if answer.status_code == 204:
        return {}
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json()["response"])


def post(client: FlaskClient, search: str, *, beat: bool = False, drawn: Any = None) -> Any:
    """Ask for a page as the browser does, and return the answer itself."""
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
    return client.post("/_dash-update-component", json=body, headers=LOCAL)


def words(part: Any) -> str:
    """Return what a page says, as one text."""
    return json.dumps(part, ensure_ascii=False)


def write_runs(root: Path) -> Path:
    """Write two runs, one of a newer format, and a link to one that lies elsewhere."""
    write_run(root / "one", layers=3)
    write_run(root / "two", layers=2)
    (root / "newer").mkdir()
    (root / "newer" / "run.json").write_text('{"format": 99}')
    write_run(root.parent / "outside", layers=["secret"])
    (root / "link").symlink_to(root.parent / "outside")
    return root
