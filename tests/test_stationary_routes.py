"""Stationary laws by independent routes: cells on the post-reset chain, simulation, symmetries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.sparse.linalg import eigs
from scipy.special import ndtr

from spikescope.analysis.neuron import NeuronSpec, step
from spikescope.analysis.stationary import FIGURES, StationaryLaw, stationary_law


@st.composite
def layers(draw: st.DrawFn, reset: str | None = None) -> tuple[NeuronSpec, float, float]:
    """Random layer in the mul convention: spec, mean and std of the input."""
    theta = draw(st.floats(0.1, 10))
    kind = draw(st.sampled_from(["subtract", "to_value", "none"])) if reset is None else reset
    spec = NeuronSpec(
        decay=draw(st.floats(0, 0.9)),
        threshold=theta,
        reset=kind,
        reset_value=theta * draw(st.floats(-1, 0.5)) if kind == "to_value" else 0.0,
    )
    return spec, theta * draw(st.floats(-1, 1.5)), theta * draw(st.floats(0.15, 2))


def cells(spec: NeuronSpec, mean: float, std: float, per_std: float) -> dict[str, float]:
    """Ulam's method on the *post*-reset chain: midpoint cells of v, a hard reset as an atom."""
    a, b, theta = spec.decay, spec.gain * mean, spec.threshold
    s, free = abs(spec.gain) * std, spec.gain * mean / (1 - spec.decay)
    wide = 8 * s / math.sqrt(1 - a * a)
    entry = {"subtract": 0.0, "to_value": spec.reset_value, "none": free}[spec.reset]
    low = min(entry, free) - wide
    high = max(theta, free) + wide if spec.reset != "to_value" else theta
    e = np.linspace(low, high, int((high - low) / s * per_std) + 1)
    v = 0.5 * (e[1:] + e[:-1])
    hard = spec.reset == "to_value"
    sources = np.append(v, spec.reset_value) if hard else v
    centre = a * sources + b

    def below(x: np.ndarray) -> np.ndarray:
        return ndtr((x[:, None] - centre) / s)

    if spec.reset == "none":
        rows = np.diff(below(e), axis=0)
    elif hard:
        rows = np.vstack([np.diff(below(e), axis=0), 1 - below(np.array([theta]))])
    else:
        kept = np.diff(below(np.minimum(e, theta)), axis=0)
        rows = kept + np.diff(below(np.maximum(e + theta, theta)), axis=0)
    rows[rows < 1e-17] = 0
    matrix = sparse.csr_matrix(rows)
    start = np.random.default_rng(1).standard_normal(len(sources))
    values, vectors = eigs(matrix, k=3, ncv=40, v0=start, maxiter=3000)
    order = np.argsort(-np.abs(values))
    f = vectors[:, order[0]].real
    f = f / f.sum()
    mean_post = float(f @ sources)
    return {
        "mean_post": mean_post,
        "std_post": math.sqrt(f @ (sources - mean_post) ** 2),
        "rate": float(f @ ndtr((centre - theta) / s)),
        "lambda_2": abs(values[order[1]]),
    }


