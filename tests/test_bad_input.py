"""What goes wrong on the user's side gives one clear line; training goes on, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_network import seeded
from torch import Tensor, nn

import spikescope
from spikescope.probes.adapters.adapter_spikescope import SpikescopeAdapter
from spikescope.probes.header import find_layers
from spikescope.probes.lif import LIF, reset_state


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.low = LIF()
        self.second = nn.Linear(8, 4)
        self.high = LIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.second(self.low(3 * self.first(x))))


def one_line(message: Any) -> str:
    text = str(message)
    assert "\n" not in text
    return text


def steps(model: nn.Module, path: Path, inputs: list[Tensor], loss_of: Any = None) -> Any:
    """Train one step per input at every=1; return the probe."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spikescope.watch(model, path, every=1) as probe:
        for x in inputs:
            optimizer.zero_grad()
            output = model(x)
            loss = output.sum() if loss_of is None else loss_of(model, output)
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
            probe.step(loss=loss)
    return probe


def test_a_model_without_spiking_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.warns(spikescope.SpikescopeWarning, match="no spiking layer was found in Seq"):
        probe = steps(model, tmp_path / "run", [torch.ones(2, 3)])
    assert not probe.active
    assert not (tmp_path / "run").exists()


def test_an_empty_batch(tmp_path: Path) -> None:
    model = seeded(Net)
    with pytest.warns(spikescope.SpikescopeWarning) as warned:
        steps(model, tmp_path / "run", [torch.ones(4, 0, 3), torch.ones(4, 2, 3)])
    assert "input of shape (4, 0, 8) holds nothing" in one_line(warned[0].message)
    run = spikescope.open_run(tmp_path / "run")
    assert set(run.table()["step"]) == {1}  # the next step is recorded as ever
    assert "empty" in set(run.events()["kind"])


def test_nan_in_the_input_marks_the_record(tmp_path: Path) -> None:
    model = seeded(Net)
    x = torch.ones(4, 5, 3)
    x[2, 1, 0] = torch.nan
    with pytest.warns(spikescope.SpikescopeWarning, match="NaN or infinite") as warned:
        steps(model, tmp_path / "run", [torch.ones(4, 5, 3), x])
    assert all(one_line(entry.message) for entry in warned)
    run = spikescope.open_run(tmp_path / "run")
    low = run.table(layer="low").set_index(["step", "t"])
    assert low.loc[(1, 2), "nonfinite"] == 0
    # From t = 3 on, one of 5 samples is NaN in all 8 units: the potential carries it along.
    assert low.loc[(1, 3), "nonfinite"] == 8
    assert low.loc[(1, 4), "nonfinite"] == 8
    assert low.loc[(1, 3), "count"] == 32
    assert low["nonfinite"].loc[0].sum() == 0
    assert run.state == "finished"
    assert set(run.events()["layer"]) >= {"low"}


def test_timesteps_that_change(tmp_path: Path) -> None:
    model = seeded(Net)
    inputs = [torch.ones(4, 5, 3), torch.ones(6, 5, 3)]
    with pytest.warns(spikescope.SpikescopeWarning, match="timesteps changed from 4 to 6"):
        steps(model, tmp_path / "run", inputs)
    by_step = spikescope.open_run(tmp_path / "run").table(layer="low").groupby("step")["t"]
    assert by_step.max().to_dict() == {0: 4, 1: 6}


def test_timesteps_that_change_inside_a_step(tmp_path: Path) -> None:
    model = seeded(Net)

    def both(net: nn.Module, output: Tensor) -> Tensor:
        return output.sum() + net(torch.ones(6, 2, 3)).sum()

    with pytest.warns(spikescope.SpikescopeWarning, match="timesteps changed from 4 to 6"):
        steps(model, tmp_path / "run", [torch.ones(4, 5, 3)], both)
    low = spikescope.open_run(tmp_path / "run").table(layer="low").set_index("t")
    assert low["samples"].to_dict() == {1: 7, 2: 7, 3: 7, 4: 7, 5: 2, 6: 2}


def test_a_loss_that_does_not_reach_a_layer(tmp_path: Path) -> None:
    model = seeded(Net)

    def detached(net: Any, output: Tensor) -> Tensor:
        return net.low(3 * net.first(torch.ones(4, 5, 3))).sum()

    with pytest.warns(spikescope.SpikescopeWarning, match="'high', step 0: the loss does not"):
        steps(model, tmp_path / "run", [torch.ones(4, 5, 3)], detached)
    run = spikescope.open_run(tmp_path / "run")
    assert (run.table(layer="high")["grad_u_count"] == 0).all()
    assert (run.table(layer="low")["grad_u_count"] > 0).all()
    events = run.events()
    assert events[events["kind"] == "no_gradient"]["layer"].tolist() == ["high"]


def test_a_forward_pass_without_backward_blames_no_layer(tmp_path: Path) -> None:
    model = seeded(Net)
    steps(model, tmp_path / "run", [torch.ones(4, 5, 3)], lambda net, out: out.sum().detach())
    assert spikescope.open_run(tmp_path / "run").events().empty


