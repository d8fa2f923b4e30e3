"""Parts are on disk whole or not at all; what was written is what is read."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import columns, header, row

from spikescope.data import parts
from spikescope.data.parts import (
    TABLES,
    PartError,
    part_path,
    part_paths,
    read_part,
    write_json,
    write_part,
)
from spikescope.data.schema import COLUMNS, STORED
from spikescope.data.store import RunStore

SCALARS = {"step": [1, 2, 3], "name": ["loss", "acc", "loss"], "value": [1.5, 2.5, float("nan")]}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- written and read back


def test_records_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for t in range(1, 5):
        entry = row(7, 'a.b "quoted" \u03b8', t, exponent=t)
        for name, column in COLUMNS.items():
            if name in STORED and column.dtype == "float64":
                entry[name] = rng.standard_normal() * 10.0 ** rng.integers(-300, 300)
        rows.append(entry | {"spikes": 2**62 + t, "u_mean": [0.1, np.nan, np.inf, -0.0][t - 1]})
    path = part_path(tmp_path, "records", 1)
    write_part(path, "records", columns(rows))
    table = read_part(path)
    assert table.schema.equals(TABLES["records"])
    for name in STORED:
        got = table[name].to_pylist()
        want = [np.asarray(entry[name]).tolist() for entry in rows]
        assert repr(got) == repr(want), name  # repr tells -0.0 and NaN apart


def test_only_the_wanted_columns_are_read(tmp_path: Path) -> None:
    path = part_path(tmp_path, "records", 1)
    write_part(path, "records", columns([row(0, "a", 1)]))
    assert read_part(path, ["u_mean", "step"]).column_names == ["u_mean", "step"]


def test_a_folder_whose_name_looks_like_a_setting_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "step=9" / "lr=0.1"
    folder.mkdir(parents=True)
    write_part(part_path(folder, "scalars", 1), "scalars", SCALARS)
    assert read_part(part_path(folder, "scalars", 1)).to_pydict()["step"] == [1, 2, 3]
    assert read_part(part_path(folder, "scalars", 1)).schema.equals(TABLES["scalars"])


def test_parts_are_listed_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1):
        write_part(part_path(tmp_path, "scalars", number), "scalars", SCALARS)
    (tmp_path / ".scalars-00000002.parquet.77.tmp").write_bytes(b"half")
    (tmp_path / "scalars-old.parquet").write_bytes(b"not ours")
    numbers = [int(path.stem.rpartition("-")[2]) for path in part_paths(tmp_path, "scalars")]
    assert numbers == [1, 9, 10, 100]
    assert part_paths(tmp_path, "records") == []


def test_columns_of_unequal_length_or_type_write_nothing(tmp_path: Path) -> None:
    for bad in ({"step": [1]}, {"value": ["high", 1.0, 2.0]}):
        with pytest.raises((ValueError, TypeError)):
            write_part(part_path(tmp_path, "scalars", 1), "scalars", SCALARS | bad)
    assert files(tmp_path) == []


# ---- failures in the middle


class Failure(OSError):
    """What the disk says."""


def full_disk(*_: Any, **__: Any) -> Any:
    raise Failure(errno.ENOSPC, "No space left on device")


def half_written(handle: int) -> None:
    os.ftruncate(handle, 40)  # some of it arrived
    full_disk()


BREAKS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "fsync, half of it written": (parts.os, "fsync", half_written),
    "rename": (Path, "replace", full_disk),
    "open": (Path, "open", full_disk),
}


@pytest.mark.parametrize("point", BREAKS)
def test_a_part_is_written_whole_or_not_at_all(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "run", header(["a"]))
    store.append("scalars", SCALARS)
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(*BREAKS[point])
        for _ in range(2):
            with pytest.raises(Failure, match="No space left"):
                store.append("scalars", SCALARS)
        with pytest.raises(Failure, match="No space left"):
            store.end("finished")
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before
    # When there is room again the numbering goes on without a gap.
    store.append("scalars", SCALARS)
    assert files(store.path) == ["run.json", "scalars-00000001.parquet", "scalars-00000002.parquet"]


def test_writing_in_place_would_leave_a_torn_part(tmp_path: Path) -> None:
    # The control: without the temporary file the same failure leaves something behind.
    path = part_path(tmp_path, "scalars", 1)
    with pytest.raises(Failure), path.open("wb") as file:
        file.write(b"x" * 100)
        file.flush()
        half_written(file.fileno())
    assert files(tmp_path) == [path.name]
    with pytest.raises(PartError):
        read_part(path)


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_part(part_path(tmp_path, "scalars", 1), "scalars", SCALARS)
    assert files(tmp_path) == []


def test_content_reaches_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(parts.os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: calls.append("rename") or replace(self, to)
    )
    write_part(part_path(tmp_path, "scalars", 1), "scalars", SCALARS)
    assert calls == ["fsync", "rename", "fsync"]  # the file, its name, the folder


# ---- torn and altered parts


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = part_path(tmp_path, "scalars", 1)
    write_part(path, "scalars", SCALARS)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 17), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(PartError, match=f"{path.name} cannot be read and is left out: ") as e:
            read_part(path)
        assert "\n" not in str(e.value)
    path.write_bytes(whole)
    assert read_part(path).num_rows == 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 500, b"PAR1" * 200, b"hello" * 99])
def test_what_is_no_part_is_refused(content: bytes, tmp_path: Path) -> None:
    path = part_path(tmp_path, "scalars", 1)
    path.write_bytes(content)
    with pytest.raises(PartError, match=f"{path.name} cannot be read"):
        read_part(path)


def test_no_altered_byte_alters_what_is_read(tmp_path: Path) -> None:
    path = part_path(tmp_path, "scalars", 1)
    write_part(path, "scalars", SCALARS | {"value": [1.5, 2.5, 3.5]})
    whole, truth = path.read_bytes(), read_part(path)
    noticed = 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            table = read_part(path)
        except PartError:
            noticed += 1
        else:
            # Statistics, offsets nobody reads and the writer's name carry no data.
            assert table.equals(truth), place
    assert noticed > len(whole) / 2


def test_without_the_checksums_an_altered_value_would_pass(tmp_path: Path) -> None:
    path = part_path(tmp_path, "scalars", 1)
    value = 1234.5678
    table = parts.pa.table({"value": [value] * 2})
    parts.pq.write_table(table, path, compression="none", use_dictionary=False)
    whole = path.read_bytes()
    place = whole.rindex(np.float64(value).tobytes(), 0, whole.index(b"value"))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert parts.pq.read_table(path)["value"].to_pylist() != [value] * 2


# ---- the folder


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "run"
    first, second, third = (RunStore(wanted, header(["a"], number=k)) for k in range(3))
    assert [store.path.name for store in (first, second, third)] == ["run", "run-2", "run-3"]
    for number, store in enumerate((first, second, third)):
        content = json.loads((store.path / "run.json").read_text())
        assert (content["number"], content["name"]) == (number, store.path.name)
        assert content["pid"] == os.getpid()


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run-3").symlink_to(tmp_path / "nowhere")
    assert RunStore(tmp_path / "run", {}).path == tmp_path / "run-4"
    assert (tmp_path / "run").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        RunStore(tmp_path / "file" / "run", {})


def test_json_holds_null_for_what_it_has_no_number_for(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": float("inf"), "b": [1.5, {"c": float("nan")}], "d": "θ 😀", "e": (2,)})
    refuse = pytest.fail
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"a": None, "b": [1.5, {"c": None}], "d": "θ 😀", "e": [2]}
    assert "NaN" in json.dumps({"c": float("nan")})  # what json alone would write
