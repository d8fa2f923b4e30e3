"""The recorder's benchmarks run, in a tiny setting, and say what they measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_truth import framework

FOLDER = Path(__file__).parent / "benchmarks"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks and of deprecated names


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a benchmark's main function and return what it wrote."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()

    def run(name: str, *options: str) -> dict[str, Any]:
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [name, "--quick", "--out", str(out), *options])
        importlib.import_module(name).main()
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("rival", ["tensorboard", "spikingjelly", "snntorch"])
def test_rivals_record_the_same_content(
    measured: Any, rival: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = framework("snntorch" if rival == "snntorch" else "spikingjelly")
    if rival == "snntorch":
        # It resets every layer that was ever made, those of other tests included.
        monkeypatch.setattr(found.SpikingNeuron, "instances", [])
    if rival == "tensorboard":
        pytest.importorskip("tensorboard")
    options = ("--pairs", "2", "--parts", "time", "--rivals", rival, "--contents", "same")
    (row,) = measured("recorder_rivals", *options)["rows"]
    assert (row["rival"], row["content"]) == (rival, "same")
    time = row["time"]
    assert time["plain_s"] > 0
    assert time["own"]["extra_s"] > 0
    ratio = time["rival"]["extra_s"] / time["own"]["extra_s"]
    assert time["times_cheaper"] == pytest.approx(ratio)
    for kind in ("own", "rival"):
        low, high = time[kind]["quartiles_s"]
        assert low <= time[kind]["extra_s"] <= high


def test_a_rivals_statistics_are_those_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    framework("spikingjelly")
    monkeypatch.syspath_prepend(str(FOLDER))
    rivals = importlib.import_module("rivals")
    built = rivals.build("spikingjelly", rivals.QUICK)
    images = torch.rand(rivals.QUICK.batch, 1, rivals.QUICK.pixels, rivals.QUICK.pixels)
    recorder = rivals.rival_on("spikingjelly", built, tmp_path / "run", "same")
    recorder.arm()
    seen = []
    layer = next(m for m in built.net.modules() if isinstance(m, built.neuron))
    handle = layer.register_forward_hook(lambda m, x, y: seen.append((m.v_seq, y)))
    built.forward(images).square().sum().backward()
    recorder.finish(7)
    handle.remove()
    ((potential, spikes),) = seen
    kept = np.load(tmp_path / "run" / "000007.npz")
    (name,) = {key.partition(".")[0] for key in kept if key.startswith("2.")}
    assert kept[f"{name}.mean"] == pytest.approx(potential.mean((1, 2, 3, 4)).tolist(), abs=1e-6)
    assert kept[f"{name}.rate"] == pytest.approx(spikes.mean((1, 2, 3, 4)).tolist(), abs=1e-6)
    assert kept[f"{name}.histogram"].shape == (rivals.QUICK.timesteps, rivals.BINS)
    silent = 1 - (spikes.cumsum(0) > 0).float().mean((1, 2, 3, 4))
    assert kept[f"{name}.silent"] == pytest.approx(silent.tolist(), abs=1e-6)
    assert (kept[f"{name}.grad_square"] > 0).any()
    assert not layer.store_v_seq  # steps that are not recorded are as they were
    assert not layer._forward_hooks


def test_memory_is_taken_in_a_process_of_its_own(
    measured: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    framework("spikingjelly")
    monkeypatch.syspath_prepend(str(FOLDER))
    folder = tmp_path / "alone"
    alone = ["--alone", "spikingjelly", "own", "economy", "2", str(folder)]
    monkeypatch.setattr(sys, "argv", ["recorder_rivals", "--quick", *alone])
    importlib.import_module("recorder_rivals").main()
    found = json.loads(capsys.readouterr().out)
    assert found["peak_bytes"] > 2**24
    assert found["disk_bytes"] == sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file()
    )


def test_growth_loses_nothing_while_it_merges(measured: Any) -> None:
    found = measured("recorder_growth")
    assert found["dropped"] == 0
    assert found["every_element_is_in_the_record"]
    assert found["every_element_is_in_the_histograms"]
    assert found["largest_disk"] <= found["max_bytes"]
    assert found["newest_gap"] == 1
    assert found["over_time"][-1]["step"] == found["steps"]


def test_the_gpu_benchmark_runs_without_a_gpu_and_says_so(measured: Any) -> None:
    found = measured("recorder_gpu", "--device", "cpu", "--timesteps", "2", "--precisions", "bf16")
    assert any("no GPU" in text for text in found["did_not_run"])
    assert "goals_met" not in found
    (row,) = found["rows"]
    assert (row["precision"], row["timesteps"]) == ("bf16", 2)
    assert row["figures"]["recorded_over_plain"] > 1
    assert row["bytes"]["bytes_to_read"] > 0
    assert sum(row["alone"]["routes"].values()) > 0


def test_the_gpu_benchmark_asks_for_a_gpu(
    measured: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        measured("recorder_gpu", "--device", "cuda")
    assert "--device cpu --quick" in capsys.readouterr().err
