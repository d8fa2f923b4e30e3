"""Two processes with half of the batch each end where one process with all of it does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from launching import torchrun
from loop_cases import CASES, SAMPLES, attach, batches, build, optimiser, train
from torch import Tensor

RANKS, STEPS = 2, 3

# The published forms are not synchronised: they show that the comparison can fail.
UNSYNCHRONISED = ("mp_init", "atgo")

TRAINING = """
import sys
import torch
from test_loop_remedies_ranks import runs, train_one
from torch import distributed, nn

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
ends = {}
for key, (name, settings) in runs().items():
    ends[key] = train_one(name, settings, slice(rank, None, ranks), wrap=True)
torch.save(ends, f"{sys.argv[1]}/end{rank}.pt")
distributed.destroy_process_group()
"""


def runs() -> dict[str, tuple[str, dict[str, bool]]]:
    """Return the trainings to compare: every remedy, and those that must differ."""
    all_runs: dict[str, tuple[str, dict[str, bool]]] = {name: (name, {}) for name in CASES}
    return all_runs | {f"{name}, published": (name, {"published": True}) for name in UNSYNCHRONISED}


def train_one(
    name: str, settings: dict[str, bool], share: slice, *, wrap: bool
) -> dict[str, Tensor]:
    """Train on a share of each batch; return the model's state."""
    if name == "agl_true_std":  # it needs no norm, and a plain one is not synchronised
        CASES[name] = dataclasses.replace(CASES[name], norm=False, state=("first.weight",))
    net = build(name)
    remedy = attach(name, net, **settings)
    model = torch.nn.parallel.DistributedDataParallel(net) if wrap else net
    # Samples of very different size, so that the shares are unlike.
    inputs = batches(STEPS) * torch.linspace(0.3, 2.0, SAMPLES, dtype=torch.float64)[:, None]
    train(net, remedy, inputs[:, :, share], optimiser(net), forward=model)
    state = dict(net.state_dict())
    if settings:  # what the released code keeps outside of it
        state["low.start"] = net.low.start
        if name == "atgo":
            state["low.rule.running"] = net.low.rule.running
    return state


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "training.py").write_text(TRAINING)
    done = torchrun(folder / "training.py", RANKS, str(folder))
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"end{rank}.pt") for rank in range(RANKS)]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_process(name: str, ends: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = train_one(name, {}, slice(None), wrap=False)
    for end in ends:
        assert gap(alone, end[name]) < 1e-9
    half = train_one(name, {}, slice(0, None, RANKS), wrap=False)
    assert gap(alone, half) > 1e-3  # one share alone ends elsewhere


@pytest.mark.parametrize("name", UNSYNCHRONISED)
def test_the_released_forms_are_not_synchronised(
    name: str, ends: list[dict[str, dict[str, Tensor]]]
) -> None:
    key = f"{name}, published"
    alone = train_one(name, {"published": True}, slice(None), wrap=False)
    assert gap(alone, ends[0][key]) > 1e-4
    field = "low.start" if name == "mp_init" else "low.rule.running"
    assert not torch.equal(ends[0][key][field], ends[1][key][field])
