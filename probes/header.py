"""What is known about a run before its first step: layers, versions, seed, commit."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from .adapters import ADAPTERS, Adapter, SpikingLayer
from .modes import plain_modules, rank, unwrapped
from .ranks import joined
from .versions import versions


def find_layers(
    model: nn.Module,
) -> tuple[list[tuple[SpikingLayer, Adapter]], list[dict[str, Any]]]:
    """Find the spiking layers of a model.

    Args:
        model: the model as the user built it.

    Returns:
        The layers that can be recorded with their adapters, and a header entry (name, kind,
        reason) for each that cannot, both in network order.
    """
    found, refused = [], []
    for name, module in plain_modules(model):
        adapter = next((entry for entry in ADAPTERS if entry.handles(module)), None)
        if adapter is None:
            continue
        try:
            found.append((adapter.describe(name, module), adapter))
            continue
        except ValueError as error:
            reason = str(error)
        except Exception as error:  # a framework that is there in parts must not stop the others
            reason = (
                f"{adapter.framework} could not be read ({type(error).__name__}: {error}): is it "
                "wholly installed?"
            )
        kind = type(module).__name__
        refused.append({"name": name, "kind": kind, "covered": False, "reason": reason})
    return found, refused


def header(
    model: nn.Module,
    layers: list[tuple[SpikingLayer, Adapter]],
    refused: list[dict[str, Any]],
    schedule: Any,
) -> dict[str, Any]:
    """Return the content of ``run.json`` in plain JSON values."""
    entries = {layer.name: _entry(layer, adapter) for layer, adapter in layers}
    entries |= {entry["name"]: entry for entry in refused}
    order = [name for name, _ in plain_modules(model) if name in entries]
    first = next(model.parameters(), None)
    this, ranks = rank()
    return {
        "model": type(unwrapped(model)).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(first.device) if first is not None else "cpu",
        "schedule": str(schedule),
        "seed": torch.initial_seed(),
        # Each rank writes its share, and a reader merges those that are there.
        "ranks": {"recorded": list(range(ranks)) if joined() else [this], "of": ranks},
        "git": _git(),
        "versions": versions(adapter for _, adapter in layers),
        "layers": [entries[name] for name in order],
    }


def known_layers(
    model: nn.Module,
    before: list[dict[str, Any]],
    refused: list[dict[str, Any]],
    heard: list[dict[str, Any]],
    memory: Mapping[str, Mapping[str, int]],
) -> list[dict[str, Any]]:
    """Return the entries of all layers after a recorded step, in network order.

    Args:
        model: the model as the user built it.
        before: the entries so far.
        refused: entries of the layers that no adapter can read.
        heard: entries of the layers that were read in another way, or cannot be.
        memory: bytes that the record of each layer takes on its device.
    """
    entries = {entry["name"]: entry for entry in before}
    for entry in refused:
        reason = f"{entry['reason']}; and no spike of a surrogate was heard in it"
        entries[entry["name"]] = {**entry, "reason": reason}
    for entry in heard:
        known = next((r["reason"] for r in refused if r["name"] == entry["name"]), None)
        if not entry["covered"] and known:
            entry = {**entry, "reason": f"{known}; and {entry['reason']}"}
        entries[entry["name"]] = entry
    for name, sizes in memory.items():
        if name in entries:
            entries[name] = {**entries[name], "memory": dict(sizes)}
    order = [name for name, _ in plain_modules(model)]

    def place(name: str) -> int:
        module = name.partition("[")[0]
        return order.index(module) if module in order else len(order)

    return [entries[name] for name in sorted(entries, key=place)]


def _entry(layer: SpikingLayer, adapter: Adapter) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": type(layer.module).__name__,
        "framework": adapter.framework,
        "spec": {name: _plain(value) for name, value in asdict(layer.spec).items()},
        "surrogate": asdict(layer.surrogate) if layer.surrogate is not None else None,
        "scale": layer.scale,
    }


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _git() -> dict[str, Any] | None:
    """Return commit and cleanness of the user's working folder, None outside a repository."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_ask_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _ask_git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
