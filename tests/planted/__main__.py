"""Train every planted run, diagnose it, print and keep the confusion table.

``python -m planted [--only WORDS] [--keep FOLDER]`` from the folder ``tests``;
``python -m planted --extremes FOLDER`` writes what the healthy runs kept there show beside the
bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import spikescope

from . import calibration
from .bench import Until, run
from .faults import FAULTS, Fault
from .healthy import HEALTHY

RESULTS = Path(__file__).with_name("results")


def judge(path: Path) -> list[spikescope.Finding]:
    """Return the findings of a run."""
    return spikescope.diagnose(spikescope.open_run(path))


def hit(found: list[spikescope.Finding], fault: Fault) -> bool:
    """Return whether one of the findings that must come is there, at its layer."""
    return any(
        finding.code in fault.codes and (fault.layer is None or fault.layer == finding.layer)
        for finding in found
    )


def first_seen(path: Path, fault: Fault) -> int | None:
    """Return after how many steps of the fault the finding first comes; None if it never does.

    The run is diagnosed as it was after each of some recorded steps: all of the first four, then
    every second doubling. A fault that training mends by itself counts while it is there.
    """
    steps = spikescope.open_run(path).table(["count"])["step"].unique()
    steps = [int(step) for step in steps if step >= fault.since]
    places = sorted({min(round(1.5**k) - 1, len(steps) - 1) for k in range(20)})
    for place in places:
        if hit(spikescope.diagnose(Until(path, steps[place])), fault):
            return steps[place] - fault.since
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", default="")
    parser.add_argument("--extremes", default="")
    options = parser.parse_args()
    if options.extremes:
        calibration.write(Path(options.extremes))
        return
    torch.set_num_threads(1)
    root = Path(options.keep or tempfile.mkdtemp())
    rows: list[dict[str, Any]] = []
    for kind, table in (("fault", FAULTS), ("healthy", HEALTHY)):
        for name in table:
            if options.only and not any(
                word in f"{kind}: {name}" for word in options.only.split("|")
            ):
                continue
            began = time.monotonic()
            build = table[name].build if kind == "fault" else table[name]
            path = run(build(), root / f"{kind} {name}".replace("/", "over"))
            found = judge(path)
            row = {
                "kind": kind,
                "name": name,
                "seconds": round(time.monotonic() - began, 1),
                "findings": sorted({f"{f.code} {f.severity}" for f in found}),
            }
            if kind == "fault":
                fault = table[name]
                row["expected"] = list(fault.codes)
                row["at_end"] = hit(found, fault)
                row["delay"] = first_seen(path, fault)
                row["found"] = row["delay"] is not None or row["at_end"]
            else:
                steps = spikescope.open_run(path).table(["count"])["step"].unique()
                half = spikescope.diagnose(Until(path, int(steps[len(steps) // 2])))
                row["alarms"] = sorted(
                    {f"{f.code} {f.layer}" for f in [*found, *half] if f.severity != "note"}
                )
            rows.append(row)
            print(line(row), flush=True)
    print(summary(rows))
    if not options.only:  # all of them
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "planted.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "planted.md").write_text(markdown(rows))


def line(row: dict[str, Any]) -> str:
    if row["kind"] == "fault":
        said = (
            f"found after {row['delay']}{'' if row['at_end'] else ', then mended'}"
            if row["found"]
            else "MISSED"
        )
        return f"{row['name']:34} {said:28} {' '.join(row['findings'])}  [{row['seconds']} s]"
    said = f"{len(row['alarms'])} alarms"
    return f"healthy: {row['name']:30} {said:13} {' '.join(row['findings'])}  [{row['seconds']} s]"


def summary(rows: list[dict[str, Any]]) -> str:
    """Return recall and false alarms as text."""
    faults = [row for row in rows if row["kind"] == "fault"]
    healthy = [row for row in rows if row["kind"] == "healthy"]
    found = sum(row["found"] for row in faults)
    alarms = sum(len(row["alarms"]) for row in healthy)
    alarmed = sum(bool(row["alarms"]) for row in healthy)
    parts = []
    if faults:
        parts.append(f"faults found: {found} of {len(faults)} (recall {found / len(faults):.3f})")
    if healthy:
        parts.append(
            f"healthy runs with an alarm at warning or above: {alarmed} of {len(healthy)} "
            f"({alarms} alarms, {10 * alarms / len(healthy):.2f} per 10 runs)"
        )
    return "\n".join(parts)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the confusion table as a page."""
    faults = [row for row in rows if row["kind"] == "fault"]
    healthy = [row for row in rows if row["kind"] == "healthy"]
    hits = sum(row["found"] for row in faults)
    alarmed = sum(bool(row["alarms"]) for row in healthy)
    lines = [
        "# Planted faults and healthy runs",
        "",
        "Made by `python -m planted` in the folder `tests`. Delay is in optimiser steps from the",
        "fault on, to the recorded step (every 4th); in brackets, what training itself had mended.",
        "A healthy run is diagnosed at its end and after half of it.",
        "",
        "| | finding that must come | none of them |",
        "|---|---|---|",
        f"| {len(faults)} runs with a fault | {hits} | {len(faults) - hits} |",
        "",
        "| | alarm (warning or error) | none |",
        "|---|---|---|",
        f"| {len(healthy)} healthy runs | {alarmed} | {len(healthy) - alarmed} |",
        "",
        "| fault | must come (one of) | found | delay | all findings |",
        "|---|---|---|---|---|",
    ]
    for row in faults:
        said = "yes" if row["found"] else "**no**"
        delay = row["delay"] if row["at_end"] else f"({row['delay']})"
        cells = row["name"], " ".join(row["expected"]), said, delay, ", ".join(row["findings"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", "| healthy run | alarms | all findings |", "|---|---|---|"]
    for row in healthy:
        lines.append(
            f"| {row['name']} | {len(row['alarms'])} | {', '.join(row['findings']) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
