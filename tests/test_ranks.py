"""What several processes record together is what one records of the whole batch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import Family, torchrun
from torch import nn

import spikescope
from spikescope.data.compaction import size_of
from spikescope.data.parts import part_paths, read_part
from spikescope.data.schema import COLUMNS
from spikescope.probes import ranks
from spikescope.probes.modes import plain_modules

Launch = Callable[..., "subprocess.CompletedProcess[str]"]

# Trains on a share of one global batch, under a wrapper; the last rank may die half-way, or the
# first steps are of an earlier sitting.
TRAINING = """
import os, pathlib, signal, sys, time
import torch
import spikescope
from spikescope.data.parts import part_paths, read_part
from spikescope.probes.lif import LIF
from torch import nn

folder, wrapper, dies, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
run = pathlib.Path(folder) / "run"
torch.set_num_threads(1)
rank, world = 0, 1
if wrapper != "alone":
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 12), LIF(), nn.Linear(12, 9), LIF(), nn.Linear(9, 3))
if wrapper == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
elif wrapper == "fsdp":
    from torch.distributed.fsdp import fully_shard
    fully_shard(model)
optimizer = torch.optim.SGD(model.parameters(), 0.05)
inputs = 2.0 * torch.randn(6, 5, 8, 6)
targets = torch.randn(6, 8, 3)
share = slice(rank * 8 // world, (rank + 1) * 8 // world)

def one_step(step):
    optimizer.zero_grad()
    loss = ((model(inputs[step, :, share]).sum(0) - targets[step, share]) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss

def flushed(share):
    parts = [read_part(path, ["step"])["step"] for path in part_paths(share, "records")]
    return {step for part in parts for step in part.to_pylist()}

for step in range(first):
    one_step(step)
resume = first or False
with spikescope.watch(
    model, f"{folder}/run", every=2, collect="full", resume=resume
) as probe:
    for step in range(first, 6):
        probe.step(loss=one_step(step))
        if dies and rank == world - 1 and step == 4:
            while not all(flushed(share) >= {0, 2} for share in (run, run / "ranks" / "0001")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
    assert probe.active
if wrapper != "alone":
    torch.distributed.destroy_process_group()
"""


def train(
    launch: Launch,
    folder: Path,
    world: int,
    wrapper: str,
    dies: int = 0,
    first: int = 0,
    runs: str = "",
) -> subprocess.CompletedProcess[str]:
    """Train in several processes.

    Args:
        launch: starts them.
        folder: where the script lies.
        world: number of processes.
        wrapper: ``"alone"``, ``"ddp"`` or ``"fsdp"``.
        dies: whether the last rank does.
        first: step at which a run is resumed.
        runs: folder or address of the run's folder, if it is another one.
    """
    script = folder / "training.py"
    script.write_text(TRAINING)
    return launch(script, world, runs or str(folder), wrapper, str(dies), str(first))


@pytest.fixture(scope="module")
def family() -> Iterator[Family]:
    with Family() as family:
        yield family


@pytest.fixture(scope="module")
def alone(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("alone")
    done = train(family, folder, 1, "alone")
    assert done.returncode == 0, done.stderr
    return spikescope.open_run(folder / "run")


def assert_same(run: Any, alone: Any) -> None:
    got, want = run.table(), alone.table()
    assert len(got) == len(want) == 3 * 2 * 5
    for name, column in COLUMNS.items():
        if name.startswith("residual") and name != "residual_count":
            # The gradients agree with the surrogate to rounding, and rounding differs.
            assert got[name].max() < 1e-5, name
        elif column.dtype == "float64" and name in want:
            # A variance or a square of float32 sums: on the scale of the column.
            scale = np.nanmax(np.abs(want[name]), initial=1e-30)
            error = np.nanmax(np.abs(got[name] - want[name]), initial=0.0) / scale
            assert error < 1e-6, (name, error)
            assert (got[name].isna() == want[name].isna()).all(), name
        elif name in want:
            assert got[name].tolist() == want[name].tolist(), name
    for name in ("1", "3"):
        one, other = run.density(name), alone.density(name)
        assert np.array_equal(one.counts, other.counts)
        units = 12 if name == "1" else 9
        assert np.array_equal(run.joint(name).counts.sum((2, 3)), np.full((3, 5), 8 * units))
        assert np.array_equal(run.joint(name).counts.sum(3), alone.joint(name).counts.sum(3))
        assert np.array_equal(run.maps(name).rate, alone.maps(name).rate)
        assert run.maps(name).chances.tolist() == [40] * 3


@pytest.mark.parametrize(("world", "wrapper"), [(2, "ddp"), (4, "ddp"), (2, "fsdp")])
def test_ranks_together_record_what_one_process_records(
    world: int, wrapper: str, alone: Any, family: Family, tmp_path: Path
) -> None:
    # One of them as it is done: torchrun. It loads torch anew for each process, and once more.
    launch = torchrun if (world, wrapper) == (2, "ddp") else family
    done = train(launch, tmp_path, world, wrapper)
    assert done.returncode == 0, done.stderr
    assert "SpikescopeWarning" not in done.stderr
    run = spikescope.open_run(tmp_path / "run")
    moved = run.vitals().query("quantity == 'update_norm'")
    assert set(moved["name"]) == {f"{k}.{part}" for k in (0, 2, 4) for part in ("weight", "bias")}
    assert moved["value"].max() > 0
    shares = sorted(path.name for path in (tmp_path / "run" / "ranks").iterdir())
    assert shares == [f"{rank:04d}" for rank in range(1, world)]
    assert_same(run, alone)
    # The control: without the others' shares the counts differ.
    for path in (tmp_path / "run" / "ranks").rglob("records-*.parquet"):
        path.unlink()
    with pytest.raises(AssertionError, match="samples"):
        assert_same(spikescope.open_run(tmp_path / "run"), alone)


def test_ranks_write_to_another_filesystem_and_go_on_there(
    alone: Any, family: Family, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    address = f"file://{tmp_path}/store"
    for first in (0, 4):
        done = train(family, tmp_path, 2, "ddp", first=first, runs=address)
        assert done.returncode == 0, done.stderr
        assert "SpikescopeWarning" not in done.stderr
        assert_same(spikescope.open_run(f"{address}/run"), alone)
    run = spikescope.open_run(tmp_path / "store" / "run")
    assert [path.name for path in (run.path / "ranks").iterdir()] == ["0001"]
    assert_same(run, alone)
    assert run.header["resumed"] == [4]
    assert run.state == "finished"
    assert run.scalars().index.tolist() == list(range(6))
    # Each rank put there what it wrote, and none what another one did.
    parts = [path.name for path in (run.path / "ranks" / "0001").glob("*.parquet")]
    assert sorted({name.partition("-")[0] for name in parts}) == ["joints", "maps", "records"]


def test_a_rank_that_dies_loses_what_it_had_not_flushed(alone: Any, tmp_path: Path) -> None:
    done = train(torchrun, tmp_path, 2, "ddp", dies=1)
    assert done.returncode != 0
    run = spikescope.open_run(tmp_path / "run")
    assert run.state == "broken off"
    table = run.table(["count"])
    both = alone.table(["count"])
    early = table["step"] < 4
    # The first two recorded steps were flushed by both, the third by whom it reached.
    assert table[early]["count"].tolist() == both[both["step"] < 4]["count"].tolist()


def test_a_rank_that_nobody_tells_the_folder_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def check(self, keys: list[str]) -> bool:
            return False

    monkeypatch.setattr(ranks, "_store", Nobody)
    store = ranks.RankStore(ranks.meeting("runs/12:01"), 1, None, 0)
    waited: list[float] = []
    store._until = float("-inf")
    assert store._ask(waited.append) == ""
    assert not waited
    store.append("scalars", {})  # of that rank 0 speaks for all
    with pytest.raises(RuntimeError, match="no folder for 'runs/12:01': all ranks must give watch"):
        store.append("records", {})
    monkeypatch.setattr(ranks, "LAST_PATIENCE", 0.0)
    other = ranks.RankStore("key", 1, None, 0)
    other.hurry()
    with pytest.raises(RuntimeError, match="rank 0 has named no folder"):
        other.append("records", {})


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
def test_a_model_sharded_in_the_older_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(module: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"))

    group = torch.distributed
    group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
    try:
        inner = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        part = nn.Sequential(nn.Linear(4, 3), wrap(inner))
        names = [name for name, _ in plain_modules(wrap(part))]
        assert names == ["", "0", "1", "1.0", "1.1"]
        monkeypatch.setattr(group, "get_world_size", lambda: 4)
        # Of a part that is shared the gradients are averaged, too.
        for model in (part, nn.Sequential(part)):
            shared = ranks.averaged(model, lambda gradient: gradient)
            assert shared(torch.tensor(8.0)).item() == 2.0
        alone = ranks.averaged(nn.Sequential(nn.Linear(1, 1)), lambda gradient: gradient)
        assert alone(torch.tensor(8.0)).item() == 8.0
    finally:
        monkeypatch.undo()
        group.destroy_process_group()


def test_a_share_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ranks.RankStore("key", 1, 60_000, 0)
    monkeypatch.setattr(store, "_ask", lambda: str(tmp_path))
    largest = 0
    for number in range(60):
        rows = {"step": range(number * 40, number * 40 + 40), "mode": ["train"] * 40}
        rows |= {"layer": ["a"] * 40, "t": [1] * 40}
        rows["counts"] = np.random.default_rng(number).integers(0, 9, (40, 128)).tolist()
        store.append("joints", rows)
        largest = max(largest, size_of(store.path))
    assert store.merges > 0
    assert largest <= 60_000  # also while a part is there and nothing has been merged for it yet
    assert not store.full
    counts = [read_part(path)["counts"].to_pylist() for path in part_paths(store.path, "joints")]
    drawn = sum(np.random.default_rng(n).integers(0, 9, (40, 128)).sum() for n in range(60))
    assert sum(sum(map(sum, part)) for part in counts) == drawn


def test_gradients_of_one_process_are_left_as_they_are() -> None:
    model = torch.nn.Linear(1, 1)

    def unscale(gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    assert ranks.averaged(model, unscale) is unscale
    assert not ranks.joined()
