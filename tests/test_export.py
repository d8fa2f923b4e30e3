"""Runs taken elsewhere: one HTML file, CSV, Parquet and TensorBoard, with the run's numbers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import columns, header, row, write_run
from typer.testing import CliRunner

from spikescope.cli import app
from spikescope.dashboard.export import export_html
from spikescope.data.event_files import export_tensorboard
from spikescope.data.export import export_tables
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("export") / "run", layers=2, timesteps=3)


def test_html_is_one_file_with_the_figures(path: Path, tmp_path: Path) -> None:
    text = export_html(path, tmp_path / "run.html").read_text(encoding="utf-8")
    for said in ("Gradient coverage, step 150 (train)", "Law of u, step 150 (train)",
                 "Gradient kept, step 150 (train)", "u over training, t = 3 (train)",
                 "Drift of the law, step 150 (train)", "block1.lif"):  # fmt: skip
        assert said in text
    assert text.count("<html") == 1
    # Nothing is fetched: no address of a script, style, picture or font outside the file.
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text)
    assert "default-src 'none'" in text
    assert '"showSendToCloud": false' in text
    with pytest.raises(FileExistsError):
        export_html(path, tmp_path / "run.html")


def test_a_hostile_name_stays_text_in_html(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header([HOSTILE]))
    store.append("records", columns([row(0, HOSTILE, t) for t in (1, 2)]))
    store.end("finished", steps=1)
    text = export_html(store.path, tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<script>alert(2)" not in text
    assert "&lt;img src=x" in text


def test_an_empty_run_is_a_page_too(tmp_path: Path) -> None:
    RunStore(tmp_path / "run", header(["net"])).end("finished", steps=0)
    text = export_html(tmp_path / "run", tmp_path / "run.html").read_text(encoding="utf-8")
    assert "holds no record" in text


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_hold_the_run(path: Path, tmp_path: Path, form: str) -> None:
    run = open_run(path)
    written = export_tables(run, tmp_path / "out", form)
    assert [file.name for file in written] == [
        f"record.{form}", f"density.{form}", f"scalars.{form}", f"events.{form}", "run.json",
    ]  # fmt: skip
    read = pd.read_csv if form == "csv" else pd.read_parquet
    record = read(tmp_path / "out" / f"record.{form}")
    pd.testing.assert_frame_equal(record, run.table(), check_dtype=False, rtol=1e-12)
    scalars = read(tmp_path / "out" / f"scalars.{form}")
    np.testing.assert_allclose(scalars["loss"], run.scalars()["loss"], rtol=1e-12)
    bins = read(tmp_path / "out" / f"density.{form}")
    chosen = bins[(bins["layer"] == "block1.lif") & (bins["step"] == 50) & (bins["t"] == 2)]
    law = run.density("block1.lif", steps=[50])
    counts = law.counts[0, 1]
    np.testing.assert_array_equal(chosen["elements"], counts[counts > 0])
    np.testing.assert_allclose(chosen["low"], law.edges[:-1][counts > 0])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["model"] == "Synthetic"
    with pytest.raises(FileExistsError):
        export_tables(run, tmp_path / "out", form)


def test_a_run_without_records_has_tables_with_headers(tmp_path: Path) -> None:
    RunStore(tmp_path / "run", header(["net"])).end("finished", steps=0)
    export_tables(open_run(tmp_path / "run"), tmp_path / "out", "csv")
    assert list(pd.read_csv(tmp_path / "out" / "density.csv")) == [
        "step", "mode", "layer", "t", "low", "high", "elements",
    ]  # fmt: skip
    assert pd.read_csv(tmp_path / "out" / "record.csv").empty


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(path: Path, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    folder = export_tensorboard(open_run(path), tmp_path / "events")
    (file,) = folder.iterdir()
    run = open_run(path)
    histograms, numbers = {}, {}
    for event in loader.LegacyEventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.HasField("histo"):
                histograms[value.tag, event.step] = value.histo
            else:
                numbers[value.tag, event.step] = value.simple_value
    loss = run.scalars()["loss"]
    assert numbers["loss", 100] == pytest.approx(loss[100], rel=1e-6)
    table = run.table(layer="block0.lif")
    coverage = table[(table["step"] == 100) & (table["t"] == 2)]["coverage"].iloc[0]
    assert numbers["block0.lif/train/t2/coverage", 100] == pytest.approx(coverage, rel=1e-6)
    law = run.density("block1.lif", steps=[50])
    shown = histograms["block1.lif/train/t3/u-threshold", 50]
    assert list(shown.bucket) == law.counts[0, 2].tolist()
    assert shown.bucket_limit[-1] == law.edges[-1]
    assert shown.num == law.counts[0, 2].sum()


def test_tensorboard_that_is_missing_is_one_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ValueError, match="needs its package: pip install tensorboard"):
        export_tensorboard(open_run(path), tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_the_command_writes_beside_the_run_and_overwrites_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", layers=1, steps=range(1))
    run = CliRunner()
    done = run.invoke(app, ["export", str(tmp_path / "mine"), "--to", "csv", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["written"][0] == str(tmp_path / "mine-csv" / "record.csv")
    again = run.invoke(app, ["export", str(tmp_path / "mine"), "--to", "csv"])
    assert "exists already: name another place with --out" in str(again.exception)
    nowhere = run.invoke(app, ["export", str(tmp_path / "no"), "--to", "csv"])
    assert "does not exist: name a folder with a run" in str(nowhere.exception)
