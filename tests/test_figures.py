"""Figures: their numbers are the run's, their marks stand where they should, names stay text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import SPEC, SURROGATE, columns, header, row, write_run

from spikescope.dashboard import figures
from spikescope.dashboard.figures_scalars import thin
from spikescope.dashboard.figures_style import LONGEST_NAME, palette, plain, short, time_colours
from spikescope.dashboard.measured_law import gradient_interval, measured_law
from spikescope.data.runs import Layer, Run, RunError, open_run
from spikescope.data.store import RunStore

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(write_run(tmp_path_factory.mktemp("figures") / "run", layers=5))


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with a layer not covered, a step not recorded, a zero gradient, eval rows."""
    head = header([HOSTILE, "late", "never"])
    head["layers"].insert(
        1, {"name": "skipped", "kind": "PLIF", "covered": False, "reason": "learned leak"}
    )
    store = RunStore(tmp_path_factory.mktemp("gaps") / "run", head)
    rows = []
    for step in (0, 10):
        for t in (1, 2):
            rows.append(row(step, HOSTILE, t, grad=0.0 if t == 1 else 1e-3))
            if step == 10:
                rows.append(row(step, "late", t))
    silent = row(10, "late", 1, mode="eval") | {"grad_u_count": 0, "grad_u_square": np.nan}
    store.append("records", columns([*rows, silent]))
    store.end("finished", steps=11)
    return open_run(store.path)


def heatmap_of(drawn: go.Figure) -> Any:
    return next(trace for trace in drawn.data if trace.type == "heatmap")


def grid_of(run: Run, column: str, step: int) -> np.ndarray:
    """Return a column of the record as [layer, t], by pandas' own pivot."""
    table = run.table([column], mode="train")
    wide = table[table["step"] == step].pivot(index="layer", columns="t", values=column)
    return wide.loc[[layer.name for layer in run.layers]].to_numpy(dtype=float)


@pytest.mark.parametrize(
    ("metric", "column"), [("coverage", "coverage"), ("rate", "rate"), ("gradient", "grad_u_rms")]
)
def test_heatmap_shows_the_numbers_of_the_record(run: Run, metric: str, column: str) -> None:
    shown = np.array(heatmap_of(figures.layer_heatmap(run, metric, step=50)).z, dtype=float)
    shown = 10**shown if metric == "gradient" else shown
    np.testing.assert_allclose(shown, grid_of(run, column, 50), rtol=1e-5)
    if metric != "gradient":
        # Negative control: another step's numbers are not these.
        assert not np.allclose(shown, grid_of(run, column, 100), rtol=1e-3)


def test_drift_is_the_mean_of_u_against_the_last_timestep(run: Run) -> None:
    shown = np.array(heatmap_of(figures.layer_heatmap(run, "drift", step=50)).z, dtype=float)
    # The synthetic means are 0.6 (1 - 0.5^t) for every layer, threshold 1.
    t = np.arange(1, 7)
    expected = -0.6 * (0.5**t - 0.5**6)
    np.testing.assert_allclose(shown, np.tile(expected, (5, 1)), rtol=1e-5, atol=1e-9)


def test_hover_and_table_give_value_and_standard_error(run: Run) -> None:
    cells = figures.cells(run, "coverage", step=100)
    assert cells is not None
    table = run.table(["coverage", "coverage_se"], layer="block3.lif", mode="train")
    wanted = table[(table["step"] == 100) & (table["t"] == 2)].iloc[0]
    text = f"{100 * wanted['coverage']:.1f}% ± {100 * wanted['coverage_se']:.1f}%"
    assert cells.frame().loc[3, "t = 2"] == text
    hover = heatmap_of(figures.layer_heatmap(run, "coverage", step=100)).hovertext
    assert hover[3][1] == text
    assert hover[2][1] != text


def test_layers_keep_network_order_with_the_input_on_top(run: Run) -> None:
    drawn = figures.layer_heatmap(run)
    assert list(drawn.layout.yaxis.ticktext) == [layer.name for layer in run.layers]
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]


