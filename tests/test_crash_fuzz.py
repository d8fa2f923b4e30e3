"""A hundred kills lose nothing that was flushed, whatever the writer was doing."""

from __future__ import annotations

from pathlib import Path

from crash_fuzz import fuzz

KILLS = 100


def test_a_hundred_kills_lose_nothing_that_was_flushed(tmp_path: Path) -> None:
    kills = fuzz(tmp_path, KILLS)
    assert len(kills) == KILLS
    for number, kill in enumerate(kills):
        # What was said to be flushed is there; one more may have got its name unsaid.
        assert kill.flushed <= kill.steps <= kill.flushed + 1, (number, kill)
        assert kill.exact, (number, kill)
        assert kill.problems == [], (number, kill)
    # Four parts are compacted: some got further.
    assert max(kill.steps for kill in kills) > 8, "no process got as far as compacting"
