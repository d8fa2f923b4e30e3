"""The network of the demonstration: its layers, its time axis, its readout."""

from __future__ import annotations

import pytest
import torch

from spikescope.probes.lif import LIF
from spikescope.probes.models.networks import digits_net


def images(count=4, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def tiny(**settings):
    torch.manual_seed(0)
    return digits_net(**{"timesteps": 3, "channels": 2, **settings})


def caught_by(module):
    """Collect what goes into a module and what comes out."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    return calls


def test_six_spiking_layers_with_names_that_people_can_read():
    net = digits_net()
    names = [name for name, module in net.named_modules() if isinstance(module, LIF)]
    assert names == [f"block{number}.lif" for number in range(1, 7)]
    assert net.timesteps == 6


def test_shapes_from_image_to_logits():
    net = tiny()
    seen = {name: caught_by(net.get_submodule(f"{name}.lif")) for name in ("block1", "block6")}
    assert net(images(5)).shape == (5, 10)
    assert seen["block1"][0][1].shape == (3, 5, 2, 8, 8)
    assert seen["block6"][0][1].shape == (3, 5, 8, 2, 2)


def test_direct_coding_repeats_one_current():
    net = tiny()
    calls = caught_by(net.block1.lif)
    deeper = caught_by(net.block3.lif)
    net(images())
    current = calls[0][0]
    for t in (1, 2):
        torch.testing.assert_close(current[t], current[0], rtol=0, atol=1e-6)
    # Control: deeper currents come from spikes and do change over time.
    assert (deeper[0][0][1] - deeper[0][0][0]).abs().max() > 1e-2


def test_norm_takes_its_statistics_over_time_and_batch_together():
    net = tiny()
    calls = caught_by(net.block2.conv)
    net(images())
    convolved = calls[0][1]
    assert convolved.shape[0] == 3 * 4
    expected = 0.1 * convolved.mean((0, 2, 3))  # momentum 0.1, from a running mean of 0
    torch.testing.assert_close(net.block2.norm.running_mean, expected)
    at_first = 0.1 * convolved.unflatten(0, (3, 4))[0].mean((0, 2, 3))
    assert (at_first - expected).abs().max() > 1e-4


def test_logits_are_the_mean_over_timesteps_of_a_linear_readout():
    net = tiny()
    calls = caught_by(net.block6.lif)
    logits = net(images())
    by_hand = sum(spikes.flatten(1) @ net.readout.weight.T for spikes in calls[0][1]) / 3
    torch.testing.assert_close(logits, by_hand + net.readout.bias)


def test_settings_reach_every_neuron():
    net = tiny(decay=0.25, reset="to_value", start=0.5)
    for module in net.modules():
        if isinstance(module, LIF):
            assert (module.spec.decay, module.spec.reset, module.spec.start) == (
                0.25,
                "to_value",
                0.5,
            )


def test_gradient_reaches_the_first_layer():
    net = tiny(channels=4)
    net(images(8)).square().sum().backward()
    assert net.block1.conv.weight.grad.abs().max() > 0


def test_a_batch_of_size_0_gives_no_logits():
    assert tiny().eval()(images(0)).shape == (0, 10)


@pytest.mark.parametrize("name", ["timesteps", "channels", "classes"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 is not possible: it must be at least 1"):
        digits_net(**{name: 0})
