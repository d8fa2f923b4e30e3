"""What parts become: few, of bounded size, a run of them at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import columns, header, row

from spikescope.data import appending, compaction
from spikescope.data.arrays import joined
from spikescope.data.compaction import TOGETHER, compact, keep_within, size_of
from spikescope.data.parts import part_path, part_paths, read_part, write_part
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

ROW = row(0, "a", 1)
VALUES = len(ROW) - 1 + 256
"""Numbers in a row."""


def write(folder: Path, number: int, steps: list[int]) -> None:
    write_part(
        part_path(folder, "records", number),
        "records",
        columns([ROW | {"step": step} for step in steps]),
    )


def names(folder: Path) -> list[str]:
    return [path.stem.removeprefix("records-") for path in part_paths(folder, "records")]


def steps(folder: Path) -> list[int]:
    return [
        step for p in part_paths(folder, "records") for step in read_part(p)["step"].to_pylist()
    ]


def test_a_part_made_of_others_is_bounded_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 8):
        write(tmp_path, number, [number])
    monkeypatch.setattr(compaction, "LARGEST_VALUES", 3 * VALUES)
    # Three rows fill a part. That is fewer than it takes else, but it cannot become more.
    assert compact(tmp_path, "records", together=100) == 6
    assert names(tmp_path) == ["00000001-00000003", "00000004-00000006", "00000007"]
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert compact(tmp_path, "records", together=100) == 0  # and it stays so
    monkeypatch.setattr(compaction, "LARGEST_VALUES", 1)
    write(tmp_path, 8, [8])
    assert compact(tmp_path, "records", together=2) == 0


def test_a_part_made_of_others_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path, number, [number])
    size = part_paths(tmp_path, "records")[0].stat().st_size
    assert compact(tmp_path, "records", together=100, largest=int(2.5 * size)) == 4
    assert names(tmp_path) == ["00000001-00000002", "00000003-00000004", "00000005"]


def test_one_run_of_parts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LARGEST_VALUES", 4 * VALUES)
    for number in range(1, 10):
        write(tmp_path, number, [number])
    assert compact(tmp_path, "records", together=4, runs=1) == 4
    assert names(tmp_path)[:2] == ["00000001-00000004", "00000005"]
    assert compact(tmp_path, "records", together=4) == 4
    assert names(tmp_path) == ["00000001-00000004", "00000005-00000008", "00000009"]


def test_a_writer_does_a_little_at_each_part_until_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LARGEST_VALUES", 8 * VALUES)
    monkeypatch.setattr(appending, "TOGETHER", 16)
    run = RunStore(tmp_path / "run", header(["a"]))
    counts = []
    for step in range(20):
        run.append("records", columns([ROW | {"step": step}]))
        counts.append(len(part_paths(run.path, "records")))
    # The 16th part fills two runs: one is made then, one with the next part.
    assert counts == [*range(1, 16), 9, 3, 4, 5, 6]
    assert open_run(run.path).table(["count"])["step"].tolist() == list(range(20))
    assert TOGETHER == 32


def test_room_is_kept_for_the_next_part(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(1, 17):
        rows = [
            ROW | {"step": 60 * number + k, "density": random.integers(0, 10**9, 256)}
            for k in range(60)
        ]
        write_part(part_path(tmp_path, "records", number), "records", columns(rows))
    most = size_of(tmp_path)
    fits, merges = keep_within(tmp_path, most)
    assert fits
    assert merges > 0  # it would fit as it is, but for the room
    assert most * 5 / 8 < size_of(tmp_path) <= most * 7 / 8
    assert keep_within(tmp_path, most) == (True, 0)
    assert keep_within(tmp_path, most, spare=most // 4)[0]
    assert most / 2 < size_of(tmp_path) <= most * 5 / 8
    assert keep_within(tmp_path, most, spare=most)[0]  # half of it is for records at least
    assert size_of(tmp_path) > most / 4


def test_columns_of_every_kind_are_put_together() -> None:
    chunks: list[dict[str, Any]] = [
        {"step": np.array([1, 2]), "t": np.array([1, 1]), "counts": np.arange(6).reshape(2, 3)},
        {"step": [3], "t": [2], "counts": [[7, 8]]},
    ]
    chunks[0] |= {"mode": ["train"] * 2, "layer": ["a", "b"]}
    chunks[1] |= {"mode": ["eval"], "layer": ["a"]}
    found = {name: values.to_pylist() for name, values in joined("joints", chunks).items()}
    assert found == {
        "step": [1, 2, 3],
        "mode": ["train", "train", "eval"],
        "layer": ["a", "b", "a"],
        "t": [1, 1, 2],
        "counts": [[0, 1, 2], [3, 4, 5], [7, 8]],
    }
    flat = joined("joints", chunks[:1])["counts"]
    assert flat.to_pylist() == [[0, 1, 2], [3, 4, 5]]
    assert flat.type.value_type == "int64"


def test_records_become_coarser_with_age_and_none_much_more_than_its_neighbours(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    run = RunStore(tmp_path / "run", header(["a"]), max_bytes=400_000)
    for part in range(200):
        rows = [
            ROW | {"step": 10 * part + k, "density": random.integers(0, 1000, 256)}
            for k in range(10)
        ]
        run.append("records", columns(rows))
    paths = part_paths(run.path, "records")
    levels = [compaction.times_merged(path) for path in paths]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert 2 <= levels[0] <= 8  # 2,000 steps: nothing has become one record of a thousand
    kept = np.unique(steps(run.path))
    assert np.diff(kept).max() == 2 ** levels[0]
    assert size_of(run.path) > 400_000 / 3  # the room is used
