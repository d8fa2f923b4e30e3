"""The command: run what is missing, unit by unit, then write the report."""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from . import STUDIES
from .report import write_report
from .store import Results

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run the studies and write the report; interrupted, it goes on where it was."""
    parser = argparse.ArgumentParser(prog="evidence", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 seeds, few units: 3 minutes")
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--report-only", action="store_true", help="write the report, run nothing")
    parser.add_argument(
        "--out", type=Path, help="folder for results and report; runs/ beside this file if quick"
    )
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1:
        parser.error(f"--workers {chosen.workers} is not possible: it must be at least 1")
    out = chosen.out or (HERE / "runs" if chosen.quick else HERE)
    if not chosen.report_only:
        run_studies([STUDIES[name] for name in chosen.studies], out, chosen.quick, chosen.workers)
    write_report(list(STUDIES.values()), out, chosen.quick)
    print(f"Report: {out / 'EVIDENCE.md'}")
    return 0


def results_of(study: ModuleType, out: Path) -> Results:
    """Return the results file of a study."""
    return Results(out / "results" / f"{study.NAME}.jsonl")


def run_studies(studies: list[ModuleType], out: Path, quick: bool, workers: int = 1) -> int:
    """Compute the units that are missing.

    Args:
        studies: modules with ``NAME``, ``units(quick)`` and ``measure(settings)``.
        out: folder; results go to ``out/results``.
        quick: the short version.
        workers: processes.

    Returns:
        How many units were computed.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    about = {"commit": commit(), **environment()}
    stores = {study.NAME: results_of(study, out) for study in studies}
    missing = [
        (study, unit)
        for study in studies
        for unit in study.units(quick)
        if unit not in stores[study.NAME]
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        tasks = {
            study.NAME: bar.add_task(
                f"{study.NAME}. {study.TITLE[:48]}",
                total=sum(entry[0] is study for entry in missing),
            )
            for study in studies
        }

        def done(study: ModuleType, unit: dict[str, Any], result: dict[str, Any]) -> None:
            stores[study.NAME].add(unit, result, **about)
            bar.advance(tasks[study.NAME])

        if workers == 1:
            for study, unit in missing:
                done(study, unit, _measure(study.__name__, unit))
        else:
            _in_processes(missing, workers, done)
    return len(missing)


def _in_processes(missing: list[Any], workers: int, done: Any) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {
            pool.submit(_measure, study.__name__, unit): (study, unit) for study, unit in missing
        }
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    study, unit = waiting.pop(future)
                    done(study, unit, future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _measure(module: str, unit: dict[str, Any]) -> dict[str, Any]:
    """Compute one unit, with one thread: units run side by side, and sums keep their order."""
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    result = sys.modules[module].measure(unit) if module in sys.modules else _load(module)(unit)
    return {**result, "unit_seconds": time.perf_counter() - began}


def _load(module: str) -> Any:
    from importlib import import_module

    return import_module(module).measure


def commit() -> str:
    """Return the commit of the code, with ``+`` if files differ from it, or "unknown"."""
    try:
        named = ["git", "-C", str(HERE), "rev-parse", "--short=10", "HEAD"]
        head = subprocess.run(named, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    results = "tests/benchmarks/evidence/"
    return head + ("+" if any(results not in line for line in changed) else "")


def environment() -> dict[str, str]:
    """Return versions and device."""
    import numpy
    import torch

    return {
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, numpy "
        f"{numpy.__version__}",
        "device": f"cpu ({platform.machine()}), 1 thread per unit",
    }
