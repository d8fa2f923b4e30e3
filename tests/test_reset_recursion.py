"""The recursion on the law of u: printed digits, closed form at t = 2, simulation."""

import numpy as np
import pytest
from agl_cases import (
    ERRORS,
    INDEPENDENT,
    covers,
    fixed_laws,
    neuron,
    printed,
    rows,
    sampled,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from spikescope.analysis import remedies
from spikescope.analysis.neuron import NeuronSpec, replay
from spikescope.analysis.reset_recursion import second_step, step_laws
from spikescope.analysis.surrogate import Surrogate


@pytest.mark.parametrize("case", INDEPENDENT)
def test_recursion_to_the_printed_digits(case):
    table, laws = rows(case), fixed_laws(case)
    means, stds = np.array([law.mean for law in laws]), np.array([law.std for law in laws])
    assert printed(means, table.mean_exact)
    assert printed(stds**2, table.var_exact)
    cover = [covers(law, table.V0[0], k) for law, k in zip(laws, table.kappa_agl, strict=True)]
    # kappa is printed to six digits: its rounding moves the edges.
    assert np.allclose(cover, table.cov_agl_exact, atol=5e-6)
    assert max(law.error for law in laws) < 1e-9
    # Simulation, independent of the quadrature.
    assert (np.abs(means - table.mean_mc) <= ERRORS * table.se_mean_mc).all()
    assert (np.abs(stds**2 - table.var_mc) <= ERRORS * 1.1 * table.se_var_mc).all()
    assert sampled(np.array([law.rate for law in laws]), table.fire_mc)
    # A decay wrong by 2 % fails.
    spec, row = neuron(case)
    off = NeuronSpec(decay=1.02 * spec.decay, threshold=spec.threshold, reset="to_value")
    wrong = step_laws(off, row.beta, row.V0 * row.gamma_mean, 6)
    assert not printed(np.array([law.std**2 for law in wrong]), table.var_exact)


@pytest.mark.parametrize("case", INDEPENDENT)
def test_recursion_with_the_adaptive_threshold(case):
    table = rows(case)
    spec, row = neuron(case)
    laws = step_laws(spec, row.beta, row.V0 * row.gamma_mean, 6, fc=1.0, floor=-9.0)
    thetas = np.array([law.threshold for law in laws])
    assert printed(thetas, table.V_atgo_exact)
    widths = remedies.atgo_width(np.array([law.std for law in laws]), row.V0)
    cover = [covers(law, law.threshold, k) for law, k in zip(laws, widths, strict=True)]
    assert printed(np.array(cover), table.cov_atgo_code_exact)
    assert sampled(np.array([law.rate for law in laws]), table.fire_atgo)
    # A shift of the threshold by its own error (mean and std of a batch) moves coverage by less.
    assert sampled(np.array(cover), table.cov_atgo_code, 2 * np.ones(6))
    surrogate = Surrogate("rectangular", peak=1 / widths[3], width=widths[3])
    assert surrogate.coverage(laws[3], thetas[3]) == pytest.approx(cover[3], rel=1e-12)
    assert surrogate.moment(laws[3], thetas[3]) == pytest.approx(cover[3] / widths[3], rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(-1.0, 1.5), st.floats(0.1, 2.0), st.floats(0.2, 2.0))
def test_second_step_in_closed_form_is_the_recursion(decay, mean, std, threshold):
    spec = NeuronSpec(decay=decay, threshold=threshold, reset="to_value")
    law = step_laws(spec, mean, std, 2)[1]
    closed = second_step(mean, std, threshold, decay)
    assert (law.mean, law.std**2) == pytest.approx(closed, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
def test_recursion_of_other_resets_against_simulation(reset):
    rng, units = np.random.default_rng(0), 100_000
    spec = NeuronSpec(
        decay=0.6, gain=0.7, threshold=0.8, reset=reset, reset_value=-0.2, rest=0.1, start=0.3
    )
    u, s = replay(spec, rng.normal(0.9, 0.8, (4, units)))
    for law, values, fired in zip(step_laws(spec, 0.9, 0.8, 4), u, s, strict=True):
        assert law.mean == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(units))
        assert law.std == pytest.approx(values.std(), rel=6 / np.sqrt(2 * units))
        assert law.rate == pytest.approx(fired.mean(), abs=4 * 0.5 / np.sqrt(units))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="input_std=0"):
        step_laws(NeuronSpec(), 0.0, 0.0, 2)
    with pytest.raises(ValueError, match="timesteps=0"):
        step_laws(NeuronSpec(), 0.0, 1.0, 0)
    with pytest.raises(ValueError, match="must be one number here"):
        step_laws(NeuronSpec(threshold=np.array([1.0, 2.0])), 0.0, 1.0, 2)
    with pytest.raises(ValueError, match=r"decay=1\.5"):
        second_step(0.0, 1.0, 1.0, 1.5)
