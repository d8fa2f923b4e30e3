"""Results on disk: a line of JSON per finished unit of work, so that a broken run resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Results:
    """Finished units of one study, in an append-only file.

    A unit is known by its settings. What was being written when the computer stopped is a torn
    last line: it is dropped, and its unit computed again.

    Args:
        path: the ``.jsonl`` file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(path, len(whole))
            for line in whole.decode("utf-8").splitlines():
                row = json.loads(line)
                self._rows[unit_key(row["settings"])] = row

    def __contains__(self, settings: dict[str, Any]) -> bool:
        return unit_key(settings) in self._rows

    def add(self, settings: dict[str, Any], result: dict[str, Any], **about: Any) -> None:
        """Append a finished unit; it is on the disk when this returns."""
        row = {"settings": settings, "result": rounded(result), **about}
        line = json.dumps(row, allow_nan=True) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._rows[unit_key(settings)] = json.loads(line)

    def rows(self, units: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Return rows with settings, result and what is known about them; of these units only."""
        if units is None:
            return list(self._rows.values())
        return [self._rows[unit_key(unit)] for unit in units if unit in self]


def unit_key(settings: dict[str, Any]) -> str:
    """Return the settings as one string, whatever their order."""
    return json.dumps(settings, sort_keys=True)


def rounded(value: Any, digits: int = 6) -> Any:
    """Return nested numbers with six significant digits: the files are committed."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
