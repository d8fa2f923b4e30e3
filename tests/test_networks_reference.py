"""The reference networks: layers and depth, their equations, what a probe sees of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spikescope import open_run, watch
from spikescope.probes.lif import LIF
from spikescope.probes.models.block import SpikingBlock
from spikescope.probes.models.catalogue import CONFIGURATIONS, build_network, network_settings
from spikescope.probes.models.normalisation import (
    NORMS,
    ThresholdBatchNorm,
    normalisation,
    start_for_spikes,
)
from spikescope.probes.models.recurrent import LeakyReadout, RecurrentLayer, recurrent_net
from spikescope.probes.models.sew_resnet import SEWBlock, sew_resnet
from spikescope.probes.models.vgg import vgg

IMAGE = (1, 8, 8)
SEQUENCE = (12, 6)


def spiking(net):
    return [name for name, module in net.named_modules() if isinstance(module, LIF)]


def weighted(net, kind=(nn.Conv2d, nn.Linear)):
    return [name for name, module in net.named_modules() if isinstance(module, kind)]


def some(shape, count=3, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def caught(module):
    """Collect what goes into a module and what comes out."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    return calls


@pytest.mark.parametrize("depth", range(5, 20))
@pytest.mark.parametrize("size", [8, 28, 32])
def test_vgg_has_the_depth_that_was_asked_for(depth, size):
    net = vgg((3, size, size), depth=depth, channels=2, timesteps=1)
    assert len(weighted(net)) == depth
    assert len(spiking(net)) == depth - 1
    assert net(some((3, size, size), 2)).shape == (2, 10)


@pytest.mark.parametrize(
    ("size", "depth", "widths"),
    [
        (8, 5, [2, 4, 8, 8]),
        (32, 9, [2, 4, 8, 8, 16, 16, 16, 16]),
        (32, 16, [2] * 3 + [4] * 3 + [8] * 3 + [16] * 6),
        (2, 6, [2] * 5),
    ],
)
def test_vgg_stages(size, depth, widths):
    net = vgg((1, size, size), depth=depth, channels=2, timesteps=1)
    assert [block.conv.out_channels for block in net.blocks] == widths
    sizes = [caught(block.lif) for block in net.blocks]
    net(some((1, size, size), 1))
    seen = [calls[0][1].shape[-1] for calls in sizes]
    # Half as many pixels whenever a stage ends; at least 2 x 2 at the end.
    stages = sorted(set(seen), reverse=True)
    assert stages == [size // 2**k for k in range(len(stages))]
    assert min(seen) >= 2


def test_vgg_pools_by_the_mean():
    net = vgg(IMAGE, depth=5, channels=2, timesteps=2)
    before, after = caught(net.blocks[0].lif), caught(net.blocks[1].conv)
    torch.manual_seed(0)
    net(some(IMAGE))
    spikes = before[0][1]
    pooled = spikes.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    torch.testing.assert_close(after[0][0], pooled.flatten(0, 1))
    assert 0 < spikes.mean() < 1


@pytest.mark.parametrize(
    ("name", "layers", "main_path"),
    [("sew-resnet18", 18, 18), ("sew-resnet34", 34, 34), ("resnet19", 19, 19)],
)
def test_residual_networks_have_the_depth_of_their_name(name, layers, main_path):
    configuration = CONFIGURATIONS[name].settings
    widths = [2 * k for k in range(1, len(configuration["blocks"]) + 1)]
    small = {"widths": widths, "timesteps": 1}
    if "hidden" in configuration:
        small["hidden"] = 4
    net = build_network(name, (3, 32, 32), 10, **small)
    on_main_path = [each for each in weighted(net) if "shortcut" not in each]
    assert len(on_main_path) == main_path == layers
    assert len(spiking(net)) == len(weighted(net)) - 1
    assert net(some((3, 32, 32), 2)).shape == (2, 10)


def test_resnet19_is_the_one_of_the_papers():
    net = build_network("resnet19", (3, 32, 32), 10)
    assert [stage[-1].block2.conv.out_channels for stage in net.stages] == [128, 256, 512]
    assert [len(stage) for stage in net.stages] == [3, 3, 2]
    assert (net.hidden.linear.out_features, net.readout.in_features) == (256, 256)
    assert isinstance(net.stem.norm, ThresholdBatchNorm)
    parameters = sum(each.numel() for each in net.parameters())
    assert 12.5e6 < parameters < 12.8e6  # 12.6 million in the literature


def test_a_residual_block_adds_spikes():
    torch.manual_seed(1)
    block = SEWBlock(3, 3, 1, "batch")
    assert isinstance(block.shortcut, nn.Identity)
    inner = caught(block.block2.lif)
    spikes = (torch.rand(2, 4, 3, 5, 5) < 0.4).float()
    out = block(spikes)
    torch.testing.assert_close(out, inner[0][1] + spikes, rtol=0, atol=0)
    assert out.max() == 2  # ADD: a sum, not an or
    wider = SEWBlock(3, 4, 2, "batch")
    inner, short = caught(wider.block2.lif), caught(wider.shortcut.lif)
    torch.testing.assert_close(wider(spikes), inner[0][1] + short[0][1], rtol=0, atol=0)
    assert wider.shortcut.conv.kernel_size == (1, 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_an_image_is_encoded_as_if_it_came_at_each_timestep(norm, training):
    torch.manual_seed(2)
    block = SpikingBlock(1, 4, norm=norm, threshold=0.2).double().train(training)
    images = 20 * some(IMAGE).double()
    repeated = images.expand(3, *images.shape)
    torch.testing.assert_close(block.encode(images, 3), block(repeated), rtol=0, atol=0)
    assert 0 < block.encode(images, 3).mean() < 1


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [1.0, 0.5**0.5])
def test_tdbn_is_its_formula(threshold, alpha):
    norm = ThresholdBatchNorm(3, threshold, alpha).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64) * 3 + 1  # [T, N, C, H, W]
    mean, var = x.mean((0, 1, 3, 4)), x.var((0, 1, 3, 4), correction=0)
    at = (slice(None), None, None)
    hat = alpha * threshold * (x - mean[at]) / torch.sqrt(var[at] + 1e-5)
    expected = hat * norm.weight[at] + norm.bias[at]
    torch.testing.assert_close(norm(x.flatten(0, 1)).unflatten(0, (2, 5)), expected)
    count = x.numel() / 3
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * var * count / (count - 1))
    norm.eval()
    with_running = alpha * threshold * (x - norm.running_mean[at])
    with_running = with_running / torch.sqrt(norm.running_var[at] + 1e-5)
    expected = with_running * norm.weight[at] + norm.bias[at]
    torch.testing.assert_close(norm(x.flatten(0, 1)).unflatten(0, (2, 5)), expected)
    # Control: plain batch norm is tdBN only where alpha V is 1.
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(norm.state_dict())
    same = torch.allclose(plain.eval()(x.flatten(0, 1)), expected.flatten(0, 1))
    assert same is (threshold * alpha == 1.0)


