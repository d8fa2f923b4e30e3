"""A run is read while it grows, says what is torn or missing, and refuses what is no run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import columns, header, row, write_run

from spikescope.data.parts import part_path, part_paths
from spikescope.data.runs import SILENT_SECONDS, RunError, find_runs, open_run
from spikescope.data.schema import COLUMNS, DENSITY_BINS, FORMAT_VERSION, KEYS, STORED
from spikescope.data.schema import density_edges as edges_of
from spikescope.data.store import RunStore

# ---- reading


def test_a_run_is_read_back_in_network_order(tmp_path: Path) -> None:
    names = ["z.first", "a.second", "m.third"]
    store = RunStore(tmp_path / "run", header(names))
    written = [
        row(step, name, t, mode=mode, mean=0.1 * t)
        for step in (10, 0)
        for mode in ("train", "eval")
        for name in reversed(names)
        for t in (2, 1)
    ]
    for entry in written:
        store.append("records", columns([entry]))
    table = open_run(store.path).table()
    assert list(table.columns) == [name for name in COLUMNS if name != "density"]
    keys = [tuple(key) for key in table[list(KEYS)].to_numpy()]
    assert keys == [
        (step, mode, name, t)
        for step in (0, 10)
        for mode in ("eval", "train")
        for name in names
        for t in (1, 2)
    ]
    by_key = {tuple(entry[name] for name in KEYS): entry for entry in written}
    for _, got in table.iterrows():
        want = by_key[tuple(got[name] for name in KEYS)]
        assert all(got[name] == want[name] for name in STORED if name != "density")
    assert (table["rate"] == table["spikes"] / table["count"]).all()


def test_a_table_is_cut_by_layer_mode_step_and_column(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", layers=2, timesteps=3))
    table = run.table(["rate", "u_mean"], layer="block1.lif", mode="train", since=100)
    assert list(table.columns) == [*KEYS, "rate", "u_mean"]
    assert set(table["layer"]) == {"block1.lif"}
    assert sorted(set(table["step"])) == [100, 150]
    assert len(table) == 6
    whole = run.table()
    assert run.table(mode="eval").empty
    kept = whole[(whole["layer"] == "block1.lif") & (whole["step"] >= 100)]
    assert np.array_equal(table["rate"], kept["rate"])


def test_an_unknown_layer_column_or_mode_is_one_clear_line(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", layers=2))
    for call, wrong, right in (
        (lambda: run.table(layer="nope"), "'nope'", "'block0.lif', 'block1.lif'"),
        (lambda: run.density("nope"), "'nope'", "'block0.lif', 'block1.lif'"),
        (lambda: run.layer("nope"), "'nope'", "'block0.lif', 'block1.lif'"),
        (lambda: run.table(["rate", "rat"]), "'rat'", "rate"),
        (lambda: run.table(["density"]), "'density'", r"run.density\(layer\)"),
        (lambda: run.table(mode="test"), "'test'", "train, eval"),
        (lambda: run.density("block0.lif", mode="test"), "'test'", "train, eval"),
    ):
        with pytest.raises(RunError, match=f"{wrong}.*{right}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert run.layer("block1.lif").scale == 1.0  # and a right name is no error


def test_a_run_without_parts_has_empty_tables(tmp_path: Path) -> None:
    run = open_run(RunStore(tmp_path / "run", header(["a"])).path)
    filled = open_run(write_run(tmp_path / "filled", layers=["a"], timesteps=2))
    for empty, full in (
        (run.table(), filled.table()),
        (run.table(["rate"]), filled.table(["rate"])),
    ):
        assert len(empty) == 0
        assert list(empty.columns) == list(full.columns)
    density = run.density("a")
    assert density.counts.shape == (0, 0, DENSITY_BINS)
    assert len(density.edges) == DENSITY_BINS + 1
    assert run.scalars().empty
    assert list(run.events().columns) == ["step", "layer", "kind", "text"]
    assert run.problems == []


def test_densities_of_different_range_are_brought_to_the_widest(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    store = RunStore(tmp_path / "run", header(["a"]))
    values: dict[tuple[int, int], np.ndarray] = {}
    for step in (0, 5):
        for t, spread in ((1, 0.3), (2, 1.5 + step)):
            if (step, t) == (5, 1):
                continue  # not recorded: all zero
            z = rng.uniform(-spread, spread, 500)
            exponent = max(0, int(np.ceil(np.log2(np.abs(z).max() / 2))))
            counts = np.histogram(z, edges_of(exponent))[0]
            entry = row(step, "a", t) | {"density": counts, "density_exponent": exponent}
            values[step, t] = z
            store.append("records", columns([entry]))
    density = open_run(store.path).density("a")
    assert density.steps.tolist() == [0, 5]
    assert density.t.tolist() == [1, 2]
    assert density.edges[-1] == 8.0
    for (step, t), z in values.items():
        place = density.steps.tolist().index(step), t - 1
        assert np.array_equal(density.counts[place], np.histogram(z, density.edges)[0])
    assert density.counts[1, 0].sum() == 0
    assert open_run(store.path).density("a", steps=[0]).edges[-1] == 2.0
    assert open_run(store.path).density("a", mode="eval").counts.size == 0


def test_scalars_are_wide_and_keep_what_is_not_a_number(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["a"]))
    store.append(
        "scalars",
        {
            "step": [2, 0, 0, 1, 3, 3],
            "name": ["loss", "loss", "accuracy", "loss", "loss", "loss"],
            "value": [np.nan, 2.5, 0.1, np.inf, 1.0, np.nan],
        },
    )
    store.append("scalars", {"step": [0], "name": ["loss"], "value": [2.25]})
    scalars = open_run(store.path).scalars()
    expected = pd.DataFrame(
        {"accuracy": [0.1, np.nan, np.nan, np.nan], "loss": [2.25, np.inf, np.nan, np.nan]},
        index=pd.Index([0, 1, 2, 3], name="step"),
    )
    pd.testing.assert_frame_equal(scalars, expected)  # the later value of a step counts


HOSTILE = [
    "../../etc/passwd",
    "θ·слой·层 😀",
    "a\"b'c\\d\n\t<script>alert(1)</script>",
    "a=b/c,d;{e}",
    "",
    " ",
    "\u202ertl\u0000nul",
    "nan",
    "x" * 5000,
]


def test_hostile_layer_names_come_back_as_they_were(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run θ=1", layers=HOSTILE, timesteps=1, steps=range(1))
    run = open_run(path)
    assert [layer.name for layer in run.layers] == HOSTILE
    assert run.table()["layer"].tolist() == HOSTILE
    for name in HOSTILE:
        assert len(run.table(layer=name)) == 1
        assert run.density(name).counts.sum() == 6400
    assert sorted(tmp_path.iterdir()) == [path]


# ---- torn parts


def test_torn_parts_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=2, timesteps=2, steps=range(0, 250, 50))
    records = part_paths(path, "records")
    whole = [part.read_bytes() for part in records]
    records[0].write_bytes(b"")
    records[1].write_bytes(whole[1][:-100])
    data = whole[3]
    place = data.index(b"\x28\xb5\x2f\xfd") + 12  # inside the first compressed page
    records[3].write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    run = open_run(path)
    assert run.problems == []  # nothing was read yet
    table = run.table()
    assert sorted(set(table["step"])) == [100, 200]
    assert len(table) == 8
    torn = {records[0].name, records[1].name, records[3].name}
    assert {problem.split()[0] for problem in run.problems} == torn
    assert all("left out" in problem and "\n" not in problem for problem in run.problems)
    assert len(run.scalars()) == 5  # other tables are whole
    run.density("block0.lif")
    assert len(run.problems) == 3  # said once


def test_a_run_whose_parts_are_all_torn_is_empty_and_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, steps=range(0, 100, 50))
    for part in part_paths(path, "records"):
        part.write_bytes(b"garbage")
    run = open_run(path)
    assert run.table().empty
    assert len(run.problems) == 2


# ---- growth


def test_every_call_sees_what_was_flushed_so_far(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["a"]))
    run = open_run(store.path)
    for step in range(3):
        store.append("records", columns([row(step, "a", 1)]))
        store.append("scalars", {"step": [step], "name": ["loss"], "value": [1.0]})
        (store.path / f".records-{step + 2:08d}.parquet.1.tmp").write_bytes(b"half")
        assert run.table()["step"].tolist() == list(range(step + 1))
        assert run.density("a").steps.tolist() == list(range(step + 1))
        assert len(run.scalars()) == step + 1
    assert run.problems == []
    assert (run.state, run.end) == ("recording", {})
    store.end("finished", steps=3)
    assert (run.state, run.end["steps"]) == ("finished", 3)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from spikescope.data.store import RunStore
from synthetic import columns, header, row
store = RunStore(Path(sys.argv[1]), header(["a"]))
print(flush=True)
for step in range(60):
    store.append("records", columns([row(step, "a", t) for t in (1, 2, 3)]))
store.end("finished", steps=60)
"""


