"""Which spiking layer a module leads to, from the order in which a model calls its modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from .hooks import Guard
from .modes import Hook
from .recompute import in_backward


class CallOrder:
    """The order of the calls in the first recorded step; that of the definition until then.

    Args:
        modules: the modules of the model, as defined.
        spiking: names of the recorded spiking layers.
        guard: wraps each hook.

    ``feeds`` holds, for each module, the name of the next spiking layer (itself for one); empty
    behind the last one. The dict stays the same object.
    """

    def __init__(
        self, modules: list[nn.Module], spiking: dict[nn.Module, str], guard: Guard
    ) -> None:
        self.feeds: dict[nn.Module, str] = {}
        self._modules = modules
        self._spiking = spiking
        self._guard = guard
        self._handles: list[Any] = []
        self._called: dict[nn.Module, None] = {}
        self._known = False
        self._set(modules)

    def _set(self, order: list[nn.Module]) -> None:
        following = ""
        for module in reversed(order):
            following = self._spiking.get(module, following)
            self.feeds[module] = following

    def arm(self) -> None:
        """Watch the calls of one step, once."""
        if self._known:
            return
        for module in self._modules:
            if module in self._spiking or next(module.parameters(recurse=False), None) is not None:
                hook = Hook(module, self._guard(self._before_call))
                self._handles.append(module.register_forward_pre_hook(hook))

    def _before_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not in_backward():
            self._called.setdefault(module)

    def finish(self) -> None:
        """Take the order of the calls, if the spiking layers were called."""
        if not self._known and any(module in self._spiking for module in self._called):
            self._set(list(self._called))
            self._known = True

    def disarm(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._called = [], {}
