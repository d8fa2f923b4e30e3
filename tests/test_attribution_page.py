"""The page of attributions, and its figures, from what is kept with a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attribution_cases import LAYERS, attribution, curve, importance
from dashboard_client import client_of, draw, words
from synthetic import write_run

from spikescope.analysis.attribution_study import store_attribution, store_timesteps
from spikescope.analysis.fidelity import store_fidelity
from spikescope.dashboard import figures
from spikescope.dashboard.figures_style import with_error


def test_the_map_shows_every_cell_of_the_class() -> None:
    found = attribution()
    drawn = figures.attribution_map(found, 4)
    heat = drawn.data[0]
    expected = [found.scores[name][1].mean(0) for name in LAYERS]
    np.testing.assert_allclose(np.array(heat.z, dtype=float), expected, rtol=1e-5)
    assert heat.zmin == -heat.zmax
    assert "class 4" in figures.reading(drawn)
    assert "2 of 2 layers" in figures.reading(drawn)
    frame = figures.attribution_frame(found, 4)
    top = frame.loc[frame["score"].abs().idxmax()]
    assert f"weighs most: {with_error(top['score'], top['score_se'])} of" in figures.reading(drawn)
    with pytest.raises(ValueError, match="class 3 was not attributed"):
        figures.attribution_map(found, 3)


def test_layers_of_different_length_and_numbers_that_are_not_finite() -> None:
    short = {"net.0": np.ones((1, 2, 1)), "net.1": np.ones((1, 2, 3))}
    found = attribution(
        classes=(0,), scores=short, ablation=short, inputs=None,
        output_change={name: values.sum(-1) for name, values in short.items()},
    )  # fmt: skip
    heat = figures.attribution_map(found, 0).data[0]
    assert list(heat.z[0][1:]) == [None, None]
    assert heat.hovertext[0][1] == "does not run"
    broken = {name: np.full((1, 2, 3), np.nan) for name in LAYERS}
    changed = {name: np.ones((1, 2)) for name in LAYERS}
    lost = attribution(
        classes=(0,), scores=broken, ablation=broken, output_change=changed, inputs=None
    )
    assert "look at the surrogate" in figures.reading(figures.attribution_map(lost, 0))
    assert "look at the surrogate" in figures.reading(figures.attribution_error(lost))


def test_the_gap_is_drawn_with_its_bound() -> None:
    found = attribution()
    drawn = figures.attribution_error(found)
    gaps = [100 * check.gap for check in found.checks()]
    np.testing.assert_allclose(drawn.data[0].x, gaps)
    assert drawn.layout.shapes[0].x0 == 10.0
    assert drawn.data[0].marker.symbol == ("x", "x")
    sound = attribution(output_change={n: v.sum(-1) for n, v in found.scores.items()})
    assert figures.attribution_error(sound).data[0].marker.symbol == ("circle", "circle")


def test_timesteps_and_surrogates() -> None:
    drawn = figures.timestep_importance(importance())
    assert "Timestep 2 carries most" in figures.reading(drawn)
    np.testing.assert_allclose(drawn.data[0].y, [0.15, 0.6, 0.15])
    assert "of 3 timesteps" in figures.reading(figures.fewer_timesteps(importance()))
    assert figures.reading(figures.fewer_timesteps(importance("give shorten="))) == "give shorten="
    drawn = figures.fidelity_curve(curve())
    assert [trace.name for trace in drawn.data] == ["arctan", "gaussian", "the model's own"]
    np.testing.assert_allclose(drawn.data[1].y, curve().table()["gap"].iloc[2])


@pytest.mark.parametrize(
    ("shape", "pictures"),
    [((3, 1, 4, 5), 3), ((20, 2, 4, 5), 8), ((1, 4, 5), 1), ((7, 6), 1), ((9,), 1)],
)
def test_saliency_of_images_and_sequences(shape: tuple[int, ...], pictures: int) -> None:
    inputs = np.random.default_rng(1).normal(size=(2, 5, *shape))
    drawn = figures.input_saliency(attribution(inputs=inputs), 0)
    assert len(drawn.data) == pictures
    total = inputs[0].mean(0).sum()
    frame = figures.saliency_frame(attribution(inputs=inputs), 0)
    assert frame["attribution"].sum() == pytest.approx(total)
    assert "--saliency" in figures.reading(figures.input_saliency(attribution(inputs=None), 0))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_shows_what_is_kept(tmp_path: Path, theme: str) -> None:
    path = write_run(tmp_path / "run")
    search = f"?run=run&page=attribution&theme={theme}"
    empty = words(draw(client_of(tmp_path), search))
    assert "Nothing was attributed yet" in empty
    assert "spikescope attribute" in empty
    store_attribution(path, attribution())
    store_timesteps(path, importance())
    store_fidelity(path, curve())
    said = words(draw(client_of(tmp_path), search))
    for part in ("not faithful", "What speaks for class 0", "What the attribution misses",
                 "silent timestep", "fewer timesteps", "Whose gradients"):  # fmt: skip
        assert part in said, part
    for asked, shown in (("label=4", 4), ("label=99&method=magic", 0)):
        drawn = words(draw(client_of(tmp_path), f"{search}&{asked}"))
        assert f"What speaks for class {shown}" in drawn
    tables = words(draw(client_of(tmp_path), f"{search}&show=tables"))
    assert "rank agreement with ablation" in tables


def test_a_hostile_layer_name_stays_text(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    name = "<img src=x onerror=alert(1)>"
    found = attribution()
    renamed = {
        part: {name: getattr(found, part)["net.0"]}
        for part in ("scores", "ablation", "output_change")
    }
    store_attribution(path, attribution(**renamed))
    answer = draw(client_of(tmp_path), "?run=run&page=attribution")
    graphs = json.dumps([item for item in _figures(answer)])
    assert "<img" not in graphs
    assert "&lt;img" in graphs


def _figures(part: Any) -> list[Any]:
    """Return the data and layout of every figure in a page, without the sentences in meta."""
    if isinstance(part, dict):
        if "figure" in part and isinstance(part["figure"], dict):
            layout = {k: v for k, v in part["figure"]["layout"].items() if k != "meta"}
            return [{"data": part["figure"]["data"], "layout": layout}]
        return [item for value in part.values() for item in _figures(value)]
    if isinstance(part, list):
        return [item for value in part for item in _figures(value)]
    return []


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "attribution.ablation.npz").write_bytes(b"hello")
    said = words(draw(client_of(tmp_path), "?run=run&page=attribution"))
    assert "attribution.ablation.npz cannot be read" in said
