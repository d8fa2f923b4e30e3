"""How much of the shift at t = 1 a start potential removes: reference case and re-runs."""

import numpy as np
import pytest
from scipy import stats

from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.reset_recursion import step_laws
from spikescope.analysis.whatif import removable_drift


def test_removable_share_of_a_slow_layer():
    """Decay 0.9 (tau 10), mu 0.5, sigma 2 before the gain of 0.1, threshold 1, soft reset.

    W1 falls from 0.261 to 0.146 (44 %) with the stationary mean 0.2667 as start (transfer
    operator and simulation, computed for this project); firing at t = 1 from 0.0000 to 0.0002.
    """
    spec = NeuronSpec(decay=0.9, gain=0.1, threshold=1.0, reset="subtract")
    laws = step_laws(spec, 0.5, 2.0, 80)
    edges = np.linspace(-3.0, 3.0, 2401)
    first, settled = (law.probability(edges[:-1], edges[1:]) for law in (laws[0], laws[-1]))
    found = removable_drift(spec, first, settled, edges)
    assert found.start == pytest.approx(0.266677, abs=1e-3)
    assert found.w1_before == pytest.approx(0.261, abs=0.0006)
    assert found.w1_after == pytest.approx(0.146, abs=0.0006)
    assert found.share == pytest.approx(0.44, abs=0.005)
    assert found.rate_after == pytest.approx(0.0002, abs=5e-5)
    # What is predicted is what happens.
    rng, units = np.random.default_rng(3), 100_000
    rerun = step(spec, np.full(units, float(found.start)), rng.normal(0.5, 2.0, units))[0]
    draws = rng.choice(0.5 * (edges[1:] + edges[:-1]), units, p=settled / settled.sum())
    assert stats.wasserstein_distance(rerun, draws) == pytest.approx(
        float(found.w1_after), abs=0.004
    )
    harm = removable_drift(spec, first, settled, edges, start=-0.5)
    assert harm.share < 0


def test_removable_drift_of_many_layers_is_each_alone():
    rng = np.random.default_rng(4)
    first, settled = rng.random((2, 3, 2, 20)) + 0.1
    edges = np.linspace(-1.0, 2.0, 21)
    spec = NeuronSpec(decay=0.5, threshold=0.8, reset="to_value")
    together = removable_drift(spec, first, settled, edges)
    for index in np.ndindex(3, 2):
        alone = removable_drift(spec, first[index], settled[index], edges)
        assert [value[index] for value in together] == pytest.approx(
            [float(x) for x in alone], rel=1e-12
        )
    same = removable_drift(spec, first, first, edges, start=0.0)
    assert (same.w1_before == 0).all()
    assert (same.share == 0).all()


def test_a_layer_with_a_synapse_is_refused():
    spec = NeuronSpec(decay=0.5, synapse_decay=0.3)
    with pytest.raises(ValueError, match=r"synapse_decay=0\.3"):
        removable_drift(spec, [1, 1], [1, 2], [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"synapse_decay=0\.3"):
        step_laws(spec, 0.0, 1.0, 3)
