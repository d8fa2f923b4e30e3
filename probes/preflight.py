"""Choose before training: what to change in a model, from a few batches through a copy of it.

Forward statistics first, layer by layer in network order, since each change moves what the next
layer sees; then the width of each surrogate from the spread of u that results, and its peak from
the balance of the gradient, from the last layer to the first. Every prediction is then measured on
the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.findings import Finding
from ..analysis.findings.evidence import CONFIDENCE_Z
from ..analysis.layer_figures import unbalanced
from ..analysis.layer_record import LayerRecord
from ..analysis.recommend import Recommendations
from ..analysis.recommend_layer import LayerPlan
from ..analysis.recommend_surrogate import width_verdict
from .preflight_batches import take, untouched_randomness
from .preflight_trial import Trial


def recommend(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    seed: int = 0,
) -> Recommendations:
    """Say what to change in a model before training, why, and what to expect.

    Args:
        model: the model; it runs as a deep copy and stays as it is, bit for bit.
        inputs: one batch (a tensor), a list of batches, or a DataLoader; four batches at most are
            looked at. A batch may be a pair (inputs, targets).
        targets: class numbers ``[N]`` of the batch, or a list with those of each batch. Without
            targets the gradient of a random projection of the output is looked at.
        loss: ``loss(output, targets)``; cross entropy of logits ``[N, classes]`` if None.
        forward: ``forward(model, inputs)`` for a model that is not simply called, for instance
            once per timestep; ``model(inputs)`` if None.
        seed: of dropout and of the random projection; the global random state stays as it is.

    Returns:
        A recommendation for each spiking layer, in network order, with the values before, those
        predicted, and those measured on the copy after all changes.

    Raises:
        ValueError: a model without a spiking layer that can be read or changed, a parameter that
            is not finite, a batch that does not fit the model or drives none of its layers.

    Example:
        >>> from spikescope.probes.lif import LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(20, 50), LIF(threshold=10.0), nn.Linear(50, 2))
        >>> advice = recommend(model, torch.rand(5, 64, 20))
        >>> advice[0].verdict, sorted(advice[0].changes)
        ('change', ['weight_scale'])

    Source:
        Order of the steps and yardsticks: Rossbroich, Gygax, Zenke 2022 (weights, bias);
        Herranz-Celotti and Rouat, arXiv 2202.00282 (width, peak); Kook et al., arXiv 2511.08708
        (start).
    """
    with untouched_randomness(inputs), torch.enable_grad():
        trial = Trial(model, take(inputs, targets), loss, forward, seed)
        plans = _plans(trial)
        _require_drive(trial)
        _forward(trial, plans)
        _backward(trial, plans)
        _measure(trial, plans)
        done = [plan.recommendation() for plan in plans.values()]
    return Recommendations(
        done,
        {name: plan.ranking for name, plan in plans.items()},
        {name: plan.kind for name, plan in plans.items()},
    )


def _plans(trial: Trial) -> dict[str, LayerPlan]:
    """Return an empty plan for each layer, in the order in which they are called."""
    findings: dict[str, list[Finding]] = {}
    for finding in trial.findings():
        findings.setdefault(finding.layer, []).append(finding)
    plans = {}
    for name in [*trial.before.layers, *trial.adapters]:
        if name not in plans:
            module, adapter = trial.adapters[name]
            plans[name] = LayerPlan(
                name=name,
                kind=(adapter.framework, type(module).__name__),
                before=trial.before.layers.get(name),
                findings=tuple(findings.get(name, ())),
            )
    return plans


def _require_drive(trial: Trial) -> None:
    """Refuse batches that bring no current to the first layer, and models that take no change."""
    first = next(iter(trial.before.layers.values()), None)
    if first is None:
        raise ValueError(
            f"no spiking layer was called: of {', '.join(trial.adapters)} none was reached by the "
            "batch"
        )
    if not np.any(first.current) and not np.any(first.spikes):
        raise ValueError(
            f"the batch makes no neuron fire: the current into layer {first.name!r} is 0 "
            "everywhere; give inputs that are not empty"
        )
    reasons = {}
    for name in trial.before.layers:
        found = trial.fan_in[name]
        usable = set(found.weight + found.bias) - trial.frozen
        fields = {"threshold": 1.0, "start": 0.0, "surrogate": None}
        barred = [trial.obstacle(name, field, value) for field, value in fields.items()]
        if usable or None in barred:
            return
        reasons[name] = barred[0]
    name, reason = next(iter(reasons.items()))
    raise ValueError(f"no spiking layer can be changed: {name!r}: {reason}")


ROUNDS = 2
"""How often a layer's drive is solved: once, and again where its own feedback moved the result."""


def _forward(trial: Trial, plans: dict[str, LayerPlan]) -> None:
    """Settle weights, bias, threshold and start of each layer, the first layer first."""
    changed = False
    for name, plan in plans.items():
        plan.know_parameters(trial.roles(name), trial.shapes(name))
        plan.power = trial.recurrent_power(name)
        if plan.lacking:
            continue
        assert plan.before is not None
        now = trial.layer(name) if changed else plan.before
        for _ in range(ROUNDS):
            if not plan.needs_drive(now) or not _drive(trial, plan, now):
                break
            changed = True
            now = trial.layer(name)
        start = plan.propose_start(now, partial(trial.obstacle, name, "start"))
        if start is not None:
            trial.write(name, "start", start)
            plan.accept_start(now, start)
            changed = True


def _drive(trial: Trial, plan: LayerPlan, now: LayerRecord) -> bool:
    """Solve one layer's drive once and do it on the copy; return whether anything was done."""
    parts, no_weight = trial.currents(now)
    biases, no_bias = trial.biases(plan.name)
    barred = partial(trial.obstacle, plan.name, "threshold")
    solution = plan.plan_drive(now, parts, no_weight, biases, no_bias, barred)
    if solution is not None:
        trial.apply(plan.name, solution)
    return solution is not None


def _backward(trial: Trial, plans: dict[str, LayerPlan]) -> None:
    """Settle the surrogates, the last layer first: each scales what comes down to the rest."""
    now = trial.record().layers
    names = [name for name, plan in plans.items() if name in now and not plan.lacking]
    records = [now[name] for name in names]
    uneven = unbalanced(
        records,
        [
            record.surrogate is not None
            and bool(width_verdict(record, record.surrogate, CONFIDENCE_Z))
            for record in records
        ],
    )
    for place in reversed(range(len(names))):
        name = names[place]
        plan, record = plans[name], now[name]
        above = now[names[place + 1]] if place + 1 < len(names) else None
        proposed = plan.propose_surrogate(record, above, uneven[place])
        if proposed is None:
            continue
        if (reason := trial.obstacle(name, "surrogate", proposed)) is not None:
            plan.refuse_surrogate(reason)
            continue
        plan.accept_surrogate(record, above, proposed)
        trial.write(name, "surrogate", proposed)
        now = trial.record().layers


def _measure(trial: Trial, plans: dict[str, LayerPlan]) -> None:
    """Compare every prediction with the copy as it is after all changes."""
    moved = any(plan.changes for plan in plans.values())
    after = trial.record().layers if moved else trial.before.layers
    names = list(after)
    for place, name in enumerate(names):
        above = names[place + 1] if place + 1 < len(names) else None
        plans[name].measure(
            after[name],
            trial.before.layers.get(above) if above else None,
            after.get(above) if above else None,
            moved,
        )
