"""The writing side of a run: its folder, its header, its parts, its end."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .appending import Appender
from .compaction import drop_from
from .parts import PartError, part_paths, read_part, write_json
from .process import is_alive, this_process
from .reading import rank_folders
from .remote import Copy, Spool, is_remote
from .schema import FORMAT_VERSION

HEADER = "run.json"
END = "end.json"
LAYERS = "layers.json"
"""The layers as far as they are known by now; it stands in for those of the header."""

CLAIMS = "resume-*.json"
"""Left by each process that goes on with the run, until it ends."""

SILENT_SECONDS = 900.0
"""A run written on another host counts as broken off after this long without a new file."""


class RunBusy(ValueError):
    """A run that is being written already."""


_writing: weakref.WeakValueDictionary[str, RunStore] = weakref.WeakValueDictionary()
"""The runs that this process writes, by path or address."""


class RunStore:
    """One run folder that this process writes.

    Args:
        path: wanted folder, or an address such as ``s3://bucket/run``; if something is there
            already, the next free name with a number.
        header: what is known before the first step; format, name, host, process are added.
        resume: go on with the run at ``path`` if there is one: True behind its last step, a number
            at that step; what it holds from there on is removed.
        max_bytes: bound of the folder's size; None for none.

    ``first`` is the step with which it goes on, ``broken_off`` whether the process that it takes
    over from did not come to an end. After :meth:`append`, ``merges`` counts how often
    neighbouring records were merged to stay within the bound, ``full`` says that more is needed.

    Raises:
        OSError: the folder cannot be made or written.
        RunBusy: the run to go on with is still being written.

    Example:
        >>> import tempfile
        >>> store = RunStore(Path(tempfile.mkdtemp()) / "run", {})
        >>> store.append("scalars", {"step": [0], "name": ["loss"], "value": [2.3]})
        >>> store.end("finished", steps=1)
        >>> sorted(file.name for file in store.path.iterdir())
        ['end.json', 'run.json', 'scalars-00000001.parquet']
    """

    def __init__(
        self,
        path: str | Path,
        header: Mapping[str, Any],
        *,
        resume: bool | int = False,
        max_bytes: int | None = None,
    ) -> None:
        self.merges = 0
        self.full = self.broken_off = False
        self.first = 0
        self._spool = Spool(str(path), fetch=resume is not False) if is_remote(path) else None
        wanted = Path(path) if self._spool is None else self._spool.path
        old: dict[str, Any] = {}
        if resume is not False and (wanted / HEADER).is_file():
            self.path = wanted
            shown = str(path)
            if self._key(wanted) in _writing:
                raise RunBusy(_BUSY.format(path=shown, who="another probe of this process"))
            self.broken_off = not (wanted / END).exists()
            old, self.first = _taken_over(wanted, resume, shown)
        elif self._spool is not None:
            self.path = self._spool.new()
        else:
            self.path = _new_folder(wanted)
        self.address = str(self.path) if self._spool is None else self._spool.address
        self._appender = Appender(self.path, max_bytes)
        again = {"resumed": [*old.get("resumed", []), self.first]} if old else {}
        self.header = {
            "format": FORMAT_VERSION,
            "name": Path(self.address).name,
            "created": old.get("created", time.time()),
            **this_process(),
            **header,
            **again,
        }
        write_json(self.path / HEADER, self.header)
        self._push()
        _writing[self._key(self.path)] = self

    def _key(self, path: Path) -> str:
        return str(path.resolve()) if self._spool is None else self._spool.address

    def append(self, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
        """Write the next part of a table; it is on disk when this returns."""
        self._appender.append(table, columns)
        self.merges, self.full = self._appender.merges, self._appender.full
        self._push()

    def know(self, layers: Iterable[Mapping[str, Any]]) -> None:
        """Say which layers there are, all of them, where the header could not know it yet."""
        write_json(self.path / LAYERS, {"layers": list(layers)})
        self._push()

    def judge(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a judgement about the run, ``"lint"`` or ``"findings"``; a later one replaces it."""
        write_json(self.path / f"{name}.json", content)
        self._push()

    def end(self, state: str, **facts: Any) -> None:
        """Say how the run ended; without this a reader calls it broken off."""
        _writing.pop(self._key(self.path), None)
        write_json(self.path / END, {"state": state, "ended": time.time(), **facts})
        for claim in self.path.glob(CLAIMS):
            claim.unlink(missing_ok=True)
        self._push()

    def _push(self) -> None:
        if self._spool is not None:
            self._spool.push()


