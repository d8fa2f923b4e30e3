"""Runs read piece by piece: the same numbers as the whole run, little of it touched and kept."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from synthetic import columns, header, row, write_run

from spikescope.dashboard import lazy as lazy_module
from spikescope.dashboard import part_index
from spikescope.dashboard.catalogue import Catalogue
from spikescope.dashboard.lazy import LazyRun, lazy
from spikescope.dashboard.quantiles import QUANTILES
from spikescope.data.compaction import keep_within
from spikescope.data.parts import part_path, part_paths, part_steps, read_part, write_part
from spikescope.data.runs import RunError, open_run
from spikescope.data.store import RunStore


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lazy") / "run"
    return write_run(folder, layers=3, timesteps=3, steps=range(0, 400, 10))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return what is read from disk: parts with the number of columns."""
    seen: list[tuple[str, int]] = []
    read = lazy_module.read_part

    def note(path: Path, names: list[str] | None = None, steps: Any = None) -> Any:
        seen.append((path.name, len(names or ())))
        return read(path, names, steps)

    monkeypatch.setattr(lazy_module, "read_part", note)
    return seen


def test_steps_and_rows_are_the_run_s(path: Path) -> None:
    run, whole = LazyRun(path), open_run(path)
    table = whole.table()
    np.testing.assert_array_equal(run.steps(), np.unique(table["step"]))
    assert len(run.steps("eval")) == 0
    wanted = table[table["step"] == 130].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.rows_at(130).reset_index(drop=True), wanted)
    assert run.rows_at(131).empty
    assert run.rows_at(130, "eval").empty


@pytest.mark.parametrize(
    "choice",
    [{}, {"layer": "block1.lif"}, {"since": 200, "mode": "train"}, {"columns": ["rate", "t"]}],
)
def test_a_short_run_is_whole(path: Path, choice: dict[str, Any]) -> None:
    plain = open_run(path).table(**choice).reset_index(drop=True)
    pd.testing.assert_frame_equal(LazyRun(path).table(**choice).reset_index(drop=True), plain)


@pytest.mark.parametrize(
    "choice", [{"layer": "gone"}, {"mode": "test"}, {"columns": ["nope"]}, {"columns": ["density"]}]
)
def test_what_the_run_refuses_is_refused(path: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(RunError):
        open_run(path).table(**choice)
    with pytest.raises(RunError):
        LazyRun(path).table(**choice)


@pytest.mark.parametrize("steps", [[130], [0, 390], [7]])
def test_histograms_are_the_run_s(path: Path, steps: list[int]) -> None:
    plain, mine = open_run(path), LazyRun(path)
    one, two = plain.density("block1.lif", steps=steps), mine.density("block1.lif", steps=steps)
    np.testing.assert_array_equal(one.counts, two.counts)
    np.testing.assert_array_equal(one.steps, two.steps)
    np.testing.assert_array_equal(one.edges, two.edges)
    every, lazily = plain.densities(steps=steps), mine.densities(steps=steps)
    assert list(every) == list(lazily)
    for name in every:
        np.testing.assert_array_equal(every[name].counts, lazily[name].counts)


def test_one_step_opens_one_part(path: Path, opened: list[tuple[str, int]]) -> None:
    run = LazyRun(path)
    run.index()
    assert opened == []  # the footers say where the steps are
    run.rows_at(130)
    run.density("block0.lif", steps=[130])
    run.density("block2.lif", steps=[130])
    # One part for the rows, one for the histograms: that which holds the step.
    parts = run.known.parts.parts()
    holding = [path.name for path, held in parts.items() if 130 in held["train"]]
    assert len(holding) == 1
    assert len(parts) > 1
    assert [name for name, _ in opened] == holding * 2
    opened.clear()
    run.rows_at(130)
    run.density("block1.lif", steps=[130])
    assert opened == []


def test_the_youngest_part_is_known_first(path: Path) -> None:
    run = LazyRun(path)
    assert not run.index(patience=0.0)
    assert run.steps_so_far().tolist() == [390]
    assert run.index()
    assert len(run.steps_so_far()) == 40


def test_a_growing_run_is_read_on_from_where_it_was(
    tmp_path: Path, opened: list[tuple[str, int]]
) -> None:
    store = RunStore(tmp_path / "run", header(["net"]))
    store.append("records", columns([row(0, "net", 1)]))
    run = LazyRun(store.path)
    assert run.overall()["step"].tolist() == [0]
    opened.clear()
    store.append("records", columns([row(5, "net", 1)]))
    assert run.overall()["step"].tolist() == [0, 5]
    assert {name for name, _ in opened} == {"records-00000002.parquet"}


def test_a_step_that_gains_rows_is_read_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["net", "late"]))
    store.append("records", columns([row(0, "net", 1)]))
    run = LazyRun(store.path)
    assert run.rows_at(0)["layer"].tolist() == ["net"]
    assert len(run.density("net", steps=[0]).steps) == 1
    store.append("records", columns([row(0, "late", 1)]))
    run.index()
    assert run.rows_at(0)["layer"].tolist() == ["net", "late"]
    assert len(run.density("late", steps=[0]).steps) == 1


