"""A budget is kept: what recording costs is seen, in our code and outside it, and nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import seeded
from torch import nn

import spikescope
from spikescope.probes import hooks, pace, recorder, session, writer
from spikescope.probes.budget import HOST, Clock, Cost
from spikescope.probes.budget_device import DeviceCost
from spikescope.probes.lif import LIF
from spikescope.probes.pace import Pace
from spikescope.probes.schedule import LogSpaced


class Training:
    """A training on clocks of its own.

    Args:
        inside: seconds that a recorded step takes in the probe's own code.
        outside: seconds of work that it takes more elsewhere.
        after: seconds of work that each of the next two steps takes more.
        idle: seconds in the probe's own code in every step.
        load: by which factor the machine's other work slows everything.
        waits: seconds of each step in which the training does not work.
        beside: seconds that the writer works on a record.
        late: seconds until a device has told what a step took.
    """

    def __init__(
        self,
        budget: float | None,
        inside: float = 0.0,
        outside: float = 0.0,
        after: float = 0.0,
        idle: float = 0.0,
        load: float = 1.0,
        waits: float = 0.0,
        beside: float = 0.0,
        late: float | None = None,
    ) -> None:
        self.inside, self.outside, self.after, self.idle = inside, outside, after, idle
        self.load, self.waits, self.beside = load, waits, beside
        self.usual = 1.0
        self.seconds = self.work = self.plain = 0.0
        self.step = 0
        self.recorded: list[int] = []
        clock = Clock(lambda: self.seconds, lambda: self.work)

        def between(start: float, end: float) -> float | None:
            assert late is not None
            return end - start if self.seconds - end >= late else None

        self.cost = Cost(budget, clock)
        if late is not None:
            self.cost = DeviceCost(budget, lambda: self.seconds, between, clock)
        self.pace = Pace(lambda step: True, self.cost)

    def do(self, work: float) -> None:
        self.work += work
        self.seconds += work * self.load

    def train(self, steps: int) -> float:
        """Train; return by which share it was slowed."""
        for _ in range(steps):
            records = self.pace.records(self.step)
            before = self.seconds
            self.do(self.usual)
            self.seconds += self.waits
            self.plain += self.seconds - before
            if records:
                self.recorded.append(self.step)
                self.do(self.outside)
                self.ours(self.inside)
                self.cost.add_beside(self.beside)
                self.seconds += self.beside  # it does not let the training go on
            elif self.recorded and self.step - self.recorded[-1] <= 2:
                self.do(self.after)
            self.ours(self.idle)
            self.cost.end_step(recorded=records)
            self.step += 1
        return self.seconds / max(self.plain, 1.0) - 1.0

    def ours(self, work: float) -> None:
        before = self.seconds, self.work
        self.do(work)
        self.cost.add(self.seconds - before[0], self.work - before[1])


PLACES: list[dict[str, float]] = [
    {"inside": 0.3},
    {"outside": 0.3},
    {"inside": 0.1, "outside": 0.1, "after": 0.05},
    {"inside": 0.2, "beside": 0.1},
    {"inside": 0.2, "outside": 0.1, "idle": 0.005},
    {"inside": 0.2, "outside": 0.1, "load": 2.5},
    {"inside": 0.2, "outside": 0.1, "waits": 1.0},
    {"inside": 0.3, "late": 0.0},
    {"outside": 0.3, "late": 0.0},
    {"outside": 0.3, "late": 3.0},
]


@pytest.mark.parametrize("places", PLACES, ids=str)
@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_the_interval_widens_until_the_budget_is_kept(
    places: dict[str, float], budget: float
) -> None:
    training = Training(budget, **places)
    slowed = training.train(3000)
    one = 0.3 * places.get("load", 1.0) / training.plain
    # A record outside our code is charged as work: where it takes the time of two and a half, by
    # that much less; where a device is late, it is told when the next ones have begun.
    hidden = 0.1 / 0.3 * 0.6 if "load" in places else 0.0
    late = int(places.get("late", 0.0))
    assert slowed <= 1.03 * budget / (1.0 - hidden) + late * one
    assert slowed >= 0.85 * budget - one
    cost = training.cost
    assert cost.recorded == len(training.recorded)
    assert cost.recorded + cost.skipped == 3000
    assert cost.share == pytest.approx(slowed * (1.0 - hidden), rel=0.03, abs=(2 + late) * one)
    assert cost.facts()["skipped"] == cost.skipped
    gaps = np.diff(training.recorded)[10:]  # no two for the price of one, once that is known
    assert budget > 0.02 or gaps.min() >= 0.5 * np.median(gaps)


def test_at_no_time_after_the_first_records_is_more_spent_than_allowed() -> None:
    training = Training(0.02, inside=0.2, outside=0.1, after=0.02)
    for _ in range(4000):
        slowed = training.train(1)
        # The first record is made before anything was earned, and the third tells what one costs.
        assert training.step < 20 or slowed <= (0.022 if len(training.recorded) < 5 else 0.02)
    assert training.recorded[0] == 0
    assert slowed > 0.0195


def test_a_cost_outside_our_code_is_seen_where_it_is_and_only_there() -> None:
    hidden, none = Training(0.02, inside=0.1, outside=0.5), Training(0.02, inside=0.1)
    assert hidden.train(3000) == pytest.approx(0.02, rel=0.15)
    assert none.train(3000) == pytest.approx(0.02, rel=0.15)
    assert len(none.recorded) > 5 * len(hidden.recorded)


def test_load_from_outside_is_not_charged() -> None:
    calm, busy = Training(None, inside=0.1), Training(None, inside=0.1)
    rng = np.random.default_rng(0)
    for step in range(200):
        for training in (calm, busy):
            training.pace._schedule = lambda step: step % 10 == 0
            # The machine gives this step to somebody else for a while.
            training.seconds += 3.0 * rng.random() if training is busy else 0.0
            training.train(1)
        if step == 40:
            assert calm.cost.spent == pytest.approx(busy.cost.spent)
    assert busy.cost.spent == pytest.approx(calm.cost.spent)
    assert busy.cost.share < calm.cost.share
    # By the clock on the wall recorded steps seem to differ from others by chance.
    wall = Training(None, inside=0.1, late=0.0)
    for _ in range(200):
        wall.pace._schedule = lambda step: step % 10 == 0
        wall.seconds += 3.0 * rng.random()
        wall.train(1)
    assert wall.cost.spent > 1.2 * calm.cost.spent


def test_what_is_compared_with_is_not_from_long_ago() -> None:
    training = Training(0.5, inside=0.2, outside=0.1)
    training.train(500)
    training.usual = 1.4
    training.train(100)
    spent, records = training.cost.spent, len(training.recorded)
    training.train(500)
    more = len(training.recorded) - records
    assert more > 250
    assert (training.cost.spent - spent) / more == pytest.approx(0.3, rel=0.03)


def test_the_work_of_a_thread_is_its_own() -> None:
    before = HOST.now()
    time.sleep(0.1)
    other = threading.Thread(target=lambda: sum(range(3_000_000)))
    other.start()
    other.join()
    passed, worked = (b - a for a, b in zip(before, HOST.now(), strict=True))
    assert passed > 0.1
    assert worked < 0.02
    before = HOST.now()
    sum(range(3_000_000))
    assert HOST.work() - before[1] > 0.01


def test_without_a_budget_nothing_is_skipped() -> None:
    training = Training(None, inside=0.3)
    training.train(50)
    assert training.recorded == list(range(50))
    assert (training.cost.skipped, training.cost.share) == (0, pytest.approx(0.3))


def test_with_a_budget_there_is_something_to_compare_with() -> None:
    training = Training(0.9, inside=0.01, outside=2.0)
    training.train(400)
    assert training.recorded[:2] == [0, 4]  # two steps still feel the first record
    assert training.cost.share == pytest.approx(0.9, rel=0.05)


@pytest.mark.parametrize("after", [0, 4, 40])
def test_a_long_evaluation_between_two_steps_is_not_ours(after: int) -> None:
    training = Training(None, inside=0.3)
    training.pace._schedule = lambda step: step % 4 == 0
    training.train(after)
    before, elapsed = training.cost.spent, training.cost.elapsed
    training.do(500.0)
    training.train(1)
    assert training.cost.spent - before == pytest.approx(0.3)
    training.train(3)
    # While nothing is known of other records, as much again as was seen; then it is forgotten.
    assert training.cost.spent - before == pytest.approx({0: 0.6, 4: 0.9, 40: 0.3}[after])
    training.train(7)
    assert training.cost.spent - before == pytest.approx(0.9)
    # And it is no time in which the training went on, either.
    if after == 40:
        assert training.cost.elapsed - elapsed < 9 * 1.3 + 10.0


def test_steps_that_use_up_the_budget_by_themselves_leave_nothing_to_record() -> None:
    training = Training(0.02, inside=0.2, idle=0.03)
    training.train(5000)
    assert training.recorded == [0]
    assert training.cost.share == pytest.approx(0.03, rel=0.02)


def test_the_writer_is_charged_whole_where_it_works_for_longer_than_a_step() -> None:
    cost = Training(None, inside=0.1, beside=7.0)
    cost.pace._schedule = lambda step: step == 0
    cost.train(20)
    assert cost.cost.spent == pytest.approx(7.2, abs=0.11)


# ---- steps that are not recorded


def idle_session(tmp_path: Path, every: Any, **settings: Any) -> tuple[Any, Any]:
    model = net()
    return model, spikescope.watch(model, tmp_path / "run", every=every, **settings)


def net() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 3), LIF()))


@pytest.mark.parametrize("every", [7, LogSpaced(3), lambda step: step % 7 == 0])
@pytest.mark.parametrize("budget", [None, 0.9, 1e-6])
def test_steps_that_are_told_together_are_all_there(
    every: Any, budget: float | None, tmp_path: Path
) -> None:
    model, watched = idle_session(tmp_path, every, budget=budget)
    schedule = every if callable(every) else lambda step: step % every == 0
    with watched as probe:
        seen = [probe.recording]
        for step in range(150):
            if probe.recording:
                model(torch.randn(2, 3, 4)).sum().backward()
            probe.step(loss=torch.tensor(float(step)), other=2.0)
            probe.log(late=step)
            seen.append(probe.recording)
            if step % 40 == 5:
                asked = [k for k in range(step + 2) if schedule(k)]
                assert probe.cost["recorded"] + probe.cost["skipped"] == len(asked)
    run = spikescope.open_run(tmp_path / "run")
    scalars = run.scalars()
    assert (scalars["loss"].dropna() == scalars.loc[scalars["loss"].notna()].index).all()
    asked = [step for step in range(151) if schedule(step)]
    recorded = [step for step, was in enumerate(seen) if was]
    assert run.end["steps"] == 150
    if budget is None:
        assert recorded == asked
    assert set(recorded) <= set(asked)
    assert run.cost["recorded"] == len(recorded)
    assert run.cost["recorded"] + run.cost["skipped"] == len(asked)


def test_most_steps_that_are_not_recorded_only_look_at_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[int] = []
    real = pace.Pace.end_step
    monkeypatch.setattr(
        pace.Pace, "end_step", lambda self, **how: settled.append(1) or real(self, **how)
    )
    model, watched = idle_session(tmp_path, 10**9, budget=0.5)
    with watched as probe:
        model(torch.randn(2, 3, 4)).sum().backward()
        for _ in range(1000):
            probe.step(loss=1.0)
        probe.step()
        cost = probe.cost
    assert 10 < len(settled) < 100
    # Each of them is on the bill.
    assert cost["seconds"] > 1000 * 2e-6


def test_news_of_the_writer_is_heard_at_the_next_step(tmp_path: Path) -> None:
    model, watched = idle_session(tmp_path, 10**9)
    with watched as probe:
        model(torch.randn(2, 3, 4)).sum().backward()
        for _ in range(10):
            probe.step()
        probe._session.outlet._writer.error = OSError("no disk")
        probe._session.outlet.news.append(None)
        with pytest.warns(spikescope.SpikescopeWarning, match="no disk"):
            probe.step()
        assert not probe.active
        probe.step()


# ---- a whole probe


@pytest.mark.parametrize(
    ("place", "price"),
    [("inside", 0.3), ("inside", 3.0), ("arm", 0.3), ("outside", 0.3), ("hook", 0.3)],
)
def test_a_training_is_slowed_by_no_more_than_its_budget(
    place: str, price: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step takes 1 s of this clock, and a recorded one `price` more.
    now = [0.0]
    clock = Clock(lambda: now[0], lambda: now[0])

    def costly(act: Any, price: float = price) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            now[0] += price
            return act(*args, **kwargs)

        return call

    if place == "arm":
        monkeypatch.setattr(recorder.Recorder, "arm", costly(recorder.Recorder.arm))
    elif place != "hook":
        monkeypatch.setattr(recorder.Recorder, "finish", costly(recorder.Recorder.finish))
    if place == "hook":
        real = hooks.LayerHooks._before_call
        monkeypatch.setattr(hooks.LayerHooks, "_before_call", costly(real))
        price *= 2  # there are two layers
    monkeypatch.setattr(writer.Writer, "worked", lambda self: 0.0)
    monkeypatch.setattr(session, "cost_on", lambda device, budget: Cost(budget, clock))
    if place == "outside":
        price *= 2
    steps = 900
    model = net()
    with spikescope.watch(model, tmp_path / "run", every=1, budget=0.02) as probed:
        for step in range(steps):
            if step == steps // 2:
                half = now[0]
                assert spikescope.open_run(tmp_path / "run").state == "recording"
            now[0] += 1.0
            if place == "outside":
                now[0] += price / 2 * probed.recording  # and as much again inside
            model(torch.randn(2, 3, 4)).sum().backward()
            probed.step()
    run = spikescope.open_run(tmp_path / "run")
    recorded = np.unique(run.table(["count"])["step"])
    slowed = (now[0] - half) / (steps / 2) - 1.0
    assert slowed <= 0.02 + price / (steps / 2)
    assert now[0] / steps - 1.0 == pytest.approx(price * len(recorded) / steps)
    assert now[0] / steps - 1.0 <= 0.02 + 1e-3
    # That is one record in price / 0.02 steps, once the first ones are known and paid.
    gaps = np.diff(recorded)[2:]
    assert abs(gaps - price / 0.02).max() <= 0.01 * price / 0.02 + 2.01
    assert run.header["budget"] == 0.02
    assert run.cost == run.end["cost"]
    assert run.cost["recorded"] + run.cost["skipped"] == steps + 1
    assert run.cost["spent"] == pytest.approx(now[0] / steps - 1.0, abs=2e-3)
    (tmp_path / "run" / "end.json").unlink()  # as while it is written: up to the last record
    assert run.cost["recorded"] == len(recorded)
    assert run.cost["budget"] == 0.02


def test_what_is_done_before_the_first_step_is_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = session.Session._open

    def slow(self: Any, found: Any) -> None:
        time.sleep(0.2)
        real(self, found)

    monkeypatch.setattr(session.Session, "_open", slow)
    model, watched = idle_session(tmp_path, 10**9)
    with watched as probe:
        model(torch.randn(2, 3, 4)).sum().backward()
        probe.step()
        assert 0 < probe.cost["seconds"] < 0.15
