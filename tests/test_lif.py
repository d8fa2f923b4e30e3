"""The reference layer against a hand-written loop, against its own replay, and across its modes."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from spikescope.analysis.neuron import NeuronSpec, replay
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.probes import lif as lif_module
from spikescope.probes.adapters import Adapter
from spikescope.probes.lif import LIF, Rule, reset_state
from spikescope.probes.remedies.rule import TimedRule
from spikescope.probes.remedies.sparsity import SpikePenalty

RESETS = ("subtract", "to_value", "none")
# 0.375 is exact in float32, the dtype in which the buffer `start` is made.
SETTINGS = dict(decay=0.7, gain=0.8, threshold=1.1, reset_value=-0.2, rest=0.15, start=0.375)
WIDTH, PEAK = 0.4, 0.9

# Antiderivatives by hand: with x = z / width, their slopes are peak/(1 + x^2) and peak/(1 + |x|)^2.
ANTIDERIVATIVES = {
    "arctan": lambda z: PEAK * WIDTH * torch.atan(z / WIDTH),
    "fast_sigmoid": lambda z: PEAK * z / (1 + (z / WIDTH).abs()),
}


def by_hand(current, reset, detach, shape, *, decay, gain, threshold, reset_value, rest, start):
    """Return u and s of each timestep, from the equations; autograd differentiates them."""
    v = torch.full_like(current[0], start)
    us, ss = [], []
    for now in current:
        u = rest + decay * (v - rest) + gain * now
        u.retain_grad()
        smooth = ANTIDERIVATIVES[shape](u - threshold)
        s = (u.detach() >= threshold).double() + (smooth - smooth.detach())
        seen = s.detach() if detach else s
        v = {
            "subtract": lambda u=u, seen=seen: u - threshold * seen,
            "to_value": lambda u=u, seen=seen: u + (reset_value - u) * seen,
            "none": lambda u=u: u,
        }[reset]()
        us.append(u)
        ss.append(s)
    return us, torch.stack(ss)


def run_layer(layer, current):
    """Run a layer over a sequence, whatever its mode."""
    if layer.step_mode == "multi":
        return layer(current)
    layer.reset()
    return torch.stack([layer(now) for now in current])


def loss_of(spikes, weights):
    """Return a loss that is not linear in the spikes."""
    return (spikes * weights).sum() + ((spikes.mean(0) - 0.3) ** 2).sum()


def sample(seed=0, shape=(7, 5, 11), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.8
    return current.to(dtype), torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(layer, current, weights):
    leaf = current.clone().requires_grad_()
    spikes = run_layer(layer, leaf)
    loss_of(spikes, weights).backward()
    return spikes.detach(), leaf.grad


@pytest.mark.parametrize(
    ("reset", "detach", "shape", "mode"),
    list(itertools.product(RESETS, (False, True), ANTIDERIVATIVES, ("multi", "single"))),
)
def test_output_and_gradients_equal_plain_autograd(reset, detach, shape, mode):
    current, weights = sample()
    surrogate = Surrogate(shape, peak=PEAK, width=WIDTH)

    def layer_with(**changed):
        settings = {**SETTINGS, "reset": reset, "detach_reset": detach, **changed}
        return LIF(**settings, surrogate=surrogate, step_mode=mode)

    leaf = current.clone().requires_grad_()
    us, expected = by_hand(leaf, reset, detach, shape, **SETTINGS)
    loss_of(expected, weights).backward()
    spikes, gradient = gradients(layer_with(), current, weights)

    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(spikes, expected.detach())
    torch.testing.assert_close(gradient, leaf.grad, rtol=0, atol=1e-12)
    # The gradient on the potential itself: dL/dI = gain dL/du.
    grad_u = torch.stack([u.grad for u in us])
    torch.testing.assert_close(gradient, SETTINGS["gain"] * grad_u, rtol=0, atol=1e-12)

    # Controls: the same comparison sees a wrong decay and a wrong treatment of the reset.
    wrong_spikes, wrong_gradient = gradients(layer_with(decay=0.65), current, weights)
    assert not torch.equal(wrong_spikes, expected.detach())
    assert (wrong_gradient - leaf.grad).abs().max() > 1e-3
    if reset != "none":
        _, other = gradients(layer_with(detach_reset=not detach), current, weights)
        assert (other - leaf.grad).abs().max() > 1e-3


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_gradient_of_one_spike_is_the_surrogate_of_the_theory(shape):
    surrogate = Surrogate(shape, peak=0.7, width=0.5)
    current = torch.linspace(-3, 5, 101, dtype=torch.float64).requires_grad_()
    layer = LIF(gain=0.9, threshold=1.2, surrogate=surrogate)
    layer(current[None]).sum().backward()
    in_theory = 0.9 * surrogate.derivative(0.9 * current.detach().numpy() - 1.2)
    np.testing.assert_allclose(current.grad.numpy(), in_theory, rtol=0, atol=1e-14)
    assert not np.allclose(in_theory, 0.9 * surrogate.derivative(current.detach().numpy() - 1.2))


@pytest.fixture
def seen_potentials(monkeypatch):
    """Collect the layer's own u as it computes it."""
    seen = []
    original = lif_module.integrate

    def integrate(*args):
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr(lif_module, "integrate", integrate)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reset", RESETS)
def test_replay_is_the_layer_bit_for_bit(reset, dtype, seen_potentials):
    current, _ = sample(seed=3, shape=(8, 64, 50), dtype=dtype)
    settings = {**SETTINGS, "decay": 0.9, "start": 0.42}
    layer = LIF(**settings, reset=reset)
    spikes = layer(current)
    u, implied = replay(layer.spec, current, spikes, start=layer.carried(current[0]))
    assert u.dtype == spikes.dtype == dtype
    assert torch.equal(u, torch.stack(seen_potentials))
    assert int((implied != spikes).sum()) == 0
    # Control: the replay notices a decay or a start that is not the layer's.
    off = LIF(**{**settings, "decay": 0.88}, reset=reset).spec
    assert (replay(off, current, spikes, start=layer.carried(current[0]))[1] != spikes).sum() > 0
    assert (replay(layer.spec, current, spikes, start=0.0)[1] != spikes).sum() > 0


