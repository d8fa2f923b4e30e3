"""Each rule at its bound: just inside silent, just outside fires; a healthy run has no finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from scipy import stats

import spikescope
from spikescope.analysis.findings import RULES, SEVERITIES, Evidence
from spikescope.analysis.findings.evidence import CONFIDENCE_Z, pool, stretch
from spikescope.analysis.findings.rules_flow import DECAY_ERROR, DECAY_WARNING
from spikescope.analysis.findings.rules_gradient import COVERAGE_ERROR, COVERAGE_WARNING
from spikescope.data.store import RunStore

LAYERS, TIMESTEPS, STEPS = 4, 5, range(0, 80, 10)


def run_with(tmp_path: Path, change: Any = None, layers: int = LAYERS) -> spikescope.Run:
    """Write a healthy run, each row passed through ``change(row, layer number)``."""
    names = [f"block{k}.lif" for k in range(layers)]
    store = RunStore(tmp_path / "run", synthetic.header(names))
    for step in STEPS:
        rows = []
        for k, name in enumerate(names):
            for t in range(1, TIMESTEPS + 1):
                row = synthetic.row(step, name, t)
                if change is not None:
                    change(row, k)
                rows.append(row)
        store.append("records", synthetic.columns(rows))
    store.end("finished")
    return spikescope.open_run(store.path)


def set_coverage(row: dict[str, Any], coverage: float) -> None:
    row["covered"] = round(row["count"] * coverage)
    row["coverage_sample_mean"] = coverage
    row["coverage_sample_var"] = 1e-6


def set_gradient(row: dict[str, Any], rms: float) -> None:
    row["grad_u_square"] = rms**2
    row["grad_u_sample_mean"] = rms**2
    row["grad_u_sample_var"] = (0.01 * rms**2) ** 2


def test_a_healthy_run_has_no_finding(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    assert len(run.table()) == LAYERS * TIMESTEPS * len(STEPS)
    assert spikescope.diagnose(run) == []


def test_a_run_without_records_has_no_finding(tmp_path: Path) -> None:
    path = synthetic.write_run(tmp_path / "run", steps=range(0))
    assert spikescope.diagnose(spikescope.open_run(path)) == []


@pytest.mark.parametrize(
    ("coverage", "severity"),
    [
        (COVERAGE_WARNING + 0.002, None),
        (COVERAGE_WARNING - 0.002, "warning"),
        (COVERAGE_ERROR + 0.002, "warning"),
        (COVERAGE_ERROR - 0.002, "error"),
    ],
)
def test_coverage_at_its_bounds(coverage: float, severity: str | None, tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        if k == 2 and row["t"] == 3 and row["step"] >= 30:
            set_coverage(row, coverage)

    findings = spikescope.diagnose(run_with(tmp_path, change))
    if severity is None:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.code, finding.severity) == ("G1", severity)
    assert (finding.layer, finding.t, finding.steps) == ("block2.lif", 3, (30, 70))
    assert finding.measured == pytest.approx(coverage, abs=1e-3)
    assert finding.bound == (COVERAGE_ERROR if severity == "error" else COVERAGE_WARNING)
    assert "2511.13050" in finding.source


def test_a_point_beyond_the_bound_does_not_fire_when_its_interval_does_not_clear_it(
    tmp_path: Path,
) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        set_coverage(row, COVERAGE_WARNING - 0.01)
        row["coverage_sample_var"] = 0.1

    assert spikescope.diagnose(run_with(tmp_path, change)) == []


@pytest.mark.parametrize(
    ("ratio", "severity"),
    [
        (1.2 * DECAY_WARNING, None),
        (0.8 * DECAY_WARNING, "warning"),
        (1.2 * DECAY_ERROR, "warning"),
        (0.8 * DECAY_ERROR, "error"),
    ],
)
def test_gradient_over_depth_at_its_bounds(
    ratio: float, severity: str | None, tmp_path: Path
) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        set_gradient(row, 1e-3 * ratio ** (1 - k / (LAYERS - 1)))

    findings = spikescope.diagnose(run_with(tmp_path, change))
    if severity is None:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.code, finding.severity, finding.layer) == ("G2", severity, "block0.lif")
    assert finding.measured == pytest.approx(ratio, rel=1e-6)
    assert finding.steps == (0, 70)
    # A square with relative spread 0.01 over 64 samples, in two layers, over 2 records.
    one = 0.5 * 0.01 / np.sqrt(63)
    assert finding.error == pytest.approx(ratio * one * np.sqrt(2) / np.sqrt(2), rel=1e-6)


@pytest.mark.parametrize(("ratio", "fires"), [(1.2 * DECAY_WARNING, False), (0.05, True)])
def test_gradient_over_time_at_its_bound(ratio: float, fires: bool, tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        if k == 1:
            set_gradient(row, 1e-3 * ratio ** (1 - (row["t"] - 1) / (TIMESTEPS - 1)))

    codes = [(f.code, f.layer, f.t) for f in spikescope.diagnose(run_with(tmp_path, change))]
    assert codes == ([("G3", "block1.lif", 1)] if fires else [])


def test_a_gradient_that_never_arrives_is_an_error_not_a_gap(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        if k == 0:
            set_gradient(row, 0.0)

    (finding,) = spikescope.diagnose(run_with(tmp_path, change))
    assert (finding.code, finding.severity, finding.layer) == ("G7", "error", "block0.lif")


def law(row: dict[str, Any], mean: float, std: float) -> None:
    """Put another Gaussian law of u into a row."""
    fresh = synthetic.row(row["step"], row["layer"], row["t"], mean=mean, std=std)
    for name in ("density", "u_mean", "u_var", "u_sample_mean", "u_sample_var"):
        row[name] = fresh[name]


@pytest.mark.parametrize(
    ("shift", "severity"), [(0.2, None), (0.35, "note"), (0.45, "note"), (0.65, "warning")]
)
def test_drift_at_its_bounds(shift: float, severity: str | None, tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        law(row, 0.7 - shift * (k == 3 and row["t"] == 1), 0.3)

    findings = [f for f in spikescope.diagnose(run_with(tmp_path, change)) if f.code == "M1"]
    if severity is None:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.severity, finding.layer, finding.t) == (severity, "block3.lif", 1)
    assert finding.steps == (0, 70)
    # Wasserstein-1 of two Gaussians of one spread is the distance of their means.
    assert finding.measured == pytest.approx(shift, abs=2 / 64)


def test_drift_says_what_a_start_potential_would_remove(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        law(row, 0.7 - 0.65 * (row["t"] == 1), 0.3)

    finding = spikescope.diagnose(run_with(tmp_path, change, layers=1))[0]
    # Soft reset: E[v] = E[u] - threshold * rate; the shift removed at t = 1 is decay * E[v].
    start = 0.7 - stats.norm.sf(1.0, 0.7, 0.3)
    share = 0.5 * start / 0.65
    assert f"A start potential of {start:.2f} instead of 0" in finding.text
    assert f"remove {share:.0%}" in finding.text
    assert finding.remedies == ("start potential",)


def test_drift_of_the_spread_is_not_blamed_on_the_start(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        law(row, 0.0, 0.3 if row["t"] == 1 else 1.2)

    finding = spikescope.diagnose(run_with(tmp_path, change, layers=1))[0]
    assert (finding.code, finding.severity, finding.remedies) == ("M1", "note", ())
    assert "What differs is the spread" in finding.text or "would remove" in finding.text


def test_a_layer_of_unknown_dynamics_is_judged_without_them(tmp_path: Path) -> None:
    header = synthetic.header(["mine"])
    header["layers"][0]["spec"] = {}
    store = RunStore(tmp_path / "run", header)
    rows = [
        synthetic.row(step, "mine", t, mean=0.7 - 0.65 * (t == 1), std=0.3)
        for step in STEPS
        for t in range(1, TIMESTEPS + 1)
    ]
    store.append("records", synthetic.columns(rows))
    (finding,) = spikescope.diagnose(spikescope.open_run(store.path))
    assert (finding.code, finding.severity) == ("M1", "note")
    assert "At t = 1 u is 0.05 ± 0.30 thresholds" in finding.text
    assert "not known" in finding.text


def test_what_cannot_be_mended_is_said_once(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        law(row, 0.0, 0.3 if row["t"] == 1 else 1.0 + 0.1 * k)

    (note,) = spikescope.diagnose(run_with(tmp_path, change))
    assert (note.code, note.severity, note.layer) == ("M1", "note", f"block{LAYERS - 1}.lif")
    assert note.text.endswith(f"{LAYERS - 1} other layers shift likewise.")


def test_unexplained_spikes_come_first(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        set_coverage(row, 0.1)
        if k == 1:
            row["mismatch"] = 3

    findings = spikescope.diagnose(run_with(tmp_path, change))
    assert findings[0].code == "P1"
    assert findings[0].measured == pytest.approx(3 / 6400)
    order = [SEVERITIES.index(finding.severity) for finding in findings]
    assert order == sorted(order)
    assert [finding.layer for finding in findings[1:]] == [f"block{k}.lif" for k in range(LAYERS)]


@pytest.mark.parametrize(("residual", "fires"), [(0.049, False), (0.051, True)])
def test_gradient_residual_at_its_bound(residual: float, fires: bool, tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        row["residual_count"] = row["grad_u_count"]
        if k == 1 and row["step"] >= 40:
            row["residual_square"] = residual**2 * row["grad_u_square"]

    findings = spikescope.diagnose(run_with(tmp_path, change))
    assert [finding.code for finding in findings] == (["P2"] if fires else [])
    if fires:
        assert (findings[0].layer, findings[0].steps) == ("block1.lif", (40, 70))
        assert findings[0].measured == pytest.approx(residual, rel=1e-9)


def test_since_when() -> None:
    steps = np.arange(0, 60, 10)
    assert stretch(steps, np.array([1, 1, 1, 1, 1, 1], bool)) == (0, 50)
    assert stretch(steps, np.array([1, 0, 1, 0, 1, 1], bool)) == (40, 50)
    assert stretch(steps, np.array([1, 1, 1, 1, 1, 0], bool)) == (50, 50)


def test_pooled_error_covers_the_truth() -> None:
    """The one-sided 99 % interval misses about 1 % of the time when records hold other samples."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        records = rng.normal(0.3, 1.0, (20, 50))
        figure = pool(records.mean(1), records.std(1, ddof=1) / np.sqrt(50))
        missed += figure.high < 0.3
    assert missed <= 2000 * 0.01 + CONFIDENCE_Z * np.sqrt(2000 * 0.01 * 0.99)
    assert missed > 0  # an interval that never misses is no 99 % interval