def test_colours_belong_to_metrics_and_compare_across_steps(run: Run) -> None:
    maps = {
        name: heatmap_of(figures.layer_heatmap(run, name)).colorscale for name in figures.METRICS
    }
    assert len(set(map(str, maps.values()))) == len(figures.METRICS)
    early = heatmap_of(figures.layer_heatmap(run, "rate", step=0))
    late = heatmap_of(figures.layer_heatmap(run, "rate", step=150))
    assert (early.zmin, early.zmax) == (late.zmin, late.zmax)


def test_missing_cells_are_hatched_and_say_why(gaps: Run) -> None:
    cells = figures.cells(gaps, "gradient", step=0)
    assert cells is not None
    assert cells.reasons[0] == ["exactly 0: nothing arrives", ""]
    assert cells.reasons[1] == ["not covered: learned leak"] * 2
    assert cells.reasons[2] == ["not recorded at this step"] * 2
    assert cells.reasons[3] == ["not recorded"] * 2
    drawn = figures.layer_heatmap(gaps, "gradient", step=0)
    hatched = next(trace for trace in drawn.data if trace.type == "bar")
    assert hatched.marker.pattern.shape == "/"
    boxes = {(base + 0.5, t) for base, t in zip(hatched.base, hatched.x, strict=True)}
    missing = np.isnan(np.array(heatmap_of(drawn).z, dtype=float))
    assert boxes == {(k, j + 1) for k, j in zip(*np.nonzero(missing), strict=True)}
    assert "7 of 8 cells" in figures.reading(drawn)
    # Negative control: where all is there, nothing is hatched.
    assert cells.reasons[0][1] == ""


def test_a_recording_run_says_not_yet(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["first", "second"]))
    store.append("records", columns([row(0, "first", 1)]))
    cells = figures.cells(open_run(store.path))
    assert cells is not None
    assert cells.reasons == [[""], ["not yet"]]


def test_a_gradient_that_was_not_recorded_is_not_a_zero(gaps: Run) -> None:
    cells = figures.cells(gaps, "gradient", mode="eval")
    assert cells is not None
    assert cells.reasons[2] == ["no gradient was recorded"]


def test_two_hundred_layers(tmp_path: Path) -> None:
    deep = open_run(write_run(tmp_path / "run", layers=200, timesteps=8, steps=range(0, 2)))
    began = time.perf_counter()
    drawn = figures.layer_heatmap(deep)
    assert time.perf_counter() - began < 2.0
    assert np.shape(heatmap_of(drawn).z) == (200, 8)
    assert len(drawn.layout.yaxis.ticktext) <= 50
    assert drawn.layout.height <= 900
    assert heatmap_of(drawn).text is None  # numbers would not be readable
    assert heatmap_of(drawn).customdata[199][0] == "block199.lif"


def test_law_is_the_density_of_u_in_thresholds(run: Run) -> None:
    drawn = figures.membrane_law(run, "block2.lif", step=50)
    ridges = {trace.name: trace for trace in drawn.data if trace.name and "t =" in trace.name}
    assert list(ridges) == [f"t = {t}" for t in range(1, 7)]
    ridge = ridges["t = 3"]
    x = np.array(ridge.x)[1:-1]  # without the corners of its foot
    density = np.array(ridge.customdata[1:-1], dtype=float)
    counts = run.density("block2.lif", steps=[50])
    expected = counts.counts[0, 2] / counts.counts[0, 2].sum() / np.diff(counts.edges)
    places = np.searchsorted(1.0 + counts.edges, x) - 1
    np.testing.assert_allclose(density, expected[places], rtol=1e-12)
    # Oracle: the synthetic law is Gaussian; counts of 6400 elements are rounded to whole ones, and
    # what the rounding lost or lies outside 2 thresholds was put into the tallest bin.
    mean, std = 0.6 * (1 - 0.5**3) - 0.05, 0.44
    tallest = int(np.argmax(density))
    rounding = 0.5 / 6400 / (1 / 64)
    others = np.arange(len(x)) != tallest
    np.testing.assert_allclose(
        density[others], stats.norm.pdf(x[others], mean, std), atol=rounding + 1e-4
    )
    wrong = stats.norm.pdf(x[others], mean + 0.02, std)
    assert np.abs(density[others] - wrong).max() > 2 * rounding


