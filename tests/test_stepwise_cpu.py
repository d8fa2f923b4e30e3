"""What makes layers that are called timestep by timestep cheap changes no count."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikescope.analysis.neuron import NeuronSpec
from spikescope.analysis.surrogate import Surrogate
from spikescope.data.schema import COVERAGE_EPSILON
from spikescope.probes import slopes_cpu
from spikescope.probes.past import Past
from spikescope.probes.slopes_cpu import Slope
from spikescope.probes.update_rule import Numbers, Update


@pytest.mark.parametrize("width", [1.0, 1.0 / math.pi, 0.317])
def test_coverage_is_counted_bit_for_bit_at_its_edge(
    width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    surrogate = Surrogate("arctan", peak=0.7, width=width)
    edge = np.float32(surrogate.half_width(COVERAGE_EPSILON))
    steps = np.arange(-200, 201, dtype=np.int32)
    near = torch.from_numpy((edge.view(np.int32) + steps).view(np.float32))
    z = torch.cat([near, -near, torch.linspace(-12, 12, 99) * width]).view(1, 1, -1)
    heights = surrogate.derivative(z, xp=torch)
    want = int((heights > COVERAGE_EPSILON * surrogate.peak).sum())
    assert 0 < want < z.numel()

    def sums() -> tuple[float, float, int]:
        found = Slope(surrogate, z.dtype).sums(z.clone(), 12.0 * width, torch.empty_like(z))
        return found[0][0], found[1][0], int(found[3].sum())

    total, square, covered = sums()
    assert covered == want
    assert total == pytest.approx(float(heights.double().sum()), rel=1e-6)
    assert square == pytest.approx(float(heights.double().square().sum()), rel=1e-6)
    monkeypatch.setattr(slopes_cpu, "_known_edge", lambda *_: 100.0 * (1 + 1e-5))
    assert sums()[2] != want  # an edge that is a little off


def test_what_has_fired_is_what_counts_say() -> None:
    spikes = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    past, counts = Past(spikes[0]), torch.zeros(3)
    assert past.counts().tolist() == [0.0, 0.0, 0.0]
    for t, now in enumerate(spikes, 1):
        past.take(now.unsqueeze(0))
        counts += now
        assert ((past.counts() > 0) == (counts > 0)).all()
        assert ((past.counts() == t) == (counts == t)).all()


def test_dynamics_stay_the_same_object_while_their_numbers_do() -> None:
    numbers, decay = Numbers(), torch.tensor(0.3)
    spec = NeuronSpec(decay=decay, gain=0.5)
    plain = numbers.of(spec)
    assert plain.decay == decay.item()
    assert numbers.of(replace(spec, decay=decay.clone())) is plain
    decay.fill_(0.4)
    assert numbers.of(spec).decay == decay.item() != plain.decay
    for other in (NeuronSpec(decay=torch.full((3,), 0.5)), replace(spec, rest=0.1), plain):
        assert numbers.of(other) is other


@pytest.mark.parametrize("decay", [0.5, 0.9])
@pytest.mark.parametrize("gain", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_passes_round_as_the_layer_does(
    decay: float, gain: float, dtype: torch.dtype
) -> None:
    v, current = torch.randn(2, 999, dtype=dtype, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(v)
    Update(NeuronSpec(decay=decay, gain=gain), dtype).charge(v, current, out, torch.empty_like(v))
    assert torch.equal(out, decay * v + gain * current)
    if decay == 0.9:  # a fused product rounds once
        fused = torch.addcmul(gain * current.double(), v.double(), torch.tensor(0.9).double())
        assert dtype == torch.float64 or not torch.equal(out, fused.to(dtype))