def test_every_rule_says_its_source_and_its_text_is_short(tmp_path: Path) -> None:
    def change(row: dict[str, Any], k: int) -> None:
        set_coverage(row, 0.1)
        set_gradient(row, 1e-3 * 10.0 ** (2 * (k - LAYERS)) * 20.0 ** (row["t"] - TIMESTEPS))
        law(row, 0.7 - 0.65 * (row["t"] == 1), 0.3)
        row["mismatch"] = 1
        row["residual_count"] = row["grad_u_count"]
        row["residual_square"] = row["grad_u_square"]

    findings = spikescope.diagnose(run_with(tmp_path, change))
    assert {finding.code for finding in findings} >= {"P1", "P2", "G1", "G2", "G3", "M1"}
    assert {finding.code for finding in findings} <= {rule.code for rule in RULES}
    for finding in findings:
        sentences = [part for part in finding.text.split(". ") if part]
        assert 1 <= len(sentences) <= 3, finding.text
        assert finding.source
        assert finding.to_dict()["code"] == finding.code
        assert np.isfinite(finding.measured)
        assert np.isfinite(finding.error)


def test_evidence_keeps_network_order(tmp_path: Path) -> None:
    assert [layer.name for layer in Evidence(run_with(tmp_path)).layers] == [
        f"block{k}.lif" for k in range(LAYERS)
    ]