def test_law_marks_threshold_start_and_surrogate_interval(run: Run) -> None:
    drawn = figures.membrane_law(run, "block2.lif")
    lines = [shape for shape in drawn.layout.shapes if shape.type == "line"]
    assert [(line.x0, line.x1) for line in lines] == [(1.0, 1.0)]
    triangle = next(trace for trace in drawn.data if trace.name == "start")
    assert triangle.marker.symbol == "triangle-up"
    assert list(triangle.x) == [0.0]
    band = next(shape for shape in drawn.layout.shapes if shape.type == "rect")
    # 1 / (1 + |z| / width)^2 = 0.01 at |z| = 9 width: 0.1 to 1.9, cut where the axis ends.
    assert band.x0 == pytest.approx(max(0.1, drawn.layout.xaxis.range[0]))
    assert band.x1 == pytest.approx(min(1.9, drawn.layout.xaxis.range[1]))


def test_interval_and_start_are_in_thresholds(tmp_path: Path) -> None:
    head = header(["wide"])
    head["layers"][0] |= {"scale": 2.0, "spec": SPEC | {"threshold": 2.0, "start": 0.5}}
    store = RunStore(tmp_path / "run", head)
    store.append("records", columns([row(0, "wide", 1)]))
    opened = open_run(store.path)
    low, high = gradient_interval(opened.layer("wide")) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.55, 1.45))
    drawn = figures.membrane_law(opened, "wide")
    triangle = next(trace for trace in drawn.data if trace.name == "start")
    assert list(triangle.x) == [0.25]


@pytest.mark.parametrize(
    "surrogate", [None, SURROGATE | {"shape": "sampled"}, SURROGATE | {"width": [0.1, 0.2]}]
)
def test_a_surrogate_without_one_interval_has_no_band(surrogate: dict[str, Any] | None) -> None:
    assert gradient_interval(Layer("net", surrogate=surrogate)) is None
    assert gradient_interval(Layer("net", surrogate=SURROGATE)) is not None


def test_time_runs_from_light_to_dark() -> None:
    for theme in ("light", "dark"):
        shades = [
            sum(int(part) for part in colour.strip("rgb()").split(","))
            for colour in time_colours(6, theme)
        ]
        assert shades == sorted(shades, reverse=True)
        assert len(set(shades)) == 6


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(theme: str) -> None:
    colours = palette(theme)

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for colour in (colours.text, colours.muted, colours.accent, colours.alarm):
        assert contrast(colour, colours.paper) >= 4.5  # WCAG 2.2, 1.4.3
    assert contrast(colours.grid, colours.paper) < 4.5  # a measure that can say no


def test_profile_has_the_record_s_values_and_errors(run: Run) -> None:
    drawn = figures.profile(run, "block1.lif", "gradient", step=100, t=2)
    table = run.table(["grad_u_rms", "grad_u_rms_se"], layer="block1.lif", mode="train")
    table = table[table["step"] == 100]
    (trace,) = drawn.data
    np.testing.assert_allclose(np.array(trace.y), table["grad_u_rms"], rtol=1e-12)
    np.testing.assert_allclose(np.array(trace.error_y.array), table["grad_u_rms_se"], rtol=1e-12)
    assert drawn.layout.yaxis.type == "log"
    assert figures.profile(run, "block1.lif", "coverage").layout.yaxis.type is None
    sizes = list(trace.marker.size)
    assert sizes.index(max(sizes)) == 1


def test_profile_names_timesteps_that_a_log_axis_cannot_show(gaps: Run) -> None:
    drawn = figures.profile(gaps, HOSTILE, "gradient")
    assert list(drawn.data[0].x) == [2]
    assert "at t = 1" in figures.reading(drawn)


def test_loss_is_drawn_and_read(run: Run) -> None:
    drawn = figures.loss(run, step=50)
    steps = np.arange(0, 200, 50)
    np.testing.assert_allclose(np.array(drawn.data[0].y), 2.3 * np.exp(-steps / 100), rtol=1e-12)
    assert drawn.layout.shapes[0].x0 == 50
    assert figures.reading(drawn).startswith("Loss goes from 2.3 at step 0 to 0.513 at step 150")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=200),
    st.integers(4, 40),
)
def test_thinning_keeps_extremes_and_bound(values: list[float], most: int) -> None:
    array = np.array(values)
    kept = thin(array, most)
    assert len(kept) <= most
    assert {0, len(values) - 1} <= set(kept.tolist())
    if np.isfinite(array).any():
        assert np.nanmax(array[kept]) == np.nanmax(array)
        assert np.nanmin(array[kept]) == np.nanmin(array)
    # Negative control: every n-th point would lose a peak.
    spike = np.zeros(100)
    spike[37] = 1.0
    assert spike[::9].max() == 0.0
    assert spike[thin(spike, 12)].max() == 1.0


