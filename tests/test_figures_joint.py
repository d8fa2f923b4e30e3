"""Where dL/ds arrives: the joint law of potential and gradient, drawn and in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import columns, header, row, write_run

from spikescope.dashboard import figures
from spikescope.data.fine import JOINT_G, JOINT_U, joint_edges
from spikescope.data.runs import Run, open_run
from spikescope.data.store import RunStore


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run of which 3/4 of the elements are open, with half the gradient of the rest."""
    store = RunStore(tmp_path / "run", header(["net"]))
    store.append("records", columns([row(s, "net", t) for s in (0, 5) for t in (1, 2)]))
    u_edges, g_edges = joint_edges()
    near = int(np.searchsorted(u_edges, 0.0))  # u - threshold in [0, 1/16]
    far = 0  # outermost below: -2 thresholds, where width 0.1 is closed
    one = int(np.searchsorted(g_edges, 1.0)) - 1  # |dL/ds| in [1/2, 1]
    counts = np.zeros((JOINT_U, JOINT_G), dtype=np.int64)
    counts[near, one], counts[far, one + 1], counts[near, 0] = 60, 20, 15
    store.append(
        "joints",
        {"step": [5, 5], "mode": ["train"] * 2, "layer": ["net"] * 2, "t": [1, 2],
         "counts": [counts.ravel().tolist()] * 2},
    )  # fmt: skip
    store.end("finished", steps=6)
    return open_run(store.path)


def test_the_words_follow_from_the_counts(run: Run) -> None:
    words = figures.reading(figures.joint_density(run, "net"))
    # Of 95 elements at each of two timesteps, 15 have no gradient and 75 are open; the squared
    # gradient is 60 * 1/2 there and 20 * 2 elsewhere (products of the edges of a bin).
    assert f"{100 * 30 / 70:.1f}% of the squared gradient dL/ds arrives" in words
    assert "is open (shaded), which holds 78.9% of the elements" in words
    assert "15.8% of the 190 elements get none at all" in words
    assert "at least" not in words


def test_what_lies_beyond_the_axis_is_counted_as_neither(run: Run, tmp_path: Path) -> None:
    """Open up to 9 widths: with width 0.25 beyond 2 thresholds, where one bin holds all."""
    head = header(["net"])
    head["layers"][0]["surrogate"] |= {"width": 0.25}
    store = RunStore(tmp_path / "wide", head)
    store.append("records", columns([row(5, "net", t) for t in (1, 2)]))
    joint = run.joint("net")
    store.append(
        "joints",
        {"step": [5, 5], "mode": ["train"] * 2, "layer": ["net"] * 2, "t": [1, 2],
         "counts": [counts.ravel().tolist() for counts in joint.counts[0]]},
    )  # fmt: skip
    store.end("finished", steps=6)
    words = figures.reading(figures.joint_density(open_run(store.path), "net"))
    assert f"at least {100 * 30 / 70:.1f}% of the squared gradient" in words
    assert "at least 78.9% of the elements" in words
    assert "Beyond 2 thresholds" in words


def test_the_line_is_the_rms_of_each_bin(run: Run) -> None:
    line = figures.joint_density(run, "net").data[1]
    # 60 of 75 elements near the threshold have a square of 1/2, 15 none; all 20 far ones have 2.
    np.testing.assert_allclose(line.customdata, [2**0.5, (60 * 0.5 / 75) ** 0.5])


def test_the_picture_and_the_table_hold_the_shares(run: Run) -> None:
    trace = figures.joint_density(run, "net", step=5).data[0]
    shares = np.array(trace.customdata, dtype=float)
    assert shares.sum() == pytest.approx(160 / 190)  # all but the exact zeros
    assert sorted(shares[shares > 0]) == pytest.approx([40 / 190, 120 / 190])
    frame = figures.joint_frame(run, "net")
    assert frame["elements"].sum() == 190
    assert len(frame) == 3


def test_what_is_missing_is_told_apart(run: Run, tmp_path: Path) -> None:
    assert "Not recorded at this step" in figures.reading(figures.joint_density(run, "net", step=0))
    plain = open_run(write_run(tmp_path / "plain", layers=1))
    words = figures.reading(figures.joint_density(plain, "block0.lif"))
    assert "collect='full'" in words
    assert figures.joint_frame(plain, "block0.lif").empty
