"""Recommendations: each solution against closed forms, autograd or a second route."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikescope.analysis import recommend_layer
from spikescope.analysis.laws import GaussianLaw
from spikescope.analysis.layer_figures import unbalanced, wanted_gain
from spikescope.analysis.layer_gradient import inner_gradient, pass_gain, slope_gain, time_factor
from spikescope.analysis.layer_record import (
    LayerRecord,
    coverage_of,
    jackknife,
    mean_of,
    participation_of,
    rate_of,
    spread_of,
    square_of,
)
from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.recommend import Predicted, Recommendation, Recommendations
from spikescope.analysis.recommend_choice import choose_surrogate
from spikescope.analysis.recommend_forward import (
    Currents,
    apply_forward,
    drive_fault,
    free_distance,
    solve_forward,
    solve_scale,
    xi_of,
)
from spikescope.analysis.recommend_start import (
    StartSolution,
    fixed_share,
    settled,
    solve_start,
)
from spikescope.analysis.recommend_surrogate import (
    fitted_width,
    rank_shapes,
    solve_peak,
    width_verdict,
)
from spikescope.analysis.surrogate import SHAPES, Surrogate
from spikescope.probes.lif import LIF


def layer_of(
    spec: NeuronSpec, current: Any, surrogate: Surrogate | None = None, grad_s: Any = None
) -> LayerRecord:
    """Return a layer as it would be recorded with these currents."""
    zero = np.zeros_like(current)
    bare = LayerRecord("lif", spec, surrogate, current, zero, zero, np.zeros(current.shape[1:]))
    return replace(bare.rerun(spec, current), surrogate=surrogate, grad_s=grad_s)


def noise(
    *shape: int, mean: float = 0.0, std: float = 1.0, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(mean, std, shape)


# Forward: weights, bias, threshold.


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("xi", [1.0, 2.0])
def test_weight_scale_is_that_of_independent_inputs(decay: float, xi: float) -> None:
    # Var u[t] = sd^2 (1 - a^2t) / (1 - a^2) for zero-mean independent currents (no reset).
    steps, samples, units, std, theta = 12, 400, 50, 0.07, 1.5
    spec = NeuronSpec(decay=decay, threshold=theta)
    current = noise(steps, samples, units, std=std)
    powers = decay ** (2 * np.arange(steps))
    exact = theta / (xi * std * math.sqrt(np.cumsum(powers).mean()))
    found = solve_scale(spec, Currents(current, 0 * current), np.zeros((samples, units)), xi)
    assert found is not None
    # Standard error of a standard deviation from this many nearly independent draws of each step.
    error = exact * math.sqrt(steps / 2.0 / current.size) * 2.0
    assert abs(found - exact) < 4 * error
    assert abs(1.1 * found - exact) > 4 * error  # a tenth off is seen


@settings(max_examples=25, deadline=None)
@given(
    decay=st.floats(0.0, 0.95),
    mean=st.floats(-0.3, 0.3),
    rest=st.floats(-0.5, 0.5),
    xi=st.floats(0.5, 3.0),
    seed=st.integers(0, 10**6),
)
def test_solution_meets_xi_on_the_recorded_currents(
    decay: float, mean: float, rest: float, xi: float, seed: int
) -> None:
    spec = NeuronSpec(decay=decay, threshold=2.0, rest=0.1)
    weighted = noise(5, 20, 7, mean=mean, seed=seed)
    parts = Currents(weighted, np.full_like(weighted, rest) + noise(1, 1, 7, std=0.1, seed=seed))
    layer = layer_of(spec, parts.at(1.0))
    found = solve_forward(layer, parts, has_bias=True, xi=xi)
    assert found is not None
    after = apply_forward(layer, parts, found)
    assert xi_of(after).value == pytest.approx(xi, abs=1e-6)
    assert not (found.scale == 1.0 and found.shift == 0.0) or xi_of(layer).value == xi


def test_a_mean_that_does_the_work_is_centred() -> None:
    spec = NeuronSpec(decay=0.8, threshold=1.0, rest=0.1)
    weighted = noise(30, 60, 10, mean=5.0, std=0.3)
    parts = Currents(weighted, 0 * weighted)
    layer = layer_of(spec, 0.01 * weighted)
    alone = solve_forward(layer, Currents(0.01 * weighted, 0 * weighted), has_bias=False)
    both = solve_forward(layer, Currents(0.01 * weighted, 0 * weighted), has_bias=True)
    assert alone is not None
    assert both is not None
    assert alone.shift == 0.0
    free = free_distance(spec, parts.at(0.01 * both.scale, both.shift), layer.start) + 1.0
    assert float(free.mean()) == pytest.approx(0.1, abs=1e-6)  # at rest
    assert float(free.std()) == pytest.approx(0.9, rel=1e-6)  # the way to the threshold
    poor = free_distance(spec, parts.at(0.01 * alone.scale), layer.start)
    assert float(poor.std()) < 0.9 / 3  # what centring is for


def test_without_weights_the_threshold_goes_where_the_potential_is() -> None:
    spec = NeuronSpec(decay=0.5, threshold=10.0)
    layer = layer_of(spec, noise(8, 100, 20, mean=0.2))
    found = solve_forward(layer, None, has_bias=True)
    assert found is not None
    free = free_distance(replace(spec, threshold=0.0, reset="none", reset_amount=None),
                         layer.current, layer.start)  # fmt: skip
    assert found.threshold == pytest.approx(float(free.mean() + free.std()), rel=1e-9)
    assert rate_of(layer).value == 0.0
    assert 0.05 < rate_of(apply_forward(layer, None, found)).value < 0.2
    still = layer_of(spec, np.zeros((8, 100, 20)))
    assert solve_forward(still, None, has_bias=False) is None


def test_fault_only_beyond_the_error_bars() -> None:
    spec = NeuronSpec(decay=0.0, threshold=1.0)
    quiet = layer_of(spec, noise(4, 200, 20, std=0.25))  # xi = 4
    assert "standard deviations above" in drive_fault(quiet)
    assert drive_fault(layer_of(spec, noise(4, 200, 20, std=0.5))) == ""
    few = layer_of(spec, noise(4, 3, 5, std=1 / 3.02, seed=2))  # barely out, error large
    assert drive_fault(few) == ""
    assert "fire" in drive_fault(layer_of(spec, noise(4, 200, 20, mean=2.0)))
    assert "never fires" in drive_fault(layer_of(spec, np.zeros((4, 20, 5))))


# The gradient inside.


@pytest.mark.parametrize("reset", ["subtract", "to_value", "none"])
@pytest.mark.parametrize("detach", [False, True])
def test_inner_gradient_is_that_of_autograd(reset: Any, detach: bool) -> None:
    sg = Surrogate("sigmoid", 0.8, 0.4)
    lif = LIF(0.8, 0.7, 0.9, reset, 0.1, surrogate=sg, detach_reset=detach)
    current = torch.from_numpy(noise(7, 5, 3, mean=0.4)).requires_grad_()
    spikes = lif(current)
    weight = torch.from_numpy(noise(7, 5, 3, seed=1))
    (spikes * weight).sum().backward()
    layer = layer_of(lif.spec, current.detach().numpy(), sg, weight.numpy())
    np.testing.assert_array_equal(layer.spikes, spikes.detach().numpy())
    assert current.grad is not None
    expected = current.grad.numpy() / 0.7  # dL/dI = gain dL/du
    np.testing.assert_allclose(inner_gradient(layer, sg).u, expected, rtol=1e-10, atol=1e-14)
    other = inner_gradient(layer, replace(sg, width=0.5)).u
    assert np.abs(other - expected).max() > 1e-3


def test_a_record_without_gradient_says_so() -> None:
    layer = layer_of(NeuronSpec(), noise(2, 3, 4))
    with pytest.raises(ValueError, match="layer 'lif' has no gradient"):
        inner_gradient(layer, Surrogate())


@pytest.mark.parametrize("reset_gradient", [False, True])
def test_peak_solves_the_gain(reset_gradient: bool) -> None:
    spec = NeuronSpec(decay=0.6, reset_gradient=reset_gradient)
    layer = layer_of(spec, noise(6, 60, 30), Surrogate("gaussian"), noise(6, 60, 30, seed=1))
    peak, limit = solve_peak(layer, Surrogate("gaussian", 3.0, 0.5), gain=0.2)
    assert limit == ""
    solved = Surrogate("gaussian", peak, 0.5)
    assert pass_gain(layer, solved).value == pytest.approx(0.2, rel=1e-4)
    assert pass_gain(layer, replace(solved, peak=1.2 * peak)).value > 0.21


def test_peak_stays_where_the_reset_gradient_does_not_grow() -> None:
    spec = NeuronSpec(decay=0.95)
    layer = layer_of(spec, noise(6, 60, 30), None, noise(6, 60, 30, seed=1))
    sg = Surrogate("triangular", 1.0, 1.0)
    peak, limit = solve_peak(layer, sg, gain=50.0)
    constant, linear, square = time_factor(layer, sg)
    assert limit == "the gradient through the reset"
    assert constant + linear * peak + square * peak**2 == pytest.approx(1.0, rel=1e-6)
    factor = 0.95 * (1.0 - sg.derivative(layer.z) * peak)
    assert float(np.mean(factor**2)) == pytest.approx(1.0, rel=1e-6)
    low, limit = solve_peak(layer, sg, gain=1e-9)
    assert (replace(sg, peak=low).area, limit) == (pytest.approx(0.1), "an area of 0.1 to 10")


def test_gain_of_an_independent_gradient_is_the_mean_square_of_the_surrogate() -> None:
    spec = NeuronSpec(decay=0.0, threshold=1.0, reset_gradient=False)
    sg = Surrogate("sigmoid", 0.7, 0.3)
    layer = layer_of(spec, noise(1, 400, 200, std=0.8), sg, noise(1, 400, 200, seed=1))
    exact = float(sg.moment(GaussianLaw(0.0, 0.8), 1.0, 2))
    local, measured = square_of(layer, sg), slope_gain(layer, sg)
    assert abs(local.value - exact) < 4 * local.error
    assert abs(measured.value - exact) < 4 * measured.error
    assert abs(1.1 * exact - local.value) > 4 * local.error


# Width, shape.


@pytest.mark.parametrize("shape", list(SHAPES))
def test_width_makes_sharpness_times_spread_one(shape: str) -> None:
    sg = Surrogate(shape, 1.0, fitted_width(shape, 0.37))
    assert float(sg.sharpness) * 0.37 == pytest.approx(1.0)


def test_width_verdict_follows_coverage_and_spread() -> None:
    layer = layer_of(NeuronSpec(decay=0.0), noise(2, 300, 50))
    law = GaussianLaw(0.0, 1.0)
    for width, wanted in ((0.2, "narrow"), (1.0, ""), (2.5, "wide")):
        sg = Surrogate("rectangular", 1.0, width)
        assert width_verdict(layer, sg, 2.3) == wanted
        exact = float(sg.coverage(law))
        seen = coverage_of(layer, sg)
        assert abs(seen.value - exact) < 4 * seen.error + 1e-12


def test_all_shapes_are_ranked_and_balanced() -> None:
    layer = layer_of(
        NeuronSpec(decay=0.0, reset_gradient=False),
        noise(1, 200, 100, mean=-2.0),
        Surrogate(),
        noise(1, 200, 100, seed=1),
    )
    ranked = rank_shapes(layer, gain=0.05)
    assert {row.surrogate.shape for row in ranked} == set(SHAPES)
    for row in ranked:
        assert pass_gain(layer, row.surrogate).value == pytest.approx(0.05, rel=1e-3)
    scores = [row.sensitivity for row in ranked]
    assert scores == sorted(scores)
    order = [row.surrogate.shape for row in ranked]
    # Far from the threshold fat tails see what compact shapes do not.
    assert order.index("fast_sigmoid") < order.index("triangular")
    assert order[-1] in ("rectangular", "gaussian", "triangular")


def test_choice_narrow_wide_or_none() -> None:
    spec = NeuronSpec(decay=0.5, reset_gradient=False)
    current, grad = noise(4, 100, 40), noise(4, 100, 40, seed=1)

    def chosen(width: float) -> Any:
        layer = layer_of(spec, current, Surrogate("triangular", 1.0, width), grad)
        return choose_surrogate(layer, rank_shapes(layer, None), None, 0.0, False), layer

    narrow, layer = chosen(0.01)
    assert narrow.surrogate.width == pytest.approx(spread_of(layer).value)
    assert narrow.surrogate.area == pytest.approx(1.0)
    assert "reaches" in narrow.because
    assert "times as wide" in chosen(20.0)[0].because
    assert chosen(1.0)[0].surrogate is None


def test_narrowing_that_would_lose_the_layer_is_not_proposed() -> None:
    # All of u lies seven spreads below: a width from the spread of u would reach nothing.
    layer = layer_of(NeuronSpec(decay=0.0), noise(1, 100, 40, mean=-6.0), Surrogate(
        "rectangular", 1.0, 20.0), noise(1, 100, 40, seed=1))  # fmt: skip
    assert width_verdict(layer, layer.surrogate, 2.3) == "wide"  # type: ignore[arg-type]
    assert choose_surrogate(layer, rank_shapes(layer, None), None, 0.0, False).surrogate is None


def test_recurrent_peaks_are_lowered_never_raised() -> None:
    spec = NeuronSpec(decay=0.9, reset_gradient=False)
    layer = layer_of(spec, noise(60, 30, 40, std=0.5), Surrogate("exponential", 1.0, 0.6))
    fades = choose_surrogate(layer, [], None, 1e-3, False)
    assert fades.surrogate is None
    grows = choose_surrogate(layer, [], None, 9.0, False)
    assert grows.surrogate is not None
    assert grows.surrogate.peak < 1.0
    from spikescope.analysis.layer_figures import growth_of

    steady = growth_of(replace(layer, surrogate=grows.surrogate), 9.0)
    assert steady is not None
    assert steady.chi == pytest.approx(1.0, abs=1e-3)


def test_a_veto_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(NeuronSpec(), noise(4, 50, 20), Surrogate("triangular", 1.0, 0.01))
    assert choose_surrogate(layer, [], None, 0.0, False).surrogate is not None
    monkeypatch.setitem(recommend_layer.VETOED, "surrogate", "the study says so")
    vetoed = choose_surrogate(layer, [], None, 0.0, False)
    assert (vetoed.surrogate, vetoed.blocked) == (None, "the study says so")


# Depth.


def stack(gains: list[float]) -> list[LayerRecord]:
    """Return layers whose gradients shrink by known factors from the last to the first."""
    spec = NeuronSpec(decay=0.0, reset_gradient=False)
    sg = Surrogate("rectangular", 1.0, 1e6)  # passes everything
    scale, layers = 1.0, []
    for place, gain in enumerate([*gains, 1.0][::-1]):
        scale *= math.sqrt(gain)
        grad = scale * noise(2, 100, 30, seed=place)
        layers.append(layer_of(spec, noise(2, 100, 30), sg, grad))
    return layers[::-1]


def test_unbalanced_depth_names_the_layers_to_blame() -> None:
    none = [False] * 4
    assert unbalanced(stack([0.5, 0.5, 0.5]), none) == [False] * 4
    assert unbalanced(stack([1e-4, 1.0, 0.2]), none) == [True, False, True, False]
    assert unbalanced(stack([1e4, 1.0, 1.0]), none) == [True, False, False, False]
    # Losses that are mended anyway do not count.
    assert unbalanced(stack([1e-4, 1.0, 1.0]), [True, False, False, False]) == [False] * 4
    lower, upper = stack([0.01])
    gain = wanted_gain(lower, upper)
    assert gain == pytest.approx(100.0, rel=0.2)


# Start.


def test_start_is_the_settled_mean_and_removes_the_shift() -> None:
    spec = NeuronSpec(decay=0.9, reset="none")
    layer = layer_of(spec, noise(6, 200, 30, mean=0.3, std=0.1))
    found = solve_start(layer)
    assert found is not None
    # Five cycles of six steps in all; the last one begins after 24 of them.
    exact = 3.0 * (1.0 - 0.9 ** (6 * 5))
    assert found.start == pytest.approx(exact, abs=4 * 0.1 / math.sqrt(1 - 0.81) / math.sqrt(6000))
    assert found.before == pytest.approx(0.9 * 3.0 * (1 - 0.9**24), rel=0.01)
    assert found.helps(1.0)
    assert not found.helps(100.0)  # a shift that is small against the threshold
    assert solve_start(layer_of(spec, noise(1, 20, 5))) is None
    assert solve_start(layer_of(NeuronSpec(decay=0.0), noise(4, 20, 5))) is None


def test_no_start_where_the_layer_fires_nearly_periodically() -> None:
    # Strong steady drive, little noise: fires every second timestep, the law turns.
    spec = NeuronSpec(decay=0.9, threshold=1.0)
    layer = layer_of(spec, noise(8, 100, 20, mean=0.55, std=0.02))
    assert settled(layer).rings
    found = solve_start(layer)
    assert found is not None
    assert not found.helps(1.0)
    good = StartSolution(0.5, before=1.0, after=0.1, removed=0.9, rings=False)
    assert good.helps(1.0)
    assert not replace(good, rings=True).helps(1.0)
    calm = layer_of(spec, noise(8, 100, 20, mean=0.0, std=0.5))
    assert not settled(calm).rings


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_fixed_share(share: float) -> None:
    fixed, fresh = noise(1, 400, 50, seed=1), noise(10, 400, 50, seed=2)
    mixed = math.sqrt(share) * fixed + math.sqrt(1 - share) * fresh
    assert fixed_share(mixed) == pytest.approx(share, abs=0.02)


def test_settled_rate_is_that_of_a_long_simulation() -> None:
    spec = NeuronSpec(decay=0.5, threshold=1.0)
    layer = layer_of(spec, noise(60, 100, 100, std=0.8))
    found = settled(layer)
    assert found is not None
    late = mean_of(layer, layer.spikes[20:])
    assert abs(found.rate - late.value) < 4 * late.error + 2e-4
    assert settled(layer_of(spec, np.zeros((4, 5, 6)))) is None


# Error bars, words.


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = noise(1, 50, 1)[0, :, 0]
    found = jackknife(lambda mean: mean, values)
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert math.isnan(jackknife(lambda mean: mean, values[:1]).error)


def test_units_that_were_left_out_widen_the_error() -> None:
    # Units differ, samples hardly do: what is not known is which units were drawn.
    values = noise(1, 1, 400, seed=1) + noise(1, 50, 400, std=0.01)
    layer = layer_of(NeuronSpec(decay=0.0), values)
    whole = mean_of(layer, values)
    drawn = mean_of(replace(layer, share=0.25), values)
    expected = math.sqrt(0.75) * values.mean((0, 1)).std(ddof=1) / math.sqrt(400)
    assert drawn.error == pytest.approx(math.hypot(whole.error, expected), rel=1e-6)
    assert whole.error < 0.1 * drawn.error


def test_participation_counts_who_carries() -> None:
    layer = layer_of(NeuronSpec(decay=0.0), noise(1, 200, 50))
    half = float(np.mean(np.abs(layer.z) < 0.5))
    assert participation_of(layer, Surrogate("rectangular")) == pytest.approx(half)


def test_recommendation_refuses_what_contradicts_itself() -> None:
    for bad, text in (
        ({"verdict": "maybe"}, "verdict='maybe' is not one of"),
        ({"verdict": "leave it", "changes": {"start": (0.0, 1.0)}}, "with 1 changes"),
        ({"verdict": "change"}, "with 0 changes"),
        ({"verdict": "change", "changes": {"colour": (0, 1)}}, "field 'colour' is not one of"),
        ({"verdict": "leave it", "parameters": {"glue": ("a",)}}, "role 'glue' is not one of"),
    ):
        with pytest.raises(ValueError, match=text):
            Recommendation("lif", **bad)  # type: ignore[arg-type]


def test_to_dict_is_strict_json() -> None:
    entry = Recommendation(
        "lif",
        "change",
        {"surrogate": (Surrogate(), Surrogate("gaussian")), "start": (0.0, np.array([0.1, 0.2]))},
        predicted={"rate": Predicted(math.nan, math.inf, 0.2, np.float64(0.1))},  # type: ignore[arg-type]
    )
    text = json.dumps(Recommendations([entry]).to_dict(), allow_nan=False)
    held = json.loads(text)["recommendations"][0]
    assert held["changes"]["start"] == [0.0, [0.1, 0.2]]
    assert held["changes"]["surrogate"][1]["shape"] == "gaussian"
    assert held["predicted"]["rate"]["before"] is None


def test_recommendations_by_name_rows_and_table() -> None:
    entry = Recommendation(
        "a", "change", {"threshold": (1.0, 2.0), "start": (0.0, 0.5)},
        predicted={"rate": Predicted(0.0, 0.0, 0.2, 0.1, "spikes")},
    )  # fmt: skip
    both = Recommendations([entry, Recommendation("b", "leave it")])
    assert both["a"] is entry
    assert both[1].layer == "b"
    assert [row["change"] for row in both.rows()] == ["threshold", "start", ""]
    table = both.table()
    assert table.loc[0, ["layer", "quantity", "after"]].tolist() == ["a", "rate", 0.2]
    with pytest.raises(ValueError, match="layer 'c' is not one of a, b"):
        both["c"]
