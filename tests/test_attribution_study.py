"""What an attribution says of itself, how it is kept, and the surrogate's fidelity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from spikescope.analysis.attribution_result import (
    GAP_BOUND,
    Attribution,
    completeness_gap,
    rank_agreement,
    standard_error,
)
from spikescope.analysis.attribution_study import (
    KEPT_SAMPLES,
    store_attribution,
    store_timesteps,
    stored_attributions,
    stored_timesteps,
)
from spikescope.analysis.fidelity import FidelityCurve, store_fidelity, stored_fidelity
from spikescope.analysis.surrogate import Surrogate
from spikescope.analysis.timestep_result import TimestepImportance
from spikescope.data.studies import StudyError, read_studies, write_study
from spikescope.probes.lif import LIF
from spikescope.probes.models.networks import digits_net
from spikescope.probes.surrogate_fidelity import surrogate_fidelity, unit_area


def example(**changes: Any) -> Attribution:
    random = np.random.default_rng(0)
    maps = {name: random.normal(size=(2, 6, 4)) for name in ("a.lif", "b.lif")}
    content: dict[str, Any] = {
        "method": "integrated_gradients",
        "classes": (0, 3),
        "scores": maps,
        "ablation": {name: 2.0 * values for name, values in maps.items()},
        "output_change": {name: values.sum(-1) for name, values in maps.items()},
        "noise": {name: values[None] + 0.1 for name, values in maps.items()},
        "inputs": random.normal(size=(2, 12, 1, 3, 3)),
        "settings": {"steps": 8},
        "notes": ("a note",),
    }
    return Attribution(**{**content, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def test_the_gap_by_hand() -> None:
    gap, error = completeness_gap(np.array([1.0, 3.0, -2.0]), np.array([1.0, 2.0, -1.0]))
    assert gap == pytest.approx((0.0 + 1.0 + 1.0) / 4.0)
    assert error > 0.0
    assert completeness_gap(np.zeros(3), np.zeros(3)) == (0.0, 0.0)
    assert completeness_gap(np.ones(3), np.zeros(3))[0] == math.inf
    assert math.isnan(completeness_gap(np.array([math.nan, 1.0]), np.ones(2))[0])


def test_the_error_of_the_gap_is_its_spread() -> None:
    random = np.random.default_rng(1)
    gaps, errors = [], []
    for _ in range(2000):
        change = 1.0 + random.exponential(size=60)
        gap, error = completeness_gap(change + 0.3 * random.normal(size=60), change)
        gaps.append(gap)
        errors.append(error)
    # The spread of 2000 draws is known to 1.6 %, the mean error far better; 60 samples leave the
    # linearised error a few percent low.
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.08)


def test_the_interval_of_the_agreement_covers_the_truth() -> None:
    random = np.random.default_rng(2)
    truth = np.linspace(0.0, 1.0, 12)
    covered, typical = 0, _typical()
    for _ in range(120):
        scores = truth + 0.8 * random.normal(size=(1, 25, 12))
        other = truth + 0.8 * random.normal(size=(1, 25, 12))
        value, low, high = rank_agreement(scores, other)
        assert low <= high
        assert -1.0 <= value <= 1.0
        covered += low <= typical <= high
    assert covered >= 96  # a percentile interval of a bounded rank statistic is a little short


def _typical() -> float:
    """Return the mean correlation that 25 samples show, by simulation apart."""
    random = np.random.default_rng(3)
    truth = np.linspace(0.0, 1.0, 12)
    found = [
        stats.spearmanr(
            truth + 0.16 * random.normal(size=12), truth + 0.16 * random.normal(size=12)
        ).statistic
        for _ in range(200)
    ]
    return float(np.mean(found))


def test_agreement_without_anything_to_rank_is_unknown() -> None:
    flat = np.zeros((1, 3, 4))
    assert math.isnan(rank_agreement(flat, flat)[0])
    assert math.isnan(rank_agreement(np.ones((1, 3, 2)), np.ones((1, 3, 2)))[0])
    turned = np.arange(12.0).reshape(1, 3, 4)
    assert rank_agreement(turned, -turned) == (-1.0, -1.0, -1.0)


def test_table_and_checks() -> None:
    found = example()
    table = found.table()
    assert len(table) == 2 * 2 * 4
    row = table[(table["layer"] == "b.lif") & (table["class"] == 3) & (table["t"] == 2)].iloc[0]
    values = found.scores["b.lif"][1, :, 1]
    assert row["score"] == pytest.approx(values.mean())
    assert row["score_se"] == pytest.approx(stats.sem(values))
    first, _ = found.checks()
    assert first.gap < 1e-12
    assert first.agreement == 1.0
    assert first.stability == 1.0
    assert found.badge == "adds up"


def test_the_badge_turns_at_the_bound() -> None:
    def with_gap(gap: float, method: str = "conductance") -> Attribution:
        changes = {name: values.sum(-1) / (1.0 + gap) for name, values in example().scores.items()}
        return example(output_change=changes, method=method)

    assert with_gap(GAP_BOUND - 1e-6).badge == "adds up"
    assert with_gap(GAP_BOUND + 1e-6).badge == "not faithful"
    assert with_gap(GAP_BOUND + 1e-6, "ablation").badge == "not additive"


def test_an_error_over_one_sample_is_unknown() -> None:
    assert math.isnan(standard_error(np.ones(1)))


def test_what_is_kept_comes_back(run: Path) -> None:
    found = example()
    store_attribution(run, found)
    store_attribution(run, example(method="ablation", noise={}, inputs=None))
    stored, problems = stored_attributions(run)
    assert problems == []
    assert {entry.method for entry in stored} == {"integrated_gradients", "ablation"}
    (back,) = [entry for entry in stored if entry.method == found.method]
    for name in found.layers:
        np.testing.assert_array_equal(back.scores[name], found.scores[name])
        np.testing.assert_array_equal(back.noise[name], found.noise[name])
    assert found.inputs is not None
    assert back.inputs is not None
    np.testing.assert_allclose(back.inputs, found.inputs[:, :KEPT_SAMPLES], rtol=1e-6)
    assert (back.classes, back.notes, dict(back.settings)) == ((0, 3), ("a note",), {"steps": 8})
    store_attribution(run, example(notes=()))  # by the same method: replaced
    assert len(stored_attributions(run)[0]) == 2

    steps = TimestepImportance(np.ones((3, 2)), np.zeros((3, 2)), np.full((3, 2), np.nan), "why")
    store_timesteps(run, steps)
    read, _ = stored_timesteps(run)
    assert read is not None
    np.testing.assert_array_equal(read.falls, steps.falls)
    assert read.reason == "why"
    assert stored_fidelity(run) == (None, [])


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "lacking"])
def test_a_broken_study_is_named_and_the_others_are_read(run: Path, damage: str) -> None:
    whole = store_attribution(run, example(method="ablation"))
    path = store_attribution(run, example())
    content = path.read_bytes()
    if damage == "lacking":
        write_study(run, "attribution", path.stem.partition(".")[2], {"method": "x"}, {})
    else:
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0xFF
        broken = {
            "empty": b"", "text": b"hello", "cut": content[: len(content) // 2],
            "flipped": bytes(flipped),
        }  # fmt: skip
        path.write_bytes(broken[damage])
    stored, problems = stored_attributions(run)
    assert [entry.method for entry in stored] == ["ablation"]
    assert len(problems) == 1
    assert path.name in problems[0]
    assert whole.name not in problems[0]


def test_what_cannot_be_kept_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, kind, name, line in (
        (tmp_path / "empty", "fidelity", "all", "is no run"),
        (run, "magic", "all", "kind='magic'"),
        (run, "fidelity", "../up", "is no name of a study"),
    ):
        with pytest.raises(StudyError, match=line):
            write_study(folder, kind, name, {}, {})
    assert read_studies(run) == ([], [])


class OneSpike(nn.Module):
    """One unit, one timestep: the output is its spike."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__()
        self.lif = LIF(decay=0.0, surrogate=surrogate)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(x[None])[0]
        return out