def test_an_input_that_needs_no_gradient(tmp_path: Path) -> None:
    model = nn.Sequential(LIF(), nn.Linear(3, 2), LIF())
    with pytest.warns(spikescope.SpikescopeWarning, match="nothing before it is trained"):
        steps(model, tmp_path / "run", [torch.full((4, 5, 3), 0.9)])
    table = spikescope.open_run(tmp_path / "run").table(layer="0")
    assert (table["grad_u_count"] == 0).all()


def test_two_probes_on_one_model(tmp_path: Path) -> None:
    model = seeded(Net)
    with spikescope.watch(model, tmp_path / "one", every=1) as first:
        with (
            pytest.warns(spikescope.SpikescopeWarning, match="being watched already"),
            spikescope.watch(model, tmp_path / "two", every=1) as second,
        ):
            assert not second.active
            model(torch.ones(4, 5, 3)).sum().backward()
            second.step()
        assert first.active
        first.step()
    assert len(spikescope.open_run(tmp_path / "one").table()) == 8
    assert not (tmp_path / "two").exists()


def test_a_run_that_exists_is_kept_and_the_new_name_said(tmp_path: Path) -> None:
    steps(seeded(Net), tmp_path / "run", [torch.ones(4, 5, 3)])
    before = sorted(file.name for file in (tmp_path / "run").iterdir())
    with pytest.warns(spikescope.SpikescopeWarning, match=r"exists and is kept.*run-2"):
        probe = steps(seeded(Net), tmp_path / "run", [torch.ones(4, 5, 3)] * 2)
    assert probe.path == tmp_path / "run-2"
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == before
    assert set(spikescope.open_run(probe.path).table()["step"]) == {0, 1}


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere, so nothing real refuses
    with pytest.warns(spikescope.SpikescopeWarning, match="Permission denied") as warned:
        probe = steps(seeded(Net), tmp_path / "run", [torch.ones(4, 5, 3)])
    assert str(tmp_path) in one_line(warned[0].message)
    assert not probe.active


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.warns(spikescope.SpikescopeWarning, match="recording stopped") as warned:
        probe = steps(seeded(Net), tmp_path / "file" / "run", [torch.ones(4, 5, 3)])
    assert str(tmp_path / "file") in one_line(warned[0].message)
    assert not probe.active


def test_the_current_folder_as_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(spikescope.SpikescopeWarning, match="exists and is kept"):
        probe = steps(seeded(Net), Path(), [torch.ones(4, 5, 3)])
    assert probe.path == tmp_path.with_name(f"{tmp_path.name}-2")


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "often", None])
def test_a_schedule_that_is_none(every: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"every={every!r} is not possible") as error:
        spikescope.watch(seeded(Net), tmp_path / "run", every=every)
    one_line(error.value)


@pytest.mark.parametrize("loss", [torch.ones(3), "high", None])
def test_a_loss_that_is_not_one_number(loss: Any, tmp_path: Path) -> None:
    model = seeded(Net)
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        model(torch.ones(4, 5, 3)).sum().backward()
        if loss is None:
            probe.step(loss=loss)  # no loss is no mistake
        else:
            with pytest.warns(spikescope.SpikescopeWarning, match="is not one number"):
                probe.step(loss=loss)
    run = spikescope.open_run(tmp_path / "run")
    assert run.scalars().empty
    assert len(run.table()) == 8


def test_a_single_step_layer_without_reset_goes_on_in_time(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), LIF(step_mode="single"))
    with spikescope.watch(model, tmp_path / "run", every=1) as probe:
        for _ in range(2):
            for _ in range(3):
                model(torch.ones(5, 3))
            reset_state(model)
            probe.step()
    table = spikescope.open_run(tmp_path / "run").table()
    assert table.groupby("step")["t"].apply(list).to_dict() == {0: [1, 2, 3], 1: [1, 2, 3]}


def test_probe_calls_outside_of_the_with_block_do_nothing(tmp_path: Path) -> None:
    model = seeded(Net)
    probe = spikescope.watch(model, tmp_path / "run")
    probe.step(loss=1.0)
    with probe:
        pass
    probe.step(loss=1.0)
    probe.log(accuracy=0.5)
    assert spikescope.open_run(tmp_path / "run").scalars().empty


@pytest.mark.parametrize("error", [ImportError("no module named 'x.y'"), AttributeError("tau")])
def test_a_framework_that_is_half_installed(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded(Net)
    describe = SpikescopeAdapter.describe

    def broken(self: Any, name: str, module: nn.Module) -> Any:
        if name == "low":
            raise error
        return describe(self, name, module)

    monkeypatch.setattr(SpikescopeAdapter, "describe", broken)
    _, (refused,) = find_layers(model)
    assert "spikescope could not be read" in one_line(refused["reason"])
    assert str(error) in refused["reason"]
    steps(model, tmp_path / "run", list(2.0 * torch.randn(3, 4, 50, 3)))
    run = spikescope.open_run(tmp_path / "run")
    # What replay cannot read is heard from its surrogate; the sound layer is not touched by it.
    assert {layer.name: layer.route for layer in run.covered} == {"low": "tap", "high": "replay"}