def agrees(law: StationaryLaw, spec: NeuronSpec, mean: float, std: float) -> bool:
    """Whether the law agrees with cells to the error of the cells, told by two cell sizes.

    Midpoint cells converge in proportion to the cell or its square, so the finer one is at most
    as wrong as the two differ; a factor 3 covers the irregular part.
    """
    coarse, fine = (cells(spec, mean, std, per_std) for per_std in (8, 16))
    return all(
        abs(abs(getattr(law, name)) - abs(fine[name]))
        <= 3 * abs(fine[name] - coarse[name]) + 2e-4 * (law.std if "post" in name else 1)
        for name in fine
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(layers())
def test_cells_on_the_post_reset_chain(layer: tuple[NeuronSpec, float, float]) -> None:
    spec, mean, std = layer
    assert agrees(stationary_law(spec, mean, std), spec, mean, std)


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
def test_cells_refuse_a_wrong_spec(reset: str) -> None:
    spec = NeuronSpec(decay=0.7, reset=reset)
    assert agrees(stationary_law(spec, 0.2, 0.5), spec, 0.2, 0.5)
    for name in ("decay", "threshold"):
        wrong = replace(spec, **{name: 1.02 * getattr(spec, name)})
        assert not agrees(stationary_law(wrong, 0.2, 0.5), spec, 0.2, 0.5)


@pytest.mark.parametrize(
    ("reset", "decay", "mean", "std"),
    [("to_value", 0.5, 0.9, 0.05), ("subtract", 0.5, 0.6, 0.05), ("to_value", 0.9, 0.2, 0.05)],
)
def test_cells_in_the_nearly_periodic_regime(
    reset: str, decay: float, mean: float, std: float
) -> None:
    """Lambda 2 to 1e-4, with cells extrapolated to size 0 (their error is quadratic)."""
    spec = NeuronSpec(decay=decay, reset=reset)
    law = stationary_law(spec, mean, std)
    coarse, fine = (cells(spec, mean, std, per_std) for per_std in (24, 48))
    assert law.rings
    for name, value in fine.items():
        limit = value + (value - coarse[name]) / 3
        assert abs(getattr(law, name)) == pytest.approx(limit, abs=1e-4)
        if name.startswith("lambda"):
            assert law.error[name] < 1e-4
    wrong = stationary_law(replace(spec, threshold=1.02), mean, std)
    assert abs(abs(wrong.lambda_2) - fine["lambda_2"]) > 1e-4


def assert_same(one: StationaryLaw, other: StationaryLaw, scale: float = 1.0) -> None:
    """Two routes to one law; eigenvalues near 0 are ill-conditioned, hence moduli to 1e-6."""
    for name in FIGURES:
        here, there = getattr(one, name), getattr(other, name)
        if name.startswith("lambda"):
            assert abs(here) == pytest.approx(abs(there), abs=1e-6), name
        else:
            unit = 1.0 if name == "rate" else scale
            assert here == pytest.approx(unit * there, abs=1e-8 * max(one.std, 1e-3)), name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layers(reset="subtract"))
def test_reflection(layer: tuple[NeuronSpec, float, float]) -> None:
    """(a, mu, theta) -> (a, (2 - a) theta - mu, theta): v -> theta - v, rate -> 1 - rate."""
    spec, mean, std = layer
    law = stationary_law(spec, mean, std)
    mirror = stationary_law(spec, (2 - spec.decay) * spec.threshold - mean, std)
    assert mirror.rate == pytest.approx(1 - law.rate, abs=1e-9)
    assert mirror.mean_post == pytest.approx(spec.threshold - law.mean_post, abs=1e-8 * law.std)
    assert mirror.std_post == pytest.approx(law.std_post, rel=1e-8)
    assert abs(mirror.lambda_2) == pytest.approx(abs(law.lambda_2), abs=1e-7)
    balance = mean - spec.decay * spec.threshold * law.rate
    assert (1 - spec.decay) * law.mean == pytest.approx(balance, abs=1e-9 * law.std)
    symmetric = stationary_law(spec, (2 - spec.decay) * spec.threshold / 2, std)
    assert symmetric.rate == pytest.approx(0.5, abs=1e-9)
    assert symmetric.mean_post == pytest.approx(spec.threshold / 2, abs=1e-8 * law.std)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(layers(), st.floats(0.1, 10), st.floats(-3, 3))
def test_equivalent_notations(
    layer: tuple[NeuronSpec, float, float], factor: float, shift: float
) -> None:
    spec, mean, std = layer
    law = stationary_law(spec, mean, std)
    leak = 1 - spec.decay
    # decay convention: input scaled up by 1 / (1 - a)
    assert_same(law, stationary_law(replace(spec, gain=leak), mean / leak, std / leak))
    # a negative gain with negative input
    assert_same(law, stationary_law(replace(spec, gain=-2.0), -mean / 2, std / 2))
    # every potential in another unit
    scaled = replace(spec, threshold=factor * spec.threshold, reset_value=factor * spec.reset_value)
    other = stationary_law(scaled, factor * mean, factor * std)
    assert_same(law, other, 1 / factor)
    # the zero of the potential moved, rest with it
    moved = replace(
        spec, threshold=spec.threshold + shift, reset_value=spec.reset_value + shift, rest=shift,
        reset_amount=spec.threshold,
    )  # fmt: skip
    there = stationary_law(moved, mean, std)
    assert there.mean - shift == pytest.approx(law.mean, abs=1e-8 * (1 + law.std))
    assert there.rate == pytest.approx(law.rate, abs=1e-9)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(layers(reset="subtract"), st.floats(0.3, 2))