def test_layer_follows_autocast(seen_potentials):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), LIF())
    inputs = torch.randn(5, 32, 6) * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spikes = net(inputs)
    spikes.float().mean().backward()
    assert spikes.dtype == torch.bfloat16
    assert seen_potentials[0].dtype == torch.bfloat16
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    gradient = net[0].weight.grad
    assert gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_potential_at_the_threshold_fires():
    below = math.nextafter(1.0, 0.0)
    spikes = LIF(threshold=1.0)(torch.tensor([[1.0, below]], dtype=torch.float64))
    assert spikes.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("reset", RESETS)
def test_single_steps_equal_the_sequence_bit_for_bit(reset):
    current, weights = sample(seed=5, dtype=torch.float32)
    many, one = (LIF(**SETTINGS, reset=reset, step_mode=mode) for mode in ("multi", "single"))
    spikes, gradient = gradients(many, current, weights)
    spikes_single, gradient_single = gradients(one, current, weights)
    assert torch.equal(spikes, spikes_single)
    assert torch.equal(gradient, gradient_single)
    # Control: a layer that forgets between the timesteps is a different one.
    forgetful = []
    for now in current:
        one.reset()
        forgetful.append(one(now))
    assert not torch.equal(spikes, torch.stack(forgetful))


def test_sequences_start_fresh_and_single_steps_carry_on():
    current, _ = sample(seed=6)
    layer = LIF(**SETTINGS)
    assert torch.equal(layer(current), layer(current))
    assert layer.v is None
    layer = LIF(**SETTINGS, step_mode="single")
    assert torch.equal(layer.carried(current[0]), torch.full_like(current[0], 0.375))
    first = layer(current[0])
    assert torch.equal(layer.carried(current[0]), layer.v)
    assert not torch.equal(layer(current[0]), first)
    layer.reset()
    assert layer.v is None
    assert torch.equal(layer(current[0]), first)


def test_reset_state_reaches_every_layer_of_a_model():
    model = nn.Sequential(
        LIF(step_mode="single"), nn.Sequential(nn.Linear(3, 3), LIF(step_mode="single"))
    )
    model(torch.randn(2, 3))
    layers = [module for module in model.modules() if isinstance(module, LIF)]
    assert len(layers) == 2
    assert all(layer.v is not None for layer in layers)
    reset_state(model)
    assert all(layer.v is None for layer in layers)


def test_start_travels_in_the_state_dict():
    current, _ = sample(seed=7)
    saved, loaded = LIF(start=0.42), LIF(start=0.0)
    assert list(saved.state_dict()) == ["start"]
    assert not torch.equal(saved(current), loaded(current))
    loaded.load_state_dict(saved.state_dict())
    assert loaded.spec.start == pytest.approx(0.42, abs=1e-7)
    assert torch.equal(saved(current), loaded(current))


