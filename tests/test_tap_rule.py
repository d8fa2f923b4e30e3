"""What a surrogate's calls tell about its threshold, and what they leave open."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikescope.probes.tap_rule import (
    HIDDEN,
    FiringRule,
    Gap,
    NoSpike,
    Refused,
    argument_of,
    height_of,
    height_place,
)

X = torch.linspace(-2.0, 2.0, 401, dtype=torch.float64) * 1.0001 + 1.37e-3


def looked(*calls: tuple[tuple[Any, ...], Tensor]) -> FiringRule:
    rule = FiringRule(0)
    for inputs, output in calls:
        rule.look(inputs, output)
    return rule


def step(x: Tensor, threshold: Any = 0.0) -> Tensor:
    return (x >= threshold).to(x.dtype)


def test_an_argument_that_fires_at_zero_is_u_minus_threshold() -> None:
    assert looked(((X,), step(X))).place == 0
    assert looked(((X, 1.0), step(X))).place == 0  # the 1.0 is a width, not the threshold


@pytest.mark.parametrize("threshold", [0.7, torch.tensor(0.7), torch.full((401,), 0.7)], ids=str)
def test_a_threshold_among_the_arguments(threshold: Any) -> None:
    assert looked(((X, 1.3, threshold), step(X, threshold))).place == 2


def test_a_number_inside_the_function() -> None:
    rule = FiringRule(0)
    silent, firing = rule.look((X, 1.0), step(X, 0.35))
    assert rule.place == HIDDEN
    assert Gap(silent, firing).number(0.05) == 0.35


def test_nothing_is_decided_without_evidence() -> None:
    low = X[X < 0]
    assert looked(((low,), step(low))).place is None  # nothing fired
    whole = X.round()
    assert looked(((whole,), step(whole))).place is None  # whole numbers are no potentials
    apart = torch.tensor([-1.1, -0.9, 1.2, 1.3])
    assert looked(((apart,), step(apart))).place is None  # 0 is as good as 0.5
    both = X[(X < 0) | (X > 1)]
    assert looked(((both, 1.0), step(both))).place is None  # 0 and 1 are told apart by nothing
    assert looked(((both, 1.0), step(both)), ((X, 1.0), step(X))).place == 0


def test_rivals_are_told_apart_when_they_differ() -> None:
    rule = looked(((X, 1.0, 1.0), step(X, 1.0)))
    assert rule.place == 1  # both are 1: the record is right with either
    assert not rule.unsettled((X, 1.0, 1.0))
    later = (X, 0.8, 1.2)
    assert rule.unsettled(later)
    rule.look(later, step(X, 1.2))
    assert rule.place == 2
    assert not rule.unsettled((X, 0.7, 1.3))


def test_what_is_no_spike() -> None:
    for output in (X * 0.5, X.clamp(min=0.0), X.sign(), torch.where(X > 0, 1.0, -1.0)):
        with pytest.raises(NoSpike):
            looked(((X,), output))


def test_several_heights_are_refused() -> None:
    with pytest.raises(Refused, match="several heights"):
        looked(((X,), X.clamp(min=0.0).floor()))
    heights = torch.tensor([0.5, 1.5], dtype=X.dtype)
    u = X[:400].view(200, 2)
    assert looked(((u, heights), step(u, heights) * heights)).place == 1  # one for each unit
    assert height_place((u, heights), step(u, heights) * heights) == 1


def test_which_argument_fires() -> None:
    assert argument_of((X, 1.0), step(X)) == 0
    assert argument_of((torch.tensor(1.0), X), step(X)) == 1
    assert argument_of((nn.Parameter(X),), step(X)) is None  # a weight that is binarised
    assert argument_of((X[:3],), step(X)) is None
    assert argument_of((X,), step(X).long()) is None
    assert argument_of((X,), (step(X), X)) is None


def test_height_of_a_silent_call_is_the_usual_one() -> None:
    assert float(height_of(0.8 * step(X), 1.0)) == pytest.approx(0.8)
    assert float(height_of(torch.zeros(3), 0.8)) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("gap", "share", "number"),
    [
        (Gap(0.9987, 1.0013), 0.01, 1.0),
        (Gap(0.4, 0.6), 0.01, None),
        (Gap(14.99, 15.02), 0.01, 15.0),
        (Gap(-0.0512, -0.0497), 0.1, -0.05),
        (Gap(), 1.0, None),
        (Gap(1.0, 0.5), 1.0, None),
        (Gap(-1.0, 1.0), 1.0, None),
    ],
)
def test_the_plainest_number_in_a_gap(gap: Gap, share: float, number: float | None) -> None:
    assert gap.number(share) == number
