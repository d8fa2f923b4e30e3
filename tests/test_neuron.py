"""The neuron's update rule against scripts by hand, frameworks' own updates and closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikescope.analysis.neuron import (
    NeuronSpec,
    after_reset,
    check_stationary,
    fires,
    integrate,
    replay,
    step,
)

CURRENT = np.array([0.6, 0.9, 0.3])


def _run(spec, current=CURRENT, **options):
    u, s = replay(spec, current, **options)
    return [round(value, 12) for value in u.tolist()], s.tolist()


# Three timesteps by hand. u is pre-reset; v after it is in the comments.
SCRIPTS = {
    # v: 0.6, 1.2 - 1 = 0.2, 0.4
    "soft": (NeuronSpec(decay=0.5, reset="subtract"), [0.6, 1.2, 0.4], [0, 1, 0]),
    # v: 0.6, 0, 0.3
    "hard": (NeuronSpec(decay=0.5, reset="to_value"), [0.6, 1.2, 0.3], [0, 1, 0]),
    # v: 0.6, -0.4, 0.1
    "hard to a value": (
        NeuronSpec(decay=0.5, reset="to_value", reset_value=-0.4),
        [0.6, 1.2, 0.1],
        [0, 1, 0],
    ),
    # v = u
    "none": (NeuronSpec(decay=0.5, reset="none"), [0.6, 1.2, 0.9], [0, 1, 0]),
    # rest 0.4 adds 0.2 a timestep; v: 0.8, 0.5, 0.75
    "rest": (NeuronSpec(decay=0.5, rest=0.4), [0.8, 1.5, 0.75], [0, 1, 0]),
    # start 0.8 leaves 0.4; v: 0, 0.9, 0.75
    "start": (NeuronSpec(decay=0.5, start=0.8), [1.0, 0.9, 0.75], [1, 0, 0]),
    # the soft reset takes 0.5 instead of the threshold; v: 0.6, 0.7, 0.65
    "reset amount": (NeuronSpec(decay=0.5, reset_amount=0.5), [0.6, 1.2, 0.65], [0, 1, 0]),
    # the filter makes 0.6, 1.2, 0.9 of the current; v: 0.6, 0.5, 0.15
    "synapse": (NeuronSpec(decay=0.5, synapse_decay=0.5), [0.6, 1.5, 1.15], [0, 1, 1]),
    # SpikingJelly, decay_input=False, tau = 1.25: decay 0.2, gain 1; v: 0.6, 0.02, 0.304
    "tau, input outside the leak": (
        NeuronSpec.from_tau(1.25, decay_input=False),
        [0.6, 1.02, 0.304],
        [0, 1, 0],
    ),
    # SpikingJelly, decay_input=True, tau = 2, v_reset = 0.1 as rest and reset value:
    # u = v + (I - (v - 0.1)) / 2; v: 0.4, 0.7, 0.55
    "tau, input inside the leak": (
        NeuronSpec.from_tau(2.0, reset="to_value", reset_value=0.1, rest=0.1, start=0.1),
        [0.4, 0.7, 0.55],
        [0, 0, 0],
    ),
    # Sinabs, tau = 1 / ln 2, normalised input: decay 0.5, gain 0.5
    "time constant, normalised": (
        NeuronSpec.from_time_constant(1 / math.log(2.0), normalise_input=True, threshold=0.5),
        [0.3, 0.6, 0.2],
        [0, 1, 0],
    ),
    # stork, the same without normalisation, and a synapse of decay 0.25 (tau = dt / ln 4)
    "time constant, synapse": (
        NeuronSpec.from_time_constant(
            2.0 / math.log(2.0), 2.0, tau_synapse=2.0 / math.log(4.0), threshold=1.2
        ),
        [0.6, 1.35, 0.6375],
        [0, 1, 0],
    ),
    # Norse: dt = 1e-3, 1/tau = 100 and 200: leak 0.9, gain 0.1, synapse 0.8;
    # i: 0.6, 1.38, 1.404; u: 0.06, 0.192, then 0 + 0.1404 after the hard reset
    "rates": (
        NeuronSpec.from_rates(
            100.0, 1e-3, synapse_rate=200.0, reset="to_value", fires_at_threshold=False,
            threshold=0.1,
        ),
        [0.06, 0.192, 0.1404],
        [0, 1, 1],
    ),
    # Lapicque: R = 5, C = 0.4, dt = 1: decay 1 - dt/(RC) = 0.5, gain dt/C = 2.5
    "resistance and capacitance": (
        NeuronSpec.from_rates(1 / 2.0, 1.0, resistance=5.0, threshold=2.0),
        [1.5, 3.0, 1.25],
        [0, 1, 0],
    ),
    # snnTorch: u[t] = 0.5 u[t-1] + I[t] - 1 s[t-1]: 0.6, 1.2, 0.6 + 0.3 - 1
    "late reset": (NeuronSpec.from_beta(0.5), [0.6, 1.2, -0.1], [0, 1, 0]),
    # snnTorch, reset_delay=False: u[t] = 0.5 (u - s)[t-1] + I[t]
    "prompt reset": (NeuronSpec.from_beta(0.5, late=False), [0.6, 1.2, 0.4], [0, 1, 0]),
    # PLIF: w = ln 3 is 1/tau = 0.75
    "parametric": (
        NeuronSpec.from_plif(math.log(3.0), threshold=0.6), [0.45, 0.7875, 0.271875], [0, 1, 0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_timesteps_by_hand(name):
    spec, u, s = SCRIPTS[name]
    assert _run(spec) == (pytest.approx(u, abs=1e-12), s)
    # Negative control: a decay wrong by 2 % gives another potential.
    other = NeuronSpec(**(vars(spec) | {"decay": spec.decay * 0.98, "start": spec.start + 0.1}))
    assert np.max(np.abs(np.array(_run(other)[0]) - u)) > 1e-4


def test_firing_at_equality_or_above():
    u = np.array([0.5, 1.0, np.nextafter(1.0, 2.0)])
    assert fires(NeuronSpec(threshold=1.0), u).tolist() == [0, 1, 1]
    assert fires(NeuronSpec(threshold=1.0, fires_at_threshold=False), u).tolist() == [0, 0, 1]


def test_thresholds_per_timestep():
    thresholds = np.array([0.5, 1.5, 0.2])
    # v: 0.6 - 0.5 = 0.1, then 0.95 stays below 1.5, then 0.475 + 0.3 - 0.2
    u, s = replay(NeuronSpec(decay=0.5), CURRENT, threshold=thresholds)
    np.testing.assert_allclose(u, [0.6, 0.95, 0.775], rtol=1e-14)
    assert s.tolist() == [1, 0, 1]
    # Also per unit, [T, units].
    u2, s2 = replay(
        NeuronSpec(decay=0.5), np.stack([CURRENT, CURRENT], 1),
        threshold=np.stack([thresholds, np.ones(3)], 1),
    )  # fmt: skip
    np.testing.assert_array_equal(u2[:, 0], u)
    np.testing.assert_allclose(u2[:, 1], [0.6, 1.2, 0.4], rtol=1e-14)
    assert s2[:, 1].tolist() == [0, 1, 0]


def test_late_reset_equals_the_frameworks_own_order():
    rng = np.random.default_rng(2)
    current = rng.normal(0.6, 0.8, size=(200, 30))
    beta, theta = 0.85, 1.3
    u, s = replay(NeuronSpec.from_beta(beta, threshold=theta), current)
    mem, spikes = np.zeros(30), np.zeros(30)
    for t in range(200):
        mem = beta * mem + current[t] - theta * spikes
        spikes = (mem > theta) * 1.0
        np.testing.assert_allclose(u[t], mem, atol=1e-12)
        np.testing.assert_array_equal(s[t], spikes)
    assert 0.05 < s.mean() < 0.95


@settings(max_examples=60, deadline=None)
@given(
    tau=st.floats(1.0, 50.0),
    rest=st.floats(-1.0, 0.5),
    hard=st.booleans(),
    decay_input=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_tau_notation_equals_the_frameworks_update(tau, rest, hard, decay_input, seed):
    current = np.random.default_rng(seed).normal(0.8, 1.0, size=(25, 4))
    spec = NeuronSpec.from_tau(
        tau, decay_input=decay_input, rest=rest, reset="to_value" if hard else "subtract",
        reset_value=rest, start=rest,
    )  # fmt: skip
    u, _ = replay(spec, current)
    v = np.full(4, rest)
    for t in range(25):
        if decay_input:
            h = v + (current[t] - (v - rest)) / tau
        else:
            h = v - (v - rest) / tau + current[t]
        np.testing.assert_allclose(u[t], h, atol=1e-9)
        # Fed with the spikes of u: at a distance of one rounding the two could differ.
        spikes = (u[t] >= 1.0) * 1.0
        v = h * (1 - spikes) + rest * spikes if hard else h - spikes


@settings(max_examples=60, deadline=None)
@given(tau=st.floats(1.05, 40.0), mean=st.floats(-1, 3), std=st.floats(0.1, 3), seed=st.integers(0))
def test_input_inside_the_leak_is_the_scaled_input_outside(tau, mean, std, seed):
    # mul(a, mu, sigma) = decay(tau = 1/(1-a), mu tau, sigma tau), Kook et al. 2511.08708.
    current = np.random.default_rng(seed).normal(mean, std, size=(30, 3))
    a = 1.0 - 1.0 / tau
    outside = NeuronSpec(decay=a, gain=1.0)
    inside = NeuronSpec.from_tau(tau)
    u, s = replay(outside, current)
    u2, _ = replay(inside, current * tau, spikes=s)
    np.testing.assert_allclose(u2, u, atol=1e-9)
    u3, _ = replay(inside, current * tau * 1.02, spikes=s)
    assert np.max(np.abs(u3 - u)) > 1e-4


def test_notations_agree_with_each_other():
    tau = 8.0
    exact = NeuronSpec.from_time_constant(tau)
    assert exact.decay == pytest.approx(NeuronSpec.from_beta(math.exp(-1 / tau)).decay, rel=1e-15)
    euler = NeuronSpec.from_rates(1 / tau, 1.0)
    assert (euler.decay, euler.gain) == (NeuronSpec.from_tau(tau).decay, 1 / tau)
    assert abs(euler.decay - exact.decay) > 1e-3  # Euler is not the exponential
    w = -math.log(tau - 1.0)
    plif = NeuronSpec.from_plif(w)
    assert plif.decay == pytest.approx(1 - 1 / tau, rel=1e-14)
    assert plif.gain == pytest.approx(1 / tau, rel=1e-14)
    # decay = sigmoid(w), the other reading of the same parameter.
    assert NeuronSpec.from_plif(-w).decay == pytest.approx(1 / tau, rel=1e-14)
    assert NeuronSpec.from_beta(1.7).decay == 1.0
    assert NeuronSpec.from_beta(-0.2, late=False).decay == 0.0


@pytest.mark.parametrize(("tau", "current", "interval"), [(2, 1.1, 4), (10, 1.5, 11), (4, 3.0, 2)])
def test_constant_current_fires_at_the_closed_form_interval(tau, current, interval):
    # Interspike interval ceil(ln(1 - theta/I) / ln a) of the hard reset, Kook et al. 2511.08708.
    spec = NeuronSpec.from_tau(tau, reset="to_value")
    a = 1.0 - 1.0 / tau
    assert math.ceil(math.log(1.0 - 1.0 / current) / math.log(a)) == interval
    _, s = replay(spec, np.full(interval * 6, current))
    assert np.flatnonzero(s).tolist() == [interval * (k + 1) - 1 for k in range(6)]
    slower = NeuronSpec.from_tau(3 * tau, reset="to_value")
    assert np.flatnonzero(replay(slower, np.full(interval * 6, current))[1]).tolist()[0] >= interval


def _specs():
    share = st.floats(0.0, 1.0)
    small = st.floats(-1.0, 1.0)
    return st.builds(
        NeuronSpec,
        decay=st.floats(0.05, 1.0),
        gain=st.floats(0.1, 2.0),
        threshold=st.floats(0.1, 2.0),
        reset=st.sampled_from(["subtract", "to_value", "none"]),
        reset_value=small,
        rest=small,
        start=small,
        fires_at_threshold=st.booleans(),
        synapse_decay=share,
        delayed_reset=st.booleans(),
        reset_amount=st.one_of(st.none(), st.floats(0.1, 1.0)),
    )


@settings(max_examples=100, deadline=None)
@given(spec=_specs(), seed=st.integers(0, 2**31))
def test_replay_is_the_chain_of_steps_in_every_array_type(spec, seed):
    current = np.random.default_rng(seed).normal(0.4, 0.7, size=(12, 5)).astype(np.float32)
    tensor = torch.tensor(current)
    u, s = replay(spec, tensor)
    v, filtered = torch.full((5,), spec.start), torch.zeros(5)
    for t in range(12):
        if spec.synapse_decay == 0.0:
            filtered = tensor[t]
        else:
            filtered = spec.synapse_decay * filtered + tensor[t]
        u_t, s_t, v = step(spec, v, filtered)
        assert torch.equal(u[t], u_t)
        assert torch.equal(s[t], s_t)
    # Fed with its own spikes, in whatever type they were kept, the replay is the same to the bit.
    for observed in (s, s.bool(), s.to(torch.uint8)):
        again, implied = replay(spec, tensor, spikes=observed)
        assert torch.equal(again, u)
        assert torch.equal(implied, s)
    # numpy does the same operations in the same order and precision.
    u_np, s_np = replay(spec, current)
    assert u_np.dtype == s_np.dtype == np.float32
    np.testing.assert_array_equal(u_np, u.numpy())
    np.testing.assert_array_equal(s_np, s.numpy())
    # One unit at a time in Python floats, at double precision.
    wide, _ = replay(spec, current.astype(float), spikes=s_np)
    one, _ = replay(spec, current[:, 2].astype(float).tolist(), spikes=s_np[:, 2].tolist())
    np.testing.assert_array_equal(one, wide[:, 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
def test_dtype_survives_the_reset(dtype, reset):
    spec = NeuronSpec(decay=np.float64(0.5), threshold=np.float64(0.8), reset=reset, rest=0.1)
    u, s = replay(spec, torch.tensor([[0.6], [0.9], [0.3]], dtype=dtype))
    assert u.dtype == s.dtype == dtype
    assert s.flatten().tolist() == [0, 1, int(reset == "none")]
    u, s, v = step(spec, np.zeros(2, np.float32), np.ones(2, np.float32))
    assert u.dtype == s.dtype == v.dtype == np.float32


def test_gradient_flows_through_replay():
    current = torch.tensor([0.6, 0.9, 0.3], dtype=torch.float64, requires_grad=True)
    u, _ = replay(NeuronSpec(decay=0.5, gain=0.8), current)
    u[2].backward()
    # du3/dI = gain * decay^(3-t): the reset's spike is a constant.
    np.testing.assert_allclose(current.grad.numpy(), [0.2, 0.4, 0.8], rtol=1e-14)


def _layer(rng, shape=(100, 256)):
    spec = NeuronSpec(decay=0.8, threshold=1.0, start=0.0)
    current = rng.normal(0.2, 0.45, size=shape).astype(np.float32)
    return spec, current, replay(spec, current)[1]


@pytest.mark.parametrize(
    "wrong",
    [{"decay": 0.8 * 1.02}, {"decay": 0.8 * 0.98}, {"threshold": 1.02}, {"reset": "to_value"},
     {"start": 0.3}, {"gain": 1.02}, {"rest": 0.05}],
    ids=str,
)  # fmt: skip
def test_replay_finds_a_wrong_spec(wrong):
    spec, current, spikes = _layer(np.random.default_rng(0))
    assert np.sum(replay(spec, current, spikes=spikes)[1] != spikes) == 0
    other = NeuronSpec(**(vars(spec) | wrong))
    assert np.sum(replay(other, current, spikes=spikes)[1] != spikes) > 20


def test_fields_broadcast_over_layers_and_units():
    current = np.random.default_rng(1).normal(0.5, 0.6, size=(40, 1, 7))
    decay, theta = np.array([[0.2], [0.9]]), np.array([[0.7], [1.1]])
    u, s = replay(NeuronSpec(decay=decay, threshold=theta, gain=1 - decay), current)
    assert u.shape == s.shape == (40, 2, 7)
    for layer in range(2):
        d, th = decay[layer, 0], theta[layer, 0]
        alone, _ = replay(NeuronSpec(decay=d, threshold=th, gain=1 - d), current[:, 0])
        np.testing.assert_array_equal(u[:, layer], alone)


def test_learned_tensors_serve_as_fields():
    w = torch.tensor(0.3, requires_grad=True)
    spec = NeuronSpec.from_plif(w, threshold=torch.tensor([0.5, 1.0]))
    u, _ = replay(spec, torch.ones(4, 2))
    u.sum().backward()
    assert torch.isfinite(w.grad)
    assert w.grad != 0
    number = NeuronSpec.from_plif(0.3, threshold=[0.5, 1.0])
    np.testing.assert_allclose(replay(number, np.ones((4, 2)))[0], u.detach().numpy(), rtol=1e-6)
    clipped = NeuronSpec.from_beta(torch.tensor(1.4))
    assert clipped.decay.item() == 1.0
    assert NeuronSpec.from_time_constant(torch.tensor(5.0)).decay.item() == pytest.approx(
        math.exp(-0.2), rel=1e-6
    )


def test_a_layer_that_never_fires():
    u, s = replay(NeuronSpec(decay=0.5, threshold=math.inf, reset="to_value"), CURRENT)
    assert s.sum() == 0
    np.testing.assert_allclose(u, [0.6, 1.2, 0.9], rtol=1e-14)


def test_spec_survives_json():
    for spec in (
        NeuronSpec.from_beta(0.9, threshold=1.5),
        NeuronSpec(threshold=math.inf, reset="none", reset_amount=0.5),
        NeuronSpec.from_rates(100.0, 1e-3, synapse_rate=200.0),
    ):
        assert NeuronSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec
    per_unit = NeuronSpec(decay=np.array([0.5, 0.25]), threshold=torch.tensor([1.0, 2.0]))
    again = NeuronSpec.from_dict(json.loads(json.dumps(per_unit.to_dict())))
    np.testing.assert_array_equal(again.decay, [0.5, 0.25])
    np.testing.assert_array_equal(again.threshold, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"fields \['tau'\] are not of a neuron"):
        NeuronSpec.from_dict({"tau": 2.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeuronSpec(decay=1.2), r"decay=1\.2 is not possible: it must be between 0 and 1"),
        (lambda: NeuronSpec(decay=-0.1), r"decay=-0\.1"),
        (lambda: NeuronSpec(decay=math.nan), "decay=nan"),
        (lambda: NeuronSpec(decay=np.array([0.5, 1.5])), "decay=array"),
        (lambda: NeuronSpec(decay="half"), "decay='half' is not possible"),
        (lambda: NeuronSpec(decay=None), "decay=None is not possible"),
        (lambda: NeuronSpec(decay=[]), r"decay=\[\] is not possible"),
        (lambda: NeuronSpec(synapse_decay=2.0), r"synapse_decay=2\.0"),
        (lambda: NeuronSpec(threshold=math.nan), "threshold=nan"),
        (lambda: NeuronSpec(threshold=math.inf), "threshold=inf is not possible"),
        (lambda: NeuronSpec(gain=math.inf), "gain=inf is not possible: it must be a finite number"),
        (lambda: NeuronSpec(reset="hard"), "reset='hard' is not one of 'subtract', 'to_value'"),
        (lambda: NeuronSpec(reset_amount=math.nan), "reset_amount=nan"),
        (lambda: NeuronSpec(fires_at_threshold=1), "fires_at_threshold=1 is not possible"),
        (lambda: NeuronSpec.from_beta(0.0), r"decay=0\.0 with delayed_reset=True"),
        (lambda: NeuronSpec.from_beta(math.nan), "beta=nan"),
        (lambda: NeuronSpec.from_tau(0.5), r"tau=0\.5 is not possible: it must be at least 1"),
        (lambda: NeuronSpec.from_tau(math.nan), "tau=nan"),
        (lambda: NeuronSpec.from_time_constant(0.0), r"tau=0\.0 .* above 0"),
        (lambda: NeuronSpec.from_time_constant(5.0, dt=-1.0), r"dt=-1\.0"),
        (lambda: NeuronSpec.from_time_constant(5.0, tau_synapse=0.0), r"tau_synapse=0\.0"),
        (lambda: NeuronSpec.from_rates(100.0, 0.1), r"dt \* membrane_rate=10\.0 .* smaller dt"),
        (lambda: NeuronSpec.from_rates(1.0, 0.1, synapse_rate=11.0), r"dt \* synapse_rate=1\.1"),
        (lambda: NeuronSpec.from_plif(math.inf), "w=inf"),
        (lambda: replay(NeuronSpec(), np.zeros((0, 3))), "no timestep"),
        (lambda: replay(NeuronSpec(), np.zeros(3), spikes=np.zeros(2)), "spikes has 2 timesteps"),
        (lambda: replay(NeuronSpec(), np.zeros(3), threshold=[1.0]), "threshold has 1 timesteps"),
        (lambda: check_stationary(NeuronSpec(threshold=0.5, rest=0.5)), r"threshold=0\.5 .*=0\.5"),
        (lambda: check_stationary(NeuronSpec(threshold=-1.0)), r"threshold=-1\.0"),
        (lambda: check_stationary(NeuronSpec(threshold=math.inf, reset="none")), "threshold=inf"),
        (lambda: check_stationary(NeuronSpec(decay=1.0, reset="none")), "without a reset"),
        (lambda: check_stationary(NeuronSpec(decay=1.0), input_mean=1.5), r"input_mean=1\.5"),
        (lambda: check_stationary(NeuronSpec(decay=1.0), input_mean=-0.1), "between 0 and 1"),
        (lambda: check_stationary(NeuronSpec(decay=1.0, reset="to_value"), 0.0), "above 0"),
        (lambda: check_stationary(NeuronSpec(gain=0.0)), r"gain=0\.0"),
        (lambda: check_stationary(NeuronSpec(synapse_decay=1.0)), r"synapse_decay=1\.0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_good_input_is_not_refused():
    NeuronSpec(threshold=-0.5)  # a live layer may have it
    NeuronSpec(decay=0)
    NeuronSpec.from_tau(math.inf, decay_input=False)
    check_stationary(NeuronSpec(decay=1.0), input_mean=0.5)
    check_stationary(NeuronSpec(decay=1.0, reset="to_value"), input_mean=2.0)
    check_stationary(NeuronSpec(decay=0.99, reset="none"), input_mean=-3.0)
    check_stationary(NeuronSpec(threshold=-0.5, rest=-0.7))


def test_parts_make_the_step():
    spec = NeuronSpec(decay=0.5, reset="to_value", reset_value=-0.25)
    v, current = np.array([0.3, 0.9]), np.array([0.1, 0.8])
    u, s, after = step(spec, v, current)
    np.testing.assert_array_equal(u, integrate(spec, v, current))
    np.testing.assert_array_equal(s, fires(spec, u))
    np.testing.assert_array_equal(after, after_reset(spec, u, s))
    assert after.tolist() == [0.25, -0.25]
