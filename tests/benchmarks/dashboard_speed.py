"""The dashboard over 200 layers x 8 timesteps x 10 000 records, and TensorBoard beside it.

Run on a quiet machine: ``OMP_NUM_THREADS=1 python dashboard_speed.py [--records N] [--ticks N]``.
Writes ``results/dashboard_speed.json`` and exits with 1 if a bound is missed.

The long run is written straight into parts of 12 records (19 200 rows), as the recorder does; all
parts repeat the same histograms. Server and browser start cold, several times: the first paint
includes loading the page, and the median counts. It is taken in a browser as people have it, whose
page says itself when the heatmap is on the screen; beside it stands that of a browser steered from
outside, whose debugger costs some tenths of a second. A selection is the server's whole answer
over HTTP. Ticks are driven once the findings are there; 600 of them, a record each, stand for 30
minutes of a training with a record every three seconds. TensorBoard gets the histograms of a
shorter run of the same network (``--beside`` records), which the dashboard opens, too: events of
the long run would take 70 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))

from served import (
    command_of,
    dashboard,
    first_paints,
    free_port,
    opened,
    process,
    resident,
    wait_for,
)
from synthetic import columns, header, row

from spikescope.data.event_files import export_tensorboard
from spikescope.data.parts import TABLES, part_path, write_part
from spikescope.data.runs import open_run
from spikescope.data.store import RunStore

LAYERS, TIMESTEPS, PER_PART = 200, 8, 12
NAMES = [f"block{k}.lif" for k in range(LAYERS)]
MOST_PAINT_S, MOST_NODES, MOST_SELECTION_S = 2.0, 500, 0.3
MOST_GROWTH = 0.10
PARTS = ("first_paint_s", "selections", "page", "beside")
RESULT = Path(__file__).parent / "results" / "dashboard_speed.json"


def part_of(first: int) -> pa.Table:
    """Return the rows of PER_PART records, from a step on."""
    rows = [
        row(first + k, name, t, mean=0.6 * (1 - 0.5**t), std=0.4 + 0.02 * (n % 10),
            grad=1e-2 * 0.9 ** (LAYERS - 1 - n))
        for k in range(PER_PART)
        for n, name in enumerate(NAMES)
        for t in range(1, TIMESTEPS + 1)
    ]  # fmt: skip
    values: dict[str, Any] = columns(rows)
    ends = np.arange(len(rows) + 1, dtype=np.int32) * len(values["density"][0])
    values["density"] = pa.ListArray.from_arrays(
        pa.array(ends), pa.array(np.concatenate(values["density"]))
    )
    schema = TABLES["records"]
    return pa.table({name: values[name] for name in schema.names}, schema=schema)


def write_long(path: Path, records: int) -> RunStore:
    """Write a run that is still being recorded, by this process."""
    store = RunStore(path, header(NAMES))
    part = part_of(0)
    steps = part["step"].to_numpy()
    for number in track(range(-(-records // PER_PART)), "writing"):
        add_part(store, part.set_column(0, "step", pa.array(steps + number * PER_PART)), number + 1)
    every = np.arange(records)
    store.append(
        "scalars",
        {"step": every, "name": ["loss"] * records, "value": 2 * np.exp(-every / records)},
    )
    return store


def add_part(store: RunStore, part: pa.Table, number: int) -> None:
    """Write one part as the recorder does, but for its joining of small parts."""
    write_part(part_path(store.path, "records", number), "records", part)


class Asker:
    """Asks the dashboard as its page does."""

    def __init__(self, url: str) -> None:
        self.url = url
        entries = json.loads(wait_for(f"{url}_dash-dependencies"))
        self.output = next(e["output"] for e in entries if "content.children" in e["output"])
        self.drawn: dict[str, Any] = {}

    def __call__(self, search: str, beat: bool = False) -> tuple[float, int]:
        """Return seconds and bytes of an answer."""
        body = {
            "output": self.output,
            "outputs": [
                dict(zip(("id", "property"), part.split("."), strict=True))
                for part in self.output.strip(".").split("...")
            ],
            "inputs": [
                {"id": "url", "property": "search", "value": search},
                {"id": "beat", "property": "data", "value": 1},
            ],
            "state": [{"id": "drawn", "property": "data", "value": self.drawn}],
            "changedPropIds": ["beat.data" if beat else "url.search"],
        }
        request = urllib.request.Request(
            f"{self.url}_dash-update-component", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
        seconds = time.perf_counter() - began
        if content:
            parts = json.loads(content)["response"]
            self.drawn = parts.get("drawn", {}).get("data", self.drawn)
        return seconds, len(content)


def selections(ask: Asker, records: int) -> dict[str, dict[str, float]]:
    """Return seconds of the server for each kind of selection, each somewhere new."""
    rng = np.random.default_rng(0)
    kinds = {
        "metric": lambda: f"?run=run&metric={rng.choice(['rate', 'gradient', 'drift'])}",
        "step": lambda: f"?run=run&step={rng.integers(records)}",
        "layer": lambda: f"?run=run&page=layer&layer={rng.choice(NAMES)}",
        "layer and step": lambda: (
            f"?run=run&page=layer&layer={rng.choice(NAMES)}&step={rng.integers(records)}"
        ),
        "gradient flow, step": lambda: f"?run=run&page=flow&step={rng.integers(records)}",
        "drift, layer": lambda: f"?run=run&page=drift&layer={rng.choice(NAMES)}",
    }
    found = {}
    for kind, search in kinds.items():
        seconds = [ask(search())[0] for _ in range(8)]
        found[kind] = {"median_s": float(np.median(seconds)), "largest_s": max(seconds)}
    return found


def settle(ask: Asker) -> float:
    """Wait until findings and quantiles of the long run are there; return the seconds."""
    began = time.monotonic()
    for search in ("?run=run", "?run=run&page=layer"):
        ask.drawn = {}
        ask(search)
        while ask.drawn.get("seen") is None and time.monotonic() - began < 300:
            time.sleep(0.1)
            ask(search, beat=True)
    return time.monotonic() - began


def in_browser(url: str, store: RunStore, records: int, ticks: int, pid: int) -> dict[str, Any]:
    """Return the nodes and what many ticks do to memory."""
    with opened(url) as (page, _):
        page.wait_for_timeout(3000)
        nodes = page.evaluate("document.querySelectorAll('*').length")
        heaps, residents = [], []
        record = part_of(0).slice(0, LAYERS * TIMESTEPS)
        parts = -(-records // PER_PART)
        sizes: list[int] = []
        page.on(
            "response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0)))
        )
        for tick in track(range(ticks), "ticking"):
            step = parts * PER_PART + tick
            steps = pa.array(np.full(len(record), step))
            add_part(store, record.set_column(0, "step", steps), parts + tick + 1)
            store.append("scalars", {"step": [step], "name": ["loss"], "value": [1.0 / (tick + 1)]})
            _wait_title(page, f"step {step} (train)")
            if tick % max(ticks // 10, 1) == 0:
                heaps.append(page.evaluate("(gc(), performance.memory.usedJSHeapSize)") / 1e6)
                residents.append(resident(pid))
        after = page.evaluate("document.querySelectorAll('*').length")
    early, late = slice(1, 4), slice(-3, None)
    return {
        "nodes": nodes,
        "nodes_after_ticks": after,
        "ticks": ticks,
        "tick_bytes_median": float(np.median([size for size in sizes if size])),
        "browser_heap_mb": heaps,
        "server_mb": residents,
        "browser_growth": float(np.mean(heaps[late]) / np.mean(heaps[early]) - 1),
        "server_growth": float(np.mean(residents[late]) / np.mean(residents[early]) - 1),
    }


def _wait_title(page: Any, said: str) -> None:
    """Wait until the heatmap has moved on; the page's policy allows no polling of strings."""
    until = time.monotonic() + 60
    while said not in (page.locator(".gtitle").first.text_content() or ""):
        if time.monotonic() > until:
            raise TimeoutError(f"the heatmap did not reach {said}")
        page.wait_for_timeout(20)


