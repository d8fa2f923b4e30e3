"""Which versions are at work, and which of them lie outside what was tested."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib import metadata

import torch

from .adapters import Adapter

_ALWAYS = ("spikescope", "torch", "numpy", "scipy", "pandas", "pyarrow")


def versions(adapters: Iterable[Adapter]) -> dict[str, str]:
    """Return the versions that decide on what a run holds, for its header.

    Args:
        adapters: adapters of the frameworks that the model uses.

    Returns:
        Version by name: Python, platform, packages, frameworks, and CUDA with its device.

    Example:
        >>> sorted(set(versions([])) & {"python", "torch", "norse"})
        ['python', 'torch']
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in (*_ALWAYS, *sorted({adapter.framework for adapter in adapters})):
        version = installed(name)
        if version is not None:
            found[name] = version
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["gpu"] = torch.cuda.get_device_name()
    return found


def installed(name: str) -> str | None:
    """Return the version of an installed package, None where it has none to tell."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def untested(adapter: Adapter, version: str | None) -> str | None:
    """Say that a framework's version lies outside the tested range.

    Args:
        adapter: the framework's adapter.
        version: the installed version, None if unknown (a checkout, say).

    Returns:
        One sentence that names both versions; None inside the range, or without one.

    Example:
        >>> from spikescope.probes.adapters import ADAPTERS
        >>> norse = next(entry for entry in ADAPTERS if entry.framework == "norse")
        >>> untested(norse, "1.1.0") is None
        True
    """
    if adapter.tested is None:
        return None
    first, last = adapter.tested
    if version is not None and _parts(first) <= _parts(version) <= _parts(last):
        return None
    tested = first if first == last else f"{first} to {last}"
    return (
        f"{adapter.framework} {version or 'of unknown version'} is outside the tested range "
        f"({tested}): each layer's self-check decides whether its figures can be trusted"
    )


def _parts(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 1.1.0rc2 counts as 1.1.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
