"""Several processes: each records its share, and none of them learns otherwise than before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import torchrun
from modes_network import LAYERS, Inside, Net, assert_recorded, loss_of
from reference_network import seeded

import spikescope

RANKS = 2

# Trains twice on every rank, without and with a probe, and writes down what each rank has then.
TRAINING = """
import contextlib, os, sys
import torch
import spikescope
from modes_network import Net, loss_of
from reference_network import seeded
from torch import nn

folder = sys.argv[1]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
ends = []
for probed in (False, True):
    model = nn.parallel.DistributedDataParallel(seeded(Net))
    torch.manual_seed(1 + rank)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    path = f"{folder}/run"
    watch = spikescope.watch(model, path, every=2) if probed else contextlib.nullcontext()
    losses = []
    with watch as probe:
        for step in range(5):
            optimizer.zero_grad()
            x = torch.load(f"{folder}/x{rank}.pt") * (1.0 + 0.1 * step)
            loss = loss_of(model(x))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if probed:
                probe.step(loss=loss)
        active = probed and probe.active
    ends.append({
        "losses": torch.tensor(losses), "random": torch.get_rng_state(), **model.state_dict(),
        **{f"{name}.grad": value.grad for name, value in model.named_parameters()},
    })
same = all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
torch.save({"same": same, "active": active, **ends[1]}, f"{folder}/end{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distributed")
    (path / "training.py").write_text(TRAINING)
    for rank in range(RANKS):
        torch.save(batch(rank), path / f"x{rank}.pt")
    done = torchrun(path / "training.py", RANKS, str(path))
    assert done.returncode == 0, done.stderr
    assert "SpikescopeWarning" not in done.stderr
    return path


def batch(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return 3.0 * torch.randn(4, 5 + rank, 6, generator=generator)


def end(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"end{rank}.pt")


def test_every_rank_trains_as_it_did_without_the_probe(folder: Path) -> None:
    ends = [end(folder, rank) for rank in range(RANKS)]
    assert [one["same"] for one in ends] == [True] * RANKS
    assert torch.equal(ends[0]["module.first.weight"], ends[1]["module.first.weight"])
    assert not torch.equal(ends[0]["losses"], ends[1]["losses"])  # they saw different batches


def test_each_rank_records_and_rank_0_says_so(folder: Path) -> None:
    assert [end(folder, rank)["active"] for rank in range(RANKS)] == [True] * RANKS
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["run"]
    run = spikescope.open_run(folder / "run")
    assert run.state == "finished"
    assert run.header["ranks"] == {"recorded": list(range(RANKS)), "of": RANKS}
    assert run.header["model"] == "Net"
    assert [layer["name"] for layer in run.header["layers"]] == list(LAYERS)
    assert json.dumps(run.header).count("module.") == 0
    assert sorted(set(run.table()["step"])) == [0, 2, 4]
    assert len(run.table()) == len(run.table().drop_duplicates(["step", "layer", "t"]))


def test_its_figures_are_those_of_all_shares(folder: Path) -> None:
    net = seeded(Net)
    run = spikescope.open_run(folder / "run")
    shares = []
    for rank in range(RANKS):
        inside = Inside()
        torch.manual_seed(1 + rank)
        # The ranks descend the mean of their losses.
        (loss_of(inside.run(net, batch(rank))) / RANKS).backward()
        shares.append(inside)
    for name in LAYERS:
        table = run.table(layer=name).query("step == 0")
        assert_recorded(table, shares, name, 2e-5)
        with pytest.raises(AssertionError):
            assert_recorded(table, shares[:1], name, 2e-5)


def test_one_process_alone_says_so(tmp_path: Path) -> None:
    net = seeded(Net)
    with spikescope.watch(net, tmp_path / "run", every=1) as probe:
        loss_of(net(batch(0))).backward()
        probe.step()
    assert spikescope.open_run(tmp_path / "run").header["ranks"] == {"recorded": [0], "of": 1}


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_are_known_before_the_processes_have_joined(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with spikescope.watch(seeded(Net), tmp_path / "run", every=1) as probe:
        assert probe.active == (rank == 0)
    assert (tmp_path / "run").exists() == (rank == 0)