def test_delayed_reset_is_a_larger_amount(
    layer: tuple[NeuronSpec, float, float], amount: float
) -> None:
    """A reset that lands after the leak subtracts amount / decay before it."""
    spec, mean, std = layer
    spec = replace(spec, decay=max(spec.decay, 0.1), reset_amount=amount * spec.threshold)
    late = stationary_law(replace(spec, delayed_reset=True), mean, std)
    early = stationary_law(replace(spec, reset_amount=spec.reset_amount / spec.decay), mean, std)
    assert_same(late, early)
    balance = mean - spec.reset_amount * late.rate
    assert (1 - spec.decay) * late.mean == pytest.approx(balance, abs=1e-8 * late.std)


@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
def test_cells_for_any_input_law(reset: str) -> None:
    """A normal law given as a distribution goes through cells instead of nodes."""
    spec = NeuronSpec(decay=0.6, reset=reset)
    smooth = stationary_law(spec, 0.3, 0.5)
    general = stationary_law(spec, input_law=stats.norm(0.3, 0.5))
    for name in FIGURES:
        error = abs(getattr(general, name) - getattr(smooth, name))
        assert error < 1.2 * general.error[name] + 1e-9, name
        assert error < 1e-4, name
    assert general.steps_to_tv(0.01) == smooth.steps_to_tv(0.01)
    here, there = general.removable(), smooth.removable()
    assert here.share == pytest.approx(there.share, abs=1e-3)
    if reset != "none":
        assert general.mp_init(4, active_only=True) == pytest.approx(
            smooth.mp_init(4, active_only=True), abs=1e-4
        )
    skew = stationary_law(spec, input_law=stats.gamma(2.0, loc=0.3 - 2**0.5 / 2, scale=0.125**0.5))
    assert skew.mean == pytest.approx(smooth.mean, abs=0.2)
    assert abs(skew.std - smooth.std) > (1e-2 if reset != "none" else 0)


