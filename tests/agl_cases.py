"""Reference cases of MPD-AGL and DS-ATGO, and the laws of u that they speak of.

``reference/agl.csv`` says in its head how each column was computed. Columns from formulas and
quadrature must come out to their six printed digits; simulated ones within their sampling error.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.reset_recursion import step_laws

TABLE = pd.read_csv(Path(__file__).parent / "reference" / "agl.csv", comment="#")
UNITS = 400_000
CASES = list(TABLE.case.unique())
INDEPENDENT = [case for case in CASES if "const" not in case and "chan" not in case]
# A rate or coverage p of N units has standard error sqrt(p (1 - p) / N); 4.5 of them for some
# thousand comparisons.
ERRORS = 4.5


def rows(case):
    return TABLE[TABLE.case == case].reset_index(drop=True)


def digits(column):
    """Half a unit of the sixth printed digit, and rounding of the computation."""
    return 5.1e-6 * 10.0 ** np.floor(np.log10(np.maximum(np.abs(column), 1e-300))) + 1e-12


def printed(got, column):
    return (np.abs(got - column) <= digits(column)).all()


def sampled(got, column, spread=None):
    spread = np.sqrt(column * (1 - column)) if spread is None else spread
    return (np.abs(got - column) <= ERRORS * spread / np.sqrt(UNITS)).all()


def neuron(case):
    row = rows(case).iloc[0]
    return NeuronSpec(decay=float(row.tau), threshold=float(row.V0), reset="to_value"), row


def fixed_laws(case):
    """Laws of u at t = 1..6 with the fixed threshold, for input that is new at each timestep."""
    spec, row = neuron(case)
    return step_laws(spec, row.beta, row.alpha * row.V0 * row.gamma_mean, 6)


def histograms(laws, bins=256):
    """Histograms of the laws on 256 bins that hold mean +- 5 std of each."""
    low = min(law.mean - 5 * law.std for law in laws)
    high = max(law.mean + 5 * law.std for law in laws)
    edges = np.linspace(low, high, bins + 1)
    return np.stack([law.probability(edges[:-1], edges[1:]) for law in laws]), edges


def covers(law, centre, width):
    return law.probability(centre - width / 2, centre + width / 2)
