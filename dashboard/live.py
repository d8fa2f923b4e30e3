"""What a tick moves: only the parts of a page that are other than what the browser has."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dash import Patch, no_update
from plotly.utils import PlotlyJSONEncoder

LEAVES = {
    "graph": ("figure",),
    "reading": ("children",),
    "words": ("aria-label",),
    "grid": ("rowData",),
    "live": ("children",),
    "set": ("value", "max", "marks"),
}
"""Properties that change while a page stays, by the type of the component."""

PAGES_KEPT = 16
"""Pages whose last state is remembered, so that the next tick can be the difference to it."""

Leaf = tuple[str, str]
"""Id of a component, as JSON, and one of its properties."""


@dataclass(frozen=True)
class Sent:
    """A page as the browser has it.

    Args:
        skeleton: everything but the leaves, as JSON.
        leaves: what each leaf holds.
        defaults: what the switches stand at.
    """

    skeleton: str
    leaves: dict[Leaf, Any]
    defaults: dict[str, Any]


class Memory:
    """The pages that were sent last, by the key that the browser keeps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, Sent] = OrderedDict()

    def put(self, key: str, sent: Sent) -> None:
        """Remember a page; the oldest ones are forgotten."""
        with self._lock:
            self._sent[key] = sent
            self._sent.move_to_end(key)
            while len(self._sent) > PAGES_KEPT:
                self._sent.popitem(last=False)

    def get(self, key: str) -> Sent | None:
        """Return a page, None if it is not remembered."""
        with self._lock:
            return self._sent.get(key)


def record(components: Any, defaults: dict[str, Any]) -> Sent:
    """Return what a page consists of.

    Args:
        components: its content and controls.
        defaults: what its switches stand at.

    Returns:
        The page, leaves apart from the rest.
    """
    tree = json.loads(json.dumps(components, cls=PlotlyJSONEncoder))
    leaves: dict[Leaf, Any] = {}
    for props in _with_id(tree):
        kind = props["id"].get("type")
        for name in LEAVES.get(kind, ()):
            if name in props:
                leaves[json.dumps(props["id"], sort_keys=True), name] = props[name]
                props[name] = None
    return Sent(json.dumps(tree, sort_keys=True), leaves, json.loads(json.dumps(defaults)))


def _with_id(tree: Any) -> Iterator[dict[str, Any]]:
    """Walk through a page and return the properties of components with a dictionary as id."""
    if isinstance(tree, list):
        for item in tree:
            yield from _with_id(item)
    elif isinstance(tree, dict):
        props = tree.get("props")
        if isinstance(props, dict):
            # What lies inside a leaf belongs to it.
            inside = props.get("children")
            identity = props.get("id")
            leaf = isinstance(identity, dict) and "children" in LEAVES.get(
                identity.get("type", ""), ()
            )
            if not leaf:
                yield from _with_id(inside)
            if isinstance(identity, dict):
                yield props


def changes(before: Sent, now: Sent) -> dict[Leaf, Any] | None:
    """Return the leaves that changed, each as what turns the old into the new.

    Args:
        before: the page as the browser has it.
        now: the page as it is.

    Returns:
        New values or patches by leaf; None if the page itself is another.
    """
    if before.skeleton != now.skeleton or before.leaves.keys() != now.leaves.keys():
        return None
    found = {}
    for leaf, value in now.leaves.items():
        if value != before.leaves[leaf]:
            found[leaf] = patch(before.leaves[leaf], value)
    return found


def patch(before: Any, now: Any) -> Any:
    """Return what turns an old value into a new one: a patch where most of it stays.

    Args:
        before: plain JSON.
        now: plain JSON.

    Returns:
        ``no_update``, a Patch, or the new value itself.

    Example:
        >>> patch({"x": [1, 2]}, {"x": [1, 2, 3]}).to_plotly_json()["operations"]
        [{'operation': 'Extend', 'location': ['x'], 'params': {'value': [3]}}]
    """
    if before == now:
        return no_update
    if not (isinstance(before, dict | list) and type(before) is type(now)):
        return now
    patched = Patch()
    _patch(patched, before, now)
    return patched


def _patch(target: Any, before: Any, now: Any) -> None:
    if isinstance(now, dict):
        for name in before.keys() - now.keys():
            del target[name]
        for name, value in now.items():
            if name not in before:
                target[name] = value
            elif value != before[name]:
                _place(target, name, before[name], value)
        return
    if len(now) == len(before) and now and isinstance(now[0], dict | list):
        for place, value in enumerate(now):
            if value != before[place]:
                _place(target, place, before[place], value)
        return
    same = next(
        (k for k, (a, b) in enumerate(zip(before, now, strict=False)) if a != b),
        min(len(before), len(now)),
    )
    for place in range(len(before) - 1, same - 1, -1):
        del target[place]
    if now[same:]:
        target.extend(now[same:])


def _place(target: Any, place: Any, before: Any, now: Any) -> None:
    """Put a new value in its place: the difference where that is shorter."""
    if _alike(before, now):
        _patch(target[place], before, now)
    else:
        target[place] = now


def _alike(before: Any, now: Any) -> bool:
    """Say whether it pays to send a difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        return True
    if not (isinstance(before, list) and isinstance(now, list)):
        return False
    if len(before) == len(now) and now and isinstance(now[0], dict):
        return True
    common = next(
        (k for k, (a, b) in enumerate(zip(before, now, strict=False)) if a != b),
        min(len(before), len(now)),
    )
    # A few numbers at the end are new: what comes before them stays.
    return common >= 1 and len(before) - common <= 8