def test_a_long_run_is_thinned_and_keeps_its_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_module, "MOST_ROWS", 90)  # 10 steps of 9 rows
    table = LazyRun(path).table()
    steps = table["step"].unique()
    assert len(steps) <= 11
    assert (steps[0], steps[-1]) == (0, 390)
    assert len(np.unique(np.diff(steps[:-1]))) == 1  # evenly spaced
    full = open_run(path).table()
    pd.testing.assert_frame_equal(
        table.reset_index(drop=True), full[full["step"].isin(steps)].reset_index(drop=True)
    )


def test_what_is_kept_is_bounded(path: Path) -> None:
    run = LazyRun(path)
    for step in run.steps():
        run.rows_at(int(step))
        run.density("block0.lif", steps=[int(step)])
        run.once("x", int(step), "train", dict)
    assert len(run.known.frames) == lazy_module.FRAMES
    assert len(run.known.histograms) == lazy_module.HISTOGRAMS
    assert len(run.known.derived) == lazy_module.FRAMES
    run.quantiles("block0.lif")
    assert len(run.known.quantiles) <= lazy_module.MOST_STEPS


def test_quantiles_are_those_of_the_law(path: Path) -> None:
    """The synthetic law is Gaussian with known moments: scipy's quantiles are the oracle."""
    from scipy import stats

    found = LazyRun(path).quantiles("block2.lif")
    assert found.whole
    chosen = found.frame[(found.frame["step"] == 100) & (found.frame["t"] == 2)].iloc[0]
    mean, std = 0.6 * (1 - 0.5**2) - 0.1, 0.44
    wanted = stats.norm.ppf(QUANTILES, mean, std)
    # A bin is 1/64 wide; counts are whole, and the tallest bin takes what rounding lost.
    np.testing.assert_allclose([chosen[str(q)] for q in QUANTILES], wanted, atol=1 / 64)
    assert abs(chosen["0.5"] - stats.norm.ppf(0.6, mean, std)) > 1 / 64


def test_quantiles_of_a_long_run_come_piece_by_piece(path: Path) -> None:
    run = LazyRun(path)
    first = run.quantiles("block0.lif", patience=0.0)
    assert not first.whole
    assert len(first.frame["step"].unique()) == 1
    looks = 1
    while not run.quantiles("block0.lif", patience=0.0).whole:
        looks += 1
        assert looks < 60
    assert len(run.quantiles("block0.lif").frame["step"].unique()) == 40


def test_a_torn_part_is_left_out_and_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, steps=range(0, 3))
    (path / "records-00000002.parquet").write_bytes(b"PAR1 torn")
    run = LazyRun(path)
    assert run.steps().tolist() == [0, 2]
    assert any("records-00000002.parquet" in text for text in run.problems)


def test_lazy_keeps_what_it_read_as_long_as_the_run(path: Path) -> None:
    run = open_run(path)
    assert lazy(run) is lazy(run)
    assert lazy(lazy(run)) is lazy(run)
    assert lazy(open_run(path)) is not lazy(run)


def test_rows_of_other_steps_in_a_part_are_not_read(tmp_path: Path) -> None:
    names = [f"block{k}.lif" for k in range(30)]
    store = RunStore(tmp_path / "run", header(names))
    rows = [row(step, name, t) for step in range(50) for name in names for t in (1, 2)]
    store.append("records", columns(rows))
    (path,) = part_paths(store.path, "records")
    whole = read_part(path)
    one = read_part(path, ["step", "layer", "density"], np.array([49]))
    assert len(rows) // 2 > len(one) >= 60
    mine = pc.equal(one["step"], 49)
    expected = whole.filter(pc.equal(whole["step"], 49))
    assert one.filter(mine)["density"].equals(expected["density"])
    assert len(read_part(path, ["step"], np.array([77]))) == 0
    assert LazyRun(store.path).rows_at(49)["layer"].nunique() == 30


# ---- runs of several ranks


def write_rank(path: Path, rank: int, steps: range, **more: Any) -> None:
    """Write what another process of the same training recorded."""
    folder = path / "ranks" / f"{rank:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, 1):
        rows = [row(step, f"block{k}.lif", t, **more) for k in range(2) for t in (1, 2)]
        write_part(part_path(folder, "records", number), "records", columns(rows))