def test_a_reader_beside_a_writing_process_sees_whole_parts_only(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run = open_run(path)
        lengths = [0]
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            assert run.state in ("recording", "finished", "broken off")
            lengths.append(len(run.table(["count"])))
        assert process.wait(30) == 0
    lengths.append(len(run.table(["count"])))
    assert run.problems == []
    assert lengths == sorted(lengths)
    assert all(length % 3 == 0 for length in lengths)
    assert lengths[-1] == 180
    assert run.state == "finished"


# ---- state


def with_header(path: Path, **changes: Any) -> Path:
    content = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(content | changes))
    return path


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_the_state_says_who_still_writes(tmp_path: Path) -> None:
    finished = write_run(tmp_path / "finished", layers=1, steps=range(1))
    assert open_run(finished).state == "finished"
    mine = write_run(tmp_path / "mine", layers=1, steps=range(1), finish=False)
    assert open_run(mine).state == "recording"
    for pid in (ended_process(), None, "x", 10**40):
        assert open_run(with_header(mine, pid=pid)).state == "broken off"
    failed = RunStore(tmp_path / "failed", header(["a"]))
    failed.end("failed", error="ValueError()")
    assert open_run(failed.path).state == "broken off"
    (finished / "end.json").write_text("{")  # torn: as if it were not there
    assert open_run(finished).state == "recording"


