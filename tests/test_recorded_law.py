"""Predictions from a recorded forward pass, against simulated layers and plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from spikescope.analysis.neuron import step
from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.recorded_gain import leak_factor, recorded_gain
from spikescope.analysis.recorded_law import frozen_input, plain_spec, recorded_law

EDGES = np.linspace(-6.0, 6.0, 2401)


def simulate(spec: NeuronSpec, frozen: float, steps: int, units: int = 100_000) -> dict[str, Any]:
    """Return u of units whose input is fixed in time by a share, by the plain update rule."""
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=units)
    v = np.full(units, float(spec.start))
    mean, std = 0.1, 0.8
    record: dict[str, list[float]] = {"input_mean": [], "input_var": [], "u_var": []}
    laws = []
    for _ in range(steps):
        fresh = rng.normal(size=units)
        current = mean + std * (np.sqrt(frozen) * fixed + np.sqrt(1 - frozen) * fresh)
        u, _, v = step(spec, v, current)
        record["input_mean"].append(float(current.mean()))
        record["input_var"].append(float(current.var()))
        record["u_var"].append(float(u.var()))
        laws.append(u)
    first = np.histogram(laws[0], EDGES)[0]
    return {"record": record, "first": first, "last": laws[-1]}


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
@pytest.mark.parametrize("frozen", [0.0, 0.3, 0.7])
def test_the_predicted_law_is_where_a_layer_settles(reset: Any, frozen: float) -> None:
    spec = NeuronSpec(decay=0.6, reset=reset)
    seen = simulate(spec, frozen, steps=25)
    fields = {"decay": 0.6, "reset": reset}
    found = recorded_law(fields, seen["record"], seen["first"], EDGES)
    units = len(seen["last"])
    # Var u[2] has a relative standard error of about sqrt(2 / units), a hundredth of the share.
    assert found.frozen == pytest.approx(frozen, abs=0.02)
    error = seen["last"].std() / np.sqrt(units)
    # 5 standard errors, and what 0.01 of the share moves mean and spread.
    assert found.law.mean == pytest.approx(seen["last"].mean(), abs=5 * error + 0.004)
    assert found.law.std == pytest.approx(seen["last"].std(), abs=5 * error + 0.006)
    if frozen:
        wrong = recorded_law(fields, {**seen["record"], "u_var": [0.0, 0.0]}, seen["first"], EDGES)
        assert wrong.frozen == 0.0
        assert abs(wrong.law.std - seen["last"].std()) > 5 * error + 0.006


def test_a_single_timestep_or_no_memory_tells_nothing_of_frozen_input() -> None:
    first = np.diff(stats.norm.cdf(EDGES, 0.0, 0.5))
    assert frozen_input(NeuronSpec(decay=0.5), [0.25], [0.25], first, EDGES) == 0.0
    assert frozen_input(NeuronSpec(decay=0.0), [0.25] * 2, [0.25] * 2, first, EDGES) == 0.0


@pytest.mark.parametrize(
    ("spec", "rows", "message"),
    [
        ({}, {}, "dynamics of this layer are not known"),
        ({"decay": [0.5, 0.6]}, {}, "decay differs between the units"),
        ({"decay": 0.5}, {"input_var": [0.0]}, "the input does not vary"),
        ({"decay": 0.5}, {"input_mean": [np.nan]}, "input of this layer was not recorded"),
        ({"decay": 0.5, "synapse_decay": 0.5}, {}, "synaptic filter"),
    ],
)
def test_what_cannot_be_predicted_says_why(
    spec: dict[str, Any], rows: dict[str, Any], message: str
) -> None:
    given = {"input_mean": [0.0], "input_var": [0.25], "u_var": [0.25]} | rows
    first = np.diff(stats.norm.cdf(EDGES, 0.0, 0.5))
    with pytest.raises(ValueError, match=message):
        recorded_law(spec, given, first, EDGES)


def test_plain_numbers_stay_what_they_are() -> None:
    fields = {"decay": 0.9, "reset": "to_value", "reset_amount": None, "reset_gradient": False}
    assert plain_spec(fields) == NeuronSpec(decay=0.9, reset="to_value", reset_gradient=False)


class _Spike(torch.autograd.Function):
    """A spike whose derivative is 1 / (1 + |z| / 0.5)^2."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z)
        return (z >= 0).to(z)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] / (1 + z.abs() / 0.5) ** 2


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("decay", "loss_at"), [(0.0, "every"), (0.5, "every"), (0.5, "same")])
def test_the_gain_is_that_of_plain_autograd(decay: float, loss_at: str, centred: bool) -> None:
    """Two random layers: the recorded ratio of gradient norms lies where the moments say.

    With and without a norm between them that takes out each unit's mean.
    """
    torch.manual_seed(0)
    steps, batch, n = 6, 64, 400
    weight = torch.randn(n, n) * 0.15
    current = torch.randn(steps, batch, n) + 0.7  # so that about 0.4 of the units fire
    u_of: list[list[torch.Tensor]] = [[], []]
    v = [torch.zeros(batch, n), torch.zeros(batch, n)]
    inputs = []
    spikes = torch.zeros(batch, n)
    for t in range(steps):
        given = current[t]
        for layer in range(2):
            if layer == 1:
                given = spikes @ weight.T
                if centred:
                    given = given - given.detach().mean(dim=0)
                inputs.append(given)
            u = decay * v[layer] + given
            u = u.requires_grad_() if not u.requires_grad else u
            u.retain_grad()
            spikes = _Spike.apply(u - 1.0)
            v[layer] = u - spikes.detach()
            u_of[layer].append(u)
    u_lower, u_upper = (torch.stack(us) for us in u_of)
    # A readout that is new at every timestep, or the same at all.
    direction = torch.randn(steps if loss_at == "every" else 1, batch, n)
    loss = (_Spike.apply(u_upper - 1.0) * direction).sum()
    loss.backward()
    norms = [torch.stack([u.grad for u in us]).norm().item() for us in u_of]
    lower = u_lower.detach().numpy()
    s = 1 / (1 + np.abs(lower - 1.0) / 0.5) ** 2
    below = {
        "rate": (lower >= 1.0).mean(axis=(1, 2)),
        "surrogate_mean": s.mean(axis=(1, 2)),
        "surrogate_square": (s**2).mean(axis=(1, 2)),
    }
    above = {"input_var": torch.stack(inputs).detach().numpy().var(axis=(1, 2))}
    spec = NeuronSpec(decay=decay, reset_gradient=False)
    gain = recorded_gain(spec, spec, below, above)
    measured = norms[0] / norms[1]
    # The moments are those of the network itself; what is left is the independence of the parts,
    # a few per cent, and the input's variance over units that the frozen mean adds.
    slack = 0.12
    assert gain.low * (1 - slack) <= measured <= gain.high * (1 + slack)
    assert gain.high <= 2.1 * gain.low
    if decay == 0.0:
        # No memory: one end is exact, and the other would be off by sqrt(1 - rate).
        assert measured == pytest.approx(gain.high if centred else gain.low, rel=0.05)
        assert gain.low < 0.85 * gain.high
    # Negative control: the moments of a surrogate of half the height do not fit.
    half = below | {"surrogate_mean": below["surrogate_mean"] / 2,
                    "surrogate_square": below["surrogate_square"] / 4}  # fmt: skip
    assert recorded_gain(spec, spec, half, above).high * (1 + slack) < measured


def test_the_leak_alone_is_the_decay_of_a_detached_reset() -> None:
    below = {"rate": [0.25], "surrogate_mean": [0.3], "surrogate_square": [0.2]}
    assert leak_factor(NeuronSpec(decay=0.8, reset_gradient=False), below) == pytest.approx(0.8)
    hard = NeuronSpec(decay=0.8, reset="to_value", reset_gradient=False)
    assert leak_factor(hard, below) == pytest.approx(0.8 * np.sqrt(0.75))
    soft = leak_factor(NeuronSpec(decay=0.8), below)
    # E[(0.8 - 0.8 s)^2] = 0.64 (1 - 2 * 0.3 + 0.2)
    assert soft == pytest.approx(np.sqrt(0.64 * 0.6))