def test_start_may_differ_between_units():
    layer = LIF(decay=0.5, threshold=1.0)
    layer.start = torch.tensor([0.0, 2.0])
    assert layer(torch.tensor([[[0.5, 0.5]]])).tolist() == [[[0.0, 1.0]]]
    assert layer.spec.start.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_where_the_original_stood(duplicate):
    current, _ = sample(seed=8)
    layer = LIF(**SETTINGS, step_mode="single")
    layer(current[0].requires_grad_())
    assert layer.v.grad_fn is not None
    twin = duplicate(layer)
    assert twin.spec == layer.spec
    assert twin.surrogate == layer.surrogate
    assert twin.v.grad_fn is None
    assert torch.equal(twin(current[1]), layer(current[1]))
    twin.reset()
    assert layer.v is not None


def test_spec_is_the_constructor_in_plain_numbers():
    layer = LIF(**SETTINGS, reset="to_value", detach_reset=True)
    assert layer.spec == NeuronSpec(**SETTINGS, reset="to_value", reset_gradient=False)
    assert layer.spec != NeuronSpec(**SETTINGS, reset="to_value")
    assert type(layer.spec.start) is float


def test_default_surrogate_is_the_arctan_of_the_field():
    # d/dx [arctan(pi/2 alpha x)/pi + 1/2] at alpha = 2, the form of Fang et al. 2021.
    z = np.linspace(-2, 2, 41)
    alpha = 2.0
    expected = alpha / 2 / (1 + (np.pi / 2 * alpha * z) ** 2)
    np.testing.assert_allclose(LIF().surrogate.derivative(z), expected, atol=1e-15)


def test_printing_a_layer_names_what_matters():
    text = repr(LIF(decay=0.25, reset="to_value", rest=0.1, step_mode="single"))
    for part in ("decay=0.25", "reset='to_value'", "reset_value=0.0", "rest=0.1", "arctan"):
        assert part in text
    assert "reset_value" not in repr(LIF())


@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 3, 3)])
def test_a_batch_of_size_0_passes_through(shape):
    current = torch.zeros(shape, requires_grad=True)
    for mode in ("multi", "single"):
        spikes = run_layer(LIF(step_mode=mode), current)
        assert spikes.shape == shape
        spikes.sum().backward()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.bool), "torch.bool.*floating"),
        (torch.zeros(3, 2, dtype=torch.int64), "torch.int64.*floating"),
        (torch.zeros(0, 2), r"shape \(0, 2\).*at least one timestep"),
        (torch.tensor(1.0), r"shape \(\).*at least one timestep"),
    ],
)
def test_bad_input_gives_one_clear_line(inputs, message):
    with pytest.raises(ValueError, match=message) as caught:
        LIF()(inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other", [torch.zeros(5, 3), torch.zeros(2, 3, dtype=torch.float64)], ids=["shape", "dtype"]
)
def test_a_state_of_another_sequence_is_named(other):
    layer = LIF(step_mode="single")
    layer(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"does not fit the state.*reset_state\(model\)"):
        layer(other)
    layer.reset()
    assert layer(other).shape == other.shape


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"decay": 1.5}, "decay=1.5"),
        ({"reset": "soft"}, "reset='soft'"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"start": math.nan}, "start=nan"),
        ({"step_mode": "m"}, "step_mode='m'"),
    ],
)
def test_bad_settings_are_refused_when_the_layer_is_built(setting, message):
    with pytest.raises(ValueError, match=message):
        LIF(**setting)


def test_a_step_mode_changed_to_nonsense_is_refused_in_use():
    layer = LIF()
    layer.step_mode = "both"
    with pytest.raises(ValueError, match="step_mode='both' is not one of 'multi', 'single'"):
        layer(torch.zeros(2, 3))


BASES = {
    Rule: ("advance", "described", "in_force"),
    TimedRule: ("window",),
    SpikePenalty: ("cost",),
    Adapter: ("_put", "describe", "handles", "obstacle", "state"),
}


@pytest.mark.parametrize("base", BASES)
def test_an_incomplete_subclass_names_what_it_lacks(base):
    missing = BASES[base]
    with pytest.raises(TypeError) as caught:
        type("Half", (base,), {})()
    message = str(caught.value)
    assert "\n" not in message
    assert "abstract class Half" in message
    assert all(name in message for name in missing)
    assert base.__abstractmethods__ == set(missing)
    # Control: what defines them all can be made.
    whole = type("Whole", (base,), dict.fromkeys(missing, lambda self: None))
    whole.__new__(whole)
