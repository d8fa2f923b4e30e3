"""A layer that computes a whole sequence in one call: its time axis is asked for, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_network import PlainStep, seeded
from torch import Tensor, nn

import spikescope

TIMESTEPS, SAMPLES = 4, 9

# Where u comes from in this made-up layer is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*dL/du over all paths is not recorded")


class AtOnce(nn.Module):
    """u[t] is the running mean of the input; one call of the surrogate for all timesteps."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.axis] = -1
        elapsed = torch.arange(1, x.shape[self.axis] + 1, dtype=x.dtype).view(shape)
        self.z = x.cumsum(self.axis) / elapsed - 0.5
        return PlainStep.apply(self.z, 0.3)


def net(axis: int) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(6, 5), AtOnce(axis), nn.Linear(5, 3)))


def record(axis: int, path: Path, named: Any) -> tuple[spikescope.Run, nn.Module]:
    model = net(axis).double()
    shape = (TIMESTEPS, SAMPLES, 6) if axis == 0 else (SAMPLES, TIMESTEPS, 6)
    with spikescope.watch(model, path, every=1, time_axis=named) as probe:
        for _ in range(3):  # calibration first, then figures of the surrogate
            x = 3.0 * torch.randn(shape, dtype=torch.float64)
            (model(x) ** 2).sum().backward()
            probe.step()
    return spikescope.open_run(path), model


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_a_named_axis_is_followed(axis: int, tmp_path: Path) -> None:
    place = 1 if axis == -2 else axis
    run, model = record(place, tmp_path / "run", {"1": axis})
    rows = run.table(layer="1").query("step == 2")
    z = model[1].z.detach().movedim(place, 0).flatten(1).numpy()
    assert rows["t"].tolist() == [1, 2, 3, 4]
    assert rows["samples"].tolist() == [SAMPLES] * TIMESTEPS
    assert rows["spikes"].tolist() == (z >= 0).sum(1).tolist()
    np.testing.assert_allclose(rows["u_mean"], z.mean(1), rtol=1e-12, atol=1e-14)
    silent = np.cumsum(z >= 0, axis=0) == 0
    assert rows["silent"].tolist() == silent.sum(1).tolist()
    covered = (np.abs(z) < 0.3 * np.sqrt(99.0)).sum(1)  # 1 / (1 + (z / 0.3)^2) > 0.01
    assert rows["covered"].tolist() == covered.tolist()
    assert (rows["grad_s_total_count"] == SAMPLES * 5).all()
    assert "time_axis" not in set(run.events()["kind"])


def test_an_axis_that_nobody_named_is_asked_for(tmp_path: Path) -> None:
    with pytest.warns(spikescope.SpikescopeWarning, match=r"time_axis=\{'1': 0\}") as warned:
        run, _ = record(0, tmp_path / "run", None)
    (asked,) = (str(w.message) for w in warned if "time_axis" in str(w.message))
    assert "shape (4, 9, 5)" in asked
    assert set(run.table()["t"]) == {1}
    assert "time_axis" in set(run.events()["kind"])


def test_one_call_may_be_one_timestep(tmp_path: Path) -> None:
    run, _ = record(0, tmp_path / "run", {"1": None})
    assert set(run.table()["t"]) == {1}


def test_an_axis_that_cannot_be(tmp_path: Path) -> None:
    with pytest.warns(spikescope.SpikescopeWarning, match="no spiking layer") as warned:
        model = net(0)
        with spikescope.watch(model, tmp_path / "run", every=1, time_axis={"1": 3}) as probe:
            model(torch.randn(4, 9, 6)).sum().backward()
            probe.step()
    assert any("time_axis=3 is not possible" in str(w.message) for w in warned)


def test_a_name_that_no_module_has(tmp_path: Path) -> None:
    with pytest.warns(spikescope.SpikescopeWarning, match="time_axis names 'lif'"):
        record(0, tmp_path / "run", {"1": 0, "lif": 0})
