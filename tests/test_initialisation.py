"""Fluctuation-driven initialisation, DECOLLE, sparsity schedule and the recommendation by numbers.

``stability_fluct.csv`` (Rossbroich, Gygax, Zenke 2022): 600 LIF units with exponential synapses
(membrane 20 ms, synapse 10 ms, dt 1 ms) on Poisson-like spikes, 3000 steps; temporal, quenched and
pooled standard deviation of u without reset, and the rate with reset.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_simulation import random_weights, rows, simulate
from scipy import stats

from spikescope.analysis.dale import dale_init
from spikescope.analysis.decolle import decolle_bias, decolle_gradient_variance, decolle_kernel
from spikescope.analysis.gradient_statistics import recorded_statistics
from spikescope.analysis.growth import growth_rate
from spikescope.analysis.initialisation import (
    Kernel,
    continuous_kernel,
    convolution_fan_in,
    discrete_kernel,
    fluctuation_init,
    fluctuation_init_recurrent,
    padding_share,
    potential_spread,
)
from spikescope.analysis.neuron_spec import NeuronSpec
from spikescope.analysis.preset import recommend_by_numbers
from spikescope.analysis.sparsity import sparsity_loss, sparsity_weight, spike_count_loss


def stork_kernel(dt: float = 1e-3) -> Kernel:
    """The discrete kernel of membrane 20 ms and synapse 10 ms, for rates in Hz."""
    a, b = np.exp(-dt / 0.02), np.exp(-dt / 0.01)
    kernel = discrete_kernel(NeuronSpec(decay=a, synapse_decay=b, gain=1.0 - a))
    return Kernel(dt * kernel.area, dt * kernel.energy)


@pytest.mark.parametrize("row", rows("fluct"), ids=lambda r: f"{r['nu_hz']}-{r['mu']}")
def test_fluctuation_table(row: dict[str, str]) -> None:
    kernel = stork_kernel()
    # The table's sums are cut off after ten membrane time constants.
    assert kernel.area == pytest.approx(float(row["eps_bar"]), rel=2e-4)
    assert kernel.energy == pytest.approx(float(row["eps_hat"]), rel=2e-4)
    kernel = Kernel(float(row["eps_bar"]), float(row["eps_hat"]))
    n, nu = int(row["n"]), float(row["nu_hz"])
    init = fluctuation_init(
        n, nu, kernel, mean=float(row["mu"]), xi=float(row["xi"]), noise="poisson"
    )
    assert init.weight_mean == pytest.approx(float(row["mu_w"]), rel=1e-8)
    assert init.weight_std == pytest.approx(float(row["sigma_w"]), rel=1e-8)
    assert init.temporal_std == pytest.approx(float(row["sigma_target"]), rel=1e-9)
    assert init.crossing == pytest.approx(float(row["p_above_thr_target"]), rel=1e-8)
    bernoulli = Kernel(kernel.area / 1e-3, kernel.energy / 1e-3)
    mean, temporal, quenched = potential_spread(
        n, nu * 1e-3, bernoulli, init.weight_mean, init.weight_std
    )
    assert temporal == pytest.approx(float(row["temporal_std_bernoulli"]), rel=1e-8)
    assert quenched == pytest.approx(float(row["quenched_std_pred"]), rel=1e-8)
    assert init.quenched_std == pytest.approx(quenched, rel=1e-9)
    # 600 units: 2 % on the temporal, 8 % on the quenched part (finite sample of units).
    assert temporal == pytest.approx(float(row["temporal_std_measured"]), rel=0.02)
    assert quenched == pytest.approx(float(row["quenched_std_measured"]), rel=0.08)
    assert mean == pytest.approx(float(row["mu"]))
    # The recipe alone misses the pooled spread.
    assert init.temporal_std != pytest.approx(float(row["pooled_std_measured"]), rel=0.08)
    assert np.hypot(temporal, quenched) == pytest.approx(
        float(row["pooled_std_measured"]), rel=0.05
    )
    assert init.crossing_pooled == pytest.approx(float(row["p_above_thr_measured"]), abs=0.035)
    assert init.crossing != pytest.approx(float(row["p_above_thr_measured"]), abs=0.035)


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0.0, 0.95), b=st.floats(0.0, 0.95), gain=st.floats(0.05, 2.0))
def test_discrete_kernel_by_summation(a: float, b: float, gain: float) -> None:
    """The closed sums equal those of the simulated response to one spike."""
    i, u = 1.0, 0.0
    response = []
    for _ in range(900):
        u = a * u + gain * i
        response.append(u)
        i *= b
    kernel = discrete_kernel(NeuronSpec(decay=a, synapse_decay=b, gain=gain))
    assert kernel.area == pytest.approx(np.sum(response), rel=1e-9)
    assert kernel.energy == pytest.approx(np.sum(np.square(response)), rel=1e-9)


def test_kernels_of_the_frameworks() -> None:
    snntorch = discrete_kernel(NeuronSpec.from_beta(0.9))
    assert (snntorch.area, snntorch.energy) == pytest.approx((10.0, 1 / 0.19))
    spikingjelly = discrete_kernel(NeuronSpec.from_tau(2.0))
    assert (spikingjelly.area, spikingjelly.energy) == pytest.approx((1.0, 1 / 3))
    fine = stork_kernel(1e-6)
    assert fine.area == pytest.approx(continuous_kernel(0.02, 0.01).area, rel=1e-3)
    assert fine.energy == pytest.approx(continuous_kernel(0.02, 0.01).energy, rel=1e-3)
    coarse = stork_kernel(1e-3)
    assert coarse.energy != pytest.approx(continuous_kernel(0.02, 0.01).energy, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    forward=st.lists(st.integers(20, 500), min_size=1, max_size=3),
    recurrent=st.lists(st.integers(20, 500), max_size=2),
    share=st.floats(0.2, 0.95), mean=st.floats(-0.05, 0.05), rate=st.floats(0.05, 0.5),
    density=st.floats(0.1, 1.0),
)  # fmt: skip
def test_connections_add_up(
    forward: list[int], recurrent: list[int], share: float, mean: float, rate: float, density: float
) -> None:
    kernel = Kernel(2.0, 0.7)
    arguments = {"share": share, "mean": mean, "density": density}
    inits = fluctuation_init_recurrent(forward, recurrent, rate, kernel, **arguments)
    fans = [n * density for n in (*forward, *recurrent)]
    parts = [
        potential_spread(n, rate, kernel, i.weight_mean, i.weight_std)
        for n, i in zip(fans, inits, strict=True)
    ]
    assert sum(p[0] for p in parts) == pytest.approx(mean, abs=1e-12)
    variance = [p[1] ** 2 for p in parts]
    assert sum(variance) == pytest.approx((1.0 - mean) ** 2)
    if recurrent:
        assert sum(variance[: len(forward)]) == pytest.approx(share * (1.0 - mean) ** 2)
    assert np.sqrt(sum(p[2] ** 2 for p in parts)) == pytest.approx(inits[0].quenched_std)


def test_fluctuation_init_in_a_simulation() -> None:
    """Sparse Bernoulli input on snnTorch-like units; 500 units, 2000 steps after the start."""
    rng = np.random.default_rng(3)
    spec = NeuronSpec(decay=0.8, reset="none")
    init = fluctuation_init(400, 0.05, discrete_kernel(spec), mean=0.2, xi=2.0, density=0.5)
    mask = rng.random((500, 400)) < 0.5
    weights = rng.normal(init.weight_mean, init.weight_std, mask.shape) * mask
    u, us = np.zeros(500), []
    for t in range(2100):
        u = 0.8 * u + weights @ (rng.random(400) < 0.05)
        if t >= 100:
            us.append(u)
    us_array = np.array(us)
    means = us_array.mean(axis=0)
    temporal = np.sqrt(us_array.var(axis=0).mean())
    # Quenched scatter of 500 units: 1/sqrt(1000) = 3 %; the weights' mean over the mask adds.
    assert temporal == pytest.approx(init.temporal_std, rel=0.03)
    assert means.std() == pytest.approx(init.quenched_std, rel=0.12)
    assert means.mean() == pytest.approx(0.2, abs=4 * init.quenched_std / np.sqrt(500))
    dense = fluctuation_init(400, 0.05, discrete_kernel(spec), mean=0.2, xi=2.0)
    assert dense.weight_std < 0.8 * init.weight_std


def test_padding_share_against_a_convolution_of_ones() -> None:
    from scipy.signal import correlate

    ones = np.pad(np.ones((8, 11)), 2)
    counts = correlate(ones, np.ones((5, 3)), mode="valid")[::2, ::2] / 15
    assert padding_share((5, 3), (8, 11), padding=2, stride=2) == pytest.approx(counts.mean())
    assert convolution_fan_in(4, (3, 3)) == 36.0
    assert convolution_fan_in(4, (3, 3), input_size=(8, 8), padding=1) == pytest.approx(
        36 * (1 - 2 / 24) ** 2
    )
    assert padding_share((3, 3), (8, 8), padding=0) == 1.0


def test_dale_weights_balance() -> None:
    excitatory, inhibitory = Kernel(0.01, 0.0018), Kernel(0.02, 0.003)
    rng = np.random.default_rng(0)
    for recurrent in (0.0, 60.0):
        found = dale_init(
            400, 100, 10.0, excitatory, inhibitory, threshold=1.2, xi=1.5,
            recurrent_fan_in=recurrent, share=0.8,
        )  # fmt: skip
        e, i = (1 / found.excitatory, 1 / found.inhibitory)
        assert 400 * e * excitatory.area == pytest.approx(100 * i * inhibitory.area)
        power = 10.0 * (400 * 2 * e**2 * excitatory.energy + 100 * 2 * i**2 * inhibitory.energy)
        share = 0.8 if recurrent else 1.0
        assert power == pytest.approx(share * (1.2 / 1.5) ** 2)
        if recurrent:
            assert found.recurrent_excitatory is not None
            again = found.recurrent_excitatory / found.excitatory
            assert again == pytest.approx(np.sqrt(0.8 * 60 / (0.2 * 500)))
    weights = rng.exponential(e, 200_000)
    # Second moment of an exponential: relative standard error sqrt(20 / 4 / n) = .5 %.
    assert np.mean(weights**2) == pytest.approx(2 * e**2, rel=0.02)


def test_decolle_by_simulation() -> None:
    """The layer as published, without reset weight in the spread; 400 units, 4000 steps."""
    rng = np.random.default_rng(5)
    a, b, a_r, w_r, p, n = 0.9, 0.8, 0.65, 0.02, 0.1, 200
    want = 0.158
    found = decolle_bias(n, p, 0.0, 0.2, want, membrane_decay=a, synapse_decay=b, reset_weight=w_r)
    weights = rng.normal(0.0, 0.2, (400, n))
    q_state, p_state, r_state, s = np.zeros(n), np.zeros(n), np.zeros(400), np.zeros(400)
    us, rates, trace = [], [], []
    for t in range(4300):
        p_state = a * p_state + (1 - a) * q_state
        q_state = b * q_state + (1 - b) * (rng.random(n) < p)
        r_state = a_r * r_state - (1 - a_r) * w_r * s
        v = weights @ p_state
        s = (v + found.bias + r_state > 0) * 1.0
        if t >= 300:
            us.append(v)
            rates.append(s.mean())
            trace.append(p_state)
    u = np.array(us)
    assert np.sqrt(u.var(axis=0).mean()) == pytest.approx(found.temporal_std, rel=0.05)
    assert u.mean(axis=0).std() == pytest.approx(found.quenched_std, rel=0.12)
    assert np.mean(rates) == pytest.approx(want, abs=0.03)
    assert abs(np.mean(rates) - 0.5) > 0.03
    energy = p * (1 - p) * decolle_kernel(a, b).energy + p**2
    assert np.mean(np.square(trace)) == pytest.approx(energy, rel=0.02)
    assert decolle_gradient_variance(
        0.5, 2.0, p, membrane_decay=a, synapse_decay=b
    ) == pytest.approx(energy)
    assert stats.norm.cdf(found.mean / np.hypot(found.temporal_std, found.quenched_std)) == (
        pytest.approx(want)
    )


def test_sparsity_schedules() -> None:
    assert [sparsity_weight(e, 50) for e in (0, 10, 20, 30, 50)] == pytest.approx([0, 0, 0.5, 1, 1])
    # Each epoch from 1/5 to 3/4 moves c to 1 - .6 (1 - c).
    c, loop = 0.0, []
    for epoch in range(20):
        if 4 <= epoch < 15:
            c = 1 - 0.6 * (1 - c)
        loop.append(c)
    assert [sparsity_weight(e, 20, "exponential") for e in range(20)] == pytest.approx(loop)
    assert [sparsity_weight(e, 20, "step") for e in (9, 10)] == [0.0, 1.0]
    assert sparsity_weight(4, 20, "random") == pytest.approx(1 - np.exp(-1))
    rates = np.array([[0.5, 0.2], [0.1, 0.1]])
    assert sparsity_loss(rates, 0.1, 0.5) == pytest.approx(0.5 * (0.16 + 0.01))
    assert spike_count_loss([3.0, 8.0, 10.0], 7.0) == pytest.approx(0.01 * 10 / 3)


def test_recommendation_holds_in_a_simulation() -> None:
    """Recurrent layer built as recommended: rate, spread and growth come out as predicted."""
    spec = NeuronSpec(decay=0.8, delayed_reset=True, reset_gradient=False)
    preset = recommend_by_numbers(spec, 300, recurrent=True, input_rate=0.05, target_rate=0.1)
    growths, rates, spreads = [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        w_in = rng.normal(0.0, preset.value("input weight std"), (300, 300))
        power = 300 * float(preset.value("recurrent weight std")) ** 2
        w = random_weights(300, power, rng)
        fixed = w_in.sum(axis=1) * 0.05
        noise = float(np.sqrt(300 * float(preset.value("input weight std")) ** 2 * 0.05 * 0.95))
        offset = float(preset.value("bias offset"))
        u, x = simulate(spec, w, fixed + offset, noise, 250, rng, 8)  # type: ignore[arg-type]
        u, x = u[100:], x[100:]
        found = growth_rate(recorded_statistics(spec, u, preset.surrogate, spikes=x), power)
        growths.append(found.chi)
        rates.append(x.mean())
        spreads.append(u.std())
    # Three networks of 300 units.
    assert np.mean(rates) == pytest.approx(0.1, abs=0.015)
    assert np.mean(spreads) == pytest.approx(float(preset.value("std of u")), rel=0.06)
    assert np.mean(growths) == pytest.approx(1.0, abs=0.02)
    assert float(preset.value("one-step variance ratio")) < 0.98
    assert any("Condition IV" in line for line in preset.warnings)


def test_recommendation_is_json_and_follows_the_spread() -> None:
    hard = NeuronSpec(decay=0.5, gain=0.5, reset="to_value", reset_gradient=False)
    preset = recommend_by_numbers(hard, 200, input_rate=0.1, layers=3, timesteps=8)
    text = json.loads(json.dumps(preset.to_dict()))
    assert {row["name"] for row in text["rows"]} >= {"input weight std", "peak", "width", "verdict"}
    assert all(row["source"] for row in text["rows"])
    assert preset.surrogate.sharpness * float(preset.value("std of u")) == pytest.approx(1.0)
    assert preset.value("gradient gain per layer") == pytest.approx(1.0)
    assert preset.value("rate") == pytest.approx(0.1, abs=1e-6)
    through = NeuronSpec(decay=0.5, gain=0.5, reset="to_value")
    other = recommend_by_numbers(through, 200, input_rate=0.1, layers=3, timesteps=8)
    assert other.value("gradient gain per layer") == pytest.approx(1.0)
    assert other.value("peak") != pytest.approx(float(preset.value("peak")), rel=1e-3)
    analogue = recommend_by_numbers(hard, 200, input_mean=0.1, input_square=0.1)
    assert analogue.value("input weight std") == pytest.approx(
        float(preset.value("input weight std"))
    )
    deep = recommend_by_numbers(hard, 200, recurrent=True, input_rate=0.1, layers=3)
    total = float(deep.value("growth per timestep")) + float(deep.value("growth per layer"))
    assert total == pytest.approx(1.0)


def test_bad_input() -> None:
    kernel = Kernel(1.0, 1.0)
    with pytest.raises(ValueError, match=r"rate=15\.8"):
        fluctuation_init(100, 15.8, kernel)
    with pytest.raises(ValueError, match="leaves no spread"):
        fluctuation_init(1, 0.01, Kernel(0.1, 10.0), mean=0.9)
    with pytest.raises(ValueError, match=r"mean=1\.0"):
        fluctuation_init(100, 0.1, kernel, mean=1.0)
    assert fluctuation_init(100, 0.1, kernel, mean=1.0, std=1.0).crossing == pytest.approx(0.5)
    with pytest.raises(ValueError, match="decay=1,"):
        discrete_kernel(NeuronSpec(decay=1.0))
    with pytest.raises(ValueError, match="does not fit"):
        padding_share((9,), (4,), padding=0)
    with pytest.raises(ValueError, match=r"target_rate=0\.0"):
        decolle_bias(10, 0.1, 0.0, 0.1, 0.0)
    with pytest.raises(ValueError, match="schedule='la'"):
        sparsity_weight(1, 10, "la")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epoch=11"):
        sparsity_weight(11, 10)
    with pytest.raises(ValueError, match="rates="):
        sparsity_loss([1.5], 0.1)
    with pytest.raises(ValueError, match="the input is not known"):
        recommend_by_numbers(NeuronSpec(), 100)
    with pytest.raises(ValueError, match=r"input_rate=2\.0"):
        recommend_by_numbers(NeuronSpec(), 100, input_rate=2.0)
    with pytest.raises(ValueError, match=r"threshold=0\.0"):
        recommend_by_numbers(NeuronSpec(threshold=0.0), 100, input_rate=0.1)
    with pytest.raises(ValueError, match=r"input_square=0\.01"):
        recommend_by_numbers(NeuronSpec(), 100, input_mean=0.1, input_square=0.01)
    with pytest.raises(ValueError, match="decay=1,"):
        recommend_by_numbers(NeuronSpec(decay=1.0), 100, input_rate=0.1)
