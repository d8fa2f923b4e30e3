"""What a person may get wrong on the command line: one line that quotes it, and status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic
from command_line import command

from spikescope import cli

BUILDERS = """
import torch
from torch import nn
from spikescope.probes.lif import LIF

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lif, self.b = nn.Linear(4, 3), LIF(), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.lif(self.a(x.transpose(0, 1))))

def net(): return Net()
def plain(): return nn.Linear(4, 2)
def nothing(): return None
def needs(x): return x
def fails(): raise RuntimeError("no weights\\nfound")
def four(): return 1, 2, 3, 4
def text(): return Net(), "inputs"
def wide(): return Net().eval(), torch.rand(6, 5, 7)
def whole(): return Net().eval(), torch.rand(6, 5, 4), torch.arange(6) % 2
def training(): return Net(), torch.rand(6, 5, 4)
def nan(): return Net().eval(), torch.full((6, 5, 4), float("nan"))
def targets(): return Net().eval(), torch.rand(6, 5, 4), torch.zeros(9, dtype=torch.long)
VALUE = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, damaged ones, files of other kinds and a module of builders."""
    root = tmp_path_factory.mktemp("place")
    synthetic.write_run(root / "runs" / "sick", layers=3)
    synthetic.write_run(root / "runs" / "well", layers=2)
    header = json.loads((root / "runs" / "sick" / "run.json").read_text())
    headers = {
        "torn": "{",
        "list": "[1]",
        "empty": "{}",
        "future": json.dumps({**header, "format": 99}),
    }
    for name, content in headers.items():
        (root / name).mkdir()
        (root / name / "run.json").write_text(content)
    (root / "binary").mkdir()
    (root / "binary" / "run.json").write_bytes(bytes(range(256)))
    shutil.copytree(root / "runs" / "sick", root / "caf\udce9")
    (root / "nothing").mkdir()
    (root / "file.txt").write_text("no run")
    (root / "wrong.toml").write_text("network = ")
    (root / "unknown.toml").write_text("netwrok = 'digits-net'")
    (root / "type.toml").write_text("epochs = 'two'")
    (root / "latin.toml").write_bytes("network = 'café'".encode("latin-1"))
    (root / "builders_of_bad.py").write_text(BUILDERS)
    (root / "broken_module.py").write_text("def f(:\n")
    (root / "needy_module.py").write_text("import no_such_module\n")
    return root


LAW = "stationary --input-mean 1 --input-std 1"
NUMBERS = "recommend --fan-in 10 --input-rate 0.1"
B = "builders_of_bad"

BAD = {
    # runs and folders
    "diagnose": "Missing argument",
    "diagonse": "No such command 'diagonse'",
    "diagnose nothere": "'nothere' does not exist: name a folder with a run",
    "diagnose nothing": "'nothing' is no run: it has no run.json",
    "diagnose file.txt": "'file.txt' is no run",
    "diagnose torn": "'torn' is damaged: run.json cannot be read",
    "diagnose list": "'list' is damaged",
    "diagnose empty": "'empty' is damaged",
    "diagnose binary": "'binary' is damaged",
    "diagnose future": "has format 99, this spikescope reads up to 1: upgrade",
    "diagnose memory://nothere/x": "'memory://nothere/x' does not exist",
    "diagnose caf\udce9": "'caf\\udce9' is no name in Unicode: rename the folder",
    "diagnose t\udce9": "'t\\udce9' does not exist",
    "diagnose runs/sick --layer lif9": "its layers are 'block0.lif', 'block1.lif', 'block2.lif'",
    "diagnose runs --layer lif9": "in none of the runs in 'runs'; their layers are 'block0.lif'",
    "diagnose runs/sick --since -5": "since=-5 is not possible: give a step, 0 or more",
    "diagnose runs/sick --since 9999": "since=9999 is behind the last recorded step",
    "diagnose runs/sick --since soon": "'soon'",
    "diagnose runs/sick --fail-on often": "'often' is not one of 'error', 'warning'",
    "diagnose runs/sick --nonsense": "--nonsense",
    "diagnose runs/sick more": "more",
    "runs nothere": "'nothere' does not exist",
    "runs file.txt": "'file.txt' is no folder: name a run folder or a folder of runs",
    "dashboard nothere": "'nothere' does not exist",
    "dashboard file.txt": "'file.txt' is no folder",
    "dashboard runs --port 99999": "port=99999 is not possible: it must be between 0 and 65535",
    "dashboard runs --port http": "'http'",
    "dashboard runs --host no.such.host.invalid": "host 'no.such.host.invalid' is no address",
    "compare runs/sick": "Missing argument",
    "compare runs/sick nothere": "'nothere' does not exist",
    "compare runs/sick file.txt": "'file.txt' is no run",
    "compare runs/sick runs/x-*": "no folder matches 'runs/x-*'",
    "compare runs/sick memory://nothere/x": "'memory://nothere/x' does not exist",
    "compare runs/sick runs/well --level 2": "level=2.0 is not possible: it must be between 0",
    "compare runs/sick runs/well --level nan": "level=nan",
    "compare runs/sick runs/well --by time": "'time' is not one of 'step', 'loss'",
    "export runs/sick": "--to",
    "export runs/sick --to pdf": "'pdf' is not one of 'html', 'csv', 'parquet', 'tensorboard'",
    "export runs --to csv": "'runs' is no run",
    "export runs/sick --to csv --out file.txt": "'file.txt' exists already: name another place",
    "export runs/sick --to csv --out file.txt/x": "'file.txt/x' cannot be written",
    "export runs/sick --to html --out /dev/null/x": "'/dev/null/x' cannot be written",
    # numbers
    "stationary --input-mean x --input-std 1": "'x'",
    "stationary --input-mean nan --input-std 1": "input_mean=nan is not possible",
    "stationary --input-mean 0 --input-std -1": "input_std=-1.0 is not above 0",
    "stationary --input-mean 1e300 --input-std 1": "mean 1e+300 and standard deviation 1 after",
    "stationary --input-mean 1 --input-std 1e300": "standard deviation 1e+300 after the gain",
    "stationary --input-mean 1 --input-std 1e-300": "standard deviation 1e-300 after the gain",
    f"{LAW} --reset hard": "reset='hard' is not one of 'subtract', 'to_value', 'none'",
    f"{LAW} --decay 1.5": "decay=1.5 is not possible: it must be between 0 and 1",
    f"{LAW} --decay 1": "no stationary law at input_mean=1.0: take decay < 1",
    f"{LAW} --threshold 0": "threshold=0.0",
    f"{LAW} --gain 0": "gain=0.0",
    f"{LAW} --timesteps 0": "timesteps=0",
    f"{LAW} --timesteps 2.5": "'2.5'",
    f"{LAW} --surrogate atan": "shape='atan' is not one of",
    f"{LAW} --surrogate arctan --width 0": "width=0.0 is not possible",
    f"{LAW} --width 2": "--width 2 has no place without --surrogate",
    "recommend": "give MODULE:CALLABLE, or --fan-in and numbers",
    "recommend --fan-in 10": "give input_rate",
    "recommend --fan-in 0 --input-rate 0.1": "fan_in=0 is not possible: it must be at least 1",
    "recommend --fan-in 10 --input-rate 2": "input_rate=2.0 is not possible",
    "recommend --fan-in 10 --input-mean 1 --input-square 0.2": "input_square=0.2",
    f"{NUMBERS} --input-mean 1": "not both",
    f"{NUMBERS} --target-rate 1": "target_rate=1.0 is not possible",
    f"{NUMBERS} --layers 0": "layers=0 is not possible: it must be at least 1",
    f"{NUMBERS} --data digits": "--data has no place without MODULE:CALLABLE",
    # models
    "lint builders": "'builders' is not MODULE:CALLABLE, such as",
    f"lint {B}:absent": f"module '{B}' has no 'absent'",
    f"lint {B}.py:net": f"no module '{B}.py'",
    "lint sub/module.py:net": "as a module it is 'sub.module'",
    f"lint {B}:plain": "returned Linear without a spiking layer",
    f"lint {B}:nothing": "returned NoneType, not a torch.nn.Module",
    f"lint {B}:VALUE": "is of type int: name what builds the model",
    f"lint {B}:needs": "raised TypeError",
    f"lint {B}:fails": "raised RuntimeError: no weights found",
    "lint broken_module:f": "'broken_module' cannot be imported: SyntaxError",
    "lint needy_module:f": "No module named 'no_such_module'",
    f"recommend {B}:four": "returned (int, int, int, int): return model, (model, inputs) or",
    f"recommend {B}:text": "returned (Net, str)",
    f"recommend {B}:net": "returned a model alone",
    f"recommend {B}:net --data nodata": "data='nodata' is not one of 'digits'",
    f"recommend {B}:net --data digits --samples 0": "samples=0",
    f"recommend {B}:net --data digits --batch {B}:net": "give one",
    f"recommend {B}:net --batch {B}:nothing": f"'{B}:nothing' returned None: return inputs",
    f"recommend {B}:net --fan-in 3": f"--fan-in has no place beside '{B}:net'",
    f"recommend {B}:wide": "a batch of shape (6, 5, 7) fails in module 'a' (Linear)",
    f"recommend {B}:nan": "batch 1 holds NaN or infinity",
    f"attribute {B}:net": "returned a model alone: return (model, inputs)",
    f"attribute {B}:whole --method magic": "method='magic' is not one of integrated_gradients",
    f"attribute {B}:whole --class 9": "target=9 is not a class of the model: it has 0 to 1",
    f"attribute {B}:whole --steps 0": "steps=0",
    f"attribute {B}:whole --run nothere": "'nothere' does not exist",
    f"attribute {B}:wide": "a batch of shape (6, 5, 7) fails in module 'a' (Linear)",
    f"attribute {B}:nan": "inputs hold values that are not finite",
    f"attribute {B}:training": "call model.eval() first",
    # trainings
    "train --config nothere.toml": "there is no file 'nothere.toml'",
    "train --config wrong.toml": "'wrong.toml' is no TOML file",
    "train --config latin.toml": "'latin.toml' is no TOML file",
    "train --config unknown.toml": "setting 'netwrok' is not one of 'network'",
    "train --config type.toml": "epochs='two' is not possible",
    "train --network nonet": "network='nonet' is not one of 'digits-net'",
    "train --remedy magic": "remedy='magic' is not one of 'mp_init'",
    "train --remedy sparsity": "remedy 'sparsity' needs final_rate",
    "train --learning-rate nan": "learning_rate=nan is not possible",
    "train --seed -1": "seed=-1 is not possible",
    "train --seeds 1,1": "--seeds '1,1' is not possible",
    "train --device tpu": "device='tpu' is not one of 'auto', 'cpu', 'cuda'",
    "train --out file.txt": "out='file.txt' is not possible (File exists): name another folder",
    "train --resume nothere": "there is no checkpoint 'nothere'",
    "train --resume runs/sick": "there is no checkpoint 'runs/sick/checkpoint.pt'",
    "train --resume runs/sick --epochs 3": "--epochs has no place beside it",
    "demo --data mnist --no-serve": "'mnist'",
    "demo --device tpu --no-serve": "'tpu'",
    "demo --epochs 0 --no-serve": "epochs=0",
    "demo --seed -1 --no-serve": "seed=-1",
    "demo --out file.txt --no-serve": "out='file.txt' is not possible",
    "demo --port -1": "port=-1 is not possible",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_status_2(
    words: str, place: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    before = sorted(place.rglob("*"))
    assert command(*words.split(), monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("spikescope: ")
    assert BAD[words] in line
    assert "Traceback" not in shown.out + shown.err
    assert "Errno" not in line
    after = [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]  # nothing begun


GOOD = {
    "diagnose runs/sick --since 150": "No finding",
    "diagnose runs --layer block2.lif": "No finding in 1 run:",
    f"{LAW} --surrogate arctan --width 2": "coverage",
    f"lint {B}:net": "No finding",
    f"recommend {B}:whole": "lif",
}
"""Controls: next to each kind of refusal stands what is accepted."""


@pytest.mark.parametrize("words", GOOD)
def test_the_right_words_are_accepted(
    words: str, place: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    assert command(*words.split(), monkeypatch=monkeypatch) == 0
    assert GOOD[words] in capsys.readouterr().out


def test_a_run_without_readable_records_is_not_called_healthy(
    place: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    shutil.copytree(place / "runs" / "sick", tmp_path / "sick")
    for path in (tmp_path / "sick").glob("records-*.parquet"):
        path.write_bytes(b"no table")
    assert command("diagnose", tmp_path / "sick", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "Nothing was judged: the run holds no record that can be read." in shown
    assert "records-00000001.parquet cannot be read" in shown
    assert command("diagnose", tmp_path, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "No finding in 0 runs" in shown
    assert "sick is left out: records-00000001.parquet cannot be read" in shown
    out = tmp_path / "new" / "folder"
    words = ("export", tmp_path / "sick", "--to", "csv", "--out", out)
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert "Note: records-00000001.parquet cannot be read" in capsys.readouterr().out
    assert (out / "record.csv").is_file()


def test_a_page_is_written_into_a_new_folder(
    place: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "pages" / "well.html"
    words = ("export", place / "runs" / "well", "--to", "html", "--out", out)
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert out.is_file()


def test_a_broken_module_of_ours_is_not_blamed_on_the_input(monkeypatch: Any) -> None:
    def raising(name: str) -> Any:
        def app(**_: Any) -> None:
            raise ImportError(f"cannot import name 'x' from {name!r}", name=name)

        return app

    monkeypatch.setattr(cli, "app", raising("spikescope.probes"))
    with pytest.raises(ImportError, match="cannot import name 'x'"):
        cli.main()
    monkeypatch.setattr(cli, "app", raising("some_library"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