@pytest.mark.parametrize("shape", ["arctan", "gaussian", "triangular"])
def test_fidelity_of_one_spike_is_the_area_under_its_surrogate(shape: str) -> None:
    model = OneSpike(Surrogate("sigmoid", 0.7, 0.3)).double().eval()
    x = torch.tensor([[1.25], [1.6], [0.4]], dtype=torch.float64)
    widths = (0.3, 1.0)
    curve = surrogate_fidelity(model, x, shapes=[shape], widths=widths, steps=400)
    np.testing.assert_array_equal(curve.change, [1.0, 1.0, 0.0])
    for row, surrogate in enumerate(
        (Surrogate("sigmoid", 0.7, 0.3), *(unit_area(shape, width) for width in widths))
    ):
        points = np.linspace(0.0, 1.0, 40_001)
        for sample, end in enumerate(x[:, 0].tolist()):
            slope = surrogate.derivative(points * end - 1.0)
            area = np.trapezoid(slope, points * end)
            assert curve.attributed[row, sample] == pytest.approx(area, abs=2e-5)
    assert curve.own == 0
    assert curve.table()["own"].tolist() == [True, False, False]
    assert curve.shapes[0] == "sigmoid"


def test_the_network_answers_as_before_and_is_not_changed() -> None:
    torch.manual_seed(0)
    net, x = digits_net(timesteps=2, channels=2).eval(), torch.rand(3, 1, 8, 8)
    before, surrogate = net(x), net.block1.lif.surrogate
    curve = surrogate_fidelity(net, x, shapes=["arctan"], widths=[0.5], steps=3)
    assert torch.equal(net(x), before)
    assert net.block1.lif.surrogate is surrogate
    assert curve.attributed.shape == (2, 3)