def test_names_stay_text(gaps: Run) -> None:
    drawn = figures.layer_heatmap(gaps, step=10)
    texts = [*drawn.layout.yaxis.ticktext, *np.ravel(heatmap_of(drawn).hovertext)]
    texts += next(trace.hovertext for trace in drawn.data if trace.type == "bar")
    assert not [text for text in texts if "<img" in text]
    assert any("&lt;img" in text for text in texts)
    assert "<img" in HOSTILE  # what unescaped text would hold
    assert plain("a\nb<c>&") == "a b&lt;c&gt;&amp;"


def test_names_are_shortened_in_the_middle() -> None:
    name = "features.block12.conv.residual.lif"
    assert short(name, 15) == "feature…dual.lif"
    assert len(short("x" * 4000)) == LONGEST_NAME + 1
    assert short("net.3") == "net.3"


def all_figures(run: Run, theme: str = "light") -> list[go.Figure]:
    name = run.covered[0].name
    return [
        *(figures.layer_heatmap(run, metric, theme=theme) for metric in figures.METRICS),
        *(figures.profile(run, name, metric, theme=theme) for metric in figures.METRICS),
        figures.membrane_law(run, name, theme=theme),
        figures.loss(run, theme=theme),
    ]


def test_every_figure_has_title_units_and_a_reading(run: Run) -> None:
    for drawn in all_figures(run):
        assert drawn.layout.title.text
        assert drawn.layout.xaxis.title.text
        assert drawn.layout.yaxis.title.text or drawn.layout.title.subtitle.text
        words = figures.reading(drawn)
        assert words.endswith(".")
        assert any(letter.isdigit() for letter in words)
        assert drawn.layout.font.size >= 14
    with pytest.raises(ValueError, match="no reading"):
        figures.reading(go.Figure())


def test_figures_of_an_empty_run_say_so(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", header(["only"]))
    store.end("finished", steps=0)
    for drawn in all_figures(open_run(store.path)):
        assert not drawn.data
        assert drawn.layout.annotations[0].text == plain(figures.reading(drawn))


def test_nothing_is_sent_to_a_cloud() -> None:
    assert figures.CONFIG["showSendToCloud"] is False
    assert figures.CONFIG["displaylogo"] is False


def test_wrong_requests_are_refused_in_one_line(run: Run) -> None:
    with pytest.raises(ValueError, match="metric='speed' is unknown: it must be one of coverage"):
        figures.cells(run, "speed")
    with pytest.raises(ValueError, match="step=7 was not recorded in train"):
        figures.layer_heatmap(run, step=7)
    with pytest.raises(ValueError, match="theme='blue' is unknown"):
        figures.loss(run, theme="blue")
    with pytest.raises(RunError, match="layer 'nope' is not in run"):
        figures.membrane_law(run, "nope")


def test_drawing_does_not_change_the_record(run: Run) -> None:
    before = run.table()
    all_figures(run, "dark")
    pd.testing.assert_frame_equal(before, run.table())


def test_a_layer_of_which_only_the_distance_is_known_has_its_threshold_at_zero(
    tmp_path: Path,
) -> None:
    content = header(["mine"])
    content["layers"][0] |= {"spec": {}, "coordinate": "u - threshold"}
    store = RunStore(tmp_path / "run", content)
    store.append("records", columns([row(0, "mine", t) for t in (1, 2)]))
    store.end("finished")
    run = open_run(store.path)
    law = measured_law(run, "mine")
    assert law is not None
    assert (law.level, law.unit) == (0.0, "potential")
    assert law.edges[len(law.edges) // 2] == 0.0
    drawn = figures.membrane_law(run, "mine")
    assert drawn.layout.xaxis.title.text == "u - threshold (potential)"
    assert [line.x0 for line in drawn.layout.shapes if line.type == "line"] == [0.0]
    assert not [trace for trace in drawn.data if trace.name == "start"]
