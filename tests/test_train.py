"""spikescope train: any network on any data, interrupted and resumed, from Python and the shell."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import command
from dataset_files import write_mnist
from rich.console import Console

from spikescope import open_run
from spikescope.data.datasets import Dataset, load
from spikescope.probes.models import session
from spikescope.probes.models.catalogue import build_network
from spikescope.probes.models.checkpoint import load_checkpoint
from spikescope.probes.models.session import resume_training, run_training
from spikescope.probes.models.settings import TrainSettings, read_settings
from spikescope.probes.models.training import Trainer
from spikescope.probes.remedies import attach_remedy

EXAMPLES = sorted((Path(__file__).parent / "benchmarks" / "configs").glob("*.toml"))


def quiet():
    return Console(file=io.StringIO(), width=120)


def tiny(tmp_path, **changes):
    """Return settings of a training of 2 epochs with 3 steps each, a second in all."""
    base = {
        "network": "recurrent-small",
        "data": "randman",
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        "record_every": 1,
        "out": str(tmp_path / "runs"),
        "network_settings": {"units": 6, "decay": 0.9},
        "data_settings": {"classes": 2, "units": 5, "timesteps": 6, "samples": 13},
    }
    return TrainSettings(**{**base, **changes})


def weights(path):
    return load_checkpoint(path / "checkpoint.pt")["training"]["model"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupted_after(monkeypatch, step):
    """Make the user press Ctrl-C in midst of a step."""
    real = Trainer._step

    def stepped(self, batch, probe):
        if self.position.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, probe)

    monkeypatch.setattr(Trainer, "_step", stepped)


CASES = {
    "recurrent": {},
    "conv with tdBN": {
        "network": "vgg-small",
        "data": "digits",
        "epochs": 2,
        "batch_size": 500,
        "network_settings": {"channels": 2, "timesteps": 2, "norm": "tdbn"},
        "data_settings": {},
    },
    "MP-Init": {"remedies": {"mp_init": {}}},
    "learned thresholds": {"remedies": {"trsg": {}}},
    "moving thresholds": {"remedies": {"atgo": {}}},
    "a penalty": {"remedies": {"sparsity": {"final_rate": 0.02}}},
    "mixed precision": {"amp": True},
    "recommended": {"recommend": True},
}


# The end of an epoch is a case of its own: the test after it belongs to the rest.
@pytest.mark.parametrize(
    ("case", "step"), [*((case, 2) for case in CASES), ("recurrent", 3), ("conv with tdBN", 3)]
)
def test_interrupted_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch, case, step):
    settings = tiny(tmp_path, **CASES[case])
    whole = run_training(settings, quiet())
    assert whole.finished
    interrupted_after(monkeypatch, step)
    broken = run_training(replace(settings, out=str(tmp_path / "broken")), quiet())
    assert not broken.finished
    assert broken.steps == step
    monkeypatch.undo()
    resumed = resume_training(broken.path, console=quiet())
    assert resumed.finished
    assert same(weights(resumed.path), weights(whole.path))
    assert not same(weights(resumed.path), weights_at_start(settings))
    one, other = (load_checkpoint(each.path / "checkpoint.pt") for each in (whole, resumed))
    assert one["training"]["history"] == other["training"]["history"]
    assert one["training"]["position"] == other["training"]["position"]
    assert resumed.accuracies == whole.accuracies
    assert resumed.steps == whole.steps
    # One run, as if it had not been interrupted: the same steps recorded, each once.
    assert resumed.path == broken.path
    runs = [open_run(each.path) for each in (whole, resumed)]
    steps = [run.table(mode="train").groupby(["step", "layer", "t"]).size() for run in runs]
    assert steps[0].index.tolist() == steps[1].index.tolist()
    assert set(steps[1]) == {1}
    assert same_tree(one["training"]["optimizer"], other["training"]["optimizer"])
    assert same_tree(one["training"]["remedies"], other["training"]["remedies"])


def weights_at_start(settings):
    data = load(settings.data, settings.seed, **settings.data_settings)
    model, _ = session._prepare(settings, data, torch.device("cpu"))
    return model.state_dict()


def same_tree(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_tree, one, other))
    return one == other


def test_the_last_checkpoint_serves_after_a_crash(tmp_path, monkeypatch):
    settings = tiny(tmp_path, checkpoint_every=2)
    whole = run_training(settings, quiet())
    real = Trainer._step

    def crashing(self, batch, probe):
        if self.position.step == 5:
            raise RuntimeError("out of memory")
        return real(self, batch, probe)

    monkeypatch.setattr(Trainer, "_step", crashing)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_training(replace(settings, out=str(tmp_path / "broken")), quiet())
    monkeypatch.undo()
    (broken,) = (tmp_path / "broken").iterdir()
    assert load_checkpoint(broken / "checkpoint.pt")["training"]["position"]["step"] == 4
    assert open_run(broken).state == "broken off"
    assert same(weights(resume_training(broken, console=quiet()).path), weights(whole.path))


def test_the_seed_decides_everything(tmp_path):
    ends = [
        run_training(tiny(tmp_path, seed=seed, out=str(tmp_path / str(number))), quiet())
        for number, seed in enumerate((1, 1, 2))
    ]
    assert same(weights(ends[0].path), weights(ends[1].path))
    assert not same(weights(ends[0].path), weights(ends[2].path))


def test_a_resumed_training_can_be_interrupted_again(tmp_path, monkeypatch):
    whole = run_training(tiny(tmp_path), quiet())
    path = None
    for step in (1, 4):
        interrupted_after(monkeypatch, step)
        settings = tiny(tmp_path, out=str(tmp_path / "broken"))
        part = resume_training(path, console=quiet()) if path else run_training(settings, quiet())
        monkeypatch.undo()
        assert (part.steps, part.finished) == (step, False)
        path = part.path
    last = resume_training(path / "checkpoint.pt", console=quiet())
    assert same(weights(last.path), weights(whole.path))


def test_what_draws_from_the_global_random_state_goes_on_as_well(tmp_path, monkeypatch):
    """Dropout, say."""
    real = Trainer._step
    drawn = []

    def drawing(self, batch, probe):
        drawn.append(torch.rand(()).item())
        if len(drawn) == 6 + 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, probe)

    monkeypatch.setattr(Trainer, "_step", drawing)
    run_training(tiny(tmp_path), quiet())
    broken = run_training(tiny(tmp_path, out=str(tmp_path / "broken")), quiet())
    torch.manual_seed(99)
    resume_training(broken.path, console=quiet())
    assert len(drawn) == 12
    assert drawn[6:] == drawn[:6]


def test_a_second_interrupt_ends_at_once(tmp_path, monkeypatch):
    real = Trainer._step

    def impatient(self, batch, probe):
        # To this thread: two that another one takes may become one.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return real(self, batch, probe)

    monkeypatch.setattr(Trainer, "_step", impatient)
    # A shell that starts the tests in the background lets them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_training(tiny(tmp_path), quiet())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_as_they_were(tmp_path):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    run_training(tiny(tmp_path, epochs=1), quiet())
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_it_trains_as_well(tmp_path):
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(run_training(tiny(tmp_path, epochs=1), quiet()))
    )
    thread.start()
    thread.join()
    assert ended[0].finished


def test_the_run_holds_what_was_trained(tmp_path):
    outcome = run_training(tiny(tmp_path, remedies={"count_bound": {"bound": 0.0}}), quiet())
    run = open_run(outcome.path)
    scalars = run.scalars()
    history = load_checkpoint(outcome.path / "checkpoint.pt")["training"]["history"]
    assert scalars["loss"].dropna().tolist() == pytest.approx(history["losses"])
    assert scalars["accuracy"].dropna().tolist() == outcome.accuracies == history["accuracies"]
    assert (scalars["penalty"].dropna() >= 0).all()
    assert len(scalars["penalty"].dropna()) == 6
    assert [layer.name for layer in run.covered] == ["layers.0.lif"]
    assert outcome.accuracy == outcome.accuracies[-1]
    assert run.state == "finished"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_for_a_cpu_train(tmp_path, path):
    settings = read_settings(path)
    if settings.device == "cuda":
        pytest.skip("for a GPU; the test of the settings builds its network")
    data = load_or_fake(settings, tmp_path)
    some = np.linspace(0, len(data.train_inputs) - 1, 8).astype(int)
    first_steps = Dataset(
        data.train_inputs[some],
        data.train_targets[some],
        data.test_inputs[:4],
        data.test_targets[:4],
        data.name,
        data.scale,
    )
    model, remedies = session._prepare(settings, first_steps, torch.device("cpu"))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    trainer = Trainer(model, first_steps, epochs=1, batch_size=4, remedies=remedies)
    trainer.run()
    assert trainer.position.step == 2
    assert np.isfinite(trainer.history.losses).all()
    assert not same(before, model.state_dict())


def load_or_fake(settings, tmp_path):
    if settings.data == "mnist":
        write_mnist(tmp_path / "mnist")
    return load(settings.data, settings.seed, tmp_path, **settings.data_settings)


def test_bytes_become_inputs_between_0_and_1(tmp_path):
    write_mnist(tmp_path / "mnist")
    outcome = run_training(
        TrainSettings(
            data="mnist",
            data_dir=str(tmp_path),
            epochs=1,
            batch_size=10,
            device="cpu",
            network_settings={"channels": 2, "timesteps": 1},
            out=str(tmp_path / "runs"),
        ),
        quiet(),
    )
    assert outcome.test_samples == 10
    # The same in float32 learns the same.
    data = load("mnist", data_dir=tmp_path)
    as_float = replace(
        data,
        train_inputs=data.train_inputs.astype(np.float32) * np.float32(1 / 255),
        test_inputs=data.test_inputs.astype(np.float32) * np.float32(1 / 255),
        scale=1.0,
    )
    torch.manual_seed(0)
    model = build_network("vgg-small", (1, 28, 28), 10, channels=2, timesteps=1)
    Trainer(model, as_float, epochs=1, batch_size=10, learning_rate=5e-3).run()
    assert same(model.state_dict(), weights(outcome.path))


def test_a_penalty_takes_part_and_mixed_precision_is_one(tmp_path):
    data = load("randman", classes=2, units=5, timesteps=6, samples=13)

    def trained(amp=False, remedies=(), **settings):
        torch.manual_seed(0)
        model = build_network("recurrent-small", (6, 5), 2, units=6)
        attached = [attach_remedy(name, model, **settings) for name in remedies]
        seen = []
        model.layers[0].input.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
        Trainer(model, data, epochs=1, batch_size=8, amp=amp, remedies=attached).run()
        return model.state_dict(), set(seen)

    plain, dtypes = trained()
    assert dtypes == {torch.float32}
    mixed, dtypes = trained(amp=True)
    assert dtypes == {torch.bfloat16}
    assert not same(plain, mixed)
    assert all(each.dtype == torch.float32 for each in mixed.values())
    assert not same(plain, trained(remedies=["count_bound"], bound=0.0)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "vgg-small", "network_settings": {}}, "do not fit network 'vgg-small'"),
        ({"network_settings": {"depth": 5}}, "has no setting 'depth'"),
        ({"data_settings": {"time": 3}}, "data 'randman' has no setting 'time'"),
        ({"data_settings": {"classes": 1}}, "classes=1 is not possible"),
        ({"remedies": {"mp_init": {"speed": 1}}}, "has no setting 'speed'"),
        ({"data": "mnist", "data_settings": {}}, "name their folder with data_dir"),
        ({"device": "cuda"}, "torch finds no CUDA device"),
    ],
)
def test_settings_that_do_not_fit_leave_no_folder(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run_training(tiny(tmp_path, **changes), quiet())
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "runs")
    with pytest.raises(ValueError, match=r"^out='.*/file/runs' is not possible .*: name another"):
        run_training(tiny(tmp_path, out=inside), quiet())
    # A disk may also refuse later than that.
    monkeypatch.setattr(session, "require_folder", lambda folder: None)
    with (
        pytest.raises(ValueError, match=r"nothing could be written to .*: say where with out"),
        pytest.warns(match="recording stopped"),
    ):
        run_training(tiny(tmp_path, out=inside), quiet())


def test_what_cannot_be_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        resume_training(tmp_path)
    outcome = run_training(tiny(tmp_path, epochs=1), quiet())
    with pytest.raises(ValueError, match=r"is finished \(1 epochs\)") as caught:
        resume_training(outcome.path)
    assert "\n" not in str(caught.value)
    path = outcome.path / "checkpoint.pt"
    content = load_checkpoint(path)
    changed = {**content["settings"], "network_settings": {"units": 7}}
    torch.save({**content, "settings": changed}, path)
    with pytest.raises(ValueError, match="the checkpoint is of another model") as caught:
        resume_training(path)
    assert "\n" not in str(caught.value)
    changed = {**content["settings"], "remedies": {"mp_init": {}}}
    torch.save({**content, "settings": changed}, path)
    with pytest.raises(ValueError, match="has 0 remedies, the model 1"):
        resume_training(path)


def train(monkeypatch, capsys, *arguments):
    """Run the command in this process; return its status, what it printed and what it said."""
    status = command("train", *arguments, monkeypatch=monkeypatch)
    return status, *capsys.readouterr()


def config(tmp_path, **changes):
    settings = asdict(tiny(tmp_path, **changes))
    lines = [
        f"{name} = {json.dumps(settings[name])}"
        for name in settings
        if not isinstance(settings[name], dict)
    ]
    for name in ("network_settings", "data_settings"):
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings[name].items()]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    return path


def test_the_command_trains_once_per_seed(monkeypatch, capsys, tmp_path):
    options = ["--seeds", "0,3", "--epochs", 1, "--remedy", "mp_init", "--json"]
    status, out, _ = train(monkeypatch, capsys, "--config", config(tmp_path), *options)
    assert status == 0
    outcomes = json.loads(out)
    assert [each["seed"] for each in outcomes] == [0, 3]
    assert [Path(each["path"]).name for each in outcomes] == [
        "recurrent-small-randman-mp_init-seed0",
        "recurrent-small-randman-mp_init-seed3",
    ]
    for each in outcomes:
        assert each["finished"] is True
        assert each["steps"] == 3
        assert each["accuracy"] == each["accuracies"][-1]
        assert open_run(each["path"]).state == "finished"


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    path = config(tmp_path, epochs=3000, checkpoint_every=20, record_every=50)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "spikescope",
            "train",
            "--config",
            str(path),
            "--record-every",
            "50",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run = tmp_path / "runs" / "recurrent-small-randman-seed0"
        deadline = time.monotonic() + 100
        # A checkpoint is there after 20 steps: it trains.
        while not (run / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    step = load_checkpoint(run / "checkpoint.pt")["training"]["position"]["step"]
    assert step > 20
    assert f"Stopped after step {step}. To go on: spikescope train --resume {run}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "vgg"], "network='vgg' is not one of"),
        (["--data", "mnst"], "data='mnst' is not one of"),
        (["--remedy", "mpinit"], "remedy='mpinit' is not one of"),
        (["--epochs", "0"], "epochs=0 is not possible"),
        (["--seeds", "1,1"], "--seeds '1,1' is not possible"),
        (["--seeds", "a"], "--seeds 'a' is not possible"),
        (["--seeds", "1", "--seed", "2"], "--seed and --seeds do not go together"),
        (["--config", "none.toml"], "there is no file 'none.toml'"),
        (["--resume", "none"], "there is no checkpoint"),
        (["--resume", "none", "--epochs", "3"], "so --epochs has no place beside it"),
        (["--resume", "none", "--no-amp"], "so --amp has no place beside it"),
    ],
)
def test_bad_options_are_one_line(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = train(monkeypatch, capsys, *arguments)
    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith("spikescope: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_how_good_it_is(monkeypatch, capsys, tmp_path):
    status, out, err = train(monkeypatch, capsys, "--config", config(tmp_path, epochs=1))
    assert status == 0
    run = tmp_path / "runs" / "recurrent-small-randman-seed0"
    (accuracy,) = load_checkpoint(run / "checkpoint.pt")["training"]["history"]["accuracies"]
    assert f"Test accuracy {accuracy:.1%} on 6 samples" in out
    assert f"run written to {run}" in out
    assert "3/3" in err
