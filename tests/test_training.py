"""The training loop: reproducible, honest about accuracy, polite to probes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_images import two_halves
from torch import nn

from spikescope.data.datasets import Dataset
from spikescope.probes.lif import LIF
from spikescope.probes.models.networks import digits_net
from spikescope.probes.models.training import find_device, measure_accuracy, train


def tiny_net(seed=0, **settings):
    torch.manual_seed(seed)
    return digits_net(**{"timesteps": 2, "channels": 2, "classes": 2, **settings})


class NotingProbe:
    """Notes what the loop tells a probe."""

    def __init__(self, model):
        self.model = model
        self.losses = []
        self.logged = []

    def step(self, loss):
        assert self.model.training
        assert all(p.grad is not None for p in self.model.parameters())
        self.losses.append(loss.item())

    def log(self, **scalars):
        self.logged.append((len(self.losses), scalars))


def test_same_seed_gives_the_same_losses_and_weights_bit_for_bit():
    runs = []
    for order_seed in (3, 3, 4):
        net = tiny_net()
        history = train(net, two_halves(), epochs=2, batch_size=4, seed=order_seed)
        runs.append((history, net.state_dict()))
    (first, weights), (again, weights_again), (other, _) = runs
    assert first == again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    assert first.losses != other.losses


def test_the_loop_leaves_the_global_random_state_alone():
    net = tiny_net()
    before = torch.get_rng_state()
    train(net, two_halves(), epochs=1, batch_size=4)
    assert torch.equal(before, torch.get_rng_state())


def test_a_probe_is_told_everything_and_changes_nothing():
    alone = train(tiny_net(), two_halves(), epochs=2, batch_size=4)
    net = tiny_net()
    probe = NotingProbe(net)
    steps, epochs = [], []
    watched = train(
        net,
        two_halves(),
        epochs=2,
        batch_size=4,
        probe=probe,
        on_step=lambda *told: steps.append(told),
        on_epoch=lambda *told: epochs.append(told),
    )
    assert watched == alone
    # 10 samples in batches of 4: three steps an epoch, the last one of 2 samples.
    assert len(alone.losses) == 6
    assert probe.losses == alone.losses
    first, second = alone.accuracies
    assert probe.logged == [(3, {"accuracy": first}), (6, {"accuracy": second})]
    assert [(step, total) for step, total, _ in steps] == [(n, 6) for n in range(1, 7)]
    assert [loss.item() for _, _, loss in steps] == alone.losses
    assert epochs == [(1, first), (2, second)]


def test_losses_are_the_cross_entropy_of_each_batch():
    data = two_halves()
    net = tiny_net()
    twin = copy.deepcopy(net)
    history = train(net, data, epochs=1, batch_size=10)
    logits = twin(torch.from_numpy(data.train_inputs)).detach().double()
    rows = torch.arange(10), torch.from_numpy(data.train_targets)
    by_hand = (logits.exp().sum(1).log() - logits[rows]).mean()
    assert history.losses == [pytest.approx(by_hand.item(), abs=1e-6)]


def test_a_network_learns_what_can_be_learned():
    net = tiny_net(channels=4)
    data = two_halves(40)
    history = train(net, data, epochs=15, batch_size=10, learning_rate=1e-2)
    assert np.mean(history.losses[-2:]) < 0.3 < np.mean(history.losses[:2])
    assert history.accuracies[-1] >= 0.9
    # Control: without a learning rate nothing is learned.
    net = tiny_net(channels=4)
    idle = torch.optim.SGD(net.parameters(), lr=0.0)
    history = train(net, data, epochs=2, batch_size=20, optimizer=idle)
    assert history.losses[0] == pytest.approx(history.losses[1], abs=1e-5)


class Constant(nn.Module):
    """Always says class 1."""

    def forward(self, inputs):
        assert not self.training
        return torch.tensor([0.0, 1.0, 0.5]).expand(len(inputs), 3)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_accuracy_counted_by_hand(batch_size):
    targets = np.array([1, 0, 1, 1, 2])
    inputs = np.zeros((5, 2), dtype=np.float32)
    data = Dataset(inputs[:0], targets[:0], inputs, targets, "five")
    assert measure_accuracy(Constant(), data, batch_size=batch_size) == 3 / 5


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_mode_and_the_norm_as_they_were(training):
    net = tiny_net().train(training)
    before = copy.deepcopy(net.state_dict())
    measure_accuracy(net, two_halves())
    assert net.training is training
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class SingleSteps(nn.Module):
    """A network that runs its own loop over time."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)
        self.lif = LIF(step_mode="single")

    def forward(self, inputs):
        return sum(self.lif(self.linear(inputs.flatten(1))) for _ in range(3))


def test_single_step_layers_start_fresh_with_each_batch():
    torch.manual_seed(0)
    # Batches of 4, 4 and 2: a state that stayed would not even fit the next one.
    history = train(SingleSteps(), two_halves(), epochs=1, batch_size=4)
    assert len(history.losses) == 3


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_counts_below_one_are_refused(name):
    settings = {"epochs": 1, "batch_size": 4, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 is not possible: it must be at least 1"):
        train(tiny_net(), two_halves(), **settings)


def test_empty_parts_are_named():
    data = two_halves()
    empty = data.train_inputs[:0], data.train_targets[:0]
    with pytest.raises(ValueError, match="training part of 'nothing' is empty"):
        train(tiny_net(), Dataset(*empty, *empty, "nothing"), epochs=1)
    with pytest.raises(ValueError, match="test part of 'half' is empty"):
        measure_accuracy(tiny_net(), Dataset(data.train_inputs, data.train_targets, *empty, "half"))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device='cuda', but torch finds no CUDA device"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="device='tpu' is not one of 'auto', 'cpu', 'cuda'"):
        find_device("tpu")