def test_a_run_of_another_host_is_judged_by_its_youngest_file(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, steps=range(1), finish=False)
    with_header(path, host=socket.gethostname() + "-other", pid=ended_process())
    run = open_run(path)
    assert run.state == "recording"
    past = time.time() - SILENT_SECONDS - 60
    for file in path.iterdir():
        os.utime(file, (past, past))
    assert run.state == "broken off"
    assert run.last_written == pytest.approx(past, abs=1)
    (path / ".records-00000009.parquet.1.tmp").symlink_to("gone")  # renamed while we looked
    assert run.last_written == pytest.approx(past, abs=1)


# ---- what is no run


def refused(path: Path, *words: str) -> None:
    with pytest.raises(RunError) as caught:
        open_run(path)
    text = str(caught.value)
    assert repr(str(path)) in text
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "no" / "such", "does not exist")
    refused(tmp_path, "no run", "run.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no run")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"format": 1',
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"format": "1"}',
        b'{"format": null}',
        b'{"format": 1, "layers": 5}',
        b'{"format": 1, "layers": [{"kind": "LIF"}]}',
        b'{"format": 1, "layers": ["lif"]}',
        b'{"format": 1, "layers": null}',
    ],
)
def test_a_damaged_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    refused(tmp_path, "damaged", "run.json")


def test_a_newer_format_is_refused_and_todays_is_not(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, steps=range(1))
    with_header(path, format=FORMAT_VERSION + 1)
    refused(path, f"format {FORMAT_VERSION + 1}", f"up to {FORMAT_VERSION}", "upgrade")
    with_header(path, format=FORMAT_VERSION, note="unknown keys are ignored")
    assert len(open_run(path).table()) == 6


def test_what_a_newer_writer_says_of_a_layer_is_ignored(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", layers=1, steps=range(1))
    with_header(
        path, layers=[{"name": "block0.lif", "colour": "red"}, {"name": "off", "covered": False}]
    )
    run = open_run(path)
    assert [layer.name for layer in run.layers] == ["block0.lif", "off"]
    assert [layer.name for layer in run.covered] == ["block0.lif"]


# ---- finding runs


def test_runs_are_found_by_name_and_links_out_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    a = write_run(root / "a", layers=1, steps=range(1))
    b = write_run(root / "b", layers=1, steps=range(1))
    write_run(outside, layers=1, steps=range(1))
    (root / "empty").mkdir()
    (root / "note.txt").write_text("")
    (root / "out").symlink_to(outside)
    assert find_runs(root) == [a, b]
    assert find_runs(a) == [a]
    assert find_runs(outside) == [outside]  # named itself, it is one
    (tmp_path / "link").symlink_to(root)
    assert [path.name for path in find_runs(tmp_path / "link")] == ["a", "b"]


def test_a_missing_root_is_one_clear_line(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", part_path(tmp_path, "records", 1)):
        with pytest.raises(RunError, match="does not exist") as caught:
            find_runs(wrong)
        assert repr(str(wrong)) in str(caught.value)
