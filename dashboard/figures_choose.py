"""Which surrogate, weights and bias before training: a preset on the law of u that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.neuron_spec import NeuronSpec
from ..analysis.preset import FEW_UNITS, Preset, recommend_by_numbers
from ..analysis.surrogate import SHAPES, Surrogate
from ..analysis.surrogate_frameworks import FRAMEWORK_SURROGATES, to_framework
from .figures_axes import legend_key, top_legend
from .figures_style import figure, number, palette, plain

COVERED = 0.15
"""Share of u that the surrogate should cover (DS-ATGO, arXiv 2511.13050, fig. 11)."""

POINTS = 241
"""Points of a curve."""


@dataclass(frozen=True)
class Choice:
    """What a layer is chosen for.

    Args:
        decay: of the neuron.
        threshold: its threshold, potential.
        reset: its reset.
        fan_in: inputs per unit.
        input_rate: spikes per input and timestep.
        target_rate: wanted spikes per unit and timestep.
        recurrent: whether the layer feeds back to itself.
        layers: spiking layers of the network.
        timesteps: length of a sequence.
        family: shape of the surrogate.
    """

    decay: float = 0.5
    threshold: float = 1.0
    reset: str = "subtract"
    fan_in: int = 128
    input_rate: float = 0.1
    target_rate: float = 0.1
    recurrent: bool = False
    layers: int = 4
    timesteps: int = 8
    family: str = "fast_sigmoid"


@dataclass(frozen=True)
class Criterion:
    """One condition on the preset.

    Args:
        name: what is asked.
        value: what the preset has, as text.
        wanted: what would be right, as text.
        holds: whether it is.
        source: where the condition comes from.
    """

    name: str
    value: str
    wanted: str
    holds: bool
    source: str


@lru_cache(maxsize=64)
def preset_of(choice: Choice) -> Preset:
    """Return the preset for a choice.

    Args:
        choice: what the layer is chosen for.

    Returns:
        The preset of ``recommend_by_numbers``.

    Raises:
        ValueError: numbers that no layer can have.

    Example:
        >>> round(preset_of(Choice()).surrogate.width, 3)
        0.543
    """
    spec = NeuronSpec(
        decay=choice.decay,
        threshold=choice.threshold,
        reset=choice.reset,  # type: ignore[arg-type] # the record itself says what is possible
        reset_gradient=False,
    )
    return recommend_by_numbers(
        spec,
        choice.fan_in,
        recurrent=choice.recurrent,
        layers=choice.layers,
        timesteps=choice.timesteps,
        input_rate=choice.input_rate,
        target_rate=choice.target_rate,
        family=choice.family,
    )


def coverage_of(preset: Preset) -> float:
    """Return the share of u for which the preset's surrogate exceeds 1 % of its peak."""
    low, high = preset.surrogate.interval(float(preset.law.spec.threshold))
    return preset.law.probability(float(low), float(high))


def criteria(choice: Choice) -> list[Criterion]:
    """Return the conditions on a choice and whether its preset meets them.

    Args:
        choice: what the layer is chosen for.

    Returns:
        The conditions, in the order of the preset.

    Raises:
        ValueError: numbers that no layer can have.
    """
    preset = preset_of(choice)
    rate, share = float(preset.value("rate")), coverage_of(preset)
    units = float(preset.value("units that carry gradient"))
    verdict = str(preset.value("verdict"))
    name = "growth per timestep" if choice.recurrent else "gradient gain per layer"
    gain = float(preset.value(name))
    sources = {row.name: row.source for row in preset.rows}
    dispersed = preset.law.quenched_std <= preset.law.std / np.sqrt(2.0)
    return [
        Criterion("firing rate (spikes per timestep)", f"{rate:.3g}", f"{choice.target_rate:.3g}",
                  abs(rate - choice.target_rate) < 1e-3, sources["bias offset"]),
        Criterion("gradient coverage", f"{share:.1%}", f"at least {COVERED:.0%} of u",
                  share >= COVERED, "DS-ATGO, arXiv 2511.13050, fig. 11"),
        Criterion(name, number(gain), "1", abs(gain - 1.0) < 0.01, sources[name]),
        Criterion("gradient over the whole network", verdict, "fine", verdict == "fine",
                  sources["verdict"]),
        Criterion("units that carry gradient", f"{units:.0f}", f"at least {FEW_UNITS:.0f}",
                  units >= FEW_UNITS, "participation ratio n E[s^2]^2 / E[s^4]"),
        Criterion("quenched std of u (potential)", number(preset.law.quenched_std),
                  f"at most {number(preset.law.std / np.sqrt(2.0))}, std of u / sqrt 2",
                  bool(dispersed), sources["quenched std of u"]),
    ]  # fmt: skip