def test_tdbn_takes_the_threshold_of_its_layer():
    for net in (
        vgg(IMAGE, depth=5, channels=2, norm="tdbn", threshold=0.3),
        sew_resnet(IMAGE, blocks=(1,), widths=(2,), hidden=3, norm="tdbn", threshold=0.3),
        recurrent_net(4, units=3, norm="tdbn", threshold=0.3),
    ):
        norms = [each for each in net.modules() if isinstance(each, ThresholdBatchNorm)]
        assert len(norms) == len(spiking(net))
        assert {each.threshold for each in norms} == {0.3}
        assert not any(type(each) is nn.BatchNorm2d for each in net.modules())


def test_weights_for_sparse_spikes_make_a_current_of_about_one():
    torch.manual_seed(0)
    layer = nn.Conv2d(40, 60, 3)
    start_for_spikes(layer.weight)
    n = layer.weight.numel()
    std = layer.weight.std().item() * (40 * 9) ** 0.5
    assert abs(std / 3 - 1) < 4 / (2 * n) ** 0.5
    spikes = (torch.rand(50, 40, 3, 3) < 1 / 9).float()
    with torch.no_grad():
        current = nn.functional.conv2d(spikes, layer.weight)
    # Relative standard error of a second moment from 60 independent rows of weights.
    assert abs(current.square().mean().item() - 1) < 4 * (2 / 60) ** 0.5


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_recurrent_layer_by_hand(norm):
    torch.manual_seed(3)
    layer = RecurrentLayer(5, 7, norm, decay=0.7, threshold=0.8).double()
    x = (torch.rand(9, 4, 5) < 0.4).double()
    out = layer(x)
    current = x @ layer.input.weight.T
    if norm == "none":
        current = current + layer.input.bias
    else:
        mean, var = current.mean((0, 1)), current.var((0, 1), correction=0)
        current = (current - mean) / torch.sqrt(var + 1e-5)
    v = s = torch.zeros(4, 7, dtype=torch.float64)
    for t in range(9):
        u = 0.7 * v + current[t] + s @ layer.recurrent.weight.T
        s = (u >= 0.8).double()
        v = u - 0.8 * s
        torch.testing.assert_close(out[t], s, rtol=0, atol=0)
    assert 0.02 < out.mean() < 0.98
    torch.testing.assert_close(layer(x), out)  # nothing stays from the sequence before


