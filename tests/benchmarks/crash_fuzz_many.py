"""A thousand kills at random instants: ``python tests/benchmarks/crash_fuzz_many.py --out F``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash_fuzz import fuzz
from recorder_overhead import facts


def main() -> None:
    """Kill, look, and write a JSON file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    wanted = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = fuzz(Path(folder), wanted.kills, seed=1)
    result = {
        **facts(),
        "kills": len(kills),
        "steps_flushed": sum(kill.flushed for kill in kills),
        "lost": sum(kill.steps < kill.flushed for kill in kills),
        "not_exact": sum(not kill.exact for kill in kills),
        "unreadable_parts": sum(len(kill.problems) for kill in kills),
        "seconds": time.monotonic() - start,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if wanted.out is not None:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