def test_the_ranks_of_a_run_are_one_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=2, timesteps=2, steps=range(0, 30, 10))
    alone = open_run(path).table()
    write_rank(path, 1, range(0, 30, 10), mean=0.9, samples=32)
    lazily, whole = LazyRun(path), open_run(path)
    table = whole.table()
    pd.testing.assert_frame_equal(lazily.table().reset_index(drop=True), table)
    assert (table["samples"] == alone["samples"] + 32).all()  # not the first rank's alone
    at = lazily.rows_at(10).reset_index(drop=True)
    pd.testing.assert_frame_equal(at, table[table["step"] == 10].reset_index(drop=True))
    one, two = (run.density("block1.lif", steps=[20]) for run in (lazily, whole))
    np.testing.assert_array_equal(one.counts, two.counts)
    # Quantiles are those of the ranks' joint law: interpolated in its summed counts.
    ribbon = lazily.quantiles("block1.lif").frame
    law = two.counts[0, 1]
    below = np.concatenate([[0], np.cumsum(law)]) / law.sum()
    wanted = np.interp(QUANTILES, below, two.edges) + 1.0
    got = ribbon[(ribbon["step"] == 20) & (ribbon["t"] == 2)].iloc[0]
    np.testing.assert_allclose([got[str(q)] for q in QUANTILES], wanted, rtol=1e-12)


def test_a_rank_that_comes_later_is_seen(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=2, timesteps=2, steps=range(0, 20, 10))
    run = LazyRun(path)
    assert run.rows_at(10)["samples"].tolist() == [64] * 4
    assert run.density("block0.lif", steps=[10]).counts.sum() == 2 * 6400
    write_rank(path, 1, range(0, 20, 10))
    run.index()
    assert run.rows_at(10)["samples"].tolist() == [128] * 4
    assert run.density("block0.lif", steps=[10]).counts.sum() == 4 * 6400


# ---- looks from several threads


def test_nobody_waits_for_another_s_long_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LazyRun(path)
    learn, go_on, busy = part_index.part_steps, threading.Event(), threading.Event()

    def slow(part: Path) -> Any:
        if threading.current_thread() is not threading.main_thread():
            busy.set()
            go_on.wait(10)
        return learn(part)

    monkeypatch.setattr(part_index, "part_steps", slow)
    other = threading.Thread(target=run.index)
    other.start()
    busy.wait(10)
    # The other thread sits in the middle of one part; the rest is learnt without it.
    assert not run.index(patience=0.2)
    assert len(run.steps_so_far()) >= 39 - 10
    go_on.set()
    other.join(10)
    assert run.index()
    assert len(run.steps_so_far()) == 40


def test_what_was_read_while_it_changed_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run", layers=2, timesteps=2, steps=range(0, 20, 10))
    run = LazyRun(path)
    read = lazy_module.read_part

    def meanwhile(*asked: Any) -> Any:
        found = read(*asked)
        if not (path / "ranks").exists():
            write_rank(path, 1, range(0, 20, 10))
            run.index()
        return found

    monkeypatch.setattr(lazy_module, "read_part", meanwhile)
    run.rows_at(10)  # the old rows: the others came behind its back
    assert run.rows_at(10)["samples"].tolist() == [128] * 4


# ---- what a footer says


def test_a_footer_that_was_altered_is_not_believed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, timesteps=2, steps=range(0, 30, 10))
    (part, *_) = part_paths(path, "records")
    content = part.read_bytes()
    place = content.rindex(b'{"train": [0')
    part.write_bytes(content[: place + 11] + b"7" + content[place + 12 :])  # step 0 becomes 7
    steps, rows = part_steps(part)
    assert steps["train"].tolist() == [0]  # as the checked columns say
    assert rows == 2


def test_a_part_without_steps_in_its_footer_is_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = write_run(tmp_path / "run", layers=1, timesteps=2, steps=range(0, 30, 10))
    (part, *_) = part_paths(path, "records")
    pq.write_table(
        pq.read_table(part).replace_schema_metadata(None), part, write_page_checksum=True
    )
    assert part_steps(part)[0]["train"].tolist() == [0]
    assert LazyRun(path).steps().tolist() == [0, 10, 20]


def test_merged_records_replace_what_was_read(tmp_path: Path) -> None:
    names = ["block0.lif", "block1.lif"]
    store = RunStore(tmp_path / "run", header(names))
    rows = [row(step, name, t) for step in (0, 10, 20, 30) for name in names for t in (1, 2)]
    store.append("records", columns(rows))
    run = LazyRun(store.path)
    assert run.rows_at(0)["samples"].tolist() == [64] * 4
    assert run.rows_at(20)["samples"].tolist() == [64] * 4
    keep_within(store.path, 1)
    run.index()
    assert run.rows_at(0)["samples"].tolist() == [256] * 4  # one record stands for all four
    assert run.steps().tolist() == [0]
    assert run.rows_at(20).empty


def test_the_catalogue_sees_what_another_rank_writes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=2, timesteps=2, steps=range(0, 20, 10))
    write_rank(path, 1, range(0, 10, 10))
    catalogue = Catalogue(tmp_path)
    assert catalogue.run("run").rows_at(10)["samples"].tolist() == [64] * 4
    assert catalogue.run("run") is catalogue.run("run")
    write_rank(path, 1, range(0, 20, 10))
    assert catalogue.run("run").rows_at(10)["samples"].tolist() == [128] * 4