def test_the_recurrent_layer_learns_through_its_feedback():
    torch.manual_seed(3)
    layer = RecurrentLayer(5, 7)
    layer((torch.rand(9, 4, 5) < 0.4).float()).sum().backward()
    assert layer.recurrent.weight.grad.abs().max() > 0
    assert layer.recurrent.bias is None


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_readout_is_a_leaky_sum(decay):
    torch.manual_seed(4)
    readout = LeakyReadout(6, 3, decay).double()
    spikes = (torch.rand(8, 2, 6) < 0.3).double()
    y = torch.zeros(2, 3, dtype=torch.float64)
    expected = []
    for now in spikes:
        y = decay * y + readout.linear(now)
        expected.append(y)
    torch.testing.assert_close(readout(spikes), torch.stack(expected))


def test_logits_of_the_recurrent_network_are_the_largest_potential_over_time():
    torch.manual_seed(5)
    net = recurrent_net(6, classes=3, units=[8, 5])
    potential = caught(net.readout)
    logits = net(some(SEQUENCE))
    torch.testing.assert_close(logits, potential[0][1].max(0).values)
    assert potential[0][1].shape == (12, 3, 3)


def test_an_image_is_read_row_by_row():
    net = recurrent_net(16, units=4)
    images = some((2, 5, 8))
    rows = torch.zeros(3, 5, 16)
    for row in range(5):
        rows[:, row, :8], rows[:, row, 8:] = images[:, 0, row], images[:, 1, row]
    torch.testing.assert_close(net(images), net(rows))


SMALL = {
    "vgg": {"channels": 2, "timesteps": 2},
    "sew-resnet": {"widths": [2, 3, 4], "blocks": [1, 1, 1], "timesteps": 2, "hidden": 3},
    "recurrent": {"units": [6, 5]},
    "digits-net": {"channels": 2, "timesteps": 2},
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [n for n, each in CONFIGURATIONS.items() if each.size == "cpu"])
def test_a_probe_covers_every_spiking_layer_without_a_mismatch(tmp_path, name, norm):
    torch.manual_seed(6)
    family = CONFIGURATIONS[name].family
    shape = SEQUENCE if family == "recurrent" else IMAGE
    settings = {**SMALL[family], "norm": norm, "decay": 0.8, "threshold": 0.7}
    net = build_network(name, shape, 4, **settings)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with watch(net, tmp_path / "run", every=1) as probe:
        for step in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(some(shape, 4, step)), torch.arange(4))
            loss.backward()
            optimizer.step()
            probe.step(loss=loss)
    run = open_run(probe.path)
    names = spiking(net)
    assert [layer.name for layer in run.covered] == names
    assert {layer.route for layer in run.covered} == {"replay"}
    table = run.table(["mismatch", "count", "rate"])
    timesteps = 12 if family == "recurrent" else 2
    assert len(table) == 2 * timesteps * len(names)  # every timestep of every layer, both steps
    assert table["mismatch"].sum() == 0
    assert (table["count"] > 0).all()
    assert 0 < table["rate"].mean() < 1
    assert run.problems == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["vgg-small", "sew-small", "recurrent-small"])
def test_gradients_reach_the_first_layer(name, norm):
    torch.manual_seed(7)
    shape = SEQUENCE if name.startswith("recurrent") else IMAGE
    net = build_network(name, shape, 4, norm=norm)
    nn.functional.cross_entropy(net(some(shape, 8)), torch.arange(8) % 4).backward()
    silent = [n for n, each in net.named_parameters() if each.grad is None or not each.grad.any()]
    # What a batch norm follows has no need of a bias, so none is there to be without a gradient.
    assert silent == []


