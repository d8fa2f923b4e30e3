"""The gradients at the two ends of a surrogate and at u, told by the graph of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .modes import wide
from .stream import Moment, on_gradient
from .tap_graph import NoNode, potential_node
from .tap_rule import FiringRule
from .tap_site import Site
from .tap_surrogate import Sampled

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(eq=False)
class Call:
    """One call of a surrogate, without its tensors: hooks in the graph hold it."""

    site: Site
    moment: Moment
    sampled: Sampled | None = None
    folded: bool = False
    missing: dict[bool, str] = field(default_factory=dict)
    """Why u was not found in the graph, if the argument is u - threshold or u."""


class TapGradients:
    """The hooks in the graph of one step.

    Args:
        guard: wraps each hook so that an error of ours never reaches the training.
        rules: the rule of each surrogate's Function, as far as it is known by now.
    """

    def __init__(self, guard: Guard, rules: Mapping[type, FiringRule]) -> None:
        self._guard, self._rules = guard, rules
        self._handles: list[Any] = []

    def forget(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def listen(self, call: Call, node: Any, inputs: tuple[Any, ...], argument: int) -> None:
        """Have the gradients at the two ends of the surrogate and at u told."""
        x = inputs[argument]
        if not (x.requires_grad and node.next_functions):  # without next, no graph is built
            return
        place = sum(isinstance(value, Tensor) for value in inputs[:argument])
        site = call.site

        def behind(gradients: Any, given: Any) -> None:
            if given[0] is not None and site.stream.is_first_backward(call.moment):
                branch = gradients[place] if place < len(gradients) else None
                self._at_spikes(call, given[0].detach(), branch)

        self._handles.append(node.register_hook(self._guard(behind)))
        site.stream.learns(site.mode)
        rule = self._rules[site.function]
        for shifted in (True, False):
            if rule.place is None or (rule.place == rule.argument) == shifted:
                self._at_potential(call, rule, x, shifted)

    def _at_potential(self, call: Call, rule: FiringRule, x: Tensor, shifted: bool) -> None:
        def at(gradient: Tensor | None) -> None:
            # Which of the two is u may have been found out after the call.
            if gradient is not None and (rule.place == rule.argument) == shifted:
                if call.site.stream.is_first_backward(call.moment) and call.folded:
                    call.site.turned = True
                    with torch.no_grad():
                        call.site.stream.at_potential(call.moment, wide(gradient.detach()))

        if x.grad_fn is None and not shifted:
            self._handles.append(on_gradient(x, self._guard(at)))
            return
        try:
            node, output = potential_node(x, shifted)
        except NoNode as reason:
            call.missing[shifted] = str(reason)
            return
        hook = self._guard(lambda gradients: at(gradients[output]))
        self._handles.append(node.register_prehook(hook))

    def _at_spikes(self, call: Call, gradient: Tensor, branch: Tensor | None) -> None:
        site, rule = call.site, self._rules[call.site.function]
        site.turned = True
        if not call.folded:
            return
        shifted = rule.place == rule.argument
        if shifted in call.missing:
            site.stream.notes.setdefault("no_potential_gradient", call.missing[shifted])
        with torch.no_grad():
            if call.sampled is not None and branch is not None:
                site.samples.take(call.sampled, gradient * call.moment.height, branch)
            wider = None if branch is None else wide(branch.detach())
            site.stream.at_spikes(call.moment, wide(gradient), wider)