def simulate(
    spec: NeuronSpec, current: np.ndarray, start: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Last u and v of independent units, and whether each ever fired; current [T, units]."""
    v: np.ndarray = np.full(current.shape[1], start)
    ever = np.zeros(current.shape[1], dtype=bool)
    for now in current:
        u, s, v = step(spec, v, now)
        ever |= s > 0
    return u, v, ever


def z_scores(law: StationaryLaw, u: np.ndarray, v: np.ndarray, theta: float) -> list[float]:
    """Deviations of a sample of independent units from the law, in standard errors."""
    n = len(u)
    second = (u - law.mean) ** 2
    return [
        (u.mean() - law.mean) / (u.std() / math.sqrt(n)),
        (v.mean() - law.mean_post) / (v.std() / math.sqrt(n)),
        (np.mean(u >= theta) - law.rate) / math.sqrt(law.rate * (1 - law.rate) / n),
        (second.mean() - law.std**2) / (second.std() / math.sqrt(n)),
    ]


@pytest.mark.parametrize(
    "spec",
    [
        NeuronSpec(decay=0.5, reset="subtract"),
        NeuronSpec(decay=0.8, gain=0.2, threshold=0.3, reset="to_value", reset_value=-0.1),
        NeuronSpec(decay=0.6, rest=0.2, delayed_reset=True, reset_amount=0.7),
        NeuronSpec(decay=0.7, gain=-1.0, threshold=0.5, reset="to_value", rest=-0.3),
    ],
)
def test_simulation(spec: NeuronSpec) -> None:
    """16 z-scores of 40 000 independent units after mixing; beyond 4.2 once in 2 000 runs."""
    rng = np.random.default_rng(11)
    current = 0.3 + 0.9 * rng.standard_normal((60, 40_000))
    law = stationary_law(spec, 0.3, 0.9)
    u, v, _ = simulate(spec, current, 0.0)
    assert abs(law.lambda_2) ** 60 < 1e-5
    assert max(map(abs, z_scores(law, u, v, spec.threshold))) < 4.2
    for name in ("decay", "threshold"):
        wrong = replace(spec, **{name: 1.15 * getattr(spec, name)})
        other = stationary_law(wrong, 0.3, 0.9)
        assert max(map(abs, z_scores(other, u, v, spec.threshold))) > 4.2, name


@pytest.mark.parametrize("reset", ["subtract", "to_value"])
def test_simulation_of_the_transient_and_of_active_units(reset: str) -> None:
    rng = np.random.default_rng(12)
    spec, n = NeuronSpec(decay=0.8, reset=reset), 60_000
    law = stationary_law(spec, 0.05, 0.4)
    start = law.mp_init(3, active_only=True)
    u, v, ever = simulate(spec, 0.05 + 0.4 * rng.standard_normal((3, n)), start)
    path = law.transient(3, start=start)
    assert abs(u.mean() - path.mean[-1]) < 4 * u.std() / math.sqrt(n)
    assert abs(np.mean(u >= 1.0) - path.rate[-1]) < 4 * math.sqrt(path.rate[-1] / n)
    assert abs(v.mean() - path.mean_post[-1]) < 4 * v.std() / math.sqrt(n)
    active = v[ever]
    assert abs(active.mean() - start) < 4 * active.std() / math.sqrt(len(active))
    share = law.active_share(3, start=start)
    assert abs(ever.mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    # All units together do not come to rest there: the active ones are a biased choice.
    assert abs(v.mean() - start) > 4 * v.std() / math.sqrt(n)
    # The share that a constant removes, from the same draws shifted by a (c - v_0).
    shift = law.removable(start=-1.0)
    first = 0.8 * -1.0 + 0.05 + 0.4 * rng.standard_normal(n)
    settled = simulate(spec, 0.05 + 0.4 * rng.standard_normal((80, n)), 0.0)[0]
    after = first + 0.8 * (law.best_start + 1.0)
    w1 = [stats.wasserstein_distance(x, settled) for x in (first, after)]
    # A W1 of two samples is biased by about their spread over sqrt(n).
    slack = 4 * law.std / math.sqrt(n)
    assert w1[0] == pytest.approx(shift.w1_before, abs=slack)
    assert w1[1] == pytest.approx(shift.w1_after, abs=slack)


def test_simulation_with_frozen_input() -> None:
    """Half the input's variance stays with the unit: the law is a mixture, not a single chain."""
    rng = np.random.default_rng(13)
    spec, n, share = NeuronSpec(decay=0.5, reset="to_value"), 60_000, 0.5
    frozen = math.sqrt(share) * rng.standard_normal(n)
    fast = math.sqrt(1 - share) * rng.standard_normal((40, n))
    u, v, _ = simulate(spec, 0.2 + 0.5 * (frozen + fast), 0.0)
    law = stationary_law(spec, 0.2, 0.5, frozen=share)
    assert max(map(abs, z_scores(law, u, v, 1.0))) < 4
    assert max(map(abs, z_scores(stationary_law(spec, 0.2, 0.5), u, v, 1.0))) > 4


def test_simulation_with_recorded_input() -> None:
    """Samples as the input: units draw from the recorded values."""
    rng = np.random.default_rng(14)
    recorded = rng.gamma(2.0, 0.2, 500)
    spec = NeuronSpec(decay=0.5)
    law = stationary_law(spec, input_samples=recorded)
    u, v, _ = simulate(spec, rng.choice(recorded, (40, 60_000)), 0.0)
    assert max(map(abs, z_scores(law, u, v, 1.0))) < 4
    normal = stationary_law(spec, recorded.mean(), recorded.std())
    assert max(map(abs, z_scores(normal, u, v, 1.0))) > 4