def beside_tensorboard(folder: Path, records: int) -> dict[str, Any]:
    """Return time and memory until the same histograms are served, ours and TensorBoard's."""
    store = RunStore(folder / "ours" / "run", header(NAMES))
    part = part_of(0)
    steps = part["step"].to_numpy()
    for number in range(-(-records // PER_PART)):
        add_part(store, part.set_column(0, "step", pa.array(steps + number * PER_PART)), number + 1)
    store.end("finished", steps=records)
    run = open_run(store.path)
    events = export_tensorboard(run, folder / "events")
    count = len(run.table(["count"]))
    size = {
        "ours": sum(file.stat().st_size for file in store.path.iterdir()) / 1e6,
        "tensorboard": sum(file.stat().st_size for file in events.iterdir()) / 1e6,
    }
    found: dict[str, Any] = {"histograms": count, "disk_mb": size}
    port = free_port()
    began = time.perf_counter()
    with process(command_of(store.path.parent, port)) as running:
        ask = Asker(f"http://127.0.0.1:{port}/")
        ask(f"?run=run&page=layer&layer={NAMES[-1]}")
        found["ours"] = {"seconds": time.perf_counter() - began, "mb": resident(running.pid)}
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(events),
               "--port", str(port), "--host", "127.0.0.1"]  # fmt: skip
    began = time.perf_counter()
    last = f"{NAMES[-1]}/train/t{TIMESTEPS}/u-threshold"
    query = urllib.parse.urlencode({"run": ".", "tag": last})
    with process(command) as running:
        while True:
            try:
                answer = wait_for(
                    f"http://127.0.0.1:{port}/data/plugin/histograms/histograms?{query}"
                )
                if len(json.loads(answer)) >= min(records, 50):
                    break
            except OSError:
                pass
            if time.perf_counter() - began > 400:
                break
            time.sleep(0.1)
        found["tensorboard"] = {
            "seconds": time.perf_counter() - began,
            "mb": resident(running.pid),
            "all_there": time.perf_counter() - began < 400,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=600)
    parser.add_argument("--beside", type=int, default=24, help="records that TensorBoard opens")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the rest is kept")
    asked = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        store = write_long(folder / "runs" / "run", asked.records)
        result["run"] = {
            "layers": LAYERS,
            "timesteps": TIMESTEPS,
            "records": asked.records,
            "disk_mb": sum(file.stat().st_size for file in store.path.iterdir()) / 1e6,
            "written_in_s": time.perf_counter() - began,
        }
        if "first_paint_s" in asked.parts:
            result["first_paint_s"] = {
                kind: {"median": float(np.median(each)), "each": each}
                for kind, each in first_paints(folder / "runs").items()
            }
        with dashboard(folder / "runs") as (url, pid):
            ask = Asker(url)
            result["until_all_is_worked_out_s"] = settle(ask)
            if "selections" in asked.parts:
                result["selections"] = selections(ask, asked.records)
            result["server_mb"] = resident(pid)
            if "page" in asked.parts:
                result["page"] = in_browser(url, store, asked.records, asked.ticks, pid)
        if "beside" in asked.parts:
            result["beside"] = beside_tensorboard(folder, asked.beside)
    page = result["page"]
    largest = max(each["median_s"] for each in result["selections"].values())
    bounds = result["bounds"] = {
        "first paint": result["first_paint_s"]["plain"]["median"] <= MOST_PAINT_S,
        "nodes": max(page["nodes"], page["nodes_after_ticks"]) <= MOST_NODES,
        "selection": largest <= MOST_SELECTION_S,
        "browser memory flat": page["browser_growth"] <= MOST_GROWTH,
        "server memory flat": page["server_growth"] <= MOST_GROWTH,
    }
    result["machine"] = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {
                key: result[key]
                for key in ("first_paint_s", "page", "selections", "beside", "bounds")
            },
            indent=1,
        )
    )
    return 0 if all(bounds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
