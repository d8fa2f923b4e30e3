"""Schedules are plain functions of the step; what they promise holds for every step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikescope.probes.schedule import Every, LogSpaced, as_schedule

SOME_DENSITIES = st.sampled_from([1, 2, 3, 7, 20, 100, 2.5])


@given(n=st.integers(1, 1000), step=st.integers(0, 10**12))
@settings(max_examples=100)
def test_every_records_multiples_only(n: int, step: int) -> None:
    schedule = Every(n)
    assert schedule(step) == (math.gcd(step, n) == n)
    assert schedule(step * n)
    assert schedule(0)
    assert sum(schedule(step + k) for k in range(n)) == 1


@pytest.mark.parametrize("n", [0, -3, 2.0, 2.5, True, None, "4", math.nan])
def test_every_refuses_what_is_no_distance(n: Any) -> None:
    with pytest.raises(ValueError, match=f"every={n!r} is not possible.*whole number") as caught:
        Every(n)
    assert "\n" not in str(caught.value)


@given(per_decade=SOME_DENSITIES, power=st.integers(0, 11))
@settings(max_examples=60)
def test_log_spaced_never_misses_a_power_of_ten(per_decade: float, power: int) -> None:
    if per_decade == int(per_decade):
        assert LogSpaced(per_decade)(10**power)
    assert LogSpaced(per_decade)(0)
    assert not LogSpaced(per_decade)(-1)


@pytest.mark.parametrize("per_decade", [1, 3, 7, 20, 100])
def test_log_spaced_takes_the_whole_numbers_nearest_to_a_geometric_series(per_decade: int) -> None:
    # All rounding in whole numbers: step s is nearest to 10^(k/p) where (2s-1)^p <= 2^p 10^k < ...
    limit = 20_000
    wanted = {0}
    for k in range(math.ceil(per_decade * math.log10(limit)) + 1):
        low, high = 1, limit + 1
        while low < high:  # the least s with (2 s + 1)^p > 2^p 10^k
            middle = (low + high) // 2
            if (2 * middle + 1) ** per_decade > 2**per_decade * 10**k:
                high = middle
            else:
                low = middle + 1
        if low <= limit:
            wanted.add(low)
    schedule = LogSpaced(per_decade)
    assert {step for step in range(limit + 1) if schedule(step)} == wanted


@pytest.mark.parametrize("per_decade", [3, 7, 20])
def test_log_spaced_records_as_many_steps_per_decade_as_it_says(per_decade: int) -> None:
    schedule = LogSpaced(per_decade)
    for low in (100, 1000, 10_000):
        assert sum(schedule(step) for step in range(low, 10 * low)) == per_decade


def test_one_rounded_logarithm_would_lose_steps() -> None:
    # The shortcut that the schedule does not take: cut, not round, and no neighbour tried.
    def cut(step: int) -> bool:
        return math.floor(10 ** (math.floor(3 * math.log10(step)) / 3)) == step

    recorded = [step for step in range(1, 10_001) if LogSpaced(3)(step)]
    assert [step for step in recorded if not cut(step)] != []
    assert not any(cut(step) for step in recorded if step in (5, 22))


def test_log_spaced_is_dense_at_the_start_and_sparse_later() -> None:
    schedule = LogSpaced(20)
    assert all(schedule(step) for step in range(9))
    steps = [step for step in range(100_000) if schedule(step)]
    gaps = [b / a for a, b in itertools.pairwise(steps[30:])]
    assert max(gaps) < 10 ** (1 / 20) * 1.1
    assert len(steps) < 5 * 20


@pytest.mark.parametrize("per_decade", [0, -1, 0.5, math.nan])
def test_log_spaced_refuses_less_than_one_step_per_decade(per_decade: float) -> None:
    with pytest.raises(ValueError, match=f"per_decade={per_decade!r} is not possible"):
        LogSpaced(per_decade)  # type: ignore[arg-type]


def test_watch_takes_a_number_a_schedule_or_any_function() -> None:
    assert as_schedule(3) == Every(3)
    schedule = LogSpaced(5)
    assert as_schedule(schedule) is schedule
    assert as_schedule(lambda step: step in (1, 4))(4)


@pytest.mark.parametrize("every", [0, False, 1.5, "often", None, [1, 2]])
def test_watch_refuses_what_is_no_schedule(every: Any) -> None:
    with pytest.raises(ValueError, match=r"every=.* is not possible") as caught:
        as_schedule(every)
    assert repr(every) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_schedules_name_themselves() -> None:
    assert str(Every(50)) == "every 50 steps"
    assert str(LogSpaced(20)) == "20 steps per decade"