def criteria_frame(choice: Choice) -> pd.DataFrame:
    """Return everything that a choice fixes, with units and sources, as a table."""
    rows = [(row.name, row.value, row.unit, row.source) for row in preset_of(choice).rows]
    return pd.DataFrame(
        [(name, value if isinstance(value, str) else number(float(value)), unit, source)
         for name, value, unit, source in rows],
        columns=["what", "value", "unit", "source"],
    )  # fmt: skip


def _points(preset: Preset) -> np.ndarray:
    theta, spread = float(preset.law.spec.threshold), preset.law.std
    low = min(preset.law.mean - 4 * spread, theta - spread)
    high = max(preset.law.mean + 4 * spread, theta + 2 * spread)
    # The threshold itself is a point: the surrogate's peak is there.
    return np.unique(np.append(np.linspace(low, high, POINTS), theta))


def chosen_law(choice: Choice, *, theme: str = "light") -> go.Figure:
    """Draw the predicted law of u with the chosen surrogate over it.

    Args:
        choice: what the layer is chosen for.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure: density of u on the left axis, surrogate derivative on the right one.

    Raises:
        ValueError: numbers that no layer can have.
    """
    preset, colours = preset_of(choice), palette(theme)
    u, theta = _points(preset), float(preset.law.spec.threshold)
    density = preset.law.density(u)
    surrogate = preset.surrogate
    derivative = np.asarray(surrogate.derivative(u - theta), dtype=float)
    text = (
        f"u is predicted at a mean of {number(preset.law.mean)} with a standard deviation of "
        f"{number(preset.law.std)}; the {plain(surrogate.shape.replace('_', ' '))} surrogate with "
        f"peak {number(float(surrogate.peak))} and width {number(float(surrogate.width))} covers "
        f"{coverage_of(preset):.1%} of it."
    )
    drawn = figure(theme, "Law of u and the surrogate on it", text, 420)
    low, high = (float(end) for end in surrogate.interval(theta))
    drawn.add_vrect(
        max(low, float(u[0])), min(high, float(u[-1])), fillcolor=colours.band, line_width=0,
        layer="below",
    )  # fmt: skip
    drawn.add_trace(
        go.Scatter(
            name="law of u",
            x=u.tolist(),
            y=density.tolist(),
            mode="lines",
            fill="tozeroy",
            line={"color": colours.accent, "width": 1.5},
            hovertemplate="u = %{x:.3f}<br>density %{y:.3f} per potential<extra></extra>",
        )
    )
    drawn.add_trace(
        go.Scatter(
            name="surrogate (right axis)",
            x=u.tolist(),
            y=derivative.tolist(),
            yaxis="y2",
            mode="lines",
            line={"color": colours.text, "width": 2, "dash": "dash"},
            hovertemplate="u = %{x:.3f}<br>ds/du = %{y:.3f} per potential<extra></extra>",
        )
    )
    drawn.add_vline(x=theta, line={"color": colours.text, "width": 2})
    drawn.add_trace(legend_key("threshold", "lines", line={"color": colours.text, "width": 2}))
    patch = {"symbol": "square", "size": 14, "color": colours.band}
    drawn.add_trace(legend_key("surrogate open", "markers", marker=patch))
    top_legend(drawn)
    drawn.update_layout(
        yaxis2={
            "overlaying": "y", "side": "right", "tickfont": {"size": 14}, "automargin": True,
            "title": {"text": "ds/du (1 / potential)", "font": {"size": 14}, "standoff": 10},
            "range": [0.0, 1.1 * float(derivative.max())], "showgrid": False, "fixedrange": True,
            "tickmode": "auto", "nticks": 6, "zeroline": False,
        },
        yaxis={
            "title": {"text": "density of u (1 / potential)"},
            "range": [0.0, 1.1 * float(np.max(density))], "fixedrange": True,
        },
    )  # fmt: skip
    drawn.update_xaxes(title_text="u (potential)", fixedrange=True)
    return drawn


def law_frame(choice: Choice) -> pd.DataFrame:
    """Return the curves of :func:`chosen_law` as a table."""
    preset = preset_of(choice)
    u, theta = _points(preset), float(preset.law.spec.threshold)
    return pd.DataFrame(
        {
            "u (potential)": u,
            "density of u (1 / potential)": preset.law.density(u),
            "ds/du (1 / potential)": np.asarray(preset.surrogate.derivative(u - theta)),
        }
    )


