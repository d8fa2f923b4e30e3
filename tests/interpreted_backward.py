"""The kernels of the backward pass in Triton's interpreter, run by `test_kernels.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interpreted_cases import (  # noqa: F401
    NARROW,
    SPECS,
    Only,
    agree,
    inside,
    on_a_cpu,
    same,
)

from spikescope.analysis.neuron import NeuronSpec
from spikescope.probes import accumulators, kernels

# The interpreter computes with numpy, which warns where a device does not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("on_a_cpu"),
]


@pytest.mark.parametrize("kind", SPECS)
def test_gradients_of_each_neuron(kind: str) -> None:
    block = agree(inside(kind))
    wrong = inside(kind)
    wrong.spec = NeuronSpec(**SPECS[kind] | {"decay": 0.3})
    with Only("general"):
        other = accumulators.backward_block(wrong)
    with pytest.raises(AssertionError, match=r"residual|grad_s_total"):
        same(block, other, rel=1e-5)


def test_gradients_of_the_last_timesteps() -> None:
    agree(inside("hard", later=False))


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e25])
def test_vanishing_and_exploding_gradients(size: float) -> None:
    block = agree(inside("soft", size=size))
    assert (block["grad_u_square"] > 0).all()
    with np.errstate(over="ignore", under="ignore"):
        naive = inside("soft", size=size).u.square().mean((1, 2))
    assert size > 1e-20 or (naive == 0).all()


@pytest.mark.parametrize("kind", ["soft", "late"])
@pytest.mark.parametrize("handed", ["own", "passed"])
def test_a_potential_that_the_layer_hands_out(kind: str, handed: str) -> None:
    agree(inside(kind, handed=handed))


@pytest.mark.parametrize("shape", ["q_pseudo_spike", "rectangular"])
def test_residuals_of_another_surrogate(shape: str) -> None:
    agree(inside("hard", shape=shape))


def test_without_a_surrogate_there_is_no_residual() -> None:
    assert "residual_square" not in agree(inside("hard", known=False))


def test_a_gradient_that_is_not_finite_is_counted_apart() -> None:
    gradients = inside("soft")
    gradients.like[1, 1, 7], gradients.grad_spikes[0, 0, 3] = torch.nan, torch.inf
    block = agree(gradients)
    assert block["grad_u_nonfinite"].tolist() == [0, 1]
    assert block["grad_s_nonfinite"].tolist() == [1, 0]
    assert block["grad_s_total_nonfinite"].tolist() == [2, 0]
    gradients = inside("soft")
    gradients.like[:, 0] = torch.nan
    assert agree(gradients)["grad_samples"].tolist() == [2, 2]


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_gradients_are_widened_where_they_are_read(kind: str, dtype: str) -> None:
    narrow, wide = inside(kind, handed="own"), inside(kind, handed="own")
    for name in ("like", "grad_spikes", "handed"):
        rounded = getattr(wide, name).to(NARROW[dtype])
        setattr(narrow, name, rounded)
        setattr(wide, name, rounded.float())
    assert kernels.handles_gradients(narrow)
    block = agree(narrow)
    with Only("kernel"):
        want = accumulators.backward_block(wide)
    assert all(torch.equal(block[name], want[name]) for name in want)
    assert narrow.at_first().dtype == torch.float32
    assert torch.equal(narrow.at_first(), wide.at_first())
