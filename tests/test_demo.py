"""The demonstration tells one story: what is wrong, what to change, that it helped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_images import two_halves

from spikescope import open_run
from spikescope.cli_demo import side_by_side
from spikescope.probes import demo


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"data": "mnst"}, "data='mnst' is not one of 'digits'"),
        ({"device": "tpu"}, "device='tpu' is not one of"),
        ({"epochs": 0}, "epochs=0 is not possible"),
        ({"seed": -1}, "seed=-1 is not possible"),
    ],
)
def test_what_cannot_run_leaves_no_folder(
    tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        demo.Demo(tmp_path / "demo", **setting)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "load", lambda name, seed: two_halves(256, seed))
    threads = torch.get_num_threads()
    text = io.StringIO()
    (tmp_path / "demo").mkdir()
    story = demo.Demo(
        tmp_path / "demo", device="cpu", epochs=5, console=Console(file=text, width=120)
    )
    assert story.folder == tmp_path / "demo-2"  # what is there stays
    before = story.train_as_set_up()
    advice = story.recommend()
    after = story.train_recommended(advice)
    assert before.path == tmp_path / "demo-2" / "as-set-up"
    assert after.path == tmp_path / "demo-2" / "recommended"
    runs = [open_run(trained.path) for trained in (before, after) if trained.path]
    for run, trained in zip(runs, (before, after), strict=True):
        assert run.state == "finished"
        assert run.scalars()["accuracy"].dropna().iloc[-1] == trained.accuracy
        assert run.table()["mismatch"].sum() == 0
        assert len(run.covered) == 6
    # The same weights: what enters the first layer is the same until training moves it.
    first = [run.table(["input_mean"], layer="blocks.0.lif").iloc[0] for run in runs]
    assert first[0]["input_mean"] == pytest.approx(first[1]["input_mean"], rel=1e-6)
    assert any(entry.verdict == "change" for entry in advice)
    assert before.accuracy < 0.6 < 0.9 < after.accuracy
    assert f"test accuracy {after.accuracy:.1%}" in text.getvalue()
    assert torch.get_num_threads() == threads
    rows = side_by_side(*runs)
    assert len(rows) == 6 * 3
    last = next(row for row in rows if row[""] == "blocks.5.lif firing rate")
    assert float(last["as set up"]) < 0.001 < 0.02 < float(last["recommended"])