def test_readings_and_keeping_of_a_curve(run: Path) -> None:
    curve = FidelityCurve(
        ("arctan", "arctan", "gaussian"),
        np.array([0.3, 0.5, 0.5]),
        np.ones(3),
        np.array([[1.0, 2.0], [math.nan, 1.0], [1.05, 2.0]]) * 0.97,
        np.array([1.0, 2.0]),
        0,
    )
    assert curve.best == 2
    assert "gaussian of width 0.5" in curve.reading
    assert "no proof" in curve.reading
    store_fidelity(run, curve)
    back, problems = stored_fidelity(run)
    assert back is not None
    assert problems == []
    assert back.table().equals(curve.table())
    poor = FidelityCurve(("arctan",), np.ones(1), np.ones(1), np.zeros((1, 2)), np.ones(2))
    assert "none of their gradients adds up" in poor.reading
    lost = FidelityCurve(("arctan",), np.ones(1), np.ones(1), np.full((1, 2), np.nan), np.ones(2))
    assert lost.best is None
    assert lost.reading == "No surrogate gave finite gradients."


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"shapes": ["round"]}, "shape='round' is not one of"),
        ({"shapes": []}, "give at least one shape"),
        ({"widths": [0.0]}, "widths above 0"),
    ],
)
def test_bad_surrogates_are_refused(settings: dict[str, Any], line: str) -> None:
    net = digits_net(timesteps=2, channels=2).eval()
    with pytest.raises(ValueError, match=line):
        surrogate_fidelity(net, torch.rand(2, 1, 8, 8), **settings)


BUILDER = """
import torch
from torch import nn
from spikescope.probes.models.networks import digits_net

def case(extra=True):
    torch.manual_seed(0)
    net = digits_net(timesteps=2, channels=2)
    x = torch.rand(4, 1, 8, 8)
    net(x)
    return (net.eval(), x, torch.arange(4)) if extra else net.eval()

def alone():
    return case(False)
"""


def command(arguments: list[str], capsys: Any, monkeypatch: Any) -> tuple[int, str, str]:
    code = command_line.command(*arguments, monkeypatch=monkeypatch)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command(tmp_path: Path, capsys: Any, monkeypatch: Any, run: Path) -> None:
    (tmp_path / "attribute_me.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (run / "run.json").write_text('{"format": 1, "layers": []}')
    base = ["attribute", "attribute_me:case", "--class", "1", "--steps", "3"]
    code, out, _ = command([*base, "--json", "--fidelity", "--run", str(run)], capsys, monkeypatch)
    content = json.loads(out)
    assert code == 0
    assert {row["class"] for row in content["table"]} == {1}
    assert len(content["checks"]) == 6
    assert len(content["timesteps"]) == 2
    assert len(stored_attributions(run)[0]) == 1
    assert stored_timesteps(run)[0] is not None
    assert stored_fidelity(run)[0] is not None
    assert len(content["fidelity"]) == 1 + 4 * 9
    code, out, _ = command(base, capsys, monkeypatch)
    assert code == 0
    assert "integrated_gradients: " in out
    for arguments, line in (
        (["attribute", "attribute_me:alone"], "returned a model alone"),
        ([*base, "--method", "magic"], "method='magic'"),
        ([*base, "--run", str(tmp_path / "none")], "does not exist"),
    ):
        code, _, err = command(arguments, capsys, monkeypatch)
        assert code == 2
        assert line in err
        assert len(err.strip().splitlines()) == 1
