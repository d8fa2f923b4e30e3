"""Reading spiking layers without a closed form: from the calls of their surrogate's Function.

What a Function is given is u or u - threshold, what it returns are the spikes, and the gradients
at its two ends are those of the spikes and of the branch behind the surrogate. Calibrated on the
first recorded steps, where it may wait for the device; never later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .levels import STANDARD, Level
from .modes import Hook, Unscale, is_captured, wide
from .recompute import Repeats, in_backward
from .stream import ROUNDING, Moment, Stream
from .tap_function import Listener, listen, unlisten
from .tap_gradients import Call, Guard, TapGradients
from .tap_graph import Work, at_work
from .tap_rule import (
    HIDDEN,
    FiringRule,
    NoSpike,
    Refused,
    argument_of,
    height_of,
    threshold_of,
)
from .tap_site import Site, entry_of, is_repetition, is_twin, surrogate_of
from .tap_surrogate import numbers_of

HOLD_LIMIT = 2**24
"""Elements of calls that may wait until their threshold is known; what is above is left out."""


@dataclass(eq=False)
class _Held:
    """A call and its tensors, none of them with a graph."""

    call: Call
    x: Tensor
    output: Tensor
    inputs: tuple[Any, ...]


class Tap:
    """Hears the surrogates of one model while armed.

    Args:
        names: name of each module of the model.
        replayed: modules that are read in another way.
        refused: modules that adapters know and cannot read.
        guard: wraps each hook so that an error of ours never reaches the training.
        unscale: takes the factor of a scaled loss out of a gradient.
        time_axis: by name of a layer, the axis of its sequence that counts timesteps, if its
            surrogate is called once for a whole sequence; None if one call is one timestep.
        level: what is read of a step.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        replayed: set[nn.Module],
        refused: set[nn.Module],
        guard: Guard,
        unscale: Unscale,
        time_axis: Mapping[str, int | None],
        level: Level = STANDARD,
    ) -> None:
        self._time_axis, self._level = time_axis, level
        self._names, self._replayed, self._refused = names, replayed, refused
        self._guard, self._unscale = guard, unscale
        self._listener: Listener | None = None
        self._calls: dict[nn.Module, int] = {}
        self._handles: list[Any] = []
        self._sites: dict[Any, Site] = {}
        self._rules: dict[type, FiringRule] = {}
        self._gradients = TapGradients(guard, self._rules)
        self._no_spikes: set[type] = set()
        self._reasons: dict[nn.Module, str] = {}
        self._held: list[_Held] = []
        self._scales: dict[nn.Module, float] = {}
        self._repeats = Repeats()

    def arm(self) -> None:
        """Hear every Function."""
        # Made anew each time: kept, it would hold the tap, and the tap the model, in a cycle.
        self._listener = self._guard(self._hear)
        listen(self._listener)

    def disarm(self) -> None:
        """Give every Function its methods back and forget what belongs to the step."""
        if self._listener is not None:
            unlisten(self._listener)
            self._listener = None
        self._gradients.forget()
        for handle in self._handles:
            handle.remove()
        self._handles, self._calls, self._held = [], {}, []
        self._repeats.forget()
        for site in self._sites.values():
            site.stream.clear()
            site.last, site.t, site.shape, site.turned = None, 0, None, False
            site.samples.clear()

    def finish(self) -> list[Stream]:
        """End the step: settle what can be settled and return the layers' records."""
        for held in self._held:
            self._leave_out(held.call.site)
        self._held = []
        self._settle()
        for site in self._sites.values():
            site.stream.finish()
            self._ask_for_time(site)
            if site.samples.ready:
                site.measured = site.samples.measured() or site.measured
        for site in self._sites.values():  # only training shows a surrogate
            if site.measured is None:
                twins = (other for other in self._sites.values() if is_twin(site, other))
                site.measured = next((twin.measured for twin in twins), None)
        return [
            site.stream
            for site in self._sites.values()
            if not site.repeated and (site.stream.forward or site.stream.notes)
        ]

    def entries(self) -> list[dict[str, Any]]:
        """Return what the run says of each layer that was heard, and of those that cannot be."""
        found: dict[str, dict[str, Any]] = {}
        for site in self._sites.values():
            if site.settled and not site.repeated and self._threshold_known(site):
                scale = self._scales.get(site.owner, 1.0)
                entry = entry_of(site, self._rules[site.function], scale)
                entry = found.setdefault(site.stream.name, entry)
                entry["surrogate"] = entry["surrogate"] or surrogate_of(site.measured)
        reasons = dict(self._reasons)
        for site in self._sites.values():
            if site.undecided and not self._threshold_known(site):
                reasons.setdefault(site.owner, _UNDECIDED)
        for module, reason in reasons.items():
            name, kind = self._name(module), type(module).__name__
            refused = {"name": name, "kind": kind, "covered": False, "reason": reason}
            found.setdefault(name, refused)
        return list(found.values())

    def _name(self, module: nn.Module) -> str:
        return self._names[module] or type(module).__name__

    def _count(self, module: nn.Module) -> int:
        """Return how often a module has been called since it was first asked for."""
        if module not in self._calls:
            self._calls[module] = 0
            hook = Hook(module, self._guard(self._called))
            self._handles.append(module.register_forward_pre_hook(hook))
        return self._calls[module]

    def _called(self, module: nn.Module, args: Any) -> None:
        self._calls[module] += 1

    def _hear(self, node: Any, inputs: tuple[Any, ...], output: Any) -> None:
        argument = argument_of(inputs, output)
        if argument is None or output.numel() == 0 or is_captured(output):
            return  # what a graph captures must not wait for the device, and runs without us
        work = at_work(self._names)
        if any(entry.module in self._replayed for entry in work):
            return
        if in_backward():
            call = self._repeats.find()
            if call is not None:
                self._gradients.listen(call, node, inputs, argument)
            return
        if not work:
            return
        with torch.no_grad():
            call = self._take(node._forward_cls, inputs, output, argument, work)
        self._repeats.note(call)
        if call is not None:
            self._gradients.listen(call, node, inputs, argument)

    def _take(
        self,
        function: type,
        inputs: tuple[Any, ...],
        output: Tensor,
        argument: int,
        work: list[Work],
    ) -> Call | None:
        """Find out whose timestep a call is, and fold it as soon as its threshold is known."""
        if function in self._no_spikes:
            return None
        owner, lines = self._owner(inputs[argument], work)
        if owner in self._reasons:
            return None
        rule = self._rules.setdefault(function, FiringRule(argument))
        if rule.argument != argument:
            return None
        mode = "train" if owner.training else "eval"
        width = inputs[argument].shape[1:2]  # for loops over layers in one line
        key = owner, mode, function, width, lines
        site = self._sites.get(key)
        if site is None:
            site = Site(owner, function, mode, Stream("", self._unscale, self._level))
            self._sites[key] = site
        try:
            self._calibrate(site, rule, inputs, output)
            axis = self._axis(owner, inputs[argument])
        except NoSpike:
            self._no_spikes.add(function)
            self._sites = {k: s for k, s in self._sites.items() if s.function is not function}
            self._held = [held for held in self._held if held.call.site.function is not function]
            return None
        except Refused as reason:
            self._reasons[owner] = str(reason)
            self._sites = {k: s for k, s in self._sites.items() if s.owner is not owner}
            self._held = [held for held in self._held if held.call.site.owner is not owner]
            return None
        if site.repeated:
            return None
        passes = self._count(owner), self._count(work[-1].module)
        t = site.next_t(passes, inputs[argument].shape)
        site.longest = max(site.longest, t)
        moment = Moment(mode, t if axis is None else 1, axis=axis)
        call = Call(site, moment)
        inputs = tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)
        self._keep_or_fold(_Held(call, inputs[argument], output.detach(), inputs), rule)
        return call

    def _owner(self, x: Tensor, work: list[Work]) -> tuple[nn.Module, tuple[Any, ...]]:
        """Return the layer at work, and the lines of its code that led to the call."""
        for entry in work:
            if entry.module in self._refused:
                return entry.module, entry.lines
        inner = work[0]
        if len(work) > 1 and inner.given is x:
            # A surrogate that is a module: the neuron is what calls it. Where the model itself or
            # a Sequential does, the surrogate's name says more.
            outer = work[1]
            plain = len(work) == 2 or isinstance(outer.module, nn.Sequential)
            return (inner if plain else outer).module, outer.lines
        return inner.module, inner.lines

    def _calibrate(
        self, site: Site, rule: FiringRule, inputs: tuple[Any, ...], output: Tensor
    ) -> None:
        """Look at the numbers of a call until everything about its site is known."""
        hidden = rule.place == HIDDEN and site.threshold is None
        if not (rule.unsettled(inputs) or hidden or not site.settled):
            return
        site.look(rule, inputs, output)
        others = [
            other
            for other in self._sites.values()
            if other is not site and other.owner is site.owner and other.mode == site.mode
        ]
        x = inputs[rule.argument]
        if any(_equal(x, other.last) for other in others):
            site.repeats += 1
        site.last = x.detach().clone()

    def _axis(self, owner: nn.Module, x: Tensor) -> int | None:
        """Return the axis that the user named, if it can be one."""
        axis = self._time_axis.get(self._name(owner))
        if axis is not None and not -x.ndim <= axis < x.ndim:
            raise Refused(
                f"time_axis={axis} is not possible for its surrogate's input of shape "
                f"{tuple(x.shape)}: give an axis of that"
            )
        return axis

    def _ask_for_time(self, site: Site) -> None:
        """Ask which axis counts timesteps where one call may have held a whole sequence."""
        name = self._name(site.owner)
        if site.longest == 1 and site.shape is not None and name not in self._time_axis:
            site.stream.notes["time_axis"] = _ONE_CALL.format(name=name, shape=tuple(site.shape))

    def _keep_or_fold(self, held: _Held, rule: FiringRule) -> None:
        if self._threshold_known(held.call.site):
            ready = [other for other in self._held if self._threshold_known(other.call.site)]
            self._held = [other for other in self._held if other not in ready]
            for other in (*ready, held):
                self._fold(other)
        elif sum(other.x.numel() for other in self._held) + held.x.numel() > HOLD_LIMIT:
            self._leave_out(held.call.site)
        else:
            # The training may go on in these tensors before the threshold is known.
            copies = tuple(
                value.clone() if isinstance(value, Tensor) else value for value in held.inputs
            )
            output = held.output.clone()
            self._held.append(_Held(held.call, copies[rule.argument], output, copies))

    def _leave_out(self, site: Site) -> None:
        if self._rules[site.function].plausible:
            site.undecided = True
            site.stream.name = site.stream.name or self._name(site.owner)
            site.stream.notes["undecided"] = _UNDECIDED

    def _threshold_known(self, site: Site) -> bool:
        place = self._rules[site.function].place
        return place is not None and (place != HIDDEN or site.threshold is not None)

    def _fold(self, held: _Held) -> None:
        call, x = held.call, held.x
        site, moment, rule = call.site, call.moment, self._rules[call.site.function]
        threshold: Tensor | float
        if rule.place == HIDDEN:
            assert site.threshold is not None
            threshold = site.threshold
        else:
            assert rule.place is not None
            threshold = threshold_of(held.inputs, rule.place, rule.argument)
        usual = site.height
        if site.height_place is not None:
            usual = held.inputs[site.height_place]
        moment.height = height_of(held.output, usual)
        numbers = numbers_of(held.inputs, rule.argument)
        moment.surrogate = None if site.measured is None else site.measured.at(numbers)
        scale = 1.0
        if rule.place != rule.argument:
            if site.owner not in self._scales:  # once for each layer
                self._scales[site.owner] = abs(float(torch.as_tensor(threshold).mean())) or 1.0
            scale = self._scales[site.owner]
        fired, height = held.output != 0, moment.height
        odd = fired & ((held.output - height).abs() > ROUNDING * height)
        spikes = wide(fired.to(x.dtype))
        site.stream.record(moment, wide(x), spikes, threshold, scale, odd)
        known = moment.surrogate is not None
        call.sampled = site.samples.of(x, threshold, numbers, known)
        if known:
            moment.z = x if rule.place == rule.argument else x - threshold
            moment.version = moment.z._version
        call.folded = True

    def _settle(self) -> None:
        """Name the sites; those that only repeat another site's call are no layers."""
        by_owner: dict[tuple[nn.Module, str], list[Site]] = {}
        for site in self._sites.values():
            if self._threshold_known(site):
                by_owner.setdefault((site.owner, site.mode), []).append(site)
        for (owner, _), sites in by_owner.items():
            new = [site for site in sites if not site.settled]
            for site in new:
                site.repeated = is_repetition(site, sites)
            kept = [site for site in sites if not site.repeated]
            for site in new:
                site.settled = True
                site.last = None
                name = self._name(owner)
                place = kept.index(site) + 1 if site in kept else 0
                site.stream.name = name if len(kept) == 1 else f"{name}[{place}]"


def _equal(x: Tensor, other: Tensor | None) -> bool:
    return other is not None and x.shape == other.shape and torch.equal(x, other)


_ONE_CALL = (
    "its surrogate is called once in a pass, with shape {shape}, and recorded as one timestep: if "
    "an axis of that counts timesteps, name it with watch(..., time_axis={{{name!r}: 0}}), or None"
)
_UNDECIDED = (
    "its threshold cannot be told from the calls of its surrogate yet (too few fired, or too few "
    "did not): timesteps of this step are left out, the next recorded step tries again"
)