def _taken_over(path: Path, resume: bool | int, shown: str) -> tuple[dict[str, Any], int]:
    """Take a run over from a process that is no more; return its header and the next step."""
    busy = RunBusy(_BUSY.format(path=shown, who="another process"))
    header = _header(path)
    written = last_written(path)  # before there is anything of our own
    claims = sorted(path.glob(CLAIMS))
    own = path / f"resume-{max(map(_number, claims), default=0) + 1:04d}.json"
    try:
        # Exclusive: of two processes that want the run at once, one gets this name.
        with own.open("x", encoding="utf-8") as file:
            json.dump(this_process(), file)
    except FileExistsError:
        raise busy from None
    # What has ended is free; who has claimed it since then has not ended.
    others = [_json(claim) for claim in path.glob(CLAIMS) if claim != own]
    others += [] if (path / END).exists() else [header]
    me = this_process().items()
    if any(not me <= other.items() and _writes(written, other) for other in others):
        own.unlink()
        raise busy
    step = next_step(path, resume)
    (path / END).unlink(missing_ok=True)
    for folder in rank_folders(path):
        for half in folder.glob(".*.tmp"):  # a kill left it, and it counts against a bound
            half.unlink(missing_ok=True)
        drop_from(folder, step)
    for claim in claims:
        claim.unlink(missing_ok=True)
    return header, step


def _number(claim: Path) -> int:
    number = claim.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _writes(written: float, process: Mapping[str, Any]) -> bool:
    """Return whether a process may still write a run, whose youngest file was written then."""
    if "pid" not in process:
        return False
    alive = is_alive(process)
    return written > time.time() - SILENT_SECONDS if alive is None else alive


def last_written(path: Path) -> float:
    """Return the time (seconds since 1970) of the youngest file of a run."""
    times = [0.0]
    for file in path.iterdir():
        try:
            times.append(file.stat().st_mtime)
        except OSError:  # a temporary file that has got its name in the meantime
            continue
    return max(times)


def next_step(path: str | Path, resume: bool | int) -> int:
    """Return the step with which a training goes on.

    Args:
        path: folder of its run.
        resume: the step itself, or True for the one behind the last of which the run knows
            anything, 0 if there is no run.
    """
    if resume is not True:
        return int(resume)
    if is_remote(path):
        copy = Copy(str(path))
        return next_step(copy.path, resume) if copy.pull() else 0
    path = Path(path)
    if not (path / HEADER).is_file():
        return 0
    last = -1
    for table in ("records", "scalars"):
        for part in part_paths(path, table):
            try:
                rows = read_part(part, ["step"])
            except PartError:  # it stays where it is, and readers name it
                continue
            if len(rows):
                last = max(last, int(rows["step"].to_numpy().max()))
    return last + 1


def _header(path: Path) -> dict[str, Any]:
    header = _json(path / HEADER)
    if not header:
        raise ValueError(
            f"{str(path)!r} is damaged: its {HEADER} cannot be read, so that it cannot be resumed: "
            "take another folder"
        )
    if header.get("format") != FORMAT_VERSION:
        raise ValueError(
            f"{str(path)!r} has format {header.get('format')!r} and this spikescope writes "
            f"{FORMAT_VERSION}: it cannot be resumed, take another folder"
        )
    return header


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


_BUSY = (
    "{path!r} is being written by {who}: two must not write one run, end the other one or take "
    "another folder"
)


def _new_folder(wanted: Path) -> Path:
    """Make and return a folder that did not exist: ``run``, ``run-2``, ``run-3``, ..."""
    if not wanted.name:  # "." has no name that a number could be added to
        wanted = wanted.resolve()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path
