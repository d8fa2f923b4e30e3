"""What a run says of itself before any record: its header and its layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .schema import FORMAT_VERSION
from .store import HEADER


class RunError(ValueError):
    """A path that is no readable run; the message says what is there and what would be right."""


@dataclass(frozen=True)
class Layer:
    """One module of the watched model.

    Args:
        name: its name in the model.
        kind: its class.
        covered: whether it was recorded.
        reason: why not, if it was not.
        route: how it was read: ``"replay"`` from its input and spikes, ``"tap"`` from the calls
            of its surrogate, ``"attach"`` from what the user's code handed over.
        coordinate: what the record calls u: ``"u"``, or ``"u - threshold"`` where the threshold
            itself is not known.
        spec: fields of its NeuronSpec.
        surrogate: fields of its Surrogate, None if it has none.
        scale: potential that one unit of the density's axis stands for (the threshold).
    """

    name: str
    kind: str = ""
    covered: bool = True
    reason: str = ""
    route: str = "replay"
    coordinate: str = "u"
    spec: dict[str, Any] = field(default_factory=dict)
    surrogate: dict[str, Any] | None = None
    scale: float = 1.0


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a run folder.

    Raises:
        RunError: the folder holds no run, a damaged one, or one of a newer spikescope.
    """
    shown = repr(str(path))
    if not path.exists():
        raise RunError(f"{shown} does not exist: name a folder with a run")
    file = path / HEADER
    if not file.is_file():
        raise RunError(f"{shown} is no run: it has no {HEADER}")
    try:
        str(path).encode()
    except UnicodeEncodeError:  # pyarrow opens no such file
        raise RunError(f"{shown} is no name in Unicode: rename the folder to open it") from None
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{shown} is damaged: {HEADER} cannot be read ({error})") from error
    written = header.get("format") if isinstance(header, dict) else None
    if not isinstance(written, int):
        raise RunError(f"{shown} is damaged: {HEADER} does not say its format")
    if written > FORMAT_VERSION:
        raise RunError(
            f"{shown} has format {written}, this spikescope reads up to {FORMAT_VERSION}: upgrade "
            "spikescope to open it"
        )
    return dict(header)


def layers_of(path: Path, header: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the layers of a header, or of a later list in its place.

    Args:
        path: the run, for what goes wrong.
        header: what it says.

    Raises:
        RunError: an entry is no layer.
    """
    entries = header.get("layers", [])
    names = Layer.__dataclass_fields__
    try:
        return tuple(
            Layer(**{key: entry[key] for key in names if key in entry}) for entry in entries
        )
    except TypeError as error:
        raise RunError(f"{str(path)!r} is damaged: {HEADER} has broken layers ({error})") from error