def test_settings_of_a_neuron_reach_all_of_them():
    for name, shape in (("vgg9", (3, 16, 16)), ("sew-small", IMAGE), ("recurrent-large", SEQUENCE)):
        small = {"channels": 2} if name == "vgg9" else {}
        net = build_network(name, shape, 4, **small, decay=0.3, reset="to_value", start=0.2)
        specs = [module.spec for module in net.modules() if isinstance(module, LIF)]
        assert len(specs) == len(spiking(net)) > 0
        assert {(each.decay, each.reset) for each in specs} == {(0.3, "to_value")}
        assert {each.start for each in specs} == {torch.tensor(0.2).item()}


def test_the_seed_decides_the_weights():
    nets = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        nets.append(build_network("sew-small", IMAGE, 4).state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert any(not torch.equal(nets[0][name], nets[2][name]) for name in nets[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vgg(IMAGE, depth=4), "depth=4 is not possible: .* 5 to 19"),
        (lambda: vgg(IMAGE, depth=20), "depth=20 is not possible"),
        (lambda: vgg(IMAGE, channels=0), "channels=0 is not possible"),
        (lambda: vgg(IMAGE, timesteps=0), "timesteps=0 is not possible"),
        (lambda: vgg((1, 1, 8)), "images of 1 x 8 pixels are too small"),
        (lambda: vgg(IMAGE, norm="layer"), "norm='layer' is not one of 'none', 'batch', 'tdbn'"),
        (lambda: vgg(IMAGE, decay=2.0), "decay"),
        (lambda: sew_resnet(IMAGE, blocks=()), r"blocks=\[\] and widths=.* do not fit"),
        (lambda: sew_resnet(IMAGE, blocks=(1, 2)), "do not fit: one number each per stage"),
        (lambda: sew_resnet(IMAGE, blocks=(0,), widths=(4,)), "blocks=0 is not possible"),
        (lambda: sew_resnet(IMAGE, blocks=(1,), widths=(0,)), "widths=0 is not possible"),
        (lambda: sew_resnet(IMAGE, hidden=-1), "hidden=-1 is not possible"),
        (lambda: recurrent_net(0), "features=0 is not possible"),
        (lambda: recurrent_net(3, units=0), "units=0 is not possible"),
        (lambda: recurrent_net(3, units=[]), "layers=0 is not possible"),
        (lambda: recurrent_net(3, readout_decay=1.0), "readout_decay=1.0 is not possible"),
        (lambda: recurrent_net(3, norm="group"), "norm='group' is not one of"),
        (lambda: normalisation("tdbn", 3, threshold=0.0), "threshold=0.0 is not possible"),
        (lambda: ThresholdBatchNorm(3, alpha=float("nan")), "alpha=nan is not possible"),
        (lambda: ThresholdBatchNorm(0), "channels=0 is not possible"),
        (lambda: build_network("vgg", IMAGE, 3), "network='vgg' is not one of 'digits-net'"),
        (
            lambda: build_network("vgg9", IMAGE, 3, units=3),
            "network 'vgg9' has no setting 'units': it has depth, channels, timesteps, norm, decay",
        ),
        (
            lambda: build_network("vgg9", SEQUENCE, 3),
            r"shape \(12, 6\) do not fit network 'vgg9'.*use 'recurrent-small'",
        ),
        (lambda: build_network("recurrent-small", (5,), 3), r"shape \(5,\) do not fit"),
        (lambda: build_network("digits-net", (1, 28, 28), 3), r"takes the digits' \(1, 8, 8\)"),
        (lambda: build_network("vgg9", IMAGE, 3, step_mode="single"), "no setting 'step_mode'"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message) as caught_error:
        call()
    assert "\n" not in str(caught_error.value)


def test_every_configuration_names_settings_that_its_family_has():
    for configuration in CONFIGURATIONS.values():
        assert set(configuration.settings) <= set(network_settings(configuration.family))
    sizes = {each.size for each in CONFIGURATIONS.values()}
    assert sizes == {"cpu", "gpu"}


def test_integers_of_numpy_serve_as_shapes():
    shape = tuple(np.zeros((2, 1, 8, 8)).shape[1:])
    assert build_network("vgg-small", shape, 4)(some(IMAGE)).shape == (3, 4)
