"""Runs on other filesystems (``s3://``, ``gs://``, ``memory://``), through a local copy.

Files are put there whole, by one writer, and never changed in place or appended to: nothing is
locked, and what an object store promises is enough. New files come before those that they replace
go, so that a reader never misses a row.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from datetime import datetime
from pathlib import Path
from typing import Any

REFRESH_SECONDS = 2.0
"""A reader looks for new files at most this often."""


def is_remote(path: Any) -> bool:
    """Return whether a path is an address with a protocol.

    Example:
        >>> is_remote("s3://bucket/run"), is_remote("runs/a")
        (True, False)
    """
    return isinstance(path, str) and "://" in path


class Copy:
    """A local folder with the files of a remote one.

    Args:
        address: such as ``s3://bucket/run``.

    Raises:
        ValueError: the protocol is unknown, or what it needs is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._space = Path(tempfile.mkdtemp(prefix="spikescope-"))
        weakref.finalize(self, _remove, self._space, os.getpid())
        self.path = self._space / self.address.rpartition("/")[2]
        self._files, self._root = _filesystem(self.address)
        self._seen: dict[str, Any] = {}
        self._looked = float("-inf")

    def listed(self) -> dict[str, Any]:
        """Return the remote files by their path under the folder, with what tells a change."""
        self._files.invalidate_cache()
        try:
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._root.rstrip("/")) + 1
        return {
            name[start:]: (facts.get("size"), facts.get("ETag"), _changed(facts))
            for name, facts in found.items()
            if len(name) > start
        }

    def pull(self) -> bool:
        """Bring the copy up to date; return whether there is anything."""
        if time.monotonic() - self._looked < REFRESH_SECONDS:
            return bool(self._seen)
        listed = self.listed()
        self.path.mkdir(parents=True, exist_ok=True)
        for name, facts in listed.items():
            if self._seen.get(name) == facts and name.endswith(".parquet"):
                continue
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            space = target.with_name(f".{target.name}.tmp")
            try:
                space.write_bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:  # it was replaced in the meantime: the next look finds more
                continue
            changed = facts[2]
            if changed is not None:  # how long a run has been silent must not look like nothing
                os.utime(space, (changed, changed))
            space.replace(target)
        for name in self._seen.keys() - listed.keys():
            (self.path / name).unlink(missing_ok=True)
        self._seen = listed
        self._looked = time.monotonic()
        return bool(listed)


class Spool(Copy):
    """The local side of a remote run that is written.

    Args:
        address: wanted address.
        fetch: whether to begin with what is there.
    """

    def __init__(self, address: str, *, fetch: bool) -> None:
        super().__init__(address)
        self._sent: dict[str, tuple[int, int]] = {}
        if fetch:
            self.pull()
            self._sent = self._local()

    def new(self) -> Path:
        """Return an empty folder, for an address at which nothing is yet."""
        wanted, number = self.address, 1
        while self.listed():
            number += 1
            self.address = f"{wanted}-{number}"
            self._files, self._root = _filesystem(self.address)
        self.path = self._space / self.address.rpartition("/")[2]
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def push(self) -> None:
        """Put new and changed files there, then remove those that went."""
        local = self._local()
        if not self._sent and "file" in self._files.protocol:
            # Object stores have no folders, and a bucket is not made by a slip of the pen.
            self._files.makedirs(self._root, exist_ok=True)
        # The header comes last of the first files, so that nobody opens a run without it.
        for name in sorted(local, key=lambda name: (name == "run.json", name)):
            if self._sent.get(name) != local[name]:
                self._files.pipe_file(f"{self._root}/{name}", (self.path / name).read_bytes())
                self._sent[name] = local[name]
        for name in self._sent.keys() - local.keys():
            self._files.rm_file(f"{self._root}/{name}")
            del self._sent[name]

    def _local(self) -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(self.path)): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in self.path.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }


def _remove(space: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process ends, too, and the copy is not its own
        shutil.rmtree(space, ignore_errors=True)


def _changed(facts: dict[str, Any]) -> float | None:
    """Return when a remote file was written; each filesystem calls it otherwise."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = facts.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _filesystem(address: str) -> tuple[Any, str]:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(f"{address!r} needs fsspec: pip install fsspec") from error
    try:
        files, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address!r} cannot be opened: {error}") from error
    return files, str(root)