def shapes(choice: Choice, *, theme: str = "light") -> go.Figure:
    """Draw every shape with the peak and the sharpness of the preset, the chosen one in front.

    Args:
        choice: what the layer is chosen for.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure.

    Raises:
        ValueError: numbers that no layer can have.
    """
    preset, colours = preset_of(choice), palette(theme)
    frame = shapes_frame(choice)
    names = [name for name in frame.columns if name != "u - threshold (potential)"]
    best = max(_covered(preset).items(), key=lambda entry: entry[1])
    most = plain(best[0].replace("_", " "))
    text = "All shapes have the same peak and area; "
    if best[0] == choice.family:
        text += f"the chosen one, {most}, covers most of u ({best[1]:.1%})."
    else:
        chosen = plain(choice.family.replace("_", " "))
        text += f"{most} covers most of u ({best[1]:.1%}), the chosen {chosen} "
        text += f"{coverage_of(preset):.1%}."
    drawn = figure(theme, "Surrogate shapes", text, 460)
    dashes = ("dot", "dash", "longdash", "dashdot", "longdashdot", "2px,6px", "12px,3px,2px,3px")
    order = [name for name in names if name != choice.family] + [choice.family]
    for k, name in enumerate(order):
        mine = name == choice.family
        drawn.add_trace(
            go.Scatter(
                name=plain(name.replace("_", " ")),
                x=frame["u - threshold (potential)"].tolist(),
                y=frame[name].tolist(),
                mode="lines",
                line={
                    "color": colours.accent if mine else colours.muted,
                    "width": 3 if mine else 1.5,
                    "dash": "solid" if mine else dashes[k % len(dashes)],
                },
                hovertemplate=f"{plain(name.replace('_', ' '))}<br>u - threshold %{{x:.3f}}<br>"
                "ds/du %{y:.4f}<extra></extra>",
            )
        )
    drawn.update_layout(
        showlegend=True, legend={"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0},
        margin_b=140,
    )  # fmt: skip
    drawn.update_xaxes(title_text="u - threshold (potential)", fixedrange=True)
    drawn.update_yaxes(title_text="ds/du (1 / potential)", rangemode="tozero", fixedrange=True)
    return drawn


def shapes_frame(choice: Choice) -> pd.DataFrame:
    """Return the curves of :func:`shapes` as a table."""
    chosen = preset_of(choice).surrogate
    reach = 4.0 / float(chosen.sharpness)
    z = np.linspace(-reach, reach, POINTS)
    columns = {"u - threshold (potential)": z}
    for name in SHAPES:
        alike = Surrogate.from_dampening(name, chosen.peak, chosen.sharpness)
        columns[name] = np.asarray(alike.derivative(z), dtype=float)
    return pd.DataFrame(columns)


def _covered(preset: Preset) -> dict[str, float]:
    chosen, theta = preset.surrogate, float(preset.law.spec.threshold)
    found = {}
    for name in SHAPES:
        alike = Surrogate.from_dampening(name, chosen.peak, chosen.sharpness)
        low, high = alike.interval(theta)
        found[name] = preset.law.probability(float(low), float(high))
    return found


def code(choice: Choice) -> str:
    """Return the choice as code: weights, bias, and the surrogate where a framework has it.

    Args:
        choice: what the layer is chosen for.

    Returns:
        Lines of Python.

    Raises:
        ValueError: numbers that no layer can have.
    """
    preset = preset_of(choice)
    surrogate = preset.surrogate
    lines = [
        "# spikescope: weights, bias and surrogate of a layer before training",
        f"torch.nn.init.normal_(layer.weight, 0.0, {float(preset.value('input weight std')):.6g})",
        f"torch.nn.init.constant_(layer.bias, {float(preset.value('bias offset')):.6g})",
    ]
    if choice.recurrent:
        std = float(preset.value("recurrent weight std"))
        lines.append(f"torch.nn.init.normal_(layer.recurrent.weight, 0.0, {std:.6g})")
    lines += [
        "",
        "from spikescope.analysis.surrogate import Surrogate",
        f"surrogate = Surrogate({surrogate.shape!r}, peak={float(surrogate.peak):.6g}, "
        f"width={float(surrogate.width):.6g})",
    ]
    said = []
    for framework, name in FRAMEWORK_SURROGATES:
        for peak in (float(surrogate.peak), 1.0):
            try:
                wanted = replace(surrogate, peak=peak)
                found = to_framework(wanted, framework, name, choice.threshold)
            except ValueError:
                continue
            given = ", ".join(f"{key}={float(value):.6g}" for key, value in found.items())
            fixed = "" if peak == surrogate.peak else "  # its peak is 1: scale the gradient"
            said.append(f"# {framework}: {name}({given}){fixed}")
            break
    if not said:
        said = ["# No framework has this shape with this peak and width in its own parameters."]
    return "\n".join([*lines, *said])
