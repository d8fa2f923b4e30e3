"""Widths and thresholds of MPD-AGL and DS-ATGO to the printed digits of their reference cases."""

import numpy as np
import pytest
from agl_cases import CASES, printed, rows
from scipy import stats

from spikescope.analysis import remedies
from spikescope.analysis.laws import GaussianLaw


@pytest.mark.parametrize("case", CASES)
def test_published_rule_and_its_gaussian_law(case):
    table = rows(case)
    past = (table.t >= 2) * table.tau**2
    scale = table.gamma_mean.to_numpy()
    width = remedies.agl_width(scale, table.V0, table.tau, table.t, table.alpha).to_numpy()
    assert printed(width, table.kappa_agl)
    assert printed((width / 2) ** 2, table.var_agl)
    std = width / 2
    input_std = table.V0 * table.gamma_mean
    noreset = input_std**2 * (1 - table.tau ** (2 * table.t)) / (1 - table.tau**2)
    assert printed(noreset, table.var_noreset)
    mean = table.beta * (1 + table.tau * (table.t >= 2))
    assert np.allclose(mean, table.mean_agl, atol=1e-9)
    law = GaussianLaw(mean.to_numpy(), std)
    theta = table.V0.to_numpy()
    assert printed(stats.norm.sf(theta, mean, std), table.fire_agl_gauss)
    for half, column in ((0.5, "cov_fixed_gauss"), (width / 2, "cov_agl_gauss")):
        assert printed(law.probability(theta - half, theta + half), table[column])
    assert printed(remedies.atgo_estimated_threshold(table.tau, table.V0), table.V_atgo_est)
    # Without the first step's own width, or with another decay, it would not fit.
    assert not printed(remedies.agl_width(scale, table.V0, table.tau, 2), table.kappa_agl)
    assert past.iloc[-1] > 0


@pytest.mark.parametrize("case", CASES)
def test_threshold_and_width_rules_of_the_adaptive_run(case):
    table = rows(case)
    theta = remedies.atgo_threshold(table.mean_atgo, table.std_atgo, floor=-9.0).value
    # The inputs are printed to six digits themselves.
    assert np.allclose(theta, table.V_atgo, rtol=2e-5)
    assert np.allclose(remedies.atgo_width(table.std_atgo, table.V0), table.k_atgo_code, rtol=1e-5)
    assert np.allclose(remedies.atgo_width(table.V_atgo, table.V0), table.k_atgo_paper, rtol=1e-5)
    assert not np.allclose(
        remedies.atgo_width(table.std_atgo, 1.02 * table.V0), table.k_atgo_code, rtol=1e-3
    )


def test_rms_rule_over_channels():
    table = rows("chan_gamma_mixed_sign")
    gamma = np.linspace(-0.8, 1.2, 64)
    scale = remedies.agl_rms_scale(gamma, np.zeros(64), 0.5)
    width = remedies.agl_width(scale, 0.5, table.tau, table.t)
    assert printed(width / 2, table.std_agl_rms_rule)
    assert gamma.mean() == pytest.approx(table.gamma_mean[0])
